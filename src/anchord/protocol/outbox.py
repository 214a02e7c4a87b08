"""What every protocol object shares: a list of outputs, the counters that go with it, and who may speak to it."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

from anchord.protocol.counters import Counters, PeerCounters
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.outputs import Output, Report, Send
from anchord.protocol.timers import Instant
from anchord.protocol.understanding import Understanding
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Heartbeat,
    Status,
    UnknownMessage,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import MalformedOption, Timestamp

Admitted = (
    BindingUpdate
    | BindingAcknowledgement
    | Heartbeat
    | BindingRevocationIndication
    | BindingRevocationAcknowledgement
    | UpdateNotification
    | UpdateNotificationAcknowledgement
    | BindingError
)

# RFC 6275 section 9.3.3: Binding Errors are rate limited; to each peer no more than one in so many seconds.
ERROR_EVERY_S = 1.0
_PROXY_UPDATE = int(BindingUpdateFlag.PROXY | BindingUpdateFlag.ACKNOWLEDGE)


class Outbox:
    """Collects what a protocol object wants done; ``take_outputs`` hands it to the caller."""

    def __init__(self, counters: Counters, understanding: Understanding | None = None) -> None:
        self.counters = counters
        self.understanding = understanding or Understanding()
        self._error_sent_s: dict[IPv6Address, float] = {}  # monotonic, by configured peer
        self._outputs: list[Output] = []

    def emit(self, *outputs: Output) -> None:
        """Add to what the caller is to carry out."""
        for output in outputs:
            if isinstance(output, Send):
                self.counters.of(output.destination).messages_out += 1
            self._outputs.append(output)

    def take_outputs(self) -> list[Output]:
        """Everything emitted since the last call."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def report(self, event: str, level: str = "info", **fields: Any) -> None:
        """Tell the operator."""
        self.emit(Report(event, level, fields))

    def admit(self, event: MessageReceived, now: Instant) -> Admitted | None:
        """What is to be looked at further of what came in: only what a configured peer says, and only what is known.

        RFC 5213 section 5.3.1 (1), RFC 6275 section 9.2. Everything else is answered or counted here. A Binding Error
        is handed on only if it says that the peer does not know a binding.
        """
        counters = self.counters.heard(event.source, now)
        message = event.message
        if counters is self.counters.strangers:
            counters.drop("unconfigured-peer")
        elif isinstance(message, UnknownMessage):
            self.unrecognized(event, now)
        elif isinstance(message, BindingError):
            counters.drop(f"binding-error.{message.status}")
            if message.status == BindingErrorStatus.UNKNOWN_BINDING:
                return message
            self._error(event.source, message, now)
        elif isinstance(message, BindingUpdate) and not _is_proxy_update(message, event.unicast):
            counters.drop("not-a-proxy-update")
        else:
            _count_malformed(counters, message)
            return message
        return None

    def _error(self, source: IPv6Address, error: BindingError, now: Instant) -> None:
        """Matched to what was sent; it changes nothing else (RFC 6275 section 9.2, RFC 5847 section 3)."""
        if error.status == BindingErrorStatus.UNRECOGNIZED_MH_TYPE:
            kind = self.understanding.refused(source, now)
            if kind is not None:
                self.report("type-unknown", "warning", peer=str(source), type=kind.__name__)

    def compare_clocks(self, peer: IPv6Address, ack: BindingAcknowledgement, now: Instant) -> None:
        """156: ``peer`` says that its clock and ours differ. Reported once, until it accepts something again.

        RFC 5213 section 6.9.1.2 (9): its time of day is for the operator to see; no clock is set by it.
        """
        counters, stamp = self.counters.of(peer), ack.first(Timestamp)
        if ack.status < 128:
            counters.clock_skew_ms = None
        elif ack.status == Status.TIMESTAMP_MISMATCH and stamp is not None:
            known = counters.clock_skew_ms is not None
            counters.clock_skew_ms = round((stamp.ticks / 65536 - now.wall_s) * 1000)
            if not known:
                self.report("clocks-differ", "error", peer=str(peer), skew_ms=counters.clock_skew_ms)

    def unrecognized(self, event: MessageReceived, now: Instant) -> None:
        """A type of message that means nothing here (RFC 6275 sections 9.2 and 9.3.3); ``admit`` has let it in."""
        counters = self.counters.of(event.source)
        if isinstance(event.message, BindingError):
            return  # counted already; an error is no reason for another one
        since_s = now.monotonic_s - self._error_sent_s.get(event.source, -1e9)
        if not event.unicast or since_s < ERROR_EVERY_S:
            counters.drop("unknown-type-unanswered")
            return
        counters.drop("unknown-type")
        self._error_sent_s[event.source] = now.monotonic_s
        self.emit(Send(event.source, BindingError(BindingErrorStatus.UNRECOGNIZED_MH_TYPE)))


def _is_proxy_update(update: BindingUpdate, unicast: bool) -> bool:
    """RFC 5213 section 6.9.1.5: a PBU has P and A set, and goes to one node."""
    return unicast and int(update.flags) & _PROXY_UPDATE == _PROXY_UPDATE


def _count_malformed(counters: PeerCounters, message: Admitted) -> None:
    for option in message.all(MalformedOption):
        counters.drop(f"malformed-option.{option.kind}")
