"""How often one process does what its limits speak of: seen from outside, by its messages and by whom it takes in.

A restarted process is another one: what it does not remember it need not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any

from anchord.protocol.exchange import BURST_S
from anchord.protocol.settings import DomainSettings
from anchord.wire.messages import (
    BindingRevocationIndication,
    BindingUpdate,
    Message,
    UpdateNotification,
)
from anchord.wire.options import MobileNodeIdentifier

_EPSILON_S = 1e-6
Place = tuple[IPv6Address, bytes]  # who is told, and about whom


class Pace:
    """``sent`` looks at each message, ``attached`` at each arrival of a host; both say what is wrong, if anything.

    ``known``: the sessions of the process by key. Times in monotonic seconds.
    """

    def __init__(self, domain: DomainSettings, known: Mapping[str, Any]) -> None:
        self._limits = domain.limits
        self._known = known
        self._recent: dict[Place, deque[float]] = {}
        self._bucket_full_s = 0.0
        self._ends: dict[Place, int] = {}
        self._numbered: dict[tuple[IPv6Address, type, int], int] = {}
        self._room = float(self._limits.attach_burst)  # for arrivals
        self._room_s = 0.0  # when that was so

    def attached(self, now_s: float) -> str | None:
        """A host that was not here is."""
        limits = self._limits
        grown = self._room + (now_s - self._room_s) * limits.attaches_per_s
        self._room, self._room_s = min(float(limits.attach_burst), grown) - 1.0, now_s
        if self._room < -_EPSILON_S:
            return f"more arrivals than {limits.attaches_per_s} a second, {limits.attach_burst} at once"
        return None

    def sent(self, to: IPv6Address, message: Message, now_s: float) -> str | None:
        """What is wrong with sending this now."""
        kind = type(message)
        if kind is BindingUpdate:
            return self._update(to, message, now_s)  # type: ignore[arg-type]
        if kind is UpdateNotification:
            return self._repeated(to, message, 1 + self._limits.notification_retransmits)  # type: ignore[arg-type]
        if kind is BindingRevocationIndication:
            return self._repeated(to, message, 1 + self._limits.revocation_retries)  # type: ignore[arg-type]
        return None

    def _update(self, to: IPv6Address, update: BindingUpdate, now_s: float) -> str | None:
        mn_id = update.first(MobileNodeIdentifier)
        place = (to, b"" if mn_id is None else mn_id.identifier)
        recent = self._recent.get(place)
        if recent is None:
            recent = self._recent[place] = deque(maxlen=self._limits.max_update_rate + 1)
        recent.append(now_s)
        if len(recent) > self._limits.max_update_rate and recent[-1] - recent[0] < 1.0 - _EPSILON_S:
            return f"more than {self._limits.max_update_rate} updates in a second to {to}"
        # A bucket of BURST_S, kept as the time at which it will be full again; it may go below by one update.
        pause_s = 1.0 / self._limits.updates_per_s
        self._bucket_full_s = max(self._bucket_full_s, now_s) + pause_s
        if self._bucket_full_s - now_s > BURST_S + pause_s + _EPSILON_S:
            return f"more updates than {self._limits.updates_per_s} a second"
        return self._end(place, update)

    def _end(self, place: Place, update: BindingUpdate) -> str | None:
        """Nobody is told for ever that a session which is over here has ended; one try may be hurried."""
        if update.lifetime_s or any(place[1].hex() in key for key in self._known):
            self._ends.pop(place, None)
            return None
        tries = self._ends[place] = self._ends.get(place, 0) + 1
        if tries > self._limits.end_tries + 1:
            return f"{place[0]} is told of an end for the {tries}th time"
        return None

    def _repeated(
        self, to: IPv6Address, message: UpdateNotification | BindingRevocationIndication, limit: int
    ) -> str | None:
        number = (to, type(message), message.sequence)
        times = self._numbered[number] = self._numbered.get(number, 0) + 1
        return f"{type(message).__name__} {message.sequence} for the {times}th time" if times > limit else None
