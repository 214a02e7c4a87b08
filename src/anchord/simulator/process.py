"""One node of the domain: a protocol object with a journal, a clock of its own, and the kernel it declares to.

A process may be killed between any two of its outputs. What it persisted survives if the store does; what the kernel
had installed goes on forwarding; declarations that had not been carried out are lost with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from anchord.declared import HostState
from anchord.protocol.inputs import Input
from anchord.protocol.outputs import Output
from anchord.protocol.timers import Instant
from anchord.simulator.forwarding import Plane

START_WALL_S = 1_700_000_000.0
Journal = dict[str, dict[str, dict[str, Any]]]


class Machine(Protocol):
    """A gateway or a CMD."""

    def restore(self, journal: Journal, now: Instant) -> list[Output]:
        """Begin."""
        ...

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """One input."""
        ...

    def handle_timers(self, now: Instant) -> list[Output]:
        """What is due."""
        ...

    def next_timer_s(self) -> float | None:
        """When something is."""
        ...


class Process:
    """``make`` starts it; ``life`` counts starts, so that what belonged to an earlier one is known."""

    def __init__(self, name: str, make: Callable[[], Machine], plane: Plane | None) -> None:
        self.name = name
        self.make = make
        self.plane = plane
        self.machine: Machine | None = None  # None: it is dead
        self.life = 0
        self.journal: Journal = {}
        self.skew_s = 0.0
        self.wake_s: float | None = None  # when its timers will be looked at
        self.kernel_free_s = 0.0
        self.refuses = False  # the kernel says no
        self.cut_after: int | None = None  # it dies after so many outputs of its next batch
        self.filtered: set[tuple[str, bytes]] = set()
        self.filtering: dict[tuple[str, bytes], bool] = {}  # what was ordered last, and not done yet
        self.wanted: dict[str, HostState] = {}  # all that this process has declared

    def instant(self, now_s: float) -> Instant:
        """What it thinks the time is."""
        return Instant(now_s, START_WALL_S + now_s + self.skew_s)

    def begin(self) -> Journal:
        """A new process; what it finds in its store."""
        self.machine = self.make()
        self.life += 1
        self.wake_s = None
        self.filtered, self.filtering, self.wanted = set(), {}, {}
        journal: Journal = json.loads(json.dumps(self.journal))
        return journal

    def die(self, keep_journal: bool) -> None:
        """kill -9; without its journal: the machine was replaced by another, with an empty kernel."""
        self.machine = None
        self.cut_after = None
        if not keep_journal:
            self.journal = {}
            if self.plane is not None:
                self.plane.forget_all()

    def persist(self, table: str, key: str, value: dict[str, Any] | None) -> None:
        """Into the store."""
        rows = self.journal.setdefault(table, {})
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
