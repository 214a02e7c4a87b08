"""Which frames of an access interface reach the gateway, on a real link and in the kernel's own filter machine."""

from __future__ import annotations

import random
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from access_wire import Wire, data_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from anchord.attachment import filter as frame_filter
from anchord.attachment.access import DRAIN, LATE_S, AccessInterface, Notice
from anchord.attachment.segment import ETHERTYPE
from anchord.lab.namespaces import inside
from anchord.wire.frames import ethernet_frame, layer2_update_frame
from anchord.wire.neighbor import (
    ALL_NODES,
    NeighborAdvertisement,
    NeighborSolicitation,
    RouterAdvertisement,
    RouterSolicitation,
    encode,
)

HOST = bytes.fromhex("02005e1000a1")
OWN = bytes.fromhex("0200000000aa")
LINK_LOCAL = IPv6Address("fe80::5eff:fe10:a1")
GLOBAL = IPv6Address("2001:db8:a1::5")
NOBODY = IPv6Address("::")
ALL_ROUTERS = IPv6Address("ff02::2")
SOLICITED = IPv6Address("ff02::1:ff00:5")
BRIDGES = [bytes.fromhex(f"0180c200000{digit:x}") for digit in range(16)]


def nd(message: object, source: IPv6Address, destination: IPv6Address, mac: bytes = HOST) -> bytes:
    icmpv6 = encode(message, source, destination)  # type: ignore[arg-type]
    return ethernet_frame(b"\x33\x33\0\0\0\2", mac, source, destination, icmpv6)


def ipv6_data(next_header: int, mac: bytes = HOST) -> bytes:
    header = (6 << 28).to_bytes(4, "big") + (100).to_bytes(2, "big") + bytes((next_header, 64))
    return data_frame(mac, OWN, 0x86DD, header + GLOBAL.packed + GLOBAL.packed + bytes(100))


# What the gateway has to hear of a host that it knows: the kernel answers none of these.
LIFE = {
    "router solicitation": nd(RouterSolicitation(), LINK_LOCAL, ALL_ROUTERS),
    "router solicitation without a source": nd(RouterSolicitation(), NOBODY, ALL_ROUTERS),
    "neighbour solicitation": nd(NeighborSolicitation(GLOBAL), LINK_LOCAL, SOLICITED),
    "duplicate address detection": nd(NeighborSolicitation(GLOBAL), NOBODY, SOLICITED),
    "neighbour advertisement": nd(NeighborAdvertisement(GLOBAL), GLOBAL, ALL_NODES),
    "layer 2 update": layer2_update_frame(HOST),
    "other 802.2": data_frame(HOST, ethertype=46, body=b"\xaa\xaa\x03"),
}
DATA = {
    "IPv4": data_frame(HOST, OWN, 0x0800),
    "ARP": data_frame(HOST, ethertype=0x0806),
    "UDP": ipv6_data(17),
    "echo request": ipv6_data(58),
    "extension header": ipv6_data(0),
    "router advertisement": nd(RouterAdvertisement(), LINK_LOCAL, ALL_NODES),
    "VLAN tag": data_frame(HOST, OWN, 0x8100, b"\0\1\x08\0"),
    "unknown EtherType": data_frame(HOST, OWN, 0x9999),
    "unicast to a third station": data_frame(HOST, b"\x02\x33\x44\x55\x66\x77", 0x0800),
}


@pytest.mark.parametrize("kind", [*LIFE, *DATA])
def test_everything_of_an_unknown_host_arrives(wire: Wire, kind: str) -> None:
    count, seen = wire.send([{**LIFE, **DATA}[kind]])
    assert count == 1
    assert [(event.interface, event.mac) for event in seen] == [("acc0", HOST)]


@pytest.mark.parametrize("kind", LIFE)
def test_signs_of_life_of_a_known_host_arrive(wire: Wire, kind: str) -> None:
    wire.access.ignore(HOST)
    assert wire.arrives(LIFE[kind])


