"""A Local Mobility Anchor as one object: inputs and the time in, outputs out.

It does one or both of two things, for different peers:

- ``plain_anchor.py``: the LMA of plain Proxy Mobile IPv6 (RFC 5213), for MAGs and for gateways that serve a node of
  theirs as its MAG. The D flag is clear.
- ``between.py``: the home LMA that stands between operators whose gateways do not reach each other. The D flag is set.

A PBU with D from anybody else is refused (RFC 8885 section 4.1).
"""

from __future__ import annotations

import itertools
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import HostState
from anchord.protocol.between import Between
from anchord.protocol.binding import Binding
from anchord.protocol.counters import Counters, PeerCounters
from anchord.protocol.inputs import Input, Installed, MessageDropped, MessageReceived
from anchord.protocol.outputs import Output
from anchord.protocol.plain_anchor import PlainAnchor
from anchord.protocol.plain_binding import PlainBinding
from anchord.protocol.settings import LmaSettings
from anchord.protocol.timers import Instant
from anchord.wire.messages import (
    BindingError,
    BindingRevocationAcknowledgement,
    BindingUpdate,
    BindingUpdateFlag,
    Heartbeat,
)


class Lma:
    """The protocol of an LMA. Not thread-safe; never blocks; never raises on anything that arrives."""

    def __init__(self, settings: LmaSettings) -> None:
        self.settings = settings
        tickets = itertools.count(1)
        self._between = Between(settings, lambda: next(tickets), self._has_plain)
        self._plain = PlainAnchor(settings, self._between.central, lambda: next(tickets))
        for peer in (*settings.domain.gateways, *sorted(settings.mags)):
            self.counters.peers.setdefault(peer, PeerCounters())

    @property
    def counters(self) -> Counters:
        """What was dropped, refused and repeated, by peer and cause."""
        return self._between.central.counters

    @property
    def plain_bindings(self) -> dict[str, PlainBinding]:
        """Sessions of plain Proxy Mobile IPv6, by key; for reading only."""
        return self._plain.bindings

    @property
    def bindings(self) -> dict[str, Binding]:
        """Sessions between operators, by session key; for reading only."""
        return self._between.central.bindings

    def forwarding(self) -> dict[str, HostState]:
        """What should be true in the kernel now, by session."""
        plain = {key: binding.forwarding() for key, binding in self._plain.bindings.items()}
        return {**plain, **self._between.forwarding()}

    def resting(self) -> dict[IPv6Network, float]:
        """Prefixes that were given back, and the wall-clock second at which each is free again."""
        return self._plain.resting()

    def restore(self, store: dict[str, dict[str, dict[str, Any]]], now: Instant) -> list[Output]:
        """Take over what an earlier process had persisted: ``{table: {key: value}}``. Call once, first.

        Everything that was true is declared again, so that the forwarding layer can tell it from leftovers.
        """
        self._plain.restore(store, now)
        return [*self._plain.take_outputs(), *self._between.restore(store, now)]

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """One input."""
        if isinstance(event, Installed):
            self._plain.installed(event, now)
            return [*self._plain.take_outputs(), *self._between.handle(event, now)]
        if isinstance(event, MessageReceived) and not self._is_between(event):
            self._plain.message(event, now)
            return self._plain.take_outputs()
        if isinstance(event, MessageReceived | MessageDropped):
            return self._between.handle(event, now)
        return []

    def _has_plain(self, peer: IPv6Address) -> bool:
        return self._plain.is_bound(peer)

    def _is_between(self, event: MessageReceived) -> bool:
        """A gateway of an operator that has agreed can be a MAG here as well: its PBUs without D are plain ones.

        What is about a peer and not about a session is the CMD's, whoever it comes from.
        """
        message = event.message
        plain = False
        if isinstance(message, BindingUpdate):
            plain = not message.flags & BindingUpdateFlag.DISTRIBUTED
        elif isinstance(message, BindingRevocationAcknowledgement):
            plain = self._plain.revoking.awaits(event.source, message)
        return isinstance(message, Heartbeat | BindingError) or (self._between.speaks_for(event.source) and not plain)

    def revoke(self, named: str | IPv6Network, now: Instant) -> tuple[list[str], list[Output]]:
        """End every session of a mobile node (identifier or MAC address), or the one that holds a prefix.

        Returns the nodes' identifiers.
        """
        names, outputs = self._between.revoke(named, now)
        names += self._plain.revoking.revoke(named, now)
        return names, [*outputs, *self._plain.take_outputs()]

    def next_timer_s(self) -> float | None:
        """When ``handle_timers`` wants to be called (monotonic seconds), or None."""
        times = [t for t in (self._plain.next_timer_s(), self._between.next_timer_s()) if t is not None]
        return min(times) if times else None

    def handle_timers(self, now: Instant) -> list[Output]:
        """Everything that is due at ``now``."""
        self._plain.handle_timers(now)
        return [*self._plain.take_outputs(), *self._between.handle_timers(now)]
