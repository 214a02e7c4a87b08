"""The directory of one process: compare-and-set, one commit a turn; what survives, is limited and can be watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchord.store import embedded
from anchord.store.directory import CompactedError, Entry, Outcome
from anchord.store.embedded import EmbeddedDirectory
from anchord.store.interface import Change, Store, StoreError
from anchord.store.memory import MemoryStore
from anchord.store.sqlite import SqliteStore

LATER = 4e9
BEGAN_WALL_S = 1.7e9


class Turn:
    """A directory whose turns are taken by hand, and everything that was answered."""

    def __init__(self, store: Store, limit: int = 1000) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.failures: list[StoreError] = []
        self.answers: list[Outcome] = []
        self.now_s = 0.0
        self.directory = EmbeddedDirectory(
            store, limit, self.waiting.append, lambda: self.now_s, self.failures.append, BEGAN_WALL_S
        )

    def get(self, key: str) -> None:
        self.directory.get(key, self.answers.append)

    def put(self, key: str, revision: int, value: dict[str, Any] | None) -> None:
        self.directory.compare_and_set(key, revision, value, self.answers.append)

    def take(self) -> list[Outcome]:
        """What is answered in this turn."""
        waiting, self.waiting[:] = list(self.waiting), []
        self.answers.clear()
        for call in waiting:
            call()
        return list(self.answers)


class Counted(MemoryStore):
    """A store that counts commits, and can be full."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.full = False
        self.at_commit: Callable[[], None] = lambda: None

    def commit(self, changes: Sequence[Change]) -> None:
        if self.full:
            raise StoreError("no space left")
        self.commits += 1
        self.at_commit()
        super().commit(changes)


@pytest.fixture
def turn() -> Iterator[Turn]:
    with closing(MemoryStore()) as store:
        yield Turn(store)


def test_nothing_is_held_at_revision_0_and_a_write_names_what_it_replaces(turn: Turn) -> None:
    turn.get("a")
    turn.put("a", 0, {"n": 1})
    turn.put("a", 0, {"n": 2})
    turn.put("a", 1, {"n": 3})
    turn.get("a")
    turn.put("a", 2, None)
    turn.get("a")
    assert turn.take() == [
        Outcome(Entry("a", 0, None)),
        Outcome(Entry("a", 1, {"n": 1}), True),
        Outcome(Entry("a", 1, {"n": 1}), False),
        Outcome(Entry("a", 2, {"n": 3}), True),
        Outcome(Entry("a", 2, {"n": 3})),
        Outcome(Entry("a", 0, None), True),
        Outcome(Entry("a", 0, None)),
    ]


def test_to_remove_nothing_is_done_already(turn: Turn) -> None:
    turn.put("a", 0, None)
    assert turn.take() == [Outcome(Entry("a", 0, None), True)]
    assert turn.directory.revision == 0


def test_all_of_one_turn_share_a_commit_and_are_answered_after_it() -> None:
    store = Counted()
    turn = Turn(store)
    store.commits = 0
    store.at_commit = lambda: turn.answers.append(Outcome(Entry("committed", 0, None)))
    for n in range(100):
        turn.put(f"{n}", 0, {"n": n})
    assert not turn.answers
    told = turn.take()
    assert store.commits == 1
    assert told[0].entry.key == "committed"
    assert [outcome.entry.revision for outcome in told[1:]] == list(range(1, 101))
    turn.get("1")
    turn.take()
    assert store.commits == 1, "to read costs none"


def test_what_cannot_be_committed_is_not_answered() -> None:
    store = Counted()
    turn = Turn(store)
    store.full = True
    turn.put("a", 0, {"n": 1})
    turn.get("a")
    assert turn.take() == []
    assert [str(error) for error in turn.failures] == ["no space left"]


def test_records_and_the_count_of_revisions_survive(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "dir.db")) as store:
        turn = Turn(store)
        turn.put("a", 0, {"n": 1})
        turn.put("b", 0, {"n": 2})
        turn.put("b", 2, None)
        turn.take()
    with closing(SqliteStore(tmp_path / "dir.db")) as store:
        turn = Turn(store)
        assert turn.directory.revision == 3, "that of a record that is no more counts too"
        turn.get("a")
        turn.put("b", 0, {"n": 3})
        assert turn.take() == [Outcome(Entry("a", 1, {"n": 1})), Outcome(Entry("b", 4, {"n": 3}), True)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.none() | st.integers(0, 3), st.booleans())))
def test_whatever_is_asked_a_restart_changes_no_answer(
    steps: list[tuple[str, int, int | None, bool]],
) -> None:
    store = MemoryStore()
    turn = Turn(store)
    model: dict[str, tuple[int, dict[str, Any]]] = {}
    revision = 0
    for key, expected, number, restart in steps:
        value = None if number is None else {"n": number}
        done = model.get(key, (0, None))[0] == expected
        turn.put(key, expected, value)
        (outcome,) = turn.take()
        assert outcome.done is done
        if done and (value is not None or key in model):
            revision += 1
            model.pop(key, None)
            if value is not None:
                model[key] = (revision, value)
        assert outcome.entry == Entry(key, *model.get(key, (0, None)))
        if restart:
            turn = Turn(store)
        assert turn.directory.revision == revision


