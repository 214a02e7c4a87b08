"""The CMD as relay and as locator (RFC 8885 sections 3.2, 3.3), with real daemons, some of which die."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from lab_scenes import Flow, binding, correspondent, move, ping, show, topology, usable_address, wait_for

from anchord.lab.domain import Domain

LAB = f"anct-{os.getpid()}-modes"
HOSTS = {"tour": "gw1", "waits": "gw1", "crash": "gw1"}


@pytest.fixture(scope="module", params=["relay", "locator"])
def lab(request: pytest.FixtureRequest) -> Iterator[Domain]:
    """Three gateways; every daemon runs again after each test."""
    settings = {
        "central": {"mode": request.param},
        "timers": {"initial_bindack_ms": 300, "max_bindack_ms": 600},  # nobody wants to wait for the back-off here
    }
    try:
        domain = Domain.up(topology(3, HOSTS, domain=settings), LAB, owner_pid=os.getpid())
        for host, gateway in HOSTS.items():
            usable_address(domain, host, gateway)
        yield domain
    finally:
        Domain.take_down(LAB)


def anchors(domain: Domain, node: str, host: str) -> set[str]:
    """The gateways that anchor what else a host holds, as a node knows them."""
    row = binding(domain, node, host)
    names = {str(gateway.address): name for name, gateway in domain.topology.gateways.items()}
    return set() if row is None else {names[anchor["gateway"]] for anchor in row["anchors"]}


def partial(domain: Domain) -> int:
    """How often the CMD has answered without having heard from every anchor."""
    count: int = show(domain, "cmd", "status")["counters"].get("gathering.partial", 0)
    return count


def test_row_13_16_a_tour_keeps_every_address_and_every_anchor_answers_in_time(lab: Domain) -> None:
    addresses = [usable_address(lab, "tour", "gw1")]
    with Flow(lab, "tour", addresses[0]) as flow:
        for gateway in ("gw2", "gw3", "gw1", "gw3"):
            move(lab, "tour", gateway)
            flow.wait_alive()
            addresses.append(usable_address(lab, "tour", gateway))
            row = binding(lab, gateway, "tour")
            assert row is not None and row["registered"]
    for address in addresses:
        ping(lab, "cn1", correspondent(lab), address)
    assert anchors(lab, "gw3", "tour") == anchors(lab, "cmd", "tour") == {"gw1", "gw2"}
    assert partial(lab) == 0


def test_row_13_an_anchor_whose_daemon_is_dead_delays_nobody_for_long_and_joins_when_it_lives(lab: Domain) -> None:
    old = usable_address(lab, "waits", "gw1")
    move(lab, "waits", "gw2")
    middle = usable_address(lab, "waits", "gw2")
    before = partial(lab)
    lab.kill("gw1")
    with Flow(lab, "waits", old) as flow, Flow(lab, "waits", middle) as other:
        move(lab, "waits", "gw3")
        other.wait_alive()
        wait_for(lambda: partial(lab) == before + 1, "the CMD answers without gw1")
        row = binding(lab, "cmd", "waits")
        assert row is not None and row["unconfirmed"] == [str(lab.topology.gateways["gw1"].address)]
        lab.start("gw1")
        flow.wait_alive()
    wait_for(lambda: anchors(lab, "gw3", "waits") == {"gw1", "gw2"}, "gw3 knows both anchors")


def test_a_cmd_killed_while_it_gathers_finds_its_way(lab: Domain) -> None:
    old = usable_address(lab, "crash", "gw1")
    move(lab, "crash", "gw2")
    lab.kill("gw1")
    with Flow(lab, "crash", old) as flow:
        lab.move("crash", "gw3")
        wait_for(lambda: anchors(lab, "cmd", "crash") == {"gw1", "gw2"}, "the CMD has heard of the move")
        lab.kill("cmd")
        lab.start("cmd")
        lab.start("gw1")
        flow.wait_alive()
    wait_for(lambda: anchors(lab, "gw3", "crash") == {"gw1", "gw2"}, "gw3 knows both anchors")
    wait_for(lambda: (binding(lab, "gw3", "crash") or {})["registered"], "gw3 has registered the host")
    wait_for(lambda: (binding(lab, "cmd", "crash") or {})["unconfirmed"] == [], "gw1 has answered the CMD as well")
