"""How a serving gateway finds a node's other anchors, and has it known that it serves the node.

One interface, a file for each way (RFC 8885 section 3, draft-bernardos-dmm-distributed-anchoring section 3):

- ``registering.py``: the Central Mobility Database, whichever of its three modes it is in;
- ``directory.py``: a directory is read, then the anchors are asked directly: the draft's own procedure;
- ``direct.py``: nothing central at all; the anchor is known, or the neighbours are asked;
- ``Plain``: no mobility, for comparison.

Each ends in the same call: ``Serve``, with the anchors that are known by then. It may be made again with more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from anchord.protocol.core import GatewayCore
from anchord.protocol.groups import Anchor
from anchord.protocol.session import Session
from anchord.protocol.timers import Instant

Serve = Callable[[Session, tuple[Anchor, ...], Instant], None]


class Finder(Protocol):
    """One way to find anchors."""

    def register(self, session: Session, now: Instant) -> None:
        """The node has come: find its anchors, and have them forward to here."""

    def refresh(self, session: Session, now: Instant) -> None:
        """The node is still here."""

    def end(self, session: Session, now: Instant) -> None:
        """The session is over, and closed here already."""

    def abandon(self, session: Session) -> None:
        """The node is elsewhere: whatever was asked about it is void."""

    def is_waiting(self, session: Session) -> bool:
        """Whether something central was asked about the node and has not answered yet."""
        ...


class Plain:
    """A plain router: it serves with its own prefix, and nobody need know."""

    def __init__(self, core: GatewayCore, serve: Serve) -> None:
        self._core = core
        self._serve = serve

    def register(self, session: Session, now: Instant) -> None:
        """Nobody is asked."""
        self._serve(session, (), now)

    def refresh(self, session: Session, now: Instant) -> None:
        """It lives on."""
        self._core.lives_on(session, self._core.settings.domain.lifetimes.binding_s, now)

    def end(self, session: Session, now: Instant) -> None:
        """Nobody knew."""

    def abandon(self, session: Session) -> None:
        """Nothing was asked."""

    def is_waiting(self, session: Session) -> bool:
        """Never."""
        return False
