"""Networks that are reachable only behind one anchor, for its hosts that moved (RFC 8885 section 3.7)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv6Network

import pytest
from bulk import lost_of_full_datagrams, tcp_passes
from namespaces import Capture, Domain, Namespace, veth
from planes import Plane, anchored, exported, gateway_address, give_address, imported, prefix, use_router
from scapy.layers.inet6 import IPv6
from test_tunnels import inject, udp_to, until

MakeDomain = Callable[[int], Domain]
MakePlane = Callable[..., Plane]

NETWORK = IPv6Network("fd00:10c::/64")
SERVER = NETWORK[1]


class Behind:
    """Three gateways, a server that only gateway 1 reaches, a host that was at 1 and 3 and is at 2 now."""

    def __init__(self, domain: Domain, make_plane: MakePlane) -> None:
        self.domain = domain
        gateway = domain.gateways[1]
        self.server = domain.namespace("server")
        veth(gateway, "local0", self.server, "eth0")
        gateway.run(f"ip addr add {NETWORK[0xFFFF]}/64 dev local0 nodad")
        self.server.run(f"ip addr add {SERVER}/64 dev eth0 nodad")
        self.server.run(f"ip -6 route add default via {NETWORK[0xFFFF]}")
        # So that no answer can come but through the tunnel: the core knows nothing of the network.
        domain.core.run(f"ip -6 route add unreachable {NETWORK}")
        self.planes = {1: make_plane(domain, 1, core=("core0", "local0")), 2: make_plane(domain, 2)}
        self.planes[3] = make_plane(domain, 3)
        self.host = domain.host("mn1", "br-gw2")
        self.arrive()
        self.addresses = {n: give_address(self.host, n) for n in (1, 2, 3)}
        use_router(self.host, 2)

    def arrive(self, others: tuple[IPv6Network, ...] = (prefix(2), prefix(3))) -> None:
        """What the gateways declare when the host is at gateway 2."""
        here = (replace(imported(1), local_networks=(NETWORK,)), imported(3), anchored(2))
        assert self.planes[2].declare(self.host, *here) is None
        behind = replace(exported(1, to=2), local_networks=(NETWORK,), others=others)
        assert self.planes[1].declare(None, behind) is None
        assert self.planes[3].declare(None, exported(3, to=2)) is None


@pytest.fixture
def behind(make_domain: MakeDomain, make_plane: MakePlane) -> Behind:
    return Behind(make_domain(3), make_plane)


@contextlib.contextmanager
def nothing_plain(domain: Domain) -> Iterator[None]:
    """In it no packet to or from the network crosses the core but in a tunnel."""
    captures = [Capture(domain.core, f"gw{n}") for n in domain.gateways]
    yield
    for capture in captures:
        ends = [frame[22:54] for frame in capture.frames() if frame[12:14] == b"\x86\xdd"]
        assert not [end for end in ends if NETWORK.network_address.packed[:8] in (end[:8], end[16:24])]
        capture.close()


def pings(namespace: Namespace, to: object, source: object) -> bool:
    return ", 0% packet loss" in namespace.run(f"ping -n -c 2 -i 0.05 -W 2 -I {source} {to}", check=False)


@pytest.mark.parametrize("n", [1, 2, 3], ids=["its-anchors", "own", "a-third-gateways"])
def test_row_31_a_local_network_is_reached_from_every_source(behind: Behind, n: int) -> None:
    with nothing_plain(behind.domain):
        assert pings(behind.host, SERVER, behind.addresses[n])
        assert pings(behind.server, behind.addresses[n], SERVER)


def test_its_use_from_another_prefix_counts_as_activity(behind: Behind) -> None:
    """Whoever gives the anchor's prefix up takes the network away from the others."""
    assert prefix(2) not in behind.planes[1].forwarding.active_prefixes()
    assert pings(behind.host, SERVER, behind.addresses[2])
    assert prefix(2) in behind.planes[1].forwarding.active_prefixes()


def test_everything_else_goes_its_usual_way(behind: Behind) -> None:
    on_core = Capture(behind.domain.core, "gw1")
    assert pings(behind.host, Domain.CN, behind.addresses[2])
    assert pings(behind.host, Domain.CN, behind.addresses[3])
    assert on_core.tunnelled() == []
    on_core.close()


@pytest.mark.parametrize("n", [1, 2], ids=["its-anchors", "own"])
def test_a_full_size_sender_to_or_from_a_local_network_loses_its_first_datagram_only(behind: Behind, n: int) -> None:
    """RFC 2473 section 7.1: Packet Too Big reaches the inner sender."""
    for far in ((behind.host, behind.addresses[n], behind.server, SERVER),
                (behind.server, SERVER, behind.host, behind.addresses[n])):  # fmt: skip
        assert lost_of_full_datagrams(*far) == 1
        assert tcp_passes(*far, size=4_000_000)


def test_other_hosts_do_not_get_there(behind: Behind) -> None:
    other = behind.domain.host("mn2", "br-gw2")
    assert behind.planes[2].declare(other, anchored(2, 2), key="mn2") is None
    address = give_address(other, 2, 2)
    use_router(other, 2, 2)
    assert pings(other, Domain.CN, address)
    at_server = Capture(behind.server, "eth0")
    assert not pings(other, SERVER, address)
    assert not [frame for frame in at_server.frames() if frame[38:54] == SERVER.packed]
    at_server.close()


