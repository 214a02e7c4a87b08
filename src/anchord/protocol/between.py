"""The home LMA between operators: to each of them, the gateways of all others are the LMA itself.

Gateways of different operators neither signal nor tunnel to each other. Both reach the LMA of the node's home operator,
which is the CMD of their nodes. So it is a ``Central`` like any other that knows all gateways, and two translations
around it: in what goes to a gateway, the address of another operator's gateway is replaced by the LMA's own. To the
new gateway it thereby is the anchor of the old prefix (option 67), to the old gateway the one that serves the node now
(option 68): PBU and PBA twice. What the two were told is made true by declaring the prefix in TRANSIT: two tunnels in
series, joined here.

Within one operator nothing changes: its gateways are told of each other, and tunnel to each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import HostState, PrefixEntry, Role
from anchord.protocol.agreement import EXPERIMENTAL
from anchord.protocol.binding import Binding
from anchord.protocol.central import Central
from anchord.protocol.identity import session_key
from anchord.protocol.inputs import Input, Installed, MessageReceived
from anchord.protocol.outputs import Declare, Output, Persist, Report, Send
from anchord.protocol.settings import CentralSettings, LmaSettings
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Status
from anchord.wire.options import (
    AnchoredPrefix,
    LocalPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    PreviousMaar,
    ServingMaar,
    UnknownOption,
)

# What the kernel refused is asked of it once more after so long, as everything else that is declared.
REDECLARE_S = 1.0


class Between:
    """A CMD whose answers hide the gateways of other operators, and the forwarding that makes them true."""

    def __init__(
        self, settings: LmaSettings, next_ticket: Callable[[], int], is_bound: Callable[[IPv6Address], bool]
    ) -> None:
        """``is_bound``: whether there are plain sessions with a peer."""
        domain = settings.domain
        self._me = settings.me.address
        self._operators = {
            address: gateway.operator
            for address, gateway in domain.gateways.items()
            if gateway.operator and gateway.operator in settings.operators
        }
        partners = {address: domain.gateways[address] for address in self._operators}
        self._domain = replace(domain, gateways=partners)
        self.central = Central(CentralSettings(self._domain, settings.listed, settings.denied), is_bound)
        self._next_ticket = next_ticket
        self._declared: dict[str, HostState] = {}  # what is not empty, by session
        self._refused: Timers[str] = Timers()  # sessions whose declaration is made once more
        self._installing: dict[str, int] = {}  # sessions whose newest declaration the kernel has not answered
        self._held: dict[str, list[Send]] = {}  # what must not leave before it has

    def speaks_for(self, address: IPv6Address) -> bool:
        """Whether ``address`` is a gateway of an operator that has agreed to this LMA."""
        return address in self._operators

    def forwarding(self) -> dict[str, HostState]:
        """What should be true in the kernel now, by session."""
        return dict(self._declared)

    def restore(self, store: dict[str, dict[str, dict[str, Any]]], now: Instant) -> list[Output]:
        """Take over what an earlier process had persisted, and declare it again."""
        outputs = self._carry(self.central.restore(store, now))
        for key in self.central.bindings:
            outputs += self._declare(key)
        return outputs

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """One input."""
        if isinstance(event, Installed):
            return self._installed(event, now)
        if isinstance(event, MessageReceived):
            event = replace(event, message=self._inwards(event.message))
        return self._carry(self.central.handle(event, now))

    def revoke(self, named: str | IPv6Network, now: Instant) -> tuple[list[str], list[Output]]:
        """As ``Central.revoke``."""
        names, outputs = self.central.revoke(named, now)
        return names, self._carry(outputs)

    def handle_timers(self, now: Instant) -> list[Output]:
        """Everything that is due at ``now``."""
        outputs = self._carry(self.central.handle_timers(now))
        while (key := self._refused.pop_due(now.monotonic_s)) is not None:
            outputs += self._declare(key, again=True)
        return outputs

    def next_timer_s(self) -> float | None:
        """When ``handle_timers`` wants to be called (monotonic seconds), or None."""
        times = [t for t in (self.central.next_timer_s(), self._refused.next_s()) if t is not None]
        return min(times) if times else None

    # Translation

    @staticmethod
    def _inwards(message: Any) -> Any:
        """Each operator has a domain file of its own: theirs is not compared with ours.

        An anchor's echo of the Serving MAAR is our own address. It says no more than the sequence number does, by
        which the answer is matched, and may be missing (decision 3).
        """
        if isinstance(message, BindingUpdate):
            return replace(message, options=tuple(o for o in message.options if not _is_agreement(o)))
        if isinstance(message, BindingAcknowledgement):
            return replace(message, options=tuple(o for o in message.options if not isinstance(o, ServingMaar)))
        return message

    def _outwards(self, send: Send) -> Send:
        message = send.message
        if not isinstance(message, BindingUpdate | BindingAcknowledgement):
            return send
        operator = self._operators.get(send.destination)
        options: list[Option] = []
        hidden = False  # whether the group that is being read is another operator's
        for option in message.options:
            if isinstance(option, PreviousMaar):
                hidden = self._operators.get(option.maar) != operator
                options.append(PreviousMaar(self._me, option.prefix) if hidden else option)
            elif isinstance(option, ServingMaar) and self._operators.get(option.address) != operator:
                options.append(ServingMaar(self._me))
            elif isinstance(option, LocalPrefix) and hidden:
                pass  # local networks are their operator's own: what is in transit is the node's prefix alone
            elif isinstance(option, AnchoredPrefix) and self._owner_of(option.prefix) != operator:
                pass  # what the node holds elsewhere is no other operator's business (RFC 8885 section 6)
            else:
                options.append(option)
        return Send(send.destination, replace(message, options=tuple(options)))

    def _owner_of(self, prefix: IPv6Network) -> str | None:
        owner = self._domain.anchor_of(prefix)
        return None if owner is None else owner.operator

    # Forwarding

    def _carry(self, outputs: list[Output]) -> list[Output]:
        """What the CMD wants done, with the forwarding that it does not know of."""
        carried: list[Output] = []
        for output in outputs:
            if isinstance(output, Persist) and output.table == "binding":
                carried.append(output)
                carried += self._declare(output.key)
            elif isinstance(output, Send):
                carried += self._let_go(self._outwards(output))
            else:
                carried.append(output)
        return carried

    def _let_go(self, send: Send) -> list[Output]:
        """A PBA that promises something waits until the kernel has what is promised."""
        ack = send.message
        if not isinstance(ack, BindingAcknowledgement) or ack.status >= 128 or not ack.lifetime_s:
            return [send]
        mn_id, link_layer_id = ack.first(MobileNodeIdentifier), ack.first(MobileNodeLinkLayerIdentifier)
        key = session_key(mn_id, link_layer_id.identifier if link_layer_id else None) if mn_id is not None else ""
        if key not in self._installing:
            return [send]
        self._held.setdefault(key, []).append(send)
        return []

    def _declare(self, key: str, again: bool = False) -> list[Output]:
        """Say what is true of a session, unless it has been said, and did not go wrong."""
        binding = self.central.bindings.get(key)
        state = HostState(key) if binding is None else self._forwarding(binding)
        if state == self._declared.get(key, HostState(key)) and not again:
            return []
        self._refused.cancel(key)
        if state.entries:
            self._declared[key] = state
        else:
            self._declared.pop(key, None)
        ticket = self._installing[key] = self._next_ticket()
        return [Declare(state, ticket)]

    def _forwarding(self, binding: Binding) -> HostState:
        """TRANSIT for each prefix whose anchor and serving gateway must not see each other."""
        if binding.ending:
            return HostState(binding.key)  # RFC 5213 section 5.3.5 (2): its traffic is dropped
        here = self._operators.get(binding.serving.maar)
        entries = (
            PrefixEntry(prefix, Role.TRANSIT, None, peer=binding.serving.maar, anchor=anchor.maar)
            for anchor in binding.anchors
            if self._operators.get(anchor.maar) != here
            for prefix in anchor.prefixes
        )
        return HostState(binding.key, entries=tuple(entries))

    def _installed(self, event: Installed, now: Instant) -> list[Output]:
        key = next((key for key, ticket in self._installing.items() if ticket == event.ticket), None)
        if key is None:
            return []  # overtaken by a newer declaration, whose answer is still to come; or none of ours
        del self._installing[key]
        held = self._held.pop(key, [])
        if event.error is None:
            return list(held)
        self.central.counters.count("forwarding.failed")
        # Declared again by then or with the next change; it may have been the end, which leaves nothing else to retry.
        self._declared.pop(key, None)
        self._refused.set(key, now.monotonic_s + REDECLARE_S)
        return [Report("forwarding-failed", "error", {"session": key, "error": event.error}), *map(_failed, held)]


def _is_agreement(option: Option) -> bool:
    return isinstance(option, UnknownOption) and option.kind == EXPERIMENTAL


def _failed(send: Send) -> Send:
    """The same PBA with the news that it cannot be kept."""
    ack = send.message
    assert isinstance(ack, BindingAcknowledgement)
    kept = tuple(option for option in ack.options if not isinstance(option, PreviousMaar))
    return replace(send, message=replace(ack, status=int(Status.INSUFFICIENT_RESOURCES), lifetime_s=0, options=kept))
