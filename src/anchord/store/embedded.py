"""A directory of one process: everything in memory, and in a store.

Questions wait for the next turn of the event loop, and all of one turn share a commit. A record whose time is long over
(``expires_wall_s`` in its value, seconds since 1970) is removed.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from itertools import islice

from anchord.store.directory import CompactedError, Directory, Entry, Lease, Outcome, Value
from anchord.store.interface import Change, Store, StoreError

TABLE, COUNTER, BEGAN = "directory", "directory-revision", "directory-began"
VALUE_BYTES = 4096  # 16 anchors take half of it
KEY_BYTES = 600  # of ASCII: an identifier of 253 bytes and a link-layer address, in hexadecimal
HISTORY = 10_000  # writes that a watch can catch up with
GRACE_S = 600.0  # how long an expired record is kept: clocks differ
PURGED_AT_ONCE = 1000  # records looked at in one go, about 0.5 ms


class EmbeddedDirectory(Directory):
    """A directory over ``store``.

    ``soon`` calls a function in the next turn of the loop, ``clock`` gives monotonic seconds; ``limit``: how many
    records there may be. ``failed`` is called if the store cannot be written: nothing is answered from then on.
    """

    def __init__(
        self,
        store: Store,
        limit: int,
        soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float],
        failed: Callable[[StoreError], None],
        now_wall_s: float,
    ) -> None:
        """Raises StoreError. ``now_wall_s`` (seconds since 1970) is when a store begins that holds nothing yet."""
        self._store, self._limit, self._soon, self._clock, self._failed = store, limit, soon, clock, failed
        tables = store.load()
        held = [Entry(key, row["revision"], row["value"]) for key, row in tables.get(TABLE, {}).items()]
        self.entries = {entry.key: entry for entry in sorted(held, key=lambda entry: entry.revision)}
        counted = tables.get(COUNTER, {}).get(TABLE, {}).get("revision", 0)
        self.revision: int = max([counted, *(entry.revision for entry in held)])
        began: float | None = tables.get(BEGAN, {}).get(TABLE, {}).get("wall_s")
        if began is None:
            began = now_wall_s
            self._store.commit([(BEGAN, TABLE, {"wall_s": began})])
        self.began_wall_s: float = began
        self._leases: dict[str, Lease] = {}
        self.counters: dict[str, int] = {}
        self._questions: list[Callable[[list[Change]], Callable[[], None]]] = []
        self._written: list[Entry] = []  # and not committed yet
        self._history: deque[Entry] = deque(maxlen=HISTORY)
        self._watchers: list[Callable[[Entry], None]] = []

    # Questions

    def get(self, key: str, answer: Callable[[Outcome], None]) -> None:
        """What is held under ``key``, when what was asked before is settled."""

        def settle(changes: list[Change]) -> Callable[[], None]:
            outcome = Outcome(self._held(key))
            return lambda: answer(outcome)

        self._ask(settle)

    def compare_and_set(self, key: str, revision: int, value: Value | None, answer: Callable[[Outcome], None]) -> None:
        """Write if nobody else has."""

        def settle(changes: list[Change]) -> Callable[[], None]:
            outcome = self._set(key, revision, value, changes)
            return lambda: answer(outcome)

        self._ask(settle)

    def _ask(self, settle: Callable[[list[Change]], Callable[[], None]]) -> None:
        self._questions.append(settle)
        if len(self._questions) == 1:
            self._soon(self._settle)

    def _settle(self) -> None:
        """One commit for all that wait; their answers afterwards."""
        questions, self._questions = self._questions, []
        changes: list[Change] = []
        answers = [settle(changes) for settle in questions]
        if not self._commit(changes):
            return
        for answer in answers:
            answer()

    def _commit(self, changes: list[Change]) -> bool:
        if not changes:
            return True
        try:
            self._store.commit([*changes, (COUNTER, TABLE, {"revision": self.revision})])
        except StoreError as error:
            self._failed(error)
            return False
        written, self._written = self._written, []
        for entry in written:
            self._history.append(entry)
            for watcher in list(self._watchers):
                watcher(entry)
        return True

    def _held(self, key: str) -> Entry:
        return self.entries.get(key, Entry(key, 0, None))

    def _set(self, key: str, revision: int, value: Value | None, changes: list[Change]) -> Outcome:
        held = self._held(key)
        if held.revision != revision:
            return Outcome(held, False)
        problem = self._too_much(held, value)
        if problem is not None:
            self.counters[problem] = self.counters.get(problem, 0) + 1
            return Outcome(held, False, problem)
        if held.value is None and value is None:
            return Outcome(held, True)
        self.revision += 1
        self._hold(Entry(key, self.revision, value), changes)
        return Outcome(self._held(key), True)

    def _too_much(self, held: Entry, value: Value | None) -> str | None:
        if value is None:
            return None
        if len(held.key) > KEY_BYTES:
            return "limit.key-bytes"
        if len(json.dumps(value)) > VALUE_BYTES:
            return "limit.value-bytes"
        return "limit.records" if held.value is None and len(self.entries) >= self._limit else None

    def _hold(self, entry: Entry, changes: list[Change]) -> None:
        """The newest is last in ``entries``, so that what may have expired is first."""
        self.entries.pop(entry.key, None)
        self._written.append(entry)
        if entry.value is None:
            changes.append((TABLE, entry.key, None))
        else:
            self.entries[entry.key] = entry
            changes.append((TABLE, entry.key, {"revision": entry.revision, "value": entry.value}))

    # Watching

    def watch(self, from_revision: int, changed: Callable[[Entry], None]) -> Callable[[], None]:
        """Every write from ``from_revision`` on, as far back as HISTORY goes. Raises CompactedError."""
        oldest = self._history[0].revision if self._history else self.revision + 1
        if from_revision < oldest and from_revision <= self.revision:
            raise CompactedError(f"revision {from_revision} is over, expected {oldest} or a later one")
        for entry in [entry for entry in self._history if entry.revision >= from_revision]:
            changed(entry)
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    # Who is alive

    def grant(self, owner: str, ttl_s: float) -> Lease:
        """Leases do not outlive the process: whoever is alive asks again soon."""
        lease = self._leases[owner] = Lease(owner, self._clock() + ttl_s)
        return lease

    def alive(self) -> list[str]:
        """Nobody at first: a directory that was just started has to be told."""
        return sorted(lease.owner for lease in self._leases.values() if lease.until_s > self._clock())

    # What is over

    def purge(self, now_wall_s: float) -> None:
        """Remove some records that have expired long ago, to be called once a second or so."""
        changes: list[Change] = []
        for entry in list(islice(self.entries.values(), PURGED_AT_ONCE)):
            if _expires_wall_s(entry.value) + GRACE_S < now_wall_s:
                self.revision += 1
                self._hold(Entry(entry.key, self.revision, None), changes)
                self.counters["expired"] = self.counters.get("expired", 0) + 1
            else:
                self.entries[entry.key] = self.entries.pop(entry.key)  # its next turn is after all others
        self._commit(changes)


def _expires_wall_s(value: Value | None) -> float:
    """When a record is over; at once if it does not say."""
    expires = (value or {}).get("expires_wall_s")
    if not isinstance(expires, int | float):
        return 0.0
    try:
        return float(expires)
    except OverflowError:  # JSON has integers that no float can hold
        return math.inf if expires > 0 else 0.0
