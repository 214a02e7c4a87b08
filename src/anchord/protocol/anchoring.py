"""The anchoring gateway of a node that is elsewhere (P-MAAR): it is told where, and forwards there.

It is told by the CMD, which names the serving gateway in an option, or by the serving gateway itself (``direct.py``).
The CMD is believed; a gateway only about a node and prefix that we know to belong together.

Rules: RFC 8885 sections 3.2-3.5 and RFC 5213 section 5.3 for the receiver of a PBU, in the order given there.
Deviations on purpose: several PBU* with different serving gateways are ordered by timestamp alone (decision 17), and
a PBU* with lifetime 0 from the CMD ends the session here although we are not its Proxy-CoA (decision 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Protocol

from anchord.protocol.core import Continuation, GatewayCore
from anchord.protocol.exchange import judge_timestamp, sequence_is_newer, ticks_of
from anchord.protocol.groups import Anchor, face_options, merge_anchors, write_group
from anchord.protocol.identity import mn_id_text, session_key
from anchord.protocol.notifying import register_again
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import Mode
from anchord.protocol.timers import Instant
from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingUpdate,
    BindingUpdateFlag,
    NotificationFlag,
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
    MnIdSubtype,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    ServingMaar,
    Timestamp,
)

PBA_FLAGS = BindingAckFlag.PROXY | BindingAckFlag.DISTRIBUTED
# Of two gateways that ask for a node within this time, either may have heard it last.
ONE_MOMENT_S = 2.0


def echo_options(
    update: BindingUpdate, ticks: int | None = None, prefixes: Sequence[Option] | None = None
) -> list[Option]:
    """What every PBA repeats of its PBU (RFC 5213 section 5.3.6).

    A missing identifier is answered by an empty one, a missing prefix and missing indicators by zero. ``ticks``
    replaces the Timestamp's value, ``prefixes`` the Home Network Prefix options.
    """
    options: list[Option] = [update.first(MobileNodeIdentifier) or MobileNodeIdentifier(MnIdSubtype.NAI, b"")]
    if prefixes is None:
        prefixes = update.all(HomeNetworkPrefix) or [HomeNetworkPrefix(ALL_ZERO_PREFIX)]
    options += prefixes
    options.append(update.first(HandoffIndicator) or HandoffIndicator(0))
    options.append(update.first(AccessTechnologyType) or AccessTechnologyType(0))
    stamp = update.first(Timestamp)
    if stamp is not None:
        options.append(stamp if ticks is None else Timestamp(ticks))
    link_layer_id = update.first(MobileNodeLinkLayerIdentifier)
    if link_layer_id is not None:
        options.append(link_layer_id)
    link_local = update.first(LinkLocalAddress)
    if link_local is not None:
        options.append(link_local)
    return options


def refusal(
    update: BindingUpdate, status: Status, now: Instant, last_sequence: int | None = None
) -> BindingAcknowledgement:
    """A PBA that says no. 156 and 157 carry our own time of day, 135 the last number accepted."""
    clock = status in (Status.TIMESTAMP_MISMATCH, Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED)
    flags = BindingAckFlag.PROXY
    if update.flags & BindingUpdateFlag.DISTRIBUTED:
        flags |= BindingAckFlag.DISTRIBUTED
    sequence = update.sequence if last_sequence is None else last_sequence
    options = tuple(echo_options(update, ticks_of(now.wall_s) if clock else None))
    return BindingAcknowledgement(int(status), sequence, 0, flags, options)


@dataclass(frozen=True, slots=True)
class _Request:
    """A PBU* that passed the checks which need no session."""

    update: BindingUpdate
    mn_id: MobileNodeIdentifier
    mac: bytes
    key: str
    ticks: int
    serving: IPv6Address | None
    source: IPv6Address
    direct: bool  # from the serving gateway itself


class Serving(Protocol):
    """The other role of a gateway, as far as this one has to tell it something."""

    def abandon(self, session: Session) -> None:
        """The node is elsewhere."""

    def lose_anchor(self, session: Session, maar: IPv6Address, now: Instant) -> bool:
        """An anchor gives up what it anchors of a node that is here; False: it is needed."""

    def claim(self, session: Session, elsewhere: IPv6Address, now: Instant) -> None:
        """A gateway has asked for a node that is here."""


class AnchoringRole:
    """Everything a gateway does for nodes that hold one of its prefixes elsewhere."""

    def __init__(self, core: GatewayCore, serving: Serving) -> None:
        self._core = core
        self._domain = core.settings.domain
        self._serving = serving

    def updated(self, update: BindingUpdate, source: IPv6Address, now: Instant) -> None:
        """A PBU* from the CMD or a PBU from a gateway: a node of ours is somewhere else, or its session is over."""
        verdict = self._check(update, source, now)
        if isinstance(verdict, Status):
            self._refuse(update, source, verdict, now)
            return
        session = self._core.sessions.get(verdict.key)
        if session is not None and session.is_fixed:
            self._refuse(update, source, Status.NOT_LMA_FOR_THIS_MOBILE_NODE, now)  # its LMA is, by policy
        elif update.lifetime_s == 0:
            self._end(verdict, session, now)
        elif session is None and verdict.direct and not self._is_vouched_for(verdict, now):
            self._refuse(update, source, Status.NOT_LMA_FOR_THIS_MOBILE_NODE, now)
        elif session is None:
            self._recreate(verdict, now)
        elif verdict.ticks and verdict.ticks <= session.ticks and not self._is_repetition(verdict, session):
            self._refuse(update, source, Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED, now)
            if verdict.direct and session.phase is Phase.SERVING:
                self._serving.claim(session, source, now)
        elif session.phase is Phase.SERVING and self._is_newer_here(verdict, session):
            # Decision 17: it was true before we asked for the node again, and the CMD knows better by now.
            self._refuse(update, source, Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED, now)
        elif verdict.direct and not self._is_theirs(verdict, session):
            self._refuse(update, source, Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX, now)
        elif verdict.direct and session.phase is Phase.SERVING and session.withheld and not session.shown:
            self._dismiss(verdict, session, now)
        elif not verdict.ticks and not sequence_is_newer(update.sequence, session.told_sequence):
            # RFC 6275 section 9.5.1: where no timestamps are in use, sequence numbers order the CMD's updates.
            self._refuse(update, source, Status.SEQUENCE_NUMBER_OUT_OF_WINDOW, now, session.told_sequence)
        else:
            self._export(verdict, session, now)

    def _check(self, update: BindingUpdate, source: IPv6Address, now: Instant) -> _Request | Status:
        """RFC 5213 section 5.3.1, in its order; the sender's authority has been established by its address."""
        mn_id = update.first(MobileNodeIdentifier)
        if mn_id is None or not mn_id.identifier:
            return Status.MISSING_MN_IDENTIFIER_OPTION
        if not update.flags & BindingUpdateFlag.DISTRIBUTED:
            return Status.ADMINISTRATIVELY_PROHIBITED
        link_layer_id = update.first(MobileNodeLinkLayerIdentifier)
        mac = link_layer_id.identifier if link_layer_id is not None else b""
        stamp = update.first(Timestamp)
        ticks = stamp.ticks if stamp is not None else 0
        key = session_key(mn_id, mac or None)
        session = self._core.sessions.get(key)
        if ticks:
            last = session.ticks if session is not None else 0
            window_s = self._domain.timing.timestamp_window_s
            if judge_timestamp(ticks, min(last, ticks - 1), now.wall_s, window_s) is not None:
                return Status.TIMESTAMP_MISMATCH
        missing = self._missing_option(update)
        if missing is not None:
            return missing
        named = update.first(ServingMaar)
        direct = source != self._domain.central
        serving = source if direct else None if named is None else named.address
        usable = serving in self._domain.gateways or (serving in self._domain.lmas and not direct)
        if update.lifetime_s and not usable:
            # Decision 35: a PBU* without a usable Serving MAAR cannot be carried out. An LMA that is not our CMD serves
            # no node itself: only a CMD names one, that of another operator.
            return Status.REASON_UNSPECIFIED
        return _Request(update, mn_id, mac, key, ticks, serving, source, direct)

    @staticmethod
    def _missing_option(update: BindingUpdate) -> Status | None:
        if update.first(HomeNetworkPrefix) is None:
            return Status.MISSING_HOME_NETWORK_PREFIX_OPTION
        if update.first(HandoffIndicator) is None:
            return Status.MISSING_HANDOFF_INDICATOR_OPTION
        if update.first(AccessTechnologyType) is None:
            return Status.MISSING_ACCESS_TECH_TYPE_OPTION
        return None

    @staticmethod
    def _is_theirs(request: _Request, session: Session) -> bool:
        """Whether a gateway asks for what we gave this node; all-zero asks whatever that is ("anchor known")."""
        asked = [option.prefix for option in request.update.all(HomeNetworkPrefix)]
        return session.prefix in asked or asked == [ALL_ZERO_PREFIX]

    @staticmethod
    def _is_repetition(request: _Request, session: Session) -> bool:
        """The same request once more: answered again, nothing else (decision 11)."""
        same_place = session.phase is Phase.AWAY and session.serving == request.serving
        return request.ticks == session.ticks and same_place

    def _is_vouched_for(self, request: _Request, now: Instant) -> bool:
        """Whether a serving gateway only goes on with what we had granted it before we lost our journal.

        It says so by refreshing. In anything else a prefix may be named by nothing but the source of a packet.
        """
        handoff = request.update.first(HandoffIndicator)
        unchanged = handoff is not None and handoff.value == Handoff.UNCHANGED
        return unchanged and now.wall_s < self._core.forgetful_until_wall_s

    def _recreate(self, request: _Request, now: Instant) -> None:
        """We lost our journal, who asks did not: a prefix of ours that nobody else holds is believed (decision 31)."""
        core = self._core
        option = request.update.first(HomeNetworkPrefix)
        prefix = option.prefix if option is not None else None
        if len(core.sessions) >= self._domain.limits.hosts:
            core.counters.count("limit.hosts")
            self._refuse(request.update, request.source, Status.INSUFFICIENT_RESOURCES, now)
            return
        if (
            prefix is None
            or len(request.mac) != 6
            or request.mac in core.by_mac
            or not core.settings.me.owns(prefix)
            or not core.pool.claim(prefix, request.key)
        ):
            self._refuse(request.update, request.source, Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX, now)
            return
        router = core.face(request.key, request.mn_id, core.settings.me.name)
        session = Session(request.key, request.mn_id, request.mac, prefix, router, Phase.AWAY)
        core.open(session)
        self._export(request, session, now)

    def _export(self, request: _Request, session: Session, now: Instant) -> None:
        """P2 step 3: route the prefix into the tunnel to the serving gateway; answer when the kernel does."""
        core, domain = self._core, self._domain
        if request.serving == core.settings.me.address:
            # Decision 16 spares us this; answering changes nothing.
            core.emit(Send(request.source, self._acknowledgement(request, session, now)))
            return
        newer_here = self._is_newer_here(request, session)
        former = self._overtaken(request, session, now)
        moved = session.phase is not Phase.AWAY or session.serving != request.serving
        if moved and session.serving is not None:
            # What we asked of the gateway that served it, to let us go, was about another situation.
            core.exchanges.cancel(session.serving, session.key)
        if moved:
            session.before = session.serving
        session.serving = request.serving
        session.told_sequence = request.update.sequence
        session.ticks = max(session.ticks, request.ticks)
        # What a serving gateway asks for itself lasts no longer than it has asked for (RFC 6275 section 10.3.1). The
        # CMD's word stops that timer, and leaves a dead-man timer (RFC 8885 section 3.5, decision 19).
        lifetime_s = request.update.lifetime_s * (1.0 if request.direct else domain.timing.dead_man_lifetimes)
        session.expires_wall_s = now.wall_s + lifetime_s
        core.timers.set(("expire", session.key), now.monotonic_s + lifetime_s)
        self._note_others(request, session)
        if not newer_here:
            if session.phase is not Phase.AWAY:
                # Decision 17: at once, and whatever we had asked for earlier is void; but for a release (decision 18):
                # should the CMD have granted that meanwhile, it knows of us no more.
                self._serving.abandon(session)
            session.phase = Phase.AWAY
            session.anchors, session.ages, session.fading = (), (), None
            if moved:
                session.left_s = now.monotonic_s
            core.detach(session)
        self._answer(request, session, now)
        if former is not None:
            self._cast_doubt(session, former)
        if not newer_here and moved:
            core.timers.set(("idle", session.key), now.monotonic_s + domain.timing.idle_release_s)
        if moved:
            core.report("exported", mn=mn_id_text(session.mn_id), prefix=str(session.prefix), to=str(session.serving))

    def _overtaken(self, request: _Request, session: Session, now: Instant) -> IPv6Address | None:
        """Who has asked for the node a moment before another gateway does. A CMD knows the order by itself."""
        if session.phase is not Phase.AWAY or session.serving == request.serving or self._domain.central is not None:
            return None
        return session.serving if now.monotonic_s - session.left_s < ONE_MOMENT_S else None

    def _cast_doubt(self, session: Session, former: IPv6Address) -> None:
        """A timestamp says when a PBU left, not when the node was heard: ``former`` may be right all the same.

        It is told that it is believed no more (RFC 7077 section 4.1). If the node is there, it asks again.
        """
        sequence, outputs = self._core.exchanges.next_sequence(former)
        told = register_again(sequence, NotificationFlag(0), session.mn_id, session.mac)
        self._core.emit(*outputs, Send(former, told))

    def _is_newer_here(self, request: _Request, session: Session) -> bool:
        """Whether we have asked the CMD for this node ourselves since what we are told now was true."""
        asked_ticks = self._asked_ticks(session)
        return session.phase is not Phase.AWAY and asked_ticks is not None and asked_ticks > request.ticks > 0

    def _asked_ticks(self, session: Session) -> int | None:
        """The timestamp of the registration that the CMD has not answered; None: there is none."""
        central = self._domain.central
        asked = None if central is None else self._core.exchanges.outstanding(central, session.key)
        return None if asked is None else asked.ticks

    def _answer(self, request: _Request, session: Session, now: Instant) -> None:
        """Have the kernel export the prefix, and say so.

        To the CMD when it is true. A serving gateway that asked us itself has nothing to do but wait for our answer:
        it gets that first, both kernels work at the same time, and what ours refuses is declared again until it takes
        it.
        """
        core, ack = self._core, self._acknowledgement(request, session, now)
        if request.direct:
            core.persist(session)
            core.emit(Send(request.source, ack))
            core.declare(session, Continuation(session.key))
            return
        to: tuple[IPv6Address, ...] = (request.source,)
        if self._domain.mode is Mode.LOCATOR and request.serving is not None:
            to = (request.serving, *to)  # the one that forwards first (RFC 8885 section 3.3)
        core.declare(session, Continuation(session.key, ack, to))
        core.persist(session)

    def _note_others(self, request: _Request, session: Session) -> None:
        """What else the node holds (RFC 8885 section 4.3), as far as we are told, or served it with until now.

        Gateways list it from the oldest to the newest, our own prefix in its place; at the CMD ages are kept.
        """
        listed = [option.prefix for option in request.update.all(AnchoredPrefix)]
        handoff = request.update.first(HandoffIndicator)
        if request.direct and handoff is not None and handoff.value != Handoff.UNCHANGED:
            # Who has just begun to ask by itself knows less than we do; what it gives the node itself is the newest.
            known = [prefix for anchor in session.anchors for prefix in anchor.prefixes]
            known += (*session.others[: session.older], session.prefix, *session.others[session.older :])
            anchor = self._domain.gateways.get(request.source)
            newest = [prefix for prefix in listed if anchor is not None and anchor.owns(prefix)]
            listed = [prefix for prefix in (*known, *listed) if prefix not in newest] + newest
        order = list(dict.fromkeys((*listed, session.prefix)))[-2 * self._domain.limits.anchors_per_host :]
        session.older = order.index(session.prefix) if session.prefix in order else 0
        session.others = tuple(prefix for prefix in order if prefix != session.prefix)

    def _acknowledgement(self, request: _Request, session: Session, now: Instant) -> BindingAcknowledgement:
        """Our prefix, the Serving MAAR echoed (decision 3), our face and our local networks (decisions 2 and 27).

        A serving gateway that asked us itself is also told of every other anchor.
        """
        own: list[Option] = [HomeNetworkPrefix(session.prefix)]
        options = echo_options(request.update, prefixes=own)
        if request.serving is not None and not request.direct:
            options.append(ServingMaar(request.serving))
        options += face_options(session.router, self._core.settings.me.local_networks)
        if request.direct:
            for anchor in self._by_age(session, request.source, now):
                options += write_group(anchor)
        return BindingAcknowledgement(
            int(Status.ACCEPTED), request.update.sequence, request.update.lifetime_s, PBA_FLAGS, tuple(options)
        )

    def _by_age(self, session: Session, asking: IPv6Address, now: Instant) -> tuple[Anchor, ...]:
        """The gateways that anchor what the node holds, as far as we were told, oldest first.

        We are among them if we are not the newest: that is how our own place is told. What the node has lost and may
        still have addresses of is named as well: its anchor will say that it is over.
        """
        found: dict[IPv6Address, Anchor] = {}
        for prefix in (*session.others[: session.older], session.prefix, *session.others[session.older :]):
            owner = self._domain.anchor_of(prefix)
            if owner is not None and owner.address != asking:
                known = found.get(owner.address, Anchor(owner.address, ()))
                found[owner.address] = replace(known, prefixes=(*known.prefixes, prefix))
        anchors = list(found.values())
        last = session.before
        if last is not None and last not in found and last not in (asking, self._core.settings.me.address):
            # What it gave the node, if anything, nobody has told us: it is to be asked.
            anchors.append(Anchor(last, (ALL_ZERO_PREFIX,)))
        if anchors and anchors[-1].maar == self._core.settings.me.address:
            anchors.pop()
        return merge_anchors(self._given_up(session, asking, now), tuple(anchors))

    def _given_up(self, session: Session, asking: IPv6Address, now: Instant) -> tuple[Anchor, ...]:
        """Who anchored what the node lost while it was here."""
        held = (session.prefix, *session.others)
        lost = [prefix for prefix, until in session.released.items() if until > now.wall_s and prefix not in held]
        owners = [(self._domain.anchor_of(prefix), prefix) for prefix in lost[-self._domain.limits.anchors_per_host :]]
        return tuple(Anchor(o.address, (prefix,)) for o, prefix in owners if o is not None and o.address != asking)

    def _dismiss(self, request: _Request, session: Session, now: Instant) -> None:
        """It has no address of ours, and is elsewhere by now: we say who anchors something of it, and that is all."""
        self._note_others(request, session)
        options = echo_options(request.update, prefixes=[HomeNetworkPrefix(ALL_ZERO_PREFIX)])
        for anchor in self._by_age(session, request.source, now):
            options += write_group(anchor)
        self._serving.abandon(session)
        self._core.report("released", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
        self._core.close(session, now)
        sequence, lifetime_s = request.update.sequence, request.update.lifetime_s
        ack = BindingAcknowledgement(int(Status.ACCEPTED), sequence, lifetime_s, PBA_FLAGS, tuple(options))
        self._core.emit(Send(request.source, ack))

    def _end(self, request: _Request, session: Session | None, now: Instant) -> None:
        """P5: the session is over; saying so again is answered again (decision 20)."""
        if session is not None and request.ticks and request.ticks <= session.ticks:
            self._refuse(request.update, request.source, Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED, now)
            return
        lifetime_s = 0
        if request.direct and session is not None and session.phase is Phase.SERVING:
            # The other way round: an anchor gives up its part of a node that we serve (decision 18).
            if not self._serving.lose_anchor(session, request.source, now):
                lifetime_s = self._domain.lifetimes.binding_s  # RFC 8885 section 3.5, the second way
        elif request.direct and session is not None and session.serving != request.source:
            # RFC 5213 section 5.3.5 (1), RFC 8885 section 3.5: only the serving gateway ends a session.
            self._core.counters.of(request.source).drop("deregistration-not-serving")
            return
        elif session is not None and self._is_over(request, session):
            self._serving.abandon(session)
            self._core.report("released", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
            self._core.close(session, now)
        options = tuple(echo_options(request.update))
        self._core.emit(
            Send(
                request.source,
                BindingAcknowledgement(int(Status.ACCEPTED), request.update.sequence, lifetime_s, PBA_FLAGS, options),
            )
        )

    def _is_over(self, request: _Request, session: Session) -> bool:
        """Whether the node has left, although we may not have heard that it is somewhere else.

        The CMD says so to a gateway whose prefix it withholds, and which may never have heard its answer. Without
        timestamps nobody knows whether that was before the node came back to us.
        """
        if session.phase is Phase.AWAY or session.withheld:
            return True
        if request.direct or not request.ticks or self._domain.central is None:
            return False
        asked_ticks = self._asked_ticks(session)
        return asked_ticks is None or asked_ticks < request.ticks

    def installed(self, session: Session | None, then: Continuation, error: str | None) -> None:
        """The kernel has the tunnel: only now we may say so (or: it has not, and we must not)."""
        ack = then.acknowledgement
        assert ack is not None
        if error is not None:
            self._core.counters.count("forwarding.failed")
            name = mn_id_text(session.mn_id) if session is not None else "?"
            self._core.report("forwarding-failed", "error", mn=name, error=error)
            ack = BindingAcknowledgement(int(Status.INSUFFICIENT_RESOURCES), ack.sequence, 0, ack.flags, ack.options)
        for destination in then.to:
            self._core.emit(Send(destination, ack))

    def _refuse(
        self,
        update: BindingUpdate,
        source: IPv6Address,
        status: Status,
        now: Instant,
        last_sequence: int | None = None,
    ) -> None:
        self._core.counters.of(source).refuse(status)
        self._core.emit(Send(source, refusal(update, status, now, last_sequence)))
