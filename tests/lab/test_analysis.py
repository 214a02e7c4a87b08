"""What is read out of captures, on captures whose content is known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import captured
import pytest
from captured import GW1, GW2, ROUTER1_MAC, ROUTER2_MAC, Captures

from anchord.lab import bench, bench_modes
from anchord.lab.analysis import Analysis, analyse
from anchord.lab.held_to import Held, held_to
from anchord.lab.probes import Way
from anchord.lab.sightings import CaptureFileError
from anchord.lab.topology import Mode


def analysed(seen: Captures, tmp_path: Path) -> Analysis:
    return analyse(seen.write(tmp_path / "captures"))


def test_every_number_of_a_handover(tmp_path: Path) -> None:
    (handover,) = analysed(captured.handover(), tmp_path).handovers
    assert (handover.host, handover.origin, handover.target) == ("mn1", "gw1", "gw2")
    assert handover.old_flows == 1
    assert handover.t0_ns == captured.START_NS + 1_000_500_000
    assert handover.pbu_ms == pytest.approx(0.5)
    assert handover.pba_ms == pytest.approx(0.75)
    assert handover.ra_new_ms == pytest.approx(1.25)
    assert handover.ra_old_ms == pytest.approx(1.5)
    assert handover.old_flow_down_ms == pytest.approx(1004.22 - 1000.5)
    assert handover.old_flow_up_ms == pytest.approx(1003.03 - 1000.5)
    assert handover.anchor_ms == {"gw1": pytest.approx(0.75)}
    assert (handover.lost_up, handover.lost_down) == (3, 4)


def test_a_gateway_that_asks_the_anchor_itself(tmp_path: Path) -> None:
    """Both addresses are in every message on both links: who is who follows from the order."""
    analysis = analysed(captured.direct_handover(), tmp_path)
    (handover,) = analysis.handovers
    assert handover.pbu_ms == pytest.approx(0.5)
    assert handover.pba_ms == pytest.approx(1.0)
    assert handover.anchor_ms == {"gw1": pytest.approx(0.1)}
    assert analysis.tunnel_faults == []


def test_an_anchor_that_does_not_answer_the_gateway_itself(tmp_path: Path) -> None:
    seen = captured.direct_handover()
    for point, frames in seen.points.items():
        seen.points[point] = [entry for entry in frames if entry[1] != captured.acknowledgement(GW1, GW2, 9)]
    (handover,) = analysed(seen, tmp_path).handovers
    assert (handover.pbu_ms, handover.pba_ms, handover.anchor_ms) == (pytest.approx(0.5), None, {})


def test_a_tunnel_as_it_should_be_and_routers_that_stay(tmp_path: Path) -> None:
    analysis = analysed(captured.handover(), tmp_path)
    assert analysis.tunnel_packets == 2 * (997 + 996)  # each is seen on both gateways' links
    assert analysis.tunnel_faults == []
    assert {str(prefix): mac for prefix, (_, mac) in analysis.routers.items()} == {
        str(captured.PREFIX1): ROUTER1_MAC.hex(":"),
        str(captured.PREFIX2): ROUTER2_MAC.hex(":"),
    }
    assert analysis.router_faults == []


def test_a_silent_move_is_timed_from_the_first_data_packet(tmp_path: Path) -> None:
    seen = captured.handover()
    seen.points["access-gw2"] = [entry for entry in seen.points["access-gw2"] if entry[0] != 1000.5]
    (handover,) = analysed(seen, tmp_path).handovers
    assert handover.t0_ns == captured.START_NS + 1_001_000_000


def test_a_frame_still_on_its_way_is_no_move_back(tmp_path: Path) -> None:
    seen = captured.handover()
    late = captured.frame(captured.HOST_MAC, ROUTER1_MAC, captured.probe_packet(Way.UP, 1000))
    seen.at(1000.6, late, "access-gw1")
    assert [h.target for h in analysed(seen, tmp_path).handovers] == ["gw2"]


def test_what_never_came_is_none(tmp_path: Path) -> None:
    seen = captured.handover()
    for point, frames in seen.points.items():
        if point != "access-gw2":
            seen.points[point] = [entry for entry in frames if entry[0] < 1000.5]
    seen.points["access-gw2"] = [entry for entry in seen.points["access-gw2"] if entry[0] == 1000.5]
    (handover,) = analysed(seen, tmp_path).handovers
    numbers = (handover.pbu_ms, handover.pba_ms, handover.ra_new_ms, handover.ra_old_ms)
    assert numbers == (None, None, None, None)
    assert handover.old_flow_down_ms is None and handover.old_flow_up_ms is None


@pytest.mark.parametrize(
    ("entrance", "exit_", "kind", "told"),
    [
        (GW1, GW2, 43, "a routing header"),
        (GW2, GW2, captured.IN_IPV6, "between gw2"),
    ],
)
def test_a_tunnel_that_must_not_be(tmp_path: Path, entrance: object, exit_: object, kind: int, told: str) -> None:
    seen = captured.handover()
    inner = captured.probe_packet(Way.DOWN, 1500)
    seen.at(1500.5, captured.tunnelled(entrance, exit_, inner, kind), "core-gw2")  # type: ignore[arg-type]
    faults = analysed(seen, tmp_path).tunnel_faults
    assert len(faults) == 1 and told in faults[0]


def test_a_tunnel_in_a_tunnel(tmp_path: Path) -> None:
    seen = captured.handover()
    inner = captured.packet(GW1, GW2, captured.IN_IPV6, captured.probe_packet(Way.DOWN, 1500))
    seen.at(1500.5, captured.tunnelled(GW1, GW2, inner), "core-gw2")
    assert analysed(seen, tmp_path).tunnel_faults == ["1 packets with a tunnel in a tunnel on the link of gw2"]


def test_a_tunnel_that_outlives_its_handover(tmp_path: Path) -> None:
    """Packets to the anchor's other end are in order while the anchor is being told, and a fault later."""
    seen = captured.handover()
    for time_ms in (50.0, 60.0):
        inner = captured.probe_packet(Way.DOWN, 5)
        seen.at(time_ms, captured.tunnelled(GW1, GW2, inner), "core-gw1")
    (fault,) = analysed(seen, tmp_path).tunnel_faults
    assert "2 packets" in fault and "when the host was at gw1" in fault


