"""Time as the protocol sees it: an instant that is handed in, and a list of what is due when."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)


class Instant(NamedTuple):
    """One moment on two clocks.

    ``monotonic_s`` drives every timer and never jumps. ``wall_s`` (seconds since 1970, UTC) is what RFC 5213
    timestamps carry and what survives a restart; a jump of it may delay a registration but never fires a timer.
    """

    monotonic_s: float
    wall_s: float


class Clock(Protocol):
    """Something that has to be looked at when a time has come."""

    def next_s(self) -> float | None:
        """When (monotonic seconds), or None."""


def next_of(clocks: Iterable[Clock]) -> float | None:
    """When the first of ``clocks`` has to be looked at (monotonic seconds), or None. Asked after every input."""
    next_s = None
    for clock in clocks:
        at_s = clock.next_s()
        if at_s is not None and (next_s is None or at_s < next_s):
            next_s = at_s
    return next_s


class Timers(Generic[K]):
    """Timers by key; setting one again moves it. Equal times fire in the order in which they were set."""

    def __init__(self) -> None:
        self._due: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._entry: dict[K, tuple[float, int]] = {}  # of each key, the one in the heap that counts
        self._serial = 0
        self._next_s: float | None = None
        self._is_known = True  # whether ``_next_s`` is what ``next_s`` would find: it is asked after every input

    def set(self, key: K, at_s: float) -> None:
        """Let ``key`` fall due at the monotonic time ``at_s`` (seconds), instead of any earlier setting."""
        self._serial += 1
        self._is_known = False
        self._due[key] = due = (at_s, self._serial)
        # What is put off, as each refresh does, is moved when its old time comes up: no dead entry is left behind.
        entry = self._entry.get(key)
        if entry is not None and entry[0] <= at_s:
            return
        self._entry[key] = due
        heapq.heappush(self._heap, (at_s, self._serial, key))
        # Cancelled timers, and those moved forward, leave one; the heap is rebuilt before they outgrow the live ones.
        if len(self._heap) > 64 + 2 * len(self._due):
            self._heap = [(at, serial, k) for k, (at, serial) in self._due.items()]
            heapq.heapify(self._heap)
            self._entry = dict(self._due)

    def cancel(self, key: K) -> None:
        """Forget ``key``; unknown keys are fine."""
        if self._due.pop(key, None) is not None:
            self._is_known = False

    def __contains__(self, key: object) -> bool:
        return key in self._due

    def next_s(self) -> float | None:
        """The monotonic time (seconds) of the next timer, or None when nothing is waiting."""
        if not self._is_known:
            self._next_s = self._find_next()
            self._is_known = True
        return self._next_s

    def _find_next(self) -> float | None:
        while self._heap:
            at_s, serial, key = self._heap[0]
            due = self._due.get(key)
            if due is not None and due[1] == serial:
                return at_s
            if self._entry.get(key) != (at_s, serial):
                heapq.heappop(self._heap)
            elif due is None:
                heapq.heappop(self._heap)
                del self._entry[key]
            else:
                heapq.heapreplace(self._heap, (*due, key))
                self._entry[key] = due
        return None

    def pop_due(self, now_s: float) -> K | None:
        """Take one key that is due at ``now_s``, or None."""
        at_s = self.next_s()
        if at_s is None or at_s > now_s:
            return None
        self._is_known = False
        key = heapq.heappop(self._heap)[2]
        del self._due[key], self._entry[key]
        return key
