"""A control plane that has never heard of PBUs (examples/json_control_plane): a JSON table drives forwarding and DLIFs.

Its gateways run in the lab's network instead of anchord's daemons. The host is unmodified, as everywhere.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from lab_scenes import (
    PATIENCE_S,
    Flow,
    address_of,
    correspondent,
    drained,
    frames_at,
    ip,
    routers,
    topology,
    usable_address,
    wait_for,
)

from anchord.lab.domain import Domain
from anchord.lab.errors import LabError
from anchord.lab.namespaces import inside
from anchord.lab.topology import Topology

EXAMPLE = Path(__file__).parents[2] / "examples" / "json_control_plane"
GATEWAYS = ("gw1", "gw2", "gw3")
HOST_MAC = "02:00:00:00:00:01"
MOBILITY_HEADER = 135


class Plane:
    """A lab under the table's control; all that the test does to the control plane is to replace the table."""

    def __init__(self, name: str, directory: Path) -> None:
        self.path = directory / "table.json"
        plain = topology(len(GATEWAYS), {"mn1": "gw1"})
        self.table: dict[str, Any] = {
            "gateways": {
                name: {"address": str(gateway.address), "pools": [str(pool) for pool in gateway.pools]}
                for name, gateway in plain.gateways.items()
            },
            "hosts": {"mn1": {"mac": HOST_MAC, "at": "gw1", "prefixes": [held("gw1")]}},
        }
        self.write()
        program = (sys.executable, str(EXAMPLE / "gateway.py"), "--table", str(self.path), "--gateway")
        self.domain = Domain.up(
            dataclasses.replace(
                plain,
                gateways={
                    name: dataclasses.replace(gateway, program=(*program, name))
                    for name, gateway in plain.gateways.items()
                },
                central=dataclasses.replace(plain.central, program=("sleep", "infinity")),
                hosts={"mn1": dataclasses.replace(plain.hosts["mn1"], mac=HOST_MAC)},
            ),
            name,
            owner_pid=os.getpid(),
        )

    def write(self, text: str | None = None) -> None:
        """Replace the table by what it should be now, or by ``text``."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.table) if text is None else text)
        new.replace(self.path)

    def move(self, gateway: str) -> None:
        """Move the host in the lab and in the table, where it gets a prefix of its new gateway."""
        host = self.table["hosts"]["mn1"]
        host["at"] = gateway
        if held(gateway) not in host["prefixes"]:
            host["prefixes"].append(held(gateway))
        self.domain.move("mn1", gateway)
        self.write()

    def said(self, gateway: str, what: str, times: int = 1) -> None:
        """Wait until a gateway has logged something so many times."""
        log = self.domain.log(gateway)
        wait_for(lambda: log.read_text().count(what) >= times, f"{gateway} said {what!r} {times} times")


def held(gateway: str) -> dict[str, str]:
    """The host's prefix of a gateway."""
    return {"prefix": f"2001:db8:a{gateway[2:]}:1::/64", "anchor": gateway}


@pytest.fixture
def plane(lab_name: str, tmp_path: Path) -> Iterator[Plane]:
    made = Plane(lab_name, tmp_path)
    yield made
    made.domain.down()


class Connection:
    """A TCP connection between the host's address and a server at the correspondent."""

    def __init__(self, domain: Domain, address: str) -> None:
        with inside(domain.namespace("cn1")):
            listener = socket.create_server((correspondent(domain), 0), family=socket.AF_INET6)
        with listener, inside(domain.namespace("mn1")):
            self._host = socket.create_connection(listener.getsockname()[:2], PATIENCE_S, (address, 0))
            self._other, _ = listener.accept()
        self._other.settimeout(PATIENCE_S)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._host.close()
        self._other.close()

    def talk(self) -> None:
        """A hundred kilobytes there, and as much back."""
        data = os.urandom(100_000)
        for sender, receiver in ((self._host, self._other), (self._other, self._host)):
            sender.sendall(data)
            got = b""
            while len(got) < len(data):
                got += receiver.recv(1 << 16)
            assert got == data


def test_a_host_roams_under_a_table_with_its_connections(plane: Plane) -> None:
    domain = plane.domain
    first = usable_address(domain, "mn1", "gw1")
    with (
        Flow(domain, "mn1", first) as flow,
        Connection(domain, first) as connection,
        frames_at(domain, "core", "core-gw1") as seen,
    ):
        tunnelled = 0
        for gateway in ("gw2", "gw3", "gw1", "gw2"):
            plane.move(gateway)
            flow.wait_alive()
            connection.talk()
            assert address_of(domain, "mn1", usable_address(domain, "mn1", gateway)).preferred
            headers = [frame[20] for frame in drained(seen) if frame[12:14] == b"\x86\xdd"]
            tunnelled += headers.count(41)
            assert MOBILITY_HEADER not in headers
    assert tunnelled > 0
    # One router for each anchor, and only that of the gateway it is at is not of low preference.
    shown = routers(domain, "mn1")
    assert sorted(preference for _, preference in shown.values()) == ["low", "low", "medium"]
    assert not address_of(domain, "mn1", first).preferred


