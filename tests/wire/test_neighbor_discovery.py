"""ICMPv6 Neighbor Discovery: round trips, any bytes, formats, and every validity check of RFC 4861."""

from __future__ import annotations

import dataclasses
import struct
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from wire_strategies import KNOWN_ND_KINDS, KNOWN_ND_OPTIONS, link_locals, macs, mutated, nd_messages, octets, prefixes

from anchord.wire import neighbor
from anchord.wire.checksum import ICMPV6, internet_checksum
from anchord.wire.neighbor import (
    ALL_NODES,
    ALL_ROUTERS,
    INFINITE,
    DnsSearchList,
    Mtu,
    NdMessage,
    NdOption,
    NeighborAdvertisement,
    NeighborSolicitation,
    Preference,
    PrefixInformation,
    RecursiveDnsServer,
    RouteInformation,
    RouterAdvertisement,
    RouterFlag,
    RouterSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
    UnknownNdOption,
    WireError,
    ethernet_frame,
    parse_frame,
)
from anchord.wire.neighbor_options import FORMATS

HOST = IPv6Address("fe80::1")
ROUTER = IPv6Address("fe80::a1")
MAC = bytes.fromhex("0200000000a1")
UNSPECIFIED = IPv6Address("::")
PREFIX = IPv6Network("2001:db8:a1::/64")
ADVERTISEMENT = RouterAdvertisement(
    hop_limit=64,
    flags=RouterFlag.OTHER,
    preference=Preference.LOW,
    router_lifetime_s=600,
    reachable_ms=30_000,
    retrans_ms=1_000,
    options=(
        SourceLinkLayerAddress(MAC),
        PrefixInformation(PREFIX, on_link=False, autonomous=True, valid_s=600, preferred_s=0),
        Mtu(1460),
        RouteInformation(IPv6Network("2001:db8:f::/48"), Preference.LOW, 600),
        RecursiveDnsServer(600, (IPv6Address("2001:db8::53"),)),
        DnsSearchList(600, ("dmm.example",)),
    ),
)


def solicited_node(target: IPv6Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(target) & 0xFFFFFF)


def resummed(icmpv6: bytes, source: IPv6Address, destination: IPv6Address) -> bytes:
    unsummed = icmpv6[:2] + b"\0\0" + icmpv6[4:]
    return icmpv6[:2] + internet_checksum(source, destination, ICMPV6, unsummed).to_bytes(2, "big") + icmpv6[4:]


def receive(icmpv6: bytes, source: IPv6Address, destination: IPv6Address) -> NdMessage:
    """Take ``icmpv6``, with its checksum put right, through a whole frame."""
    frame = ethernet_frame(MAC, MAC, source, destination, resummed(icmpv6, source, destination))
    return neighbor.received(parse_frame(frame))


def read_options(octets: str) -> tuple[NdOption, ...]:
    """Decode a router solicitation with these raw options."""
    return neighbor.decode(bytes.fromhex("85000000 00000000" + octets)).options


# Round trips and totality


@given(nd_messages)
def test_what_is_written_is_read_back(message: NdMessage) -> None:
    icmpv6 = neighbor.encode(message, ROUTER, solicited_node(HOST) if message_is_unsolicited(message) else HOST)
    assert neighbor.decode(icmpv6) == message


def message_is_unsolicited(message: NdMessage) -> bool:
    return not (isinstance(message, NeighborAdvertisement) and message.solicited)


@given(nd_messages, link_locals, macs, macs)
def test_a_frame_is_received_as_sent(message: NdMessage, source: IPv6Address, to: bytes, sender: bytes) -> None:
    frame = parse_frame(ethernet_frame(to, sender, source, HOST, neighbor.encode(message, source, HOST)))
    assert neighbor.received(frame) == message
    assert (frame.destination_mac, frame.source_mac, frame.source, frame.destination) == (to, sender, source, HOST)


