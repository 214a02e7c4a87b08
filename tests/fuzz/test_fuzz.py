"""A share of ``make fuzz`` that fits into every run of the tests, and everything that it has ever found."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_directory import lines_into_a_directory
from fuzz_episode import Episode, Failure, Tally, minimised, parse, replay
from fuzz_run import RSS_GROWTH_BYTES, growth
from fuzz_snapshot import differences, snapshot
from fuzz_worlds import WORLDS

VECTORS = sorted((Path(__file__).parent.parent / "vectors" / "fuzz").glob("*.txt"))
INPUTS = 1500  # into each kind of node


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What a directory's client says of nonsense is right, and too much here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", WORLDS)
def test_nothing_invalid_is_raised_at_changes_or_grows_anything(target: str) -> None:
    tally = Tally()
    for seed in range(INPUTS // 250):
        Episode(target, seed, 250, tally).play()
    # The fuzzer is worth something only if it is refused for many reasons, and sometimes believed.
    assert tally.inputs >= INPUTS
    assert tally.refused > tally.inputs // 3
    assert tally.accepted > tally.inputs // 20
    assert len(tally.causes) >= 12 or target == "gateway-immobile"


def test_no_line_is_raised_at_and_what_is_refused_changes_no_record() -> None:
    tally = Tally()
    for seed in range(4):
        lines_into_a_directory(seed, 250, tally)
    assert tally.refused > 200 and tally.accepted > 100


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_what_was_found_once_is_found_no_more(path: Path) -> None:
    failure = replay(*parse(path.read_text()))
    assert failure is None, failure.what


def test_an_episode_is_the_same_whenever_it_is_played() -> None:
    first, second = (Episode("gateway-proxy", 3, 120) for _ in range(2))
    first.play()
    second.play()
    assert first.run.steps == second.run.steps
    assert differences(snapshot(first.run.node), snapshot(second.run.node)) == []


def test_a_change_by_something_refused_is_noticed_and_told_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from anchord.protocol.outbox import Outbox  # noqa: PLC0415

    def unrecognized(self: Outbox, event: object, now: object) -> None:
        self.counters.strangers.drop("x")
        self.counters.of(event.source).drop("unknown-type")  # type: ignore[attr-defined]
        self._core_was_here = event  # type: ignore[attr-defined]

    monkeypatch.setattr(Outbox, "unrecognized", unrecognized)
    with pytest.raises(Exception, match="_core_was_here") as caught:
        for seed in range(20):
            Episode("central-proxy", seed, 250).play()
    shortest = minimised(caught.value)  # type: ignore[arg-type]
    assert len(shortest.steps) == 1 and "_core_was_here" in shortest.what


def test_whatever_is_raised_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from anchord.protocol.outbox import Outbox  # noqa: PLC0415

    def unrecognized(self: Outbox, event: object, now: object) -> None:
        raise KeyError("nobody expected this")

    monkeypatch.setattr(Outbox, "unrecognized", unrecognized)
    with pytest.raises(Failure, match="nobody expected this"):
        for seed in range(20):
            Episode("central-proxy", seed, 250).play()


def test_what_grows_is_noticed_even_where_it_grows_by_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    from anchord.protocol.central import Central  # noqa: PLC0415

    handle = Central.handle

    def handle_and_keep(self: Central, event: object, now: object) -> object:
        self.__dict__.setdefault("_kept", []).append(0)
        return handle(self, event, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Central, "handle", handle_and_keep)
    monkeypatch.setattr("fuzz_episode.Run._compare", lambda *_: None)
    with pytest.raises(Failure, match=r"grown: \{'Central._kept': \d+"):
        Episode("central-proxy", 1, 250).play()


def test_memory_that_grows_over_a_run_is_noticed() -> None:
    level, rising = [50 << 20] * 40, [(50 + number) << 20 for number in range(200)]
    assert growth({1: level}) == 0
    assert growth({1: level, 2: rising}) > RSS_GROWTH_BYTES
