"""A gateway that the CMD has not heard: because it alone cannot reach it, or because too many hosts came at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator

import pytest
from lab_scenes import MODES, Flow, binding, move, show, topology, usable_address, wait_for, with_node

from anchord.lab.domain import Domain
from anchord.lab.topology import Topology

LAB = f"anct-{os.getpid()}-unheard"
SOON_S = 3.0
REPEATED_S = 70.0  # MAX_BINDACK_TIMEOUT, and the pause after a host has not answered


@pytest.fixture
def lab_of() -> Iterator[Callable[[Topology], Domain]]:
    yield lambda wanted: Domain.up(wanted, LAB, owner_pid=os.getpid())
    Domain.take_down(LAB)


def beside(mode: str) -> Topology:
    """Three gateways that ask each other for hosts of which nothing is known."""
    plain = topology(3, {"mn1": "gw1"}, **MODES[mode])
    others = {name: [other for other in plain.gateways if other != name] for name in plain.gateways}
    gateways = {name: with_node(gateway, neighbours=others[name]) for name, gateway in plain.gateways.items()}
    return dataclasses.replace(plain, gateways=gateways)


def cut(domain: Domain, one: str, other: str) -> None:
    """Nothing passes between two nodes any more."""
    nodes = domain.topology.on_core()
    ends = [str(nodes[name].ip) for name in (one, other)]
    rules = [f"ip6 saddr {a} ip6 daddr {b} drop;" for a, b in (ends, reversed(ends))]
    table = ["table ip6 cut {", "chain forward {", "type filter hook forward priority 0;", *rules, "}", "}"]
    done = domain.exec("core", ["nft", "\n".join(table)])
    assert done.returncode == 0, done.stderr


def mend(domain: Domain) -> None:
    assert domain.exec("core", ["nft", "delete table ip6 cut"]).returncode == 0


def anchors(domain: Domain, node: str) -> list[str]:
    row = binding(domain, node, "mn1")
    names = {str(gateway.address): name for name, gateway in domain.topology.gateways.items()}
    return [] if row is None else sorted(names[anchor["gateway"]] for anchor in row["anchors"])


def state_at(domain: Domain, node: str) -> str | None:
    row = binding(domain, node, "mn1")
    return None if row is None else row["state"]


@pytest.mark.parametrize("mode", ["proxy", "relay", "locator"])
def test_sessions_that_began_at_a_gateway_without_its_cmd_live_through_the_next_move(
    lab_of: Callable[[Topology], Domain], mode: str
) -> None:
    domain = lab_of(beside(mode))
    first = usable_address(domain, "mn1", "gw1")
    cut(domain, "gw3", "cmd")
    move(domain, "mn1", "gw3")
    with Flow(domain, "mn1", first) as known, Flow(domain, "mn1", usable_address(domain, "mn1", "gw3")) as unknown:
        move(domain, "mn1", "gw2")
        known.wait_alive(timeout_s=SOON_S)
        unknown.wait_alive(timeout_s=SOON_S)
        assert anchors(domain, "gw2") == ["gw1", "gw3"] and state_at(domain, "gw3") == "away"
        wait_for(lambda: anchors(domain, "cmd") == ["gw1", "gw3"], "the CMD hears of gw3 from gw2")
        mend(domain)
        wait_for(lambda: not binding(domain, "cmd", "mn1")["unconfirmed"], "and from gw3", REPEATED_S)
        known.wait_alive()
        unknown.wait_alive()


def test_a_download_that_began_at_a_gateway_without_its_cmd_lives_through_the_next_move(
    lab_of: Callable[[Topology], Domain],
) -> None:
    """No packet of the host shows that address; but it sends everything to the router that it has from gw3."""
    domain = lab_of(beside("proxy"))
    first = usable_address(domain, "mn1", "gw1")
    cut(domain, "gw3", "cmd")
    move(domain, "mn1", "gw3")
    with (
        Flow(domain, "mn1", first) as known,
        Flow(domain, "mn1", usable_address(domain, "mn1", "gw3"), up=False) as download,
    ):
        move(domain, "mn1", "gw2")
        known.wait_alive(timeout_s=SOON_S)
        download.wait_alive(timeout_s=SOON_S)
        assert anchors(domain, "gw2") == ["gw1", "gw3"]
        wait_for(lambda: anchors(domain, "cmd") == ["gw1", "gw3"], "the CMD hears of gw3 from gw2")
    assert not [line for line in domain.log("gw3").read_text().splitlines() if "seen-in-two-places" in line]


@pytest.mark.long
def test_row_15_hosts_that_leave_before_their_first_pbu_does_are_not_drawn_back(
    lab_of: Callable[[Topology], Domain],
) -> None:
    hosts = {f"h{number}": "gw1" for number in range(7)}
    slow = dataclasses.replace(topology(2, hosts), domain={"limits": {"updates_per_s": 1}})
    domain = lab_of(slow)
    for host in hosts:
        domain.wait_served(host, "gw1", 30)
    assert not all(row["registered"] for row in show(domain, "gw1", "bindings")), "gw1 has not said all of it yet"
    for host in hosts:
        domain.move(host, "gw2")

    def settled() -> bool:
        rows = {node: show(domain, node, "bindings") for node in ("gw1", "gw2")}
        here = [row for row in rows["gw2"] if row["state"] == "serving" and row["registered"]]
        return len(here) == len(hosts) and all(row["state"] == "away" for row in rows["gw1"])

    wait_for(settled, "every host is served where it is, and nowhere else", 90)
    at = {row["serving"] for row in show(domain, "cmd", "bindings")}
    assert at == {str(domain.topology.gateways["gw2"].address)}
