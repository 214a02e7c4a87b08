"""Which prefixes are in use, as an anchor asks before it gives one up."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from namespaces import Domain, udp
from planes import Pair, Plane, exported, prefix
from test_traffic import reaches
from test_tunnels import until

MakeDomain = Callable[[int], Domain]
MakePlane = Callable[..., Plane]
IDLE_S = 2


@pytest.fixture
def moved(make_domain: MakeDomain, make_plane: MakePlane) -> Pair:
    """A host that moved, on gateways that forget after two seconds and have been watching for that long."""
    domain = make_domain(2)
    pair = Pair(domain, {n: make_plane(domain, n, idle_s=IDLE_S) for n in (1, 2)})
    pair.hand_over()
    assert until(lambda: not pair.planes[1].forwarding.active_prefixes(), within_s=4 * IDLE_S)
    return pair


def test_without_a_packet_it_counts_as_active_until_it_was_watched_for_long_enough(pair: Pair) -> None:
    assert pair.planes[1].forwarding.active_prefixes() == set()
    pair.hand_over()
    assert pair.planes[1].forwarding.active_prefixes() == {prefix(1)}


def test_a_packet_downwards_makes_a_prefix_active(moved: Pair) -> None:
    with udp(moved.domain.cn, Domain.CN) as sender:
        sender.sendto(b"x", (str(moved.address), 9))
    assert until(lambda: moved.planes[1].forwarding.active_prefixes() == {prefix(1)})


def test_a_packet_upwards_makes_a_prefix_active(moved: Pair) -> None:
    with udp(moved.host, str(moved.address)) as sender:
        sender.sendto(b"x", (Domain.CN, 9))
    assert until(lambda: moved.planes[1].forwarding.active_prefixes() == {prefix(1)})


def test_it_stays_so_while_packets_go_and_no_longer(moved: Pair) -> None:
    plane = moved.planes[1].forwarding
    ends = time.monotonic() + 2 * IDLE_S
    while time.monotonic() < ends:
        assert reaches(moved.domain.cn, moved.address)
        assert plane.active_prefixes() == {prefix(1)}
    assert until(lambda: not plane.active_prefixes(), within_s=4 * IDLE_S)


def test_a_restart_forgets_nothing(moved: Pair) -> None:
    assert reaches(moved.domain.cn, moved.address)
    moved.planes[1].restart()
    assert moved.planes[1].forwarding.active_prefixes() == {prefix(1)}


def test_after_the_packet_filter_was_replaced_nothing_counts_as_idle_too_early(moved: Pair) -> None:
    plane = moved.planes[1]
    assert plane.forwarding.active_prefixes() == set()
    plane.namespace.run("nft delete table inet anchord")
    assert plane.audit() is None
    assert plane.forwarding.active_prefixes() == {prefix(1)}


def test_a_host_at_its_anchor_uses_no_tunnel(moved: Pair) -> None:
    """The serving gateway knows nothing of its visitor's prefix either: it does not decide about it."""
    assert reaches(moved.domain.cn, moved.address)
    assert moved.planes[2].forwarding.active_prefixes() == set()


def test_many_are_read(moved: Pair) -> None:
    """The list comes in several parts."""
    hosts = [exported(1, to=2, host=number) for number in range(0x100, 0x300)]
    assert moved.planes[1].declare(None, exported(1, to=2), *hosts) is None
    with udp(moved.domain.cn, Domain.CN) as sender:
        for each in hosts:
            sender.sendto(b"x", (str(each.prefix[5]), 9))
    assert until(lambda: moved.planes[1].forwarding.active_prefixes() >= {each.prefix for each in hosts})


def test_before_it_starts_nothing_is_active(make_domain: MakeDomain) -> None:
    assert Plane(make_domain(1), 1).forwarding.active_prefixes() == set()
