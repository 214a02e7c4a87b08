"""Whether peers are there, and whether they still know what they knew: Heartbeats (RFC 5847).

Each node has a Restart Counter, which changes when it has lost its sessions and only then. It stands in the same store
as the sessions: gone are both or neither. A node that finds its store empty takes the time of day as its new counter,
which is greater than any it had before, and says so to all its peers unasked (section 3.2). What is to be done about
a peer that has lost its sessions is the node's own business: ``lost_state`` is called.

A node uses it like this: ``restore`` once, ``heard`` for each admitted message, ``next_s`` and ``due`` as its timers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Generic, TypeVar

from anchord.protocol.outbox import Admitted, Outbox
from anchord.protocol.outputs import Persist, Send
from anchord.protocol.settings import Limits, Timing
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import UNSPECIFIED, BindingError, Heartbeat, HeartbeatFlag
from anchord.wire.options import RestartCounter

TABLE, KEY = "life", "restart"
EVERYBODY = UNSPECIFIED  # the timer of what all peers are told
# The unsolicited response has no answer, so it is said more than once; the first repetition comes after a second.
ANNOUNCEMENTS = 3
# However often a peer says that it does not know a binding, or that it was restarted: no more than once in so long does
# it get a question, or its sessions back.
PATIENCE_S = 1.0
# Work that a peer's loss makes is done in portions: one each TELL_EVERY_S, and so many sessions looked at for it.
TELL_EVERY_S = 0.05
LOOK_AT = 1000


@dataclass(slots=True)
class _Peer:
    sequence: int = 0  # of the last request
    waiting: bool = False  # it has not been answered
    asked_s: float = -1e9  # monotonic; when it left
    missed: int = 0  # requests in a row that were not answered (MISSING_HEARTBEAT)
    lost_s: float = -1e9  # monotonic; when it last turned out to have lost its sessions


class PeerLife:
    """Heartbeats to and from every configured peer of one node."""

    def __init__(
        self,
        out: Outbox,
        timing: Timing,
        limits: Limits,
        is_bound: Callable[[IPv6Address], bool],
        lost_state: Callable[[IPv6Address, Instant], None],
    ) -> None:
        """``is_bound``: whether there are bindings with a peer; ``lost_state``: a peer has forgotten its sessions."""
        self._out = out
        self._interval_s = timing.heartbeat_s
        self._allowed = limits.missing_heartbeats
        self._is_bound = is_bound
        self._lost_state = lost_state
        self._peers: dict[IPv6Address, _Peer] = {}
        self._timers: Timers[IPv6Address] = Timers()
        self._counter = 0
        self._announced = 0
        self._sequence = 0

    def restore(self, store: Mapping[str, Mapping[str, Mapping[str, Any]]], now: Instant) -> None:
        """Begin to live, with all that the node had persisted. Call after the node has restored everything else."""
        kept = store.get(TABLE, {}).get(KEY)
        if kept is None:
            self._counter = int(now.wall_s) % 2**32
            self._out.emit(Persist(TABLE, KEY, {"counter": self._counter}))
        else:
            self._counter = int(kept["counter"])
        if not any(store.values()):
            # RFC 5847 section 3.2 speaks of peers that had sessions; we have forgotten who did.
            self._announce(now)
        peers = list(self._out.counters.peers)
        for number, peer in enumerate(peers, 1):
            # Not all at once, neither now nor later.
            self._timers.set(peer, now.monotonic_s + self._interval_s * number / len(peers))

    @property
    def began_wall_s(self) -> int:
        """When the store began that this node has its sessions from (seconds since 1970, modulo 2^32)."""
        return self._counter

    def heard(self, source: IPv6Address, message: Admitted, now: Instant) -> bool:
        """A message of a configured peer; False if it is none of ours."""
        if isinstance(message, BindingError):
            self._doubt(source, now)
        elif not isinstance(message, Heartbeat):
            return False
        elif not message.flags & HeartbeatFlag.RESPONSE:
            # RFC 5847 section 3: always, bindings or not.
            self._respond(source, message.sequence, HeartbeatFlag.RESPONSE)
        elif message.flags & HeartbeatFlag.UNSOLICITED:
            self._told_counter(source, message, now)
        else:
            self._response(source, message, now)
        return True

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        return self._timers.next_s()

    def due(self, now: Instant) -> None:
        """Requests, and what has to be said more than once."""
        while (peer := self._timers.pop_due(now.monotonic_s)) is not None:
            if peer == EVERYBODY:
                self._announce(now)
            else:
                self._beat(peer, now)

    # Our own life

    def _announce(self, now: Instant) -> None:
        """To everybody, then to those that have been silent since: the others have heard it or are new themselves."""
        for peer, counters in self._out.counters.peers.items():
            if not self._announced or not counters.messages_in:
                self._respond(peer, 0, HeartbeatFlag.RESPONSE | HeartbeatFlag.UNSOLICITED)
        self._announced += 1
        if self._announced < ANNOUNCEMENTS:
            self._timers.set(EVERYBODY, now.monotonic_s + 2.0 ** (self._announced - 1))

    def _respond(self, peer: IPv6Address, sequence: int, flags: HeartbeatFlag) -> None:
        """RFC 5847 section 3.2: the Restart Counter is in every response."""
        self._out.emit(Send(peer, Heartbeat(sequence, flags, (RestartCounter(self._counter),))))

    # Theirs

    def _beat(self, address: IPv6Address, now: Instant) -> None:
        self._timers.set(address, now.monotonic_s + self._interval_s)
        peer = self._peers.setdefault(address, _Peer())
        counters = self._out.counters.of(address)
        if not self._may_ask(address):
            peer.waiting, peer.missed = False, 0
            counters.reachable = None
            return
        if peer.waiting:
            # RFC 5847 section 3.1: counted before the next request leaves.
            peer.missed += 1
            if peer.missed >= self._allowed and counters.reachable is not False:
                counters.reachable = False
                self._out.report("peer-down", "warning", peer=str(address), missed=peer.missed)
        self._ask(address, peer, now)

    def _may_ask(self, address: IPv6Address) -> bool:
        """RFC 5847 section 3: only who has bindings, and never again who does not know the message."""
        return self._out.understanding.knows(address, Heartbeat) and self._is_bound(address)

    def _ask(self, address: IPv6Address, peer: _Peer, now: Instant) -> None:
        self._sequence = (self._sequence + 1) % 2**32
        peer.sequence, peer.waiting, peer.asked_s = self._sequence, True, now.monotonic_s
        self._out.understanding.asked(address, Heartbeat, now)
        self._out.emit(Send(address, Heartbeat(peer.sequence, HeartbeatFlag(0))))

    def _doubt(self, address: IPv6Address, now: Instant) -> None:
        """It does not know a binding of ours (RFC 6275 section 11.3.6): has it lost more than that?"""
        peer = self._peers.setdefault(address, _Peer())
        if now.monotonic_s - peer.asked_s >= PATIENCE_S and not peer.waiting and self._may_ask(address):
            self._ask(address, peer, now)

    def _response(self, address: IPv6Address, message: Heartbeat, now: Instant) -> None:
        peer, counters = self._peers.get(address), self._out.counters.of(address)
        if peer is None or not peer.waiting or message.sequence != peer.sequence:
            counters.drop("unmatched-heartbeat")
            return
        peer.waiting, peer.missed = False, 0
        self._out.understanding.answered(address, Heartbeat)
        if counters.reachable is False:
            self._out.report("peer-up", peer=str(address))
        counters.reachable = True
        self._told_counter(address, message, now)

    def _told_counter(self, address: IPv6Address, message: Heartbeat, now: Instant) -> None:
        """RFC 5847 section 3.2: another value than before, and it has lost its sessions.

        Who says so unasked has lost them as well, whether or not we knew an earlier value.
        """
        option, counters = message.first(RestartCounter), self._out.counters.of(address)
        if option is None or option.value == counters.restart_counter:
            return
        news = counters.restart_counter is not None or bool(message.flags & HeartbeatFlag.UNSOLICITED)
        peer = self._peers.setdefault(address, _Peer())
        if news and now.monotonic_s - peer.lost_s < PATIENCE_S:
            counters.drop("restart-too-soon")  # and is news still when it says so again
            return
        counters.restart_counter = option.value
        if news:
            peer.lost_s = now.monotonic_s
            if self._is_bound(address):
                self._out.report("peer-lost-state", "warning", peer=str(address))
            self._lost_state(address, now)


Cause = TypeVar("Cause", bound=Hashable)


class Again(Generic[Cause]):
    """What is to be told of many sessions, a little at a time: handovers go on meanwhile.

    ``cause`` is why: a peer that has lost them, or an interface where something is different now.
    ``tell(cause, session, now)`` does it for one session and returns whether there was anything to tell.
    """

    def __init__(self, per_s: float, tell: Callable[[Cause, str, Instant], bool]) -> None:
        """``per_s``: how many sessions are told in a second, for all causes together."""
        self._portion = max(1, int(per_s * TELL_EVERY_S))
        self._every_s = max(TELL_EVERY_S, 1.0 / per_s)
        self._tell = tell
        self._left: dict[Cause, deque[str]] = {}
        self._at_s: float | None = None

    def start(self, cause: Cause, sessions: Iterable[str], now: Instant) -> None:
        """From the beginning, if this was being told already."""
        self._left[cause] = deque(sessions)
        self._at_s = now.monotonic_s

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        return self._at_s

    def due(self, now: Instant) -> None:
        """The next portion."""
        if self._at_s is None or self._at_s > now.monotonic_s:
            return
        told = looked = 0
        while self._left and told < self._portion and looked < LOOK_AT:
            cause = next(iter(self._left))
            sessions = self._left[cause]
            if sessions:
                looked += 1
                told += self._tell(cause, sessions.popleft(), now)
            if not sessions:
                del self._left[cause]
        self._at_s = now.monotonic_s + self._every_s if self._left else None
