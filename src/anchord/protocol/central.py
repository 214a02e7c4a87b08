"""The Central Mobility Database (CMD) as one object: inputs and the time in, outputs out.

It knows for every mobile node which gateway serves it and which others anchor prefixes it still holds. When a gateway
registers a node, the anchors are told where it is now (``telling.py``) and the gateway is told who they are, before or
after they have answered: that is the mode (``answering.py``; RFC 8885 sections 3.2-3.4). Data packets never come here.

Where RFC 8885 contradicts RFC 5213: a PBU for a known node with a *new* prefix from another gateway is a handover, not
a second session (RFC 8885 section 3.2 (2) against RFC 5213 section 5.4.1.1; decision 6); a PBU with lifetime 0 counts
only from the serving gateway (section 3.5), or from an anchor that gives up its own prefix (decision 18).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.anchoring import PBA_FLAGS, echo_options, refusal
from anchord.protocol.answering import Answering
from anchord.protocol.binding import Binding, BindingCache
from anchord.protocol.checking import Checks, Request
from anchord.protocol.counters import Counters
from anchord.protocol.exchange import Exchanges
from anchord.protocol.groups import Anchor, read_groups
from anchord.protocol.identity import mac_text, mn_id_text
from anchord.protocol.inputs import Input, MessageDropped, MessageReceived
from anchord.protocol.learning import Learning
from anchord.protocol.notifying import Notifying
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Output, Persist, Send
from anchord.protocol.reminding import Reminding
from anchord.protocol.revoking import Revocation, Revoking, acknowledgement
from anchord.protocol.settings import CentralSettings, GatewayInfo, Mode
from anchord.protocol.telling import LEAST_LIFETIME_S, Telling
from anchord.protocol.timers import Clock, Instant, Timers, next_of
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    RevocationStatus,
    RevocationTrigger,
    Status,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import AccessTechnologyType, Handoff, HandoffIndicator

# Answer first, clean up later: the serving gateway has shown a node what it holds before it has to withdraw some of it.
SURPLUS_S = 1.0
_UNCHANGED = HandoffIndicator(Handoff.UNCHANGED)


class Central(Outbox):
    """The protocol of the CMD. Not thread-safe; never blocks; never raises on anything that arrives."""

    def __init__(self, settings: CentralSettings, is_bound: Callable[[IPv6Address], bool] = lambda peer: False) -> None:
        """``is_bound``: whether somebody else on this node has bindings with a peer."""
        domain = settings.domain
        super().__init__(Counters(tuple(domain.gateways)))
        self.settings = settings
        self._domain = domain
        self._cache = BindingCache()
        self._checks = Checks(settings, self._cache, self.counters)
        self._answering = Answering(domain, self._cache, self)
        self._exchanges = Exchanges(domain.timing, domain.limits, self.counters)
        self._revoking = Revoking(self, domain.timing, domain.limits, self._revoked)
        self._notifying = Notifying(domain, self._exchanges, self._revoking, self)
        self._telling = Telling(domain, self._cache, self._exchanges, self._answering, self._notifying, self)
        self._learning = Learning(domain, self._cache, self._telling, self._answering, self._notifying, self)
        self._reminding = Reminding(domain, self._cache, self._telling, self, is_bound)
        self._timers: Timers[tuple[str, str]] = Timers()
        self._clocks: tuple[Clock, ...] = (
            self._timers, self._exchanges, self._answering, self._notifying, self._reminding, self._revoking,
        )  # fmt: skip

    @property
    def bindings(self) -> dict[str, Binding]:
        """All sessions, by session key; for reading only."""
        return self._cache.by_key

    # Life

    def restore(self, store: dict[str, dict[str, dict[str, Any]]], now: Instant) -> list[Output]:
        """Take over what an earlier process had persisted: ``{table: {key: value}}``. Call once, first."""
        for peer, value in store.get("sequence", {}).items():
            self._exchanges.restore_sequence(IPv6Address(peer), int(value["reserved"]))
        refreshed = store.get("refreshed", {})
        for key, value in store.get("binding", {}).items():
            binding = Binding.from_json(key, value)
            if (times := refreshed.get(key)) is not None:
                binding.take_times(times)
            self._give_up_lost_pools(binding, now)
            self._cache.keep(binding)
            delay_s = max(binding.expires_wall_s - now.wall_s, 0.0)
            self._timers.set(("expire", key), now.monotonic_s + delay_s)
            if binding.ending:
                continue
            if self._may_anchor(binding.serving):
                self._ask_again(binding, now)
            else:
                # Whoever serves the node by now may say so: it then keeps what the others anchor.
                self._ends_soon(binding, now)
        self._telling.restore(store, now)
        self._reminding.restore(store, now)
        return self.take_outputs()

    def _give_up_lost_pools(self, binding: Binding, now: Instant) -> None:
        """No binding outlives its prefix (RFC 6275 section 10.3.1); that is valid while some gateway has its pool."""
        for anchor in [*binding.anchors]:
            if not self._may_anchor(anchor):
                binding.release(anchor, now.wall_s + self._domain.lifetimes.valid_s)
                self._persist(binding)
                self.report("anchor-released", mn=mn_id_text(binding.mn_id), anchor=str(anchor.maar), cause="pool")

    def _may_anchor(self, anchor: Anchor) -> bool:
        return all(self._domain.may_anchor(anchor.maar, prefix) for prefix in anchor.prefixes)

    def _ask_again(self, binding: Binding, now: Instant) -> None:
        """Who had not acknowledged where the node is may never have been told."""
        lifetime_s = int(binding.expires_wall_s - now.wall_s)
        for anchor in binding.anchors:
            if anchor.maar in binding.unconfirmed and lifetime_s >= LEAST_LIFETIME_S:
                self._telling.tell(binding, anchor, lifetime_s, now)

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """One input."""
        if isinstance(event, MessageReceived):
            self._message(event, now)
        elif isinstance(event, MessageDropped):
            self.counters.heard(event.source, now)
            self.counters.of(event.source).drop(event.cause)
        return self.take_outputs()

    def next_timer_s(self) -> float | None:
        """When ``handle_timers`` wants to be called (monotonic seconds), or None."""
        return next_of(self._clocks)

    def handle_timers(self, now: Instant) -> list[Output]:
        """Everything that is due at ``now``."""
        for exchange, outputs in self._exchanges.due(now):
            binding = self.bindings.get(exchange.session)
            if self._telling.is_in_vain(exchange, now):
                self._telling.stop(exchange.peer, exchange.session)
                # What would have been sent is not, but its number has been used.
                self.emit(*(output for output in outputs if isinstance(output, Persist)))
                continue
            if exchange.tries > 1:
                self.counters.of(exchange.peer).repeated += 1
            if binding is not None:
                # The anchor will remember this timestamp: a gateway's next PBU has to be newer (decision 11).
                binding.ticks = max(binding.ticks, exchange.ticks)
                self._telling.repeats(exchange, binding, now)
            self.emit(*outputs)
        self._answering.due(now)
        self._notifying.due(now)
        while (item := self._timers.pop_due(now.monotonic_s)) is not None:
            kind, key = item
            binding = self.bindings[key]
            if kind == "surplus":
                self._give_up_oldest(binding, now)
            elif binding.ending:
                self._end(binding, now)
            else:
                self._ends_soon(binding, now)
        self._reminding.due(now)
        self._revoking.due(now)
        return self.take_outputs()

    # Inputs

    def _message(self, event: MessageReceived, now: Instant) -> None:
        message = self.admit(event, now)
        if message is None or self._reminding.heard(event.source, message, now):
            return
        gateway = self._domain.gateways[event.source]
        if isinstance(message, BindingUpdate):
            self._update(message, gateway, now)
        elif isinstance(message, BindingAcknowledgement):
            self._telling.acknowledged(message, gateway, now)
        elif isinstance(message, UpdateNotificationAcknowledgement):
            self._notifying.acknowledged(event.source, message)
        elif isinstance(message, BindingRevocationAcknowledgement):
            self._revoking.acknowledged(event.source, message, now)
        elif isinstance(message, BindingRevocationIndication):
            # A gateway ends its sessions by PBUs with lifetime 0.
            self.emit(Send(event.source, acknowledgement(message, RevocationStatus.REVOCATION_FUNCTION_NOT_SUPPORTED)))
        else:
            self.unrecognized(event, now)

    def _update(self, update: BindingUpdate, gateway: GatewayInfo, now: Instant) -> None:
        verdict = self._checks.check(update, gateway, now)
        if isinstance(verdict, Request):
            self._accept(verdict, now)
            return
        self.counters.of(gateway.address).refuse(verdict)
        if verdict is Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED:
            self._learning.refused(update, gateway, now)
        last = None
        if verdict is Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            binding = self._cache.find(update)
            last = binding.sequence if binding is not None else None
        self.emit(Send(gateway.address, refusal(update, verdict, now, last)))

    # Registration

    def _accept(self, request: Request, now: Instant) -> None:
        """RFC 5213 section 5.3.1 (13), with the BCE test of decision 6: by node, whatever the prefix."""
        update, binding = request.update, request.binding
        if update.lifetime_s == 0:
            self._deregister(request, now)
            return
        if binding is not None and request.ticks and request.ticks == binding.ticks:
            if self._answering.is_gathering(binding):
                self.counters.of(request.gateway.address).drop("repeated-while-gathering")
            else:
                self._answering.answer(binding, request)
            return
        if binding is not None and self._changes_nothing(request, binding):
            self._refresh(request, binding, now)
            return
        moved = binding is None or binding.serving.maar != request.gateway.address
        # A gateway that was not allowed to show its prefix has no part in the session when the node has left it.
        dismissed = binding.serving if binding is not None and moved and binding.withheld else None
        binding = self._register(request, now)
        lifetime_s = min(update.lifetime_s, self._domain.lifetimes.binding_s)
        binding.expires_wall_s = now.wall_s + lifetime_s
        self._timers.set(("expire", binding.key), now.monotonic_s + lifetime_s)
        self._notifying.answered(binding.key)
        if self._domain.mode is Mode.PROXY:
            # Answer first: the node waits for this one (RFC 8885 section 3.4).
            self._persist(binding)
            self._answering.answer(binding, request)
            self._telling.tell_anchors(binding, moved, lifetime_s, now)
        else:
            # Ask first: the node waits for the slowest anchor (RFC 8885 section 3.2).
            awaited = self._telling.tell_anchors(binding, moved, lifetime_s, now)
            self._persist(binding)
            if awaited:
                self._answering.gather(binding, request, now)
            else:
                self._answering.answer(binding, request)
        if dismissed is not None:
            self._telling.dismiss(binding, dismissed, now)
        if moved and binding.released:
            self._tell_given_up(binding, now)

    @staticmethod
    def _changes_nothing(request: Request, binding: Binding) -> bool:
        """Whether this is a refresh (RFC 5213 section 6.9.1.3) after which everything but the times is as it was."""
        update, serving = request.update, binding.serving
        if binding.ending or binding.withheld or binding.unconfirmed or binding.released:
            return False
        if serving.maar != request.gateway.address or update.first(HandoffIndicator) != _UNCHANGED:
            return False
        technology = update.first(AccessTechnologyType)
        if technology is None or technology.value != binding.access_technology:
            return False
        face = read_groups(serving.maar, update.options).own
        router, networks = face.router or serving.router, face.local_networks
        return (request.prefixes, router, networks) == (serving.prefixes, serving.router, serving.local_networks)

    def _refresh(self, request: Request, binding: Binding, now: Instant) -> None:
        """Most of what a CMD does: nothing but the times is kept, and every anchor has agreed already."""
        lifetime_s = min(request.update.lifetime_s, self._domain.lifetimes.binding_s)
        binding.ticks = max(request.ticks, binding.ticks)
        binding.sequence = request.update.sequence
        binding.expires_wall_s = now.wall_s + lifetime_s
        binding.refreshes += 1
        self._timers.set(("expire", binding.key), now.monotonic_s + lifetime_s)
        self._notifying.answered(binding.key)
        self.emit(Persist("refreshed", binding.key, binding.times_to_json()))
        self._answering.answer(binding, request)
        self._telling.tell_anchors(binding, False, lifetime_s, now)

    def _register(self, request: Request, now: Instant) -> Binding:
        """What has become of the session."""
        update, binding = request.update, request.binding
        face = read_groups(request.gateway.address, update.options).own
        serving = replace(face, prefixes=request.prefixes)
        before: list[IPv6Network] = []
        if binding is None:
            binding = Binding(request.key, request.mn_id, request.link_layer_id, serving)
            known = False
            self._telling.stop(serving.maar, binding.key)  # the end of an earlier session may still be told
        else:
            before = binding.prefixes()
            binding.forget_released(now.wall_s)
            if binding.serving.maar != serving.maar:
                known = self._hand_over(binding, serving, now)
            else:
                binding.serving = replace(serving, router=serving.router or binding.serving.router)
                known = not binding.withheld
        if request.binding is None or update.first(HandoffIndicator) != HandoffIndicator(Handoff.UNCHANGED):
            self._learning.listed(binding, update)
        self._keep_budget(binding, known, now)
        self._cache.let_go(before)  # keep() enters again what the node still holds
        self._cache.keep(binding)
        binding.ending = False
        binding.ticks = max(request.ticks, binding.ticks)
        binding.sequence = update.sequence
        technology = update.first(AccessTechnologyType)
        binding.access_technology = technology.value if technology is not None else 0
        return binding

    def _hand_over(self, binding: Binding, serving: Anchor, now: Instant) -> bool:
        """RFC 8885 section 3.2 (2): the gateway just left becomes an anchor; an anchor that serves again is none.

        Returns whether the node has addresses of the new gateway's prefix already.
        """
        left, returned = binding.serving, binding.anchor(serving.maar)
        known = [] if returned is None else [*returned.prefixes]
        if returned is not None:
            binding.release(returned, now.wall_s + self._domain.lifetimes.valid_s)
        # A PBU* that still waits at the new serving gateway's is void: it is no anchor of this node now (decision 16).
        self._telling.stop(serving.maar, binding.key)
        if not binding.withheld:
            binding.anchors.append(left)
            if not self._may_anchor(left):  # its pool is gone (RFC 6275 section 10.3.1)
                binding.release(left, now.wall_s + self._domain.lifetimes.valid_s)
        binding.serving = serving
        binding.withheld = False
        binding.unsettle()
        self._give_up_surplus(binding, now)
        return all(prefix in known for prefix in serving.prefixes)

    def _give_up_surplus(self, binding: Binding, now: Instant) -> None:
        """While no anchor answers no prefix can be withheld; the list has a limit all the same (RFC 8885 section 6)."""
        while len(binding.anchors) > self._domain.limits.anchors_per_host:
            oldest = binding.anchors[0]
            binding.release(oldest, now.wall_s + self._domain.lifetimes.valid_s)
            self._telling.dismiss(binding, oldest, now)
            self.counters.count("limit.anchors")
            self.report("anchor-released", mn=mn_id_text(binding.mn_id), anchor=str(oldest.maar), cause="limit")

    def _keep_budget(self, binding: Binding, known: bool, now: Instant) -> None:
        """Decision 18 a: so many prefixes of a node live, given up ones included until its addresses are gone.

        When they are spent the node gets no new one, and the newest old one stays preferred. ``known``: the node has
        the serving gateway's prefix already.
        """
        if binding.released:
            for prefix in binding.serving.prefixes:
                known = binding.released.pop(prefix, None) is not None or known
        if known:
            binding.withheld = False
            return
        live = binding.live() + len(binding.serving.prefixes)
        withheld = live > self._domain.limits.anchors_per_host
        if withheld and not binding.withheld:
            self.counters.count("limit.prefixes")
            self.report("prefix-withheld", mn=mn_id_text(binding.mn_id), gateway=str(binding.serving.maar))
        binding.withheld = withheld
        if withheld:
            self._timers.set(("surplus", binding.key), now.monotonic_s + SURPLUS_S)

    def _give_up_oldest(self, binding: Binding, now: Instant) -> None:
        """P5: make room for another prefix. It is there when the lifetime of this one is over, so one is enough."""
        binding.forget_released(now.wall_s)
        if not binding.withheld or binding.ending or binding.released or len(binding.anchors) < 2:
            return
        oldest = binding.anchors[0]
        self._telling.withdraw(binding, oldest, now)
        self._telling.dismiss(binding, oldest, now)
        self.report("anchor-released", mn=mn_id_text(binding.mn_id), anchor=str(oldest.maar), cause="budget")

    # Ends

    def _deregister(self, request: Request, now: Instant) -> None:
        """RFC 5213 section 5.3.5: answered at once, carried out after MinDelayBeforeBCEDelete unless a PBU comes."""
        binding, gateway = request.binding, request.gateway.address
        if binding is not None and binding.serving.maar != gateway:
            self._deregister_anchor(request, binding, now)
            return
        if binding is not None:
            binding.ticks = max(binding.ticks, request.ticks)
            self._ends_soon(binding, now)
        self._acknowledge(request, 0)

    def _deregister_anchor(self, request: Request, binding: Binding, now: Instant) -> None:
        """An anchor gives up its own prefix, because nobody uses it (decision 18 b)."""
        gateway = request.gateway.address
        anchor = binding.anchor(gateway)
        if anchor is None:
            # It has no part in this, or no more: nothing changes but that it need not go on asking (decision 18).
            self._acknowledge(request, 0)
        elif sorted(anchor.prefixes) != sorted(request.prefixes):
            # RFC 5213 section 5.3.5 (1), RFC 8885 section 3.5: only the serving gateway ends a session.
            self.counters.of(gateway).drop("deregistration-not-serving")
        elif not self.settings.idle_release or anchor is binding.preferred(self._domain.mode):
            # RFC 8885 section 3.5, the second alternative: not while the node is in the domain. And never the prefix
            # that new connections are to take, however little the node has used it until now.
            binding.ticks = max(binding.ticks, request.ticks)
            self._acknowledge(request, max(int(binding.expires_wall_s - now.wall_s), LEAST_LIFETIME_S))
        else:
            binding.ticks = max(binding.ticks, request.ticks)
            self._telling.stop(gateway, binding.key)
            self._telling.withdraw(binding, anchor, now)
            self.report("anchor-released", mn=mn_id_text(binding.mn_id), anchor=str(gateway), cause="idle")
            self._acknowledge(request, 0)

    def _acknowledge(self, request: Request, lifetime_s: int) -> None:
        """A PBA without groups."""
        options = tuple(echo_options(request.update))
        ack = BindingAcknowledgement(int(Status.ACCEPTED), request.update.sequence, lifetime_s, PBA_FLAGS, options)
        self.emit(Send(request.gateway.address, ack))

    def _ends_soon(self, binding: Binding, now: Instant) -> None:
        """De-registered or expired: a PBU within MinDelayBeforeBCEDelete still finds every anchor (decision 20)."""
        binding.ending = True
        self._answering.forget(binding.key)
        self._notifying.answered(binding.key)
        delay_s = self._domain.timing.min_delay_before_bce_delete_s
        binding.expires_wall_s = now.wall_s + delay_s
        self._timers.set(("expire", binding.key), now.monotonic_s + delay_s)
        self._persist(binding)

    def _end(self, binding: Binding, now: Instant) -> None:
        """The session is over: every anchor is told, again and again (decision 20)."""
        self.report("ended", mn=mn_id_text(binding.mn_id))
        for anchor in binding.anchors:
            self._telling.tell(binding, anchor, 0, now)
        self._cache.forget(binding)
        self._answering.forget(binding.key)
        self._notifying.answered(binding.key)
        self._timers.cancel(("expire", binding.key))
        self._timers.cancel(("surplus", binding.key))
        self.emit(Persist("binding", binding.key, None), Persist("refreshed", binding.key, None))

    # Revocation by an administrator

    def revoke(self, named: str | IPv6Network, now: Instant) -> tuple[list[str], list[Output]]:
        """End every session of a mobile node (identifier or MAC address), or the one that holds a prefix.

        Returns the nodes' identifiers. Their serving gateways are asked to end it (RFC 5846 section 8.1); it is over
        when they have, or do not answer. A crash meanwhile leaves it as de-registered, so that it ends all the same.
        """
        if isinstance(named, IPv6Network):
            holder = self._cache.holder(named)
            bindings = [] if holder is None else [holder]
        else:
            texts = {key: (mn_id_text(b.mn_id), mac_text(b.link_layer_id or b"")) for key, b in self.bindings.items()}
            bindings = [self.bindings[key] for key, names in texts.items() if named in names]
        for binding in bindings:
            self._revoke(binding, now)
        return [mn_id_text(binding.mn_id) for binding in bindings], self.take_outputs()

    def _revoke(self, binding: Binding, now: Instant) -> None:
        self._ends_soon(binding, now)
        serving, trigger = binding.serving, RevocationTrigger.ADMINISTRATIVE_REASON
        revocation = Revocation(
            serving.maar, binding.key, binding.mn_id, binding.link_layer_id, serving.prefixes, trigger
        )
        self.report("revoked", mn=mn_id_text(binding.mn_id), prefixes=[str(p) for p in binding.prefixes()])
        self._revoking.start(revocation, now)

    def _tell_given_up(self, binding: Binding, now: Instant) -> None:
        """The new serving gateway has not seen what the node lost elsewhere and may still have addresses of.

        RFC 5846 section 8.1 has a message for prefixes that a node holds no more; a PBA has no option for them.
        """
        node = (binding.serving.maar, binding.key, binding.mn_id, binding.link_layer_id)
        trigger = RevocationTrigger.POSSIBLE_OUT_OF_SYNC_BCE_STATE
        self._revoking.start(Revocation(*node, tuple(binding.released), trigger), now)

    def _revoked(self, revocation: Revocation, now: Instant) -> None:
        """Nothing more is to be expected of that gateway; the node may have moved on meanwhile."""
        binding = self.bindings.get(revocation.session)
        if binding is None or revocation.trigger is not RevocationTrigger.ADMINISTRATIVE_REASON:
            return
        if binding.serving.maar == revocation.peer:
            self._end(binding, now)
        else:
            self._revoke(binding, now)

    # Small things

    def _persist(self, binding: Binding) -> None:
        self.emit(Persist("binding", binding.key, binding.to_json()))