def test_more_records_than_the_limit_are_refused_and_counted() -> None:
    turn = Turn(MemoryStore(), limit=2)
    for key in "abc":
        turn.put(key, 0, {"n": 1})
    turn.put("a", 1, {"n": 2})
    told = turn.take()
    assert [outcome.error for outcome in told] == [None, None, "limit.records", None]
    assert turn.directory.counters == {"limit.records": 1}
    turn.put("b", 2, None)
    turn.put("c", 0, {"n": 1})
    assert [outcome.done for outcome in turn.take()] == [True, True]


def test_long_keys_and_values_are_refused_and_counted(turn: Turn) -> None:
    turn.put("k" * (embedded.KEY_BYTES + 1), 0, {})
    turn.put("a", 0, {"v": "x" * embedded.VALUE_BYTES})
    assert [outcome.error for outcome in turn.take()] == ["limit.key-bytes", "limit.value-bytes"]
    assert turn.directory.counters == {"limit.key-bytes": 1, "limit.value-bytes": 1}
    assert not turn.directory.entries


def test_records_that_expired_long_ago_are_removed_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PURGED_AT_ONCE", 3)
    store = MemoryStore()
    turn = Turn(store)
    for n in range(10):
        turn.put(f"live{n}", 0, {"expires_wall_s": LATER})
        turn.put(f"old{n}", 0, {"expires_wall_s": 1000.0 + n})
    turn.put("says nothing", 0, {})
    turn.take()
    for _ in range(10):
        turn.directory.purge(1000.0 + embedded.GRACE_S)
    assert len(turn.directory.entries) == 20, "only what says nothing is over"
    for _ in range(10):
        turn.directory.purge(1100.0 + embedded.GRACE_S)
    assert set(turn.directory.entries) == {f"live{n}" for n in range(10)}
    assert turn.directory.counters == {"expired": 11}
    assert set(Turn(store).directory.entries) == set(turn.directory.entries)


@pytest.mark.parametrize("expires", [10**400, -(10**400)])
def test_a_time_that_no_float_can_hold_does_not_end_the_purging(turn: Turn, expires: int) -> None:
    turn.put("absurd", 0, {"expires_wall_s": expires})
    turn.put("old", 0, {"expires_wall_s": 0})
    turn.take()
    turn.directory.purge(1000.0 + embedded.GRACE_S)
    assert set(turn.directory.entries) == ({"absurd"} if expires > 0 else set())


def test_a_watch_tells_every_write_and_resumes_where_it_ended(turn: Turn) -> None:
    first: list[Entry] = []
    stop = turn.directory.watch(1, first.append)
    turn.put("a", 0, {"n": 1})
    turn.put("a", 1, None)
    assert first == []
    turn.take()
    assert first == [Entry("a", 1, {"n": 1}), Entry("a", 2, None)]
    stop()
    turn.put("b", 0, {"n": 2})
    turn.take()
    resumed: list[Entry] = []
    turn.directory.watch(first[-1].revision + 1, resumed.append)
    assert resumed == [Entry("b", 3, {"n": 2})]
    assert len(first) == 2


def test_a_watch_from_a_revision_that_is_not_known_any_more_is_refused() -> None:
    store = MemoryStore()
    turn = Turn(store)
    turn.put("a", 0, {"n": 1})
    turn.take()
    restarted = Turn(store)
    with pytest.raises(CompactedError):
        restarted.directory.watch(1, lambda entry: None)
    told: list[Entry] = []
    restarted.directory.watch(2, told.append)
    restarted.put("a", 1, {"n": 2})
    restarted.take()
    assert told == [Entry("a", 2, {"n": 2})]


def test_a_lease_runs_out_unless_it_is_renewed(turn: Turn) -> None:
    turn.directory.grant("gw1", 6.0)
    turn.directory.grant("gw2", 6.0)
    turn.now_s = 4.0
    assert turn.directory.grant("gw1", 6.0).until_s == 10.0
    assert turn.directory.alive() == ["gw1", "gw2"]
    turn.now_s = 6.0
    assert turn.directory.alive() == ["gw1"]


def test_a_store_tells_when_it_began_and_another_one_tells_another_time(tmp_path: Path) -> None:
    def directory_at(path: Path, now_wall_s: float) -> float:
        with closing(SqliteStore(path)) as store:
            fail = pytest.fail
            directory = EmbeddedDirectory(
                store, 1, lambda call: call(), lambda: 0.0, lambda error: fail(str(error)), now_wall_s
            )
            return directory.began_wall_s

    first, other = tmp_path / "first.db", tmp_path / "other.db"
    assert [directory_at(first, 1000.5), directory_at(first, 2000.0), directory_at(other, 3000.0)] == [
        1000.5, 1000.5, 3000.0,
    ]  # fmt: skip
