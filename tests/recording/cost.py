"""What recording costs, as a ratio: with recorders and without, in turns, so that others disturb both alike.

    .venv/bin/python tests/recording/cost.py                the protocol's own work, for each kind of node
    .venv/bin/python tests/recording/cost.py --handover     handovers between real daemons in a lab, as root

``--rounds N``: how often.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1] / each) for each in ("protocol", "lab")]

from domain import Domain

from anchord.lab import bench
from anchord.lab.domain import Domain as Lab
from anchord.recording.recorder import Recordable, Recorder

HOSTS = 100
MOVES = 20
TOUR = (1, 2, 3, 1)


class Timed:
    """A node (or a recorder before it), with the time that its inputs take."""

    def __init__(self, node: Recordable | Recorder) -> None:
        self.node = node
        self.inputs = 0
        self.spent_ns = 0

    def _timed(self, act: Callable[..., Any], *given: object) -> Any:
        begin = time.thread_time_ns()  # others on the machine do not count
        done = act(*given)
        self.spent_ns += time.thread_time_ns() - begin
        return done

    def handle(self, *given: object) -> Any:
        self.inputs += 1
        return self._timed(self.node.handle, *given)

    def handle_timers(self, *given: object) -> Any:
        self.inputs += 1
        return self._timed(self.node.handle_timers, *given)

    def next_timer_s(self) -> Any:
        return self._timed(self.node.next_timer_s)


def tour(directory: Path | None) -> dict[str, float]:
    """Microseconds of processor time an input, by kind of node, while hosts roam; ``directory``: recorded into it."""
    domain = Domain()
    timed: dict[str, list[Timed]] = {}
    for address, node in domain.nodes.items():
        before = node if directory is None else Recorder(node, directory / str(address), sys.exit)
        meter = domain.nodes[address] = Timed(before)  # type: ignore[assignment]
        timed.setdefault(type(node).__name__, []).append(meter)  # type: ignore[arg-type]
    for gateway in TOUR:
        for number in range(HOSTS):
            domain.host_at(gateway, b"\x02\0\0\0\0" + bytes((number,)))
        domain.pass_time(5.0)
    return {kind: sum(m.spent_ns for m in ms) / sum(m.inputs for m in ms) / 1000 for kind, ms in timed.items()}


def protocol(rounds: int) -> Iterator[tuple[str, list[float], list[float]]]:
    """Each kind of node: microseconds an input, in every round, without recorders and with them."""
    without, recorded = [], []
    for _ in range(rounds):
        without.append(tour(None))
        with tempfile.TemporaryDirectory() as directory:
            recorded.append(tour(Path(directory)))
    for kind in without[0]:
        yield f"{kind}, us an input", [each[kind] for each in without], [each[kind] for each in recorded]


def handovers(record: bool) -> dict[str, float]:
    """Medians of handovers with one old anchor, ms, in a lab made for them."""
    with tempfile.TemporaryDirectory() as directory:
        into = Path(directory, "recordings") if record else None
        with Lab.up(bench.topology(MOVES), f"ancost-{os.getpid()}", owner_pid=os.getpid(), recordings=into) as lab:
            measured = bench.Bench(lab, Path(directory, "captures"), lambda _: None).run_one_series().handovers
    figures = {what: bench.every(what, measured) for what in ("old_flow_down", "old_flow_up", "ra_new")}
    figures["pbu_to_pba"] = [ms for handover in measured for ms in handover.anchor_ms.values()]
    return {f"{what}, ms": statistics.median(values) for what, values in figures.items()}


def daemons(rounds: int) -> Iterator[tuple[str, list[float], list[float]]]:
    """Each quantity of a handover: its median in every round, without recordings and with them."""
    without, recorded = [], []
    for _ in range(rounds):
        without.append(handovers(record=False))
        recorded.append(handovers(record=True))
    for what in without[0]:
        yield what, [each[what] for each in without], [each[what] for each in recorded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handover", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"{'':26} {'without':>8} {'recorded':>8}  ratio: median, least, most of {given.rounds}")
    for what, without, recorded in (daemons if given.handover else protocol)(given.rounds):
        ratios = [more / less for less, more in zip(without, recorded, strict=True)]
        middle = f"{statistics.median(without):8.2f} {statistics.median(recorded):8.2f}"
        print(f"{what:26} {middle}  {statistics.median(ratios):.2f} {min(ratios):.2f} {max(ratios):.2f}")


if __name__ == "__main__":
    main()
