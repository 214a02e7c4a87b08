"""What tunnelled packets look like, what does not fit, and what may not pass."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from bulk import lost_of_full_datagrams, tcp_passes
from namespaces import Capture, Domain, Namespace, udp
from planes import Pair, Plane, anchored, exported, gateway_address, give_address, prefix, router, use_router
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrRouting
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

MakeDomain = Callable[[int], Domain]
MakePlane = Callable[..., Plane]


def inject(namespace: Namespace, interface: str, packet: Packet, to: bytes) -> None:
    """Put a frame on an interface by hand."""
    frame = bytes(Ether(src=namespace.mac(interface).hex(":"), dst=to.hex(":")) / packet)
    with namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        raw.send(frame)


def in_core(pair: Pair, packet: Packet, n: int = 1) -> None:
    """A packet that comes to gateway n from the core."""
    inject(pair.domain.core, f"gw{n}", packet, pair.domain.gateways[n].mac("core0"))


def udp_to(destination: object, source: object = Domain.CN) -> Packet:
    """A small UDP packet."""
    return IPv6(src=str(source), dst=str(destination)) / UDP(sport=4000, dport=4000) / Raw(b"x" * 32)


def until(condition: Callable[[], bool], within_s: float = 2) -> bool:
    """Whether a condition comes true in time (packets take theirs)."""
    ends = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < ends:
        time.sleep(0.01)
    return met


def test_row_86_on_the_wire_it_is_ipv6_directly_in_ipv6(pair: Pair) -> None:
    """RFC 2473: next header 41 and no routing header, so that any router can be the other end."""
    pair.hand_over()
    capture = Capture(pair.domain.core, "gw1")
    pair.host.run(f"ping -c 1 -W 2 -Q 0x02 {Domain.CN}")
    packets = [Ether(frame) for frame in capture.tunnelled()]
    capture.close()
    assert len(packets) == 2
    for packet in packets:
        assert not packet.haslayer(IPv6ExtHdrRouting)
        assert isinstance(packet[IPv6].payload, IPv6)
    assert packets[0][IPv6].src == str(gateway_address(2))
    assert packets[0][IPv6].payload.src == str(pair.address)
    assert packets[0][IPv6].tc & 3 == 2, "ECN is copied to the outer header (RFC 5213 section 5.6.3)"


@pytest.mark.parametrize("downlink", [True, False], ids=["downlink", "uplink"])
def test_packet_too_big_reaches_the_inner_sender(pair: Pair, downlink: bool) -> None:
    """RFC 2473 section 7.1, with 1500-byte links everywhere."""
    pair.hand_over()
    cn, host = udp(pair.domain.cn, Domain.CN), udp(pair.host, str(pair.address))
    sender, receiver = (cn, host) if downlink else (host, cn)
    there = receiver.getsockname()[:2]
    sender.setsockopt(41, 23, 2)  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO: refuse to fragment
    sender.sendto(bytes(1452), there)
    with pytest.raises(OSError) as caught:
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            sender.sendto(bytes(1452), there)
            time.sleep(0.02)
    assert caught.value.errno == errno.EMSGSIZE
    sender.sendto(bytes(1412), there)  # 1460 less IPv6 and UDP headers
    receiver.settimeout(3)
    assert len(receiver.recv(2000)) == 1412
    for each in (cn, host):
        each.close()


@pytest.mark.parametrize("downlink", [True, False], ids=["downlink", "uplink"])
def test_what_fills_a_1500_byte_link_passes_after_a_move(pair: Pair, downlink: bool) -> None:
    """Offloads are on; a sender of full datagrams, none of which was lost before, loses the first one."""
    cn, host = (pair.domain.cn, IPv6Address(Domain.CN)), (pair.host, pair.address)
    way = (*cn, *host) if downlink else (*host, *cn)
    assert lost_of_full_datagrams(*way) == 0
    pair.hand_over()
    assert lost_of_full_datagrams(*way) == 1
    assert tcp_passes(*way, size=20_000_000)


def test_row_114_a_stale_packet_is_dropped_and_counted(pair: Pair) -> None:
    """The anchor still sends to a gateway that the host has left."""
    assert pair.planes[1].declare(None, exported(1, to=2)) is None
    on_core = Capture(pair.domain.core, "gw2")
    sender = udp(pair.domain.cn, Domain.CN)
    for _ in range(10):
        sender.sendto(b"x", (str(pair.address), 9))
    sender.close()
    assert until(lambda: pair.planes[2].counters()["stale"] == 10)
    assert len(on_core.tunnelled()) == 10, "each crosses the link once"
    on_core.close()


def test_a_looping_packet_is_dropped_and_counted(pair: Pair) -> None:
    """Each of two gateways believes that the host is at the other."""
    assert pair.planes[1].declare(None, exported(1, to=2)) is None
    elsewhere = exported(1, to=2)
    astray = type(elsewhere)(elsewhere.prefix, elsewhere.role, None, gateway_address(1))
    assert pair.planes[2].declare(None, astray) is None
    on_core = Capture(pair.domain.core, "gw2")
    in_core(pair, udp_to(pair.address))
    assert until(lambda: pair.planes[2].counters()["stale"] == 1)
    assert len(on_core.tunnelled()) == 1
    on_core.close()


def test_a_stale_packet_between_hosts_of_two_anchors_ends_by_its_hop_limit(pair: Pair) -> None:
    """The one loop that routing cannot tell from a visitor's uplink: it is short-lived and bounded."""
    resident = pair.domain.host("mn2", "br-gw2")
    assert pair.planes[2].declare(resident, anchored(2, 2), key="mn2") is None
    give_address(resident, 2, 2)
    use_router(resident, 2, 2)
    assert pair.planes[1].declare(None, exported(1, to=2)) is None
    on_core = Capture(pair.domain.core, "gw2")
    resident.run(f"ping -c 1 -W 1 {pair.address}", check=False)
    assert len(on_core.tunnelled()) <= 64 // 4
    on_core.close()


