"""What the CMD tells a serving gateway of a node's anchors, and when: its three modes (RFC 8885 section 3).

- Proxy (section 3.4): at once, from what is known.
- Relay (section 3.2): the anchors' answers are gathered; the serving gateway hears of those that agreed. A timer
  releases a partial answer, and what comes later is added under the same sequence number (decision 12).
- Locator (section 3.3): the anchors answer the serving gateway too. What the CMD owes it is a status, a lifetime and
  the list, complete, when all have answered or the timer says so (decision 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from anchord.protocol.agreement import agreement_option, agrees
from anchord.protocol.anchoring import PBA_FLAGS, echo_options
from anchord.protocol.binding import Binding, BindingCache
from anchord.protocol.checking import Request
from anchord.protocol.groups import Anchor, split_groups, write_group
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Persist, Send
from anchord.protocol.settings import DomainSettings, Mode
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import BindingAcknowledgement, Status
from anchord.wire.options import ALL_ZERO_PREFIX, HomeNetworkPrefix, LinkLocalAddress, Option

# What a PBA takes besides its groups: header, echoed options, some Home Network Prefixes (decision 33).
FIXED_BYTES = 180
# Anchors that answer late may share a message, if they come this close together (decision 12).
COALESCE_S = 0.02


@dataclass(slots=True)
class _Open:
    """A PBU some of whose anchors have not answered."""

    request: Request
    answered: bool = False  # with what was known then
    told: list[IPv6Address] = field(default_factory=list)  # the anchors that were named


class Answering:
    """PBAs to serving gateways."""

    def __init__(self, domain: DomainSettings, cache: BindingCache, out: Outbox) -> None:
        self._domain = domain
        self._cache = cache
        self._out = out
        self._open: dict[str, _Open] = {}
        self._timers: Timers[str] = Timers()

    def gather(self, binding: Binding, request: Request, now: Instant) -> None:
        """Answer when every anchor has, or the timer says so."""
        self._open[binding.key] = _Open(request)
        self._timers.set(binding.key, now.monotonic_s + self._domain.timing.gather_s)

    def answer(self, binding: Binding, request: Request) -> None:
        """Answer from what is known now (a repetition meanwhile, too: decision 12)."""
        self.forget(binding.key)
        if self._domain.mode is not Mode.PROXY and binding.unconfirmed:
            self._open[binding.key] = _Open(request)
        self._first(binding, request)

    def is_gathering(self, binding: Binding) -> bool:
        """Whether the serving gateway has not been answered at all."""
        waiting = self._open.get(binding.key)
        return waiting is not None and not waiting.answered

    def settled(self, binding: Binding, now: Instant) -> bool:
        """An anchor has answered, or has left the list. False: nobody's question is open that this could belong to."""
        waiting = self._open.get(binding.key)
        if waiting is None:
            return False
        if waiting.answered and binding.awaited():
            if binding.key not in self._timers:
                self._timers.set(binding.key, now.monotonic_s + COALESCE_S)
        elif not binding.awaited():
            self._release(binding, waiting)
        return True

    def forget(self, key: str) -> None:
        """Nobody waits for this answer any more."""
        if self._open.pop(key, None) is not None:
            self._timers.cancel(key)

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        return self._timers.next_s()

    def due(self, now: Instant) -> None:
        """The gathering is over, or late answers have been collected."""
        while (key := self._timers.pop_due(now.monotonic_s)) is not None:
            binding = self._cache.by_key[key]
            waiting = self._open[key]
            if not waiting.answered:
                self._out.counters.count("gathering.partial")
            self._release(binding, waiting)

    def _release(self, binding: Binding, waiting: _Open) -> None:
        self._timers.cancel(binding.key)
        if waiting.answered:
            late = [anchor for anchor in binding.announced(self._domain.mode) if anchor.maar not in waiting.told]
            if late:
                waiting.told += [anchor.maar for anchor in late]
                # Which of its prefixes a node without a new one is to prefer, the newest, only the whole list says.
                everyone = binding.announced(self._domain.mode)
                self._send(binding, waiting.request, everyone if binding.withheld else late)
        else:
            # What the anchors said is kept before the serving gateway is told so.
            self._persist(binding)
            self._first(binding, waiting.request)
        if not binding.unconfirmed:
            self.forget(binding.key)

    def _first(self, binding: Binding, request: Request) -> None:
        anchors = binding.announced(self._domain.mode)
        if binding.withheld and not anchors:
            # The node must have one prefix that works, whatever its budget says.
            binding.withheld = False
            self._persist(binding)
        waiting = self._open.get(binding.key)
        if waiting is not None:
            waiting.answered = True
            waiting.told = [anchor.maar for anchor in anchors]
        self._send(binding, request, anchors)

    def _persist(self, binding: Binding) -> None:
        self._out.emit(Persist("binding", binding.key, binding.to_json()))

    def _send(self, binding: Binding, request: Request, anchors: Sequence[Anchor]) -> None:
        """RFC 5213 section 5.3.6 and RFC 8885 section 3.2 (4): one group of options for each anchor."""
        update, gateway, domain = request.update, request.gateway.address, self._domain
        # Withheld: accepted, but no prefix is assigned to the node (decision 18 a).
        prefixes = [HomeNetworkPrefix(ALL_ZERO_PREFIX)] if binding.withheld else None
        echoed = [_link_local(option, binding) for option in echo_options(update, prefixes=prefixes)]
        same = agrees(update.options, domain.digest)
        if self._out.counters.agreement(gateway, same):
            self._out.report("domain-differs", "error", peer=str(gateway))
        lifetime_s = min(update.lifetime_s, domain.lifetimes.binding_s)
        for part in split_groups(anchors, FIXED_BYTES):
            options: list[Option] = [*echoed]
            if same is not None:
                options += agreement_option(domain.digest)
            for anchor in part:
                options += write_group(anchor)
            acknowledgement = BindingAcknowledgement(
                int(Status.ACCEPTED), update.sequence, lifetime_s, PBA_FLAGS, tuple(options)
            )
            self._out.emit(Send(gateway, acknowledgement))


def _link_local(option: Option, binding: Binding) -> Option:
    """RFC 5213 section 5.3.6: an all-zero Link-local Address asks for the one that the node's router is to use."""
    face = binding.serving.router
    if isinstance(option, LinkLocalAddress) and not int(option.address) and face is not None:
        return LinkLocalAddress(face.address)
    return option
