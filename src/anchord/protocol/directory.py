"""A directory is read, then the anchors are asked directly: the draft's own procedure.

draft-bernardos-dmm-distributed-anchoring section 3.2: the new gateway learns the node's anchors from a directory (an
HSS-like store that takes part in no signalling) and sends a PBU with D to each. The directory holds one record for each
session: who serves it, who anchors what, until when. It is written by whoever serves the node, and only if nobody else
has written since it was read.

A directory that is silent delays nobody: after ``fallback_s`` the node is served and its anchors are asked as in
``direct.py``, and the record is brought up to date when the directory is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anchord.protocol.core import GatewayCore
from anchord.protocol.direct import Direct
from anchord.protocol.finder import Serve
from anchord.protocol.groups import Anchor, merge_anchors
from anchord.protocol.inputs import DirectoryAnswered
from anchord.protocol.outputs import DirectoryGet, DirectoryPut
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant

# A question without answer is asked again after a second, then ever more slowly, as PBUs are (RFC 6275 section 11.8).
FIRST_PAUSE_S = 1.0


@dataclass(slots=True)
class _Pending:
    """What the directory was asked about one session and has not answered."""

    writing: bool
    pause_s: float = FIRST_PAUSE_S


class DirectoryFinder:
    """The directory's part of a session."""

    def __init__(self, core: GatewayCore, direct: Direct, serve: Serve) -> None:
        self._core = core
        self._domain = core.settings.domain
        self._direct = direct
        self._serve = serve
        self._pending: dict[str, _Pending] = {}
        self._revisions: dict[str, int] = {}
        self._ended: dict[str, None] = {}  # sessions whose record is to go

    # As a finder

    def register(self, session: Session, now: Instant) -> None:
        """Read the record; everything follows from the answer."""
        self._core.persist(session)
        self._read(session.key, now)
        self._core.declare(session)
        if self._domain.serve_unregistered:
            self._core.timers.set(("fallback", session.key), now.monotonic_s + self._domain.timing.fallback_s)
        self._core.timers.set(("expire", session.key), now.monotonic_s + self._domain.lifetimes.binding_s)

    def refresh(self, session: Session, now: Instant) -> None:
        """Anchors and record are told that the node is still here."""
        self._direct.refresh(session, now)
        self._core.lives_on(session, self._domain.lifetimes.binding_s, now)
        self._core.persist(session)
        self._write(session, now)

    def end(self, session: Session, now: Instant) -> None:
        """Anchors and record are told that it is over."""
        self._direct.end(session, now)
        self._ended[session.key] = None
        self._write(session, now)

    def abandon(self, session: Session) -> None:
        """The node is elsewhere, and its record is that gateway's."""
        self._direct.abandon(session)
        self._forget(session.key)

    def is_waiting(self, session: Session) -> bool:
        """Whether the directory owes an answer."""
        return session.key in self._pending

    # The directory

    def found(self, session: Session, now: Instant) -> None:
        """More anchors have answered than the record lists: only while we find them without it."""
        if not session.registered and session.key not in self._pending:
            self._read(session.key, now)

    def repeat(self, key: str, now: Instant) -> None:
        """No answer yet."""
        pending = self._pending.get(key)
        if pending is None:
            return
        pending.pause_s = min(2 * pending.pause_s, self._domain.timing.max_bindack_s)
        self._core.timers.set(("directory", key), now.monotonic_s + pending.pause_s)
        # Whether a write got through is not known: the record is read again before it is repeated.
        self._core.emit(DirectoryGet(key))

    def answered(self, answer: DirectoryAnswered, now: Instant) -> None:
        """The directory has spoken."""
        key = answer.key
        pending = self._pending.pop(key, None)
        self._core.timers.cancel(("directory", key))
        self._revisions[key] = answer.revision
        session = self._core.sessions.get(key)
        if pending is None or answer.written:
            self._written(key, session)
        elif key in self._ended:
            self._put(key, None, now)
        elif session is None or session.phase is Phase.AWAY:
            self._forget(key)
        elif self._is_newer(answer.value, session):
            # Somebody else has the node by now; it will tell us, or has.
            self._core.report("directory-overtaken", "debug", session=key)
            self._forget(key)
        else:
            self._learn(session, answer.value, now)

    def _written(self, key: str, session: Session | None) -> None:
        if key in self._ended or session is None:
            self._forget(key)

    def _learn(self, session: Session, record: dict[str, Any] | None, now: Instant) -> None:
        """Ask every anchor of the record, write ourselves into it, and serve."""
        listed = [anchor for anchor in _anchors(record, now) if anchor.maar != self._core.settings.me.address]
        session.asked = {} if session.phase is Phase.REGISTERING else session.asked
        for anchor in listed:
            info = self._domain.gateways.get(anchor.maar)
            prefixes = tuple(prefix for prefix in anchor.prefixes if info is not None and info.owns(prefix))
            if prefixes and not session.asked.get(anchor.maar):
                self._direct.ask(session, anchor.maar, prefixes, now)
        fresh = session.phase is Phase.REGISTERING or not session.registered
        session.registered = True
        self._put(session.key, self._record(session, merge_anchors(tuple(listed), session.anchors), now), now)
        if fresh:
            self._core.lives_on(session, self._domain.lifetimes.binding_s, now)
            self._serve(session, session.anchors, now)

    def _read(self, key: str, now: Instant) -> None:
        self._wait(key, writing=False, now=now)
        self._core.emit(DirectoryGet(key))

    def _write(self, session: Session, now: Instant) -> None:
        ended = session.key in self._ended
        if session.key not in self._revisions:
            self._read(session.key, now)
        else:
            self._put(session.key, None if ended else self._record(session, session.anchors, now), now)

    def _put(self, key: str, record: dict[str, Any] | None, now: Instant) -> None:
        self._wait(key, writing=True, now=now)
        self._core.emit(DirectoryPut(key, self._revisions.get(key, 0), record))

    def _wait(self, key: str, writing: bool, now: Instant) -> None:
        self._pending[key] = _Pending(writing)
        self._core.timers.set(("directory", key), now.monotonic_s + FIRST_PAUSE_S)

    def _forget(self, key: str) -> None:
        self._pending.pop(key, None)
        self._revisions.pop(key, None)
        self._ended.pop(key, None)
        self._core.timers.cancel(("directory", key))

    def _record(self, session: Session, anchors: tuple[Anchor, ...], now: Instant) -> dict[str, Any]:
        """What the directory is to hold. ``expires_wall_s``: whoever finds it later than that finds nothing."""
        serving = Anchor(self._core.settings.me.address, (session.prefix,), session.router)
        return {
            "serving": serving.to_json(),
            "anchors": [anchor.to_json() for anchor in anchors],
            "ticks": session.ticks,
            "expires_wall_s": now.wall_s + self._domain.lifetimes.binding_s,
        }

    def _is_newer(self, record: dict[str, Any] | None, session: Session) -> bool:
        """Whether the record was written by another gateway after the node came here."""
        try:
            if record is None or Anchor.from_json(record["serving"]).maar == self._core.settings.me.address:
                return False
            return session.phase is not Phase.REGISTERING and bool(record["ticks"] > session.ticks)
        except (KeyError, TypeError, ValueError):
            return False


def _anchors(record: dict[str, Any] | None, now: Instant) -> list[Anchor]:
    """Everybody who anchors something according to a record; nobody if it has expired or makes no sense."""
    try:
        if record is None or record["expires_wall_s"] < now.wall_s:
            return []
        return [Anchor.from_json(value) for value in (*record["anchors"], record["serving"])]
    except (KeyError, TypeError, ValueError):
        return []