def test_row_47_a_strangers_tunnel_is_dropped_and_counted(pair: Pair) -> None:
    capture = Capture(pair.domain.switch, "pbr-gw1")
    in_core(pair, IPv6(src="2001:db8:bad::1", dst=str(gateway_address(1))) / udp_to(pair.address))
    assert until(lambda: pair.planes[1].counters()["foreign"] == 1)
    assert not [frame for frame in capture.frames() if b"x" * 32 in frame]
    capture.close()


def test_a_tunnel_from_the_hosts_side_is_dropped_even_in_a_peers_name(pair: Pair) -> None:
    forged = IPv6(src=str(gateway_address(2)), dst=str(gateway_address(1))) / udp_to(Domain.CN, "2001:db8:a1:7::1")
    inject(pair.host, "eth0", forged, router(1).mac)
    assert until(lambda: pair.planes[1].counters()["foreign"] == 1)


def test_a_tunnel_inside_a_tunnel_is_not_opened(pair: Pair) -> None:
    own = str(gateway_address(1))
    inner = IPv6(src=str(pair.address), dst=own) / udp_to(Domain.CN, pair.address)
    in_core(pair, IPv6(src=str(gateway_address(2)), dst=own) / inner)
    assert until(lambda: pair.planes[1].counters()["foreign"] == 1)


def test_a_peer_cannot_send_as_anybody(pair: Pair) -> None:
    """From a peer only packets to visitors, and of our own pool, are taken (RFC 5213 section 6.10.5)."""
    capture = Capture(pair.domain.core, "gw1")
    in_core(pair, IPv6(src=str(gateway_address(2)), dst=str(gateway_address(1))) / udp_to("2001:db8:c1::2"))
    assert until(lambda: pair.planes[1].counters()["stale"] == 1)
    assert [frame[20] for frame in capture.frames() if b"x" * 32 in frame] == [41], "it came and did not go"
    capture.close()


