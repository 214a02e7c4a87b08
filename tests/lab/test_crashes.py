"""Daemons that are killed: what the kernel forwards goes on, what was promised is kept."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from lab_scenes import (
    ANCHORD,
    Flow,
    address_of,
    advertised_prefixes,
    binding,
    correspondent,
    drained,
    frames_at,
    ip,
    move,
    peer,
    ping,
    show,
    topology,
    usable_address,
    wait_for,
)

from anchord.lab.domain import Domain
from anchord.wire.frames import layer2_update_frame

LAB = f"anct-{os.getpid()}-crash"
HOSTS = {"mn1": "gw1", "mn2": "gw1", "mn3": "gw1", "mn4": "gw2", "many1": "gw1", "many2": "gw2", "gone": "gw3"}
ROUNDS = 8
NEW_HOSTS = 20  # a round


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    """Three gateways, each test with hosts of its own; every daemon runs again after each test."""
    try:
        timers = {"initial_bindack_ms": 300, "max_bindack_ms": 600}  # nobody wants to wait for the back-off here
        domain = Domain.up(topology(3, HOSTS, domain={"timers": timers}), LAB, owner_pid=os.getpid())
        for host in ("mn1", "mn2", "mn3", "mn4", "gone"):
            usable_address(domain, host, HOSTS[host])
        yield domain
    finally:
        Domain.take_down(LAB)


def restart(domain: Domain, node: str) -> None:
    domain.kill(node)
    domain.start(node)


def test_a_gateway_killed_and_started_again_loses_no_packet(lab: Domain) -> None:
    old = usable_address(lab, "mn1", "gw1")
    move(lab, "mn1", "gw2")
    new = usable_address(lab, "mn1", "gw2")
    with Flow(lab, "mn1", old) as tunnelled, Flow(lab, "mn1", new) as plain:
        for node in ("gw2", "gw1"):  # the serving one, then the anchor
            restart(lab, node)
            tunnelled.wait_alive()
            plain.wait_alive()
            # Nothing is left to do: what was declared again is what was there.
            assert show(lab, node, "status")["kernel"]["netlink_errors"] == 0
        assert tunnelled.lost() == {"up": [], "down": []}
        assert plain.lost() == {"up": [], "down": []}
        assert (tunnelled.up and tunnelled.up.refused, plain.up and plain.up.refused) == (0, 0)


def test_a_host_moves_on_from_a_gateway_that_was_restarted(lab: Domain) -> None:
    old = usable_address(lab, "mn2", "gw1")
    move(lab, "mn2", "gw2")
    restart(lab, "gw2")
    restart(lab, "gw1")
    with Flow(lab, "mn2", old) as flow:
        for gateway in ("gw3", "gw2", "gw1"):
            move(lab, "mn2", gateway)
            flow.wait_alive()


def test_a_gateway_is_dead_while_a_host_leaves_it(lab: Domain) -> None:
    """The new gateway needs only the anchor and the central database; the anchor learns of it when it is back."""
    old = usable_address(lab, "gone", "gw3")
    lab.kill("gw3")
    try:
        lab.move("gone", "gw1")
        lab.wait_served("gone", "gw1", timeout_s=5)
        usable_address(lab, "gone", "gw1")
    finally:
        lab.start("gw3")
    with Flow(lab, "gone", old) as flow:
        flow.wait_alive()


def test_decision_32_the_central_database_killed_and_started_again_finds_every_anchor(lab: Domain) -> None:
    old = usable_address(lab, "mn3", "gw1")
    move(lab, "mn3", "gw2")
    middle = usable_address(lab, "mn3", "gw2")
    restart(lab, "cmd")
    with Flow(lab, "mn3", old) as first, Flow(lab, "mn3", middle) as second:
        move(lab, "mn3", "gw3")
        first.wait_alive()
        second.wait_alive()
    row = binding(lab, "gw3", "mn3")
    assert row is not None and row["registered"]
    anchors = {anchor["gateway"]: anchor["prefixes"] for anchor in row["anchors"]}
    assert anchors == {
        str(lab.topology.gateways[gateway].address): [str(IPv6Network((address, 64), strict=False))]
        for gateway, address in (("gw1", old), ("gw2", middle))
    }


def test_attached_while_the_central_database_is_dead_a_host_is_registered_later(lab: Domain) -> None:
    old = usable_address(lab, "mn4", "gw2")
    lab.kill("cmd")
    try:
        lab.move("mn4", "gw3")
        lab.wait_served("mn4", "gw3", timeout_s=5)
        row = binding(lab, "gw3", "mn4")
        assert row is not None and not row["registered"] and row["anchors"] == []
    finally:
        lab.start("cmd")
    # The PBU is repeated until somebody answers; then the old prefix is known again, and brought back.
    wait_for(lambda: (row := binding(lab, "gw3", "mn4")) and row["registered"] and row["anchors"], "registered")
    wait_for(lambda: address_of(lab, "mn4", old).deprecated, "the host heard of its old router again")
    ping(lab, "cn1", correspondent(lab), old)


def test_killed_at_any_instant_a_gateway_never_gives_one_prefix_to_two_hosts(lab: Domain) -> None:
    draw = random.Random(8885)
    holders: dict[IPv6Network, bytes] = {}
    partly = 0
    with frames_at(lab, "many1", "eth0") as first, frames_at(lab, "many2", "eth0") as second:
        for number in range(ROUNDS):
            gateway = ("gw1", "gw2")[number % 2]
            macs = [bytes((2, 0x77, number)) + draw.randbytes(3) for _ in range(NEW_HOSTS)]
            killer = threading.Timer(draw.uniform(0, 0.06), lab.kill, (gateway,))  # it takes about 40 ms for all
            killer.start()
            for mac in macs:  # the hosts arrive at both gateways at once
                first.send(layer2_update_frame(mac))
                second.send(layer2_update_frame(mac))
            killer.join()
            shown = list(advertised_prefixes(drained(first) + drained(second)))
            pool = lab.topology.gateways[gateway].pools[0]
            partly += 0 < len({mac for mac, prefix in shown if prefix.subnet_of(pool)}) < NEW_HOSTS
            lab.start(gateway)
            for mac in macs:
                (first, second)[number % 2].send(layer2_update_frame(mac))
            wait_for(lambda: all_served(lab, macs), "every host is served somewhere")  # noqa: B023
            shown += advertised_prefixes(drained(first) + drained(second))
            for mac, prefix in shown:
                assert holders.setdefault(prefix, mac) == mac, f"{prefix} was advertised to two hosts"
    assert len(holders) >= ROUNDS * NEW_HOSTS
    assert partly, "no gateway was killed in the middle"
    check_prefixes_unique(lab)


def all_served(domain: Domain, macs: list[bytes]) -> bool:
    rows = [row for gateway in ("gw1", "gw2") for row in show(domain, gateway, "bindings")]
    serving = {row["mac"] for row in rows if row["state"] == "serving" and row["registered"]}
    return {mac.hex(":") for mac in macs} <= serving


def check_prefixes_unique(domain: Domain) -> None:
    """No two nodes disagree about whose a prefix is, and nobody holds one of another's pool."""
    holders: dict[str, str] = {}
    for node in domain.topology.daemons():
        for row in show(domain, node, "prefixes"):
            if row["mn_id"] is not None:
                assert holders.setdefault(row["prefix"], row["mn_id"]) == row["mn_id"], row["prefix"]
    leased = {name: 0 for name in domain.topology.gateways}
    for name, gateway in domain.topology.gateways.items():
        for row in show(domain, name, "prefixes"):
            mine = any(IPv6Network(row["prefix"]).subnet_of(pool) for pool in gateway.pools)
            assert mine or row["role"] == "imported"
            leased[name] += mine
    assert leased["gw1"] and leased["gw2"]