def test_a_prefix_that_the_anchor_was_not_told_of_is_dropped_and_counted(behind: Behind) -> None:
    behind.arrive(others=(prefix(3),))
    behind.planes[1].settle()
    assert not pings(behind.host, SERVER, behind.addresses[2])
    assert behind.planes[1].counters()["stale"] == 2
    assert pings(behind.host, SERVER, behind.addresses[3])


def test_two_prefixes_of_the_anchor_need_no_route_of_their_own(behind: Behind) -> None:
    """One of them named among the others of the other takes nothing away from it."""
    both = [
        replace(exported(1, to=2), local_networks=(NETWORK,), others=(prefix(1, 2), prefix(2))),
        replace(exported(1, to=2, host=2), local_networks=(NETWORK,), others=(prefix(1), prefix(2))),
    ]
    assert behind.planes[1].declare(None, *both) is None
    assert pings(behind.host, Domain.CN, behind.addresses[1])
    assert pings(behind.host, SERVER, behind.addresses[1])


def test_a_network_behind_two_anchors_is_reached_through_the_sources_own(behind: Behind) -> None:
    here = [replace(imported(n), local_networks=(NETWORK,)) for n in (3, 1)]
    assert behind.planes[2].declare(behind.host, *here, anchored(2)) is None
    assert pings(behind.host, SERVER, behind.addresses[1])
    assert not pings(behind.host, SERVER, behind.addresses[3]), "behind gateway 3 there is no such server"


def test_when_the_host_comes_home_its_connections_from_other_prefixes_go_on(behind: Behind) -> None:
    """Such packets would otherwise go to the anchor of their prefix, whose core does not know the network."""
    behind.domain.move("mn1", "br-gw1")
    home = (imported(2), imported(3), replace(anchored(1), local_networks=(NETWORK,)))
    assert behind.planes[1].declare(behind.host, *home) is None
    assert behind.planes[2].declare(None, exported(2, to=1)) is None
    assert behind.planes[3].declare(None, exported(3, to=1)) is None
    use_router(behind.host, 1)
    with nothing_plain(behind.domain):
        for address in behind.addresses.values():
            assert pings(behind.host, SERVER, address)
            assert pings(behind.server, address, SERVER)
    assert pings(behind.host, Domain.CN, behind.addresses[2])


def test_a_stale_packet_from_a_local_network_is_dropped_and_counted(behind: Behind) -> None:
    """The anchor still sends to a gateway that the host has left."""
    assert behind.planes[2].declare(None) is None
    behind.planes[2].settle()
    on_core = Capture(behind.domain.core, "gw2")
    inject(behind.server, "eth0", udp_to(behind.addresses[2], SERVER), behind.domain.gateways[1].mac("local0"))
    assert until(lambda: behind.planes[2].counters()["stale"] == 1)
    assert len(on_core.tunnelled()) == 1
    on_core.close()


def test_a_looping_packet_from_a_local_network_is_dropped_and_counted(behind: Behind) -> None:
    """Each of two gateways believes that the host is at the other."""
    assert behind.planes[2].declare(None, exported(2, to=1)) is None
    on_core = Capture(behind.domain.core, "gw2")
    inject(behind.server, "eth0", udp_to(behind.addresses[2], SERVER), behind.domain.gateways[1].mac("local0"))
    assert until(lambda: behind.planes[2].counters()["stale"] == 1)
    assert len(on_core.tunnelled()) == 1
    on_core.close()


def test_a_stranger_does_not_get_into_a_local_network(behind: Behind) -> None:
    at_server = Capture(behind.server, "eth0")
    forged = IPv6(src="2001:db8:bad::1", dst=str(gateway_address(1))) / udp_to(SERVER, behind.addresses[2])
    inject(behind.domain.core, "gw1", forged, behind.domain.gateways[1].mac("core0"))
    assert until(lambda: behind.planes[1].counters()["foreign"] == 1)
    of_peer = IPv6(src=str(gateway_address(2)), dst=str(gateway_address(1))) / udp_to(SERVER, "2001:db8:a2:99::1")
    inject(behind.domain.core, "gw1", of_peer, behind.domain.gateways[1].mac("core0"))
    assert until(lambda: behind.planes[1].counters()["stale"] == 1)
    assert not [frame for frame in at_server.frames() if frame[38:54] == SERVER.packed]
    at_server.close()


def test_what_is_declared_no_more_leaves_nothing(behind: Behind) -> None:
    for n, plane in behind.planes.items():
        assert plane.declare(None) is None
        plane.settle()
        left = [str(route) for route in plane.namespace.json("-6 route show table all proto 201")]
        assert left
        assert not [each for each in left for gone in (NETWORK, *map(prefix, behind.planes)) if str(gone) in each], n


def test_a_restart_takes_over_and_an_audit_finds_nothing(behind: Behind) -> None:
    for plane in behind.planes.values():
        plane.restart()
    behind.arrive()
    for plane in behind.planes.values():
        assert plane.sweep() is None
        assert plane.audit() is None
        assert plane.counters()["repairs"] == 0
    assert pings(behind.host, SERVER, behind.addresses[2])