def test_every_option_of_the_table_has_a_strategy() -> None:
    assert set(KNOWN_ND_OPTIONS) == KNOWN_ND_KINDS == {row.kind for row in FORMATS}


SEED = [
    neighbor.encode(ADVERTISEMENT, ROUTER, ALL_NODES),
    neighbor.encode(RouterSolicitation((SourceLinkLayerAddress(MAC),)), HOST, ALL_ROUTERS),
    neighbor.encode(NeighborSolicitation(HOST), UNSPECIFIED, solicited_node(HOST)),
    neighbor.encode(NeighborAdvertisement(HOST, solicited=True), HOST, ROUTER),
]


@given(
    st.one_of(
        st.binary(max_size=200),
        mutated(SEED),
        st.builds(lambda kind, rest: bytes((kind, 0)) + rest, st.integers(133, 136), st.binary(max_size=120)),
    )
)
def test_any_bytes_give_a_message_or_one_wire_error(data: bytes) -> None:
    try:
        message = neighbor.decode(data)
    except WireError as problem:
        assert problem.cause in {
            "truncated", "icmpv6-type", "icmpv6-code", "length", "option-length", "option-overrun", "target"
        }  # fmt: skip
        return
    try:
        again = neighbor.encode(message, ROUTER, HOST)
    except ValueError as problem:
        # What we may have to read but must not send.
        assert "preferred lifetime" in str(problem) or "two routes" in str(problem)
        return
    assert neighbor.decode(again) == message


@given(st.one_of(st.binary(max_size=300), mutated([ethernet_frame(MAC, MAC, ROUTER, ALL_NODES, SEED[0])])))
def test_any_frame_gives_a_message_or_one_wire_error(data: bytes) -> None:
    try:
        neighbor.received(parse_frame(data))
    except WireError as problem:
        assert problem.cause


