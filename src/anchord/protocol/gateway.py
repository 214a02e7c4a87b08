"""A gateway (D-GW; RFC 8885: MAAR) as one object: inputs and the time in, outputs out.

A gateway plays a role per mobile node and per prefix: plain router for a prefix it anchors and whose node is here,
anchor for a prefix whose node is elsewhere (``anchoring.py``), serving gateway for all nodes that are attached
(``serving.py``). ``session.py`` draws the states of one node.

Whatever it promises to others - a PBA with status 0 to the CMD, a Router Advertisement - leaves only after the kernel
has acknowledged the forwarding behind it: a declaration goes out with a ticket, and the promise waits for the
``Installed`` with it.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.anchoring import AnchoringRole
from anchord.protocol.core import GatewayCore
from anchord.protocol.counters import Counters
from anchord.protocol.identity import mac_text, mn_id_of_mac, mn_id_text, session_key
from anchord.protocol.inputs import (
    DirectoryAnswered,
    DirectoryMet,
    HostSeen,
    Input,
    Installed,
    LeaseLeft,
    MessageDropped,
    MessageReceived,
    MtuChanged,
    SegmentClear,
    SegmentConflict,
    UseTold,
)
from anchord.protocol.outputs import Heed, Output, Persist
from anchord.protocol.peerlife import Again, PeerLife
from anchord.protocol.releasing import ReleasingRole
from anchord.protocol.revoked import RevokedRole
from anchord.protocol.serving import ServingRole
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import GatewaySettings
from anchord.protocol.timers import Clock, Instant, next_of
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    UpdateNotification,
)

# A changed MTU is news to all hosts here, and urgent for none: packets that are too big are answered meanwhile.
TOLD_MTU_PER_S = 200.0
# Why a directory is told of all hosts again: there is one directory.
RECORDS = "directory"


class Gateway:
    """The protocol of one gateway. Not thread-safe; never blocks; never raises on anything that arrives."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self._core = GatewayCore(settings)
        self._serving = ServingRole(self._core)
        self._anchoring = AnchoringRole(self._core, self._serving)
        self._releasing = ReleasingRole(self._core)
        self._revoked = RevokedRole(self._core, self._serving)
        domain = settings.domain
        self._life = PeerLife(self._core, domain.timing, domain.limits, self._is_bound, self._lost_state)
        # A CMD that lost its store hears of all hosts from all gateways at once: each takes its share.
        self._again = Again(domain.limits.updates_per_s / len(domain.gateways), self._register_again)
        # So does one of a directory.
        self._records: Again[str] = Again(domain.limits.updates_per_s / len(domain.gateways), self._record_again)
        self._new_mtu: Again[str] = Again(TOLD_MTU_PER_S, self._advertise_mtu)
        self._clocks: tuple[Clock, ...] = (
            self._core.timers, self._core.exchanges, self._life, self._again, self._records, self._new_mtu,
        )  # fmt: skip
        self._timer_actions = self._on_timer()

    @property
    def counters(self) -> Counters:
        """What was dropped, refused and repeated, by peer and cause."""
        return self._core.counters

    @property
    def sessions(self) -> dict[str, Session]:
        """All nodes known here, by session key; for reading only."""
        return self._core.sessions

    def resting(self) -> dict[IPv6Network, float]:
        """Prefixes that were given back, and the wall-clock second at which each is free again."""
        return self._core.pool.resting()

    def conflicts(self) -> dict[str, str]:
        """Access interfaces on which another gateway was heard, and which."""
        return dict(self._core.conflicts)

    # Life

    def restore(self, journal: dict[str, dict[str, dict[str, Any]]], now: Instant) -> list[Output]:
        """Take over what an earlier process had persisted: ``{table: {key: value}}``. Call once, before any input but
        ``MtuChanged``.

        Everything that was true is declared again, so that the forwarding layer can tell it from leftovers.
        """
        for peer, value in sorted(journal.get("sequence", {}).items()):
            self._core.exchanges.restore_sequence(IPv6Address(peer), int(value["reserved"]))
        for text, value in sorted(journal.get("resting", {}).items()):
            put_back = self._core.pool.keep if value.get("kept") else self._core.pool.release
            put_back(IPv6Network(text), value["until_wall_s"], value.get("session", ""))
            rest_s = max(value["until_wall_s"] - now.wall_s, 0.0)
            self._core.timers.set(("rested", text), now.monotonic_s + rest_s)
        for key, value in sorted(journal.get("session", {}).items()):
            self._restore_session(key, value, now)
        if self.settings.domain.mobility:
            self._life.restore(journal, now)
            # Within a binding's lifetime whoever serves a node refreshes what its anchors have granted.
            self._core.forgetful_until_wall_s = self._life.began_wall_s + self.settings.domain.lifetimes.binding_s
        return self._core.take_outputs()

    def _restore_session(self, key: str, value: dict[str, Any], now: Instant) -> None:
        core = self._core
        session = Session.from_json(key, value)
        if not self._may_go_on(session):
            core.report("journal-refused", "error", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
            core.emit(Persist("session", key, None))
            return
        core.open(session)
        core.show(session, (anchor.router for anchor in session.anchors))
        left_s = max(session.expires_wall_s - now.wall_s, 0.0)
        if session.phase is Phase.REGISTERING:
            # The PBU may or may not have left. The lease stands; the next frame registers again.
            session.phase, session.interface = Phase.AWAY, None
            left_s = float(self.settings.domain.lifetimes.binding_s)
        if session.interface is not None:
            # Its next frame tells that it is there, and is the last to be reported.
            session.advertised_s = now.monotonic_s
            lifetimes = self.settings.domain.lifetimes
            core.timers.set(("advertise", key), now.monotonic_s + lifetimes.advertise_every_s / 10)
            core.timers.set(("refresh", key), now.monotonic_s + min(1.0, left_s / 2))
        core.timers.set(("expire", key), now.monotonic_s + left_s)
        session.released = {prefix: until for prefix, until in session.released.items() if until > now.wall_s}
        if session.released:
            first_s = min(session.released.values()) - now.wall_s
            core.timers.set(("released", key), now.monotonic_s + first_s)
        if session.phase is Phase.AWAY:
            core.timers.set(("idle", key), now.monotonic_s + self.settings.domain.timing.idle_release_s)
        core.declare(session)

    def _may_go_on(self, session: Session) -> bool:
        """Whether the configuration still has a place for what was journalled."""
        fixed_anchor = self.settings.domain.fixed_anchor_of(session.mac)
        if session.is_fixed:
            return fixed_anchor is not None and all(anchor.maar == fixed_anchor.address for anchor in session.anchors)
        return self.settings.me.owns(session.prefix) and self._core.pool.claim(session.prefix, session.key)

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """One input."""
        if isinstance(event, HostSeen):
            self._serving.host_seen(event, now)
        elif isinstance(event, MessageReceived):
            self._message(event, now)
        elif isinstance(event, Installed):
            self._installed(event, now)
        elif isinstance(event, MtuChanged | LeaseLeft):
            self._kernel_told(event, now)
        elif isinstance(event, UseTold):
            self._releasing.use_told(event.session, event.used, now)
        elif isinstance(event, DirectoryAnswered | DirectoryMet):
            self._directory_spoke(event, now)
        elif isinstance(event, MessageDropped):
            self.counters.heard(event.source, now)
            self.counters.of(event.source).drop(event.cause)
        elif isinstance(event, SegmentConflict):
            mistaken = self._core.by_mac.get(event.mac)
            if mistaken is not None:
                self._serving.mistaken(mistaken, now)
            if self._core.conflicts.get(event.interface) != event.other:
                self._core.conflicts[event.interface] = event.other
                self._core.report("segment-conflict", "error", interface=event.interface, other=event.other)
        elif isinstance(event, SegmentClear) and self._core.conflicts.pop(event.interface, None) is not None:
            self._core.report("segment-clear", interface=event.interface)
        return self._core.take_outputs()

    def next_timer_s(self) -> float | None:
        """When ``handle_timers`` wants to be called (monotonic seconds), or None."""
        return next_of(self._clocks)

    def handle_timers(self, now: Instant) -> list[Output]:
        """Everything that is due at ``now``."""
        for exchange, outputs in self._core.exchanges.due(now):
            session = self._core.sessions.get(exchange.session)
            if session is None and exchange.tries > self.settings.domain.limits.end_tries:
                # The session is over here in any case; the CMD's own timer ends it there.
                self._core.exchanges.cancel(exchange.peer, exchange.session)
            elif session is not None and session.phase is Phase.AWAY and exchange.message.lifetime_s:
                self._core.exchanges.cancel(exchange.peer, exchange.session)
            elif (
                session is not None
                and exchange.message.lifetime_s
                and not exchange.past
                and not exchange.vouched
                and self._serving.presence.is_doubtful(session, exchange.peer, now)
            ):
                # RFC 5213 section 6.9.4 (2): repeated only while the node is attached. If it is, it says so.
                self._core.exchanges.withheld(exchange)
                self._core.emit(*(output for output in outputs if isinstance(output, Persist)))
                self._serving.presence.hold(session, exchange.peer, now)
            else:
                if exchange.tries > 1:
                    self.counters.of(exchange.peer).repeated += 1
                self._core.emit(*outputs)
        while (item := self._core.timers.pop_due(now.monotonic_s)) is not None:
            kind, key = item
            self._timer_actions[kind](key, now)
        self._life.due(now)
        self._again.due(now)
        self._records.due(now)
        self._new_mtu.due(now)
        return self._core.take_outputs()

    def _on_timer(self) -> dict[str, Callable[[str, Instant], None]]:
        """What to do when a timer of that kind is due; its key is a session's unless it says otherwise."""
        core, serving = self._core, self._serving
        return {
            "fallback": serving.unanswered,
            "refresh": serving.presence.refresh_due,
            "probe": serving.presence.probe,
            "glance": self._of_session(serving.clues.glance),
            "gone": self._of_session(self._revoked.unanswered),
            "directory": serving.directory_silent,
            "redeclare": self._of_session(lambda session, now: serving.redeclare(session)),
            "advertise": self._of_session(serving.advertise),
            "expire": self._of_session(serving.expired),
            "released": self._of_session(serving.forget_released),
            "persist": self._of_session(lambda session, now: core.persist(session)),
            "listen": self._of_session(lambda session, now: core.ignore(session)),
            "idle": self._of_session(lambda session, now: self._releasing.due(session)),
            "rested": self._rested,
            "heed": self._heed,
        }

    def _of_session(self, act: Callable[[Session, Instant], None]) -> Callable[[str, Instant], None]:
        def on_timer(key: str, now: Instant) -> None:
            session = self._core.sessions.get(key)
            if session is not None:
                act(session, now)

        return on_timer

    def _rested(self, prefix: str, now: Instant) -> None:
        self._core.pool.rested(IPv6Network(prefix))
        self._core.emit(Persist("resting", prefix, None))

    def _heed(self, place: str, now: Instant) -> None:
        """``place``: interface and MAC address."""
        interface, _, mac = place.rpartition("/")
        self._core.emit(Heed(interface, bytes.fromhex(mac)))

    # Inputs

    def _installed(self, event: Installed, now: Instant) -> None:
        then, newest = self._core.continuation(event.ticket)
        if then is None:
            return
        session = self._core.sessions.get(then.session)
        if then.acknowledgement is not None:
            # An older answer than the newest declaration is still true: what it promised was overtaken, not undone.
            self._anchoring.installed(session, then, event.error)
        elif newest and session is not None:
            self._serving.installed(session, event.error, now)

    def _kernel_told(self, event: MtuChanged | LeaseLeft, now: Instant) -> None:
        if isinstance(event, MtuChanged):
            self._mtu_changed(event, now)
        elif now.wall_s < self._core.forgetful_until_wall_s and self._core.pool.is_free(event.prefix):
            # We have lost our journal, the kernel has not: whoever it forwards to has addresses of that prefix.
            key = "" if event.mac is None else session_key(mn_id_of_mac(event.mac), event.mac)
            self._core.keep(event.prefix, key, now)

    def _mtu_changed(self, event: MtuChanged, now: Instant) -> None:
        """Hosts on the interface are told of it, a little at a time."""
        core = self._core
        if core.mtus.get(event.interface, core.settings.mtu) == event.mtu:
            return
        core.mtus[event.interface] = event.mtu
        core.report("mtu-changed", interface=event.interface, mtu=event.mtu)
        told = [key for key, session in core.sessions.items() if session.interface == event.interface]
        if told:
            self._new_mtu.start(event.interface, told, now)

    def _advertise_mtu(self, interface: str, key: str, now: Instant) -> bool:
        session = self._core.sessions.get(key)
        if session is None or session.phase is not Phase.SERVING or session.interface != interface:
            return False
        self._serving.advertise(session, now)
        return True

    def _directory_spoke(self, event: DirectoryAnswered | DirectoryMet, now: Instant) -> None:
        if isinstance(event, DirectoryAnswered):
            self._serving.directory_answered(event, now)
            return
        lost = self._serving.directory_met(event)
        if lost:
            self._records.start(RECORDS, lost, now)

    def _record_again(self, cause: str, key: str, now: Instant) -> bool:
        return self._serving.record_again(key, now)

    def _message(self, event: MessageReceived, now: Instant) -> None:
        message = self._core.admit(event, now)
        if message is None:
            return
        if not self.settings.domain.mobility:
            self.counters.of(event.source).drop("no-mobility")
        elif self._life.heard(event.source, message, now):
            return
        elif isinstance(message, BindingUpdate):
            self._anchoring.updated(message, event.source, now)
        elif isinstance(message, BindingAcknowledgement):
            if not self._releasing.answered(event.source, message, now):
                self._serving.acknowledged(event.source, message, now)
        elif isinstance(message, UpdateNotification) and self.settings.domain.central in (event.source, None):
            self._serving.notified(event.source, message, now)
        elif isinstance(message, BindingRevocationIndication):
            self._revoked.indicated(event.source, message, now)
        elif isinstance(message, BindingRevocationAcknowledgement):
            self.counters.of(event.source).drop("unmatched-revocation-ack")  # a gateway revokes nothing
        else:
            self._core.unrecognized(event, now)

    # An administrator

    def revoke(self, named: str | IPv6Network, now: Instant) -> tuple[list[str], list[Output]]:
        """End the session of a mobile node (identifier or MAC address) that is here, or of one that holds a prefix.

        Returns its identifier. For domains without a CMD, which would know of all: only the serving gateway can end a
        session there (RFC 8885 section 3.5), and does as if the node had left. Its frames are let alone for a while.
        """
        here = [s for s in self.sessions.values() if s.phase is not Phase.AWAY]
        if isinstance(named, IPv6Network):
            ended = [session for session in here if named in session.prefixes()]
        else:
            ended = [session for session in here if named in (mn_id_text(session.mn_id), mac_text(session.mac))]
        for session in ended:
            self._serving.revoke(session, now)
        return [mn_id_text(session.mn_id) for session in ended], self._core.take_outputs()

    # Peers

    def _is_bound(self, peer: IPv6Address) -> bool:
        """Whether there are bindings with ``peer``: at the CMD, if there is one, else with each other; at an LMA."""
        domain, sessions = self.settings.domain, self.sessions.values()
        if peer == domain.central and any(s.registered or s.phase is Phase.AWAY for s in sessions if not s.is_fixed):
            return True
        if domain.central is not None and peer not in domain.lmas:
            return False
        return any(peer == s.serving or any(peer == anchor.maar for anchor in s.anchors) for s in sessions)

    def _lost_state(self, peer: IPv6Address, now: Instant) -> None:
        """A CMD or LMA without its store is told of every host that is registered with it (decisions 26 and 32).

        An anchor without its journal is told by the CMD; where there is none, by whoever serves what it anchored.
        """
        central, served = self.settings.domain.central, (s for s in self.sessions.values() if s.phase is Phase.SERVING)
        told = [s.key for s in served if peer == self._registrar(s) or (central is None and s.has_anchor(peer))]
        if peer == central:
            for key in told:
                # Should the host have left, nobody but us knows whom to tell that its session is over.
                self.sessions[key].registered = False
        if told:
            self._again.start(peer, told, now)

    def _registrar(self, session: Session) -> IPv6Address | None:
        domain = self.settings.domain
        lma = domain.fixed_anchor_of(session.mac) if session.is_fixed else None
        return domain.central if lma is None else lma.address

    def _register_again(self, peer: IPv6Address, key: str, now: Instant) -> bool:
        """As before any refresh, the host has been heard lately or is asked: it may have left for another gateway."""
        self._serving.presence.refresh_due(key, now)
        return True
