"""Prefixes that are given up: because nobody uses them, and because a host holds too many."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network

import pytest
from lab_scenes import (
    MODES,
    Flow,
    binding,
    correspondent,
    datagram_socket,
    ip,
    move,
    ping,
    routers,
    show,
    topology,
    usable_address,
    wait_for,
    with_node,
)

from anchord.lab.domain import Domain
from anchord.lab.links import Links
from anchord.lab.topology import SWITCH, Topology

LAB = f"anct-{os.getpid()}-release"
IDLE_S = 3
AT_ONCE_S = 1.0
LIFETIMES = {"valid_s": 40, "preferred_s": 30, "router_s": 40, "advertise_every_s": 10}


@pytest.fixture
def lab_of() -> Iterator[Callable[[Topology], Domain]]:
    yield lambda wanted: Domain.up(wanted, LAB, owner_pid=os.getpid())
    Domain.take_down(LAB)


# docs/architecture.md, "The data plane": what comes out of tunnels, and what goes into them, down and up.
TUNNELLED = ("79", "81", "83")


def tunnelled(domain: Domain, node: str, prefix: IPv6Network) -> list[str]:
    """Every route of a node by which a prefix comes out of a tunnel or goes into one."""
    return [
        str(route)
        for table in TUNNELLED
        for route in ip(domain, node, "route", "show", "table", table)
        if str(prefix) in (route.get("dst"), route.get("from"))
    ]


@pytest.mark.parametrize("finder", ["central", "anchor-known"])
def test_an_unused_prefix_is_given_up_here_there_and_at_the_host(
    lab_of: Callable[[Topology], Domain], finder: str
) -> None:
    central = {} if finder == "central" else {"central": None}
    plain = topology(3, {"mn1": "gw1"}, finder=finder, **central)
    domain = lab_of(dataclasses.replace(plain, domain={"timers": {"idle_release_s": IDLE_S}, "lifetimes": LIFETIMES}))
    idle = usable_address(domain, "mn1", "gw1")
    prefix = IPv6Network((idle, 64), strict=False)
    row = binding(domain, "gw1", "mn1")
    assert row is not None
    router = row["router"]["address"]
    move(domain, "mn1", "gw2")
    used = usable_address(domain, "mn1", "gw2")
    move(domain, "mn1", "gw3")
    usable_address(domain, "mn1", "gw3")
    assert router in routers(domain, "mn1")
    with Flow(domain, "mn1", used):
        wait_for(lambda: binding(domain, "gw1", "mn1") is None, "gw1 gives up what nobody uses", 6 * IDLE_S)
        wait_for(lambda: router not in routers(domain, "mn1"), "the host forgets that router")
        wait_for(lambda: not tunnelled(domain, "gw3", prefix), "gw3 has no tunnel for it any more")
        assert not tunnelled(domain, "gw1", prefix)
        assert any(p["prefix"] == str(prefix) and p["state"] == "quarantined" for p in show(domain, "gw1", "prefixes"))
        # What is used stays.
        row = binding(domain, "gw3", "mn1")
        assert row is not None
        assert [anchor["gateway"] for anchor in row["anchors"]] == [str(domain.topology.gateways["gw2"].address)]
    # The host still has the address; whoever uses it hears at once that it leads nowhere.
    with datagram_socket(domain, "mn1", idle) as stuck:
        stuck.connect((correspondent(domain), 9))
        stuck.settimeout(5)
        with pytest.raises(OSError) as refused:
            for _ in range(5):
                stuck.send(b"anybody there?")
                time.sleep(0.05)  # the answer to a datagram is an error of the next call
        assert not isinstance(refused.value, TimeoutError)


@pytest.mark.parametrize("mode", ["proxy", "locator", "anchor-known"])
def test_a_stuck_connection_is_told_after_further_moves_and_back_at_the_anchor(
    lab_of: Callable[[Topology], Domain], mode: str
) -> None:
    settings = {"timers": {"idle_release_s": IDLE_S}, "lifetimes": {**LIFETIMES, "valid_s": 60, "router_s": 60}}
    plain = topology(3, {"mn1": "gw1"}, **{"finder": "central", **MODES[mode]})
    domain = lab_of(dataclasses.replace(plain, domain={**settings, **plain.domain}))
    idle = usable_address(domain, "mn1", "gw1")
    move(domain, "mn1", "gw2")
    used = usable_address(domain, "mn1", "gw2")
    with Flow(domain, "mn1", used):
        wait_for(lambda: binding(domain, "gw1", "mn1") is None, "gw1 gives up what nobody uses", 6 * IDLE_S)
        assert is_told(domain, idle)
        for gateway in ("gw3", "gw1"):
            move(domain, "mn1", gateway)
            usable_address(domain, "mn1", gateway)
            assert is_told(domain, idle), gateway


def is_told(domain: Domain, source: str) -> bool:
    """Whether a datagram of mn1 from ``source`` is answered by an error."""
    with datagram_socket(domain, "mn1", source) as stuck:
        stuck.connect((correspondent(domain), 9))
        stuck.settimeout(5)
        for _ in range(10):
            try:
                stuck.send(b"anybody there?")
            except TimeoutError:
                return False
            except OSError:
                return True
            time.sleep(0.05)  # the answer to a datagram is an error of the next call
    return False


def test_decision_20_the_end_of_a_session_reaches_an_anchor_that_was_unreachable_for_a_while(
    lab_of: Callable[[Topology], Domain],
) -> None:
    """Decision 20: the CMD says so again and again. Decision 19, the dead-man timer, is for a CMD that cannot."""
    brief = {"lifetimes": {**LIFETIMES, "binding_s": 12}, "timers": {"probe_after_s": 1}}
    brief["pmip"] = {"min_delay_before_bce_delete_ms": 100}
    domain = lab_of(dataclasses.replace(topology(2, {"mn1": "gw1"}), domain=brief))
    prefix = IPv6Network((usable_address(domain, "mn1", "gw1"), 64), strict=False)
    move(domain, "mn1", "gw2")
    usable_address(domain, "mn1", "gw2")
    domain.kill("gw1", signal.SIGSTOP)
    try:
        with Links(domain.namespace(SWITCH)) as links:
            links.set_up(links.get(domain.port("mn1")), up=False)
        wait_for(lambda: binding(domain, "cmd", "mn1") is None, "the session ends", 60)
        assert tunnelled(domain, "gw1", prefix), "gw1 does not know yet"
    finally:
        domain.kill("gw1", signal.SIGCONT)
    wait_for(lambda: binding(domain, "gw1", "mn1") is None, "gw1 hears of it", 40)
    wait_for(lambda: not tunnelled(domain, "gw1", prefix), "gw1 has no tunnel for it any more")


@pytest.mark.long
@pytest.mark.timeout(150)
def test_decision_19_an_anchor_that_nobody_reaches_any_more_ends_by_its_dead_man_timer(
    lab_of: Callable[[Topology], Domain],
) -> None:
    brief = {"lifetimes": {**LIFETIMES, "valid_s": 30, "preferred_s": 20, "binding_s": 12}}
    brief |= {"timers": {"probe_after_s": 1}, "pmip": {"min_delay_before_bce_delete_ms": 100}}
    domain = lab_of(dataclasses.replace(topology(2, {"mn1": "gw1"}), domain=brief))
    prefix = IPv6Network((usable_address(domain, "mn1", "gw1"), 64), strict=False)
    move(domain, "mn1", "gw2")
    usable_address(domain, "mn1", "gw2")
    alone = domain.topology.gateways["gw1"].address
    chain = ["type filter hook forward priority 0;", f"ip6 saddr {alone} drop", f"ip6 daddr {alone} drop"]
    done = domain.exec("core", ["nft", "\n".join(["table ip6 cut {", "chain forward {", *chain, "}", "}"])])
    assert done.returncode == 0, done.stderr
    with Links(domain.namespace(SWITCH)) as links:
        links.set_up(links.get(domain.port("mn1")), up=False)
    wait_for(lambda: binding(domain, "cmd", "mn1") is None, "the session ends", 30)
    assert tunnelled(domain, "gw1", prefix), "gw1 cannot know"
    wait_for(lambda: binding(domain, "gw1", "mn1") is None, "gw1 ends by itself", 45)
    wait_for(lambda: not tunnelled(domain, "gw1", prefix), "gw1 has no tunnel for it any more")
    wait_for(lambda: not show(domain, "gw1", "prefixes"), "the prefix is free again", 45)


def test_a_host_with_six_anchors_moves_and_every_address_lives(lab_of: Callable[[Topology], Domain]) -> None:
    domain = lab_of(topology(7, {"mn1": "gw1"}))
    addresses = []
    for number in range(1, 8):
        if number > 1:
            move(domain, "mn1", f"gw{number}")
        addresses.append(usable_address(domain, "mn1", f"gw{number}"))
    row = binding(domain, "gw7", "mn1")
    assert row is not None and len(row["anchors"]) == 6
    for address in addresses:
        ping(domain, "cn1", correspondent(domain), address)
    assert len(routers(domain, "mn1")) == 7


@pytest.mark.parametrize("mode", ["proxy", "anchor-known"])
def test_ten_gateways_in_two_minutes_and_always_an_address_that_works(
    lab_of: Callable[[Topology], Domain], mode: str
) -> None:
    """The budget of seven prefixes: a host with temporary addresses has no room for a ninth."""
    plain = topology(10, {"mn1": "gw1"}, **MODES[mode])
    others = {name: [other for other in plain.gateways if other != name][:8] for name in plain.gateways}
    gateways = {name: with_node(gateway, neighbours=others[name]) for name, gateway in plain.gateways.items()}
    plain = dataclasses.replace(plain, gateways=gateways)
    host = dataclasses.replace(plain.hosts["mn1"], sysctls={"use_tempaddr": 2})
    domain = lab_of(dataclasses.replace(plain, hosts={"mn1": host}))
    usable_address(domain, "mn1", "gw1")
    for number in range(2, 11):
        gateway = f"gw{number}"
        move(domain, "mn1", gateway)
        if number <= 7:
            usable_address(domain, "mn1", gateway)

        def reachable() -> bool:
            preferred = [state.address for state in domain.host_addresses("mn1") if state.preferred]
            done = domain.exec("mn1", ["ping", "-c1", "-W1", correspondent(domain)])
            return bool(preferred) and done.returncode == 0

        wait_for(reachable, f"at {gateway} a preferred address works", AT_ONCE_S)
        # And goes on working: once it has lost a packet, a host asks for its routers and uses one that answers.
        steady = domain.exec("mn1", ["ping", "-c10", "-i0.1", "-W1", correspondent(domain)])
        assert " 0% packet loss" in steady.stdout, f"at {gateway}: {steady.stdout}"
        held = {state.prefix for state in domain.host_addresses("mn1") if state.valid_s}
        assert len(held) <= 7, f"at {gateway} the host holds {len(held)} prefixes"
