"""``anchord bench handover --mode``: the same handovers however the anchors are found, and what they must take.

The series is that of :mod:`anchord.lab.bench` with one old anchor, gw1 -> gw2, in the same domain of four gateways.
With delays it is compared with the sum of one-way delays that the messages of a mode take, where a is the delay between
the new gateway and the central database (or directory), b that between it and the anchor, c that between anchor and new
gateway.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchord.lab.analysis import Analysis, analyse
from anchord.lab.bench import Bench, BenchError, Row, every, refuse_faults, row, topology
from anchord.lab.domain import Domain
from anchord.lab.topology import Central, Directory, Finder, Mode, Topology

GATEWAY_MS, ASKED_MS = 1.0, 9.0  # from the core router, one way
A_MS = B_MS = GATEWAY_MS + ASKED_MS
C_MS = 2 * GATEWAY_MS
WAY_OUT_MS = C_MS + GATEWAY_MS
"""What a host's packet takes from the new gateway to the correspondent: to its anchor, and from there to the core."""


@dataclass(frozen=True, slots=True)
class _Way:
    """One mode: how the domain is set up, and when old flows are usable at the new gateway (ms)."""

    finder: Finder
    up_ms: float
    down_ms: float
    central_mode: str | None = None


_WAYS: dict[Mode, _Way] = {
    # The CMD answers at once and tells the anchor at the same time (RFC 8885 section 3.4).
    "proxy": _Way("central", 2 * A_MS, max(2 * A_MS, A_MS + B_MS + C_MS), "proxy"),
    # The answer comes when the anchor has answered the CMD (section 3.2); or from the anchor directly (section 3.3).
    "relay": _Way("central", 2 * A_MS + 2 * B_MS, 2 * A_MS + 2 * B_MS, "relay"),
    "locator": _Way("central", A_MS + B_MS + C_MS, A_MS + B_MS + C_MS, "locator"),
    # One question to the directory, then one to the anchor; or the latter alone.
    "directory": _Way("directory", 2 * A_MS + 2 * C_MS, 2 * A_MS + 2 * C_MS),
    "anchor-known": _Way("anchor-known", 2 * C_MS, 2 * C_MS),
}


def mode_topology(mode: Mode, delays: bool, moves: int) -> Topology:
    """The domain of the benchmark in a mode; ``delays``: with links of a = b = 10 ms and c = 2 ms.

    Where nothing is central, each gateway has those beside it as neighbours, as if they stood in a row.
    """
    way = _WAYS[mode]
    plain = topology(moves)
    gateway_ms, asked_ms = (GATEWAY_MS, ASKED_MS) if delays else (0.0, 0.0)
    names = list(plain.gateways)
    beside = {name: [other for other in names if abs(names.index(other) - at) == 1] for at, name in enumerate(names)}
    node = {name: {"neighbours": beside[name]} if mode == "anchor-known" else {} for name in names}
    domain: dict[str, Any] = {"central": {"mode": way.central_mode}} if way.central_mode else {}
    return dataclasses.replace(
        plain,
        gateways={
            name: dataclasses.replace(gateway, delay_ms=gateway_ms, node=node[name])
            for name, gateway in plain.gateways.items()
        },
        finder=way.finder,
        central=Central(delay_ms=asked_ms) if way.finder == "central" else None,
        directory=Directory(delay_ms=asked_ms) if way.finder == "directory" else None,
        domain=domain,
    )


def run(
    mode: Mode, moves: int, keep: Path | None, say: Callable[[str], None], *, delays: bool = False, silent: bool = False
) -> list[Row]:
    """Measure a mode in a lab made for it; ``keep``: a directory for the captures. Raises what ``Bench.run`` raises."""
    say(f"building a domain with {moves} hosts")
    with Domain.up(mode_topology(mode, delays, moves), f"bench-{os.getpid()}", owner_pid=os.getpid()) as domain:
        analysis = Bench(domain, keep or domain.directory / "captures", say, silent).run_one_series()
        return mode_rows(mode, analysis, moves)


def from_captures(directory: Path, mode: Mode) -> list[Row]:
    """The rows of an earlier run in a mode, from its captures; raises CaptureFileError or BenchError."""
    return mode_rows(mode, analyse(directory))


def mode_rows(mode: Mode, analysis: Analysis, moves: int | None = None) -> list[Row]:
    """The rows ``handover.MODE.…``. ``moves``: how many handovers there must be (None: at least one).

    Raises BenchError when one is missing or one of them lacks a number. The registration is for information: not every
    mode acknowledges the first PBU to the gateway that sent it, so ``pba`` may have fewer values, or be left out.
    """
    series = [handover for handover in analysis.handovers if handover.old_flows == 1]
    if not series or moves not in {None, len(series)}:
        raise BenchError(f"{len(series)} handovers with 1 old flow in the captures, expected {moves or 'some'}")
    refuse_faults(analysis)
    name = f"handover.{mode}"
    rows = [
        row(f"{name}.{quantity}", "ms", every(quantity, series))
        for quantity in ("old_flow_down", "old_flow_up", "ra_new", "ra_old")
    ]
    further = {
        "pbu": [handover.pbu_ms for handover in series if handover.pbu_ms is not None],
        "pba": [handover.pba_ms for handover in series if handover.pba_ms is not None],
        "anchor_pbu_to_pba": [ms for handover in series for ms in handover.anchor_ms.values()],
    }
    rows += [row(f"{name}.{quantity}", "ms", values) for quantity, values in further.items() if values]
    rows.append(row(f"{name}.lost_down", "packets", [handover.lost_down for handover in series]))
    rows.append(row(f"{name}.lost_up", "packets", [handover.lost_up for handover in series]))
    return rows


def compared(mode: Mode, rows: Sequence[Row]) -> Iterator[str]:
    """What a run with delays measured beside its formula."""
    way, medians = _WAYS[mode], {line.name: line.p50 for line in rows}
    down, up = (medians[f"handover.{mode}.old_flow_{direction}"] for direction in ("down", "up"))
    expected = way.up_ms + WAY_OUT_MS
    yield ""
    yield f"Delays, one way: a = {A_MS:g} ms, b = {B_MS:g} ms, c = {C_MS:g} ms. Medians beside the formula of {mode}:"
    yield f"old_flow_down  formula {way.down_ms:g} ms, measured {down:.2f} ms ({down - way.down_ms:+.2f})"
    yield (
        f"old_flow_up    formula {way.up_ms:g} ms and {WAY_OUT_MS:g} ms of the packet's own way to the correspondent,"
        f" measured {up:.2f} ms ({up - expected:+.2f})"
    )
