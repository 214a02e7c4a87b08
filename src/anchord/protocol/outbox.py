"""What every protocol object shares: a list of outputs, the counters that go with it, and who may speak to it."""

from __future__ import annotations

from typing import Any

from anchord.protocol.counters import Counters, PeerCounters
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.outputs import Output, Report, Send
from anchord.protocol.timers import Instant
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Heartbeat,
    UnknownMessage,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import MalformedOption

Admitted = (
    BindingUpdate
    | BindingAcknowledgement
    | Heartbeat
    | BindingRevocationIndication
    | BindingRevocationAcknowledgement
    | UpdateNotification
    | UpdateNotificationAcknowledgement
)


class Outbox:
    """Collects what a protocol object wants done; ``take_outputs`` hands it to the caller."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
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

        RFC 5213 section 5.3.1 (1), RFC 6275 section 9.2. Everything else is answered or counted here.
        """
        counters = self.counters.of(event.source)
        self.counters.heard(event.source, now)
        message = event.message
        if event.source not in self.counters.peers:
            counters.drop("unconfigured-peer")
        elif isinstance(message, UnknownMessage):
            self.unrecognized(event)
        elif isinstance(message, BindingError):
            counters.drop(f"binding-error.{message.status}")
        elif isinstance(message, BindingUpdate) and not _is_proxy_update(message, event.unicast):
            counters.drop("not-a-proxy-update")
        else:
            _count_malformed(counters, message)
            return message
        return None

    def unrecognized(self, event: MessageReceived) -> None:
        """A type of message that means nothing here (RFC 6275 section 9.2)."""
        self.counters.of(event.source).drop("unknown-type")
        if event.unicast:
            self.emit(Send(event.source, BindingError(BindingErrorStatus.UNRECOGNIZED_MH_TYPE)))


def _is_proxy_update(update: BindingUpdate, unicast: bool) -> bool:
    """RFC 5213 section 6.9.1.5: a PBU has P and A set, and goes to one node."""
    wanted = BindingUpdateFlag.PROXY | BindingUpdateFlag.ACKNOWLEDGE
    return unicast and update.flags & wanted == wanted


def _count_malformed(counters: PeerCounters, message: Admitted) -> None:
    for option in message.options:
        if isinstance(option, MalformedOption):
            counters.drop(f"malformed-option.{option.kind}")
