"""Neighbor Discovery options (RFC 4861 section 4.6, RFC 4191 section 2.3, RFC 8106 section 5).

As with mobility options one table says it all. An option of unknown type becomes :class:`UnknownNdOption`, and so does
a known one that cannot be read: RFC 4861 section 6.1.1 has both ignored, and only a length of 0 spoils the message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Generic

from anchord.wire.carrier import OptionT
from anchord.wire.errors import WireError
from anchord.wire.integers import unsigned

INFINITE = 0xFFFFFFFF
"""A lifetime without end (RFC 4861 section 4.6.2, RFC 4191 section 2.3)."""

_ON_LINK = 0x80  # L: RFC 4861 section 4.6.2
_AUTONOMOUS = 0x40  # A: RFC 4861 section 4.6.2
_LONGEST_LABEL = 63  # octets: RFC 1035 section 2.3.4
_LONGEST_DOMAIN = 255  # octets with the final 0: RFC 1035 section 2.3.4


class Preference(IntEnum):
    """How much a router or route is to be preferred (RFC 4191 section 2.1); 2 is reserved and never sent."""

    MEDIUM = 0
    HIGH = 1
    LOW = 3


@dataclass(frozen=True, slots=True)
class SourceLinkLayerAddress:
    """The link-layer address of the sender (RFC 4861 section 4.6.1): 6 octets, or 6 more than a multiple of 8."""

    address: bytes


@dataclass(frozen=True, slots=True)
class TargetLinkLayerAddress:
    """The link-layer address of the target (RFC 4861 section 4.6.1): 6 octets, or 6 more than a multiple of 8."""

    address: bytes


@dataclass(frozen=True, slots=True)
class PrefixInformation:
    """A prefix on the link or to make addresses from (RFC 4861 section 4.6.2).

    Lifetimes 0 to :data:`INFINITE`; one is sent only with ``preferred_s <= valid_s``.
    """

    prefix: IPv6Network
    on_link: bool
    autonomous: bool
    valid_s: int
    preferred_s: int


@dataclass(frozen=True, slots=True)
class Mtu:
    """The MTU of the link in octets (RFC 4861 section 4.6.4): 0 to 2**32 - 1."""

    mtu: int


@dataclass(frozen=True, slots=True)
class RouteInformation:
    """A route through the sender (RFC 4191 section 2.3); lifetime 0 to :data:`INFINITE`."""

    prefix: IPv6Network
    preference: Preference
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class RecursiveDnsServer:
    """Resolvers, at least one (RFC 8106 section 5.1); lifetime 0 to :data:`INFINITE`."""

    lifetime_s: int
    servers: tuple[IPv6Address, ...]


@dataclass(frozen=True, slots=True)
class DnsSearchList:
    """Search domains, at least one, without a final dot (RFC 8106 section 5.2); lifetime 0 to :data:`INFINITE`."""

    lifetime_s: int
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnknownNdOption:
    """An option that is not read, as it came: ``data`` after the length, 6 octets more than a multiple of 8."""

    kind: int
    data: bytes


NdOption = (
    SourceLinkLayerAddress
    | TargetLinkLayerAddress
    | PrefixInformation
    | Mtu
    | RouteInformation
    | RecursiveDnsServer
    | DnsSearchList
    | UnknownNdOption
)

# Readers get the octets after the length, of a size the table allows; ValueError leaves the option unread.
# Writers return those octets, before padding.

_PREFIX_INFORMATION = struct.Struct("!BBII4x16s")  # Prefix Length, L|A|reserved, valid, preferred, reserved, Prefix
_ROUTE = struct.Struct("!BBI")  # Prefix Length, reserved|Prf|reserved, Route Lifetime; then 0, 8 or 16 octets of Prefix
_DNS = struct.Struct("!2xI")  # reserved, Lifetime; then the addresses or names


def _prefix(length: int, address: bytes) -> IPv6Network:
    """Return the prefix, ignoring the bits behind its length (RFC 4861 section 4.6.2)."""
    rest = 128 - length  # negative for a length over 128: the shift then raises ValueError
    return IPv6Network((int.from_bytes(address.ljust(16, b"\0"), "big") >> rest << rest, length))


def _lifetime(seconds: int) -> bytes:
    return unsigned(seconds, 4, "lifetime")


def _read_prefix_information(data: bytes) -> PrefixInformation:
    length, flags, valid_s, preferred_s, address = _PREFIX_INFORMATION.unpack(data)
    prefix = _prefix(length, address)
    return PrefixInformation(prefix, bool(flags & _ON_LINK), bool(flags & _AUTONOMOUS), valid_s, preferred_s)


def _write_prefix_information(option: PrefixInformation) -> bytes:
    # RFC 4861 section 4.6.2: the preferred lifetime MUST NOT exceed the valid lifetime.
    if option.preferred_s > option.valid_s:
        raise ValueError(f"preferred lifetime {option.preferred_s} s over valid lifetime {option.valid_s} s")
    flags = option.on_link * _ON_LINK | option.autonomous * _AUTONOMOUS
    lifetimes = _lifetime(option.valid_s) + _lifetime(option.preferred_s)
    return bytes((option.prefix.prefixlen, flags)) + lifetimes + bytes(4) + option.prefix.network_address.packed


def _read_route(data: bytes) -> RouteInformation:
    length, flags, lifetime_s = _ROUTE.unpack_from(data)
    address = data[_ROUTE.size :]
    if length > 8 * len(address):
        raise ValueError("fewer octets of prefix than its length needs (RFC 4191 section 2.3)")
    # The reserved preference is no Preference: ValueError, and the option is ignored, as RFC 4191 section 2.3 wants.
    return RouteInformation(_prefix(length, address), Preference(flags >> 3 & 3), lifetime_s)


def _write_route(option: RouteInformation) -> bytes:
    length = option.prefix.prefixlen
    octets = 16 if length > 64 else 8 if length else 0
    fixed = bytes((length, Preference(option.preference) << 3)) + _lifetime(option.lifetime_s)
    return fixed + option.prefix.network_address.packed[:octets]


def _read_dns_servers(data: bytes) -> RecursiveDnsServer:
    (lifetime_s,) = _DNS.unpack_from(data)
    starts = range(_DNS.size, len(data), 16)  # IPv6Address refuses an incomplete last one
    return RecursiveDnsServer(lifetime_s, tuple(IPv6Address(data[at : at + 16]) for at in starts))


def _write_dns_servers(option: RecursiveDnsServer) -> bytes:
    if not option.servers:
        raise ValueError("no DNS server (RFC 8106 section 5.1: at least one)")
    return bytes(2) + _lifetime(option.lifetime_s) + b"".join(server.packed for server in option.servers)


def _read_search_list(data: bytes) -> DnsSearchList:
    (lifetime_s,) = _DNS.unpack_from(data)
    domains = []
    at = _DNS.size
    while at < len(data) and data[at]:  # a name without labels is padding
        domain, at = _read_domain(data, at)
        domains.append(domain)
    if not domains:
        raise ValueError("no search domain")
    return DnsSearchList(lifetime_s, tuple(domains))


def _read_domain(data: bytes, at: int) -> tuple[str, int]:
    """Return the domain name at offset ``at`` (RFC 1035 section 3.1) and the offset behind it."""
    start = at
    labels = []
    while data[at]:
        end = at + 1 + data[at]
        if data[at] > _LONGEST_LABEL or end >= len(data):  # compression is not used (RFC 8106 section 5.2)
            raise ValueError("a domain name without end")
        labels.append(data[at + 1 : end].decode("ascii"))
        if "." in labels[-1]:
            raise ValueError("a dot inside a label")
        at = end
    if at + 1 - start > _LONGEST_DOMAIN:
        raise ValueError("a domain name of more than 255 octets")
    return ".".join(labels), at + 1


def _write_search_list(option: DnsSearchList) -> bytes:
    if not option.domains:
        raise ValueError("no search domain (RFC 8106 section 5.2: at least one)")
    return bytes(2) + _lifetime(option.lifetime_s) + b"".join(map(_write_domain, option.domains))


def _write_domain(domain: str) -> bytes:
    labels = [label.encode("ascii") for label in domain.split(".")]
    if not all(0 < len(label) <= _LONGEST_LABEL for label in labels):
        raise ValueError(f"{domain!r} is not a domain name: a label has 1 to {_LONGEST_LABEL} octets")
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(name) > _LONGEST_DOMAIN:
        raise ValueError(f"{domain!r} takes more than {_LONGEST_DOMAIN} octets")
    return name


def _write_link_layer_address(address: bytes) -> bytes:
    # The true size of an address is not on the wire: refuse what padding would change (RFC 4861 section 4.6.1).
    if len(address) % 8 != 6:
        raise ValueError(f"a link-layer address of {len(address)} octets would be padded")
    return address


@dataclass(frozen=True, slots=True)
class NdOptionFormat(Generic[OptionT]):
    """One row of the table: how an option of class ``option`` looks on the wire."""

    kind: int
    """Type."""
    option: type[OptionT]
    shortest: int
    """Least value of Length: units of 8 octets, with type and length."""
    longest: int
    read: Callable[[bytes], OptionT]
    write: Callable[[OptionT], bytes]


FORMATS: tuple[NdOptionFormat[Any], ...] = (
    # RFC 4861 section 4.6.1
    NdOptionFormat(1, SourceLinkLayerAddress, 1, 255, SourceLinkLayerAddress,
                   lambda option: _write_link_layer_address(option.address)),
    NdOptionFormat(2, TargetLinkLayerAddress, 1, 255, TargetLinkLayerAddress,
                   lambda option: _write_link_layer_address(option.address)),
    # RFC 4861 section 4.6.2
    NdOptionFormat(3, PrefixInformation, 4, 4, _read_prefix_information, _write_prefix_information),
    # RFC 4861 section 4.6.4
    NdOptionFormat(5, Mtu, 1, 1, lambda data: Mtu(int.from_bytes(data[2:], "big")),
                   lambda option: bytes(2) + unsigned(option.mtu, 4, "MTU")),
    # RFC 4191 section 2.3
    NdOptionFormat(24, RouteInformation, 1, 3, _read_route, _write_route),
    # RFC 8106 section 5.1
    NdOptionFormat(25, RecursiveDnsServer, 3, 255, _read_dns_servers, _write_dns_servers),
    # RFC 8106 section 5.2
    NdOptionFormat(31, DnsSearchList, 2, 255, _read_search_list, _write_search_list),
)  # fmt: skip

_BY_KIND = {row.kind: row for row in FORMATS}
_BY_CLASS: dict[type, NdOptionFormat[Any]] = {row.option: row for row in FORMATS}


def decode_nd_options(data: bytes, start: int) -> tuple[NdOption, ...]:
    """Return the options of the ICMPv6 message ``data`` from offset ``start`` to its end.

    Raises WireError: "option-length" for a length of 0 (RFC 4861 section 4.6: discard), "option-overrun".
    """
    options: list[NdOption] = []
    at = start
    while at < len(data):
        if at + 2 > len(data):
            raise WireError("option-overrun", f"half an option at offset {at}")
        kind, units = data[at], data[at + 1]
        if units == 0:
            raise WireError("option-length", f"option {kind} at offset {at} has length 0")
        end = at + 8 * units
        if end > len(data):
            raise WireError("option-overrun", f"option {kind} at offset {at} reaches past the message")
        options.append(_decode_option(kind, units, data[at + 2 : end]))
        at = end
    return tuple(options)


def _decode_option(kind: int, units: int, data: bytes) -> NdOption:
    row = _BY_KIND.get(kind)
    if row is not None and row.shortest <= units <= row.longest:
        try:
            option: NdOption = row.read(data)
        except ValueError:
            return UnknownNdOption(kind, data)
        return option
    return UnknownNdOption(kind, data)


def encode_nd_options(options: Iterable[NdOption]) -> bytes:
    """Return ``options``, each filled up to a multiple of 8 octets with zeros (RFC 4861 section 4.6).

    Raises ValueError for a value that its field cannot hold.
    """
    return b"".join(map(_encode_option, options))


def _encode_option(option: NdOption) -> bytes:
    if isinstance(option, UnknownNdOption):
        kind, data = option.kind, option.data
        if len(data) % 8 != 6:
            raise ValueError(f"{len(data)} octets of option {kind}: not 6 more than a multiple of 8")
    else:
        row = _BY_CLASS[type(option)]
        kind, data = row.kind, row.write(option)
    units = -(-(2 + len(data)) // 8)
    return bytes((kind, units)) + data.ljust(8 * units - 2, b"\0")