@given(nd_messages, st.data())
def test_a_changed_bit_is_noticed(message: NdMessage, data: st.DataObject) -> None:
    icmpv6 = bytearray(neighbor.encode(message, ROUTER, HOST))
    bit = data.draw(st.integers(0, 8 * len(icmpv6) - 1))
    icmpv6[bit // 8] ^= 0x80 >> bit % 8
    with pytest.raises(WireError) as caught:
        neighbor.received(parse_frame(ethernet_frame(MAC, MAC, ROUTER, HOST, bytes(icmpv6))))
    assert caught.value.cause == "checksum"


# Messages


def test_router_solicitation_format() -> None:
    assert neighbor.encode(RouterSolicitation(), HOST, ALL_ROUTERS)[:2] == b"\x85\0"
    assert neighbor.decode(bytes.fromhex("85 00 0000 ffffffff")) == RouterSolicitation()  # reserved is ignored


def test_router_advertisement_format() -> None:
    assert neighbor.encode(ADVERTISEMENT, ROUTER, ALL_NODES)[4:16] == bytes.fromhex("40 58 0258 00007530 000003e8")
    everything = neighbor.decode(bytes.fromhex("86 00 0000 40 ff 0258 00007530 000003e8"))
    assert everything == RouterAdvertisement(64, RouterFlag(0xE0), Preference.LOW, 600, 30_000, 1_000)


def test_neighbor_solicitation_format() -> None:
    icmpv6 = neighbor.encode(NeighborSolicitation(HOST), ROUTER, HOST)
    assert icmpv6[:2] == b"\x87\0"
    assert icmpv6[4:] == bytes(4) + HOST.packed


@pytest.mark.parametrize(
    ("router", "solicited", "override", "bits"),
    [(True, False, False, 0x80), (False, True, False, 0x40), (False, False, True, 0x20), (True, True, True, 0xE0)],
)
def test_neighbor_advertisement_format(router: bool, solicited: bool, override: bool, bits: int) -> None:
    message = NeighborAdvertisement(ROUTER, router, solicited, override, (TargetLinkLayerAddress(MAC),))
    icmpv6 = neighbor.encode(message, ROUTER, HOST)
    assert icmpv6[:2] == b"\x88\0"
    assert icmpv6[4:] == bytes((bits, 0, 0, 0)) + ROUTER.packed + b"\x02\x01" + MAC
    icmpv6 = icmpv6[:4] + bytes((bits | 0x1F, 255, 255, 255)) + icmpv6[8:]
    assert neighbor.decode(icmpv6) == message  # reserved is ignored


@pytest.mark.parametrize(("preference", "bits"), [("MEDIUM", 0x00), ("HIGH", 0x08), ("LOW", 0x18)])
def test_row_149_decision_23_router_preference(preference: str, bits: int) -> None:
    message = RouterAdvertisement(preference=Preference[preference], router_lifetime_s=600)
    assert neighbor.encode(message, ROUTER, HOST)[5] == bits


def test_row_149_reserved_router_preference_is_read_as_medium_and_never_sent() -> None:
    decoded = neighbor.decode(bytes.fromhex("86 00 0000 00 10 0258 00000000 00000000"))
    assert decoded == RouterAdvertisement(preference=Preference.MEDIUM, router_lifetime_s=600)
    with pytest.raises(ValueError, match="2 is not a valid Preference"):
        neighbor.encode(dataclasses.replace(ADVERTISEMENT, preference=2), ROUTER, HOST)  # type: ignore[arg-type]


def test_row_149_preference_of_a_router_without_lifetime_is_neither_sent_nor_read() -> None:
    retired = RouterAdvertisement(preference=Preference.LOW, router_lifetime_s=0)
    assert neighbor.encode(retired, ROUTER, HOST)[5] == 0
    assert neighbor.decode(bytes.fromhex("86 00 0000 00 18 0000 00000000 00000000")) == RouterAdvertisement()


def test_row_149_no_two_routes_with_one_prefix_are_sent() -> None:
    route = RouteInformation(PREFIX, Preference.LOW, 60)
    other = dataclasses.replace(route, lifetime_s=600)
    with pytest.raises(ValueError, match="two routes with one prefix"):
        neighbor.encode(RouterAdvertisement(options=(route, Mtu(1460), other)), ROUTER, HOST)


# Options

OPTION_EXAMPLES = [
    pytest.param(SourceLinkLayerAddress(MAC), "0101 0200000000a1", id="source-link-layer-address"),
    pytest.param(TargetLinkLayerAddress(MAC), "0201 0200000000a1", id="target-link-layer-address"),
    pytest.param(
        PrefixInformation(PREFIX, False, True, 600, 0),
        "0304 40 40 00000258 00000000 00000000 20010db800a100000000000000000000",
        id="row_29_deprecated_prefix",
    ),
    pytest.param(
        PrefixInformation(PREFIX, True, False, INFINITE, 300),
        "0304 40 80 ffffffff 0000012c 00000000 20010db800a100000000000000000000",
        id="prefix-information",
    ),
    pytest.param(Mtu(1460), "0501 0000 000005b4", id="row_110_mtu"),
    pytest.param(
        RouteInformation(IPv6Network("::/0"), Preference.LOW, 600), "1801 00 18 00000258", id="row_31_149_default_route"
    ),
    pytest.param(
        RouteInformation(PREFIX, Preference.HIGH, 600),
        "1802 40 08 00000258 20010db800a10000",
        id="row_31_149_route_of_64_bits",
    ),
    pytest.param(
        RouteInformation(IPv6Network("2001:db8::1/128"), Preference.MEDIUM, 0),
        "1803 80 00 00000000 20010db8000000000000000000000001",
        id="row_31_149_route_to_a_host",
    ),
    pytest.param(
        RecursiveDnsServer(600, (HOST, ROUTER)),
        "1905 0000 00000258 fe800000000000000000000000000001 fe8000000000000000000000000000a1",
        id="recursive-dns-servers",
    ),
    pytest.param(
        DnsSearchList(600, ("dmm.example", "ab")),
        "1f04 0000 00000258 03646d6d076578616d706c6500 02616200" + 7 * "00",
        id="dns-search-list",
    ),
    pytest.param(UnknownNdOption(14, b"nonce!"), "0e01 6e6f6e636521", id="unknown-option"),
]


@pytest.mark.parametrize(("option", "octets"), OPTION_EXAMPLES)
def test_row_149_option_format(option: NdOption, octets: str) -> None:
    assert read_options(octets) == (option,)
    assert neighbor.encode(RouterSolicitation((option,)), HOST, ALL_ROUTERS)[8:] == bytes.fromhex(octets)


def test_reserved_bits_and_bits_behind_a_prefix_are_ignored() -> None:
    assert read_options("0304 40 7f 00000258 00000000 ffffffff 20010db800a10000ffffffffffffffff") == (
        PrefixInformation(PREFIX, False, True, 600, 0),
    )
    assert read_options("1802 3f ef 00000258 20010db800a10001") == (
        RouteInformation(IPv6Network("2001:db8:a1::/63"), Preference.HIGH, 600),
    )
    assert read_options("0501 ffff 000005b4") == (Mtu(1460),)


def test_a_route_may_have_more_octets_of_prefix_than_it_needs() -> None:
    route = RouteInformation(IPv6Network("::/0"), Preference.MEDIUM, 0)
    assert read_options("1803 00 00 00000000" + 32 * "f") == (route,)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param("0303 40 40 00000258 00000000 00000000 20010db800a10000", id="prefix-information-too-short"),
        pytest.param("0304 81 40" + 28 * "00", id="prefix-of-129-bits"),
        pytest.param("0502 0000 000005b4 0000000000000000", id="mtu-too-long"),
        pytest.param("1802 40 10 00000258 20010db800a10000", id="row_149_reserved_route_preference"),
        pytest.param("1801 40 00 00000258", id="route-without-its-prefix"),
        pytest.param("1802 41 00 00000258 20010db800a10000", id="route-with-half-its-prefix"),
        pytest.param("1804 40 00 00000258" + 24 * "00", id="route-too-long"),
        pytest.param("1901 0000 00000258", id="no-dns-server"),
        pytest.param("1904 0000 00000258" + 24 * "00", id="dns-server-cut-off"),
        pytest.param("1f02 0000 00000258 0000000000000000", id="no-search-domain"),
        pytest.param("1f02 0000 00000258 0764656d6f6d6170", id="search-domain-without-end"),
        pytest.param("1f02 0000 00000258 0161c00000000000", id="compressed-search-domain"),
        pytest.param("1f02 0000 00000258 03612e6200000000", id="dot-in-a-label"),
        pytest.param("1f02 0000 00000258 02ffff0000000000", id="search-domain-not-ascii"),
        pytest.param("1f28 0000 00000258" + 5 * ("3f" + 63 * "61") + "00" * 40, id="search-domain-too-long"),
    ],
)
def test_a_known_option_that_cannot_be_read_is_left_as_it_came(octets: str) -> None:
    data = bytes.fromhex(octets)
    data = data[: 8 * data[1]].ljust(8 * data[1], b"\0")
    assert read_options(data.hex() + "0501 0000 000005b4") == (UnknownNdOption(data[0], data[2:]), Mtu(1460))


