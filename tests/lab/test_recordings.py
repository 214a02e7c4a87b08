"""Recordings of real daemons: fed in again, each comes to the same."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from lab_scenes import ANCHORD, MODES, binding, move, show, topology, usable_address, wait_for

from anchord.cli import main
from anchord.lab import config_files
from anchord.lab.domain import Domain
from anchord.lab.errors import LabError

ROLES = {"cmd": "central", "gw1": "gateway", "gw2": "gateway"}


def is_ready(domain: Domain, node: str) -> bool:
    try:
        return bool(show(domain, node, "status")["ready"])
    except (LabError, OSError):
        return False


def record(domain: Domain, node: str, path: Path) -> None:
    """Kill a daemon, and start it again with a recording."""
    domain.kill(node)
    config = config_files.node_file(domain.directory, node)
    domain.popen(node, [ANCHORD, ROLES[node], "--config", str(config), "--record", str(path)])
    wait_for(lambda: is_ready(domain, node), f"{node} is ready")


def test_what_every_daemon_recorded_comes_out_again(lab_name: str, tmp_path: Path) -> None:
    with Domain.up(topology(2, {"mn1": "gw1"}, **MODES["proxy"]), lab_name) as domain:
        usable_address(domain, "mn1", "gw1")
        for node in ROLES:
            record(domain, node, tmp_path / node)
        move(domain, "mn1", "gw2")
        usable_address(domain, "mn1", "gw2")
        move(domain, "mn1", "gw1")
        row = binding(domain, "cmd", "mn1")
        assert row is not None and len(row["anchors"]) == 1  # gw2, besides the one that serves
    for node in ROLES:
        lines = [json.loads(line) for line in (tmp_path / node).read_text().splitlines()]
        done = [line.get("do") for line in lines]
        assert "restore" in done and "handle" in done
        assert any(output["type"] == "Send" for line in lines for output in line.get("out", ()))
        told = CliRunner().invoke(main, ["replay", str(tmp_path / node)])
        assert told.exit_code == 0, f"{node}: {told.output}"
        assert "cut off" not in told.output
