"""Mobility options (RFC 6275 section 6.2): the TLVs behind the fixed part of a Mobility Header message.

Supported: RFC 6275 (Binding Refresh Advice, Alternate Care-of Address), RFC 4283 with the subtypes of RFC 8371,
RFC 5213 section 8, RFC 5847 section 3.4, RFC 8885 section 4. ``FORMATS`` below is the whole of it: one row for each
option with its type number, length, alignment, and how to read and write what follows its length.

Padding is not a value. It is dropped on receipt and made anew on sending, each option at its own alignment and the
whole a multiple of 8 octets long.

What is unknown or wrong stays visible and harmless: an option of unknown type becomes :class:`UnknownOption` (RFC 6275
section 6.2.1: skipped), a known one of the wrong length :class:`MalformedOption` (decision 35: ignored and counted; the
protocol answers 128 where it needed that option). Only an option that reaches past the header is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network
from typing import Any, ClassVar, Generic

from anchord.wire.carrier import OptionT
from anchord.wire.errors import WireError
from anchord.wire.integers import unsigned

PAD1 = 0  # RFC 6275 section 6.2.2
PADN = 1  # RFC 6275 section 6.2.3

TIME_UNIT_S = 4
"""Seconds in one unit of a lifetime or refresh interval (RFC 6275 sections 6.1.7 and 6.2.4)."""

ALL_ZERO_PREFIX = IPv6Network("::/0")
"""The ALL_ZERO home network prefix: "allocate one for me" (RFC 5213 sections 2.2 and 6.9.1.1)."""


class MnIdSubtype(IntEnum):
    """What the octets of a mobile node identifier are (RFC 4283 section 3.1, RFC 8371 section 6)."""

    NAI = 1
    IPV6_ADDRESS = 2
    IMSI = 3
    P_TMSI = 4
    EUI48 = 5
    EUI64 = 6
    GUTI = 7
    DUID = 8


class Handoff(IntEnum):
    """Values of the Handoff Indicator (RFC 5213 section 8.4)."""

    NEW_INTERFACE = 1
    BETWEEN_INTERFACES = 2
    BETWEEN_GATEWAYS = 3
    UNKNOWN = 4
    UNCHANGED = 5


class AccessTechnology(IntEnum):
    """Values of the Access Technology Type (RFC 5213 section 8.5)."""

    VIRTUAL = 1
    PPP = 2
    ETHERNET = 3
    WLAN = 4
    WIMAX = 5


@dataclass(frozen=True, slots=True)
class BindingRefreshAdvice:
    """When to register again (RFC 6275 section 6.2.4): 0 to 262,140 s, sent in units of 4 s, rounded down."""

    interval_s: int


@dataclass(frozen=True, slots=True)
class AlternateCareOfAddress:
    """A care-of address other than the packet's source (RFC 6275 section 6.2.5)."""

    address: IPv6Address


@dataclass(frozen=True, slots=True)
class MobileNodeIdentifier:
    """Who the mobile node is (RFC 4283 section 3): ``subtype`` 0 to 255, see :class:`MnIdSubtype`.

    ``identifier`` has 0 to 254 octets; none at all stands for "it was missing" (RFC 5213 section 5.3.6).
    """

    subtype: int
    identifier: bytes


@dataclass(frozen=True, slots=True)
class HomeNetworkPrefix:
    """A prefix of the mobile node (RFC 5213 section 8.3), or :data:`ALL_ZERO_PREFIX`."""

    prefix: IPv6Network


@dataclass(frozen=True, slots=True)
class HandoffIndicator:
    """What kind of attachment this is (RFC 5213 section 8.4): 0 to 255, see :class:`Handoff`."""

    value: int


@dataclass(frozen=True, slots=True)
class AccessTechnologyType:
    """How the mobile node is attached (RFC 5213 section 8.5): 0 to 255, see :class:`AccessTechnology`."""

    value: int


@dataclass(frozen=True, slots=True)
class MobileNodeLinkLayerIdentifier:
    """The mobile node's link-layer address (RFC 5213 section 8.6): 1 to 253 octets, 6 on Ethernet and Wi-Fi."""

    identifier: bytes


@dataclass(frozen=True, slots=True)
class LinkLocalAddress:
    """The gateway's link-local address on the access link (RFC 5213 section 8.7); ``::`` asks for one."""

    address: IPv6Address


