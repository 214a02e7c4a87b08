"""Nothing central: hosts roam while the CMD is dead, and in a domain that has none."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv6Network

import pytest
from lab_scenes import (
    ANCHORD,
    Flow,
    address_of,
    binding,
    correspondent,
    move,
    ping,
    show,
    topology,
    usable_address,
    wait_for,
    with_node,
)

from anchord.lab.domain import Domain
from anchord.lab.topology import Topology

LAB = f"anct-{os.getpid()}-alone"


def roaming(hosts: dict[str, str], **more: object) -> Topology:
    """Four gateways in a row; each asks those beside it for a host of which nothing is known."""
    plain = topology(4, hosts, **more)
    beside = {"gw1": ["gw2"], "gw2": ["gw1", "gw3"], "gw3": ["gw2", "gw4"], "gw4": ["gw3"]}
    gateways = {name: with_node(gateway, neighbours=beside[name]) for name, gateway in plain.gateways.items()}
    return dataclasses.replace(plain, gateways=gateways)


def anchors(domain: Domain, node: str, host: str) -> set[str]:
    """Whom a node knows to anchor something of a host; empty as long as it serves it not."""
    row = binding(domain, node, host)
    return {anchor["gateway"] for anchor in row["anchors"]} if row else set()


def gateway_addresses(domain: Domain, *names: str) -> set[str]:
    return {str(domain.topology.gateways[name].address) for name in names}


@pytest.fixture
def lab_of() -> Iterator[Callable[[Topology], Domain]]:
    def up(wanted: Topology) -> Domain:
        return Domain.up(wanted, LAB, owner_pid=os.getpid())

    yield up
    Domain.take_down(LAB)


def test_with_the_cmd_killed_a_download_on_the_oldest_prefix_lives_through_a_move(
    lab_of: Callable[[Topology], Domain],
) -> None:
    domain = lab_of(roaming({"mn1": "gw1"}))
    oldest = usable_address(domain, "mn1", "gw1")
    for gateway in ("gw2", "gw3"):
        move(domain, "mn1", gateway)
        usable_address(domain, "mn1", gateway)
    three = gateway_addresses(domain, "gw1", "gw2", "gw3")
    with Flow(domain, "mn1", oldest, up=False) as download:
        domain.kill("cmd")
        move(domain, "mn1", "gw4")
        download.wait_alive()
        wait_for(lambda: anchors(domain, "gw4", "mn1") == three, "gw4 found every anchor by itself")
        row = binding(domain, "gw4", "mn1")
        assert row is not None and not row["registered"]
        domain.start("cmd")

        def known() -> bool:
            row = binding(domain, "cmd", "mn1")
            return row is not None and row["serving"] == str(domain.topology.gateways["gw4"].address)

        wait_for(known, "the CMD learns where the host is", timeout_s=40)
        assert anchors(domain, "cmd", "mn1") == three
        assert anchors(domain, "gw4", "mn1") == three
        download.wait_alive()


@pytest.mark.parametrize("silent", [False, True], ids=["announced", "silent"])
def test_a_domain_without_anything_central_keeps_every_address_of_a_roaming_host(
    lab_of: Callable[[Topology], Domain], silent: bool
) -> None:
    domain = lab_of(roaming({"mn1": "gw1"}, finder="anchor-known", central=None))
    with ExitStack() as stack:
        flows: dict[str, Flow] = {}
        first = usable_address(domain, "mn1", "gw1")
        for gateway in ("gw1", "gw2", "gw3", "gw4", "gw1"):
            move(domain, "mn1", gateway, silent=silent)
            current = usable_address(domain, "mn1", gateway)
            for flow in flows.values():
                flow.wait_alive()
            if current not in flows:
                flows[current] = stack.enter_context(Flow(domain, "mn1", current))
            preferred = {address for address in flows if address_of(domain, "mn1", address).preferred}
            assert preferred == {current}
        assert current == first
        assert anchors(domain, "gw1", "mn1") == gateway_addresses(domain, "gw2", "gw3", "gw4")
    end_session(domain, "mn1", "gw1")


@pytest.mark.parametrize("finder", ["anchor-known", "directory"])
def test_row_1_51_an_anchor_that_lost_its_journal_gives_no_prefix_to_a_second_host(
    lab_of: Callable[[Topology], Domain], finder: str
) -> None:
    """Its pool has two prefixes, and a host that is elsewhere holds one of them."""
    plain = roaming({"mn1": "gw1", "late": "gw3", "later": "gw3"}, finder=finder, central=None)
    small = dataclasses.replace(plain.gateways["gw1"], pools=(IPv6Network("2001:db8:a1::/63"),))
    domain = lab_of(dataclasses.replace(plain, gateways={**plain.gateways, "gw1": small}))
    held = usable_address(domain, "mn1", "gw1")
    for host in ("late", "later"):
        usable_address(domain, host, "gw3")
    move(domain, "mn1", "gw2")
    row = binding(domain, "gw2", "mn1")
    assert row is not None
    with Flow(domain, "mn1", held) as flow:
        domain.kill("gw1")
        shutil.rmtree(domain.directory / "state" / "gw1")
        domain.start("gw1")
        flow.wait_alive()
        for host in ("late", "later"):
            domain.move(host, "gw1")
        wait_for(lambda: any(binding(domain, "gw1", host) for host in ("late", "later")), "one of them is served")
        leased = {row["prefix"]: row["mac"] for row in show(domain, "gw1", "bindings")}
        assert len(leased) == 2
        assert leased[str(IPv6Network((held, 64), strict=False))] == row["mac"]
        flow.wait_alive()


def test_row_1_51_without_its_journal_a_gateway_asks_its_kernel_whose_its_prefixes_are(
    lab_of: Callable[[Topology], Domain],
) -> None:
    """One of its two prefixes is with a host that stays there, the other with one that nobody can speak for."""
    plain = roaming({"stays": "gw1", "gone": "gw1", "late": "gw3"}, finder="anchor-known", central=None)
    small = dataclasses.replace(plain.gateways["gw1"], pools=(IPv6Network("2001:db8:a1::/63"),))
    domain = lab_of(dataclasses.replace(plain, gateways={**plain.gateways, "gw1": small}))
    held = usable_address(domain, "stays", "gw1")
    usable_address(domain, "gone", "gw1")
    usable_address(domain, "late", "gw3")
    move(domain, "gone", "gw2")
    row = binding(domain, "gw1", "stays")
    assert row is not None
    domain.kill("gw2", signal.SIGSTOP)
    try:
        domain.kill("gw1")
        shutil.rmtree(domain.directory / "state" / "gw1")
        domain.start("gw1")
        domain.move("late", "gw1")
        wait_for(lambda: show(domain, "gw1", "status")["counters"].get("limit.pool"), "no prefix for another host")
        domain.exec("stays", ["ping", "-c1", "-W1", "-I", held, correspondent(domain)])  # its next frame
        domain.wait_served("stays", "gw1", 10)
        ping(domain, "stays", held, correspondent(domain))
        after = binding(domain, "gw1", "stays")
        assert after is not None and after["prefix"] == row["prefix"]
        assert binding(domain, "gw1", "late") is None
    finally:
        domain.kill("gw2", signal.SIGCONT)


def end_session(domain: Domain, host: str, serving: str) -> None:
    """As its administrator would, at the only gateway that can."""
    name = domain.host_mac(host).hex(":")
    for node in ("gw2", serving):
        done = domain.exec(node, [ANCHORD, "revoke", name, "--socket", str(domain.control(node))])
        assert (done.returncode, done.stdout) == ((0, f"revoked: {name}\n") if node == serving else (1, ""))
    nodes = domain.topology.daemons()
    wait_for(lambda: not any(binding(domain, node, host) for node in nodes), "no session anywhere")
