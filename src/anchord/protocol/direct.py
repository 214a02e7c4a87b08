"""Nothing central: a serving gateway asks the anchors of a node itself, and each anchor tells it of the others.

Pools are exclusive and known to all gateways, so an address that the node uses names its anchor; a gateway that
anchored the node before knows the others from the last update about it. Where neither helps yet, the gateway's
neighbours are asked for the node by its identifier alone. Each anchor answers with its prefix, its face and its local
networks, and with a group of option 67 for every other anchor that it knows of; those are asked in turn.

draft-bernardos-dmm-distributed-anchoring section 3.2 (PBU with D between gateways), RFC 5213 section 6.9 for the
messages. Used alone, behind a directory (``directory.py``), and while a CMD or a directory is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, IPv6Network

from anchord.protocol.budget import Budget
from anchord.protocol.core import GatewayCore
from anchord.protocol.counters import status_name
from anchord.protocol.exchange import Exchange, ticks_of
from anchord.protocol.finder import Serve
from anchord.protocol.groups import Anchor, merge_anchors, read_groups
from anchord.protocol.identity import mn_id_text
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import GatewayInfo
from anchord.protocol.timers import Instant
from anchord.protocol.updates import anchor_in, is_about, proxy_update, retained
from anchord.wire.messages import BindingAckFlag, BindingAcknowledgement, Status
from anchord.wire.options import ALL_ZERO_PREFIX, AnchoredPrefix, Handoff, HomeNetworkPrefix

Doubt = Callable[[Session, Instant], None]
"""An anchor has heard newer things of the node than we have: is it still here?"""

FIRST_ANSWER_S = 0.05  # a new prefix waits so long for the first anchor, and no longer
AGAIN_S = 1.0  # after an anchor whose kernel has failed
# So long a node's data is looked at where nobody central says which anchors it has: its addresses name them.
LISTEN_S = 1.0
# What may be granted when it is asked again.
_MENDABLE = (
    Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED,
    Status.TIMESTAMP_MISMATCH,
    Status.INSUFFICIENT_RESOURCES,
    Status.REASON_UNSPECIFIED,
)
# What an anchor says that does not hold (any more) what it was asked for.
_NOT_HERS = (Status.NOT_LMA_FOR_THIS_MOBILE_NODE, Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX)


class Direct:
    """PBUs to anchors and their PBAs. ``serve`` is called with all anchors that have answered, each time one does."""

    def __init__(self, core: GatewayCore, budget: Budget, serve: Serve, doubt: Doubt) -> None:
        self._core = core
        self._budget = budget
        self._domain = core.settings.domain
        self._serve = serve
        self._doubt = doubt

    # Asking

    def start(self, session: Session, now: Instant, neighbours: bool = True) -> None:
        """Ask whoever is known to anchor something of this node; the ``neighbours``, if nobody is."""
        session.asked, session.told_of_ours = {}, ()
        self._budget.learn_ages(session, session.others)
        # Who asked for the node before we heard it is told by this that it is here.
        session.ticks = max(session.ticks, ticks_of(now.wall_s)) if self._domain.timestamps else 0
        known = self._known(session)
        for maar, prefixes in known.items():
            self.ask(session, maar, prefixes, now)
        if not known and neighbours:
            for maar in self._core.settings.neighbours:
                self.ask(session, maar, (), now)

    def heard(self, session: Session, address: IPv6Address, now: Instant) -> None:
        """The node used ``address``: whose is it?"""
        prefix = _slash64(address)
        owner = self._owner(prefix)
        if owner is None or prefix in session.released or self._is_covered(session, (prefix,)):
            return
        if self._core.exchanges.outstanding(owner.address, session.key) is not None:
            return  # as a neighbour, or for another prefix: the answer brings all that it anchors
        if not session.asked.get(owner.address):
            self.ask(session, owner.address, (prefix,), now)

    def came_from(self, session: Session, maar: IPv6Address, now: Instant) -> None:
        """The node was at ``maar``, and nobody has told us what that has given it."""
        known = maar in session.asked or session.has_anchor(maar)
        if not known and maar != self._core.settings.me.address:
            self.ask(session, maar, (), now)

    def ask(self, session: Session, maar: IPv6Address, prefixes: tuple[IPv6Network, ...], now: Instant) -> None:
        """Tell one anchor that the node is here. Without ``prefixes`` the question is whether it anchors any."""
        most = len(self._core.settings.neighbours) + 2 * self._domain.limits.anchors_per_host
        if len(session.asked) >= most and maar not in session.asked:
            self._core.counters.count("limit.anchors")
            return
        session.asked[maar] = prefixes
        self._send(session, maar, prefixes, Handoff.UNKNOWN, self._domain.lifetimes.binding_s, now)

    def confirm(self, session: Session, anchor: Anchor, now: Instant) -> None:
        """Does an anchor that has answered us still anchor this? The CMD does not name it."""
        lifetime_s = self._domain.lifetimes.binding_s
        self._send(session, anchor.maar, anchor.prefixes, Handoff.UNCHANGED, lifetime_s, now)

    @staticmethod
    def _is_covered(session: Session, prefixes: Sequence[IPv6Network]) -> bool:
        held = {prefix for anchor in session.anchors for prefix in anchor.prefixes}
        return held.issuperset(prefixes)

    def refresh(self, session: Session, now: Instant) -> None:
        """Every anchor is told that the node is still here (RFC 5213 section 6.9.1.3).

        One that has not answered for so long that it has let go by now (RFC 6275 section 10.3.1) is given up; one that
        has refused what it may grant by now is asked again.
        """
        for maar, prefixes in session.unsettled.items():
            self._send(session, maar, prefixes, Handoff.UNKNOWN, self._domain.lifetimes.binding_s, now)
        patience_s = self._domain.lifetimes.binding_s
        faded = self._budget.faded(session, now)
        kept: list[Anchor] = []
        for anchor in session.anchors:
            if anchor is faded:
                self._let_go(session, anchor, now)
            elif now.monotonic_s - session.confirmed_s.setdefault(anchor.maar, now.monotonic_s) > patience_s:
                self._core.exchanges.cancel(anchor.maar, session.key)
            else:
                kept.append(anchor)
                lifetime_s = self._domain.lifetimes.binding_s
                self._send(session, anchor.maar, anchor.prefixes, Handoff.UNCHANGED, lifetime_s, now)
        if len(kept) < len(session.anchors) or (session.withheld and self._domain.central is None):
            self._serve(session, tuple(kept), now)

    def _let_go(self, session: Session, anchor: Anchor, now: Instant) -> None:
        """The host has forgotten its addresses of this one by now: nobody needs it any more."""
        session.released |= dict.fromkeys(anchor.prefixes, now.wall_s)
        self._core.report("anchor-released", mn=mn_id_text(session.mn_id), anchor=str(anchor.maar), cause="budget")
        self._send(session, anchor.maar, anchor.prefixes, Handoff.UNKNOWN, 0, now)

    def end(self, session: Session, now: Instant) -> None:
        """Every anchor is told that the session is over (RFC 5213 section 6.9.1.4)."""
        for anchor in session.anchors:
            self._send(session, anchor.maar, anchor.prefixes, Handoff.UNKNOWN, 0, now)

    def abandon(self, session: Session) -> None:
        """The node is elsewhere."""
        for maar in {**session.asked, **{anchor.maar: () for anchor in session.anchors}}:
            self._core.exchanges.cancel(maar, session.key)
        session.asked = {}

    def _known(self, session: Session) -> dict[IPv6Address, tuple[IPv6Network, ...]]:
        """Anchors by what the node is seen to use and by what we were told while it was elsewhere."""
        seen = () if session.address is None else (_slash64(session.address),)
        anchored = tuple(prefix for anchor in session.anchors for prefix in anchor.prefixes)
        known: dict[IPv6Address, tuple[IPv6Network, ...]] = {}
        if session.serving is not None and session.serving != self._core.settings.me.address:
            known[session.serving] = ()  # it knows all anchors, itself among them
        for prefix in dict.fromkeys((*seen, *anchored, *session.others)):
            owner = self._owner(prefix)
            if owner is not None:
                known[owner.address] = (*known.get(owner.address, ()), prefix)
        return known

    def _owner(self, prefix: IPv6Network) -> GatewayInfo | None:
        """The other gateway that can have given out ``prefix``."""
        owner = self._domain.anchor_of(prefix)
        return None if owner is None or owner.address == self._core.settings.me.address else owner

    def _send(
        self,
        session: Session,
        maar: IPv6Address,
        prefixes: tuple[IPv6Network, ...],
        handoff: Handoff,
        lifetime_s: int,
        now: Instant,
    ) -> None:
        # The anchor learns what else to accept from here for its local networks, in what order the node got it all,
        # and hands it on.
        others = retained(session)
        if session.shown or not session.withheld:  # whether it will be is not known before the first answer
            others.append(AnchoredPrefix(session.prefix))
            session.told_of_ours = tuple(dict.fromkeys((*session.told_of_ours, maar)))
        wanted = [HomeNetworkPrefix(prefix) for prefix in prefixes or (ALL_ZERO_PREFIX,)]
        message, ticks = proxy_update(self._core, session, handoff, lifetime_s, wanted, others, now)
        # There is nobody else to order us and other gateways: the newest timestamp has the node.
        session.ticks = max(session.ticks, ticks)
        session.timeline.setdefault("pbu", now.monotonic_s)
        self._core.emit(*self._core.exchanges.start(maar, session.key, message, ticks, now))

    # The answer

    def acknowledged(self, source: IPv6Address, ack: BindingAcknowledgement, now: Instant) -> bool:
        """A PBA of another gateway; False when we have not asked it."""
        core = self._core
        exchange = core.exchanges.match(source, ack)
        if exchange is None:
            return False
        session = core.sessions.get(exchange.session)
        counters = core.counters.of(source)
        if not is_about(core, exchange, ack):
            return True
        core.compare_clocks(source, ack, now)
        if ack.status >= 128:
            counters.refuse(ack.status)
            self._refused(session, exchange, ack, now)
        else:
            core.exchanges.cancel(source, exchange.session)
            if not ack.flags & BindingAckFlag.DISTRIBUTED:
                counters.drop("not-distributed")
            elif session is not None and session.phase is not Phase.AWAY and exchange.message.lifetime_s:
                self._accepted(session, self._domain.gateways[source], ack, now)
        return True

    def _accepted(self, session: Session, gateway: GatewayInfo, ack: BindingAcknowledgement, now: Instant) -> None:
        groups = read_groups(gateway.address, ack.options)
        anchor = anchor_in(self._core, session, gateway, ack)
        named = [p for group in groups.anchors for p in group.prefixes if p != ALL_ZERO_PREFIX]
        self._budget.learn_ages(session, (*named, *(() if anchor is None else anchor.prefixes)))
        if anchor is not None:
            session.asked[gateway.address] = anchor.prefixes  # it may name itself, to tell its age
        session.settled[gateway.address] = () if anchor is None else anchor.prefixes
        self._ask_others(session, groups.anchors, now)
        given_up = self._note_given_up(session, now)
        if anchor is None:  # it served the node without a prefix of its own
            self._reconsider(session, now, given_up)
            return
        session.timeline.setdefault("pba", now.monotonic_s)
        session.unsettled.pop(gateway.address, None)
        session.confirmed_s[gateway.address] = now.monotonic_s
        if self._domain.central is not None and session.registered and not self._is_news(session, anchor):
            return
        merged = self._budget.by_age(session, merge_anchors(session.anchors, (anchor,)))
        room = self._domain.limits.anchors_per_host
        for surplus in merged[:-room]:
            self._send(session, surplus.maar, surplus.prefixes, Handoff.UNKNOWN, 0, now)
        if given_up or merged[-room:] != session.anchors:
            self._serve(session, merged[-room:], now)
        self._correct(session, now)

    def _is_news(self, session: Session, anchor: Anchor) -> bool:
        """Whether the CMD, which has answered meanwhile, has not told of ``anchor``. What it has told comes first."""
        if self._is_covered(session, anchor.prefixes):
            return False
        if len(session.anchors) < self._domain.limits.anchors_per_host:
            return True
        self._core.counters.count("limit.prefixes")
        return False

    def _ask_others(self, session: Session, named: Sequence[Anchor], now: Instant) -> None:
        """Whoever else is said to anchor something of the node speaks for itself."""
        most = self._domain.limits.anchors_per_host
        for other in named[: 2 * most]:
            info = self._domain.gateways.get(other.maar)
            owned = tuple(p for p in other.prefixes if info is not None and info.owns(p))
            unnamed = other.prefixes == (ALL_ZERO_PREFIX,)  # it served last, and may have given nothing
            if len(session.hearsay) <= 4 * most:
                session.hearsay = {**dict.fromkeys(owned, True), **session.hearsay}
            if info is None or info.address == self._core.settings.me.address or not (owned or unnamed):
                continue
            asked = session.asked.get(info.address, ())
            if info.address in session.settled or (asked and set(owned).issubset(asked)):
                continue
            if unnamed and info.address in session.asked:
                continue
            if session.registered and self._domain.central is not None and self._is_covered(session, owned):
                continue  # the CMD tells it
            if self._core.exchanges.outstanding(info.address, session.key) is not None:
                session.asked[info.address] = owned  # as a neighbour: the answer brings all that it anchors
            else:
                self.ask(session, info.address, owned, now)

    def _note_given_up(self, session: Session, now: Instant) -> bool:
        """What others say that the node holds, and its anchor says that it does not, it holds no more.

        The node may not know yet, and is to be told. Nothing follows from what it uses itself: that may be forged.
        """
        until = now.wall_s + self._domain.lifetimes.valid_s
        news = False
        for prefix in [prefix for prefix, open_question in session.hearsay.items() if open_question]:
            owner = self._owner(prefix)
            granted = None if owner is None else session.settled.get(owner.address)
            if granted is None or prefix in granted:
                continue
            session.hearsay[prefix] = False  # whoever goes on saying so starts no second term
            # It may have rested, and be another node's by now.
            if prefix not in session.released and not self._core.somebody_holds(prefix):
                session.released[prefix] = until
                news = True
        return news

    def _reconsider(self, session: Session, now: Instant, given_up: bool) -> None:
        """The node holds less than was thought: it may have our prefix after all. ``given_up``: and is to be told."""
        withheld = session.withheld and self._domain.central is None
        if session.phase is Phase.SERVING and (withheld or given_up):
            self._serve(session, session.anchors, now)
        self._correct(session, now)

    def _correct(self, session: Session, now: Instant) -> None:
        """Whoever was asked before we knew that our prefix is withheld is told what the node really holds."""
        if not session.withheld or session.shown or self._is_waiting(session):
            return
        told, session.told_of_ours = session.told_of_ours, ()
        for anchor in session.anchors:
            if anchor.maar in told:
                lifetime_s = self._domain.lifetimes.binding_s
                self._send(session, anchor.maar, anchor.prefixes, Handoff.UNCHANGED, lifetime_s, now)

    def _is_waiting(self, session: Session) -> bool:
        return any(self._core.exchanges.outstanding(maar, session.key) is not None for maar in session.asked)

    def _refused(self, session: Session | None, exchange: Exchange, ack: BindingAcknowledgement, now: Instant) -> None:
        """RFC 5213 section 6.9.1.2 (7)-(11), and what it means here."""
        core, peer = self._core, exchange.peer
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            core.exchanges.adopt_sequence(peer, ack.sequence)
            core.emit(*core.exchanges.hurry(exchange, now))
            return
        core.exchanges.cancel(peer, exchange.session)
        if session is None or session.phase is Phase.AWAY:
            return
        if session.phase is Phase.REGISTERING and not self._is_waiting(session):
            self._serve(session, session.anchors, now)  # nobody is left who could have been the first to say yes
        if ack.status in _MENDABLE and exchange.message.lifetime_s:
            session.unsettled[peer] = session.asked.get(peer, ())
        if ack.status == Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED:
            # Asking again at once could draw the node away from where it is now.
            self._doubt(session, now)
            return
        if ack.status in _MENDABLE:
            clock = ack.status == Status.TIMESTAMP_MISMATCH
            pause_s = self._domain.timing.refuse_s if clock else AGAIN_S
            core.timers.set(("refresh", session.key), now.monotonic_s + pause_s)
        if ack.status != Status.NOT_LMA_FOR_THIS_MOBILE_NODE:  # that is how a neighbour says "not mine"
            core.report(
                "anchor-refused", "warning", mn=mn_id_text(session.mn_id), anchor=peer, meaning=status_name(ack.status)
            )
        if ack.status == Status.NOT_LMA_FOR_THIS_MOBILE_NODE:
            session.settled[peer] = ()
        given_up = self._note_given_up(session, now)
        if ack.status in _NOT_HERS and session.has_anchor(peer):
            self._serve(session, tuple(a for a in session.anchors if a.maar != peer), now)
        else:
            self._reconsider(session, now, given_up)
        named = [option.prefix for option in exchange.message.all(HomeNetworkPrefix)]
        unnamed = tuple(prefix for prefix in session.asked.get(peer, ()) if prefix not in named)
        if ack.status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX and unnamed:
            self.ask(session, peer, unnamed, now)  # another gateway told of these while we were waiting


class AnchorKnown:
    """Direct asking alone: the node is served with the first answer, and other anchors join as they answer."""

    def __init__(self, core: GatewayCore, direct: Direct, serve: Serve) -> None:
        self._core = core
        self._direct = direct
        self._serve = serve

    def register(self, session: Session, now: Instant) -> None:
        """Ask, and serve when the first has answered: old connections wait, a new prefix has none yet.

        Where nobody answers there is nobody whose word it would wait for either.
        """
        self._core.persist(session)
        self._direct.start(session, now)
        session.registered = True
        self._core.lives_on(session, self._core.settings.domain.lifetimes.binding_s, now)
        if not session.asked:
            self._serve(session, (), now)
            return
        self._core.declare(session)
        self._core.timers.set(("fallback", session.key), now.monotonic_s + FIRST_ANSWER_S)

    def refresh(self, session: Session, now: Instant) -> None:
        """The anchors are told; our own part needs nobody."""
        self._direct.refresh(session, now)
        self._core.lives_on(session, self._core.settings.domain.lifetimes.binding_s, now)
        self._core.persist(session)

    def end(self, session: Session, now: Instant) -> None:
        """The anchors are told."""
        self._direct.end(session, now)

    def abandon(self, session: Session) -> None:
        """The node is elsewhere."""
        self._direct.abandon(session)

    def is_waiting(self, session: Session) -> bool:
        """Never: an anchor that does not answer delays nobody."""
        return False


def _slash64(address: IPv6Address) -> IPv6Network:
    return IPv6Network(((int(address) >> 64) << 64, 64))