def test_flush_removes_everything_and_the_next_start_brings_it_back(lab: Domain) -> None:
    move(lab, "mn1", "gw3")
    assert ours(lab, "gw3")
    before = peer(lab, "gw3", "central")["messages_out"]
    assert before > 0
    refused = lab.exec("gw3", [ANCHORD, "flush"])
    assert refused.returncode == 1 and f"(pid {pid_of(lab, 'gw3')})" in refused.stderr
    lab.kill("gw3")
    done = lab.exec("gw3", [ANCHORD, "flush"])
    assert done.returncode == 0, done.stderr
    assert ours(lab, "gw3") == []
    assert [(rule["priority"], rule["table"]) for rule in ip(lab, "gw3", "rule")] == [(0, "local"), (32766, "main")]
    assert lab.exec("gw3", [ANCHORD, "flush"]).returncode == 0, "the second time there is nothing to do"
    lab.start("gw3")
    usable_address(lab, "mn1", "gw3")
    old = next(state.address for state in lab.host_addresses("mn1") if state.deprecated)
    ping(lab, "cn1", correspondent(lab), old)
    assert ours(lab, "gw3")


def pid_of(domain: Domain, node: str) -> int:
    return next(int(row["pid"]) for row in domain.ps() if row["node"] == node)


def test_a_second_daemon_in_the_namespace_of_another_sweeps_nothing(lab: Domain, tmp_path: Path) -> None:
    """Another state directory, so another store, and another control socket: only the forwarding is the same."""
    ping(lab, "mn1", usable_address(lab, "mn1", "gw3"), correspondent(lab))
    before = sorted(str(rule) for rule in ip(lab, "gw3", "rule"))
    second = tmp_path / "gw3.toml"
    lines = (lab.directory / "gw3.toml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("state", "run", "domain"))]
    moved = [f'domain = "{lab.directory}/domain.toml"', f'state = "{tmp_path}/state"', f'run = "{tmp_path}/run"']
    second.write_text("\n".join([*kept, *moved]))
    done = lab.exec("gw3", [ANCHORD, "gateway", "--config", str(second)])
    assert done.returncode == 1
    assert f"another anchord gateway runs in this network namespace (pid {pid_of(lab, 'gw3')})" in done.stderr
    assert sorted(str(rule) for rule in ip(lab, "gw3", "rule")) == before
    ping(lab, "mn1", usable_address(lab, "mn1", "gw3"), correspondent(lab))


def ours(domain: Domain, node: str) -> list[str]:
    """Everything of ours in the kernel of a node, as iproute2 and nft show it."""
    found = [row["ifname"] for row in ip(domain, node, "link") if row["ifname"].startswith(("an-", "dl"))]
    found += [str(row) for row in ip(domain, node, "rule") if row.get("protocol") == "201"]
    found += domain.exec(node, ["ip", "-6", "route", "show", "table", "all", "proto", "201"]).stdout.splitlines()
    found += [str(row) for row in ip(domain, node, "neigh", "show", "nud", "permanent")]
    found += [line for line in domain.exec(node, ["nft", "list", "tables"]).stdout.splitlines() if "anchord" in line]
    found += [row["ifname"] for row in ip(domain, node, "-d", "link") if row.get("promiscuity")]
    return found


def test_after_all_of_this_nobody_holds_anothers_prefix(lab: Domain) -> None:
    wait_for(lambda: all(row["alive"] for row in lab.ps()), "all daemons run")
    check_prefixes_unique(lab)
