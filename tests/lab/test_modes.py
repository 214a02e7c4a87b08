"""The CMD's modes with real daemons: relay and locator (RFC 8885 sections 3.2 and 3.3), also when an anchor is silent.

Proxy mode is what the other scenarios run in; the directory and domains without anything central have files of their
own.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab_scenes import Flow, address_of, binding, move, topology, usable_address, wait_for

from anchord.lab.domain import Domain

HOSTS = {"tour": "gw1", "partial": "gw1", "restart": "gw1"}


@pytest.fixture(scope="module", params=["relay", "locator"])
def lab(request: pytest.FixtureRequest) -> Iterator[Domain]:
    name = f"anct-{os.getpid()}-{request.param}"
    plain = topology(3, HOSTS)
    try:
        yield Domain.up(
            dataclasses.replace(plain, domain={"central": {"mode": request.param}}), name, owner_pid=os.getpid()
        )
    finally:
        Domain.take_down(name)


def anchors(domain: Domain, node: str, host: str) -> set[str]:
    row = binding(domain, node, host)
    return {anchor["gateway"] for anchor in row["anchors"]} if row and row["state"] in ("serving", "bound") else set()


def gateway_addresses(domain: Domain, *names: str) -> set[str]:
    return {str(domain.topology.gateways[name].address) for name in names}


def test_a_tour_keeps_every_address(lab: Domain) -> None:
    with ExitStack() as stack:
        flows: dict[str, Flow] = {}
        first = usable_address(lab, "tour", "gw1")
        for gateway in ("gw1", "gw2", "gw3", "gw1"):
            move(lab, "tour", gateway)
            current = usable_address(lab, "tour", gateway)
            for flow in flows.values():
                flow.wait_alive()
            if current not in flows:
                flows[current] = stack.enter_context(Flow(lab, "tour", current))
            assert {address for address in flows if address_of(lab, "tour", address).preferred} == {current}
        assert current == first
        assert anchors(lab, "gw1", "tour") == gateway_addresses(lab, "gw2", "gw3")
        row = binding(lab, "gw1", "tour")
        assert row is not None and row["registered"]


def test_an_anchor_that_is_silent_delays_the_others_by_the_gathering_alone_and_joins_when_it_answers(
    lab: Domain,
) -> None:
    """Row 13: partial answers after 100 ms, the rest later."""
    oldest = usable_address(lab, "partial", "gw1")
    move(lab, "partial", "gw2")
    newer = usable_address(lab, "partial", "gw2")
    with Flow(lab, "partial", newer) as lives, Flow(lab, "partial", oldest) as waits:
        lab.kill("gw1", signal.SIGSTOP)
        try:
            move(lab, "partial", "gw3")
            lives.wait_alive()
            assert anchors(lab, "gw3", "partial") == gateway_addresses(lab, "gw2")
        finally:
            lab.kill("gw1", signal.SIGCONT)
        waits.wait_alive(timeout_s=20)  # repetitions are a second and more apart
        assert anchors(lab, "gw3", "partial") == gateway_addresses(lab, "gw1", "gw2")


def test_a_cmd_that_is_killed_and_started_again_finds_every_anchor_at_the_next_handover(lab: Domain) -> None:
    oldest = usable_address(lab, "restart", "gw1")
    move(lab, "restart", "gw2")
    usable_address(lab, "restart", "gw2")
    with Flow(lab, "restart", oldest) as flow:
        lab.kill("cmd")
        lab.start("cmd")
        move(lab, "restart", "gw3")
        flow.wait_alive()
        both = gateway_addresses(lab, "gw1", "gw2")
        wait_for(lambda: anchors(lab, "gw3", "restart") == both, "gw3 knows both anchors")
        assert anchors(lab, "cmd", "restart") == both
