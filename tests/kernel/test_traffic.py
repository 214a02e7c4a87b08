"""Real packets of real hosts through the data plane."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address

from namespaces import Capture, Domain, Namespace, udp
from planes import Pair, Plane, anchored, exported, gateway_address, give_address, imported, prefix, use_router

from anchord.declared import Role

MakeDomain = Callable[[int], Domain]
MakePlane = Callable[..., Plane]


def reaches(namespace: Namespace, address: object, size: int = 56) -> bool:
    """Whether a ping is answered."""
    return ", 0% packet loss" in namespace.run(f"ping -n -c 2 -i 0.05 -W 2 -s {size} {address}", check=False)


def test_row_5_a_host_at_its_anchor_is_routed_plainly(pair: Pair) -> None:
    on_core = Capture(pair.domain.core, "gw1")
    assert reaches(pair.host, Domain.CN)
    assert reaches(pair.domain.cn, pair.address)
    assert on_core.tunnelled() == []
    on_core.close()


def test_row_9_11_12_after_a_handover_both_directions_use_the_tunnel(pair: Pair) -> None:
    pair.hand_over()
    on_core = Capture(pair.domain.core, "gw1")
    assert reaches(pair.host, Domain.CN)
    assert reaches(pair.domain.cn, pair.address)
    ends = {(frame[22:38], frame[38:54]) for frame in on_core.tunnelled()}
    one, two = gateway_address(1).packed, gateway_address(2).packed
    assert ends == {(one, two), (two, one)}
    on_core.close()


def test_row_5_12_the_new_prefix_is_routed_plainly_while_the_old_one_is_tunnelled(pair: Pair) -> None:
    pair.hand_over()
    address = give_address(pair.host, 2)
    on_core = Capture(pair.domain.core, "gw2")
    assert reaches(pair.domain.cn, address)
    assert on_core.tunnelled() == []
    on_core.close()


def test_packets_of_every_prefix_are_served_on_every_router(pair: Pair) -> None:
    """Hosts send through the router they prefer, whatever the source."""
    pair.hand_over()
    give_address(pair.host, 2)
    for n in (1, 2):
        use_router(pair.host, n)
        assert reaches(pair.domain.cn, pair.address)


def test_decision_16_back_at_the_anchor_the_prefix_is_plain_again(pair: Pair) -> None:
    pair.hand_over()
    assert reaches(pair.host, Domain.CN)
    pair.domain.move("mn1", "br-gw1")
    assert pair.planes[1].declare(pair.host, anchored(1)) is None
    assert pair.planes[2].declare(None, exported(2, to=1)) is None
    on_core = Capture(pair.domain.core, "gw1")
    assert reaches(pair.host, Domain.CN)
    assert on_core.tunnelled() == []
    on_core.close()


def test_row_68_a_third_gateway_takes_the_tunnel_over(make_domain: MakeDomain, make_plane: MakePlane) -> None:
    domain = make_domain(3)
    pair = Pair(domain, {n: make_plane(domain, n) for n in (1, 2, 3)})
    pair.hand_over()
    assert reaches(pair.host, Domain.CN)
    domain.move("mn1", "br-gw3")
    assert pair.planes[3].declare(pair.host, anchored(3), imported(2), imported(1)) is None
    assert pair.planes[1].declare(None, exported(1, to=3)) is None
    assert pair.planes[2].declare(None, exported(2, to=3)) is None
    assert reaches(pair.host, Domain.CN)
    assert reaches(domain.cn, give_address(pair.host, 2))


def test_two_hosts_that_moved_talk_through_both_anchors(make_domain: MakeDomain, make_plane: MakePlane) -> None:
    domain = make_domain(3)
    planes = {n: make_plane(domain, n) for n in (1, 2, 3)}
    hosts = {n: domain.host(f"mn{n}", "br-gw3") for n in (1, 2)}
    addresses = {}
    for n, host in hosts.items():
        assert planes[3].declare(host, imported(n, n), anchored(3, n), key=f"mn{n}") is None
        assert planes[n].declare(None, exported(n, 3, n), key=f"mn{n}") is None
        addresses[n] = give_address(host, n, n)
        use_router(host, n, n)
    captures = {n: Capture(domain.core, f"gw{n}") for n in (1, 2)}
    assert reaches(hosts[1], addresses[2])
    for capture in captures.values():
        assert capture.tunnelled()
        capture.close()


def test_two_hosts_of_one_anchor_that_moved_together_talk(pair: Pair) -> None:
    pair.hand_over()
    other = pair.domain.host("mn2", "br-gw2")
    assert pair.planes[2].declare(other, imported(1, 2), key="mn2") is None
    assert pair.planes[1].declare(None, exported(1, 2, 2), key="mn2") is None
    address = give_address(other, 1, 2)
    use_router(other, 1, 2)
    assert reaches(pair.host, address)


def test_a_visitor_and_a_resident_talk(pair: Pair) -> None:
    pair.hand_over()
    resident = pair.domain.host("mn2", "br-gw2")
    assert pair.planes[2].declare(resident, anchored(2, 2), key="mn2") is None
    address = give_address(resident, 2, 2)
    use_router(resident, 2, 2)
    assert reaches(pair.host, address)
    assert reaches(resident, pair.address)


def test_the_gateway_itself_still_answers(pair: Pair) -> None:
    assert reaches(pair.domain.cn, gateway_address(1))
    assert reaches(pair.host, gateway_address(1))
    pair.hand_over()
    assert reaches(pair.host, gateway_address(1)), "its anchor, through the tunnel"
    assert reaches(pair.host, gateway_address(2)), "the gateway it visits"
    assert reaches(pair.domain.gateways[2], pair.address), "and the gateway reaches its visitor"


def test_a_host_moves_between_two_access_interfaces(make_domain: MakeDomain, make_plane: MakePlane) -> None:
    domain = make_domain(1)
    domain.add_access(domain.gateways[1], "acc1", "br-gw1b")
    plane = make_plane(domain, 1, ("acc0", "acc1"))
    host = domain.host("mn1", "br-gw1")
    assert plane.declare(host, anchored(1)) is None
    give_address(host, 1)
    use_router(host, 1)
    assert reaches(host, Domain.CN)
    domain.move("mn1", "br-gw1b")
    assert plane.declare(host, anchored(1), interface="acc1") is None
    assert reaches(host, Domain.CN)
    assert set(plane.forwarding.links.values()) == {"acc1"}


def test_row_6_90_115_a_prepared_router_answers_but_forwards_nothing(
    make_domain: MakeDomain, make_plane: MakePlane
) -> None:
    domain = make_domain(1)
    plane = make_plane(domain, 1)
    host = domain.host("mn1", "br-gw1")
    assert plane.declare(host, replace(anchored(1), role=Role.PREPARED)) is None
    give_address(host, 1)
    use_router(host, 1)
    assert reaches(host, "fe80::a1:1%eth0")
    assert not reaches(host, Domain.CN)
    assert plane.counters()["unbound"] >= 2
    assert plane.declare(host, anchored(1)) is None
    assert reaches(host, Domain.CN)


def test_a_scan_of_a_prefix_fills_no_neighbour_cache(pair: Pair) -> None:
    scanner = udp(pair.domain.cn, Domain.CN)
    for number in range(300):
        scanner.sendto(b"?", (f"2001:db8:a1:1::{number + 4096:x}", 9))
    assert reaches(pair.domain.cn, pair.address)
    scanner.close()
    known = [IPv6Address(each["dst"]) for each in pair.planes[1].namespace.json("-6 neigh show")]
    # The host's own address may be there: its neighbour solicitations tell it.
    assert {address for address in known if address in prefix(1)} <= {pair.address}


def arp_answers(interface: str, asked: bytes) -> list[bytes]:
    """The MAC addresses that answer an ARP request within 0.3 s."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as link:
        link.bind((interface, 0x0806))
        link.settimeout(0.3)
        mac = link.getsockname()[4]
        request = bytes.fromhex("08060001080006040001") + mac + bytes((192, 0, 2, 2)) + bytes(6) + asked
        link.send(b"\xff" * 6 + mac + request)
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                frame = link.recv(100)
                if frame[20:22] == b"\0\2":
                    found.append(frame[6:12])
        return found


def test_the_faces_of_anchors_do_not_answer_for_the_gateways_ipv4_addresses(pair: Pair) -> None:
    pair.hand_over()
    gateway = pair.domain.gateways[2]
    gateway.run("ip addr add 192.0.2.1/24 dev acc0")
    answers = pair.host.call(lambda: arp_answers("eth0", bytes((192, 0, 2, 1))))
    assert answers == [gateway.mac("acc0")]
