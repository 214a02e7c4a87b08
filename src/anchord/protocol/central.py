"""The Central Mobility Database (CMD) in proxy mode as one object: inputs and the time in, outputs out.

It knows for every mobile node which gateway serves it and which others anchor prefixes it still holds. A gateway that
registers a node is answered at once from that knowledge, and the anchors are told in parallel where the node is now
(RFC 8885 section 3.4). Data packets never come here.

Where RFC 8885 contradicts RFC 5213: a PBU for a known node with a *new* prefix from another gateway is a handover, not
a second session (RFC 8885 section 3.2 (2) against RFC 5213 section 5.4.1.1; decision 6); a PBU with lifetime 0 counts
only from the serving gateway (section 3.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.agreement import agreement_option, agrees
from anchord.protocol.anchoring import PBA_FLAGS, echo_options, refusal
from anchord.protocol.binding import Binding
from anchord.protocol.counters import Counters
from anchord.protocol.exchange import Exchange, Exchanges, judge_timestamp, sequence_is_newer, ticks_of
from anchord.protocol.groups import Anchor, read_groups, split_groups, write_group
from anchord.protocol.identity import derive_router, mn_id_text, session_key
from anchord.protocol.inputs import Input, MessageDropped, MessageReceived
from anchord.protocol.outputs import Output, Persist, Report, Send
from anchord.protocol.registering import PBU_FLAGS
from anchord.protocol.settings import CentralSettings, GatewayInfo
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingUpdate,
    BindingUpdateFlag,
    Status,
)
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    AnchoredPrefix,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    MalformedOption,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    ServingMaar,
    Timestamp,
)

# What a PBA takes besides its groups: header, echoed options, some Home Network Prefixes (decision 33).
FIXED_BYTES = 180
# What an anchor may refuse and grant when asked again (decision 13).
_MENDABLE = (
    Status.SEQUENCE_NUMBER_OUT_OF_WINDOW,
    Status.TIMESTAMP_MISMATCH,
    Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED,
)


@dataclass(frozen=True, slots=True)
class _Request:
    """A PBU that passed all checks."""

    update: BindingUpdate
    gateway: GatewayInfo
    mn_id: MobileNodeIdentifier
    link_layer_id: bytes | None
    key: str
    ticks: int
    prefixes: tuple[IPv6Network, ...]
    binding: Binding | None


class Central:
    """The protocol of the CMD. Not thread-safe; never blocks; never raises on anything that arrives."""

    def __init__(self, settings: CentralSettings) -> None:
        domain = settings.domain
        self.settings = settings
        self._domain = domain
        self.bindings: dict[str, Binding] = {}  # by session key; for reading only
        self.counters = Counters(tuple(domain.gateways))
        self._holders: dict[IPv6Network, str] = {}
        self._exchanges = Exchanges(domain.timing, domain.limits)
        self._timers: Timers[tuple[str, str]] = Timers()
        self._outputs: list[Output] = []

    # Life

    def restore(self, store: dict[str, dict[str, dict[str, Any]]], now: Instant) -> list[Output]:
        """Take over what an earlier process had persisted: ``{table: {key: value}}``. Call once, first."""
        for peer, value in store.get("sequence", {}).items():
            self._exchanges.restore_sequence(IPv6Address(peer), int(value["reserved"]))
        for key, value in store.get("binding", {}).items():
            binding = Binding.from_json(key, value)
            self._keep(binding)
            delay_s = max(binding.expires_wall_s - now.wall_s, 0.0)
            self._timers.set(("expire", key), now.monotonic_s + delay_s)
        return self._take_outputs()

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """One input."""
        if isinstance(event, MessageReceived):
            self._message(event, now)
        elif isinstance(event, MessageDropped):
            self.counters.heard(event.source, now)
            self.counters.of(event.source).drop(event.cause)
        return self._take_outputs()

    def next_timer_s(self) -> float | None:
        """When ``handle_timers`` wants to be called (monotonic seconds), or None."""
        times = [t for t in (self._timers.next_s(), self._exchanges.next_s()) if t is not None]
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
            self._emit(*outputs)
        while (item := self._timers.pop_due(now.monotonic_s)) is not None:
            binding = self.bindings.get(item[1])
            if binding is not None and binding.ending:
                self._end(binding, now)
            elif binding is not None:
                self._ends_soon(binding, now)
        return self._take_outputs()

    # Inputs

    def _message(self, event: MessageReceived, now: Instant) -> None:
        """RFC 5213 section 5.3.1 (1), RFC 6275 section 9.2: only configured peers are looked at."""
        counters = self.counters.of(event.source)
        self.counters.heard(event.source, now)
        message = event.message
        gateway = self._domain.gateways.get(event.source)
        if gateway is None:
            counters.drop("unconfigured-peer")
        elif not isinstance(message, (BindingUpdate, BindingAcknowledgement, BindingError)):
            counters.drop("unknown-type")
            if event.unicast:
                self._emit(Send(event.source, BindingError(BindingErrorStatus.UNRECOGNIZED_MH_TYPE)))
        elif isinstance(message, BindingError):
            counters.drop(f"binding-error.{message.status}")
        else:
            for option in message.options:
                if isinstance(option, MalformedOption):
                    counters.drop(f"malformed-option.{option.kind}")
            if isinstance(message, BindingUpdate):
                self._update(message, gateway, event.unicast, now)
            else:
                self._acknowledged(message, gateway, now)

    def _update(self, update: BindingUpdate, gateway: GatewayInfo, unicast: bool, now: Instant) -> None:
        wanted = BindingUpdateFlag.PROXY | BindingUpdateFlag.ACKNOWLEDGE
        if not unicast or update.flags & wanted != wanted:
            self.counters.of(gateway.address).drop("not-a-proxy-update")
            return
        verdict = self._check(update, gateway, now)
        if isinstance(verdict, _Request):
            self._accept(verdict, now)
            return
        self.counters.of(gateway.address).refuse(verdict)
        last = None
        if verdict is Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            binding = self._find(update)
            last = binding.sequence if binding is not None else None
        self._emit(Send(gateway.address, refusal(update, verdict, now, last)))

    def _find(self, update: BindingUpdate) -> Binding | None:
        mn_id = update.first(MobileNodeIdentifier)
        link_layer_id = update.first(MobileNodeLinkLayerIdentifier)
        if mn_id is None:
            return None
        return self.bindings.get(session_key(mn_id, link_layer_id.identifier if link_layer_id else None))

    # The checks, in the order of RFC 5213 section 5.3.1

    def _check(  # noqa: PLR0911 - one return for each status, in the order that the RFC prescribes
        self, update: BindingUpdate, gateway: GatewayInfo, now: Instant
    ) -> _Request | Status:
        mn_id = update.first(MobileNodeIdentifier)
        if mn_id is None or not mn_id.identifier:
            return Status.MISSING_MN_IDENTIFIER_OPTION  # (4)
        if not update.flags & BindingUpdateFlag.DISTRIBUTED:
            return Status.ADMINISTRATIVELY_PROHIBITED  # decision 21: we are no plain LMA
        if self.settings.listed is not None and mn_id.identifier not in self.settings.listed:
            return Status.NOT_LMA_FOR_THIS_MOBILE_NODE  # (7)
        binding = self._find(update)
        stamp = update.first(Timestamp)
        order = self._check_order(update, gateway, binding, stamp, now)  # (9)
        if order is not None:
            return order
        prefixes = tuple(option.prefix for option in update.all(HomeNetworkPrefix))
        if not prefixes:
            return Status.MISSING_HOME_NETWORK_PREFIX_OPTION  # (10)
        if update.first(HandoffIndicator) is None:
            return Status.MISSING_HANDOFF_INDICATOR_OPTION  # (11)
        if update.first(AccessTechnologyType) is None:
            return Status.MISSING_ACCESS_TECH_TYPE_OPTION  # (12)
        link_layer_id = update.first(MobileNodeLinkLayerIdentifier)
        identifier = link_layer_id.identifier if link_layer_id is not None else None
        key = session_key(mn_id, identifier)
        if not self._may_hold(key, prefixes, gateway):
            return Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX
        if binding is not None and self._is_foreign_set(binding, update, gateway, prefixes):
            return Status.BCE_PBU_PREFIX_SET_DO_NOT_MATCH
        if binding is None and len(self.bindings) >= self._domain.limits.bindings:
            self.counters.count("limit.bindings")
            return Status.INSUFFICIENT_RESOURCES
        ticks = stamp.ticks if stamp is not None else 0
        return _Request(update, gateway, mn_id, identifier, key, ticks, prefixes, binding)

    def _check_order(
        self,
        update: BindingUpdate,
        gateway: GatewayInfo,
        binding: Binding | None,
        stamp: Timestamp | None,
        now: Instant,
    ) -> Status | None:
        """RFC 5213 section 5.5: by timestamp, or by sequence number where there is none (RFC 6275 section 9.5.1)."""
        if stamp is None:
            # One counter for each pair of nodes: another gateway's number says nothing (decision 8).
            same = binding is not None and binding.serving.maar == gateway.address
            if same and binding is not None and not sequence_is_newer(update.sequence, binding.sequence):
                return Status.SEQUENCE_NUMBER_OUT_OF_WINDOW
            return None
        last = binding.ticks if binding is not None else 0
        if binding is not None and stamp.ticks == last and update.sequence == binding.sequence:
            return None  # decision 11: the same message again is answered again
        return judge_timestamp(stamp.ticks, last, now.wall_s, self._domain.timing.timestamp_window_s)

    def _may_hold(self, key: str, prefixes: tuple[IPv6Network, ...], gateway: GatewayInfo) -> bool:
        """Decision 5: every prefix lies in the pool of the gateway that asks, and no other node holds it."""
        if ALL_ZERO_PREFIX in prefixes:
            return False
        return all(gateway.owns(p) and self._holders.get(p, key) == key for p in prefixes)

    @staticmethod
    def _is_foreign_set(
        binding: Binding, update: BindingUpdate, gateway: GatewayInfo, prefixes: tuple[IPv6Network, ...]
    ) -> bool:
        """Decision 6: a *refresh* by the serving gateway has to name the prefixes of the session."""
        handoff = update.first(HandoffIndicator)
        refresh = handoff is not None and handoff.value == Handoff.UNCHANGED
        same_gateway = binding.serving.maar == gateway.address
        return refresh and same_gateway and sorted(prefixes) != sorted(binding.serving.prefixes)

    # Registration

    def _accept(self, request: _Request, now: Instant) -> None:
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
        for prefix in before:
            self._holders.pop(prefix, None)  # _keep enters again what the node still holds
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
        self._keep(binding)
        self._persist(binding)
        # Answer first: the node waits for this one (RFC 8885 section 3.4).
        self._answer(request, binding)
        for anchor in released:
            self._tell(binding, anchor, 0, now)
        self._tell_anchors(binding, moved, lifetime_s, now)

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
            if known is not None or self._holders.get(option.prefix, binding.key) != binding.key:
                continue
            router = derive_router(self._domain.secret, owner.name, binding.mn_id)
            binding.anchors.append(Anchor(owner.address, (option.prefix,), router, owner.local_networks))

    def _answer(self, request: _Request, binding: Binding) -> None:
        """RFC 5213 section 5.3.6 and RFC 8885 section 3.4: one group of options for each anchor."""
        echoed = [_link_local(option, binding) for option in echo_options(request.update)]
        same = agrees(request.update.options, self._domain.digest)
        if self.counters.agreement(request.gateway.address, same):
            self._emit(Report("domain-differs", "error", {"peer": str(request.gateway.address)}))
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
            self._emit(Send(request.gateway.address, acknowledgement))

    # Telling the anchors

    def _tell_anchors(self, binding: Binding, moved: bool, lifetime_s: int, now: Instant) -> None:
        """PBU* to every anchor after a handover (RFC 8885 section 3.2), and to re-arm its dead-man timer in time."""
        for anchor in binding.anchors:
            confirmed = binding.confirmed_wall_s.get(anchor.maar, 0.0)
            if moved or now.wall_s - confirmed > lifetime_s:
                self._tell(binding, anchor, lifetime_s, now)

    def _tell(self, binding: Binding, anchor: Anchor, lifetime_s: int, now: Instant) -> None:
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
        self._emit(*self._exchanges.start(anchor.maar, binding.key, message, ticks, now))

    def _last_told(self, binding: Binding, anchor: Anchor) -> int:
        exchange = self._exchanges.outstanding(anchor.maar, binding.key)
        return exchange.ticks if exchange is not None else 0

    def _acknowledged(self, ack: BindingAcknowledgement, gateway: GatewayInfo, now: Instant) -> None:
        """A P-MAAR's PBA closes the operation (RFC 8885 section 3.4)."""
        counters = self.counters.of(gateway.address)
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
        binding = self.bindings.get(exchange.session)
        if ack.status >= 128:
            counters.refuse(ack.status)
            self._anchor_refused(binding, exchange, ack, now)
            return
        self._exchanges.cancel(gateway.address, exchange.session)
        if binding is None or not exchange.message.lifetime_s:
            self._exchanges.forget(exchange.session, gateway.address)
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
            self._persist(binding)

    def _anchor_refused(
        self, binding: Binding | None, exchange: Exchange, ack: BindingAcknowledgement, now: Instant
    ) -> None:
        """Decision 13: what can be mended is asked again; any other refusal ends that anchor's part."""
        if binding is None:
            self._exchanges.forget(exchange.session, exchange.peer)
            return
        anchor = binding.anchor(exchange.peer)
        self._report("anchor-refused", "warning", binding, anchor=str(exchange.peer), status=ack.status)
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            self._exchanges.adopt_sequence(exchange.peer, ack.sequence)
        if ack.status in _MENDABLE and anchor is not None:
            if ack.status != Status.TIMESTAMP_MISMATCH:  # that one only synchronised clocks can mend
                self._emit(*self._exchanges.hurry(exchange, now))
                binding.ticks = max(binding.ticks, exchange.ticks)
            return
        self._exchanges.cancel(exchange.peer, exchange.session)
        if anchor is None:
            return
        binding.anchors.remove(anchor)
        for prefix in anchor.prefixes:
            self._holders.pop(prefix, None)
        self._persist(binding)

    # Ends

    def _deregister(self, request: _Request, now: Instant) -> None:
        """RFC 5213 section 5.3.5: answered at once, carried out after MinDelayBeforeBCEDelete unless a PBU comes."""
        binding = request.binding
        if binding is None or binding.serving.maar != request.gateway.address:
            # RFC 5213 section 5.3.5 (1), RFC 8885 section 3.5: only the serving gateway ends a session.
            self.counters.of(request.gateway.address).drop("deregistration-not-serving")
            return
        binding.ticks = max(binding.ticks, request.ticks)
        self._ends_soon(binding, now)
        options = tuple(echo_options(request.update))
        self._emit(
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
        self._report("ended", "info", binding)
        for prefix in binding.prefixes():
            self._holders.pop(prefix, None)
        for anchor in binding.anchors:
            self._tell(binding, anchor, 0, now)
        del self.bindings[binding.key]
        self._timers.cancel(("expire", binding.key))
        self._emit(Persist("binding", binding.key, None))

    # Small things

    def _keep(self, binding: Binding) -> None:
        self.bindings[binding.key] = binding
        for prefix in binding.prefixes():
            self._holders[prefix] = binding.key

    def _persist(self, binding: Binding) -> None:
        self._emit(Persist("binding", binding.key, binding.to_json()))

    def _report(self, event: str, level: str, binding: Binding, **fields: Any) -> None:
        self._emit(Report(event, level, {"mn": mn_id_text(binding.mn_id), **fields}))

    def _emit(self, *outputs: Output) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self.counters.of(output.destination).messages_out += 1
            self._outputs.append(output)

    def _take_outputs(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs


def _link_local(option: Option, binding: Binding) -> Option:
    """RFC 5213 section 5.3.6: an all-zero Link-local Address asks for the one that the node's router is to use."""
    face = binding.serving.router
    if isinstance(option, LinkLocalAddress) and not int(option.address) and face is not None:
        return LinkLocalAddress(face.address)
    return option