@pytest.mark.parametrize(
    "option",
    [
        SourceLinkLayerAddress(bytes(8)),
        TargetLinkLayerAddress(b""),
        PrefixInformation(PREFIX, True, True, 300, 301),
        PrefixInformation(PREFIX, True, True, 1 << 32, 0),
        PrefixInformation(PREFIX, True, True, 0, -1),
        Mtu(-1),
        Mtu(1 << 32),
        RouteInformation(PREFIX, Preference.LOW, 1 << 32),
        RouteInformation(PREFIX, 2, 600),  # type: ignore[arg-type]  # the reserved preference of RFC 4191
        RecursiveDnsServer(600, ()),
        RecursiveDnsServer(-1, (HOST,)),
        RecursiveDnsServer(600, (HOST,) * 128),
        DnsSearchList(600, ()),
        DnsSearchList(600, ("",)),
        DnsSearchList(600, ("a..b",)),
        DnsSearchList(600, ("a.",)),
        DnsSearchList(600, ("a" * 64,)),
        DnsSearchList(600, (".".join(["a" * 63] * 4),)),
        DnsSearchList(600, ("bücher.example",)),
        UnknownNdOption(200, bytes(8)),
        UnknownNdOption(256, bytes(6)),
    ],
    ids=repr,
)
def test_row_149_what_does_not_fit_is_refused(option: NdOption) -> None:
    with pytest.raises(ValueError, match=r"."):
        neighbor.encode(RouterAdvertisement(options=(option,)), ROUTER, HOST)


