"""The serving gateway's side of a registration: its PBU, and what each answer means.

Rules: RFC 8885 sections 3.1, 3.2 and 3.6; RFC 5213 section 6.9 for the PBU's sender, 6.9.1.2 for what each status
asks of it; RFC 6275 sections 11.7 and 11.8.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from anchord.protocol.advertising import Advertising
from anchord.protocol.agreement import agreement_option, agrees
from anchord.protocol.core import GatewayCore
from anchord.protocol.counters import status_name
from anchord.protocol.denying import deny
from anchord.protocol.direct import Direct
from anchord.protocol.exchange import Exchange
from anchord.protocol.finder import Serve
from anchord.protocol.groups import Anchor, at_most, face_options, merge_anchors, read_groups
from anchord.protocol.identity import session_key
from anchord.protocol.presence import Presence
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import Mode
from anchord.protocol.timers import Instant
from anchord.protocol.updates import advised_s, anchor_in, is_about, proxy_update, retained
from anchord.wire.messages import BindingAckFlag, BindingAcknowledgement, Status
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AnchoredPrefix,
    Handoff,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    Timestamp,
)

# The answer may be different in a moment: a refresh that meets one of these leaves the session to its lifetime.
_PASSING = (Status.REASON_UNSPECIFIED, Status.INSUFFICIENT_RESOURCES, Status.TIMESTAMP_MISMATCH)

# How long after the CMD's answer an anchor's own may come (decision 10).
LOCATED_WITHIN_S = 2.0


class Registering:
    """PBUs to the CMD and its PBAs. ``serve`` is called with the anchors of a node whose registration was accepted."""

    def __init__(
        self,
        core: GatewayCore,
        central: IPv6Address,
        advertising: Advertising,
        presence: Presence,
        direct: Direct,
        serve: Serve,
    ) -> None:
        self._core = core
        self._central = central
        self._domain = core.settings.domain
        self._advertising = advertising
        self._presence = presence
        self._direct = direct
        self._serve = serve

    # Asking

    def register(self, session: Session, now: Instant) -> None:
        """P1/P2: tell the CMD that the node is here, with the prefix we give it (RFC 8885 section 3.1 (2))."""
        self._core.persist(session)
        # Nobody tells us of handovers: "unknown", never a guess (RFC 5213 section 6.9.1.1 (5)).
        self._send(session, Handoff.UNKNOWN, self._domain.lifetimes.binding_s, now)
        # While the CMD thinks, the kernel prepares our own face; routes and advertisements wait for the answer.
        self._core.declare(session)
        if self._domain.serve_unregistered:
            self._core.timers.set(("fallback", session.key), now.monotonic_s + self._domain.timing.fallback_s)
        self._core.timers.set(("expire", session.key), now.monotonic_s + self._domain.lifetimes.binding_s)

    def refresh(self, session: Session, now: Instant) -> None:
        """The node is still here (RFC 5213 section 6.9.1.3); or was never registered: then it is news to the CMD."""
        handoff = Handoff.UNCHANGED if session.registered else Handoff.UNKNOWN
        self._send(session, handoff, self._domain.lifetimes.binding_s, now)

    def left(self, session: Session, now: Instant) -> None:
        """The node seems to have gone before the CMD has ever heard that it was here: its prefix must not be lost.

        As if it had been late, the PBU says when the node was here last. A CMD that has heard of the node since refuses
        it as older (157), and learns from option 65 that the node has addresses of our prefix. Any other takes no stamp
        of that age (156), and nothing has changed.
        """
        if self._domain.timestamps:
            silent_s = now.monotonic_s - max(session.heard_s, session.verified_s)
            own = (HomeNetworkPrefix(session.prefix),)
            more = (
                AnchoredPrefix(session.prefix),
                *face_options(session.router, self._core.settings.me.local_networks),
            )
            then_s, lifetime_s = now.wall_s - silent_s, self._domain.lifetimes.binding_s
            message, ticks = proxy_update(self._core, session, Handoff.UNKNOWN, lifetime_s, own, more, now, then_s)
            self._core.emit(*self._core.exchanges.start(self._central, session.key, message, ticks, now, past=True))

    def end(self, session: Session, now: Instant) -> None:
        """The session is over (RFC 5213 section 6.9.1.4)."""
        self._send(session, Handoff.UNKNOWN, 0, now)

    def abandon(self, session: Session) -> None:
        """The node is elsewhere: whatever we had asked for is void (decision 17)."""
        self._core.exchanges.cancel(self._central, session.key)

    def is_waiting(self, session: Session) -> bool:
        """Whether the CMD owes an answer."""
        return self._core.exchanges.outstanding(self._central, session.key) is not None

    def _send(self, session: Session, handoff: Handoff, lifetime_s: int, now: Instant) -> None:
        """A PBU to the CMD, with our face towards the node (decision 2)."""
        core, domain = self._core, self._domain
        more: list[Option] = []
        if lifetime_s:
            # Decision 26: from these a CMD that lost its store, or was away, can rebuild the list of anchors.
            more += retained(session)
        if handoff is not Handoff.UNCHANGED:
            more += agreement_option(domain.digest)
        if not domain.strict_8885:
            more += face_options(session.router, core.settings.me.local_networks)
        own = (HomeNetworkPrefix(session.prefix),)
        message, ticks = proxy_update(core, session, handoff, lifetime_s, own, more, now)
        session.timeline.setdefault("pbu", now.monotonic_s)
        core.emit(*core.exchanges.start(self._central, session.key, message, ticks, now))

    # The answer

    def acknowledged(self, ack: BindingAcknowledgement, now: Instant) -> None:
        """A PBA from the CMD."""
        core, central = self._core, self._central
        exchange = core.exchanges.match(central, ack)
        if exchange is None:
            self._late(ack, now)
            return
        if not is_about(core, exchange, ack):
            core.report("echo-mismatch", "error", session=exchange.session)
            return
        core.compare_clocks(central, ack, now)
        if ack.status < 128 and not ack.flags & BindingAckFlag.DISTRIBUTED:
            # Decision 21: a peer that does not know D cannot have understood us.
            core.counters.of(central).drop("not-distributed")
            core.report("central-is-legacy", "error", session=exchange.session)
            return
        if core.counters.agreement(central, agrees(ack.options, self._domain.digest)):
            core.report("domain-differs", "error", peer=str(central))
        session = core.sessions.get(exchange.session)
        if ack.status >= 128:
            self._refused(session, exchange, ack, now)
            return
        core.exchanges.cancel(central, exchange.session)
        if session is not None and exchange.message.lifetime_s:
            self._accepted(session, exchange, ack, now)

    def _accepted(self, session: Session, exchange: Exchange, ack: BindingAcknowledgement, now: Instant) -> None:
        if session.phase is Phase.SERVING and not session.registered:
            # Served without the CMD's word until now: that is worth telling.
            session.timeline = {"seen": now.monotonic_s}
        session.timeline.setdefault("pba", now.monotonic_s)
        session.ticks = max(session.ticks, exchange.ticks)
        session.registered = True
        session.answered_s = now.monotonic_s
        session.answered_sequence = ack.sequence
        granted = ack.first(HomeNetworkPrefix)
        withheld = granted is not None and granted.prefix == ALL_ZERO_PREFIX
        # RFC 6275 section 11.7.3: what the peer granted counts from when we asked.
        lost_s = max(exchange.message.lifetime_s - ack.lifetime_s, 0)
        left_s = max(exchange.message.lifetime_s - (now.monotonic_s - exchange.sent.monotonic_s) - lost_s, 0.0)
        self._core.lives_on(session, left_s, now, advised_s(ack))
        anchors = self._with_those_who_answered(session, self._read_anchors(session, ack), now)
        news = "seen" in session.timeline
        news = news or withheld != session.withheld
        session.withheld = withheld
        if session.phase is Phase.SERVING and anchors == session.anchors and not news:
            self._core.persist(session)
            return
        self._serve(session, anchors, now)

    def _with_those_who_answered(self, session: Session, named: tuple[Anchor, ...], now: Instant) -> tuple[Anchor, ...]:
        """Anchors that we have asked ourselves and the CMD does not name, perhaps because it cannot reach them, stay.

        They are asked again: what has been given up they do not grant any more, and then they go.
        """
        room = self._domain.limits.anchors_per_host - sum(len(anchor.prefixes) for anchor in named)
        kept: list[Anchor] = []
        for anchor in session.anchors:
            silent_s = now.monotonic_s - session.confirmed_s.get(anchor.maar, -1e9)
            if silent_s > self._domain.lifetimes.binding_s or any(anchor.maar == other.maar for other in named):
                continue
            room -= len(anchor.prefixes)
            if room >= 0:
                kept.append(anchor)
                self._direct.confirm(session, anchor, now)
        return (*kept, *named)

    def _late(self, ack: BindingAcknowledgement, now: Instant) -> None:
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
            self._core.counters.of(self._central).drop("unmatched-ack")
            return
        told = self._read_anchors(session, ack)
        merged = self._merge(session, told)
        # Not by their number: a limit can have kept one out that was told while one stays that was not.
        order = [anchor.maar for anchor in told]
        if all(anchor.maar in order for anchor in merged):  # all of them, in their order: the newest is the last
            merged = tuple(sorted(merged, key=lambda anchor: order.index(anchor.maar)))
        if merged != session.anchors:
            self._serve(session, merged, now)

    def located(self, source: IPv6Address, ack: BindingAcknowledgement, now: Instant) -> bool:
        """A PBA of an anchor that the CMD has told of us, in locator mode (RFC 8885 section 3.3); False: of nothing.

        Its sequence number is the CMD's, so it is matched by node, prefix and the Timestamp of our own PBU, while that
        waits for its answer or had it a moment ago (decision 10).
        """
        mn_id, stamp = ack.first(MobileNodeIdentifier), ack.first(Timestamp)
        ll_id = ack.first(MobileNodeLinkLayerIdentifier)
        gateway = self._domain.gateways.get(source)
        if self._domain.mode is not Mode.LOCATOR or mn_id is None or gateway is None or ack.status >= 128:
            return False
        session = self._core.sessions.get(session_key(mn_id, ll_id.identifier if ll_id else None))
        if session is None or session.phase is Phase.AWAY:
            return False
        anchor = anchor_in(self._core, session, gateway, ack)
        if anchor is None:
            return False
        exchange = self._core.exchanges.outstanding(self._central, session.key)
        recent = now.monotonic_s - session.answered_s <= LOCATED_WITHIN_S
        asked_ticks = session.ticks if exchange is None else exchange.ticks
        if (exchange is None and not recent) or (stamp is not None and stamp.ticks < asked_ticks):
            return False
        merged = self._merge(session, (anchor,))
        if merged != session.anchors or session.phase is not Phase.SERVING:
            session.timeline.setdefault("pba", now.monotonic_s)
            early = session.phase is Phase.REGISTERING
            # Whether the node may have our own prefix as well is the CMD's to say (the budget).
            session.withheld = session.withheld or early
            self._serve(session, merged, now)
            if early and self._domain.serve_unregistered:
                at_s = session.attached_s + self._domain.timing.fallback_s
                self._core.timers.set(("fallback", session.key), max(at_s, now.monotonic_s))
        return True

    def _read_anchors(self, session: Session, ack: BindingAcknowledgement) -> tuple[Anchor, ...]:
        """The groups of a PBA, as far as they can be true: a prefix belongs to the gateway that owns its pool.

        Prefixes of other operators are reached through the home LMA that stands for them.
        """
        groups = read_groups(self._central, ack.options)
        counters = self._core.counters.of(self._central)
        for _ in range(groups.orphans):
            counters.drop("orphan-option")
        anchors: list[Anchor] = []
        for anchor in groups.anchors[: self._domain.limits.anchors_per_host]:
            info = self._domain.gateways.get(anchor.maar) or self._domain.lmas.get(anchor.maar)
            prefixes = tuple(p for p in anchor.prefixes if self._domain.may_anchor(anchor.maar, p))
            if info is None or anchor.maar == self._core.settings.me.address or not prefixes:
                counters.drop("foreign-anchor")
                continue
            router = anchor.router or self._core.face(session.key, session.mn_id, info.name)
            anchors.append(replace(anchor, prefixes=prefixes, router=router))
        return self._limited(tuple(anchors))

    def _merge(self, session: Session, more: tuple[Anchor, ...]) -> tuple[Anchor, ...]:
        """PBAs are additive (decision 12), but not without end."""
        return self._limited(merge_anchors(session.anchors, more))

    def _limited(self, anchors: tuple[Anchor, ...]) -> tuple[Anchor, ...]:
        limited = at_most(anchors, self._domain.limits.anchors_per_host)
        if limited != anchors:
            self._core.counters.count("limit.prefixes")
        return limited

    # The refusal

    def _refused(self, session: Session | None, exchange: Exchange, ack: BindingAcknowledgement, now: Instant) -> None:
        """RFC 5213 section 6.9.1.2 (7)-(11): what each refusal asks of us."""
        core, central = self._core, self._central
        core.counters.of(central).refuse(ack.status)
        core.report("refused", "warning", session=exchange.session, status=ack.status, meaning=status_name(ack.status))
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            core.exchanges.adopt_sequence(central, ack.sequence)
            core.emit(*core.exchanges.hurry(exchange, now))
        elif exchange.past and ack.status in (Status.TIMESTAMP_MISMATCH, Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED):
            core.exchanges.cancel(central, exchange.session)  # nothing else was to be expected
        elif ack.status == Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED:
            if (
                session is not None
                and exchange.message.lifetime_s
                and self._presence.is_doubtful(session, central, now)
            ):
                self._presence.hold(session, central, now)
            else:
                if session is not None:
                    session.outrun = True
                core.emit(*core.exchanges.hurry(exchange, now))
        else:
            core.exchanges.cancel(central, exchange.session)
            lasting = ack.status not in _PASSING or (session is not None and not session.registered)
            if session is not None and exchange.message.lifetime_s and lasting:
                deny(core, self._advertising, session, ack.status, now)
            elif session is not None and exchange.message.lifetime_s:
                # Nothing is lost yet: there is time for another try before the lifetime runs out.
                core.timers.set(("refresh", session.key), now.monotonic_s + self._domain.timing.refuse_s)
