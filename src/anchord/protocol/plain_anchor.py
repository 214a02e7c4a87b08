"""The Local Mobility Anchor of plain Proxy Mobile IPv6 (RFC 5213 section 5): every packet of its nodes goes through it.

A PBU is checked in the order of section 5.3.1, then associated with a session (section 5.4.1, ``plain_binding.py``),
then carried out: a new session, or one that is extended, handed over, de-registered (sections 5.3.2 to 5.3.5). A PBA
with status 0 leaves only after the kernel has acknowledged the tunnel behind it.

Decided where the text leaves it open: a prefix that a MAG asks for by name is given to the node if it lies in our pools
and neither belongs to a session nor rests; timestamps are compared with those of all sessions of the node (section 5.5
T6 has "mobile node", not "session"), sequence numbers with that of the session, whichever MAG sent it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import HostState
from anchord.protocol.anchoring import echo_options, refusal
from anchord.protocol.exchange import judge_timestamp, sequence_is_newer
from anchord.protocol.identity import derive_router, mn_id_text, session_key
from anchord.protocol.inputs import Installed, MessageReceived
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Declare, Persist, Send
from anchord.protocol.plain_binding import Found, PlainBinding, PlainCache, Sought
from anchord.protocol.plain_revoking import PlainRevoking
from anchord.protocol.prefixes import PoolExhaustedError, PrefixPool
from anchord.protocol.settings import LmaSettings
from anchord.protocol.timers import Instant, Timers, next_of
from anchord.wire.messages import (
    UNSPECIFIED,
    BindingAckFlag,
    BindingAcknowledgement,
    BindingRevocationAcknowledgement,
    BindingUpdate,
    BindingUpdateFlag,
    Status,
)
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    AlternateCareOfAddress,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    Timestamp,
)


@dataclass(frozen=True, slots=True)
class _Request:
    """A PBU that passed the checks which need no session."""

    update: BindingUpdate
    source: IPv6Address  # who is answered; the Proxy-CoA may be another (section 5.3.6)
    sought: Sought
    ticks: int

    @property
    def wants_allocation(self) -> bool:
        """Whether it asks for a prefix of our choice."""
        return any(option.prefix == ALL_ZERO_PREFIX for option in self.update.all(HomeNetworkPrefix))


@dataclass(frozen=True, slots=True)
class _Promise:
    """A PBA that waits for the kernel. ``fresh``: its session is a new one, and is none if the kernel cannot."""

    binding: PlainBinding
    request: _Request
    fresh: bool


class PlainAnchor(Outbox):
    """Sessions of plain nodes."""

    def __init__(self, settings: LmaSettings, peers: Outbox, next_ticket: Callable[[], int]) -> None:
        """``peers``: who counts what peers do, and remembers what they understand."""
        super().__init__(peers.counters, peers.understanding)
        self._settings = settings
        self._domain = settings.domain
        self._cache = PlainCache()
        self._pool = PrefixPool(settings.me.pools)
        self._timers: Timers[tuple[str, str]] = Timers()
        self._next_ticket = next_ticket
        self._promises: dict[int, _Promise] = {}
        self._declared: dict[int, str] = {}  # what the kernel owes an answer about: ticket -> session
        self._newest: dict[str, int] = {}  # the last ticket of each session
        self.revoking = PlainRevoking(self, self._domain, self._cache, self._end)
        self._waiting: dict[str, _Request] = {}  # by the session whose de-registration is waited for; one each
        self._mags = settings.mags | {
            address
            for address, gateway in self._domain.gateways.items()
            if not gateway.operator or gateway.operator in settings.operators
        }

    @property
    def bindings(self) -> dict[str, PlainBinding]:
        """All sessions by key; for reading only."""
        return self._cache.by_key

    def resting(self) -> dict[IPv6Network, float]:
        """Prefixes that were given back, and the wall-clock second at which each is free again."""
        return self._pool.resting()

    def restore(self, store: dict[str, dict[str, dict[str, Any]]], now: Instant) -> None:
        """Take over what an earlier process had persisted, and declare it again."""
        for text, value in sorted(store.get("resting", {}).items()):
            self._rest(IPv6Network(text), value["until_wall_s"], now)
        for _, value in sorted(store.get("plain", {}).items()):
            binding = PlainBinding.from_json(value)
            if not all(map(self._settings.me.owns, binding.prefixes)):
                # RFC 6275 section 10.3.1: no binding outlives its prefix, and ours are valid while their pool is ours.
                prefixes = [str(prefix) for prefix in binding.prefixes]
                self.report("journal-refused", "error", mn=mn_id_text(binding.mn_id), prefixes=prefixes)
                self.emit(Persist("plain", binding.key, None))
                continue
            self._cache.add(binding)
            for prefix in binding.prefixes:
                self._pool.claim(prefix, binding.key)
            self._timers.set(("expire", binding.key), now.monotonic_s + max(binding.expires_wall_s - now.wall_s, 0.0))
            if not binding.ending:
                self._declare(binding, None)

    def next_timer_s(self) -> float | None:
        """When ``handle_timers`` wants to be called (monotonic seconds), or None."""
        return next_of((self._timers, self.revoking))

    def handle_timers(self, now: Instant) -> None:
        """Everything that is due at ``now``."""
        while (item := self._timers.pop_due(now.monotonic_s)) is not None:
            kind, key = item
            if kind == "rested":
                self._pool.rested(IPv6Network(key))
                self.emit(Persist("resting", key, None))
            elif kind == "wait":
                # Section 5.4.1.2 (4): not de-registered in time, so it is another interface of the node.
                self._create(self._waiting.pop(key), now)
            elif key in self.bindings:
                self._end(self.bindings[key], now)
        self.revoking.due(now)

    def is_bound(self, peer: IPv6Address) -> bool:
        """Whether ``peer`` is the MAG of any node."""
        return any(binding.proxy_coa == peer for binding in self.bindings.values())

    # A request

    def message(self, event: MessageReceived, now: Instant) -> None:
        """A message from whoever may register plain nodes, or somebody who may not."""
        message = self.admit(event, now)
        if isinstance(message, BindingUpdate):
            self._update(message, event.source, now)
        elif isinstance(message, BindingAcknowledgement):
            self.counters.of(event.source).drop("unmatched-ack")  # we ask nobody
        elif isinstance(message, BindingRevocationAcknowledgement):
            self.revoking.acknowledged(event.source, message, now)
        elif message is not None:
            self.unrecognized(event, now)

    def _update(self, update: BindingUpdate, source: IPv6Address, now: Instant) -> None:
        request = self._check(update, source, now)
        if isinstance(request, Status):
            self._refuse(update, source, request, now)
            return
        found = self._cache.find(request.sought)
        if isinstance(found, Status):
            self._refuse(update, source, found, now)
        elif update.lifetime_s == 0:
            self._deregister(request, found, now)
        elif found.binding is None:
            self._create(request, now)
        elif found.wait and self._domain.timing.max_delay_before_new_bce_assign_s > 0:
            self._wait(request, found.binding, now)
        elif found.wait:
            self._create(request, now)
        else:
            self._extend(request, found.binding, now)

    def _check(  # noqa: PLR0911 - one return for each status, in the order that the RFC prescribes
        self, update: BindingUpdate, source: IPv6Address, now: Instant
    ) -> _Request | Status:
        """RFC 5213 section 5.3.1; (1) to (3) are the transport's and the reception's."""
        mn_id = update.first(MobileNodeIdentifier)
        if mn_id is None or not mn_id.identifier:
            return Status.MISSING_MN_IDENTIFIER_OPTION  # (4)
        alternate = update.first(AlternateCareOfAddress)
        proxy_coa = source if alternate is None else alternate.address
        if source not in self._mags or proxy_coa not in self._mags:
            return Status.MAG_NOT_AUTHORIZED_FOR_PROXY_REG  # (6)
        if update.flags & BindingUpdateFlag.DISTRIBUTED:
            # RFC 8885 section 4.1: not processed, and an error. It names none; decision 21 has this one.
            return Status.ADMINISTRATIVELY_PROHIBITED
        if self._settings.listed is not None and mn_id.identifier not in self._settings.listed:
            return Status.NOT_LMA_FOR_THIS_MOBILE_NODE  # (7)
        if mn_id.identifier in self._settings.denied:
            return Status.PROXY_REG_NOT_ENABLED  # (8)
        request = self._read(update, source, mn_id, proxy_coa)
        order = self._check_order(request, now)
        if order is not None:
            return order  # (9)
        if not update.all(HomeNetworkPrefix):
            return Status.MISSING_HOME_NETWORK_PREFIX_OPTION  # (10)
        if update.first(HandoffIndicator) is None:
            return Status.MISSING_HANDOFF_INDICATOR_OPTION  # (11)
        if update.first(AccessTechnologyType) is None:
            return Status.MISSING_ACCESS_TECH_TYPE_OPTION  # (12)
        return request

    @staticmethod
    def _read(
        update: BindingUpdate, source: IPv6Address, mn_id: MobileNodeIdentifier, proxy_coa: IPv6Address
    ) -> _Request:
        link_layer_id = update.first(MobileNodeLinkLayerIdentifier)
        identifier = link_layer_id.identifier if link_layer_id is not None else b""
        technology, handoff = update.first(AccessTechnologyType), update.first(HandoffIndicator)
        stamp = update.first(Timestamp)
        sought = Sought(
            mn_id=mn_id,
            prefixes=tuple(o.prefix for o in update.all(HomeNetworkPrefix) if o.prefix != ALL_ZERO_PREFIX),
            link_layer_id=identifier if any(identifier) else None,  # all-zero says nothing (section 6.9.1.1 (7))
            access_technology=technology.value if technology is not None else 0,
            handoff=handoff.value if handoff is not None else 0,
            proxy_coa=proxy_coa,
        )
        return _Request(update, source, sought, stamp.ticks if stamp is not None else 0)

    def _check_order(self, request: _Request, now: Instant) -> Status | None:
        """Section 5.5: by timestamp, or by sequence number where there is none."""
        found = self._cache.find(request.sought)
        binding = found.binding if isinstance(found, Found) else None
        if request.update.first(Timestamp) is None:
            last = binding.sequence if binding is not None else None
            newer = sequence_is_newer(request.update.sequence, last)
            return None if newer else Status.SEQUENCE_NUMBER_OUT_OF_WINDOW
        if binding is not None and self._is_repetition(request, binding):
            return None
        newest = max((known.ticks for known in self._cache.of_node(request.sought.mn_id)), default=0)
        return judge_timestamp(request.ticks, newest, now.wall_s, self._domain.timing.timestamp_window_s)

    @staticmethod
    def _is_repetition(request: _Request, binding: PlainBinding) -> bool:
        """The same message again: answered again (decision 11)."""
        return (request.ticks, request.update.sequence) == (binding.ticks, binding.sequence)

    def _refuse(self, update: BindingUpdate, source: IPv6Address, status: Status, now: Instant) -> None:
        self.counters.of(source).refuse(status)
        last = None
        if status is Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            mn_id = update.first(MobileNodeIdentifier)
            last = max((b.sequence for b in self._cache.of_node(mn_id)), default=None) if mn_id is not None else None
        self.emit(Send(source, refusal(update, status, now, last)))

    # What becomes of it

    def _create(self, request: _Request, now: Instant) -> None:
        """Section 5.3.2: a new mobility session."""
        update, sought = request.update, request.sought
        if len(self._cache) >= self._domain.limits.bindings:
            self.counters.count("limit.bindings")
            self._refuse(update, request.source, Status.INSUFFICIENT_RESOURCES, now)
            return
        prefixes = self._assign(request, now)
        if isinstance(prefixes, Status):
            self._refuse(update, request.source, prefixes, now)
            return
        binding = PlainBinding(sought.mn_id, sought.link_layer_id, sought.access_technology, prefixes, sought.proxy_coa)
        self._cache.add(binding)
        self._accept(request, binding, now, fresh=True)

    def _assign(self, request: _Request, now: Instant) -> tuple[IPv6Network, ...] | Status:
        """The prefixes of a new session: a free one of ours for all-zero, and those that it names."""
        sought = request.sought
        named = tuple(dict.fromkeys(sought.prefixes))
        resting = self._pool.resting()
        if len(named) + request.wants_allocation > self._domain.limits.anchors_per_host:
            self.counters.count("limit.asked-prefixes")
            return Status.INSUFFICIENT_RESOURCES
        if any(not self._settings.me.owns(p) or self._cache.holds(p) or p in resting for p in named):
            return Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX  # (3)
        lease = session_key(sought.mn_id, sought.link_layer_id)
        try:
            given = (self._pool.allocate(lease, now.wall_s),) if request.wants_allocation else ()  # (1)
        except PoolExhaustedError:
            self.counters.count("limit.pool")
            return Status.INSUFFICIENT_RESOURCES  # (2)
        for prefix in named:
            self._pool.claim(prefix, lease)
        return tuple(dict.fromkeys((*given, *named)))

    def _extend(self, request: _Request, binding: PlainBinding, now: Instant) -> None:
        """Sections 5.3.3 and 5.3.4: the session goes on, here or at another MAG."""
        sought = request.sought
        if binding.installed and request.ticks and self._is_repetition(request, binding):
            self._answer(request, binding)
            return
        if (binding.proxy_coa, binding.ending) != (sought.proxy_coa, False):
            binding.installed = False
        if binding.proxy_coa != sought.proxy_coa:
            name = mn_id_text(binding.mn_id)
            self.report("handed-over", mn=name, prefix=str(binding.prefixes[0]), to=str(sought.proxy_coa))
            self.revoking.handed_over(binding, sought.proxy_coa, now)
        binding.proxy_coa = sought.proxy_coa
        binding.link_layer_id = sought.link_layer_id
        binding.access_technology = sought.access_technology
        binding.ending = False
        self._accept(request, binding, now, fresh=False)

    def _accept(self, request: _Request, binding: PlainBinding, now: Instant, fresh: bool) -> None:
        """The accepted values enter the session; the PBA follows when the kernel has the tunnel."""
        update = request.update
        binding.ticks = max(binding.ticks, request.ticks)
        binding.sequence = update.sequence
        wanted = update.first(LinkLocalAddress)
        if wanted is not None:
            binding.link_local = self._link_local(binding, wanted.address)
        lifetime_s = self._granted_s(update)
        binding.expires_wall_s = now.wall_s + lifetime_s
        self._timers.set(("expire", binding.key), now.monotonic_s + lifetime_s)
        self._persist(binding)
        if fresh:
            prefixes = [str(prefix) for prefix in binding.prefixes]
            self.report("bound", mn=mn_id_text(binding.mn_id), prefixes=prefixes, to=str(binding.proxy_coa))
        if binding.installed:
            self._answer(request, binding)
        else:
            self._declare(binding, _Promise(binding, request, fresh))

    def _link_local(self, binding: PlainBinding, asked: IPv6Address) -> IPv6Address:
        """Section 5.3.6: what the MAG says; if it asks, the session's, or one that is made now."""
        if asked != UNSPECIFIED:
            return asked
        if binding.link_local is not None:
            return binding.link_local
        return derive_router(self._domain.secret, self._settings.me.name, binding.mn_id).address

    def _granted_s(self, update: BindingUpdate) -> int:
        return min(update.lifetime_s, self._domain.lifetimes.binding_s)

    def _wait(self, request: _Request, binding: PlainBinding, now: Instant) -> None:
        """Section 5.4.1.2 (4): nobody knows whether the node has moved; its old MAG may say so."""
        if binding.key not in self._waiting:
            delay_s = self._domain.timing.max_delay_before_new_bce_assign_s
            self._timers.set(("wait", binding.key), now.monotonic_s + delay_s)
        self._waiting[binding.key] = request  # a repetition takes the place of what it repeats

    def _deregister(self, request: _Request, found: Found, now: Instant) -> None:
        """Section 5.3.5: answered at once, carried out after MinDelayBeforeBCEDelete unless a PBU comes."""
        binding, counters = found.binding, self.counters.of(request.source)
        if binding is None or (found.wait and binding.proxy_coa != request.sought.proxy_coa):
            counters.drop("deregistration-of-nothing")  # section 5.4.1: silently ignored
            return
        if binding.proxy_coa != request.sought.proxy_coa:
            counters.drop("deregistration-not-serving")  # section 5.3.5 (1)
            return
        binding.ticks = max(binding.ticks, request.ticks)
        binding.sequence = request.update.sequence
        delay_s = self._domain.timing.min_delay_before_bce_delete_s
        if not binding.ending:
            binding.ending, binding.installed = True, False
            binding.expires_wall_s = now.wall_s + delay_s
            self._timers.set(("expire", binding.key), now.monotonic_s + delay_s)
            self._declare(binding, None)  # its traffic is dropped meanwhile (section 5.3.5 (2))
        self._persist(binding)
        self._answer(request, binding)
        waiting = self._waiting.pop(binding.key, None)
        if waiting is not None:
            self._timers.cancel(("wait", binding.key))
            self._extend(waiting, binding, now)

    def _end(self, binding: PlainBinding, now: Instant) -> None:
        """De-registered for long enough, or expired (RFC 6275 section 10.3.1)."""
        self.report("ended", mn=mn_id_text(binding.mn_id), prefixes=[str(prefix) for prefix in binding.prefixes])
        self._forget(binding, now)
        # The node keeps its address until the last valid lifetime that it may have been told of has run out.
        for prefix in binding.prefixes:
            self._rest(prefix, now.wall_s + self._domain.lifetimes.valid_s, now)
        waiting = self._waiting.pop(binding.key, None)
        if waiting is not None:
            self._timers.cancel(("wait", binding.key))
            self._create(waiting, now)

    def _forget(self, binding: PlainBinding, now: Instant) -> None:
        self._cache.remove(binding)
        self._timers.cancel(("expire", binding.key))
        self.revoking.forget(binding, now)
        self._newest.pop(binding.key, None)
        self.emit(Persist("plain", binding.key, None))
        if not binding.ending:
            self.emit(Declare(HostState(binding.key), self._next_ticket()))

    def _rest(self, prefix: IPv6Network, until_wall_s: float, now: Instant) -> None:
        self._pool.release(prefix, until_wall_s)
        self.emit(Persist("resting", str(prefix), {"until_wall_s": until_wall_s}))
        self._timers.set(("rested", str(prefix)), now.monotonic_s + max(until_wall_s - now.wall_s, 0.0))

    # The kernel and the answer

    def _declare(self, binding: PlainBinding, promise: _Promise | None) -> None:
        ticket = self._newest[binding.key] = self._next_ticket()
        self._declared[ticket] = binding.key
        if promise is not None:
            self._promises[ticket] = promise
        self.emit(Declare(binding.forwarding(), ticket))

    def installed(self, event: Installed, now: Instant) -> None:
        """The kernel has done what was declared, or could not. An answer to somebody else's ticket is none of ours."""
        key = self._declared.pop(event.ticket, None)
        promise = self._promises.pop(event.ticket, None)
        binding = self.bindings.get(key) if key is not None else None
        if binding is None or key is None:
            return
        newest = self._newest[key] == event.ticket
        if newest:
            binding.installed = event.error is None and not binding.ending
        if promise is None or promise.binding is not binding:
            return
        if event.error is None:
            # Overtaken by a newer declaration, it was still true when it was made.
            self._answer(promise.request, binding)
            return
        self.counters.count("forwarding.failed")
        self.report("forwarding-failed", "error", mn=mn_id_text(binding.mn_id), error=event.error)
        if promise.fresh and newest:
            self._forget(binding, now)
            for prefix in binding.prefixes:
                self._pool.give_up(prefix)  # nobody was told of it
        self._refuse(promise.request.update, promise.request.source, Status.INSUFFICIENT_RESOURCES, now)

    def _answer(self, request: _Request, binding: PlainBinding) -> None:
        """Section 5.3.6: a PBA with status 0."""
        update = request.update
        assigned = [HomeNetworkPrefix(prefix) for prefix in binding.prefixes]
        options: list[Option] = echo_options(update, prefixes=assigned)
        if binding.link_local is not None:
            link_local = LinkLocalAddress(binding.link_local)
            options = [link_local if isinstance(option, LinkLocalAddress) else option for option in options]
        lifetime_s = self._granted_s(update)
        self.emit(
            Send(
                request.source,
                BindingAcknowledgement(
                    int(Status.ACCEPTED), update.sequence, lifetime_s, BindingAckFlag.PROXY, tuple(options)
                ),
            )
        )

    def _persist(self, binding: PlainBinding) -> None:
        self.emit(Persist("plain", binding.key, binding.to_json()))
