"""Row 110: a path that is narrower than the links at its ends (RFC 5213 section 6.9.5, RFC 8201)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from bulk import lost_of_full_datagrams, tcp_passes
from namespaces import Domain, Namespace
from planes import Pair, Plane, gateway_address

NARROW = 1400
EXPIRES_S = 2


def narrow(pair: Pair, mtu: int, n: int = 2) -> None:
    """The core router has a narrow link to gateway n; both gateways' own links stay wide."""
    pair.domain.core.run(f"ip link set gw{n} mtu {mtu}")


def until(condition: Callable[[], bool], within_s: float = 5) -> bool:
    """Whether a condition comes true in time."""
    ends = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < ends:
        time.sleep(0.01)
    return met


def ways(pair: Pair) -> tuple[tuple[Namespace, IPv6Address], tuple[Namespace, IPv6Address]]:
    """Correspondent and host, each with its address."""
    return (pair.domain.cn, IPv6Address(Domain.CN)), (pair.host, pair.address)


def test_row_110_the_first_outer_packet_too_big_has_inner_senders_told(pair: Pair) -> None:
    """Downlink: the anchor's tunnel leads through the narrow link.

    The first datagram has no room in any tunnel on 1500-byte links, the second is lost on the path, the third is
    answered.
    """
    pair.hand_over()
    narrow(pair, NARROW)
    cn, host = ways(pair)
    assert lost_of_full_datagrams(*cn, *host, count=20) <= 3
    assert pair.planes[1].forwarding.tunnel_mtu == NARROW - 40
    links = ("an-up0", "an-up1", "an-dn0", "an-dn1")
    gateway = pair.planes[1].namespace
    assert {gateway.json(f"link show {name}")[0]["mtu"] for name in links} == {NARROW - 40}
    assert tcp_passes(*cn, *host, size=20_000_000)


@pytest.mark.parametrize("downlink", [True, False], ids=["downlink", "uplink"])
def test_row_110_tcp_that_meets_a_narrow_path_passes(pair: Pair, downlink: bool) -> None:
    """Both ends of the link are narrow: one gateway hears of it from the core router, the other from itself."""
    pair.hand_over()
    narrow(pair, NARROW)
    pair.planes[2].namespace.run(f"ip link set core0 mtu {NARROW}")
    cn, host = ways(pair)
    assert tcp_passes(*(cn if downlink else host), *(host if downlink else cn), size=20_000_000)
    assert pair.planes[1 if downlink else 2].forwarding.tunnel_mtu == NARROW - 40


def test_row_110_uplink_a_narrow_path_is_learnt_as_well(pair: Pair) -> None:
    """The serving gateway's tunnel leads through the narrow link."""
    pair.hand_over()
    narrow(pair, NARROW, n=1)
    cn, host = ways(pair)
    assert lost_of_full_datagrams(*host, *cn, count=20) <= 3
    assert pair.planes[2].forwarding.tunnel_mtu == NARROW - 40


def test_row_110_hosts_are_to_be_told_when_it_changes_and_what_access_links_carry(
    pair: Pair, make_plane: Callable[..., Plane]
) -> None:
    plane = pair.planes[1]
    plane.forwarding.stop()
    changed = threading.Event()
    plane.namespace.call(lambda: plane.forwarding.start(changed.set))
    pair.hand_over()
    plane.namespace.run("ip link set acc0 mtu 1450")
    assert plane.audit() is None
    assert changed.wait(5)
    assert (plane.forwarding.tunnel_mtu, plane.forwarding.host_mtu("acc0")) == (1460, 1450)
    changed.clear()
    narrow(pair, NARROW)
    cn, host = ways(pair)
    lost_of_full_datagrams(*cn, *host)
    assert changed.wait(5)
    assert plane.forwarding.host_mtu("acc0") == NARROW - 40
    assert plane.counters()["repairs"] == 0, "a change of ours is nobody's damage"


def test_row_110_what_was_learnt_expires(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8201 section 4: a path may become wider, and nothing but trying shows it."""
    monkeypatch.setattr("anchord.kernel.forwarding._MEASURE_EVERY_S", 0.1)
    pair.planes[1].namespace.run(f"sysctl -qw net.ipv6.route.mtu_expires={EXPIRES_S}")
    pair.hand_over()
    narrow(pair, NARROW)
    cn, host = ways(pair)
    lost_of_full_datagrams(*cn, *host)
    assert pair.planes[1].forwarding.tunnel_mtu == NARROW - 40
    narrow(pair, 1500)
    assert until(lambda: pair.planes[1].forwarding.tunnel_mtu == 1460, EXPIRES_S + 5)


def test_row_110_what_was_learnt_outlives_a_restart(pair: Pair) -> None:
    pair.hand_over()
    narrow(pair, NARROW)
    cn, host = ways(pair)
    lost_of_full_datagrams(*cn, *host)
    pair.planes[1].restart()
    assert pair.planes[1].forwarding.tunnel_mtu == NARROW - 40


def test_row_110_a_path_that_is_too_narrow_for_ipv6_in_a_tunnel_is_an_error_that_is_seen(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.hand_over()
    narrow(pair, 1300)
    cn, host = ways(pair)
    with caplog.at_level(logging.ERROR):
        lost_of_full_datagrams(*cn, *host)
        assert until(lambda: pair.planes[1].forwarding.too_narrow == (gateway_address(2),))
    forwarding = pair.planes[1].forwarding
    assert forwarding.tunnel_mtu == forwarding.host_mtu("acc0") == 1280
    said = [record.getMessage() for record in caplog.records if "too narrow" in record.getMessage()]
    assert len(said) == 1
    assert "1261 bytes and more are lost" in said[0] and "widen it to 1320" in said[0]
    assert f"peer={gateway_address(2)} mtu=1300" in said[0]
