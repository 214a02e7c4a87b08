"""How the CMD tells anchors where a node is: one PBU* to each, repeated until it is answered.

Rules: RFC 8885 sections 3.2-3.4 and 3.6; decisions 7 (whose prefix), 11 (whose timestamp) and 13 (refusals, silence).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.answering import Answering
from anchord.protocol.binding import Binding, BindingCache
from anchord.protocol.dismissals import Dismissals
from anchord.protocol.exchange import Exchange, Exchanges, ticks_of
from anchord.protocol.groups import MESSAGE_BYTES, Anchor, read_groups
from anchord.protocol.identity import mn_id_text
from anchord.protocol.notifying import Notifying
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Persist
from anchord.protocol.settings import DomainSettings, GatewayInfo, Mode
from anchord.protocol.timers import Instant
from anchord.protocol.updates import PBU_FLAGS
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Status
from anchord.wire.options import (
    AccessTechnologyType,
    AnchoredPrefix,
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
# Decision 33: what a PBU* takes besides MN-ID and prefixes, and what an option with a prefix takes.
FIXED_BYTES = 140
PREFIX_BYTES = 24
# The least lifetime that the wire can carry (RFC 6275 section 6.1.7).
LEAST_LIFETIME_S = 4


class Telling:
    """PBU* to anchors, and their answers. ``answering`` and ``notifying`` tell the serving gateway what follows."""

    def __init__(
        self,
        domain: DomainSettings,
        cache: BindingCache,
        exchanges: Exchanges,
        answering: Answering,
        notifying: Notifying,
        out: Outbox,
    ) -> None:
        self._domain = domain
        self._cache = cache
        self._answering = answering
        self._notifying = notifying
        self._out = out
        self._exchanges = exchanges
        self._dismissals = Dismissals(domain, out)

    def restore(self, store: Mapping[str, Mapping[str, Mapping[str, Any]]], now: Instant) -> None:
        """Go on with what an earlier process had not finished telling; after the sessions were restored."""
        for ended, anchor in self._dismissals.restore(store):
            binding = self._cache.by_key.get(ended.key)
            part_again = binding is not None and (
                binding.serving.maar == anchor.maar or binding.anchor(anchor.maar) is not None
            )
            known = anchor.maar in self._domain.gateways
            if part_again or not known or self._dismissals.is_over(anchor.maar, ended.key, now):
                self._dismissals.end(anchor.maar, ended.key)
                continue
            if binding is not None:
                ended.ticks = binding.ticks = max(ended.ticks, binding.ticks)
            self.tell(ended, anchor, 0, now)
            if binding is not None:
                binding.ticks = ended.ticks

    def tell_anchors(self, binding: Binding, moved: bool, lifetime_s: int, now: Instant) -> bool:
        """PBU* to every anchor after a handover (RFC 8885 section 3.2), and to re-arm its dead-man timer in time.

        Who has been asked already is not asked again (decision 12). Returns whether an answer is worth waiting for.
        """
        asked = False
        for anchor in binding.anchors:
            settled = not binding.unconfirmed or anchor.maar not in binding.unconfirmed
            stale = settled and now.wall_s - binding.confirmed_wall_s.get(anchor.maar, 0.0) > lifetime_s
            due = (stale or not settled) and self._exchanges.outstanding(anchor.maar, binding.key) is None
            if moved or due:
                self.tell(binding, anchor, lifetime_s, now, on_behalf=moved)
                asked = asked or not settled
        return asked and binding.awaited()

    def tell(self, binding: Binding, anchor: Anchor, lifetime_s: int, now: Instant, on_behalf: bool = False) -> None:
        """One PBU*, with the anchor's own prefix (decision 7) and the timestamp of decision 11.

        ``on_behalf``: the serving gateway has just said so, and its timestamp is passed on.
        """
        ticks = 0
        options: list[Option] = [binding.mn_id]
        options += [HomeNetworkPrefix(prefix) for prefix in anchor.prefixes]
        options += [HandoffIndicator(Handoff.UNKNOWN), AccessTechnologyType(binding.access_technology)]
        if self._domain.timestamps:
            # The serving gateway's stamp on a handover; our own time, and newer, in whatever we say by ourselves.
            ticks = binding.ticks
            if not on_behalf or self._last_told(binding, anchor) >= ticks:
                ticks = max(ticks_of(now.wall_s), ticks + 1)
                binding.ticks = ticks
            options.append(Timestamp(ticks))
        if binding.link_layer_id is not None:
            options.append(MobileNodeLinkLayerIdentifier(binding.link_layer_id))
        if lifetime_s:
            options.append(ServingMaar(binding.serving.maar))
            # RFC 8885 section 4.3: what else the node uses. The anchor takes packets from it for its local networks,
            # and knows the other anchors should it be asked for them.
            room = MESSAGE_BYTES - FIXED_BYTES - len(binding.mn_id.identifier) - len(anchor.prefixes) * PREFIX_BYTES
            options += [AnchoredPrefix(prefix) for prefix in binding.others(anchor)[: room // PREFIX_BYTES]]
        if lifetime_s:
            self._dismissals.end(anchor.maar, binding.key)
        else:
            self._dismissals.begin(binding, anchor, ticks, now)
        message = BindingUpdate(0, lifetime_s, PBU_FLAGS, tuple(options))
        self._out.emit(*self._exchanges.start(anchor.maar, binding.key, message, ticks, now))

    def _last_told(self, binding: Binding, anchor: Anchor) -> int:
        exchange = self._exchanges.outstanding(anchor.maar, binding.key)
        return exchange.ticks if exchange is not None else 0

    def dismiss(self, binding: Binding, anchor: Anchor, now: Instant) -> None:
        """PBU* with lifetime 0: this gateway has no part in the session any more (P5)."""
        self._cache.let_go(anchor.prefixes)
        self.tell(binding, anchor, 0, now)

    def stop(self, maar: IPv6Address, session: str) -> None:
        """That gateway need not be told any more what it is being told, or has answered."""
        self._exchanges.cancel(maar, session)
        self._dismissals.end(maar, session)

    def is_in_vain(self, exchange: Exchange, now: Instant) -> bool:
        """Whether an anchor has been told of the end for long enough: its own dead-man timer does the rest."""
        forgotten = exchange.session not in self._cache.by_key
        return (forgotten and exchange.tries > self._domain.limits.end_tries) or (
            not exchange.message.lifetime_s and self._dismissals.is_over(exchange.peer, exchange.session, now)
        )

    def repeats(self, exchange: Exchange, binding: Binding, now: Instant) -> None:
        """A PBU* leaves once more. An anchor that never agrees to a move is not counted on for ever (decision 13)."""
        silent = exchange.message.lifetime_s and exchange.tries > self._domain.limits.silent_tries
        if not silent or binding.unconfirmed.get(exchange.peer, True):
            return
        binding.unconfirmed[exchange.peer] = True
        self._out.report("anchor-silent", "warning", mn=mn_id_text(binding.mn_id), anchor=str(exchange.peer))
        self._persist(binding)
        if self._domain.mode is not Mode.RELAY:
            self._notifying.notify(binding, now)  # it was told too much

    def acknowledged(self, ack: BindingAcknowledgement, gateway: GatewayInfo, now: Instant) -> None:
        """A P-MAAR's PBA closes the operation (RFC 8885 section 3.4)."""
        counters = self._out.counters.of(gateway.address)
        exchange = self._exchanges.match(gateway.address, ack)
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
        self._out.compare_clocks(gateway.address, ack, now)
        binding = self._cache.by_key.get(exchange.session)
        if ack.status >= 128:
            counters.refuse(ack.status)
            self._anchor_refused(binding, exchange, ack, now)
            return
        self.stop(gateway.address, exchange.session)
        if binding is not None and exchange.message.lifetime_s:
            self._anchor_confirmed(binding, ack, gateway, now)

    def _anchor_confirmed(
        self, binding: Binding, ack: BindingAcknowledgement, gateway: GatewayInfo, now: Instant
    ) -> None:
        anchor = binding.anchor(gateway.address)
        if anchor is None:
            return
        unsettled = gateway.address in binding.unconfirmed
        silent = binding.unconfirmed.pop(gateway.address, False)
        binding.confirmed_wall_s[gateway.address] = now.wall_s
        face = read_groups(gateway.address, ack.options).own
        held = self._held(binding, anchor, ack, gateway)
        told = replace(anchor, prefixes=held, router=face.router or anchor.router, local_networks=face.local_networks)
        if told != anchor:
            binding.anchors[binding.anchors.index(anchor)] = told
        if held != anchor.prefixes:
            self._corrected(binding, anchor, now)
        if (unsettled or told != anchor) and not self._answering.is_gathering(binding):
            self._persist(binding)
        if unsettled and not self._answering.settled(binding, now) and (silent or self._domain.mode is Mode.RELAY):
            # It may be named only now, and nobody waits for an answer that could name it.
            self._notifying.notify(binding, now)

    def _held(
        self, binding: Binding, anchor: Anchor, ack: BindingAcknowledgement, gateway: GatewayInfo
    ) -> tuple[IPv6Network, ...]:
        """What the anchor says that it holds (RFC 5213 section 5.3.6).

        It may have given the node another prefix while we were not there to be told. Of what is not its own, or another
        node's, nothing is believed.
        """
        said = tuple(option.prefix for option in ack.all(HomeNetworkPrefix))
        if any(not gateway.owns(prefix) or not self._cache.may_hold(binding.key, prefix) for prefix in said):
            return anchor.prefixes
        return said or anchor.prefixes

    def _corrected(self, binding: Binding, before: Anchor, now: Instant) -> None:
        """The node may still have addresses of what its anchor does not hold any more: the serving gateway is told."""
        self._cache.let_go(before.prefixes)
        self._cache.keep(binding)
        held = binding.prefixes()
        gone = [prefix for prefix in before.prefixes if prefix not in held]
        binding.note_released(gone, now.wall_s + self._domain.lifetimes.valid_s)
        for prefix in held:
            binding.released.pop(prefix, None)
        self._out.report("anchor-corrected", mn=mn_id_text(binding.mn_id), anchor=str(before.maar))
        if not self._answering.is_gathering(binding):
            self._notifying.notify(binding, now)

    def _anchor_refused(
        self, binding: Binding | None, exchange: Exchange, ack: BindingAcknowledgement, now: Instant
    ) -> None:
        """Decision 13: what can be mended is asked again; any other refusal ends that anchor's part.

        ``binding`` is None when the session is over: that the anchor has to hear too (decision 20).
        """
        mn_id = exchange.message.first(MobileNodeIdentifier)
        name = "" if mn_id is None else mn_id_text(mn_id)
        self._out.report("anchor-refused", "warning", mn=name, anchor=str(exchange.peer), status=ack.status)
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            self._exchanges.adopt_sequence(exchange.peer, ack.sequence)
        anchor = None if binding is None else binding.anchor(exchange.peer)
        if ack.status in _MENDABLE and (anchor is not None or not exchange.message.lifetime_s):
            if ack.status != Status.TIMESTAMP_MISMATCH:  # that one only synchronised clocks can mend
                self._out.emit(*self._exchanges.hurry(exchange, now))
            if binding is not None:
                binding.ticks = max(binding.ticks, exchange.ticks)
            return
        self.stop(exchange.peer, exchange.session)
        if binding is not None and anchor is not None:
            self.withdraw(binding, anchor, now)
            # It may still forward to where it was told to before, or its kernel may take later what it has refused.
            self.tell(binding, anchor, 0, now)

    def withdraw(self, binding: Binding, anchor: Anchor, now: Instant) -> None:
        """What ``anchor`` held for the node is gone; the serving gateway is told, if it knew (decision 14)."""
        told = anchor in binding.announced(self._domain.mode) and not self._answering.is_gathering(binding)
        binding.release(anchor, now.wall_s + self._domain.lifetimes.valid_s)
        self._cache.let_go(anchor.prefixes)
        self._persist(binding)
        self._answering.settled(binding, now)
        if told:
            self._notifying.notify(binding, now)

    def _persist(self, binding: Binding) -> None:
        self._out.emit(Persist("binding", binding.key, binding.to_json()))
