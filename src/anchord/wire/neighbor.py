"""ICMPv6 Neighbor Discovery (RFC 4861, RFC 4191): solicitations and advertisements of routers and neighbors.

``received`` is the way in for whole frames: it applies every validity check of RFC 4861 sections 6.1 and 7.1.
``decode`` is the part of it that needs the ICMPv6 message alone. ``encode`` holds itself to the same checks: what we
would discard we do not send.

Options are in ``neighbor_options``, Ethernet frames in ``frames``; both can be had from here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.wire.carrier import Carrier
from anchord.wire.checksum import ICMPV6, internet_checksum
from anchord.wire.errors import WireError
from anchord.wire.frames import (
    ND_HOP_LIMIT,
    Frame,
    ethernet_frame,
    eui64_link_local,
    is_layer2_update,
    layer2_update_frame,
    parse_frame,
)
from anchord.wire.integers import unsigned
from anchord.wire.neighbor_options import (
    INFINITE,
    DnsSearchList,
    Mtu,
    NdOption,
    Preference,
    PrefixInformation,
    RecursiveDnsServer,
    RouteInformation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
    UnknownNdOption,
    decode_nd_options,
    encode_nd_options,
)

__all__ = [
    "ALL_NODES",
    "ALL_ROUTERS",
    "INFINITE",
    "DnsSearchList",
    "Frame",
    "Mtu",
    "NdMessage",
    "NdOption",
    "NeighborAdvertisement",
    "NeighborSolicitation",
    "Preference",
    "PrefixInformation",
    "RecursiveDnsServer",
    "RouteInformation",
    "RouterAdvertisement",
    "RouterFlag",
    "RouterSolicitation",
    "SourceLinkLayerAddress",
    "TargetLinkLayerAddress",
    "UnknownNdOption",
    "WireError",
    "decode",
    "encode",
    "ethernet_frame",
    "eui64_link_local",
    "is_layer2_update",
    "layer2_update_frame",
    "parse_frame",
    "received",
]

ALL_NODES = IPv6Address("ff02::1")  # RFC 4291 section 2.7.1
ALL_ROUTERS = IPv6Address("ff02::2")
SOLICITED_NODE = IPv6Network("ff02::1:ff00:0/104")

_UNSPECIFIED = IPv6Address(0)
_CHECKSUM = slice(2, 4)

_ROUTER = 0x80  # R, S, O: RFC 4861 section 4.4
_SOLICITED = 0x40
_OVERRIDE = 0x20

_RESERVED_PREFERENCE = 2  # RFC 4191 section 2.1


class RouterFlag(IntFlag):
    """Flags of a Router Advertisement; the two bits of the preference among them are a field of their own."""

    MANAGED = 0x80  # M: RFC 4861 section 4.2
    OTHER = 0x40  # O: RFC 4861 section 4.2
    HOME_AGENT = 0x20  # H: RFC 6275 section 7.1


_ROUTER_FLAGS = RouterFlag.MANAGED | RouterFlag.OTHER | RouterFlag.HOME_AGENT


@dataclass(frozen=True, slots=True)
class RouterSolicitation(Carrier):
    """A host asks routers to advertise themselves (RFC 4861 section 4.1)."""

    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class RouterAdvertisement(Carrier):
    """A router and what it offers (RFC 4861 section 4.2).

    ``hop_limit`` 0 to 255, ``router_lifetime_s`` 0 to 65,535, ``reachable_ms`` and ``retrans_ms`` 0 to 2**32 - 1. In
    each 0 means "not said", but for the lifetime: there it means "not a default router", and ``preference`` is then
    neither sent nor read (RFC 4191 section 2.2).
    """

    hop_limit: int = 0
    flags: RouterFlag = RouterFlag(0)  # noqa: RUF009 (an enum member is immutable)
    preference: Preference = Preference.MEDIUM
    router_lifetime_s: int = 0
    reachable_ms: int = 0
    retrans_ms: int = 0
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class NeighborSolicitation(Carrier):
    """A question who has ``target`` (RFC 4861 section 4.3); from ``::``, whether it is free (RFC 4862 section 5.4)."""

    target: IPv6Address
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class NeighborAdvertisement(Carrier):
    """The sender has ``target`` (RFC 4861 section 4.4)."""

    target: IPv6Address
    router: bool = False
    solicited: bool = False
    override: bool = False
    options: tuple[NdOption, ...] = ()


NdMessage = RouterSolicitation | RouterAdvertisement | NeighborSolicitation | NeighborAdvertisement


def received(frame: Frame) -> NdMessage:
    """Return the valid Neighbor Discovery message in ``frame``.

    Raises WireError if there is none or it fails a check of RFC 4861 sections 6.1 or 7.1: discard in silence.
    """
    if frame.icmpv6 is None or frame.source is None or frame.destination is None:
        raise WireError("not-icmpv6", "no ICMPv6 message in the frame")
    if frame.hop_limit != ND_HOP_LIMIT:
        raise WireError("hop-limit", f"hop limit {frame.hop_limit}: this may come from beyond the link")
    if internet_checksum(frame.source, frame.destination, ICMPV6, frame.icmpv6) != 0:
        raise WireError("checksum", "wrong ICMPv6 checksum")
    message = decode(frame.icmpv6)
    _check_addresses(message, frame.source, frame.destination)
    return message


def decode(icmpv6: bytes) -> NdMessage:
    """Return the message that the ICMPv6 octets carry; raise WireError if it is another one or malformed."""
    if len(icmpv6) < 4:
        raise WireError("truncated", f"{len(icmpv6)} octets cannot hold an ICMPv6 header")
    kind, code = icmpv6[0], icmpv6[1]
    if kind not in _READERS:
        raise WireError("icmpv6-type", f"ICMPv6 type {kind} is not read here")
    if code != 0:
        raise WireError("icmpv6-code", f"ICMPv6 code {code}")
    layout, read = _READERS[kind]
    if len(icmpv6) < layout.size:
        raise WireError("length", f"{len(icmpv6)} octets are too few for ICMPv6 type {kind}")
    message = read(layout.unpack_from(icmpv6), decode_nd_options(icmpv6, layout.size))
    _check_target(message)
    return message


def encode(message: NdMessage, source: IPv6Address, destination: IPv6Address) -> bytes:
    """Return ``message`` as an ICMPv6 message with the checksum for a packet from ``source`` to ``destination``.

    Raises ValueError for a value that its field cannot hold and for what RFC 4861 or RFC 4191 forbids to send.
    """
    _check_target(message)
    _check_addresses(message, source, destination)
    unsummed = _fixed_part(message) + encode_nd_options(message.options)
    checksum = internet_checksum(source, destination, ICMPV6, unsummed)
    return unsummed[: _CHECKSUM.start] + checksum.to_bytes(2, "big") + unsummed[_CHECKSUM.stop :]


def _check_target(message: NdMessage) -> None:
    if isinstance(message, (NeighborSolicitation, NeighborAdvertisement)) and message.target.is_multicast:
        raise WireError("target", f"target {message.target} is multicast")  # RFC 4861 sections 7.1.1 and 7.1.2


def _check_addresses(message: NdMessage, source: IPv6Address, destination: IPv6Address) -> None:
    """Raise WireError where the message does not go with the addresses of its packet."""
    match message:
        case RouterSolicitation() | NeighborSolicitation() if source == _UNSPECIFIED:
            # RFC 4861 sections 6.1.1 and 7.1.1
            if message.first(SourceLinkLayerAddress) is not None:
                raise WireError("source", "a link-layer address of the unspecified address")
            if isinstance(message, NeighborSolicitation) and destination not in SOLICITED_NODE:
                raise WireError("destination", f"from :: to {destination}, not a solicited-node address")
        case RouterAdvertisement() if not source.is_link_local:  # RFC 4861 section 6.1.2
            raise WireError("source", f"advertising router {source} is not link-local")
        case NeighborAdvertisement() if destination.is_multicast and message.solicited:  # RFC 4861 section 7.1.2
            raise WireError("destination", f"solicited, yet to {destination}")


# The ICMPv6 message up to the options: type, code 0 and checksum (as zeros), and the fields.
_ROUTER_SOLICITATION = struct.Struct("!B3x4x")  # RFC 4861 section 4.1: reserved
_ROUTER_ADVERTISEMENT = struct.Struct("!B3xBBHII")  # RFC 4861 section 4.2, RFC 4191 section 2.2
_NEIGHBOR_SOLICITATION = struct.Struct("!B3x4x16s")  # RFC 4861 section 4.3: reserved, target
_NEIGHBOR_ADVERTISEMENT = struct.Struct("!B3xB3x16s")  # RFC 4861 section 4.4: R|S|O|reserved, target


def _read_router_advertisement(fields: tuple[Any, ...], options: tuple[NdOption, ...]) -> RouterAdvertisement:
    _, hop_limit, bits, router_lifetime_s, reachable_ms, retrans_ms = fields
    preference = bits >> 3 & 3
    if router_lifetime_s == 0 or preference == _RESERVED_PREFERENCE:  # RFC 4191 section 2.2
        preference = Preference.MEDIUM
    flags = RouterFlag(bits & _ROUTER_FLAGS)
    return RouterAdvertisement(
        hop_limit, flags, Preference(preference), router_lifetime_s, reachable_ms, retrans_ms, options
    )


def _read_neighbor_advertisement(fields: tuple[Any, ...], options: tuple[NdOption, ...]) -> NeighborAdvertisement:
    _, bits, target = fields
    router, solicited, override = bool(bits & _ROUTER), bool(bits & _SOLICITED), bool(bits & _OVERRIDE)
    return NeighborAdvertisement(IPv6Address(target), router, solicited, override, options)


_READERS: dict[int, tuple[struct.Struct, Callable[[tuple[Any, ...], tuple[NdOption, ...]], NdMessage]]] = {
    133: (_ROUTER_SOLICITATION, lambda fields, options: RouterSolicitation(options)),
    134: (_ROUTER_ADVERTISEMENT, _read_router_advertisement),
    135: (_NEIGHBOR_SOLICITATION, lambda fields, options: NeighborSolicitation(IPv6Address(fields[1]), options)),
    136: (_NEIGHBOR_ADVERTISEMENT, _read_neighbor_advertisement),
}


def _fixed_part(message: NdMessage) -> bytes:
    match message:
        case RouterSolicitation():
            return _ROUTER_SOLICITATION.pack(133)
        case RouterAdvertisement():
            return _router_advertisement(message)
        case NeighborSolicitation():
            return _NEIGHBOR_SOLICITATION.pack(135, message.target.packed)
        case NeighborAdvertisement():
            bits = message.router * _ROUTER | message.solicited * _SOLICITED | message.override * _OVERRIDE
            return _NEIGHBOR_ADVERTISEMENT.pack(136, bits, message.target.packed)


def _router_advertisement(message: RouterAdvertisement) -> bytes:
    routes = [route.prefix for route in message.all(RouteInformation)]
    if len(routes) != len(set(routes)):
        raise ValueError("two routes with one prefix in an advertisement (RFC 4191 section 2.3)")
    preference = Preference(message.preference) if message.router_lifetime_s else Preference.MEDIUM
    return (
        bytes((134, 0, 0, 0))
        + unsigned(message.hop_limit, 1, "hop limit")
        + bytes((message.flags & _ROUTER_FLAGS | preference << 3,))
        + unsigned(message.router_lifetime_s, 2, "router lifetime")
        + unsigned(message.reachable_ms, 4, "reachable time")
        + unsigned(message.retrans_ms, 4, "retransmission timer")
    )