@pytest.mark.parametrize(
    "message",
    [
        RouterAdvertisement(hop_limit=256),
        RouterAdvertisement(router_lifetime_s=65_536),
        RouterAdvertisement(reachable_ms=1 << 32),
        RouterAdvertisement(retrans_ms=-1),
    ],
    ids=repr,
)
def test_a_field_that_does_not_fit_is_refused(message: NdMessage) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        neighbor.encode(message, ROUTER, HOST)


@given(prefixes, st.sampled_from(Preference))
def test_row_149_a_route_is_as_short_as_its_prefix_allows(prefix: IPv6Network, preference: Preference) -> None:
    data = neighbor.encode(RouterAdvertisement(options=(RouteInformation(prefix, preference, 1),)), ROUTER, HOST)
    assert data[17] == (3 if prefix.prefixlen > 64 else 2 if prefix.prefixlen else 1)


# The validity checks of RFC 4861 sections 6.1.1, 6.1.2, 7.1.1 and 7.1.2

VALID = [
    (RouterSolicitation((SourceLinkLayerAddress(MAC),)), HOST, ALL_ROUTERS),
    (RouterSolicitation(), UNSPECIFIED, ALL_ROUTERS),
    (ADVERTISEMENT, ROUTER, ALL_NODES),
    (ADVERTISEMENT, ROUTER, HOST),
    (NeighborSolicitation(HOST, (SourceLinkLayerAddress(MAC),)), ROUTER, solicited_node(HOST)),
    (NeighborSolicitation(HOST), UNSPECIFIED, solicited_node(HOST)),
    (NeighborAdvertisement(HOST, solicited=True), HOST, ROUTER),
    (NeighborAdvertisement(HOST, override=True), HOST, ALL_NODES),
]
each_valid = pytest.mark.parametrize(
    ("message", "source", "destination"), VALID, ids=lambda value: type(value).__name__
)


@each_valid
def test_a_valid_message_is_received(message: NdMessage, source: IPv6Address, destination: IPv6Address) -> None:
    assert receive(neighbor.encode(message, source, destination), source, destination) == message


@each_valid
@pytest.mark.parametrize("hop_limit", [0, 1, 64, 254])
def test_a_hop_limit_other_than_255_is_refused(
    message: NdMessage, source: IPv6Address, destination: IPv6Address, hop_limit: int
) -> None:
    frame = bytearray(ethernet_frame(MAC, MAC, source, destination, neighbor.encode(message, source, destination)))
    frame[14 + 7] = hop_limit
    with pytest.raises(WireError) as caught:
        neighbor.received(parse_frame(bytes(frame)))
    assert caught.value.cause == "hop-limit"


@each_valid
def test_a_code_other_than_0_is_refused(message: NdMessage, source: IPv6Address, destination: IPv6Address) -> None:
    icmpv6 = bytearray(neighbor.encode(message, source, destination))
    icmpv6[1] = 1
    with pytest.raises(WireError) as caught:
        receive(bytes(icmpv6), source, destination)
    assert caught.value.cause == "icmpv6-code"


