"""The Central Mobility Database (CMD) in proxy mode as one object: inputs and the time in, outputs out.

It knows for every mobile node which gateway serves it and which others anchor prefixes it still holds. A gateway that
registers a node is answered at once from that knowledge, and the anchors are told in parallel where the node is now
(RFC 8885 section 3.4). Data packets never come here.

Where RFC 8885 contradicts RFC 5213: a PBU for a known node with a *new* prefix from another gateway is a handover, not
a second session (RFC 8885 section 3.2 (2) against RFC 5213 section 5.4.1.1; decision 6); a PBU with lifetime 0 counts
only from the serving gateway (section 3.5).
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.agreement import agreement_option, agrees
from anchord.protocol.anchoring import PBA_FLAGS, echo_options, refusal
from anchord.protocol.binding import Binding, BindingCache
from anchord.protocol.checking import Checks, Request
from anchord.protocol.counters import Counters
from anchord.protocol.groups import Anchor, read_groups, split_groups, write_group
from anchord.protocol.identity import derive_router, mac_text, mn_id_text
from anchord.protocol.inputs import Input, MessageDropped, MessageReceived
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Output, Persist, Send
from anchord.protocol.reminding import Reminding
from anchord.protocol.revoking import Revocation, Revoking, acknowledgement
from anchord.protocol.settings import CentralSettings, GatewayInfo
from anchord.protocol.telling import Telling
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    RevocationStatus,
    RevocationTrigger,
    Status,
)
from anchord.wire.options import AccessTechnologyType, AnchoredPrefix, LinkLocalAddress, Option

# What a PBA takes besides its groups: header, echoed options, some Home Network Prefixes (decision 33).
FIXED_BYTES = 180


class Central(Outbox):
    """The protocol of the CMD. Not thread-safe; never blocks; never raises on anything that arrives."""

    def __init__(self, settings: CentralSettings) -> None:
        domain = settings.domain
        super().__init__(Counters(tuple(domain.gateways)))
        self.settings = settings
        self._domain = domain
        self._cache = BindingCache()
        self._checks = Checks(settings, self._cache, self.counters)
        self._revoking = Revoking(self, domain.timing, domain.limits, self._revoked)
        self._telling = Telling(domain, self._cache, self._revoking, self)
        self._reminding = Reminding(domain, self._cache, self._telling, self)
        self._exchanges = self._telling.exchanges
        self._timers: Timers[tuple[str, str]] = Timers()

    @property
    def bindings(self) -> dict[str, Binding]:
        """All sessions, by session key; for reading only."""
        return self._cache.by_key

    # Life

    def restore(self, store: dict[str, dict[str, dict[str, Any]]], now: Instant) -> list[Output]:
        """Take over what an earlier process had persisted: ``{table: {key: value}}``. Call once, first."""
        for peer, value in store.get("sequence", {}).items():
            self._exchanges.restore_sequence(IPv6Address(peer), int(value["reserved"]))
        for key, value in store.get("binding", {}).items():
            binding = Binding.from_json(key, value)
            self._cache.keep(binding)
            delay_s = max(binding.expires_wall_s - now.wall_s, 0.0)
            self._timers.set(("expire", key), now.monotonic_s + delay_s)
        self._reminding.restore(store, now)
        return self.take_outputs()

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
        clocks = (self._timers, self._exchanges, self._reminding, self._revoking)
        times = [t for clock in clocks if (t := clock.next_s()) is not None]
        return min(times) if times else None

    def handle_timers(self, now: Instant) -> list[Output]:
        """Everything that is due at ``now``."""
        for exchange, outputs in self._exchanges.due(now):
            binding = self.bindings.get(exchange.session)
            if binding is None and exchange.tries > self._domain.limits.end_tries:
                # The anchor's own dead-man timer frees what we cannot (decision 19).
                self._exchanges.forget(exchange.session, exchange.peer)
                continue
            if exchange.tries > 1:
                self.counters.of(exchange.peer).repeated += 1
            if binding is not None:
                # The anchor will remember this timestamp: a gateway's next PBU has to be newer (decision 11).
                binding.ticks = max(binding.ticks, exchange.ticks)
            self.emit(*outputs)
        while (item := self._timers.pop_due(now.monotonic_s)) is not None:
            binding = self.bindings.get(item[1])
            if binding is not None and binding.ending:
                self._end(binding, now)
            elif binding is not None:
                self._ends_soon(binding, now)
        self._reminding.due(now)
        self._revoking.due(now)
        return self.take_outputs()

    # Inputs

    def _message(self, event: MessageReceived, now: Instant) -> None:
        message = self.admit(event, now)
        if message is None:
            return
        gateway = self._domain.gateways[event.source]
        if isinstance(message, BindingUpdate):
            self._update(message, gateway, now)
        elif isinstance(message, BindingAcknowledgement):
            self._telling.acknowledged(message, gateway, now)
        elif isinstance(message, BindingRevocationAcknowledgement):
            self._revoking.acknowledged(event.source, message, now)
        elif isinstance(message, BindingRevocationIndication):
            # A gateway ends its sessions by PBUs with lifetime 0.
            self.emit(Send(event.source, acknowledgement(message, RevocationStatus.REVOCATION_FUNCTION_NOT_SUPPORTED)))
        elif not self._reminding.heard(event.source, message, now):
            self.unrecognized(event, now)

    def _update(self, update: BindingUpdate, gateway: GatewayInfo, now: Instant) -> None:
        verdict = self._checks.check(update, gateway, now)
        if isinstance(verdict, Request):
            self._accept(verdict, now)
            return
        self.counters.of(gateway.address).refuse(verdict)
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
            self._answer(request, binding)
            return
        face = read_groups(request.gateway.address, update.options).own
        serving = replace(face, prefixes=request.prefixes)
        released: list[Anchor] = []
        before = [] if binding is None else binding.prefixes()
        if binding is None:
            binding = Binding(request.key, request.mn_id, request.link_layer_id, serving)
            moved = False
        else:
            moved = binding.serving.maar != serving.maar
            if moved:
                released = self._hand_over(binding, serving)
            else:
                binding.serving = replace(serving, router=serving.router or binding.serving.router)
        self._cache.let_go(before)  # keep() enters again what the node still holds
        binding.ending = False
        binding.ticks = max(request.ticks, binding.ticks)
        binding.sequence = update.sequence
        technology = update.first(AccessTechnologyType)
        binding.access_technology = technology.value if technology is not None else 0
        lifetime_s = min(update.lifetime_s, self._domain.lifetimes.binding_s)
        binding.expires_wall_s = now.wall_s + lifetime_s
        self._timers.set(("expire", binding.key), now.monotonic_s + lifetime_s)
        if request.binding is None:
            self._remember_anchors(binding, update)
        self._cache.keep(binding)
        self._persist(binding)
        # Answer first: the node waits for this one (RFC 8885 section 3.4).
        self._answer(request, binding)
        for anchor in released:
            self._telling.tell(binding, anchor, 0, now)
        self._telling.tell_anchors(binding, moved, lifetime_s, now)

    def _hand_over(self, binding: Binding, serving: Anchor) -> list[Anchor]:
        """RFC 8885 section 3.2 (2): the gateway just left becomes an anchor; an anchor that serves again is none.

        Returns anchors that exceed the limit of the node and have to be released, oldest first (RFC 8885 section 6).
        """
        left = binding.serving
        binding.anchors = [a for a in binding.anchors if a.maar not in (serving.maar, left.maar)]
        binding.anchors.append(left)
        binding.serving = serving
        # A PBU* that still waits at the new serving gateway's is void: it is no anchor of this node now (decision 16).
        self._exchanges.cancel(serving.maar, binding.key)
        surplus = len(binding.anchors) + 1 - self._domain.limits.anchors_per_host
        released, binding.anchors = binding.anchors[: max(surplus, 0)], binding.anchors[max(surplus, 0) :]
        return released

    def _remember_anchors(self, binding: Binding, update: BindingUpdate) -> None:
        """Decision 26: we lost our store; a refresh lists what the node retains.

        Pools are exclusive, so each prefix names its anchor.
        """
        for option in update.all(AnchoredPrefix):
            owner = self._domain.anchor_of(option.prefix)
            if owner is None or owner.address == binding.serving.maar:
                continue
            known = binding.anchor(owner.address)
            if known is not None or not self._cache.may_hold(binding.key, option.prefix):
                continue
            router = derive_router(self._domain.secret, owner.name, binding.mn_id)
            binding.anchors.append(Anchor(owner.address, (option.prefix,), router, owner.local_networks))

    def _answer(self, request: Request, binding: Binding) -> None:
        """RFC 5213 section 5.3.6 and RFC 8885 section 3.4: one group of options for each anchor."""
        echoed = [_link_local(option, binding) for option in echo_options(request.update)]
        same = agrees(request.update.options, self._domain.digest)
        if self.counters.agreement(request.gateway.address, same):
            self.report("domain-differs", "error", peer=str(request.gateway.address))
        lifetime_s = min(request.update.lifetime_s, self._domain.lifetimes.binding_s)
        for part in split_groups(binding.anchors, FIXED_BYTES):
            options: list[Option] = [*echoed]
            if same is not None:
                options += agreement_option(self._domain.digest)
            for anchor in part:
                options += write_group(anchor)
            acknowledgement = BindingAcknowledgement(
                int(Status.ACCEPTED), request.update.sequence, lifetime_s, PBA_FLAGS, tuple(options)
            )
            self.emit(Send(request.gateway.address, acknowledgement))

    # Ends

    def _deregister(self, request: Request, now: Instant) -> None:
        """RFC 5213 section 5.3.5: answered at once, carried out after MinDelayBeforeBCEDelete unless a PBU comes."""
        binding = request.binding
        if binding is None or binding.serving.maar != request.gateway.address:
            # RFC 5213 section 5.3.5 (1), RFC 8885 section 3.5: only the serving gateway ends a session.
            self.counters.of(request.gateway.address).drop("deregistration-not-serving")
            return
        binding.ticks = max(binding.ticks, request.ticks)
        self._ends_soon(binding, now)
        options = tuple(echo_options(request.update))
        self.emit(
            Send(
                request.gateway.address,
                BindingAcknowledgement(int(Status.ACCEPTED), request.update.sequence, 0, PBA_FLAGS, options),
            )
        )

    def _ends_soon(self, binding: Binding, now: Instant) -> None:
        """De-registered or expired: a PBU within MinDelayBeforeBCEDelete still finds every anchor (decision 20)."""
        binding.ending = True
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
        self._timers.cancel(("expire", binding.key))
        self.emit(Persist("binding", binding.key, None))

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


def _link_local(option: Option, binding: Binding) -> Option:
    """RFC 5213 section 5.3.6: an all-zero Link-local Address asks for the one that the node's router is to use."""
    face = binding.serving.router
    if isinstance(option, LinkLocalAddress) and not int(option.address) and face is not None:
        return LinkLocalAddress(face.address)
    return option
