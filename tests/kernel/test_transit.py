"""A gateway that stands between two others that do not know each other: two tunnels in series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from bulk import lost_of_full_datagrams, tcp_passes
from namespaces import Capture, Domain, Flow, Namespace, udp
from planes import Plane, anchored, exported, gateway_address, give_address, imported, prefix, use_router
from scapy.layers.inet6 import IPv6
from test_traffic import reaches
from test_tunnels import inject, udp_to, until

from anchord.declared import PrefixEntry, Role
from anchord.kernel.forwarding import flush

MakeDomain = Callable[[int], Domain]
MakePlane = Callable[..., Plane]


def transit(n: int, to: int, host: int = 1) -> PrefixEntry:
    """Gateway n's prefix, host at gateway ``to``, we in between."""
    return PrefixEntry(prefix(n, host), Role.TRANSIT, None, gateway_address(to), gateway_address(n))


class Between:
    """Anchor 1 and serving gateway 2 know gateway 3 only, which has no access interface."""

    def __init__(self, domain: Domain, make_plane: MakePlane, path_mtu: int = 1500) -> None:
        self.domain = domain
        middle = gateway_address(3)
        self.planes = {n: make_plane(domain, n, peers=(middle,)) for n in (1, 2)}
        domain.gateways[3].run(f"ip -6 route replace default via 2001:db8:f3::ffff mtu {path_mtu}")
        self.planes[3] = make_plane(domain, 3, access=())
        self.host, self.address = self.arrive(1)

    def arrive(self, number: int) -> tuple[Namespace, IPv6Address]:
        """One more host of anchor 1 at gateway 2; what the three declare."""
        host, key = self.domain.host(f"mn{number}", "br-gw2"), f"mn{number}"
        here = (anchored(2, number), replace(imported(1, number), peer=gateway_address(3)))
        assert self.planes[2].declare(host, *here, key=key) is None
        assert self.planes[3].declare(None, transit(1, 2, number), key=key) is None
        assert self.planes[1].declare(None, exported(1, 3, number), key=key) is None
        address = give_address(host, 1, number)
        use_router(host, 1, number)
        return host, address

    def in_core(self, n: int, outer_source: object, packet: IPv6) -> None:
        """A tunnelled packet that comes to gateway n from the core."""
        outer = IPv6(src=str(outer_source), dst=str(gateway_address(n)))
        inject(self.domain.core, f"gw{n}", outer / packet, self.domain.gateways[n].mac("core0"))


@pytest.fixture
def between(make_domain: MakeDomain, make_plane: MakePlane) -> Between:
    return Between(make_domain(3), make_plane)


def tunnels(frames: list[bytes]) -> set[tuple[IPv6Address, IPv6Address]]:
    return {(IPv6Address(frame[22:38]), IPv6Address(frame[38:54])) for frame in frames}


def test_the_host_moves_on_and_the_middle_repoints_its_tunnel(make_domain: MakeDomain, make_plane: MakePlane) -> None:
    """In one step: every packet goes to the old gateway or to the new one."""
    between = Between(make_domain(4), make_plane)
    new = make_plane(between.domain, 4, peers=(gateway_address(3),))
    flow = Flow(udp(between.domain.cn, Domain.CN), udp(between.host, str(between.address))).start()
    between.domain.move("mn1", "br-gw4")
    before = between.planes[2].counters()["stale"]
    here = (anchored(4), replace(imported(1), peer=gateway_address(3)))
    assert new.declare(between.host, *here) is None
    towards = {n: Capture(between.domain.core, f"gw{n}") for n in (2, 4)}
    assert between.planes[3].declare(None, transit(1, 4)) is None
    use_router(between.host, 4)
    assert until(lambda: bool(towards[4].tunnelled()))
    towards[2].frames()
    assert reaches(between.host, Domain.CN)
    assert towards[2].tunnelled() == []
    flow.stop()
    counted = between.planes[3].counters()
    assert (counted["stale"], counted["unbound"], between.planes[2].counters()["stale"]) == (0, 0, before)
    for capture in towards.values():
        capture.close()


def test_both_directions_use_two_tunnels_in_series(between: Between) -> None:
    captures = {n: Capture(between.domain.core, f"gw{n}") for n in (1, 2, 3)}
    assert reaches(between.host, Domain.CN)
    assert reaches(between.domain.cn, between.address)
    one, two, middle = (gateway_address(n) for n in (1, 2, 3))
    assert tunnels(captures[1].tunnelled()) == {(one, middle), (middle, one)}
    assert tunnels(captures[2].tunnelled()) == {(two, middle), (middle, two)}
    inside = [frame[62:94] for frame in captures[3].frames() if frame[20] == 41]
    assert inside
    assert all(between.address.packed in (each[:16], each[16:]) for each in inside)
    for capture in captures.values():
        capture.close()


def test_two_hosts_of_one_anchor_at_one_gateway_talk(between: Between) -> None:
    _, address = between.arrive(2)
    assert reaches(between.host, address)


def test_two_hosts_of_the_middle_itself_at_one_gateway_talk(between: Between) -> None:
    """It anchors prefixes too: their packets come out of one tunnel and go back into it, and are no loop."""
    addresses = []
    for number in (2, 3):
        host, key = between.domain.host(f"mn{number}", "br-gw2"), f"mn{number}"
        assert between.planes[2].declare(host, anchored(2, number), imported(3, number), key=key) is None
        assert between.planes[3].declare(None, exported(3, 2, number), key=key) is None
        addresses.append(give_address(host, 3, number))
        use_router(host, 3, number)
    assert reaches(host, addresses[0])
    assert reaches(host, between.address)
    assert reaches(between.domain.cn, addresses[0])


