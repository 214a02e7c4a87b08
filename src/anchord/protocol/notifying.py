"""How the CMD has a serving gateway register a node again: RFC 7077's Update Notification, FORCE-REREGISTRATION.

PBAs with the same sequence number only add to a list of anchors, so one that has become shorter is fetched by the
gateway: the PBA to its next PBU replaces what it had (decision 14). That PBU is as good an acknowledgement as the one
of section 4.2. RFC 7077 section 5.1 recommends not to ask for the latter here; we do, because a lost notification
would leave the node with a router to nowhere until the next refresh.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from anchord.protocol.binding import Binding
from anchord.protocol.exchange import Exchanges
from anchord.protocol.identity import mn_id_text
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Send
from anchord.protocol.revoking import Revocation, Revoking
from anchord.protocol.settings import DomainSettings
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import (
    NotificationFlag,
    NotificationReason,
    RevocationTrigger,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import MobileNodeIdentifier, MobileNodeLinkLayerIdentifier, Option


@dataclass(slots=True)
class _Pending:
    """A notification that no PBU has followed yet."""

    gateway: IPv6Address
    message: UpdateNotification
    binding: Binding
    repeated: int = 0
    acknowledged: bool = False


def register_again(
    sequence: int, flags: NotificationFlag, mn_id: MobileNodeIdentifier, link_layer_id: bytes | None
) -> UpdateNotification:
    """The receiver is to register this node again (RFC 7077 section 4.1, FORCE-REREGISTRATION)."""
    options: list[Option] = [mn_id]
    if link_layer_id is not None:
        options.append(MobileNodeLinkLayerIdentifier(link_layer_id))
    return UpdateNotification(sequence, int(NotificationReason.FORCE_REREGISTRATION), flags, tuple(options))


class Notifying:
    """Update Notifications, at most one for each session: whatever changes meanwhile is in the answer to the PBU."""

    def __init__(self, domain: DomainSettings, exchanges: Exchanges, revoking: Revoking, out: Outbox) -> None:
        """``revoking``: for gateways that do not know this message."""
        self._domain = domain
        self._exchanges = exchanges
        self._revoking = revoking
        self._out = out
        self._pending: dict[str, _Pending] = {}
        self._by_sequence: dict[tuple[IPv6Address, int], str] = {}
        self._timers: Timers[str] = Timers()

    def notify(self, binding: Binding, now: Instant) -> None:
        """Have the serving gateway register the node again, or else have it withdraw what the node holds no longer."""
        gateway = binding.serving.maar
        pending = self._pending.get(binding.key)
        if binding.ending or (pending is not None and pending.gateway == gateway):
            return
        if not self._out.understanding.knows(gateway, UpdateNotification):
            self._revoke(binding, now)
            return
        sequence, outputs = self._exchanges.next_sequence(gateway)
        message = register_again(sequence, NotificationFlag.ACKNOWLEDGE, binding.mn_id, binding.link_layer_id)
        self.answered(binding.key)
        self._pending[binding.key] = _Pending(gateway, message, binding)
        self._out.understanding.asked(gateway, UpdateNotification, now)
        self._by_sequence[gateway, sequence] = binding.key
        self._timers.set(binding.key, now.monotonic_s + self._domain.timing.notification_replay_s)
        self._out.emit(*outputs, Send(gateway, message))

    def answered(self, key: str) -> None:
        """The serving gateway has sent a PBU: its answer says everything."""
        pending = self._pending.pop(key, None)
        if pending is None:
            return
        self._timers.cancel(key)
        if self._by_sequence.get(number := (pending.gateway, pending.message.sequence)) == key:
            del self._by_sequence[number]

    def acknowledged(self, source: IPv6Address, ack: UpdateNotificationAcknowledgement) -> None:
        """RFC 7077 section 5.2."""
        counters = self._out.counters.of(source)
        key = self._by_sequence.get((source, ack.sequence))
        if key is None:
            counters.drop("unmatched-notification-ack")
            return
        pending = self._pending[key]
        pending.acknowledged = True
        self._out.understanding.answered(source, UpdateNotification)
        if ack.status >= 128:
            counters.drop(f"notification-failed.{ack.status}")
            self._report("notification-failed", pending, status=ack.status)

    def _revoke(self, binding: Binding, now: Instant) -> None:
        """RFC 5846 section 8.1: what the node no longer holds, by prefix. What it holds in addition has to wait."""
        self._out.counters.count("notifications.unable")
        announced = binding.announced(self._domain.mode)
        unannounced = [p for anchor in binding.anchors if anchor not in announced for p in anchor.prefixes]
        gone = tuple(p for p in (*binding.released, *unannounced) if p not in binding.serving.prefixes)
        if gone:
            node = (binding.serving.maar, binding.key, binding.mn_id, binding.link_layer_id)
            trigger = RevocationTrigger.POSSIBLE_OUT_OF_SYNC_BCE_STATE
            self._revoking.start(Revocation(*node, gone, trigger), now)

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        return self._timers.next_s()

    def due(self, now: Instant) -> None:
        """RFC 7077 section 5.2: the same message once more, with the D flag, a few times at most."""
        while (key := self._timers.pop_due(now.monotonic_s)) is not None:
            pending = self._pending[key]
            exhausted = pending.repeated >= self._domain.limits.notification_retransmits
            unable = not self._out.understanding.knows(pending.gateway, UpdateNotification)
            if pending.acknowledged or exhausted or unable:
                self.answered(key)
                if unable and pending.binding.serving.maar == pending.gateway and not pending.binding.ending:
                    self._revoke(pending.binding, now)
                elif exhausted and not pending.acknowledged:
                    self._report("notification-unanswered", pending)
                continue
            pending.repeated += 1
            pending.message = replace(pending.message, flags=pending.message.flags | NotificationFlag.RETRANSMITTED)
            self._out.counters.of(pending.gateway).repeated += 1
            self._timers.set(key, now.monotonic_s + self._domain.timing.notification_replay_s)
            self._out.emit(Send(pending.gateway, pending.message))

    def _report(self, event: str, pending: _Pending, **fields: object) -> None:
        mn_id = pending.message.first(MobileNodeIdentifier)
        name = "" if mn_id is None else mn_id_text(mn_id)
        self._out.report(event, "warning", mn=name, gateway=str(pending.gateway), **fields)