@dataclass(frozen=True, slots=True)
class Timestamp:
    """When the message was made (RFC 5213 section 8.8), in ticks of 1/65536 s since 1970-01-01 00:00 UTC.

    48 bits of seconds and 16 of fraction: 0 to 2**64 - 1 ticks. Compare and add ticks: they are exact.
    """

    TICKS_PER_S: ClassVar[int] = 65536

    ticks: int


@dataclass(frozen=True, slots=True)
class RestartCounter:
    """How often the sender lost its sessions (RFC 5847 section 3.4), in Heartbeat responses: 0 to 2**32 - 1."""

    value: int


@dataclass(frozen=True, slots=True)
class AnchoredPrefix:
    """A prefix of the mobile node with the gateway that anchors it (RFC 8885 section 4.3)."""

    prefix: IPv6Network


@dataclass(frozen=True, slots=True)
class LocalPrefix:
    """A network reachable only through the anchoring gateway (RFC 8885 section 4.4)."""

    prefix: IPv6Network


@dataclass(frozen=True, slots=True)
class PreviousMaar:
    """A gateway the mobile node was at, by its global address, and the prefix anchored there (RFC 8885 section 4.5)."""

    maar: IPv6Address
    prefix: IPv6Network


@dataclass(frozen=True, slots=True)
class ServingMaar:
    """The global address of the gateway the mobile node is at (RFC 8885 section 4.6)."""

    address: IPv6Address


@dataclass(frozen=True, slots=True)
class DlifLinkLocalAddress:
    """The link-local address of an anchor's logical router (RFC 8885 section 4.7)."""

    address: IPv6Address


@dataclass(frozen=True, slots=True)
class DlifLinkLayerAddress:
    """The link-layer address of an anchor's logical router (RFC 8885 section 4.8): 1 to 253 octets."""

    address: bytes


@dataclass(frozen=True, slots=True)
class UnknownOption:
    """An option of a type this program does not know, as it came: 2 to 255, up to 255 octets.

    Its alignment is unknown as well: sent again, it stands wherever the option before it ends.
    """

    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MalformedOption:
    """An option of known type that cannot be read: a wrong length, or a prefix of more than 128 bits (decision 35)."""

    kind: int
    data: bytes


Option = (
    BindingRefreshAdvice
    | AlternateCareOfAddress
    | MobileNodeIdentifier
    | HomeNetworkPrefix
    | HandoffIndicator
    | AccessTechnologyType
    | MobileNodeLinkLayerIdentifier
    | LinkLocalAddress
    | Timestamp
    | RestartCounter
    | AnchoredPrefix
    | LocalPrefix
    | PreviousMaar
    | ServingMaar
    | DlifLinkLocalAddress
    | DlifLinkLayerAddress
    | UnknownOption
    | MalformedOption
)

# Readers get the octets after the length, of a length the table allows; ValueError makes the option malformed.
# Writers return those octets; ValueError says what cannot be written.


