"""``anchord sim``: the protocol in a simulated, hostile network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from anchord.simulator.run import Outcome

FAULTS = (
    "loss", "duplication", "reordering", "delay", "partition", "skew", "crash", "crash-without-store", "refusal",
    "cmd-away", "directory-away", "frame-loss", "leave",
)  # fmt: skip
# Fewer seeds than these need not meet every fault: a count of zero is a failure only from here on.
ENOUGH_SEEDS = 300
Timed = tuple["Outcome", float]
"""What a seed came to, and the processor seconds that it took."""


@click.group()
def sim() -> None:
    """Simulate a domain under a virtual clock."""


@sim.command()
@click.option("--seeds", type=click.IntRange(1), default=300, show_default=True, help="How many runs.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first run's seed.")
@click.option("--trace", is_flag=True, help="Print what happened in every run.")
@click.option("--values", is_flag=True, help="Hand messages over as values, not as bytes.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work.")
def check(seeds: int, first: int, trace: bool, values: bool, jobs: int) -> None:
    """Run seeds, each a domain of its own in a hostile network.

    Exits 1 if an invariant broke, or if, over 300 seeds or more, there was no handover, no fault of one kind, or no
    packet delivered plainly, by tunnel, or from one host to another. Fewer seeds need not meet everything.
    """
    totals = Totals()
    for outcome, took_s in _outcomes(range(first, first + seeds), trace, not values, jobs):
        totals.add(outcome, took_s)
        for line in outcome.trace:
            click.echo(line)
        for violation in outcome.violations:
            click.echo(f"seed {outcome.seed}: {violation}", err=True)
        if outcome.violations:
            again = f"anchord sim check --seeds 1 --first {outcome.seed}{' --values' if values else ''} --trace"
            click.echo(f"reproduce: {again}", err=True)
    totals.show()
    never = totals.never() if seeds >= ENOUGH_SEEDS else []
    for what in never:
        click.echo(f"never exercised: {what}", err=True)
    if totals.failed or never:
        raise SystemExit(1)


def _outcomes(seeds: Iterable[int], traced: bool, as_bytes: bool, jobs: int) -> Iterator[Timed]:
    """Of each seed in order, as soon as it is there."""
    one = partial(_timed, traced=traced, as_bytes=as_bytes)
    if jobs == 1:
        yield from map(one, seeds)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(one, seeds, chunksize=5)


def _timed(seed: int, traced: bool, as_bytes: bool) -> Timed:
    from anchord.simulator.run import run

    began_s = time.process_time()
    outcome = run(seed, traced=traced, as_bytes=as_bytes)
    return outcome, time.process_time() - began_s


class Totals:
    """Over all seeds of one command."""

    def __init__(self) -> None:
        self.seeds = self.failed = self.inputs = 0
        self.took_s = 0.0
        self.counts = dict.fromkeys(
            ("handovers", "packets delivered plainly", "packets delivered by tunnel", "packets between hosts"), 0
        )
        self.faults = Counter(dict.fromkeys(FAULTS, 0))

    def add(self, outcome: Outcome, took_s: float) -> None:
        """One more."""
        self.seeds += 1
        self.failed += bool(outcome.violations)
        self.inputs += outcome.inputs
        self.took_s += took_s
        self.counts["handovers"] += outcome.handovers
        self.counts["packets delivered plainly"] += outcome.plainly
        self.counts["packets delivered by tunnel"] += outcome.by_tunnel
        self.counts["packets between hosts"] += outcome.between_hosts
        self.faults.update(outcome.faults)

    def never(self) -> list[str]:
        """What did not happen at all."""
        return [what for what, count in {**self.counts, **self.faults}.items() if not count]

    def show(self) -> None:
        """Print them."""
        click.echo(f"{self.seeds} seeds, {self.failed} failed, {self.took_s / self.seeds:.3f} core-seconds each")
        click.echo(f"{self.inputs} protocol inputs, {self.inputs / max(self.took_s, 1e-9):.0f} a core-second")
        for what, count in self.counts.items():
            click.echo(f"{what}: {count}")
        click.echo("faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items())))