def test_an_old_prefix_that_leaks_out_of_its_tunnel(tmp_path: Path) -> None:
    seen = captured.handover()
    leaked = captured.frame(captured.CORE_MAC, captured.CORE_MAC, captured.probe_packet(Way.UP, 1500))
    seen.at(1500.5, leaked, "core-gw2")
    assert any("outside tunnels" in fault for fault in analysed(seen, tmp_path).tunnel_faults)


def test_a_router_that_changes_its_face(tmp_path: Path) -> None:
    seen = captured.handover()
    seen.at(1500.0, captured.advertisement(ROUTER2_MAC, captured.PREFIX1, 0), "access-gw2")
    (fault,) = analysed(seen, tmp_path).router_faults
    assert str(captured.PREFIX1) in fault and "2 routers" in fault


def test_no_captures_and_damaged_ones_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CaptureFileError, match="no captures"):
        analyse(tmp_path)
    directory = captured.handover().write(tmp_path / "captures")
    whole = (directory / "core-gw1.pcap").read_bytes()
    (directory / "core-gw1.pcap").write_bytes(whole[:-10])
    with pytest.raises(CaptureFileError, match=r"core-gw1\.pcap"):
        analyse(directory)


def test_the_rows_of_the_benchmark(tmp_path: Path) -> None:
    rows = {row.name: row for row in bench.from_captures(captured.handover().write(tmp_path / "captures"))}
    assert list(rows) == [
        "handover.old_flow_down",
        "handover.old_flow_up",
        "handover.ra_new",
        "handover.ra_old",
        "anchor.pbu_to_pba",
        "handover.lost_down",
        "handover.lost_up",
    ]
    assert rows["handover.old_flow_down"] == bench.Row("handover.old_flow_down", "ms", 1, 3.72, 3.72, 3.72)
    assert rows["handover.lost_down"].max == 4


def test_the_rows_of_a_mode(tmp_path: Path) -> None:
    directory = captured.direct_handover().write(tmp_path / "captures")
    rows = {row.name: row for row in bench_modes.from_captures(directory, ["anchor-known"])}
    assert list(rows) == [
        f"handover.anchor-known.{quantity}"
        for quantity in (
            *("old_flow_down", "old_flow_up", "ra_new", "ra_old", "pbu", "pba", "anchor_pbu_to_pba"),
            *("lost_down", "lost_up"),
        )
    ]
    assert rows["handover.anchor-known.old_flow_down"].p50 == 3.72
    assert rows["handover.anchor-known.pba"].p50 == 1.0