@each_valid
def test_too_few_octets_are_refused(message: NdMessage, source: IPv6Address, destination: IPv6Address) -> None:
    least = {133: 8, 134: 16, 135: 24, 136: 24}
    icmpv6 = neighbor.encode(dataclasses.replace(message, options=()), source, destination)
    assert len(icmpv6) == least[icmpv6[0]]
    for length in range(len(icmpv6)):
        with pytest.raises(WireError) as caught:
            neighbor.decode(icmpv6[:length])
        assert caught.value.cause == ("truncated" if length < 4 else "length")


@each_valid
@pytest.mark.parametrize(
    ("octets", "cause"),
    [
        ("0100", "option-length"),
        ("c8000000", "option-length"),
        ("01", "option-overrun"),
        ("0102" + 6 * "00", "option-overrun"),
    ],
)
def test_an_option_of_length_0_or_past_the_end_spoils_the_message(
    message: NdMessage, source: IPv6Address, destination: IPv6Address, octets: str, cause: str
) -> None:
    with pytest.raises(WireError) as caught:
        receive(neighbor.encode(message, source, destination) + bytes.fromhex(octets), source, destination)
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("message", "source", "destination", "cause"),
    [
        pytest.param(RouterSolicitation((SourceLinkLayerAddress(MAC),)), UNSPECIFIED, ALL_ROUTERS,
                     "source", id="6.1.1"),
        pytest.param(ADVERTISEMENT, IPv6Address("2001:db8::1"), ALL_NODES, "source", id="6.1.2"),
        pytest.param(ADVERTISEMENT, UNSPECIFIED, ALL_NODES, "source", id="6.1.2-unspecified"),
        pytest.param(NeighborSolicitation(ALL_NODES), ROUTER, HOST, "target", id="7.1.1-target"),
        pytest.param(NeighborSolicitation(HOST), UNSPECIFIED, HOST, "destination", id="7.1.1-destination"),
        pytest.param(NeighborSolicitation(HOST, (SourceLinkLayerAddress(MAC),)), UNSPECIFIED, solicited_node(HOST),
                     "source", id="7.1.1-link-layer-address"),
        pytest.param(NeighborAdvertisement(ALL_NODES), ROUTER, HOST, "target", id="7.1.2-target"),
        pytest.param(NeighborAdvertisement(HOST, solicited=True), HOST, ALL_NODES, "destination", id="7.1.2-solicited"),
    ],
)  # fmt: skip
def test_what_is_invalid_is_neither_received_nor_sent(
    message: NdMessage, source: IPv6Address, destination: IPv6Address, cause: str
) -> None:
    with pytest.raises(WireError) as caught:
        receive(raw(message), source, destination)
    assert caught.value.cause == cause
    with pytest.raises(WireError) as caught:
        neighbor.encode(message, source, destination)
    assert caught.value.cause == cause


def raw(message: NdMessage) -> bytes:
    """Write ``message`` without the checks, by way of a valid one."""
    match message:
        case NeighborSolicitation():
            valid = neighbor.encode(dataclasses.replace(message, target=HOST), ROUTER, HOST)
            return valid[:8] + message.target.packed + valid[24:]
        case NeighborAdvertisement():
            valid = neighbor.encode(dataclasses.replace(message, target=HOST), ROUTER, HOST)
            return valid[:8] + message.target.packed + valid[24:]
        case _:
            return neighbor.encode(message, ROUTER, HOST)


@given(octets.filter(lambda kind: kind not in range(133, 137)), st.binary(max_size=60))
def test_other_icmpv6_types_are_refused(kind: int, rest: bytes) -> None:
    assume(len(rest) >= 3)
    with pytest.raises(WireError) as caught:
        neighbor.decode(struct.pack("!B", kind) + rest)
    assert caught.value.cause == "icmpv6-type"
