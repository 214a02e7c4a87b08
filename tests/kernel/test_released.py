"""Prefixes that were given up while their host may still use them."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable

import pytest
from namespaces import Capture, Domain, Flow, udp
from planes import (
    Pair,
    Plane,
    anchored,
    exported,
    gateway_address,
    give_address,
    imported,
    prefix,
    released,
    use_router,
)
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from test_traffic import reaches
from test_tunnels import inject, udp_to, until

MakeDomain = Callable[[int], Domain]
MakePlane = Callable[..., Plane]


def give_up(pair: Pair) -> None:
    """The host is at gateway 2, and what gateway 1 gave it is taken back on both."""
    pair.hand_over()
    give_address(pair.host, 2)
    use_router(pair.host, 2)
    assert reaches(pair.domain.cn, pair.address)
    assert pair.planes[2].declare(pair.host, released(1), anchored(2)) is None
    assert pair.planes[1].declare(None, released(1)) is None
    for plane in pair.planes.values():
        plane.settle()


def test_the_host_is_told_at_once(pair: Pair) -> None:
    """RFC 4443 section 3.1: destination unreachable, code 5, over the host's own link."""
    give_up(pair)
    at_host = Capture(pair.host, "eth0")
    with contextlib.closing(udp(pair.host, str(pair.address))) as stuck:
        stuck.connect((Domain.CN, 9))
        stuck.send(b"anybody there?")
        ended = select.poll()
        ended.register(stuck, 0)
        assert ended.poll(2000)
        with pytest.raises(PermissionError):
            stuck.recv(1)
    errors = [Ether(frame) for frame in at_host.frames() if frame[20] == 58 and frame[54] == 1]
    at_host.close()
    assert len(errors) == 1
    assert errors[0].dst == pair.host.mac("eth0").hex(":")
    assert errors[0][IPv6].dst == str(pair.address)
    assert errors[0][IPv6].src == str(gateway_address(2))
    assert errors[0][ICMPv6DestUnreach].code == 5
    assert pair.planes[2].counters()["released"] == 1


def test_the_hosts_other_prefix_goes_on(pair: Pair) -> None:
    give_up(pair)
    assert reaches(pair.host, Domain.CN)
    assert reaches(pair.domain.cn, prefix(2)[5])
    assert pair.planes[2].counters()["released"] == 0


def test_its_router_is_gone(pair: Pair) -> None:
    give_up(pair)
    assert list(pair.planes[2].forwarding.links) == [anchored(2).router.mac]


def test_who_sends_to_the_host_is_told_by_the_anchor(pair: Pair) -> None:
    give_up(pair)
    on_core = Capture(pair.domain.core, "gw1")
    assert "nreachable" in pair.domain.cn.run(f"ping -c 1 -W 2 {pair.address}", check=False)
    assert on_core.tunnelled() == []
    on_core.close()


def test_at_the_anchor_itself_the_host_is_told_too(pair: Pair) -> None:
    """It is back, with a new prefix, before the old one was given up."""
    assert pair.planes[1].declare(pair.host, anchored(1, 2), released(1)) is None
    pair.planes[1].settle()
    use_router(pair.host, 1, 2)
    with contextlib.closing(udp(pair.host, str(pair.address))) as stuck:
        stuck.connect((Domain.CN, 9))
        stuck.send(b"?")
        stuck.settimeout(2)
        with pytest.raises(PermissionError):
            stuck.recv(1)
    assert "nreachable" in pair.domain.cn.run(f"ping -c 1 -W 2 {pair.address}", check=False)


def test_without_any_router_of_the_host_its_packets_are_dropped(pair: Pair) -> None:
    """A stray frame to the access interface itself: there is nobody to tell, but it goes nowhere."""
    assert pair.planes[1].declare(pair.host, released(1)) is None
    pair.planes[1].settle()
    on_core = Capture(pair.domain.core, "gw1")
    inject(pair.host, "eth0", udp_to(Domain.CN, pair.address), pair.domain.gateways[1].mac("acc0"))
    assert until(lambda: pair.planes[1].counters()["released"] == 1)
    assert not [frame for frame in on_core.frames() if b"x" * 32 in frame]
    on_core.close()


def test_a_prefix_that_comes_back_is_served_again(pair: Pair) -> None:
    give_up(pair)
    assert pair.planes[2].declare(pair.host, anchored(2), imported(1)) is None
    assert pair.planes[1].declare(None, exported(1, to=2)) is None
    assert reaches(pair.domain.cn, pair.address)
    assert pair.planes[2].counters()["released"] == 0


def test_no_packet_is_misrouted_while_a_prefix_is_released(pair: Pair) -> None:
    """Packets go through the tunnel until they are refused; none leaves plainly or counts as unbound."""
    pair.hand_over()
    on_core = Capture(pair.domain.core, "gw2")
    flow = Flow(udp(pair.host, str(pair.address)), udp(pair.domain.cn, Domain.CN)).start()
    assert pair.planes[2].declare(pair.host, released(1), anchored(2)) is None
    assert until(lambda: pair.planes[2].counters()["released"] > 20)
    assert pair.planes[2].declare(pair.host, anchored(2), imported(1)) is None
    lost = flow.stop()
    counted = pair.planes[2].counters()
    assert len(lost) == counted["released"]
    assert counted["unbound"] == counted["stale"] == 0
    assert not [f for f in on_core.frames() if f[22:38] == pair.address.packed]
    on_core.close()


def test_a_restart_takes_over_and_an_audit_finds_nothing(pair: Pair) -> None:
    give_up(pair)
    for plane in pair.planes.values():
        plane.restart()
    assert pair.planes[2].declare(pair.host, released(1), anchored(2)) is None
    assert pair.planes[1].declare(None, released(1)) is None
    for plane in pair.planes.values():
        assert plane.sweep() is None
        assert plane.audit() is None
        assert plane.counters()["repairs"] == 0
