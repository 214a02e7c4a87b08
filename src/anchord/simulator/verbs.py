"""``anchord sim``: the protocol in a simulated, hostile network."""

from __future__ import annotations

import time

import click

from anchord.simulator.run import Outcome, run

FAULTS = (
    "loss", "duplication", "reordering", "delay", "partition", "skew", "crash", "crash-without-store", "refusal",
    "cmd-away", "directory-away", "frame-loss", "leave",
)  # fmt: skip
# Fewer seeds than these need not meet every fault: a count of zero is a failure only from here on.
ENOUGH_SEEDS = 300


@click.group()
def sim() -> None:
    """Simulate a domain under a virtual clock."""


@sim.command()
@click.option("--seeds", type=click.IntRange(1), default=300, show_default=True, help="How many runs.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first run's seed.")
@click.option("--trace", is_flag=True, help="Print what happened in every run, not only in those that fail.")
@click.option("--values", is_flag=True, help="Hand messages over as values, not as bytes.")
def check(seeds: int, first: int, trace: bool, values: bool) -> None:
    """Run seeds, each a domain of its own; exit 1 if an invariant broke or something was never exercised."""
    totals = Totals()
    began_s = time.process_time()
    for seed in range(first, first + seeds):
        outcome = run(seed, traced=trace, as_bytes=not values)
        totals.add(outcome)
        if outcome.violations and not trace:
            outcome = run(seed, traced=True, as_bytes=not values)
        for line in outcome.trace:
            click.echo(line)
        if outcome.violations:
            for violation in outcome.violations:
                click.echo(f"seed {seed}: {violation}", err=True)
            click.echo(
                f"reproduce: anchord sim check --seeds 1 --first {seed}{' --values' if values else ''}", err=True
            )
    totals.show(time.process_time() - began_s)
    never = totals.never() if seeds >= ENOUGH_SEEDS else []
    for what in never:
        click.echo(f"never exercised: {what}", err=True)
    if totals.failed or never:
        raise SystemExit(1)


class Totals:
    """Over all seeds of one command."""

    def __init__(self) -> None:
        self.seeds = self.failed = self.inputs = 0
        self.counts = {"handovers": 0, "packets delivered plainly": 0, "packets delivered by tunnel": 0}
        self.faults = dict.fromkeys(FAULTS, 0)

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.seeds += 1
        self.failed += bool(outcome.violations)
        self.inputs += outcome.inputs
        self.counts["handovers"] += outcome.handovers
        self.counts["packets delivered plainly"] += outcome.plainly
        self.counts["packets delivered by tunnel"] += outcome.by_tunnel
        for kind, count in outcome.faults.items():
            self.faults[kind] = self.faults.get(kind, 0) + count

    def never(self) -> list[str]:
        """What did not happen at all."""
        return [what for what, count in {**self.counts, **self.faults}.items() if not count]

    def show(self, took_s: float) -> None:
        """Print them. ``took_s``: processor seconds."""
        click.echo(f"{self.seeds} seeds, {self.failed} failed, {took_s / self.seeds:.3f} core-seconds each")
        click.echo(f"{self.inputs} protocol inputs, {self.inputs / max(took_s, 1e-9):.0f} a core-second")
        for what, count in self.counts.items():
            click.echo(f"{what}: {count}")
        click.echo("faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items())))
