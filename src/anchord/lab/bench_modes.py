"""``anchord bench handover --mode``: the same handovers however the anchors are found, and what they must take.

The series is that of :mod:`anchord.lab.bench` with one old anchor, gw1 -> gw2, in the same domain of four gateways.
With delays each mode is measured without them and with them: what it takes with them is held to the sum of one-way
delays that its messages take, and to what it takes without (``held_to.py``). a is the delay between the new gateway and
the central database (or directory), b that between it and the anchor, c that between anchor and new gateway.

Several series are measured in rounds, each in a domain of its own, so that whatever else happens on the machine meets
all of them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchord.lab.analysis import Analysis, Handover, analyse
from anchord.lab.bench import Bench, BenchError, Row, every, refuse_faults, row, topology
from anchord.lab.domain import Domain
from anchord.lab.topology import Central, Directory, Finder, Mode, Topology

GATEWAY_MS, ASKED_MS = 1.0, 9.0  # from the core router, one way
A_MS = B_MS = GATEWAY_MS + ASKED_MS
C_MS = 2 * GATEWAY_MS
WAY_OUT_MS = C_MS + GATEWAY_MS
"""What a host's packet takes from the new gateway to the correspondent: to its anchor, and from there to the core."""

DELAYS = ".delays"  # behind the name of a row that was measured with delays
ROUNDS = 2
LEGEND = f"""\
Delays, one way: a = {A_MS:g} ms, b = {B_MS:g} ms, c = {C_MS:g} ms. Rows with delays are held to lie between the formula
of their mode (old_flow_up: and {WAY_OUT_MS:g} ms of the packet's own way to the correspondent), and that + their median
without delays + 1 ms."""


@dataclass(frozen=True, slots=True)
class Way:
    """One mode: how the domain is set up, and when old flows are usable at the new gateway (ms)."""

    finder: Finder
    up_ms: float
    down_ms: float
    central_mode: str | None = None


WAYS: dict[Mode, Way] = {
    # The CMD answers at once and tells the anchor at the same time (RFC 8885 section 3.4).
    "proxy": Way("central", 2 * A_MS, max(2 * A_MS, A_MS + B_MS + C_MS), "proxy"),
    # The answer comes when the anchor has answered the CMD (section 3.2); or from the anchor directly (section 3.3).
    "relay": Way("central", 2 * A_MS + 2 * B_MS, 2 * A_MS + 2 * B_MS, "relay"),
    "locator": Way("central", A_MS + B_MS + C_MS, A_MS + B_MS + C_MS, "locator"),
    # One question to the directory, then one to the anchor; or the latter alone.
    "directory": Way("directory", 2 * A_MS + 2 * C_MS, 2 * A_MS + 2 * C_MS),
    "anchor-known": Way("anchor-known", 2 * C_MS, 2 * C_MS),
}


def mode_topology(mode: Mode, delays: bool, moves: int) -> Topology:
    """The domain of the benchmark in a mode; ``delays``: with links of a = b = 10 ms and c = 2 ms.

    Where nothing is central, each gateway has those beside it as neighbours, as if they stood in a row.
    """
    way = WAYS[mode]
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
    modes: Sequence[Mode],
    moves: int,
    keep: Path | None,
    say: Callable[[str], None],
    *,
    delays: bool = False,
    silent: bool = False,
) -> list[Row]:
    """Measure modes in labs made for them; ``keep``: a directory for the captures. Raises what ``Bench.run`` raises."""
    found = _series(modes, delays)
    alone = len(found) == 1
    for number, part in enumerate([moves] if alone else _parts(moves), 1):
        for (mode, delayed), series in found.items():
            where = keep if keep is None or alone else keep / _captures(mode, delayed, number)
            series.extend(_measured(mode_topology(mode, delayed, part), part, where, _of(mode, delayed, say), silent))
    return _rows(found)


def _measured(
    domain: Topology, moves: int, keep: Path | None, say: Callable[[str], None], silent: bool
) -> list[Handover]:
    say(f"building a domain with {moves} hosts")
    with Domain.up(domain, f"bench-{os.getpid()}", owner_pid=os.getpid()) as up:
        return one_anchor(Bench(up, keep or up.directory / "captures", say, silent).run_one_series(), moves)


def _of(mode: Mode, delayed: bool, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: say(f"{mode}{' with delays' if delayed else ''}: {text}")


def from_captures(directory: Path, modes: Sequence[Mode], delays: bool = False) -> list[Row]:
    """The rows of an earlier run in these modes, from its captures; raises CaptureFileError or BenchError."""
    found = _series(modes, delays)
    for (mode, delayed), series in found.items():
        rounds = [directory / _captures(mode, delayed, number) for number in range(1, ROUNDS + 1)]
        kept = [each for each in rounds if each.is_dir()]
        # Of a single series they are not in a directory of its own.
        for each in kept or ([directory] if len(found) == 1 else rounds[:1]):
            series.extend(one_anchor(analyse(each)))
    return _rows(found)


def _series(modes: Sequence[Mode], delays: bool) -> dict[tuple[Mode, bool], list[Handover]]:
    """Without delays first; a mode that is named twice is measured once."""
    return {(mode, delayed): [] for delayed in ((False, True) if delays else (False,)) for mode in modes}


def _parts(moves: int) -> list[int]:
    """How many handovers there are in each round."""
    return [part for part in (moves - moves // ROUNDS, moves // ROUNDS) if part]


def _captures(mode: Mode, delayed: bool, number: int) -> str:
    return f"{mode}{'-delays' if delayed else ''}-{number}"


def _rows(found: dict[tuple[Mode, bool], list[Handover]]) -> list[Row]:
    return [line for (mode, delayed), series in found.items() for line in mode_rows(mode, series, delayed)]


def one_anchor(analysis: Analysis, moves: int | None = None) -> list[Handover]:
    """The handovers with one old anchor. ``moves``: how many there must be (None: at least one).

    Raises BenchError when one is missing, or something was not as it should be.
    """
    series = [handover for handover in analysis.handovers if handover.old_flows == 1]
    if not series or moves not in {None, len(series)}:
        raise BenchError(f"{len(series)} handovers with 1 old flow in the captures, expected {moves or 'some'}")
    refuse_faults(analysis)
    return series


def mode_rows(mode: Mode, series: list[Handover], delayed: bool = False) -> list[Row]:
    """The rows ``handover.MODE.…``, those with delays ``handover.MODE.….delays``.

    Raises BenchError when a handover lacks a number. The registration is for information: not every mode acknowledges
    the first PBU to the gateway that sent it, so ``pba`` may have fewer values, or be left out.
    """

    def named(quantity: str) -> str:
        return f"handover.{mode}.{quantity}{DELAYS if delayed else ''}"

    rows = [
        row(named(quantity), "ms", every(quantity, series))
        for quantity in ("old_flow_down", "old_flow_up", "ra_new", "ra_old")
    ]
    further = {
        "pbu": [handover.pbu_ms for handover in series if handover.pbu_ms is not None],
        "pba": [handover.pba_ms for handover in series if handover.pba_ms is not None],
        "anchor_pbu_to_pba": [ms for handover in series for ms in handover.anchor_ms.values()],
    }
    rows += [row(named(quantity), "ms", values) for quantity, values in further.items() if values]
    rows.append(row(named("lost_down"), "packets", [handover.lost_down for handover in series]))
    rows.append(row(named("lost_up"), "packets", [handover.lost_up for handover in series]))
    return rows
