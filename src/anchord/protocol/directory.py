"""A directory is read, then the anchors are asked directly: the draft's own procedure.

draft-bernardos-dmm-distributed-anchoring section 3.2: the new gateway learns the node's anchors from a directory (an
HSS-like store that takes part in no signalling) and sends a PBU with D to each. The directory holds one record for each
session: who serves it, who anchors what, until when. It is written by whoever serves the node, and only if nobody else
has written since it was read.

A directory that is silent delays nobody: after ``fallback_s`` the node is served and its anchors are asked as in
``direct.py``, and the record is brought up to date when the directory is back. Nothing of this is journalled: a gateway
that was restarted reads the record at its next refresh.

A directory that knows nothing of a node that has come is not the last word: it may have lost its store. The addresses
that the node uses name its anchors all the same, and while the directory's store is young the neighbours are asked too.
When another store than before answers, every gateway writes the records of the nodes that it serves anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Network
from typing import Any

from anchord.protocol.budget import Budget
from anchord.protocol.core import GatewayCore
from anchord.protocol.direct import LISTEN_S, Direct, Doubt
from anchord.protocol.finder import Serve
from anchord.protocol.groups import Anchor
from anchord.protocol.inputs import DirectoryAnswered
from anchord.protocol.journal import prefix_text
from anchord.protocol.outputs import DirectoryGet, DirectoryPut
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant

# A question without answer is asked again after a second, then less often; but a directory that is back is to be used
# soon, for whatever it does not know yet is lost to the next gateway.
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 4.0


class _Asked(Enum):
    """What the directory owes an answer to."""

    NOTHING = 0
    READ = 1
    WRITE = 2


@dataclass(slots=True)
class _Entry:
    """The record of one session as far as we know it. One thing at a time is asked about it."""

    asked: _Asked = _Asked.NOTHING
    silences: int = 0  # questions without answer since it was last written
    revision: int | None = None  # None: not read yet
    listed: tuple[IPv6Network, ...] = ()  # what the record says of anchors, as we wrote it last
    released: tuple[IPv6Network, ...] = ()  # what it says was given up
    ended: bool = False  # the record is to go
    was_empty: bool = False  # there was none when the node came


class DirectoryFinder:
    """The directory's part of a session."""

    def __init__(self, core: GatewayCore, direct: Direct, budget: Budget, serve: Serve, doubt: Doubt) -> None:
        self._core = core
        self._budget = budget
        self._domain = core.settings.domain
        self._direct = direct
        self._serve = serve
        self._doubt = doubt
        self._entries: dict[str, _Entry] = {}  # of sessions that we serve, and of those whose record is to go
        self._began_wall_s: float | None = None  # the store of the directory that answers

    # As a finder

    def register(self, session: Session, now: Instant) -> None:
        """Read the record; everything follows from the answer."""
        self._core.persist(session)
        self._entries[session.key] = _Entry()
        self._tell(session.key, now)
        self._core.declare(session)
        if self._domain.serve_unregistered:
            self._core.timers.set(("fallback", session.key), now.monotonic_s + self._domain.timing.fallback_s)
        self._core.timers.set(("expire", session.key), now.monotonic_s + self._domain.lifetimes.binding_s)

    def refresh(self, session: Session, now: Instant) -> None:
        """Anchors and record are told that the node is still here."""
        self._direct.refresh(session, now)
        self._core.lives_on(session, self._domain.lifetimes.binding_s, now)
        self._core.persist(session)
        self._tell(session.key, now)

    def end(self, session: Session, now: Instant) -> None:
        """Anchors and record are told that it is over."""
        self._direct.end(session, now)
        entry = self._entries.setdefault(session.key, _Entry())
        entry.ended, entry.silences = True, 0
        self._tell(session.key, now)

    def abandon(self, session: Session) -> None:
        """The node is elsewhere, and its record is that gateway's."""
        self._direct.abandon(session)
        self._forget(session.key)

    def is_waiting(self, session: Session) -> bool:
        """Never: the lifetime is our own, and a directory that does not answer delays nobody."""
        return False

    # A directory that has lost its store

    def met(self, began_wall_s: float) -> list[str]:
        """A directory answers whose store began then. Returns the sessions whose records it has lost."""
        lost = self._began_wall_s not in (None, began_wall_s)
        self._began_wall_s = began_wall_s
        if not lost:
            return []
        for entry in self._entries.values():
            entry.revision = None  # revisions of another store mean nothing to this one
        told = [key for key in self._entries if self._is_served(key)]
        self._core.report("directory-lost-store", "warning", hosts=len(told))
        return told

    def record_again(self, key: str, now: Instant) -> bool:
        """Have the record written once more; False: the node is not served here any more."""
        if not self._is_served(key):
            return False
        self._tell(key, now)
        return True

    def knew_nothing(self, session: Session) -> bool:
        """Whether there was no record when the node came: what it uses may tell more."""
        entry = self._entries.get(session.key)
        return entry is not None and entry.was_empty

    def _is_served(self, key: str) -> bool:
        session = self._core.sessions.get(key)
        return session is not None and session.phase is Phase.SERVING

    def _is_young(self, now: Instant) -> bool:
        """Whether records may be missing that are due: within a binding's lifetime every one is renewed."""
        began_wall_s = self._began_wall_s
        return began_wall_s is not None and now.wall_s - began_wall_s < self._domain.lifetimes.binding_s

    # Asking the directory

    def found(self, session: Session, now: Instant) -> None:
        """Anchors have answered, or have given up: does the record say so?"""
        entry = self._entries.get(session.key)
        if entry is not None and self._is_outdated(entry, session):
            self._tell(session.key, now)

    def repeat(self, key: str, now: Instant) -> None:
        """No answer yet."""
        entry, session = self._entries.get(key), self._core.sessions.get(key)
        if entry is None or (session is None and (not entry.ended or entry.silences >= self._domain.limits.end_tries)):
            # What nobody could tell the directory of a session that is over, it finds out when the record expires.
            self._forget(key)
            return
        entry.silences += 1
        # Whether a write got through is not known: the record is read again before it is repeated.
        self._read(key, entry, now)

    def _tell(self, key: str, now: Instant) -> None:
        """Have the record say what is true here. Whatever is being asked already comes first, and leads to this."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.asked is not _Asked.NOTHING:
            return
        entry.silences = 0
        if entry.revision is None:
            self._read(key, entry, now)
        else:
            self._write(key, entry, now)

    def _read(self, key: str, entry: _Entry, now: Instant) -> None:
        self._wait(key, entry, _Asked.READ, now)
        self._core.emit(DirectoryGet(key))

    def _write(self, key: str, entry: _Entry, now: Instant) -> None:
        session = self._core.sessions.get(key)
        record = None
        if session is not None and not entry.ended:
            anchors = self._anchors_of(session)
            entry.listed = tuple(prefix for anchor in anchors for prefix in anchor.prefixes)
            entry.released = tuple(session.released)
            record = self._record(session, anchors, now)
        self._wait(key, entry, _Asked.WRITE, now)
        self._core.emit(DirectoryPut(key, entry.revision or 0, record))

    def _wait(self, key: str, entry: _Entry, asked: _Asked, now: Instant) -> None:
        entry.asked = asked
        pause_s = min(FIRST_PAUSE_S * 2 ** min(entry.silences, 8), LAST_PAUSE_S)
        self._core.timers.set(("directory", key), now.monotonic_s + pause_s)

    def _forget(self, key: str) -> None:
        self._entries.pop(key, None)
        self._core.timers.cancel(("directory", key))

    # The answer

    def answered(self, answer: DirectoryAnswered, now: Instant) -> None:
        """The directory has spoken."""
        key, entry = answer.key, self._entries.get(answer.key)
        awaited = _Asked.READ if answer.written is None else _Asked.WRITE
        if entry is None or entry.asked is not awaited:
            # Late; what was asked afterwards is answered afterwards.
            self._core.counters.count("directory.late")
            return
        self._core.timers.cancel(("directory", key))
        entry.asked, entry.revision = _Asked.NOTHING, answer.revision
        session = self._core.sessions.get(key)
        if entry.ended:
            self._remove(key, entry, answer.value, now)
        elif session is None or session.phase is Phase.AWAY:
            self._forget(key)
        elif answer.written:
            entry.silences = 0
            if self._is_outdated(entry, session):
                self._write(key, entry, now)
        elif self._is_newer(answer.value, session, now):
            # Somebody else has heard the node after us, and does not know of us: is it still here?
            self._core.report("directory-overtaken", session=key)
            self._forget(key)
            self._doubt(session, now)
        else:
            self._learn(session, entry, answer.value, now)

    def _remove(self, key: str, entry: _Entry, record: dict[str, Any] | None, now: Instant) -> None:
        """The session is over: so is its record, unless it is somebody else's by now."""
        serving = _serving(record)
        if serving is not None and serving.maar == self._core.settings.me.address:
            self._write(key, entry, now)
        else:
            self._forget(key)

    def _learn(self, session: Session, entry: _Entry, record: dict[str, Any] | None, now: Instant) -> None:
        """Ask every anchor of the record that we do not know yet, write ourselves into it, and serve."""
        arriving = session.phase is Phase.REGISTERING
        fresh = arriving or not session.registered
        if arriving:
            session.asked, session.anchors = {}, ()
        known = {prefix for anchor in session.anchors for prefix in anchor.prefixes}
        listed = _anchors(record, now)
        self._budget.learn_ages(session, (prefix for anchor in listed for prefix in anchor.prefixes))
        session.released = _released(record, now) | session.released
        for anchor in listed:
            info = self._domain.gateways.get(anchor.maar)
            prefixes = tuple(p for p in anchor.prefixes if info is not None and info.owns(p) and p not in known)
            if anchor.maar == self._core.settings.me.address or not prefixes:
                continue
            if not session.asked.get(anchor.maar):
                self._direct.ask(session, anchor.maar, prefixes, now)
        if arriving and not listed:
            entry.was_empty = True
            self._direct.start(session, now, neighbours=self._is_young(now))
            self._core.listen(session, LISTEN_S, now)
        session.registered = True
        self._write(session.key, entry, now)
        if fresh:
            self._core.lives_on(session, self._domain.lifetimes.binding_s, now)
            self._serve(session, session.anchors, now)

    # Records

    def _anchors_of(self, session: Session) -> list[Anchor]:
        """Who anchors something of a node: those that have said so, and those that have been asked and have not."""
        anchors = {anchor.maar: Anchor(anchor.maar, anchor.prefixes) for anchor in session.anchors}
        for maar, prefixes in session.asked.items():
            if prefixes and maar not in anchors and self._core.exchanges.outstanding(maar, session.key) is not None:
                anchors[maar] = Anchor(maar, prefixes)
        return list(self._budget.by_age(session, anchors.values()))

    def _is_outdated(self, entry: _Entry, session: Session) -> bool:
        """Whether the record lacks something, or lists what the node turned out not to hold."""
        held = [prefix for anchor in self._anchors_of(session) for prefix in anchor.prefixes]
        return set(held) != set(entry.listed) or any(prefix not in entry.released for prefix in session.released)

    def _record(self, session: Session, anchors: list[Anchor], now: Instant) -> dict[str, Any]:
        """What the directory is to hold. ``heard_wall_s``: when the node was last known to be at the serving gateway;
        ``expires_wall_s``: whoever finds the record later than that finds nothing."""
        return {
            "serving": Anchor(self._core.settings.me.address, (session.prefix,)).to_json(),
            "anchors": [anchor.to_json() for anchor in anchors],
            "released": {prefix_text(prefix): until for prefix, until in session.released.items()},
            "heard_wall_s": _heard_wall_s(session, now),
            "expires_wall_s": now.wall_s + self._domain.lifetimes.binding_s,
        }

    def _is_newer(self, record: dict[str, Any] | None, session: Session, now: Instant) -> bool:
        """Whether another gateway has heard the node after us. A node that has just come is here whoever says what."""
        serving = _serving(record)
        if serving is None or serving.maar == self._core.settings.me.address or session.phase is Phase.REGISTERING:
            return False
        heard = record.get("heard_wall_s") if record is not None else None
        return isinstance(heard, int | float) and heard > _heard_wall_s(session, now)


def _heard_wall_s(session: Session, now: Instant) -> float:
    return now.wall_s - (now.monotonic_s - session.heard_s)


def _serving(record: dict[str, Any] | None) -> Anchor | None:
    """Who serves a node according to a record; None if that makes no sense."""
    try:
        return None if record is None else Anchor.from_json(record["serving"])
    except (KeyError, TypeError, ValueError):
        return None


def _anchors(record: dict[str, Any] | None, now: Instant) -> list[Anchor]:
    """Everybody who anchors something according to a record; nobody if it has expired or makes no sense."""
    try:
        if record is None or record["expires_wall_s"] < now.wall_s:
            return []
        return [Anchor.from_json(value) for value in (*record["anchors"], record["serving"])]
    except (KeyError, TypeError, ValueError):
        return []


def _released(record: dict[str, Any] | None, now: Instant) -> dict[IPv6Network, float]:
    """What was given up, and the wall time until which the host has addresses of it; nothing if it makes no sense."""
    try:
        found = {IPv6Network(text): float(until) for text, until in (record or {}).get("released", {}).items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    return {prefix: until for prefix, until in found.items() if until > now.wall_s}
