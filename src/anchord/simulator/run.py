"""One seed from beginning to end: hostility, quiet, everybody leaves."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.simulator.faults import Hostility
from anchord.simulator.forwarding import Plane
from anchord.simulator.process import Machine
from anchord.simulator.scenario import Scenario, scenario
from anchord.simulator.trace import Trace
from anchord.simulator.world import World

# What an anchor gives up while all is quiet takes so long at most to be known by everybody.
IN_TRANSIT_S = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed came to. ``violations``: a line each; none: it passed."""

    seed: int
    violations: tuple[str, ...]
    handovers: int
    faults: Counter[str]
    plainly: int  # packets delivered
    by_tunnel: int
    between_hosts: int  # those of both that one host sent to another
    inputs: int
    trace: tuple[str, ...]


def run(seed: int, *, traced: bool = False, as_bytes: bool = True) -> Outcome:
    """``as_bytes``: messages travel as the wire layer encodes them, not as values."""
    return play(scenario(seed), traced=traced, as_bytes=as_bytes)


def play(
    made: Scenario,
    *,
    traced: bool = False,
    as_bytes: bool = True,
    gateway: Callable[..., Machine] = Gateway,
    central: Callable[..., Machine] = Central,
    plane: Callable[..., Plane] = Plane,
) -> Outcome:
    """A scenario, perhaps with parts that are faulty on purpose."""
    trace = Trace(traced)
    world = World(made, trace, as_bytes, gateway, central, plane)
    hostility = Hostility(world)
    try:
        _live(world, hostility)
    except Exception as error:  # whatever a protocol object raises is a finding of this seed, not the end of the run
        world.checks.violated("".join(traceback.format_exception_only(error)).strip() + _where(error))
    checks = world.checks
    return Outcome(
        made.seed,
        tuple(checks.violations),
        hostility.handovers,
        world.faults,
        checks.plainly,
        checks.by_tunnel,
        checks.between_hosts,
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
    world.run_until(world.now_s + IN_TRANSIT_S)
    world.checks.settled_still()
    hostility.empty()
    world.run_until(world.now_s + world.scenario.gone_s)
    world.checks.nothing_left()
