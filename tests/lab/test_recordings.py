"""Recordings of real daemons in every mode and role, killed and started again: fed in again, each comes to the same."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lab_scenes import ANCHORD, MODES, binding, move, show, topology, usable_address, wait_for

from anchord.cli import main
from anchord.lab.domain import Domain
from anchord.lab.topology import Kind, Topology, numbered_lma

MAC = "02:00:00:00:00:01"
OWNERS = {"gw1": "a", "gw2": "b"}
SHORT = {
    "lifetimes": {"binding_s": 12, "valid_s": 30, "preferred_s": 20, "router_s": 30, "advertise_every_s": 5},
    "pmip": {"min_delay_before_bce_delete_ms": 500},
    "timers": {"probe_after_s": 1},
}


def between(**domain: Any) -> Topology:
    """Gateways of two operators with an LMA between them, which is also the LMA of mn2's plain PMIPv6."""
    plain = topology(2, {"mn1": "gw1", "mn2": "gw1"})
    return dataclasses.replace(
        plain,
        gateways={name: dataclasses.replace(node, operator=OWNERS[name]) for name, node in plain.gateways.items()},
        hosts={**plain.hosts, "mn2": dataclasses.replace(plain.hosts["mn2"], mac=MAC)},
        central=None,
        lmas={"home": dataclasses.replace(numbered_lma("home", 1), operators=("a", "b"))},
        domain={**domain, "policy": [{"hosts": [MAC], "lma": "home"}]},
    )


def start_again(domain: Domain, node: str) -> None:
    """After ``kill -9``."""
    domain.kill(node)
    domain.start(node)


def daemons(domain: Domain) -> list[str]:
    """Those with a protocol object: the directory has none."""
    kinds = domain.topology.nodes()
    return [node for node, kind in kinds.items() if kind.is_daemon and kind is not Kind.DIRECTORY]


def anchors(domain: Domain, node: str, host: str) -> int:
    """How many a node knows."""
    row = binding(domain, node, host)
    return 0 if row is None else len(row["anchors"])


def revoke(domain: Domain, node: str, host: str) -> None:
    """An operator ends a host's session."""
    name = domain.host_mac(host).hex(":")
    done = domain.exec(node, [ANCHORD, "revoke", name, "--socket", str(domain.control(node))])
    assert done.returncode == 0, done.stderr
    wait_for(lambda: binding(domain, node, host) is None, f"{node} has forgotten {host}")


def read(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text().splitlines())


def comes_out_again(path: Path, starts: int) -> Counter[str]:
    """What was done to a node, and what it put out, by kind."""
    seen: Counter[str] = Counter()
    for line in read(path):
        seen[line.get("do", "start" if "role" in line else "answer")] += 1
        seen.update(output["type"] for output in line.get("out", ()))
    assert seen["start"] == seen["restore"] == starts
    assert seen["handle"] and seen["timers"] and seen["Send"]
    told = CliRunner().invoke(main, ["replay", str(path)])
    assert told.exit_code == 0, f"{path.name}: {told.output}"
    assert ", 0 inputs answered differently" in told.output
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_what_every_daemon_recorded_comes_out_again(lab_name: str, tmp_path: Path, mode: str) -> None:
    with Domain.up(topology(3, {"mn1": "gw1"}, **MODES[mode]), lab_name, recordings=tmp_path) as domain:
        nodes = daemons(domain)
        central = "cmd" if "cmd" in nodes else None
        domain.wait_served("mn1", "gw1", 10)
        for gateway in ("gw2", "gw3"):
            move(domain, "mn1", gateway)
        usable_address(domain, "mn1", "gw3")
        again = {"gw1", "gw3", central} - {None}
        for node in sorted(again):  # an anchor, the serving gateway, and who knows them all
            start_again(domain, node)
        move(domain, "mn1", "gw1")
        for node in ("gw1", central) if central else ("gw1",):
            wait_for(lambda node=node: anchors(domain, node, "mn1") == 2, f"{node} knows both anchors")
        if central:
            revoke(domain, "cmd", "mn1")
            wait_for(lambda: binding(domain, "gw1", "mn1") is None, "gw1 has ended the session")
    for node in nodes:
        seen = comes_out_again(tmp_path / node, starts=2 if node in again else 1)
        assert node == central or (seen["Declare"] and seen["Advertise"])
        assert seen["revoke"] == (node == central)
        assert bool(seen["DirectoryGet"]) == (mode == "directory")


def test_what_an_lma_recorded_comes_out_again(lab_name: str, tmp_path: Path) -> None:
    with Domain.up(between(), lab_name, recordings=tmp_path) as domain:
        for host in ("mn1", "mn2"):
            domain.wait_served(host, "gw1", 10)
            move(domain, host, "gw2")
        start_again(domain, "home")
        start_again(domain, "gw2")
        for host in ("mn1", "mn2"):
            move(domain, host, "gw1")
        roles = {row["role"] for row in show(domain, "home", "prefixes")}
        assert "exported" in roles and len(roles) > 1, roles  # the plain host's, and those between operators
        for host in ("mn1", "mn2"):
            revoke(domain, "home", host)
    assert comes_out_again(tmp_path / "home", starts=2)["revoke"] == 2
    comes_out_again(tmp_path / "gw1", starts=1)
    comes_out_again(tmp_path / "gw2", starts=2)


@pytest.mark.long
@pytest.mark.parametrize("mode", [*MODES, "lma"])
def test_what_was_recorded_until_hosts_had_left_comes_out_again(lab_name: str, tmp_path: Path, mode: str) -> None:
    """Hosts are gone without a word: every session ends by lifetime, and the host is asked before."""
    plain = between(**SHORT) if mode == "lma" else topology(2, {"mn1": "gw1"}, **MODES[mode])
    short = dataclasses.replace(plain, domain={**plain.domain, **SHORT})
    with Domain.up(short, lab_name, recordings=tmp_path) as domain:
        nodes = daemons(domain)
        for host in domain.topology.hosts:
            domain.wait_served(host, "gw1", 10)
            move(domain, host, "gw2")
        usable_address(domain, "mn1", "gw2")  # it has shown an address, which it can be asked for
        for host in domain.topology.hosts:
            assert domain.exec(host, ["ip", "link", "set", "eth0", "down"]).returncode == 0
        for node in nodes:
            wait_for(lambda node=node: not show(domain, node, "bindings"), f"{node} has forgotten all hosts", 60)
    asked = sum(comes_out_again(tmp_path / node, starts=1)["Probe"] for node in nodes)
    assert asked
