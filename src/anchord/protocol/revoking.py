"""Binding Revocation (RFC 5846), the side that revokes: an indication, repeated until acknowledged or given up.

What was revoked is over for whoever revokes it, whether the peer agrees, has forgotten it already, or says nothing
(sections 6.2.2 and 6.3): ``done`` is called once for each ``start``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from anchord.protocol.identity import mn_id_text
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Send
from anchord.protocol.settings import Limits, Timing
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import (
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    RevocationFlag,
    RevocationStatus,
    RevocationTrigger,
)
from anchord.wire.options import HomeNetworkPrefix, MobileNodeIdentifier, MobileNodeLinkLayerIdentifier, Option

# The peer has nothing (any more) of what was revoked.
_GONE = (RevocationStatus.SUCCESS, RevocationStatus.PARTIAL_SUCCESS, RevocationStatus.BINDING_DOES_NOT_EXIST)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is revoked at one peer. ``prefixes``: these only; none: everything that the node holds there."""

    peer: IPv6Address
    session: str
    mn_id: MobileNodeIdentifier
    link_layer_id: bytes | None
    prefixes: tuple[IPv6Network, ...]
    trigger: RevocationTrigger

    def options(self) -> tuple[Option, ...]:
        """RFC 5846 section 8.1; the link-layer identifier tells sessions of one node apart (decision 6)."""
        options: list[Option] = [self.mn_id, *(HomeNetworkPrefix(prefix) for prefix in self.prefixes)]
        if self.link_layer_id is not None:
            options.append(MobileNodeLinkLayerIdentifier(self.link_layer_id))
        return tuple(options)


# Peer, session and trigger: a prefix and the whole session may be revoked at once, for different reasons.
_Key = tuple[IPv6Address, str, RevocationTrigger]


@dataclass(slots=True)
class _Pending:
    revocation: Revocation
    message: BindingRevocationIndication
    timeout_s: float
    repeated: int = 0


class Revoking:
    """All revocations of one node that wait for an acknowledgement; of one peer, session and trigger the newest."""

    def __init__(
        self, out: Outbox, timing: Timing, limits: Limits, done: Callable[[Revocation, Instant], None]
    ) -> None:
        """``done``: nothing more is to be expected of the peer."""
        self._out = out
        self._timing = timing
        self._limits = limits
        self._done = done
        self._pending: dict[_Key, _Pending] = {}
        self._by_sequence: dict[tuple[IPv6Address, int], _Key] = {}
        self._timers: Timers[_Key] = Timers()
        self._sequence = 0

    def start(self, revocation: Revocation, now: Instant) -> None:
        """Revoke. A peer that does not know the message is asked nothing: it is done at once."""
        key = (revocation.peer, revocation.session, revocation.trigger)
        self._forget(key)
        if not self._out.understanding.knows(revocation.peer, BindingRevocationIndication):
            self._out.counters.count("revocation-unknown")
            self._done(revocation, now)
            return
        self._sequence = (self._sequence + 1) % 2**16
        message = BindingRevocationIndication(
            int(revocation.trigger), self._sequence, RevocationFlag.PROXY, revocation.options()
        )
        pending = self._pending[key] = _Pending(revocation, message, self._timing.revocation_s)
        self._by_sequence[revocation.peer, message.sequence] = key
        self._send(key, pending, now)

    def is_waiting(self, peer: IPv6Address, session: str, trigger: RevocationTrigger) -> bool:
        """Whether ``peer`` has been asked, for that reason, and has not answered yet."""
        return (peer, session, trigger) in self._pending

    def cancel(self, peer: IPv6Address, session: str, trigger: RevocationTrigger) -> None:
        """The reason is one no more: it is not said again."""
        self._forget((peer, session, trigger))

    def awaits(self, source: IPv6Address, ack: BindingRevocationAcknowledgement) -> bool:
        """Whether ``ack`` answers a revocation of ours."""
        return (source, ack.sequence) in self._by_sequence

    def acknowledged(self, source: IPv6Address, ack: BindingRevocationAcknowledgement, now: Instant) -> None:
        """RFC 5846 section 6.2.2: matched by sequence number; whatever it says, the peer has been told."""
        counters = self._out.counters.of(source)
        key = self._by_sequence.get((source, ack.sequence))
        if key is None:
            counters.drop("unmatched-revocation-ack")
            return
        self._out.understanding.answered(source, BindingRevocationIndication)
        revocation = self._pending[key].revocation
        if ack.status not in _GONE:
            counters.drop(f"revocation-refused.{ack.status}")
            self._report("revocation-refused", revocation, status=ack.status)
        self._forget(key)
        self._done(revocation, now)

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        return self._timers.next_s()

    def due(self, now: Instant) -> None:
        """RFC 5846 section 6.3: the same message again, after twice the time up to MAX_BRACK_TIMEOUT; then clean up."""
        while (key := self._timers.pop_due(now.monotonic_s)) is not None:
            pending = self._pending[key]
            known = self._out.understanding.knows(key[0], BindingRevocationIndication)
            if known and pending.repeated < self._limits.revocation_retries:
                pending.repeated += 1
                pending.timeout_s = min(pending.timeout_s * 2, self._timing.max_revocation_s)
                self._out.counters.of(key[0]).repeated += 1
                self._send(key, pending, now)
                continue
            self._report("revocation-unanswered", pending.revocation)
            self._forget(key)
            self._done(pending.revocation, now)

    def _send(self, key: _Key, pending: _Pending, now: Instant) -> None:
        self._timers.set(key, now.monotonic_s + pending.timeout_s)
        self._out.understanding.asked(key[0], BindingRevocationIndication, now)
        self._out.emit(Send(key[0], pending.message))

    def _forget(self, key: _Key) -> None:
        self._timers.cancel(key)
        pending = self._pending.pop(key, None)
        if pending is not None:
            self._by_sequence.pop((key[0], pending.message.sequence), None)

    def _report(self, event: str, revocation: Revocation, **fields: object) -> None:
        name, prefixes = mn_id_text(revocation.mn_id), [str(prefix) for prefix in revocation.prefixes]
        self._out.report(event, "warning", mn=name, peer=str(revocation.peer), prefixes=prefixes, **fields)


def acknowledgement(
    indication: BindingRevocationIndication, status: RevocationStatus, failed: Iterable[IPv6Network] = ()
) -> BindingRevocationAcknowledgement:
    """The answer to ``indication`` (RFC 5846 section 6.1.2); ``failed`` prefixes could not be revoked (section 9.1)."""
    mn_id = indication.first(MobileNodeIdentifier)
    named = () if mn_id is None else (mn_id,)
    options = (*named, *(HomeNetworkPrefix(prefix) for prefix in failed))
    return BindingRevocationAcknowledgement(int(status), indication.sequence, indication.flags, options)
