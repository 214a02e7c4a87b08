"""A gateway as the MAG of a plain LMA, for nodes whose policy says so (RFC 5213 section 6; D is clear).

Such a node is given nothing of ours: all its prefixes come from its LMA, and every packet goes there. To the rest of
the gateway this is one more way to find a node's anchors, with the LMA as the only one. The node sees one router, with
the same addresses at every MAG: fixed ones (sections 6.9.3 and 9.3), or a MAC address made from the LMA's name and the
link-local address that the LMA says.

That a node has gone to another MAG the LMA may tell us (RFC 5846), or not. So a node is registered
again whenever it seems to have come back, and a session may end by lifetime; the LMA ignores the de-registration that
follows, which is not ours to make any more.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from anchord.declared import LogicalRouter
from anchord.protocol.advertising import Advertising
from anchord.protocol.core import GatewayCore
from anchord.protocol.counters import status_name
from anchord.protocol.denying import deny
from anchord.protocol.exchange import Exchange
from anchord.protocol.finder import Finder, Serve
from anchord.protocol.groups import Anchor
from anchord.protocol.identity import mn_id_text
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import LmaInfo
from anchord.protocol.timers import Instant
from anchord.protocol.updates import PBU_FLAGS, advised_s, is_about, proxy_update
from anchord.wire.messages import (
    UNSPECIFIED,
    BindingAckFlag,
    BindingAcknowledgement,
    BindingUpdateFlag,
    Status,
)
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    Handoff,
    HomeNetworkPrefix,
    LinkLocalAddress,
    MobileNodeIdentifier,
    Option,
)

_PLAIN_FLAGS = PBU_FLAGS & ~BindingUpdateFlag.DISTRIBUTED
# What may be different in a moment: a refresh that meets one of these leaves the session to its lifetime.
_PASSING = (Status.REASON_UNSPECIFIED, Status.INSUFFICIENT_RESOURCES, Status.TIMESTAMP_MISMATCH)
# Not these prefixes again, but others (RFC 5213 section 6.9.1.2 (10)).
_NOT_THESE = (Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX, Status.BCE_PBU_PREFIX_SET_DO_NOT_MATCH)


class Mag:
    """PBUs without D to LMAs, and their PBAs."""

    def __init__(self, core: GatewayCore, advertising: Advertising, serve: Serve) -> None:
        self._core = core
        self._domain = core.settings.domain
        self._advertising = advertising
        self._serve = serve

    def face(self, session_key: str, lma: LmaInfo, mn_id: MobileNodeIdentifier) -> LogicalRouter:
        """Our face towards a node before its LMA has said anything of it.

        RFC 5213 section 9.3: what is configured for all access links takes the place of what would be made. Links of
        ours are shared, and a MAC address can be one node's router only: it is the first node's.
        """
        made = self._core.face(session_key, mn_id, lma.name)
        link_local, mac = self._domain.fixed_link_local, self._domain.fixed_mac
        if any(mac) and mac in self._core.router_macs:
            self._core.counters.count("fixed-mac.in-use")
            mac = made.mac
        return LogicalRouter(mac if any(mac) else made.mac, link_local if int(link_local) else made.address)

    # Asking

    def register(self, session: Session, now: Instant) -> None:
        """The node has come: its LMA gives it a prefix, or the one it has (RFC 5213 section 6.9.1.1)."""
        self._core.persist(session)
        self._send(session, Handoff.UNKNOWN, self._domain.lifetimes.binding_s, now)
        self._core.timers.set(("expire", session.key), now.monotonic_s + self._domain.lifetimes.binding_s)

    def refresh(self, session: Session, now: Instant) -> None:
        """The node is still here (section 6.9.1.3); or is here whatever its LMA thinks: then it is handed over."""
        handoff = Handoff.UNCHANGED if session.registered else Handoff.UNKNOWN
        self._send(session, handoff, self._domain.lifetimes.binding_s, now)

    def end(self, session: Session, now: Instant) -> None:
        """The session is over (section 6.9.1.4)."""
        self._send(session, Handoff.UNKNOWN, 0, now)

    def abandon(self, session: Session) -> None:
        """Whatever was asked about it is void."""
        self._core.exchanges.cancel(self._lma_of(session).address, session.key)

    def is_waiting(self, session: Session) -> bool:
        """Never: without a binding nothing is forwarded for the node (section 6.10.5)."""
        return False

    def _lma_of(self, session: Session) -> LmaInfo:
        lma = self._domain.fixed_anchor_of(session.mac)
        assert lma is not None, "only nodes with a fixed anchor come here"
        return lma

    def _send(self, session: Session, handoff: Handoff, lifetime_s: int, now: Instant) -> None:
        lma = self._lma_of(session)
        held = _prefixes(session)
        named = [HomeNetworkPrefix(prefix) for prefix in held or (ALL_ZERO_PREFIX,)]
        more: list[Option] = []
        if not int(self._domain.fixed_link_local):
            # Section 6.9.1.1 (9): all-zero asks for one, and what we have been told is repeated.
            more.append(LinkLocalAddress(session.router.address if held else UNSPECIFIED))
        message, ticks = proxy_update(self._core, session, handoff, lifetime_s, named, more, now)
        session.timeline.setdefault("pbu", now.monotonic_s)
        message = replace(message, flags=_PLAIN_FLAGS)
        self._core.emit(*self._core.exchanges.start(lma.address, session.key, message, ticks, now))

    # The answer

    def acknowledged(self, source: IPv6Address, ack: BindingAcknowledgement, now: Instant) -> bool:
        """A PBA of an LMA (section 6.9.1.2); False when it answers none of our plain PBUs."""
        core = self._core
        exchange = core.exchanges.match(source, ack)
        if exchange is None or exchange.message.flags & BindingUpdateFlag.DISTRIBUTED:
            return False
        session, counters = core.sessions.get(exchange.session), core.counters.of(source)
        if not is_about(core, exchange, ack):
            core.report("echo-mismatch", "error", session=exchange.session)
            return True
        if ack.flags & BindingAckFlag.DISTRIBUTED or not ack.flags & BindingAckFlag.PROXY:
            counters.drop("not-a-plain-ack")
            return True
        core.compare_clocks(source, ack, now)
        if ack.status >= 128:
            counters.refuse(ack.status)
            self._refused(session, exchange, ack, now)
        else:
            core.exchanges.cancel(source, exchange.session)
            if session is not None and exchange.message.lifetime_s:
                self._accepted(session, exchange, ack, now)
        return True

    def _accepted(self, session: Session, exchange: Exchange, ack: BindingAcknowledgement, now: Instant) -> None:
        """(12) to (15): tunnel, routes, and then the advertisement."""
        lma = self._lma_of(session)
        prefixes = tuple(option.prefix for option in ack.all(HomeNetworkPrefix) if lma.owns(option.prefix))
        if not prefixes:
            self._core.counters.of(lma.address).drop("foreign-prefix")
            self._core.report("foreign-prefix", "error", mn=mn_id_text(session.mn_id), lma=lma.name)
            deny(self._core, self._advertising, session, Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX, now)
            return
        session.timeline.setdefault("pba", now.monotonic_s)
        session.ticks = max(session.ticks, exchange.ticks)
        session.registered = True
        # RFC 6275 section 11.7.3: what the peer granted counts from when we asked.
        left_s = max(ack.lifetime_s - (now.monotonic_s - exchange.sent.monotonic_s), 0.0)
        self._core.lives_on(session, min(left_s, float(exchange.message.lifetime_s)), now, advised_s(ack))
        session.router = self._told(session, lma, ack)
        anchors = (Anchor(lma.address, prefixes, session.router),)
        if session.phase is Phase.SERVING and anchors == session.anchors and "seen" not in session.timeline:
            self._core.persist(session)
        else:
            self._serve(session, anchors, now)

    def _told(self, session: Session, lma: LmaInfo, ack: BindingAcknowledgement) -> LogicalRouter:
        """(15): the link-local address of the LMA's choice, but not one that the node itself uses."""
        told = ack.first(LinkLocalAddress)
        if told is None or not told.address.is_link_local or int(self._domain.fixed_link_local):
            return session.router
        if told.address == session.link_local:
            self._core.report("link-local-in-use", "error", mn=mn_id_text(session.mn_id), address=str(told.address))
            return session.router
        return LogicalRouter(session.router.mac, told.address)

    def _refused(self, session: Session | None, exchange: Exchange, ack: BindingAcknowledgement, now: Instant) -> None:
        core, peer = self._core, exchange.peer
        core.report("refused", "warning", session=exchange.session, status=ack.status, meaning=status_name(ack.status))
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            core.exchanges.adopt_sequence(peer, ack.sequence)
            core.emit(*core.exchanges.hurry(exchange, now))
            return
        if ack.status == Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED:
            core.emit(*core.exchanges.hurry(exchange, now))  # (8)
            return
        core.exchanges.cancel(peer, exchange.session)
        if session is None or not exchange.message.lifetime_s:
            return
        if ack.status in _NOT_THESE and _prefixes(session):
            self._ask_for_others(session, now)
        elif ack.status not in _PASSING or not session.registered:
            deny(core, self._advertising, session, ack.status, now)

    def _ask_for_others(self, session: Session, now: Instant) -> None:
        """(10): the node goes on with a prefix of the LMA's choice; what it had is withdrawn when that is there."""
        session.withdrawn += session.anchors
        session.anchors = ()
        self._core.declare(session)
        self._send(session, Handoff.UNKNOWN, self._domain.lifetimes.binding_s, now)


class ByPolicy:
    """Nodes with a fixed anchor are registered there, all others as the domain does."""

    def __init__(self, fixed: Finder, other: Finder) -> None:
        self._fixed = fixed
        self._other = other

    def _of(self, session: Session) -> Finder:
        return self._fixed if session.is_fixed else self._other

    def register(self, session: Session, now: Instant) -> None:
        """The node has come."""
        self._of(session).register(session, now)

    def refresh(self, session: Session, now: Instant) -> None:
        """The node is still here."""
        self._of(session).refresh(session, now)

    def end(self, session: Session, now: Instant) -> None:
        """The session is over."""
        self._of(session).end(session, now)

    def abandon(self, session: Session) -> None:
        """The node is elsewhere."""
        self._of(session).abandon(session)

    def is_waiting(self, session: Session) -> bool:
        """Whether something central owes an answer."""
        return self._of(session).is_waiting(session)


def _prefixes(session: Session) -> tuple[IPv6Network, ...]:
    return tuple(prefix for anchor in session.anchors for prefix in anchor.prefixes)