@pytest.mark.parametrize("source", ["2001:db8:dead::1", "2001:db8:a2:1::5", "2001:db8:a1:99::5"])
def test_row_115_a_host_cannot_send_from_a_prefix_that_is_not_bound_here(pair: Pair, source: str) -> None:
    inject(pair.host, "eth0", udp_to(Domain.CN, source), router(1).mac)
    assert until(lambda: pair.planes[1].counters()["unbound"] == 1)


def test_row_115_a_link_local_source_is_never_forwarded(pair: Pair) -> None:
    inject(pair.host, "eth0", udp_to(Domain.CN, "fe80::77"), router(1).mac)
    assert until(lambda: pair.planes[1].counters()["link_local"] == 1)


@pytest.mark.parametrize(
    ("outer", "inner", "delivered"),
    [(3, 2, 3), (3, 1, 3), (3, 3, 3), (3, 0, None), (0, 2, 2), (2, 2, 2), (0, 0, 0), (2, 0, 0)],
    ids=lambda field: {0: "not-ect", 1: "ect1", 2: "ect0", 3: "ce", None: "dropped"}[field],
)
def test_row_88_congestion_met_in_the_tunnel_is_told_to_the_host(
    pair: Pair, outer: int, inner: int, delivered: int | None
) -> None:
    """RFC 5213 section 5.6.3, RFC 3168 section 9.1.1: full functionality at the end of the tunnel."""
    pair.hand_over()
    at_host = Capture(pair.host, "eth0")
    packet = udp_to(pair.address)
    packet[IPv6].tc = inner
    own, peer = str(gateway_address(2)), str(gateway_address(1))
    in_core(pair, IPv6(src=peer, dst=own, tc=outer) / packet, 2)
    in_core(pair, IPv6(src=peer, dst=own) / udp_to(pair.address, "2001:db8:c1::99"), 2)
    seen: list[Packet] = []

    def both_came() -> bool:
        seen.extend(Ether(frame)[IPv6] for frame in at_host.frames() if b"x" * 32 in frame)
        return any(each.src == "2001:db8:c1::99" for each in seen)

    assert until(both_came)
    assert [each.tc for each in seen if each.src == Domain.CN] == ([] if delivered is None else [delivered])
    assert pair.planes[2].counters()["congestion"] == (delivered is None)
    at_host.close()


def test_an_unused_prefix_of_the_pool_is_unreachable(pair: Pair) -> None:
    """Without the route in table HOSTS the default route would send it back to the core, which sends it back."""
    capture = Capture(pair.domain.core, "gw1")
    said = pair.domain.cn.run(f"ping -c 1 -W 2 {prefix(1, 0x77)[1]}", check=False)
    assert "nreachable" in said
    echoes = [
        frame for frame in capture.frames() if frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 128
    ]
    assert len(echoes) == 1
    capture.close()


def test_tunnels_outlive_trouble_on_the_core_link(pair: Pair) -> None:
    pair.hand_over()
    gateway = pair.domain.gateways[1]
    gateway.run("ip link set core0 down")
    gateway.run("ip link set core0 up")
    gateway.run("ip addr replace 2001:db8:f1::1/64 dev core0 nodad")
    gateway.run("ip -6 route replace default via 2001:db8:f1::ffff")
    assert until(lambda: ", 0% packet loss" in pair.host.run(f"ping -c 1 -W 1 {Domain.CN}", check=False))


def test_row_110_the_tunnel_mtu_follows_the_core(make_domain: MakeDomain, make_plane: MakePlane) -> None:
    domain = make_domain(1)
    plane = make_plane(domain, 1)
    assert plane.forwarding.tunnel_mtu == 1460
    plane.namespace.run("ip link set core0 mtu 1400")
    assert plane.audit() is None
    assert plane.forwarding.tunnel_mtu == 1360
    assert {plane.namespace.json(f"link show {name}")[0]["mtu"] for name in ("an-up0", "an-up1", "an-dn0")} == {1360}


def test_links_name_the_faces_that_are_shown(pair: Pair) -> None:
    pair.hand_over()
    assert dict(pair.planes[2].forwarding.links) == {router(1).mac: "acc0", router(2).mac: "acc0"}