@pytest.mark.parametrize("kind", DATA)
def test_data_of_a_known_host_does_not(wire: Wire, kind: str) -> None:
    wire.access.ignore(HOST)
    assert not wire.arrives(DATA[kind])
    wire.access.heed(HOST)
    assert wire.arrives(DATA[kind])


def test_bridges_talking_to_each_other_are_no_hosts(wire: Wire) -> None:
    frames = [data_frame(HOST, bridge, 39, b"\x42\x42\x03") for bridge in BRIDGES]
    assert wire.send(frames) == (0, [])
    wire.access.ignore(HOST)
    assert wire.send(frames) == (0, [])
    assert wire.arrives(data_frame(HOST, bytes.fromhex("0180c2000010"), 39, b"\x42\x42\x03"))


@pytest.mark.parametrize("source", [b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("333300000001")])
def test_a_group_is_no_source(wire: Wire, source: bytes) -> None:
    assert wire.send([data_frame(source), layer2_update_frame(source)]) == (0, [])


def test_neither_nobody_nor_we_ourselves_are_hosts(wire: Wire) -> None:
    assert wire.send([data_frame(bytes(6)), data_frame(OWN)])[1] == []
    with closing(wire.listen()) as outside:
        assert wire.access.send(data_frame(HOST))
        assert outside.recv(100)[6:12] == HOST
    assert wire.send([]) == (0, [])


def test_what_a_notice_says(wire: Wire) -> None:
    expected = {
        "router solicitation": (LINK_LOCAL, True, False),
        "router solicitation without a source": (None, True, False),
        "neighbour solicitation": (LINK_LOCAL, False, False),
        "duplicate address detection": (GLOBAL, False, False),  # it is about to use that one
        "neighbour advertisement": (GLOBAL, False, False),
        "layer 2 update": (None, False, True),
        "other 802.2": (None, False, False),
    }
    assert wire.send(LIFE.values())[1] == [
        Notice("acc0", HOST, address, solicited, reassociated) for address, solicited, reassociated in expected.values()
    ]


def test_a_notice_names_the_router_that_a_packet_was_sent_to(wire: Wire) -> None:
    packet = LIFE["neighbour advertisement"][14:]
    frames = [data_frame(HOST, to, 0x86DD, packet) for to in (OWN, bytes.fromhex("333300000001"))]
    found = [notice.router for notice in wire.send(frames)[1] if isinstance(notice, Notice)]
    assert found == [OWN, None]
    assert [notice.router for notice in wire.send([data_frame(HOST, OWN)])[1] if isinstance(notice, Notice)] == [None]


def test_a_solicitation_that_was_routed_is_none(wire: Wire) -> None:
    routed = bytearray(LIFE["router solicitation"])
    routed[14 + 7] = 254  # RFC 4861 section 6.1.1: the hop limit has to be 255
    (notice,) = wire.send([bytes(routed)])[1]
    assert isinstance(notice, Notice) and not notice.solicited