def test_at_home_the_prefix_is_plain_again(between: Between) -> None:
    between.domain.move("mn1", "br-gw1")
    assert between.planes[1].declare(between.host, anchored(1)) is None
    assert between.planes[3].declare(None) is None
    assert reaches(between.host, Domain.CN)


@pytest.mark.parametrize(("middle", "lost"), [(1500, 1), (1400, 2)], ids=["1500-everywhere", "the-middle-is-narrower"])
def test_a_full_size_sender_loses_one_datagram_for_each_narrower_tunnel(
    make_domain: MakeDomain, make_plane: MakePlane, middle: int, lost: int
) -> None:
    """RFC 2473 section 7.1: Packet Too Big reaches the inner sender, from the middle too."""
    between = Between(make_domain(3), make_plane, middle)
    cn, to = between.domain.cn, IPv6Address(Domain.CN)
    for far in ((between.host, between.address, cn, to), (cn, to, between.host, between.address)):
        assert lost_of_full_datagrams(*far) == lost
        assert tcp_passes(*far, size=4_000_000)


def test_nothing_is_routed_plainly(between: Between) -> None:
    """A packet to the prefix that does not come out of a tunnel is none of ours: it goes where the core says."""
    on_core = Capture(between.domain.core, "gw3")
    packet = udp_to(between.address)
    inject(between.domain.core, "gw3", packet, between.domain.gateways[3].mac("core0"))
    mac = between.domain.gateways[3].mac("core0")
    assert until(lambda: any(f[6:12] == mac and f[20] == 17 for f in on_core.frames()))
    on_core.close()


def test_a_stale_packet_is_dropped_and_counted(between: Between) -> None:
    """The middle was told that the host left, its neighbours were not."""
    assert between.planes[3].declare(None) is None
    between.planes[3].settle()
    between.in_core(3, gateway_address(1), udp_to(between.address))
    between.in_core(3, gateway_address(2), udp_to(Domain.CN, between.address))
    assert until(lambda: between.planes[3].counters()["stale"] == 2)


def test_a_stale_packet_at_the_serving_gateway_is_dropped_and_counted(between: Between) -> None:
    assert between.planes[2].declare(None) is None
    between.planes[2].settle()
    on_core = Capture(between.domain.core, "gw2")
    between.in_core(3, gateway_address(1), udp_to(between.address))
    assert until(lambda: between.planes[2].counters()["stale"] == 1)
    assert len(on_core.tunnelled()) == 1
    on_core.close()


def test_a_looping_packet_is_dropped_and_counted(between: Between) -> None:
    """A host in transit writes to one that left: the anchor and the middle each believe it is with the other."""
    between.arrive(2)
    assert between.planes[3].declare(None, key="mn2") is None
    between.planes[3].settle()
    at_anchor = Capture(between.domain.core, "gw1")
    between.in_core(3, gateway_address(2), udp_to(prefix(1, 2)[5], between.address))
    assert until(lambda: between.planes[3].counters()["stale"] == 1)
    assert len(at_anchor.tunnelled()) == 2, "once there and once back"
    at_anchor.close()


def test_a_packet_never_goes_back_where_it_came_from(between: Between) -> None:
    on_core = Capture(between.domain.core, "gw2")
    between.in_core(3, gateway_address(2), udp_to(between.address))
    assert until(lambda: between.planes[3].counters()["stale"] == 1)
    assert on_core.tunnelled() == []
    on_core.close()


def test_a_strangers_packet_is_dropped_and_counted(between: Between) -> None:
    on_core = Capture(between.domain.core, "gw2")
    between.in_core(3, "2001:db8:bad::1", udp_to(between.address))
    assert until(lambda: between.planes[3].counters()["foreign"] == 1)
    between.in_core(3, gateway_address(2), udp_to(Domain.CN, "2001:db8:a1:77::1"))
    assert until(lambda: between.planes[3].counters()["stale"] == 1)
    assert on_core.tunnelled() == []
    on_core.close()


def test_a_restart_takes_over_and_an_audit_finds_nothing(between: Between) -> None:
    plane = between.planes[3]
    plane.restart()
    assert reaches(between.host, Domain.CN)
    assert plane.declare(None, transit(1, 2)) is None
    assert plane.sweep() is None
    assert plane.audit() is None
    assert plane.counters()["repairs"] == 0
    assert reaches(between.host, Domain.CN)


def test_flush_leaves_nothing(between: Between) -> None:
    plane = between.planes[3]
    plane.forwarding.stop()
    counts = plane.namespace.call(flush)
    assert counts["routes"] >= 5
    assert plane.namespace.json("-6 route show table all proto 201") == []
    assert plane.namespace.run("nft list tables") == ""


@pytest.mark.parametrize("anchor", [None, gateway_address(2)], ids=["no-anchor", "the-peer-again"])
def test_a_transit_without_two_ends_is_refused(between: Between, anchor: IPv6Address | None) -> None:
    said = between.planes[3].declare(None, replace(transit(1, 2), anchor=anchor))
    assert said is not None
    assert "an anchor other than the peer" in said
