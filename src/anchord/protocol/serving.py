"""The serving gateway (S-MAAR): it notices a node, registers it, shows it its routers, keeps it alive.

Rules: RFC 8885 sections 3.1-3.4, 3.6, 3.7; RFC 5213 section 6.9 for the PBU's sender, 6.9.1.2 for what each status
means. A deliberate deviation: when the CMD says nothing for ``fallback_s``, the host is served with our own prefix
alone, marked unregistered, and registered later (``serve_unregistered``).
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

from anchord.declared import LogicalRouter
from anchord.protocol.agreement import agreement_option, agrees
from anchord.protocol.core import Continuation, GatewayCore
from anchord.protocol.counters import status_name
from anchord.protocol.exchange import Exchange, ticks_of
from anchord.protocol.groups import Anchor, face_options, merge_anchors, read_groups
from anchord.protocol.identity import mac_text, mn_id_of_mac, mn_id_text, session_key
from anchord.protocol.inputs import HostSeen
from anchord.protocol.outputs import Advertise, AdvertisedPrefix, Probe
from anchord.protocol.prefixes import PoolExhaustedError
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingAckFlag, BindingAcknowledgement, BindingUpdate, BindingUpdateFlag, Status
from anchord.wire.neighbor import Preference
from anchord.wire.options import (
    AccessTechnologyType,
    AnchoredPrefix,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    Timestamp,
)

# RFC 6275 section 6.1.7, RFC 5213 section 8.1, RFC 8885 section 4.1; H is set as RFC 5213 nodes do (decision 30).
PBU_FLAGS = (
    BindingUpdateFlag.ACKNOWLEDGE
    | BindingUpdateFlag.HOME_REGISTRATION
    | BindingUpdateFlag.PROXY
    | BindingUpdateFlag.DISTRIBUTED
)
PROBES = 3
# The plain routers of ``mobility = false`` share one face, as RFC 5213 section 6.9.3 and VRRP have it.
SHARED_FACE = ""


class ServingRole:
    """Everything a gateway does for nodes that are attached to it."""

    def __init__(self, core: GatewayCore) -> None:
        self._core = core
        self._domain = core.settings.domain
        self._attach_tokens = float(self._domain.limits.attach_burst)
        self._attach_filled_s = 0.0

    # Noticing

    def host_seen(self, seen: HostSeen, now: Instant) -> None:
        """A frame of a candidate host."""
        if not self._is_candidate(seen):
            return
        session = self._core.by_mac.get(seen.mac)
        if session is None:
            self._first_attachment(seen, now)
            return
        session.heard_s = now.monotonic_s
        session.probes = 0
        session.address = seen.address or session.address
        if session.phase is Phase.AWAY:
            self._came_back(session, seen, now)
        elif session.interface != seen.interface:
            self._changed_interface(session, seen, now)
        elif session.phase is Phase.SERVING:
            if ("probe", session.key) in self._core.timers:
                self._core.timers.cancel(("probe", session.key))
                self._refresh(session, now)
            if seen.solicited or seen.reassociated:
                self._answer_solicitation(session, now)

    def _is_candidate(self, seen: HostSeen) -> bool:
        settings = self._core.settings
        if seen.mac[0] & 1 or seen.mac in settings.ignore or seen.mac in self._core.router_macs:
            self._core.counters.count("frame.not-a-host")
            return False
        if seen.interface in self._core.conflicts:
            self._core.counters.count("frame.segment-conflict")
            return False
        if settings.listed is not None and seen.mac not in settings.listed:
            self._core.counters.count("frame.not-listed")
            return False
        if ("heed", f"{seen.interface}/{seen.mac.hex()}") in self._core.timers:
            self._core.counters.count("frame.refused")
            return False
        return True

    def _first_attachment(self, seen: HostSeen, now: Instant) -> None:
        core = self._core
        if len(core.sessions) >= self._domain.limits.hosts:
            core.counters.count("limit.hosts")
            return
        if not self._take_attach_token(now):
            core.counters.count("limit.attaches")
            return
        mn_id = mn_id_of_mac(seen.mac)
        key = session_key(mn_id, seen.mac)
        try:
            prefix = core.pool.allocate(key, now.wall_s)
        except PoolExhaustedError:
            core.counters.count("limit.pool")
            core.report("pool-exhausted", "error", mn=mn_id_text(mn_id))
            return
        router = core.face(key, mn_id, core.settings.me.name if self._domain.mobility else SHARED_FACE)
        session = Session(key, mn_id, seen.mac, prefix, router, Phase.REGISTERING)
        core.open(session)
        session.address = seen.address
        self._begin(session, seen.interface, now)

    def _take_attach_token(self, now: Instant) -> bool:
        limits = self._domain.limits
        grown = self._attach_tokens + (now.monotonic_s - self._attach_filled_s) * limits.attaches_per_s
        self._attach_tokens = min(float(limits.attach_burst), grown)
        self._attach_filled_s = now.monotonic_s
        if self._attach_tokens < 1:
            return False
        self._attach_tokens -= 1
        return True

    def _came_back(self, session: Session, seen: HostSeen, now: Instant) -> None:
        """P4: an earlier anchor is the serving gateway again; the same prefix is registered (decision 16)."""
        if not self._take_attach_token(now):
            self._core.counters.count("limit.attaches")
            return
        if session.left_s >= 0 and now.monotonic_s - session.left_s < 1.0:
            # Either the host ping-pongs or somebody uses its MAC address on another link.
            self._core.report(
                "seen-in-two-places", "warning", mn=mn_id_text(session.mn_id), elsewhere=str(session.serving)
            )
        session.phase = Phase.REGISTERING
        self._begin(session, seen.interface, now)

    def _begin(self, session: Session, interface: str, now: Instant) -> None:
        session.heard_s = now.monotonic_s
        session.timeline = {"seen": now.monotonic_s}
        self._core.attach(session, interface)
        if not self._domain.mobility:
            self._serve(session, (), now)
            return
        self.register(session, now)

    def _changed_interface(self, session: Session, seen: HostSeen, now: Instant) -> None:
        """Between two access interfaces of this gateway: nobody else need know."""
        session.timeline = {"seen": now.monotonic_s}
        self._core.attach(session, seen.interface)
        if session.phase is Phase.SERVING:
            self._core.persist(session)
            self._core.declare(session, Continuation(session.key))
        else:
            self._core.declare(session)

    # Registering

    def register(self, session: Session, now: Instant) -> None:
        """P1/P2: tell the CMD that the node is here, with the prefix we give it (RFC 8885 section 3.1 (2))."""
        ticks = max(ticks_of(now.wall_s), session.ticks + 1)
        self._core.persist(session)
        # Nobody tells us of handovers: "unknown", never a guess (RFC 5213 section 6.9.1.1 (5)).
        self._send_update(session, Handoff.UNKNOWN, self._domain.lifetimes.binding_s, ticks, now)
        # While the CMD thinks, the kernel prepares our own face; routes and advertisements wait for the answer.
        self._core.declare(session)
        if self._domain.serve_unregistered:
            self._core.timers.set(("fallback", session.key), now.monotonic_s + self._domain.timing.fallback_s)
        self._core.timers.set(("expire", session.key), now.monotonic_s + self._domain.lifetimes.binding_s)

    def _send_update(self, session: Session, handoff: Handoff, lifetime_s: int, ticks: int, now: Instant) -> None:
        """RFC 5213 section 6.9.1.1 and 6.9.1.5; with D set and our face towards the node (decision 2)."""
        core, domain = self._core, self._domain
        options: list[Option] = [
            session.mn_id,
            HomeNetworkPrefix(session.prefix),
            HandoffIndicator(handoff),
            AccessTechnologyType(core.settings.access_technology),
        ]
        if domain.timestamps:
            options.append(Timestamp(ticks))
        options.append(MobileNodeLinkLayerIdentifier(session.mac))
        if handoff is Handoff.UNCHANGED:
            # Decision 26: from these a CMD that lost its store can rebuild the list of anchors.
            options += [AnchoredPrefix(prefix) for anchor in session.anchors for prefix in anchor.prefixes]
        else:
            options += agreement_option(domain.digest)
        if not domain.strict_8885:
            options += face_options(session.router, core.settings.me.local_networks)
        message = BindingUpdate(0, lifetime_s, PBU_FLAGS, tuple(options))
        session.timeline.setdefault("pbu", now.monotonic_s)
        stamp = ticks if domain.timestamps else 0
        core.emit(*core.exchanges.start(domain.central, session.key, message, stamp, now))

    def unanswered(self, key: str, now: Instant) -> None:
        """The CMD is silent: serve with our own prefix, register when it is back."""
        session = self._core.sessions.get(key)
        if session is None or session.phase is not Phase.REGISTERING:
            return
        self._core.report("unregistered", "warning", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
        session.registered = False
        self._serve(session, (), now)

    # The answer

    def acknowledged(self, ack: BindingAcknowledgement, now: Instant) -> None:
        """A PBA from the CMD."""
        core, domain = self._core, self._domain
        exchange = core.exchanges.match(domain.central, ack)
        if exchange is None:
            self._late_acknowledgement(ack, now)
            return
        session = core.sessions.get(exchange.session)
        if session is None:
            core.exchanges.cancel(domain.central, exchange.session)
            return
        if not self._echoes(exchange.message, ack):
            # RFC 5213 section 6.9.1.2 (6): ignore it, and do not ask again.
            core.counters.of(domain.central).drop("echo-mismatch")
            core.report("echo-mismatch", "error", mn=mn_id_text(session.mn_id))
            core.exchanges.cancel(domain.central, session.key)
            return
        if ack.status < 128 and not ack.flags & BindingAckFlag.DISTRIBUTED:
            # Decision 21: a peer that does not know D cannot have understood us.
            core.counters.of(domain.central).drop("not-distributed")
            core.report("central-is-legacy", "error", mn=mn_id_text(session.mn_id))
            return
        core.exchanges.cancel(domain.central, session.key)
        if core.counters.agreement(domain.central, agrees(ack.options, domain.digest)):
            core.report("domain-differs", "error", peer=str(domain.central))
        if ack.status >= 128:
            self._refused(session, exchange, ack, now)
        elif exchange.message.lifetime_s:
            self._accepted(session, exchange, ack, now)

    @staticmethod
    def _echoes(update: BindingUpdate, ack: BindingAcknowledgement) -> bool:
        """RFC 5213 section 6.9.1.2 (6): identifiers and indicators come back as they went out."""
        kinds = (MobileNodeIdentifier, HandoffIndicator, AccessTechnologyType, MobileNodeLinkLayerIdentifier)
        return all(update.first(kind) == ack.first(kind) for kind in kinds)

    def _accepted(self, session: Session, exchange: Exchange, ack: BindingAcknowledgement, now: Instant) -> None:
        session.timeline.setdefault("pba", now.monotonic_s)
        session.ticks = max(session.ticks, exchange.ticks)
        session.registered = True
        session.answered_sequence = ack.sequence
        # RFC 6275 section 11.7.3: what the peer granted counts from when we asked.
        lost_s = max(exchange.message.lifetime_s - ack.lifetime_s, 0)
        left_s = max(exchange.message.lifetime_s - (now.monotonic_s - exchange.sent.monotonic_s) - lost_s, 0.0)
        session.expires_wall_s = now.wall_s + left_s
        self._core.timers.set(("expire", session.key), now.monotonic_s + left_s)
        self._core.timers.set(("refresh", session.key), now.monotonic_s + left_s * self._domain.timing.refresh_share)
        anchors = self._read_anchors(session, ack)
        if session.phase is Phase.SERVING and anchors == session.anchors:
            self._core.persist(session)
            return
        self._serve(session, anchors, now)

    def _late_acknowledgement(self, ack: BindingAcknowledgement, now: Instant) -> None:
        """More anchors under the number of a PBU that was answered before (decision 12), or nothing of ours."""
        mn_id = ack.first(MobileNodeIdentifier)
        ll_id = ack.first(MobileNodeLinkLayerIdentifier)
        session = None
        if mn_id is not None:
            session = self._core.sessions.get(session_key(mn_id, ll_id.identifier if ll_id else None))
        if (
            session is None
            or session.phase is not Phase.SERVING
            or session.answered_sequence != ack.sequence
            or ack.status >= 128
        ):
            # RFC 6275 section 11.7.3: a sequence number that nobody waits for is silently ignored.
            self._core.counters.of(self._domain.central).drop("unmatched-ack")
            return
        merged = merge_anchors(session.anchors, self._read_anchors(session, ack))
        if merged != session.anchors:
            self._serve(session, merged, now)

    def _read_anchors(self, session: Session, ack: BindingAcknowledgement) -> tuple[Anchor, ...]:
        """The groups of a PBA, as far as they can be true: a prefix belongs to the gateway that owns its pool."""
        groups = read_groups(self._domain.central, ack.options)
        counters = self._core.counters.of(self._domain.central)
        for _ in range(groups.orphans):
            counters.drop("orphan-option")
        anchors: list[Anchor] = []
        for anchor in groups.anchors[: self._domain.limits.anchors_per_host]:
            info = self._domain.gateways.get(anchor.maar)
            prefixes = tuple(p for p in anchor.prefixes if info is not None and info.owns(p))
            if info is None or anchor.maar == self._core.settings.me.address or not prefixes:
                counters.drop("foreign-anchor")
                continue
            router = anchor.router or self._core.face(session.key, session.mn_id, info.name)
            anchors.append(replace(anchor, prefixes=prefixes, router=router))
        return tuple(anchors)

    def _refused(self, session: Session, exchange: Exchange, ack: BindingAcknowledgement, now: Instant) -> None:
        """RFC 5213 section 6.9.1.2 (7)-(11): what each refusal asks of us."""
        core = self._core
        name = status_name(ack.status)
        core.counters.of(self._domain.central).refuse(ack.status)
        core.report("refused", "warning", mn=mn_id_text(session.mn_id), status=int(ack.status), meaning=name)
        if not exchange.message.lifetime_s:
            return
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            core.exchanges.adopt_sequence(self._domain.central, ack.sequence)
            self._again(session, now)
        elif ack.status == Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED:
            session.ticks = max(session.ticks, exchange.ticks)
            self._again(session, now)
        elif ack.status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX and session.phase is Phase.REGISTERING:
            self._other_prefix(session, now)
        elif session.phase is Phase.REGISTERING:
            self._deny(session, now)
        # A refresh that is refused leaves the session to its lifetime.

    def _again(self, session: Session, now: Instant) -> None:
        if session.phase is Phase.REGISTERING or not session.registered:
            self.register(session, now)
        else:
            self._refresh(session, now)

    def _other_prefix(self, session: Session, now: Instant) -> None:
        """155: never the same prefix again (RFC 5213 section 6.9.1.2 (10)); a rested one is offered next time."""
        self._core.timers.cancel(("fallback", session.key))
        self._core.pool.release(session.prefix, now.wall_s + self._domain.lifetimes.valid_s)
        self._deny(session, now)

    def _deny(self, session: Session, now: Instant) -> None:
        """No prefix, no forwarding (RFC 5213 section 6.9.1.2 (11)), and no further frames of it for a while."""
        core = self._core
        interface, mac = session.interface, session.mac
        if session.serving is not None:
            session.phase = Phase.AWAY
            core.timers.cancel(("fallback", session.key))
            session.interface = None
            core.persist(session)
            core.declare(session)
        else:
            core.close(session, now, heed=False)
        if interface is not None:
            core.timers.set(("heed", f"{interface}/{mac.hex()}"), now.monotonic_s + self._domain.timing.refuse_s)

    # Serving

    def _serve(self, session: Session, anchors: tuple[Anchor, ...], now: Instant) -> None:
        core = self._core
        core.timers.cancel(("fallback", session.key))
        kept = {anchor.maar for anchor in anchors}
        session.withdrawn = tuple(anchor for anchor in session.anchors if anchor.maar not in kept)
        session.anchors = anchors
        session.phase = Phase.SERVING
        session.serving = None
        for anchor in anchors:
            if anchor.router is not None:
                core.router_macs[anchor.router.mac] = session.key
        if not session.registered:
            session.expires_wall_s = now.wall_s + self._domain.lifetimes.binding_s
            core.timers.set(("expire", session.key), now.monotonic_s + self._domain.lifetimes.binding_s)
            core.timers.set(("refresh", session.key), now.monotonic_s + self._domain.lifetimes.binding_s / 2)
        core.persist(session)
        core.declare(session, Continuation(session.key))

    def installed(self, session: Session, error: str | None, now: Instant) -> None:
        """The kernel forwards for the node: now it may hear of its routers (RFC 5213 section 6.7)."""
        if error is not None:
            self._core.counters.count("forwarding.failed")
            self._core.report("forwarding-failed", "error", mn=mn_id_text(session.mn_id), error=error)
            self._core.timers.set(("redeclare", session.key), now.monotonic_s + 1.0)
            return
        if session.phase is not Phase.SERVING:
            return
        session.timeline.setdefault("installed", now.monotonic_s)
        for anchor in session.withdrawn:
            self._withdraw(session, anchor.router, anchor.prefixes)
        session.withdrawn = ()
        self.advertise(session, now)
        start = session.timeline.get("seen")
        if start is not None:
            phases = {name: round((at - start) * 1000, 3) for name, at in session.timeline.items() if name != "seen"}
            self._core.report(
                "served",
                mn=mn_id_text(session.mn_id),
                mac=mac_text(session.mac),
                interface=session.interface,
                prefix=str(session.prefix),
                anchors=[str(anchor.maar) for anchor in session.anchors],
                registered=session.registered,
                phases_ms=phases,
            )
            session.timeline = {}

    def redeclare(self, key: str) -> None:
        """Ask the kernel once more for what it refused."""
        session = self._core.sessions.get(key)
        if session is not None:
            self._core.declare(session, Continuation(session.key))

    def advertise(self, session: Session, now: Instant) -> None:
        """Show the node all its routers: ours first, then each old anchor's as deprecated (RFC 8885 section 3.7)."""
        if session.interface is None or session.phase is not Phase.SERVING:
            return
        lifetimes, mtu = self._domain.lifetimes, self._core.settings.mtu
        own = AdvertisedPrefix(session.prefix, lifetimes.valid_s, lifetimes.preferred_s)
        session.advertised_s = now.monotonic_s
        self._core.emit(
            Advertise(
                session.interface, session.mac, session.router, (own,), lifetimes.router_s, Preference.MEDIUM, mtu
            ),
        )
        for anchor in session.anchors:
            if anchor.router is None:
                continue
            # Preferred 0: old connections go on, new ones take the new prefix. The router stays, at low preference:
            # it is the next hop of what is anchored there (decision 23).
            old = tuple(AdvertisedPrefix(prefix, lifetimes.valid_s, 0) for prefix in anchor.prefixes)
            self._core.emit(
                Advertise(
                    session.interface,
                    session.mac,
                    anchor.router,
                    old,
                    lifetimes.router_s,
                    Preference.LOW,
                    mtu,
                    anchor.local_networks,
                    lifetimes.router_s,
                )
            )
        self._core.timers.set(("advertise", session.key), now.monotonic_s + lifetimes.advertise_every_s)

    def _answer_solicitation(self, session: Session, now: Instant) -> None:
        """At once, because a DLIF is a point-to-point link, but not more often than the guard allows (decision 22)."""
        if now.monotonic_s - session.advertised_s >= self._domain.timing.advertise_guard_s:
            self.advertise(session, now)

    def _withdraw(self, session: Session, router: LogicalRouter | None, prefixes: tuple[IPv6Network, ...]) -> None:
        """Have the host forget a router and its prefixes at once (RFC 5213 section 6.12)."""
        if router is None or session.interface is None:
            return
        gone = tuple(AdvertisedPrefix(prefix, 0, 0) for prefix in prefixes)
        self._core.emit(
            Advertise(session.interface, session.mac, router, gone, 0, Preference.MEDIUM, self._core.settings.mtu),
        )

    # Keeping alive

    def refresh_due(self, key: str, now: Instant) -> None:
        """Before each refresh the node has been heard lately, or is asked (RFC 5213 section 6.13)."""
        session = self._core.sessions.get(key)
        if session is None or session.phase is not Phase.SERVING:
            return
        if now.monotonic_s - session.heard_s <= self._domain.timing.probe_after_s:
            self._refresh(session, now)
        else:
            session.probes = 0
            self.probe(key, now)

    def probe(self, key: str, now: Instant) -> None:
        """Three questions, then a pause; without an answer the lifetime runs out."""
        session = self._core.sessions.get(key)
        if session is None or session.phase is not Phase.SERVING or session.interface is None:
            return
        pause_s = self._domain.timing.probe_interval_s
        if session.probes >= PROBES or session.address is None:
            session.probes = 0
            pause_s = self._domain.timing.probe_after_s
            self._core.report("silent", mn=mn_id_text(session.mn_id))
        else:
            session.probes += 1
            self._core.emit(Probe(session.interface, session.mac, session.router, session.address))
        self._core.timers.set(("probe", key), now.monotonic_s + pause_s)

    def _refresh(self, session: Session, now: Instant) -> None:
        lifetimes = self._domain.lifetimes
        if not self._domain.mobility:
            session.expires_wall_s = now.wall_s + lifetimes.binding_s
            self._core.timers.set(("expire", session.key), now.monotonic_s + lifetimes.binding_s)
            self._core.timers.set(("refresh", session.key), now.monotonic_s + lifetimes.binding_s / 2)
            return
        ticks = max(ticks_of(now.wall_s), session.ticks + 1)
        handoff = Handoff.UNCHANGED if session.registered else Handoff.UNKNOWN
        self._send_update(session, handoff, lifetimes.binding_s, ticks, now)

    def expired(self, session: Session, now: Instant) -> None:
        """The lifetime is over: only the serving gateway ends a session (RFC 8885 section 3.5)."""
        core = self._core
        core.report("ended", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
        was_registered = session.phase is Phase.SERVING and session.registered
        for anchor in session.anchors:
            self._withdraw(session, anchor.router, anchor.prefixes)
        self._withdraw(session, session.router, (session.prefix,))
        core.close(session, now)
        if was_registered and self._domain.mobility:
            ticks = max(ticks_of(now.wall_s), session.ticks + 1)
            self._send_update(session, Handoff.UNKNOWN, 0, ticks, now)
