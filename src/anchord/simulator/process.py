"""One node of the domain: a protocol object with a journal, a clock of its own, and the kernel it declares to.

A process may be killed between any two of its outputs. What it persisted survives if the store does; what the kernel
had installed goes on forwarding; declarations that had not been carried out are lost with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Any, Protocol

from anchord.declared import HostState
from anchord.protocol.inputs import Input
from anchord.protocol.outputs import Output
from anchord.protocol.settings import DomainSettings
from anchord.protocol.timers import Instant
from anchord.simulator.forwarding import Plane
from anchord.simulator.limits import Containers, table
from anchord.simulator.pace import Pace

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

    def __init__(
        self, name: str, address: IPv6Address, domain: DomainSettings, make: Callable[[], Machine], plane: Plane | None
    ) -> None:
        self.name = name
        self.address = address
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
        self.inputs = 0  # since it was started
        self._domain = domain
        self._limits = table(domain.limits, len(domain.gateways))

    def lives(self, life: int) -> bool:
        """Whether it is still the one that was started as number ``life``."""
        return self.machine is not None and self.life == life

    def instant(self, now_s: float) -> Instant:
        """What it thinks the time is."""
        return Instant(now_s, START_WALL_S + now_s + self.skew_s)

    def begin(self) -> Journal:
        """A new process; what it finds in its store."""
        self.machine = self.make()
        self.containers = Containers(self.machine, self._limits)
        self.pace = Pace(self._domain, self.sessions)
        self.inputs = 0
        self.life += 1
        self.wake_s = None
        self.filtered, self.filtering, self.wanted = set(), {}, {}
        journal: Journal = json.loads(json.dumps(self.journal))
        return journal

    @property
    def sessions(self) -> Mapping[str, Any]:
        """All nodes that it knows, by session key."""
        known: Mapping[str, Any] = getattr(self.machine, "sessions" if self.plane is not None else "bindings")
        return known

    def die(self, keep_journal: bool) -> None:
        """kill -9; without its journal: the machine was replaced by another."""
        self.machine = None
        self.cut_after = None
        if not keep_journal:
            self.journal = {}

    def persist(self, table: str, key: str, value: dict[str, Any] | None) -> None:
        """Into the store."""
        rows = self.journal.setdefault(table, {})
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
