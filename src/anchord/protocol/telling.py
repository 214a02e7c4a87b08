"""How the CMD tells anchors where a node is: one PBU* to each, repeated until it is answered.

Rules: RFC 8885 sections 3.2, 3.4 and 3.6; decisions 7 (whose prefix), 11 (whose timestamp) and 13 (refusals).
"""

from __future__ import annotations

from dataclasses import replace

from anchord.protocol.binding import Binding, BindingCache
from anchord.protocol.exchange import Exchange, Exchanges, ticks_of
from anchord.protocol.groups import Anchor, read_groups
from anchord.protocol.identity import mn_id_text
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Persist
from anchord.protocol.revoking import Revocation, Revoking
from anchord.protocol.settings import DomainSettings, GatewayInfo
from anchord.protocol.timers import Instant
from anchord.protocol.updates import PBU_FLAGS
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, RevocationTrigger, Status
from anchord.wire.options import (
    AccessTechnologyType,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    ServingMaar,
    Timestamp,
)

# What an anchor may refuse and grant when asked again (decision 13).
_MENDABLE = (
    Status.SEQUENCE_NUMBER_OUT_OF_WINDOW,
    Status.TIMESTAMP_MISMATCH,
    Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED,
)


class Telling:
    """PBU* to anchors, and their answers."""

    def __init__(self, domain: DomainSettings, cache: BindingCache, revoking: Revoking, out: Outbox) -> None:
        self._domain = domain
        self._cache = cache
        self._revoking = revoking
        self._out = out
        self.exchanges = Exchanges(domain.timing, domain.limits)

    def tell_anchors(self, binding: Binding, moved: bool, lifetime_s: int, now: Instant) -> None:
        """PBU* to every anchor after a handover (RFC 8885 section 3.2), and to re-arm its dead-man timer in time."""
        for anchor in binding.anchors:
            confirmed = binding.confirmed_wall_s.get(anchor.maar, 0.0)
            if moved or now.wall_s - confirmed > lifetime_s:
                self.tell(binding, anchor, lifetime_s, now)

    def tell(self, binding: Binding, anchor: Anchor, lifetime_s: int, now: Instant) -> None:
        """One PBU*, with the anchor's own prefix (decision 7) and the timestamp of decision 11."""
        if lifetime_s and anchor.maar == binding.serving.maar:
            return
        ticks = 0
        options: list[Option] = [binding.mn_id]
        options += [HomeNetworkPrefix(prefix) for prefix in anchor.prefixes]
        options += [HandoffIndicator(Handoff.UNKNOWN), AccessTechnologyType(binding.access_technology)]
        if self._domain.timestamps:
            # The serving gateway's stamp on a handover; our own time, and newer, in whatever we say by ourselves.
            ticks = binding.ticks
            if not lifetime_s or self._last_told(binding, anchor) >= ticks:
                ticks = max(ticks_of(now.wall_s), ticks + 1)
                binding.ticks = ticks
            options.append(Timestamp(ticks))
        if binding.link_layer_id is not None:
            options.append(MobileNodeLinkLayerIdentifier(binding.link_layer_id))
        if lifetime_s:
            options.append(ServingMaar(binding.serving.maar))
        message = BindingUpdate(0, lifetime_s, PBU_FLAGS, tuple(options))
        self._out.emit(*self.exchanges.start(anchor.maar, binding.key, message, ticks, now))

    def _last_told(self, binding: Binding, anchor: Anchor) -> int:
        exchange = self.exchanges.outstanding(anchor.maar, binding.key)
        return exchange.ticks if exchange is not None else 0

    def acknowledged(self, ack: BindingAcknowledgement, gateway: GatewayInfo, now: Instant) -> None:
        """A P-MAAR's PBA closes the operation (RFC 8885 section 3.4)."""
        counters = self._out.counters.of(gateway.address)
        exchange = self.exchanges.match(gateway.address, ack)
        if exchange is None:
            counters.drop("unmatched-ack")
            return
        echoed = ack.first(MobileNodeIdentifier)
        if echoed != exchange.message.first(MobileNodeIdentifier):
            counters.drop("echo-mismatch")
            return
        named = ack.first(ServingMaar)
        asked = exchange.message.first(ServingMaar)
        if named is not None and named != asked:
            counters.drop("stale-serving-maar")  # decision 3
            return
        binding = self._cache.by_key.get(exchange.session)
        if ack.status >= 128:
            counters.refuse(ack.status)
            self._anchor_refused(binding, exchange, ack, now)
            return
        self.exchanges.cancel(gateway.address, exchange.session)
        if binding is None or not exchange.message.lifetime_s:
            self.exchanges.forget(exchange.session, gateway.address)
        else:
            self._anchor_confirmed(binding, ack, gateway, now)

    def _anchor_confirmed(
        self, binding: Binding, ack: BindingAcknowledgement, gateway: GatewayInfo, now: Instant
    ) -> None:
        anchor = binding.anchor(gateway.address)
        if anchor is None:
            return
        binding.confirmed_wall_s[gateway.address] = now.wall_s
        face = read_groups(gateway.address, ack.options).own
        told = replace(anchor, router=face.router or anchor.router, local_networks=face.local_networks)
        if told != anchor:
            binding.anchors[binding.anchors.index(anchor)] = told
            self._out.emit(Persist("binding", binding.key, binding.to_json()))

    def _anchor_refused(
        self, binding: Binding | None, exchange: Exchange, ack: BindingAcknowledgement, now: Instant
    ) -> None:
        """Decision 13: what can be mended is asked again; any other refusal ends that anchor's part."""
        if binding is None:
            self.exchanges.forget(exchange.session, exchange.peer)
            return
        anchor = binding.anchor(exchange.peer)
        name = mn_id_text(binding.mn_id)
        self._out.report("anchor-refused", "warning", mn=name, anchor=str(exchange.peer), status=ack.status)
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            self.exchanges.adopt_sequence(exchange.peer, ack.sequence)
        if ack.status in _MENDABLE and anchor is not None:
            if ack.status != Status.TIMESTAMP_MISMATCH:  # that one only synchronised clocks can mend
                self._out.emit(*self.exchanges.hurry(exchange, now))
                binding.ticks = max(binding.ticks, exchange.ticks)
            return
        self.exchanges.cancel(exchange.peer, exchange.session)
        if anchor is None:
            return
        binding.anchors.remove(anchor)
        self._cache.let_go(anchor.prefixes)
        self._out.emit(Persist("binding", binding.key, binding.to_json()))
        self._withdraw(binding, anchor, now)

    def _withdraw(self, binding: Binding, anchor: Anchor, now: Instant) -> None:
        """The serving gateway counts on an anchor that has refused: it is to show the node that router no longer."""
        trigger = RevocationTrigger.POSSIBLE_OUT_OF_SYNC_BCE_STATE
        node = (binding.key, binding.mn_id, binding.link_layer_id)
        self._revoking.start(Revocation(binding.serving.maar, *node, anchor.prefixes, trigger), now)