def test_the_rows_of_several_modes_of_one_run(tmp_path: Path) -> None:
    for number in (1, 2):
        captured.handover().write(tmp_path / f"proxy-{number}")
        captured.direct_handover().write(tmp_path / f"anchor-known-{number}")
    rows = bench_modes.from_captures(tmp_path, ["proxy", "anchor-known"])
    down = [row for row in rows if row.name.endswith("old_flow_down")]
    assert [(row.name, row.n) for row in down] == [
        ("handover.proxy.old_flow_down", 2), ("handover.anchor-known.old_flow_down", 2),
    ]  # fmt: skip
    with pytest.raises(CaptureFileError, match="no captures"):
        bench_modes.from_captures(tmp_path, ["proxy", "relay"])


def rows_of(mode: Mode, down_ms: float, up_ms: float, suffix: str = "") -> list[bench.Row]:
    return [
        bench.row(f"handover.{mode}.old_flow_down{suffix}", "ms", [down_ms]),
        bench.row(f"handover.{mode}.old_flow_up{suffix}", "ms", [up_ms]),
        bench.row(f"handover.{mode}.ra_new{suffix}", "ms", [99.0]),
    ]


@pytest.mark.parametrize(
    ("mode", "above_ms"), [("relay", 2.0), ("locator", 2.0), ("directory", 2.0), ("anchor-known", 0.0)]
)
def test_modes_are_held_to_the_proxy_of_the_same_run(mode: Mode, above_ms: float) -> None:
    proxy, name = rows_of("proxy", 2.5, 50.0), f"handover.{mode}.old_flow_down"
    for down_ms, verdict in ((2.5 + above_ms, "ok"), (2.51 + above_ms, "exceeded")):
        held = held_to([*rows_of(mode, down_ms, 50.0), *proxy])
        assert set(held) == {name, "handover.proxy.old_flow_down"}
        assert held[name].verdict == verdict and f"({2.5 + above_ms:.2f})" in held[name].text
        assert held["handover.proxy.old_flow_down"] == Held("p50 <= 3, p95 <= 10", "ok")
    assert held_to(rows_of(mode, 1.0, 1.0))[name].verdict is None, "without a proxy there is nothing to compare with"


@pytest.mark.parametrize(
    ("mode", "down_ms", "up_ms"),
    [("proxy", 22, 20), ("relay", 40, 40), ("locator", 22, 22), ("directory", 24, 24), ("anchor-known", 4, 4)],
)
def test_with_delays_a_mode_is_held_to_its_formula_and_itself(mode: Mode, down_ms: int, up_ms: int) -> None:
    """a = b = 10 ms, c = 2 ms; a packet that goes up takes 3 ms more to the correspondent."""
    assert "a = 10 ms, b = 10 ms, c = 2 ms" in bench_modes.LEGEND
    plain = rows_of(mode, 2.5, 1.25)
    for beyond_ms, verdict in ((-0.01, "below"), (0, "ok"), (1, "ok"), (1.01, "exceeded")):
        more = beyond_ms if beyond_ms <= 0 else beyond_ms + 1.25
        delayed = rows_of(mode, down_ms + more + (1.25 if more > 0 else 0), up_ms + 3 + more, ".delays")
        held = held_to([*plain, *delayed])
        assert held[f"handover.{mode}.old_flow_down.delays"] == Held(f"p50 {down_ms} to {down_ms + 3.5:.2f}", verdict)
        assert held[f"handover.{mode}.old_flow_up.delays"] == Held(f"p50 {up_ms + 3} to {up_ms + 5.25:.2f}", verdict)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_delays_of_a_mode_are_those_of_its_formula(mode: Mode) -> None:
    delays = bench_modes.mode_topology(mode, True, 1).checked().delays()
    asked = {node: delay for node, delay in delays.items() if not node.startswith("gw")}
    assert delays["gw1"] + delays["gw2"] == 2
    assert all(delays["gw1"] + delay == 10 for delay in asked.values())
    assert list(asked) == {"directory": ["dir"], "anchor-known": []}.get(mode, ["cmd"])
    assert not bench_modes.mode_topology(mode, False, 1).delays()


def test_a_benchmark_with_a_handover_too_few_is_none(tmp_path: Path) -> None:
    analysis = analysed(captured.handover(), tmp_path)
    with pytest.raises(bench.BenchError, match="1 handovers with 1 old flows in the captures, expected 50"):
        bench.handover_rows(analysis, 50)


def test_percentiles_are_values_that_occurred() -> None:
    row = bench.row("x", "ms", [float(value) for value in range(1, 51)])
    assert (row.n, row.p50, row.p95, row.max) == (50, 25.5, 48.0, 50.0)
    with pytest.raises(bench.BenchError, match="nothing was measured"):
        bench.row("x", "ms", [])