def lifetime_units(seconds: int, what: str) -> bytes:
    """Return ``seconds`` in whole units of 4 s, rounded down, as two octets (RFC 6275 section 6.1.7)."""
    return unsigned(seconds // TIME_UNIT_S, 2, f"{what} in units of 4 s:")


def _prefix(length: int, address: bytes) -> IPv6Network:
    """Return the prefix in which only the first ``length`` bits count (RFC 8885 section 4.3): the rest is cut off."""
    rest = 128 - length  # negative for a length over 128: the shift then raises ValueError
    return IPv6Network((int.from_bytes(address, "big") >> rest << rest, length))


def _read_prefix(data: bytes) -> IPv6Network:
    # Reserved (ignored), Prefix Length, 16 octets: RFC 5213 section 8.3, RFC 8885 sections 4.3 and 4.4.
    return _prefix(data[1], data[2:])


def _write_prefix(prefix: IPv6Network) -> bytes:
    return bytes((0, prefix.prefixlen)) + prefix.network_address.packed


def _read_previous_maar(data: bytes) -> PreviousMaar:
    # Reserved (ignored), Prefix Length, MAAR, prefix: RFC 8885 section 4.5.
    return PreviousMaar(IPv6Address(data[2:18]), _prefix(data[1], data[18:]))


def _write_previous_maar(option: PreviousMaar) -> bytes:
    prefix = option.prefix
    return bytes((0, prefix.prefixlen)) + option.maar.packed + prefix.network_address.packed


def _write_octet(value: int) -> bytes:
    # Reserved, one value: RFC 5213 sections 8.4 and 8.5.
    return b"\0" + unsigned(value, 1, "value")


def _write_link_layer(address: bytes) -> bytes:
    # Two reserved octets, then the address: RFC 5213 section 8.6, RFC 8885 section 4.8.
    if not address:
        raise ValueError("a link-layer address cannot be empty")
    return b"\0\0" + address


def _link_layer_alignment(length: int) -> tuple[int, int]:
    """Return the alignment of an option that holds two reserved octets and a link-layer address.

    "Aligned appropriately" for the size of the address (RFC 5213 section 8.6, RFC 8885 section 4.8): the address
    starts on 8 octets if it consists of such, else on 4 as an EUI-48 needs it (decision 34).
    """
    return (8, 4) if (length - 2) % 8 == 0 else (4, 0)


@dataclass(frozen=True, slots=True)
class OptionFormat(Generic[OptionT]):
    """One row of the table: how an option of class ``option`` looks on the wire."""

    kind: int
    """Option Type."""
    option: type[OptionT]
    shortest: int
    """Least value of Option Length: octets after the length."""
    longest: int
    alignment: tuple[int, int] | None
    """(m, k): the option starts at m * n + k octets from the start of the header. None: by size of the address."""
    read: Callable[[bytes], OptionT]
    write: Callable[[OptionT], bytes]


FORMATS: tuple[OptionFormat[Any], ...] = (
    # RFC 6275 section 6.2.4
    OptionFormat(2, BindingRefreshAdvice, 2, 2, (2, 0),
                 lambda data: BindingRefreshAdvice(int.from_bytes(data, "big") * TIME_UNIT_S),
                 lambda option: lifetime_units(option.interval_s, "interval")),
    # RFC 6275 section 6.2.5
    OptionFormat(3, AlternateCareOfAddress, 16, 16, (8, 6),
                 lambda data: AlternateCareOfAddress(IPv6Address(data)),
                 lambda option: option.address.packed),
    # RFC 4283 section 3
    OptionFormat(8, MobileNodeIdentifier, 1, 255, (1, 0),
                 lambda data: MobileNodeIdentifier(data[0], data[1:]),
                 lambda option: unsigned(option.subtype, 1, "subtype") + option.identifier),
    # RFC 5213 section 8.3
    OptionFormat(22, HomeNetworkPrefix, 18, 18, (8, 4),
                 lambda data: HomeNetworkPrefix(_read_prefix(data)),
                 lambda option: _write_prefix(option.prefix)),
    # RFC 5213 section 8.4
    OptionFormat(23, HandoffIndicator, 2, 2, (1, 0),
                 lambda data: HandoffIndicator(data[1]),
                 lambda option: _write_octet(option.value)),
    # RFC 5213 section 8.5
    OptionFormat(24, AccessTechnologyType, 2, 2, (1, 0),
                 lambda data: AccessTechnologyType(data[1]),
                 lambda option: _write_octet(option.value)),
    # RFC 5213 section 8.6
    OptionFormat(25, MobileNodeLinkLayerIdentifier, 3, 255, None,
                 lambda data: MobileNodeLinkLayerIdentifier(data[2:]),
                 lambda option: _write_link_layer(option.identifier)),
    # RFC 5213 section 8.7
    OptionFormat(26, LinkLocalAddress, 16, 16, (8, 6),
                 lambda data: LinkLocalAddress(IPv6Address(data)),
                 lambda option: option.address.packed),
    # RFC 5213 section 8.8
    OptionFormat(27, Timestamp, 8, 8, (8, 2),
                 lambda data: Timestamp(int.from_bytes(data, "big")),
                 lambda option: unsigned(option.ticks, 8, "timestamp")),
    # RFC 5847 section 3.4
    OptionFormat(28, RestartCounter, 4, 4, (4, 2),
                 lambda data: RestartCounter(int.from_bytes(data, "big")),
                 lambda option: unsigned(option.value, 4, "restart counter")),
    # RFC 8885 section 4.3
    OptionFormat(65, AnchoredPrefix, 18, 18, (8, 4),
                 lambda data: AnchoredPrefix(_read_prefix(data)),
                 lambda option: _write_prefix(option.prefix)),
    # RFC 8885 section 4.4
    OptionFormat(66, LocalPrefix, 18, 18, (8, 4),
                 lambda data: LocalPrefix(_read_prefix(data)),
                 lambda option: _write_prefix(option.prefix)),
    # RFC 8885 section 4.5
    OptionFormat(67, PreviousMaar, 34, 34, (8, 4), _read_previous_maar, _write_previous_maar),
    # RFC 8885 section 4.6
    OptionFormat(68, ServingMaar, 16, 16, (8, 6),
                 lambda data: ServingMaar(IPv6Address(data)),
                 lambda option: option.address.packed),
    # RFC 8885 section 4.7
    OptionFormat(69, DlifLinkLocalAddress, 16, 16, (8, 6),
                 lambda data: DlifLinkLocalAddress(IPv6Address(data)),
                 lambda option: option.address.packed),
    # RFC 8885 section 4.8
    OptionFormat(70, DlifLinkLayerAddress, 3, 255, None,
                 lambda data: DlifLinkLayerAddress(data[2:]),
                 lambda option: _write_link_layer(option.address)),
)  # fmt: skip

_BY_KIND = {row.kind: row for row in FORMATS}
_BY_CLASS: dict[type, OptionFormat[Any]] = {row.option: row for row in FORMATS}
_UNALIGNED = (1, 0)

# _PADDING[n] is n octets of padding: Pad1 for one, PadN with zeros for more (RFC 6275 sections 6.2.2 and 6.2.3).
_PADDING = (b"", bytes((PAD1,)), *(bytes((PADN, n - 2)) + bytes(n - 2) for n in range(2, 8)))


def decode_options(data: bytes, start: int) -> tuple[Option, ...]:
    """Return the options of the Mobility Header ``data`` from offset ``start`` to its end, without the padding.

    Raises WireError ("option-overrun") if an option reaches past the end.
    """
    options: list[Option] = []
    end = len(data)
    at = start
    while at < end:
        kind = data[at]
        if kind == PAD1:  # a single octet, without a length
            at += 1
            continue
        body = at + 2
        if body > end or body + data[at + 1] > end:
            raise WireError("option-overrun", f"option {kind} at offset {at} reaches past the Mobility Header")
        at = body + data[at + 1]
        if kind != PADN:
            options.append(_decode_option(kind, data[body:at]))
    return tuple(options)


def _decode_option(kind: int, data: bytes) -> Option:
    row = _BY_KIND.get(kind)
    if row is None:
        return UnknownOption(kind, data)
    if row.shortest <= len(data) <= row.longest:
        try:
            option: Option = row.read(data)
        except ValueError:
            return MalformedOption(kind, data)
        return option
    return MalformedOption(kind, data)


def encode_options(options: Iterable[Option], start: int) -> bytes:
    """Return ``options`` padded for a Mobility Header in which they begin at offset ``start``.

    Each stands at its alignment, and the header ends on a multiple of 8 octets (RFC 6275 section 6.1.1).
    Raises ValueError for a value that its field cannot hold.
    """
    parts: list[bytes] = []
    at = start
    for option in options:
        row = _BY_CLASS.get(type(option))
        if row is None:
            kind, data, (modulus, remainder) = _encode_stranger(option)
        else:
            kind, data = row.kind, row.write(option)
            modulus, remainder = row.alignment or _link_layer_alignment(len(data))
        gap = (remainder - at) % modulus
        if gap:
            parts.append(_PADDING[gap])
        parts += (bytes((kind, len(data))), data)
        at += gap + 2 + len(data)
    parts.append(_PADDING[-at % 8])
    return b"".join(parts)


def _encode_stranger(option: Option) -> tuple[int, bytes, tuple[int, int]]:
    """Return type, data and alignment of what is not in the table."""
    if isinstance(option, (UnknownOption, MalformedOption)) and option.kind not in (PAD1, PADN):
        return option.kind, option.data, _UNALIGNED
    raise ValueError(f"not a mobility option: {option!r}")
