"""``anchord lab`` as its user sees it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from anchord.lab import state

TOPOLOGY = """
[gateways.gw1]
access = ["a", "b"]
[gateways.gw2]
[hosts.mn1]
at = "gw1"
"""


def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.prefix, "bin", "anchord")), "lab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_whole_life(lab_name: str, tmp_path: Path) -> None:
    path, name = tmp_path / "lab.toml", ("--name", lab_name)
    path.write_text(TOPOLOGY)

    refused = lab("up", str(path), *name, "--record", str(path))
    assert (refused.returncode, refused.stderr) == (
        1,
        f"anchord: {path}: File exists, expected a directory for recordings\n",
    )
    recordings = tmp_path / "new" / "recordings"
    up = lab("up", str(path), *name, "--json", "--record", str(recordings))
    assert up.returncode == 0, up.stderr
    record = json.loads(up.stdout)
    assert record["points"]["access-gw1-b"] == [f"anchord-{lab_name}-sw", "p-gw1-b"]

    listed = {row["name"]: row for row in json.loads(lab("list", "-j").stdout)}
    assert listed[lab_name]["ready"] and not listed[lab_name]["stale"]

    ps = lab("ps", *name)
    assert ps.stdout.split()[:4] == ["NODE", "KIND", "PID", "ALIVE"] and "gw1" in ps.stdout
    rows = json.loads(lab("ps", "-j", *name).stdout)
    assert rows == record["nodes"] and all(row["alive"] for row in rows)

    moved = lab("move", "mn1", "gw2", "--wait", "--json", *name)
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout)["served"] is True
    for how in (("--silent",), ("--flap", "50"), ("--access", "b", "--wait")):
        assert lab("move", "mn1", "gw1", *how, *name).stdout.startswith("mn1 is at gw1")

    assert lab("exec", "mn1", *name, "--", "sh", "-c", "exit 5").returncode == 5
    assert lab("exec", *name, "mn1", "--", "cat", "/sys/class/net/eth0/operstate").stdout == "up\n"
    assert lab("exec", "mn1", *name, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    missing = lab("exec", "mn1", *name, "--", "no-such-command")
    assert (missing.returncode, missing.stderr) == (127, "anchord: no-such-command: command not found\n")
    no_program = lab("exec", "mn1", *name, "--", str(path))
    assert (no_program.returncode, no_program.stderr) == (126, f"anchord: {path}: cannot be executed\n")

    before = {row["node"]: row["pid"] for row in rows}
    assert lab("kill", "gw2", *name).returncode == 0
    assert [row["node"] for row in json.loads(lab("ps", "-j", *name).stdout) if not row["alive"]] == ["gw2"]
    assert lab("kill", "gw2", *name).returncode == 1
    for node in ("gw2", "cmd"):  # one that was killed, one that runs
        restarted = lab("restart", node, *name)
        assert restarted.returncode == 0, restarted.stderr
    after = json.loads(lab("ps", "-j", *name).stdout)
    assert all(row["alive"] for row in after)
    assert {row["node"] for row in after if row["pid"] != before[row["node"]]} == {"gw2", "cmd"}
    assert lab("kill", "gw2", "--signal", "NONE", *name).returncode == 2
    assert lab("kill", "gw9", *name).returncode == 2

    wrong = lab("move", "nm1", "gw2", *name)
    assert (wrong.returncode, wrong.stderr) == (2, "anchord: no host 'nm1'; did you mean mn1?\n")

    assert lab("down", *name).stdout == f"lab {lab_name} is down\n"
    again = lab("down", *name)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    gone = lab("ps", *name)
    assert gone.returncode == 1 and f"no lab '{lab_name}'" in gone.stderr
    starts = {file.name: file.read_text().count('"do": "restore"') for file in recordings.iterdir()}
    assert starts == {"gw1": 1, "gw2": 2, "cmd": 2}


def test_ctrl_c_while_a_lab_comes_up_leaves_nothing_of_it(lab_name: str) -> None:
    command = [str(Path(sys.prefix, "bin", "anchord")), "lab", "up", "--name", lab_name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        while not (under_way := lab_name in state.names()) and up.poll() is None:
            time.sleep(0.01)
        assert under_way
        up.send_signal(signal.SIGINT)
        out, err = up.communicate(timeout=30)
    assert (up.returncode, out) == (130, "")
    assert err == f"interrupted; what there was of lab {lab_name} by then is removed\n"
    assert lab_name not in state.names() and not namespaces_of(lab_name)


def namespaces_of(name: str) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"anchord-{name}-*")]


def test_a_name_that_no_lab_can_have_is_a_usage_error() -> None:
    for verb in ("up", "ps", "down"):
        done = lab(verb, "--name", "No Lab")
        assert done.returncode == 2 and "no name for a lab" in done.stderr


def test_errors_of_a_topology_come_all_at_once_with_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text('[gateway.gw1]\n[hosts.mn1]\nat = "gw1"\nmac = "x"\n')
    done = lab("up", str(path), "--name", "anct-never")
    assert done.returncode == 2
    assert f"{path}: gateway: unknown key, expected 'gateways'" in done.stderr
    assert f"{path}: hosts.mn1.mac: " in done.stderr
    assert lab("up", str(tmp_path / "none.toml")).returncode == 2
