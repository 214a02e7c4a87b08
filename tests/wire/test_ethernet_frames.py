"""Ethernet frames: what is told of any bytes, and the frame an access point announces a station with."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import addresses, macs, mutated

from anchord.wire.frames import (
    BROADCAST,
    Frame,
    ethernet_frame,
    eui64_link_local,
    is_layer2_update,
    layer2_update_frame,
    parse_frame,
)

TO, FROM = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
SOURCE, DESTINATION = IPv6Address("fe80::2"), IPv6Address("ff02::2")
ICMPV6 = bytes.fromhex("85007bb700000000")
FRAME = ethernet_frame(TO, FROM, SOURCE, DESTINATION, ICMPV6)


def test_frame_with_icmpv6_byte_for_byte() -> None:
    assert (
        bytes.fromhex(
            "020000000001 020000000002 86dd"
            "60000000 0008 3a ff fe800000000000000000000000000002 ff020000000000000000000000000002"
            "85007bb700000000"
        )
        == FRAME
    )


@given(macs, macs, addresses, addresses, st.binary(max_size=100), st.binary(max_size=30))
def test_a_built_frame_is_parsed_whatever_padding_follows(
    to: bytes, sender: bytes, source: IPv6Address, destination: IPv6Address, icmpv6: bytes, padding: bytes
) -> None:
    frame = parse_frame(ethernet_frame(to, sender, source, destination, icmpv6) + padding)
    assert frame == Frame(to, sender, 0x86DD, None, source, destination, 255, icmpv6)


@given(st.one_of(st.binary(max_size=120), mutated([FRAME, layer2_update_frame(FROM)])))
def test_any_bytes_give_a_frame(data: bytes) -> None:
    frame = parse_frame(data)
    assert len(frame.source_mac) == len(frame.destination_mac) == (6 if len(data) >= 14 else 0)
    assert (frame.source is None) == (frame.destination is None) == (frame.hop_limit is None)
    assert frame.icmpv6 is None or frame.source is not None
    assert is_layer2_update(frame) in (True, False)


def test_frames_that_do_not_get_that_far() -> None:
    assert parse_frame(b"") == parse_frame(FRAME[:13]) == Frame(b"", b"")
    assert parse_frame(TO + FROM + b"\x08\x06" + bytes(28)) == Frame(TO, FROM, 0x0806)
    assert parse_frame(FRAME[:53]) == Frame(TO, FROM, 0x86DD), "half an IPv6 header"
    assert parse_frame(FRAME[:14] + b"\x45" + FRAME[15:]) == Frame(TO, FROM, 0x86DD), "not version 6"
    assert parse_frame(FRAME[:-1]) == Frame(TO, FROM, 0x86DD, None, SOURCE, DESTINATION, 255), "cut off"
    assert parse_frame(FRAME[:20] + b"\x11" + FRAME[21:]).icmpv6 is None, "UDP"
    assert parse_frame(FRAME[:20] + b"\0" + FRAME[21:]).icmpv6 is None, "hop-by-hop options first"


@pytest.mark.parametrize("mac", [b"", bytes(5), bytes(7)])
def test_a_mac_address_has_6_octets(mac: bytes) -> None:
    with pytest.raises(ValueError, match="6 octets"):
        ethernet_frame(mac, FROM, SOURCE, DESTINATION, ICMPV6)
    with pytest.raises(ValueError, match="6 octets"):
        ethernet_frame(TO, mac, SOURCE, DESTINATION, ICMPV6)
    with pytest.raises(ValueError, match="6 octets"):
        layer2_update_frame(mac)
    with pytest.raises(ValueError, match="6 octets"):
        eui64_link_local(mac)


def test_a_payload_has_at_most_65535_octets() -> None:
    assert len(ethernet_frame(TO, FROM, SOURCE, DESTINATION, bytes(65_535))) == 65_535 + 54
    with pytest.raises(ValueError, match="65536 octets do not fit"):
        ethernet_frame(TO, FROM, SOURCE, DESTINATION, bytes(65_536))


def test_layer_2_update_byte_for_byte() -> None:
    assert layer2_update_frame(FROM) == bytes.fromhex("ffffffffffff 020000000002 0006 00 01 af 81 01 00")


@given(macs, st.binary(max_size=46))
def test_a_layer_2_update_is_recognised_with_its_station(mac: bytes, padding: bytes) -> None:
    frame = parse_frame(layer2_update_frame(mac) + padding)
    assert is_layer2_update(frame)
    assert (frame.source_mac, frame.ethertype) == (mac, None)


@pytest.mark.parametrize(
    ("llc", "recognised"),
    [
        ("00 01 af 81 01 00", True),  # Linux cfg80211
        ("00 01 af 81 01 02", True),  # hostapd
        ("00 00 f5 81 80 00", True),  # FreeBSD net80211: bits of the control field reversed
        ("00 01 bf 81 01 00", True),  # final bit set
        ("42 42 03 00 00 00", False),  # a spanning tree bridge
        ("aa aa 03 00 00 00", False),  # SNAP
        ("00 01 e3", False),  # TEST, not XID
        ("00 01", False),
        ("", False),
    ],
)
def test_layer_2_updates_of_other_access_points(llc: str, recognised: bool) -> None:
    octets = bytes.fromhex(llc)
    frame = parse_frame(BROADCAST + FROM + len(octets).to_bytes(2, "big") + octets)
    assert is_layer2_update(frame) is recognised


def test_a_layer_2_update_is_broadcast() -> None:
    assert not is_layer2_update(parse_frame(TO + layer2_update_frame(FROM)[6:]))


def test_eui64_of_rfc_4291_appendix_a() -> None:
    # The example of RFC 2464 section 5.
    assert eui64_link_local(bytes.fromhex("34567890abcd")) == IPv6Address("fe80::3656:78ff:fe90:abcd")