def test_a_restarted_gateway_takes_over_and_answers_a_host_that_solicits(plane: Plane) -> None:
    domain = plane.domain
    plane.said("gw2", "ready")
    first = usable_address(domain, "mn1", "gw1")
    with Flow(domain, "mn1", first) as flow:
        plane.move("gw2")
        flow.wait_alive()
        domain.kill("gw2")
        flow.wait_alive()
        domain.start("gw2")
        plane.said("gw2", "ready", 2)
        flow.wait_alive()
    # As after a reboot: it has forgotten everything, and solicits.
    for change in ("down", "up"):
        domain.exec("mn1", ["ip", "link", "set", "eth0", change]).check_returncode()
    assert usable_address(domain, "mn1", "gw2")
    assert not address_of(domain, "mn1", first).preferred and len(routers(domain, "mn1")) == 2


def test_a_table_with_errors_changes_nothing(plane: Plane) -> None:
    domain = plane.domain
    first = usable_address(domain, "mn1", "gw1")
    with Flow(domain, "mn1", first) as flow:
        plane.write("{ half a table")
        plane.said("gw1", "the table in force stays")
        plane.table["hosts"]["mn1"]["at"] = "gw9"
        plane.write()
        plane.said("gw1", "hosts.mn1.at: no gateway 'gw9', expected one of gw1, gw2, gw3, or null")
        flow.wait_alive()
        plane.move("gw2")
        flow.wait_alive()


def test_nothing_is_left_of_a_host_that_is_taken_out(plane: Plane) -> None:
    domain = plane.domain
    usable_address(domain, "mn1", "gw1")
    plane.move("gw2")
    usable_address(domain, "mn1", "gw2")
    wait_for(lambda: len(routers(domain, "mn1")) == 2, "both routers were shown")
    assert prefixes_routed(domain, "gw1") and prefixes_routed(domain, "gw2")
    del plane.table["hosts"]["mn1"]
    plane.write()
    wait_for(lambda: not routers(domain, "mn1"), "the routers were withdrawn")
    assert not any(state.preferred for state in domain.host_addresses("mn1"))
    for gateway in ("gw1", "gw2"):
        wait_for(lambda node=gateway: not prefixes_routed(domain, node), f"nothing is routed at {gateway}")


def prefixes_routed(domain: Domain, gateway: str) -> list[str]:
    """The hosts' prefixes that a gateway has routes for, in whatever table."""
    routes = ip(domain, gateway, "route", "show", "table", "all")
    found = {route.get("from", route["dst"]) for route in routes}
    return sorted(dst for dst in found if dst.startswith("2001:db8:a") and IPv6Network(dst).prefixlen == 64)


def test_a_table_that_cannot_be_used_is_refused_at_start(plane: Plane) -> None:
    plane.table["hosts"]["mn1"]["prefixes"] += [{"prefix": "2001:db8:a2:7::/64", "anchor": "gw1"}]
    plane.table["hosts"]["mn2"] = {"mac": HOST_MAC, "at": None, "prefixes": []}
    plane.write()
    argv = [sys.executable, str(EXAMPLE / "gateway.py"), "--table", str(plane.path), "--gateway", "gw1"]
    done = plane.domain.exec("gw1", argv)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{plane.path}: hosts.mn1.prefixes: 2001:db8:a2:7::/64 is no /64 of a pool of gw1",
        f"{plane.path}: hosts.mn2.mac: {HOST_MAC} is that of mn1 already, expected another one",
    ]


def test_the_lab_says_that_it_knows_nothing_of_a_program(plane: Plane) -> None:
    assert plane.domain.topology.daemons() == []
    with pytest.raises(LabError, match="no control socket"):
        plane.domain.wait_served("mn1", "gw2", 1)


def test_a_topology_file_names_programs(tmp_path: Path) -> None:
    found = Topology.load(EXAMPLE / "lab.toml")
    assert found.daemons() == []
    assert Topology.from_plain(found.to_plain()) == found
    written = tmp_path / "lab.toml"
    written.write_text('[gateways.gw1]\nprogram = ["/bin/router", 1]\n')
    with pytest.raises(LabError, match=r"gateways\.gw1\.program"):
        Topology.load(written)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("*.py")), ids=lambda path: path.name)
def test_the_example_stands_on_the_layers_below_the_protocol(path: Path) -> None:
    allowed = {"declared", "kernel", "wire", "attachment"}
    used = {name.split(".")[1] for name in imported(path) if name.split(".")[0] == "anchord"}
    assert used and used <= allowed
