"""Mobility options: format, length, alignment, padding, and what becomes of the ones that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import KNOWN_KINDS, KNOWN_OPTIONS, with_options
from wire_vectors import A_H_P_D, GATEWAY_1, MN
from wire_walk import expected_alignment, walk

from anchord.wire import header
from anchord.wire.messages import BindingUpdate
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    FORMATS,
    AccessTechnologyType,
    AlternateCareOfAddress,
    AnchoredPrefix,
    BindingRefreshAdvice,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    LocalPrefix,
    MalformedOption,
    MnIdSubtype,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    PreviousMaar,
    RestartCounter,
    ServingMaar,
    Timestamp,
    UnknownOption,
)

PREFIX = IPv6Network("2001:db8:a:1::/64")
ADDRESS = IPv6Address("fe80::a1")
EUI48 = bytes.fromhex("0200000000a1")
ADDRESS_HEX = "fe8000000000000000000000000000a1"
PREFIX_HEX = "20010db8000a00010000000000000000"
GATEWAY_HEX = "20010db8000a00000000000000000001"


def message(*options: Option) -> BindingUpdate:
    return BindingUpdate(0, 0, A_H_P_D, options)


def read(*options: bytes) -> tuple[Option, ...]:
    """Decode a binding update with these raw options, filled up with PadN."""
    body = b"".join(options)
    gap = -(12 + len(body)) % 8
    body += b"" if gap == 0 else b"\0" if gap == 1 else bytes((1, gap - 2)) + bytes(gap - 2)
    decoded = header.decode(bytes((59, (12 + len(body)) // 8 - 1, 5, 0)) + bytes(8) + body)
    assert isinstance(decoded, BindingUpdate)
    return decoded.options


# Formats

EXAMPLES = [
    pytest.param(BindingRefreshAdvice(600), "0202 0096", id="6275-binding-refresh-advice"),
    pytest.param(AlternateCareOfAddress(GATEWAY_1), "0310" + GATEWAY_HEX, id="6275-alternate-care-of-address"),
    pytest.param(MobileNodeIdentifier(1, b"a@b"), "0804 01 614062", id="row_143_mobile_node_identifier_nai"),
    pytest.param(MobileNodeIdentifier(5, EUI48), "0807 05 0200000000a1", id="row_143_mobile_node_identifier_eui48"),
    pytest.param(MobileNodeIdentifier(1, b""), "0801 01", id="row_56_mobile_node_identifier_of_zero_length"),
    pytest.param(HomeNetworkPrefix(PREFIX), "1612 0040" + PREFIX_HEX, id="row_121_home_network_prefix"),
    pytest.param(HomeNetworkPrefix(ALL_ZERO_PREFIX), "1612 0000" + "00" * 16, id="row_65_all_zero_home_network_prefix"),
    pytest.param(HandoffIndicator(3), "1702 0003", id="row_121_handoff_indicator"),
    pytest.param(AccessTechnologyType(4), "1802 0004", id="row_121_access_technology_type"),
    pytest.param(MobileNodeLinkLayerIdentifier(EUI48), "1908 0000 0200000000a1", id="row_121_mn_link_layer_identifier"),
    pytest.param(LinkLocalAddress(ADDRESS), "1a10" + ADDRESS_HEX, id="row_121_link_local_address"),
    pytest.param(Timestamp(3 << 15), "1b08 000000000001 8000", id="row_121_timestamp"),
    pytest.param(RestartCounter(3), "1c04 00000003", id="row_146_restart_counter"),
    pytest.param(AnchoredPrefix(PREFIX), "4112 0040" + PREFIX_HEX, id="row_38_anchored_prefix"),
    pytest.param(LocalPrefix(PREFIX), "4212 0040" + PREFIX_HEX, id="row_39_local_prefix"),
    pytest.param(PreviousMaar(GATEWAY_1, PREFIX), "4322 0040" + GATEWAY_HEX + PREFIX_HEX, id="row_41_previous_maar"),
    pytest.param(ServingMaar(GATEWAY_1), "4410" + GATEWAY_HEX, id="row_42_serving_maar"),
    pytest.param(DlifLinkLocalAddress(ADDRESS), "4510" + ADDRESS_HEX, id="row_43_dlif_link_local_address"),
    pytest.param(DlifLinkLayerAddress(EUI48), "4608 0000 0200000000a1", id="row_44_dlif_link_layer_address"),
    pytest.param(UnknownOption(200, b"\0\0\0\x03"), "c804 00000003", id="row_126_unknown_option"),
]


@pytest.mark.parametrize(("option", "octets"), EXAMPLES)
def test_format(option: Option, octets: str) -> None:
    raw = bytes.fromhex(octets)
    assert read(raw) == (option,)
    assert (raw[0], raw[2:]) in [(tlv.kind, tlv.data) for tlv in walk(header.encode(message(option)))]


def test_every_option_of_the_table_has_an_example_and_a_strategy() -> None:
    examples = {type(case.values[0]) for case in EXAMPLES}
    assert all(row.option in examples for row in FORMATS)
    assert set(KNOWN_OPTIONS) == KNOWN_KINDS
    assert len(FORMATS) == len(KNOWN_KINDS) == len({row.option for row in FORMATS})


@pytest.mark.parametrize("kind", KNOWN_OPTIONS)
def test_row_34_126_each_option_round_trips_among_unknown_ones(kind: int) -> None:
    stranger = UnknownOption(200, b"?")

    @given(KNOWN_OPTIONS[kind])
    def round_trip(option: Option) -> None:
        sent = message(stranger, option, stranger)
        assert header.decode(header.encode(sent)) == sent

    round_trip()


def test_row_120_options_in_any_order_and_repeated_keep_their_order() -> None:
    options = (
        HandoffIndicator(1),
        HomeNetworkPrefix(PREFIX),
        MN,
        HomeNetworkPrefix(ALL_ZERO_PREFIX),
        HandoffIndicator(2),
    )
    decoded = header.decode(header.encode(message(*options)))
    assert isinstance(decoded, BindingUpdate)
    assert decoded.options == options
    assert decoded.first(HandoffIndicator) == HandoffIndicator(1)
    assert decoded.all(HomeNetworkPrefix) == (options[1], options[3])
    assert decoded.first(Timestamp) is None and decoded.all(Timestamp) == ()


# Alignment and padding


@given(with_options)
def test_row_38_to_44_121_126_each_option_stands_at_its_alignment(sent: header.Message) -> None:
    for tlv in walk(header.encode(sent)):
        if tlv.kind > 1 and tlv.data is not None:
            modulus, remainder = expected_alignment(tlv.kind, tlv.data)
            assert tlv.at % modulus == remainder, tlv


@given(with_options)
def test_row_127_padding_is_short_single_and_zero(sent: header.Message) -> None:
    previous_was_padding = False
    for tlv in walk(header.encode(sent)):
        padding = tlv.kind < 2
        assert not (padding and previous_was_padding), "one PadN, not several paddings"
        if tlv.data is not None and padding:
            assert len(tlv.data) <= 5
            assert not any(tlv.data)
        previous_was_padding = padding


@pytest.mark.parametrize("length", range(1, 20))
@pytest.mark.parametrize("option", [case.values[0] for case in EXAMPLES], ids=lambda option: type(option).__name__)
def test_row_41_42_43_alignment_after_identifiers_of_every_length(option: Option, length: int) -> None:
    data = header.encode(message(MobileNodeIdentifier(1, b"x" * length), option))
    (tlv,) = [tlv for tlv in walk(data)[1:] if tlv.kind > 1]
    assert tlv.data is not None
    modulus, remainder = expected_alignment(tlv.kind, tlv.data)
    assert tlv.at % modulus == remainder


@pytest.mark.parametrize(("size", "alignment"), [(6, (4, 0)), (8, (8, 4)), (16, (8, 4)), (4, (4, 0))])
@pytest.mark.parametrize("make", [MobileNodeLinkLayerIdentifier, DlifLinkLayerAddress])
def test_decision_34_a_link_layer_address_starts_where_its_size_asks(
    make: Callable[[bytes], Option], size: int, alignment: tuple[int, int]
) -> None:
    for length in range(8):
        tlvs = walk(header.encode(message(MobileNodeIdentifier(1, bytes(length)), make(bytes(size)))))
        (at,) = [tlv.at for tlv in tlvs if tlv.kind in (25, 70)]
        assert at % alignment[0] == alignment[1]


def test_row_127_the_content_of_padding_is_ignored() -> None:
    assert read(b"\x01\x04\xde\xad\xbe\xef", b"\0\0\0", b"\x17\x02\0\x03", b"\x01\0") == (HandoffIndicator(3),)


def test_options_that_are_not_known_here_are_passed_on_without_padding() -> None:
    sent = header.encode(message(UnknownOption(200, b"?"), UnknownOption(201, b"!")))
    assert bytes.fromhex("c8013f c90121") in sent


def test_decision_34_options_off_their_alignment_are_read() -> None:
    assert read(b"\0", bytes.fromhex("4608 0000 0200000000a1")) == (DlifLinkLayerAddress(EUI48),)
    assert read(b"\0", bytes.fromhex("1612 0040" + PREFIX_HEX)) == (HomeNetworkPrefix(PREFIX),)


def test_decision_33_one_group_for_an_anchor_takes_72_octets() -> None:
    fixed = (MN, HomeNetworkPrefix(PREFIX), HandoffIndicator(4), AccessTechnologyType(4), Timestamp(0))
    group = (PreviousMaar(GATEWAY_1, PREFIX), DlifLinkLocalAddress(ADDRESS), DlifLinkLayerAddress(EUI48))
    sizes = [len(header.encode(message(*fixed, *group * count))) for count in range(28)]
    assert sizes[16] <= 1240 < sizes[17]
    assert {sizes[count + 1] - sizes[count] for count in range(1, 26)} == {72}
    assert sizes[27] <= 2048


# Leniency in what is read


@pytest.mark.parametrize("kind", [22, 65, 66])
@pytest.mark.parametrize("length", [0, 1, 48, 63, 64, 127, 128])
def test_row_38_39_121_reserved_and_bits_behind_the_prefix_are_ignored(kind: int, length: int) -> None:
    (option,) = read(bytes((kind, 18, 0xFF, length)) + b"\xff" * 16)
    assert isinstance(option, (HomeNetworkPrefix, AnchoredPrefix, LocalPrefix))
    assert option.prefix.prefixlen == length
    assert int(option.prefix.network_address) == (1 << 128) - (1 << 128 - length)
    assert bytes((kind, 18, 0, length)) + option.prefix.network_address.packed in header.encode(message(option))


def test_row_41_previous_maar_ignores_reserved_and_bits_behind_the_prefix() -> None:
    raw = bytes.fromhex("4322 ff40" + GATEWAY_HEX + "20010db8000a0001ffffffffffffffff")
    assert read(raw) == (PreviousMaar(GATEWAY_1, PREFIX),)


@pytest.mark.parametrize(
    ("octets", "option"),
    [
        ("1702 ff03", HandoffIndicator(3)),
        ("1802 ff04", AccessTechnologyType(4)),
        ("1908 ffff 0200000000a1", MobileNodeLinkLayerIdentifier(EUI48)),
        ("4608 ffff 0200000000a1", DlifLinkLayerAddress(EUI48)),
    ],
)
def test_row_44_121_reserved_octets_are_ignored(octets: str, option: Option) -> None:
    assert read(bytes.fromhex(octets)) == (option,)


# The right length of each option: RFC 8885 section 4, RFC 5213 section 8, RFC 5847 section 3.4, RFC 6275 section 6.2,
# RFC 4283 section 3.
EXACT = {2: 2, 3: 16, 22: 18, 23: 2, 24: 2, 26: 16, 27: 8, 28: 4, 65: 18, 66: 18, 67: 34, 68: 16, 69: 16}
LEAST = {8: 1, 25: 3, 70: 3}


@pytest.mark.parametrize("kind", sorted(EXACT | LEAST))
def test_row_38_to_44_121_decision_35_a_known_option_of_wrong_length_is_kept_aside(kind: int) -> None:
    for length in range(256):
        right = length == EXACT[kind] if kind in EXACT else length >= LEAST[kind]
        data = bytes(length)
        options = read(bytes((kind, length)) + data, bytes.fromhex("17020003"))
        assert len(options) == 2
        assert options[1] == HandoffIndicator(3), "the options behind it are read"
        assert (options[0] == MalformedOption(kind, data)) is not right


@pytest.mark.parametrize("kind", [22, 65, 66, 67])
@pytest.mark.parametrize("length", [129, 255])
def test_decision_35_a_prefix_of_more_than_128_bits_is_kept_aside(kind: int, length: int) -> None:
    data = bytes((0, length)) + bytes(EXACT[kind] - 2)
    assert read(bytes((kind, len(data))) + data) == (MalformedOption(kind, data),)


def test_a_malformed_option_can_be_passed_on_as_it_came() -> None:
    sent = message(MalformedOption(68, b"short"))
    assert header.decode(header.encode(sent)) == sent


# What cannot be written


@pytest.mark.parametrize(
    "option",
    [
        BindingRefreshAdvice(-4),
        BindingRefreshAdvice(262_144),
        MobileNodeIdentifier(-1, b""),
        MobileNodeIdentifier(256, b""),
        MobileNodeIdentifier(1, bytes(255)),
        HandoffIndicator(256),
        AccessTechnologyType(-1),
        MobileNodeLinkLayerIdentifier(b""),
        MobileNodeLinkLayerIdentifier(bytes(254)),
        DlifLinkLayerAddress(b""),
        Timestamp(-1),
        Timestamp(1 << 64),
        RestartCounter(-1),
        RestartCounter(1 << 32),
        UnknownOption(0, b""),
        UnknownOption(1, b""),
        UnknownOption(256, b""),
        UnknownOption(200, bytes(256)),
        "not an option",
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused(option: Option) -> None:
    with pytest.raises(ValueError, match=r"fit|range|empty|not a mobility option|octets"):
        header.encode(message(option))


# Values


@given(st.integers(0, 2**64 - 1))
def test_row_121_timestamp_is_48_bits_of_seconds_and_16_of_fraction(ticks: int) -> None:
    encoded = header.encode(message(Timestamp(ticks)))
    (data,) = [tlv.data for tlv in walk(encoded) if tlv.kind == 27]
    assert data is not None
    assert int.from_bytes(data[:6], "big") * 65536 + int.from_bytes(data[6:], "big") == ticks


def test_row_143_subtypes_of_rfc_8371() -> None:
    assert [(subtype.name, subtype.value) for subtype in MnIdSubtype] == [
        ("NAI", 1),
        ("IPV6_ADDRESS", 2),
        ("IMSI", 3),
        ("P_TMSI", 4),
        ("EUI48", 5),
        ("EUI64", 6),
        ("GUTI", 7),
        ("DUID", 8),
    ]
