"""The demo as its users run it: what it shows, what it says when something fails, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import captured
import pytest
from click.testing import CliRunner

from anchord.lab import demo
from anchord.lab.analysis import analyse
from anchord.lab.capture import PointResult
from anchord.lab.measure_verbs import bench as bench_verb
from anchord.lab.state import LABS
from anchord.lab.topology import Topology
from anchord.lab.tour import NodeDiedError, Session, Stop, TourOptions, TourReport

ANCHORD = str(Path(sys.prefix, "bin", "anchord"))
FLOATS = ("pbu_ms", "pba_ms", "ra_new_ms", "ra_old_ms", "old_flow_down_ms", "old_flow_up_ms", "addr_usable_ms")


def run_demo(tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The finished command, and what it wrote as JSON."""
    out = tmp_path / "out.json"
    argv = [ANCHORD, "demo", "--json", str(out), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)
    return done, json.loads(out.read_text())


def left_of(process: int) -> list[str]:
    """Namespaces and files of the demo that this process ran."""
    namespaces = [path.name for path in Path("/run/netns").glob(f"anchord-demo-{process}-*")]
    return namespaces + [str(path) for path in LABS.glob(f"*demo-{process}*")]


def test_the_tour(tmp_path: Path) -> None:
    done, result = run_demo(tmp_path, "--keep-pcap", str(tmp_path / "pcap"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # progress is for terminals
    assert result["ok"] is True
    assert [(h["from"], h["to"]) for h in result["handovers"]] == [("gw1", "gw2"), ("gw2", "gw3"), ("gw3", "gw1")]
    for handover in result["handovers"]:
        assert all(isinstance(handover[key], float) for key in FLOATS), handover
        assert isinstance(handover["lost_down"], int) and isinstance(handover["lost_up"], int)
        assert handover["pbu_ms"] < handover["pba_ms"] < handover["addr_usable_ms"]
    assert result["sessions_opened"] == result["sessions_alive"] == 9
    assert result["bytes_verified"] >= (4 + 4 + 4 + 3 + 3 + 2 + 2 + 1 + 1) * 65_536
    again = analyse(tmp_path / "pcap").handovers
    assert [round(h.old_flow_down_ms or -1, 3) for h in again] == [h["old_flow_down_ms"] for h in result["handovers"]]


@pytest.mark.parametrize("options", [("--silent",), ("--flap", "300")])
def test_the_tour_with_other_switches(tmp_path: Path, options: tuple[str, ...]) -> None:
    done, result = run_demo(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["ok"] is True


@pytest.mark.long
def test_plain_routers_for_comparison(tmp_path: Path) -> None:
    done, result = run_demo(tmp_path, "--control")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(h["from"], h["to"]) for h in result["handovers"]] == [("gw1", "gw2"), ("gw2", "gw3"), ("gw3", "gw1")]
    assert result["control"] is True and result["passed"] is True
    assert result["ok"] is False  # the promise of a mobility domain does not hold, as expected
    assert result["sessions_alive"] < result["sessions_opened"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(number: int) -> None:
    process = subprocess.Popen([ANCHORD, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _await_traffic(process.pid)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert complaint == ("interrupted; the lab was removed\n" if number == signal.SIGINT else "")
    assert left_of(process.pid) == []


def test_the_crash_of_a_node_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = [ANCHORD, "demo", "--json", str(out)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    directory = _await_traffic(process.pid)
    state = json.loads((directory / "lab.json").read_text())
    os.kill(state["nodes"]["gw2"]["pid"], signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "gw2 ended during the tour; its last lines:" in said
    assert json.loads(out.read_text())["ok"] is False
    assert left_of(process.pid) == []


def _await_traffic(process: int) -> Path:
    """Wait until a demo captures, so until its domain is up; its directory."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for spool in LABS.glob(f"demo-{process}/captures/*.spool"):
            return spool.parent.parent
        time.sleep(0.02)  # the demo announces nothing to other processes
    raise AssertionError("the demo did not begin")


def test_a_bad_option_is_an_error_of_usage() -> None:
    done = subprocess.run([ANCHORD, "demo", "--flap", "much"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--flap" in done.stderr


@pytest.mark.parametrize("verb", [["demo"], ["bench", "handover"]])
def test_a_result_that_could_not_be_written_is_told_before_anything_is_measured(verb: list[str]) -> None:
    argv = [ANCHORD, *verb, "--json", "/nonexistent/x.json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=5)
    assert done.returncode == 2
    assert done.stderr == "Error: /nonexistent/x.json cannot be written: No such file or directory\n"


# What makes a tour fail, by what was seen on it


def report(tmp_path: Path) -> tuple[TourReport, Any]:
    """A report of a perfect tour with one move, and the analysis of captures that fit."""
    first, second = captured.PREFIX1[7], captured.PREFIX2[7]
    sessions = [
        Session(number, name, stop, first, verified=65_536)
        for number, (name, stop) in enumerate((n, s) for s in range(4) for n in ("early", "late"))
    ]
    sessions.append(Session(8, "transfer", 0, first, verified=65_536))
    routers = {"fe80::1": "02:00:00:00:01:01"}
    stops = [
        Stop("gw1", 0, 1, (first,), (), routers, (), (), ()),
        Stop("gw2", captured.START_NS, captured.START_NS + 2 * 10**9, (second,), (first,), routers, (), (0,), ()),
    ]
    seen = TourReport(sessions, stops, {"core-gw1": PointResult(100, 0)})
    return seen, analyse(captured.handover().write(tmp_path / "captures"))


def verdict(tmp_path: Path, seen: TourReport, analysis: Any, name: str) -> demo.Check:
    result = demo.judge(Topology.default(), seen, analysis, TourOptions())
    return next(check for check in result.checks if name in check.name)


def test_a_row_is_timed_from_the_first_frame(tmp_path: Path) -> None:
    seen, analysis = report(tmp_path)
    (row,) = demo.judge(Topology.default(), seen, analysis, TourOptions()).handovers
    assert row["addr_usable_ms"] == pytest.approx(2000 - 1000.5)
    assert (row["lost_down"], row["lost_up"]) == (4, 3)


def test_a_tour_that_ended_early_still_shows_its_finished_moves(tmp_path: Path) -> None:
    seen, _ = report(tmp_path)
    result = demo.unfinished(seen, tmp_path / "captures", TourOptions(), NodeDiedError("gw3 ended")).as_json()
    assert (result["ok"], result["error"]) == (False, "gw3 ended")
    (row,) = result["handovers"]
    assert row["old_flow_down_ms"] == pytest.approx(3.72, abs=0.01)
    assert row["lost_down"] is None  # some of it may be the failure's


def test_a_dead_session_is_named(tmp_path: Path) -> None:
    seen, analysis = report(tmp_path)
    assert verdict(tmp_path, seen, analysis, "every connection lives").holds
    seen.sessions[3].error = "65536 of 65536 bytes missing after 5 s"
    check = verdict(tmp_path, seen, analysis, "every connection lives")
    assert not check.holds and "late of stop 1: 65536 of 65536 bytes missing" in check.seen


def test_a_detour_is_named(tmp_path: Path) -> None:
    seen, analysis = report(tmp_path)
    seen.sessions[3].detours = ["through gw1 (core0 to an-dn0)"]
    check = verdict(tmp_path, seen, analysis, "cross no tunnel")
    assert not check.holds and "stop 1: through gw1" in check.seen


def test_an_old_prefix_still_preferred_fails(tmp_path: Path) -> None:
    seen, analysis = report(tmp_path)
    assert verdict(tmp_path, seen, analysis, "prefers the new prefix").holds
    seen.stops[1] = replace(seen.stops[1], preferred=(captured.PREFIX1[7], captured.PREFIX2[7]))
    assert not verdict(tmp_path, seen, analysis, "prefers the new prefix").holds


def test_a_router_with_another_mac_fails(tmp_path: Path) -> None:
    seen, analysis = report(tmp_path)
    seen.stops[1] = replace(seen.stops[1], routers={"fe80::1": "02:00:00:00:09:09"})
    check = verdict(tmp_path, seen, analysis, "keep MAC")
    assert not check.holds and "02:00:00:00:09:09 at gw2" in check.seen


def test_a_frame_missed_by_a_capture_makes_the_measurement_invalid(tmp_path: Path) -> None:
    seen, analysis = report(tmp_path)
    seen.captured["core-gw1"] = PointResult(100, 3)
    check = verdict(tmp_path, seen, analysis, "no capture missed a frame")
    assert not check.holds and "3 frames missed at core-gw1" in check.seen


def test_an_address_that_does_not_answer_is_named(tmp_path: Path) -> None:
    seen, analysis = report(tmp_path)
    address = IPv6Address("2001:db8:a1:1::7")
    seen.stops[1] = replace(seen.stops[1], unreachable=(f"{address} from cn2",))
    check = verdict(tmp_path, seen, analysis, "stays reachable")
    assert not check.holds and check.seen == f"{address} from cn2 at gw2"


def test_a_table_from_earlier_captures(tmp_path: Path) -> None:
    directory = captured.handover().write(tmp_path / "captures")
    out = tmp_path / "rows.json"
    said = CliRunner().invoke(bench_verb, ["handover", "--from-pcap", str(directory), "--json", str(out)])
    assert said.exit_code == 0, said.output
    rows = json.loads(out.read_text())
    keys = {"name", "unit", "n", "p50", "p95", "max", "held_to", "verdict"}
    assert [set(row) for row in rows] == [keys] * len(rows)
    assert "handover.old_flow_down  ms       1  3.72  3.72  3.72  p50 <= 3, p95 <= 10  exceeded" in said.output
    assert (rows[0]["held_to"], rows[0]["verdict"]) == ("p50 <= 3, p95 <= 10", "exceeded")
    assert (rows[1]["held_to"], rows[1]["verdict"]) == (None, None)


def test_one_table_of_all_modes_from_earlier_captures(tmp_path: Path) -> None:
    modes = ("proxy", "relay", "locator", "directory", "anchor-known")
    for mode in modes:
        captured.handover().write(tmp_path / f"{mode}-1")
        captured.handover().write(tmp_path / f"{mode}-delays-1")
    out = tmp_path / "rows.json"
    arguments = ["handover", "--mode", "all", "--delays", "--from-pcap", str(tmp_path), "--json", str(out)]
    said = CliRunner().invoke(bench_verb, arguments)
    assert said.exit_code == 0, "what was exceeded is in the table only"
    rows = {row["name"]: row for row in json.loads(out.read_text())}
    verdicts = {name: row["verdict"] for name, row in rows.items() if name.endswith("old_flow_down")}
    assert verdicts == {f"handover.{mode}.old_flow_down": "exceeded" if mode == "proxy" else "ok" for mode in modes}
    assert rows["handover.relay.old_flow_down.delays"]["verdict"] == "below"
    assert "p50 <= proxy + 2 (5.72)  ok" in said.output and "a = 10 ms" in said.output
    two = CliRunner().invoke(bench_verb, [*arguments[:1], "--mode", "relay", "--mode", "proxy", *arguments[4:]])
    assert two.exit_code == 0 and len(json.loads(out.read_text())) == 18
