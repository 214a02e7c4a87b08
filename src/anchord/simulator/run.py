"""One seed from beginning to end: hostility, quiet, everybody leaves."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from anchord.simulator.faults import Hostility
from anchord.simulator.scenario import scenario
from anchord.simulator.trace import Trace
from anchord.simulator.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed came to. ``violations``: a line each; none: it passed."""

    seed: int
    violations: tuple[str, ...]
    handovers: int
    faults: dict[str, int]
    plainly: int  # packets delivered
    by_tunnel: int
    inputs: int
    trace: tuple[str, ...]


def run(seed: int, *, traced: bool = False, as_bytes: bool = True) -> Outcome:
    """``as_bytes``: messages travel as the wire layer encodes them, not as values."""
    trace = Trace(traced)
    world = World(scenario(seed), trace, as_bytes)
    hostility = Hostility(world)
    try:
        _live(world, hostility)
    except Exception as error:  # whatever a protocol object raises is a finding of this seed, not the end of the run
        world.checks.violated("".join(traceback.format_exception_only(error)).strip() + _where(error))
    checks = world.checks
    return Outcome(
        seed,
        tuple(checks.violations),
        hostility.handovers,
        world.faults,
        checks.plainly,
        checks.by_tunnel,
        world.inputs,
        tuple(trace.lines),
    )


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" in {frame.name}, line {frame.lineno}"


def _live(world: World, hostility: Hostility) -> None:
    hostility.begin()
    world.run_until(world.scenario.hostile_s)
    hostility.end()
    world.run_until(world.now_s + world.scenario.settle_s)
    world.checks.settled()
    hostility.empty()
    world.run_until(world.now_s + world.scenario.gone_s)
    world.checks.empty()
