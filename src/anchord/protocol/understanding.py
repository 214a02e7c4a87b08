"""Which kinds of message each peer has turned out not to know.

A peer answers a type of message that it does not know by a Binding Error with status 2 (RFC 6275 section 9.2), which
does not say what it is about. It is matched to the one kind that the peer was asked with a moment ago and has never
answered; where there are several, or none, it changes nothing, and the next one may tell.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingRevocationIndication, Heartbeat, UpdateNotification

Kind = type[Heartbeat] | type[BindingRevocationIndication] | type[UpdateNotification]
"""What one may do without. A peer that does not know binding updates is no peer."""

# How long an answer to what was asked may take.
ANSWER_WITHIN_S = 2.0


class Understanding:
    """By peer and kind. A kind that a peer does not know is never sent to it again, until this process ends."""

    def __init__(self) -> None:
        self._asked: dict[tuple[IPv6Address, Kind], float] = {}
        self._known: dict[tuple[IPv6Address, Kind], bool] = {}

    def knows(self, peer: IPv6Address, kind: Kind) -> bool:
        """Whether ``peer`` may be sent this: unless it has said that it does not know it."""
        return self._known.get((peer, kind), True)

    def asked(self, peer: IPv6Address, kind: Kind, now: Instant) -> None:
        """A message of this kind leaves for ``peer``, and has to be answered."""
        if (peer, kind) not in self._known:
            self._asked[peer, kind] = now.monotonic_s

    def answered(self, peer: IPv6Address, kind: Kind) -> None:
        """``peer`` has answered: it knows the kind, whatever it says later."""
        self._known[peer, kind] = True
        self._asked.pop((peer, kind), None)

    def refused(self, peer: IPv6Address, now: Instant) -> Kind | None:
        """``peer`` does not know something that it was sent. Returns what that is, if it can be told."""
        since_s = now.monotonic_s - ANSWER_WITHIN_S
        recent = [kind for (other, kind), asked_s in self._asked.items() if other == peer and asked_s >= since_s]
        if len(recent) != 1:
            return None
        self._known[peer, recent[0]] = False
        del self._asked[peer, recent[0]]
        return recent[0]
