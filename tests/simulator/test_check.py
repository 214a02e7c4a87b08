"""Runs of the simulator as a user makes them, and what it says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import Input
from anchord.protocol.outputs import Output
from anchord.protocol.timers import Instant
from anchord.simulator import run as runs
from anchord.simulator.run import Outcome, run
from anchord.simulator.verbs import ENOUGH_SEEDS, FAULTS, Totals, sim

CALM = 3  # a seed with nothing hostile in it
SEEDS = 300


def check(*arguments: object) -> Result:
    return CliRunner().invoke(sim, ["check", *map(str, arguments)])


@pytest.mark.timeout(300)
def test_as_many_seeds_as_have_to_meet_everything_pass_and_meet_everything() -> None:
    result = check("--seeds", SEEDS, "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert f"{SEEDS} seeds, 0 failed" in result.output
    for what in ("handovers", "packets delivered plainly", "packets delivered by tunnel", "packets between hosts"):
        assert re.search(rf"^{what}: [1-9]", result.output, re.MULTILINE)
    for kind in FAULTS:
        assert re.search(rf"\b{kind} [1-9]", result.output)


def test_few_seeds_need_not_meet_everything() -> None:
    result = check("--seeds", 1, "--first", CALM)
    assert result.exit_code == 0 and "loss 0" in result.output


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that ends the run at its 20th input."""

    class Broken(Gateway):
        inputs = 0

        def handle(self, event: Input, now: Instant) -> list[Output]:
            self.inputs += 1
            if self.inputs == 20:
                raise RuntimeError("broken")
            return super().handle(event, now)

    monkeypatch.setattr(runs, "Gateway", Broken)
    monkeypatch.setitem(runs.play.__kwdefaults__, "gateway", Broken)


@pytest.mark.usefixtures("broken")
def test_a_seed_that_fails_says_what_failed_and_how_to_see_it_again() -> None:
    result = check("--seeds", 2, "--first", CALM, "--values")
    assert result.exit_code == 1
    assert re.search(rf"^seed {CALM}: \d+\.\d{{4}} s: RuntimeError: broken in handle, line \d+$", result.output, re.M)
    again = f"reproduce: anchord sim check --seeds 1 --first {CALM} --values --trace"
    assert again in result.output.splitlines()
    assert "2 seeds, 2 failed" in result.output


@pytest.mark.usefixtures("broken")
def test_what_reproduces_a_failure_prints_all_that_happened_and_the_failure_at_its_place() -> None:
    traced = check("--seeds", 1, "--first", CALM, "--trace").output.splitlines()
    lines = [line for line in traced if re.match(r" +\d+\.\d{4} \S+ ", line)]
    assert any(re.search(r"host1 +is at gw\d acc\d", line) for line in lines)
    assert any(re.search(r"gw\d +> Send\(destination=gw\d, BindingUpdate\(sequence=1, ", line) for line in lines)
    assert "RuntimeError: broken" in lines[-1]
    assert lines == sorted(lines, key=lambda line: float(line.split()[0]))


def test_a_fault_that_is_never_met_fails_a_run_of_many_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = run(CALM)
    monkeypatch.setattr(runs, "run", lambda seed, **ways: replace(calm, seed=seed))
    result = check("--seeds", ENOUGH_SEEDS)
    assert result.exit_code == 1
    assert "never exercised: loss" in result.output and "never exercised: handovers" not in result.output
    assert check("--seeds", ENOUGH_SEEDS - 1).exit_code == 0


@pytest.mark.parametrize("count", ["handovers", "plainly", "by_tunnel", "between_hosts"])
def test_each_count_of_nothing_is_named(count: str) -> None:
    totals = Totals()
    everything = Outcome(0, (), 1, Counter(dict.fromkeys(FAULTS, 1)), 1, 1, 1, 1, ())
    totals.add(everything, 0.1)
    assert totals.never() == []
    totals = Totals()
    totals.add(replace(everything, **{count: 0}), 0.1)
    assert len(totals.never()) == 1


def test_as_many_anchors_told_as_kept_but_others_raise_nothing() -> None:
    """A late PBA named an anchor that the limit kept out: sorting by what was told met one that was not told."""
    assert not [line for line in run(131).violations if "Error" in line]


def test_a_seed_says_all_there_is_to_know() -> None:
    assert run(17, traced=True) == run(17, traced=True)


def test_messages_as_values_come_to_the_same() -> None:
    values, carried = run(17, as_bytes=False), run(17)
    assert (values.violations, values.handovers, values.faults) == (
        carried.violations,
        carried.handovers,
        carried.faults,
    )