def macs(count: int, seed: int) -> list[bytes]:
    """MAC addresses of which many are equal in their last, or in their first, bytes."""
    draw = random.Random(seed)
    tails = [draw.randbytes(4) for _ in range(count // 3 + 1)]
    found: dict[bytes, None] = {}
    while len(found) < count:
        found[bytes((draw.randrange(0, 256, 4) | 2, draw.randrange(256))) + draw.choice(tails)] = None
    return list(found)


def near(mac: bytes) -> list[bytes]:
    """Addresses that differ in one bit of each byte."""
    return [mac[:at] + bytes((mac[at] ^ 4,)) + mac[at + 1 :] for at in range(6)]


@pytest.mark.parametrize("count", [0, 1, 5, 100, frame_filter.MOST_HOSTS])
def test_of_many_known_hosts_none_is_mistaken(wire: Wire, count: int) -> None:
    known = macs(count, seed=count)
    for mac in known:
        wire.access.ignore(mac)
    # Where net.core.optmem_max is low, as on Linux before 6.8, the filter is full earlier.
    assert wire.access.filter_full == 0 or count == frame_filter.MOST_HOSTS
    assert wire.send(data_frame(mac) for mac in known)[0] == wire.access.filter_full
    strangers = [mac for each in [*known[:20], HOST] for mac in near(each) if mac not in known]
    assert wire.send(data_frame(mac) for mac in strangers)[0] == len(strangers)
    assert wire.send(layer2_update_frame(mac) for mac in known)[0] == count
    for mac in known[::2]:
        wire.access.heed(mac)
    assert wire.send(data_frame(mac) for mac in known)[0] == len(known[::2]) + wire.access.filter_full


def test_a_hundred_equal_tails(wire: Wire) -> None:
    known = [bytes((2, number)) + HOST[2:] for number in range(100)]
    for mac in known:
        wire.access.ignore(mac)
    assert wire.send(data_frame(mac) for mac in known)[0] == 0
    assert wire.send(data_frame(bytes((2, number)) + HOST[2:]) for number in range(100, 110))[0] == 10


def test_hosts_beyond_the_filter_are_counted_and_still_noticed(wire: Wire) -> None:
    known = macs(frame_filter.MOST_HOSTS + 7, seed=9)
    for mac in known:
        wire.access.ignore(mac)
    full = wire.access.filter_full
    assert full >= 7
    count, seen = wire.send(data_frame(mac) for mac in known)
    assert count == full and {event.mac for event in seen} < set(known)
    for mac in known[:7]:
        wire.access.heed(mac)
    assert wire.access.filter_full == full - 7


def test_a_kernel_with_little_room_for_filters_gets_a_smaller_one(segment: str, wire: Wire) -> None:
    # Linux before 6.8 has one limit for the whole machine, and by default this one.
    with inside(segment):
        limit = Path("/proc/sys/net/core/optmem_max")
        before = limit.read_text() if limit.exists() else None
        if before is not None:
            limit.write_text("20480")
    try:
        known = macs(frame_filter.MOST_HOSTS, seed=20480)
        for mac in known:
            wire.access.ignore(mac)
        assert 100 < wire.access.filter_full < 500
        assert wire.send(data_frame(mac) for mac in known)[0] == wire.access.filter_full
    finally:
        if before is not None:
            with inside(segment):
                limit.write_text(before)


def test_known_again_and_again_is_known_once(wire: Wire) -> None:
    for _ in range(frame_filter.MOST_HOSTS + 1):
        wire.access.ignore(HOST)
    assert wire.access.filter_full == 0
    wire.access.heed(HOST)
    wire.access.heed(HOST)
    assert wire.arrives(DATA["UDP"])


@contextmanager
def kernel_filter(known: list[bytes]) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of sockets, the second with the filter: what is sent arrives, or not, before ``send`` returns."""
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sending, receiving:
        receiving.setblocking(False)
        frame_filter.attach(receiving, frame_filter.program(known))
        yield sending, receiving


def wanted(frame: bytes, known: list[bytes]) -> bool:
    """The rule in words: docstring of ``anchord.attachment.filter``."""
    destination, source, kind = frame[:6], frame[6:12], int.from_bytes(frame[12:14], "big")
    if destination[:5] == b"\x01\x80\xc2\0\0" and destination[5] < 16:
        return False
    if source[0] & 1:
        return False
    if source not in known or kind <= 1500 or kind == ETHERTYPE:
        return True
    return len(frame) > 54 and kind == 0x86DD and frame[20] == 58 and frame[54] in (133, 135, 136)


# A few addresses near each other, so that equality in part is the rule.
a_mac = st.builds(lambda head, tail: head + tail, st.sampled_from([b"\2\0", b"\2\1", b"\6\0", b"\1\x80"]), st.binary(
    min_size=4, max_size=4).map(lambda tail: bytes(byte & 3 for byte in tail)))  # fmt: skip
a_destination = st.one_of(st.sampled_from(BRIDGES), st.binary(min_size=6, max_size=6))
an_ethertype = st.one_of(
    st.sampled_from([0, 1500, 1501, 1536, 0x0800, 0x86DD, 0xFFFF, ETHERTYPE]), st.integers(0, 0xFFFF)
)
a_body = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda protocol, kind: bytes(6) + bytes((protocol,)) + bytes(33) + bytes((kind,)) + bytes(20),
        st.sampled_from([0, 17, 58]),
        st.integers(130, 140),
    ),
)


@given(known=st.lists(a_mac, max_size=40, unique=True), source=a_mac, destination=a_destination,
       ethertype=an_ethertype, body=a_body)  # fmt: skip
def test_the_kernel_decides_as_the_rule_says(
    known: list[bytes], source: bytes, destination: bytes, ethertype: int, body: bytes
) -> None:
    frame = destination + source + ethertype.to_bytes(2, "big") + body
    with kernel_filter(known) as (sending, receiving):
        sending.send(frame)
        try:
            assert receiving.recv(4096) == frame[: frame_filter.SNAP_BYTES]
            arrived = True
        except BlockingIOError:
            arrived = False
    assert arrived == wanted(frame, known)


@given(st.lists(st.binary(min_size=14, max_size=400), max_size=30))
@settings(max_examples=25)
def test_any_bytes_are_taken(segment: str, frames: list[bytes]) -> None:
    with closing(Wire(segment)) as wire:
        # With an unknown source, so that they get as far as possible.
        _, seen = wire.send(frame[:6] + HOST + frame[12:] for frame in frames)
        assert all(event.mac == HOST for event in seen)


@given(st.binary(max_size=200), st.sampled_from(list(LIFE)), st.integers(0, 100))
@settings(max_examples=25)
def test_any_end_of_a_solicitation_is_taken(segment: str, end: bytes, kind: str, kept: int) -> None:
    with closing(Wire(segment)) as wire:
        frame = LIFE[kind][: 14 + kept] + end
        assert all(event.mac == HOST for event in wire.send([frame])[1])


def test_an_interface_that_is_down_takes_and_gives_nothing(segment: str, wire: Wire) -> None:
    subprocess.run(["ip", "-n", segment, "link", "set", "acc0", "down"], check=True)
    try:
        assert wire.access.send(data_frame(HOST)) is False
        assert list(wire.access.drain()) == []
    finally:
        subprocess.run(["ip", "-n", segment, "link", "set", "acc0", "up"], check=True)
    assert wire.arrives(DATA["UDP"])


def test_no_such_interface_is_said(segment: str) -> None:
    with inside(segment), pytest.raises(OSError, match=r"^access interface acc9: No such device: .*correct access"):
        AccessInterface("acc9", b"secret", "gw1")


def test_at_most_so_many_frames_a_wake_up(wire: Wire) -> None:
    wire.put(data_frame(HOST) for _ in range(DRAIN + 5))
    assert len(list(wire.access.drain())) == DRAIN
    assert len(wire.send([])[1]) == 5


def test_frames_that_have_waited_too_long_say_nothing(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that was stopped must not take old frames for news."""
    assert wire.send([data_frame(HOST)])[1] != []
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + LATE_S + 0.1)
    wire.put([data_frame(HOST)])
    assert select.select([wire.access], [], [], 2.0)[0]
    assert list(wire.access.drain()) == []
    assert wire.access.late == 1


def test_an_interface_that_is_made_anew_is_listened_to_again(segment: str) -> None:
    def link(*words: str) -> None:
        subprocess.run(["ip", "-n", segment, "link", *words], check=True)

    link("add", "acc5", "type", "veth", "peer", "name", "host5")
    try:
        with inside(segment):
            access = AccessInterface("acc5", b"secret", "gw1")
            with closing(access):
                assert access.is_there()
                link("del", "acc5")
                assert not access.is_there()
                with pytest.raises(OSError, match="acc5"):
                    access.reopen()
                link("add", "acc5", "type", "veth", "peer", "name", "host5")
                assert not access.is_there(), "it is another one"
                access.reopen()
                assert access.is_there()
    finally:
        subprocess.run(["ip", "-n", segment, "link", "del", "acc5"], check=False)
