"""The serving gateway (S-MAAR): it notices a node, has it registered, and forwards for it.

Rules: RFC 8885 sections 3.1-3.4 and 3.7; RFC 5213 sections 6.7 and 6.9.2. A deliberate deviation: when the CMD
says nothing for ``fallback_s``, the host is served with our own prefix alone, marked unregistered, and registered
later; and a host that is there outlives the lifetime it was granted while the CMD is silent (``serve_unregistered``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from anchord.protocol.advertising import Advertising
from anchord.protocol.budget import Budget
from anchord.protocol.clues import Clues
from anchord.protocol.core import Continuation, GatewayCore
from anchord.protocol.denying import deny
from anchord.protocol.direct import LISTEN_S, AnchorKnown, Direct
from anchord.protocol.directory import DirectoryFinder
from anchord.protocol.exchange import ticks_of
from anchord.protocol.finder import Finder, Plain
from anchord.protocol.groups import Anchor
from anchord.protocol.identity import mac_text, mn_id_of_mac, mn_id_text, session_key
from anchord.protocol.inputs import DirectoryAnswered, DirectoryMet, HostSeen
from anchord.protocol.mag import ByPolicy, Mag
from anchord.protocol.outputs import Send
from anchord.protocol.prefixes import PoolExhaustedError
from anchord.protocol.presence import Presence
from anchord.protocol.registering import Registering
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import Finding
from anchord.protocol.timers import Instant
from anchord.wire.messages import (
    BindingAcknowledgement,
    NotificationFlag,
    NotificationReason,
    NotificationStatus,
    Status,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import ALL_ZERO_PREFIX, MobileNodeIdentifier, MobileNodeLinkLayerIdentifier

# A host's own frames and the access point's announcement of it come this close together; later ones are another move.
ONE_MOVE_S = 0.1
# The plain routers of ``mobility = false`` share one face, as RFC 5213 section 6.9.3 and VRRP have it.
SHARED_FACE = ""


class ServingRole:
    """Everything a gateway does for nodes that are attached to it."""

    def __init__(self, core: GatewayCore) -> None:
        self._core = core
        self._domain = core.settings.domain
        self._advertising = Advertising(core)
        self._budget = Budget(core)
        self.presence = Presence(core, self._refresh, self._silent)
        self._direct = Direct(core, self._budget, self._found, self._doubt)
        self.clues = Clues(core, self._direct, self._advertising, self._directory_knew_nothing)
        self._registering: Registering | None = None
        self._directory: DirectoryFinder | None = None
        self._mag = Mag(core, self._advertising, self._serve)
        self._finder: Finder = ByPolicy(self._mag, self._make_finder())
        self._attach_tokens = float(self._domain.limits.attach_burst)
        self._attach_filled_s = 0.0
        self._pool_exhausted = False

    def _make_finder(self) -> Finder:
        domain = self._domain
        if not domain.mobility:
            return Plain(self._core, self._serve)
        if domain.finding is Finding.DIRECTORY:
            self._directory = DirectoryFinder(self._core, self._direct, self._budget, self._serve, self._doubt)
            return self._directory
        if domain.finding is Finding.ANCHOR_KNOWN or domain.central is None:
            return AnchorKnown(self._core, self._direct, self._serve)
        self._registering = Registering(
            self._core, domain.central, self._advertising, self.presence, self._direct, self._serve
        )
        return self._registering

    # Noticing

    def host_seen(self, seen: HostSeen, now: Instant) -> None:
        """A frame of a candidate host."""
        if not self._is_candidate(seen):
            return
        session = self._core.by_mac.get(seen.mac)
        if session is None:
            self._first_attachment(seen, now)
            return
        if session.said_gone and now.monotonic_s - seen.age_s < session.said_gone_s:
            # It was waiting while we were told that the node has gone: it does not say that it has not.
            self._core.counters.count("frame.before-departure")
            return
        session.heard_s = now.monotonic_s
        session.probes = 0
        self.clues.read(session, seen, now)
        if session.phase is Phase.AWAY:
            self._came_back(session, seen, now)
        elif session.interface != seen.interface:
            self._changed_interface(session, seen, now)
        else:
            self._heard_again(session, seen, now)

    def _heard_again(self, session: Session, seen: HostSeen, now: Instant) -> None:
        """On the interface where it is known to be."""
        # It may have been elsewhere since we asked, and an update about that may still be on its way to us.
        elsewhere_meanwhile = seen.reassociated and now.monotonic_s - session.attached_s > ONE_MOVE_S
        if session.phase is Phase.REGISTERING:
            if elsewhere_meanwhile:
                self._finder.register(session, now)
            return
        if elsewhere_meanwhile and self._domain.central is None:
            # There is nobody but us to say that we have heard it later than who may have asked for it meanwhile.
            session.ticks = max(session.ticks, ticks_of(now.wall_s - seen.age_s))
        if not session.ignored and ("listen", session.key) not in self._core.timers:
            session.glances = max(session.glances - 1, 0)
            if not session.glances:
                self._core.ignore(session)
        if not self.presence.answered(session, now) and (elsewhere_meanwhile or (session.is_fixed and seen.solicited)):
            # Where nobody tells us that a node has left, a solicitation may be all that tells of its return.
            self._refresh(session, now)
        if seen.solicited or seen.reassociated:
            self._advertising.answer(session, now)

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
        lma = self._domain.fixed_anchor_of(seen.mac)
        if lma is not None:
            self._open(Session(key, mn_id, seen.mac, ALL_ZERO_PREFIX, self._mag.face(key, lma, mn_id)), seen, now)
            return
        try:
            prefix = core.pool.allocate(key, now.wall_s)
        except PoolExhaustedError:
            core.counters.count("limit.pool")
            if not self._pool_exhausted:  # once, not for every frame of every host
                self._pool_exhausted = True
                core.report("pool-exhausted", "error", mn=mn_id_text(mn_id))
            return
        self._pool_exhausted = False
        router = core.face(key, mn_id, core.settings.me.name if self._domain.mobility else SHARED_FACE)
        session = Session(key, mn_id, seen.mac, prefix, router)
        # What it had of us and lost is not given back before it has rested, but the node is told so.
        session.released = core.pool.resting_of(key, now.wall_s)
        self._open(session, seen, now)

    def _open(self, session: Session, seen: HostSeen, now: Instant) -> None:
        self._core.open(session)
        if seen.address is not None:
            session.note(seen.address)
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
        if now.monotonic_s - seen.age_s < session.left_s:
            # It came in before we heard that the node is elsewhere, and was still waiting: it says where the node was.
            self._core.counters.count("frame.before-departure")
            return
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
        session.held = ()
        session.timeline = {"seen": now.monotonic_s}
        session.registered = session.outrun = False
        session.asked, session.unsettled, session.confirmed_s = {}, {}, {}
        session.hearsay, session.settled = {}, {}
        alone = self._domain.mobility and self._domain.finding is Finding.ANCHOR_KNOWN
        self._core.attach(session, interface, now, LISTEN_S if alone else 0.0)
        self.clues.begin(session, now)
        if session.mac in self._core.barred:
            # RFC 5213 section 6.9.1.2 (7): a node that is not entitled is not asked about again.
            deny(self._core, self._advertising, session, Status.PROXY_REG_NOT_ENABLED, now)
            return
        self._finder.register(session, now)

    def _changed_interface(self, session: Session, seen: HostSeen, now: Instant) -> None:
        """Between two access interfaces of this gateway: nobody else need know."""
        session.timeline = {"seen": now.monotonic_s}
        self._core.attach(session, seen.interface, now)
        if session.phase is Phase.SERVING:
            self._core.persist(session)
            self._core.declare(session, Continuation(session.key))
        else:
            self._core.declare(session)

    # Registration

    def unanswered(self, key: str, now: Instant) -> None:
        """CMD or directory is silent: serve with our own prefix, ask anchors ourselves, register when it is back."""
        session = self._core.sessions.get(key)
        if session is None:
            return
        if session.phase is Phase.SERVING and session.withheld and not session.registered:
            # In locator mode anchors have answered and the CMD has not: our own prefix has waited for it.
            session.withheld = False
            self._serve(session, session.anchors, now)
        elif session.phase is Phase.SERVING and session.withheld and not session.anchors:
            session.shown = True  # in a moment: none of its anchors has answered, and something has to work
            self._serve(session, (), now)
        if session.phase is not Phase.REGISTERING:
            return
        if self._domain.finding is Finding.ANCHOR_KNOWN:
            self._serve(session, session.anchors, now)
            return
        self._core.report("unregistered", "warning", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
        session.registered = False
        if not session.outrun:
            # A CMD that says 157 is not silent: it answers once more, and whom it believes has the anchors till then.
            self._direct.start(session, now)
            self._core.listen(session, LISTEN_S, now)
        self._serve(session, (), now)

    def _found(self, session: Session, anchors: tuple[Anchor, ...], now: Instant) -> None:
        """Anchors that we asked ourselves have answered; a CMD that is back learns of them from our registration."""
        self._serve(session, anchors, now)
        if self._registering is not None:
            session.registered = False  # as it is now, also if the CMD has answered meanwhile
            self._registering.refresh(session, now)
        if self._directory is not None:
            self._directory.found(session, now)

    def directory_answered(self, answer: DirectoryAnswered, now: Instant) -> None:
        """The directory has spoken."""
        if self._directory is not None:
            self._directory.answered(answer, now)

    def _directory_knew_nothing(self, session: Session) -> bool:
        return self._directory is not None and self._directory.knew_nothing(session)

    def directory_met(self, met: DirectoryMet) -> list[str]:
        """There is a directory. Returns the sessions that it has to be told of again (``record_again``)."""
        return [] if self._directory is None else self._directory.met(met.began_wall_s)

    def record_again(self, key: str, now: Instant) -> bool:
        """The directory has lost its store; False: the node is not here any more."""
        return self._directory is not None and self._directory.record_again(key, now)

    def directory_silent(self, key: str, now: Instant) -> None:
        """The directory has not."""
        if self._directory is not None:
            self._directory.repeat(key, now)

    def _doubt(self, session: Session, now: Instant) -> None:
        """An anchor has heard newer things of the node: if it is still here, it says so, and is registered again."""
        self.presence.ask(session, now)

    def acknowledged(self, source: IPv6Address, ack: BindingAcknowledgement, now: Instant) -> None:
        """A PBA from the CMD, or from an anchor that we have asked or that the CMD has."""
        if self._mag.acknowledged(source, ack, now):
            return
        if self._registering is not None and source == self._domain.central:
            self._registering.acknowledged(ack, now)
        elif not self._direct.acknowledged(source, ack, now) and not (
            self._registering is not None and self._registering.located(source, ack, now)
        ):
            # RFC 6275 section 11.7.3: a sequence number that nobody waits for is silently ignored.
            self._core.counters.of(source).drop("unmatched-ack")

    def notified(self, source: IPv6Address, notification: UpdateNotification, now: Instant) -> None:
        """The CMD has news of a node that we serve and wants it registered again (RFC 7077 section 4.1, decision 14).

        Its answer to that registration is the news: the list of anchors, complete. Where there is no CMD, it is an
        anchor that another gateway has asked for the node a moment after us.
        """
        core, mn_id = self._core, notification.first(MobileNodeIdentifier)
        ll_id = notification.first(MobileNodeLinkLayerIdentifier)
        session = None
        if mn_id is not None:
            session = core.sessions.get(session_key(mn_id, ll_id.identifier if ll_id else None))
        if notification.flags & NotificationFlag.ACKNOWLEDGE:
            # RFC 7077 section 5.2: acknowledged whether or not there is anything to do.
            echoed = tuple(option for option in (mn_id, ll_id) if option is not None)
            done = UpdateNotificationAcknowledgement(notification.sequence, NotificationStatus.SUCCESS, echoed)
            core.emit(Send(source, done))
        if session is None or session.phase is not Phase.SERVING:
            core.counters.of(source).drop("notification-not-serving")
        elif notification.reason == NotificationReason.FORCE_REREGISTRATION and source == self._domain.central:
            self._finder.refresh(session, now)
        elif session.has_anchor(source):
            self._doubt(session, now)

    def abandon(self, session: Session) -> None:
        """The node is elsewhere: nothing of what we do for it here goes on (decision 17)."""
        self._finder.abandon(session)
        self._direct.abandon(session)
        for kind in ("refresh", "advertise", "fallback", "probe", "redeclare", "listen", "glance"):
            self._core.timers.cancel((kind, session.key))

    # Serving

    def _serve(self, session: Session, anchors: tuple[Anchor, ...], now: Instant) -> None:
        core = self._core
        core.timers.cancel(("fallback", session.key))
        shown = (*session.withdrawn, *session.anchors)
        session.withdrawn = tuple(lost for anchor in shown if (lost := _lost(anchor, anchors)) is not None)
        session.anchors = anchors
        self._note_released(session, now)
        if not session.is_fixed:
            self._budget.judge(session, anchors, now)
            if session.withheld and not anchors:
                core.timers.set(("fallback", session.key), now.monotonic_s + self._domain.timing.fallback_s)
        session.phase = Phase.SERVING
        session.serving = None
        core.show(session, (anchor.router for anchor in anchors))
        if not session.registered:
            core.lives_on(session, self._domain.lifetimes.binding_s, now)
        core.declare(session, Continuation(session.key))
        # Nobody is promised anything by this: should it be lost, the host's next frame has it registered again.
        core.persist_soon(session, now)

    def _note_released(self, session: Session, now: Instant) -> None:
        """What the host has to forget it may go on using until its address runs out; those packets are answered."""
        held = session.prefixes()
        until = now.wall_s + self._domain.lifetimes.valid_s
        released = {prefix: at for prefix, at in session.released.items() if at > now.wall_s}
        for anchor in session.withdrawn:
            # Where the budget has let it run out, it is over already.
            released |= dict.fromkeys((p for p in anchor.prefixes if p not in session.released), until)
        session.released = {prefix: at for prefix, at in released.items() if prefix not in held}
        if session.released:
            first_s = min(session.released.values()) - now.wall_s
            self._core.timers.set(("released", session.key), now.monotonic_s + max(first_s, 0.0))

    def note_given_up(self, session: Session, prefixes: Collection[IPv6Network], now: Instant) -> bool:
        """The node may have addresses of ``prefixes``, which it lost before it came here; False: that is no news."""
        until = now.wall_s + self._domain.lifetimes.valid_s
        room = 2 * self._domain.limits.anchors_per_host - len(session.released)
        known = session.released
        fresh = [prefix for prefix in prefixes if prefix not in known and not self._core.somebody_holds(prefix)]
        noted = dict.fromkeys(fresh[: max(room, 0)], until)
        session.released |= noted
        if noted:
            self.forget_released(session, now)
        return bool(noted)

    def forget_released(self, session: Session, now: Instant) -> None:
        """The host has forgotten an address of a prefix that was given up."""
        if session.phase is Phase.SERVING:
            self._note_released(session, now)
            self._core.declare(session)
            self._core.persist_soon(session, now)

    def lose_anchor(self, session: Session, maar: IPv6Address, now: Instant) -> bool:
        """An anchor gives up what it anchors of this node; False: it must not, that is what the node prefers."""
        if session.withheld and session.anchors and session.anchors[-1].maar == maar:
            return False
        if session.phase is Phase.SERVING and session.has_anchor(maar):
            # Its answer to a refresh may be under way; it was true before it asked.
            self._core.exchanges.cancel(maar, session.key)
            self._serve(session, tuple(anchor for anchor in session.anchors if anchor.maar != maar), now)
            if self._directory is not None:
                self._directory.found(session, now)
        return True

    def lose_prefixes(self, session: Session, prefixes: Collection[IPv6Network], now: Instant) -> None:
        """These are revoked; what is left of the node's other anchors goes on."""
        kept = [(anchor, tuple(p for p in anchor.prefixes if p not in prefixes)) for anchor in session.anchors]
        self._serve(session, tuple(replace(anchor, prefixes=left) for anchor, left in kept if left), now)

    def revoked(self, session: Session, now: Instant, barred: bool = False, moved: bool = False) -> None:
        """The session is over here, because CMD or LMA say so. ``barred``: its frames are not looked at for a while.

        ``moved``: the node is elsewhere, with routers that look the same; should it be here after all, it needs ours.
        """
        place = None if session.interface is None else f"{session.interface}/{session.mac.hex()}"
        if session.phase is Phase.SERVING and not moved:
            self._advertising.withdraw_all(session)
        self._core.close(session, now, heed=not barred)
        if barred and place is not None:
            self._core.timers.set(("heed", place), now.monotonic_s + self._domain.timing.refuse_s)

    def revoke(self, session: Session, now: Instant) -> None:
        """An administrator ends the session here, where nothing central could: its anchors hear that it is over."""
        self._core.report("revoked", mn=mn_id_text(session.mn_id), prefixes=[str(p) for p in session.prefixes()])
        self.revoked(session, now, barred=True)
        self._finder.end(session, now)

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
            self._advertising.withdraw_anchor(session, anchor)
        session.withdrawn = ()
        self._advertising.advertise(session, now)
        start = session.timeline.get("seen")
        if start is not None:
            phases = {name: round((at - start) * 1000, 3) for name, at in session.timeline.items() if name != "seen"}
            self._core.report(
                "served",
                mn=mn_id_text(session.mn_id),
                mac=mac_text(session.mac),
                interface=session.interface,
                prefix=session.prefix,
                anchors=[anchor.maar for anchor in session.anchors],
                registered=session.registered,
                phases_ms=phases,
            )
            session.timeline = {}

    def redeclare(self, session: Session) -> None:
        """Ask the kernel once more for what it refused."""
        self._core.declare(session, Continuation(session.key))

    def advertise(self, session: Session, now: Instant) -> None:
        """It is time to renew what the node was promised."""
        self._advertising.advertise(session, now)

    # Ends

    def _refresh(self, session: Session, now: Instant) -> None:
        """The node is there."""
        session.verified_s = now.monotonic_s
        silent = self._registering is not None and self._finder.is_waiting(session)
        self._finder.refresh(session, now)
        if silent and not session.registered and not session.is_fixed:
            # Nobody else tells its anchors that it is still somewhere: their dead-man timers would free its prefixes.
            self._direct.refresh(session, now)

    def _silent(self, session: Session, now: Instant) -> None:
        """The node does not answer: it may have gone to another gateway, and the CMD may not know that it was here."""
        if self._registering is not None and session.shown and not session.registered and not session.is_fixed:
            self._registering.left(session, now)
            session.held = ()  # should it be here all the same, its next frame is news

    def claim(self, session: Session, elsewhere: IPv6Address, now: Instant) -> None:
        """A gateway has asked for a node that we have heard later: it is to know, and may anchor something of it."""
        self._direct.ask(session, elsewhere, (), now)

    def mistaken(self, session: Session, now: Instant) -> None:
        """What was taken for a host is a gateway: as if it had never been here."""
        known = session.registered or self._finder.is_waiting(session)
        self._core.close(session, now)
        if known:
            self._finder.end(session, now)

    def expired(self, session: Session, now: Instant) -> None:
        """The lifetime is over: only the serving gateway ends a session (RFC 8885 section 3.5)."""
        core, domain = self._core, self._domain
        serving = session.phase is Phase.SERVING
        there = now.monotonic_s - session.verified_s <= domain.lifetimes.binding_s
        if serving and there and self._finder.is_waiting(session) and domain.serve_unregistered:
            # The node is there and the CMD is not: our refresh is being repeated.
            session.registered = False
            core.lives_on(session, domain.lifetimes.binding_s, now)
            core.persist(session)
            core.report("unregistered", "warning", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
            return
        core.report("ended", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
        self._advertising.withdraw_all(session)
        core.close(session, now)
        # A directory that was silent may be back, and anchors were asked meanwhile.
        if serving and (session.registered or self._directory is not None):
            self._finder.end(session, now)
        elif serving and self._domain.mobility and not session.is_fixed:
            self._direct.end(session, now)


def _lost(shown: Anchor, anchors: tuple[Anchor, ...]) -> Anchor | None:
    """What a node was shown of an anchor and is to forget, now that it has ``anchors``; None: nothing.

    An anchor may stay and its prefix be another (RFC 5213 section 6.9.1.2 (10)).
    """
    same = [anchor for anchor in anchors if shown.is_same_as(anchor)]
    gone = tuple(prefix for prefix in shown.prefixes if not any(prefix in anchor.prefixes for anchor in same))
    return replace(shown, prefixes=gone) if gone else None if same else shown
