"""Is a node that we serve still here? Before each refresh it was heard lately, or is asked (RFC 5213 section 6.13).

It is asked by Neighbour Solicitations for addresses that it has shown, its link-local one first: any other is forgotten
by the host once its prefix was given up. A host that has shown none is asked for the link-local address that RFC 4291
appendix A makes of its MAC address; not every host has that one. Whoever does not answer may still be sending: its data
is looked at again, until the first frame tells.

A peer may say that the node has gone to another gateway (RFC 5846 section 9.1). Before that is believed the node is
asked as well, in quick succession, and its data is looked at from the start: a frame of anybody with its MAC address,
heard at another gateway, does not take it away from here.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address

from anchord.protocol.core import GatewayCore
from anchord.protocol.identity import mn_id_text
from anchord.protocol.outputs import Probe, Send
from anchord.protocol.revoking import acknowledgement
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingRevocationIndication, RevocationStatus
from anchord.wire.neighbor import eui64_link_local

PROBES = 3
# Who was heard so lately has not left. A first repetition comes a second after what it repeats: time enough to move.
HEARD_LATELY_S = 0.5
# Where a peer says that the node has gone: packets go astray until it is known. A host answers within milliseconds.
ASK_EVERY_S = 0.1

ATTACHED = RevocationStatus.REVOCATION_FAILED_MN_IS_ATTACHED


class Presence:
    """Probes, and what waits for their answers.

    ``refresh`` is called when a node whose refresh is due is there, ``silent`` when a node has answered no question.
    """

    def __init__(
        self,
        core: GatewayCore,
        refresh: Callable[[Session, Instant], None],
        silent: Callable[[Session, Instant], None],
    ) -> None:
        self._core = core
        self._timing = core.settings.domain.timing
        self._refresh = refresh
        self._silent = silent

    def refresh_due(self, key: str, now: Instant) -> None:
        """The node is refreshed if it was heard lately, and asked if not."""
        session = self._core.sessions.get(key)
        if session is None or session.phase is not Phase.SERVING:
            return
        if now.monotonic_s - session.heard_s <= self._timing.probe_after_s:
            self._refresh(session, now)
        else:
            self.ask(session, now)

    def ask(self, session: Session, now: Instant) -> None:
        """If the node is here it says so, and is refreshed."""
        session.probes, session.held = 0, ()
        self.probe(session.key, now)

    def probe(self, key: str, now: Instant) -> None:
        """Three questions, then a pause; without an answer the lifetime runs out."""
        session = self._core.sessions.get(key)
        if session is None or session.phase is not Phase.SERVING or session.interface is None:
            return
        pause_s = ASK_EVERY_S if session.said_gone else self._timing.probe_interval_s
        if session.probes >= PROBES and session.said_gone:
            return  # it is being decided
        if session.probes >= PROBES:
            session.probes = 0
            pause_s = self._timing.probe_after_s
            self._core.report("silent", mn=mn_id_text(session.mn_id))
            self._core.heed(session)
            self._silent(session, now)
        else:
            targets = session.askable() or (eui64_link_local(session.mac),)
            target = targets[session.probes % len(targets)]
            session.probes += 1
            self._core.emit(Probe(session.interface, session.mac, session.router, target))
        self._core.timers.set(("probe", key), now.monotonic_s + pause_s)

    def answered(self, session: Session, now: Instant) -> bool:
        """A frame of the node; False if nothing waited for one."""
        if ("probe", session.key) not in self._core.timers:
            return False
        self._core.timers.cancel(("probe", session.key))
        if session.said_gone:
            self.is_here(session, now)
        elif session.held:
            self._repeat_held(session, now)
        else:
            self._refresh(session, now)
        return True

    def doubt(self, session: Session, peer: IPv6Address, indication: BindingRevocationIndication, now: Instant) -> None:
        """``peer`` says that the node has gone. If it is here, it tells; the timer "gone" is for when it does not."""
        first = not session.said_gone
        session.said_gone[peer] = indication
        if first:
            session.said_gone_s = now.monotonic_s
            self._core.heed(session)
            self.ask(session, now)
            self._core.timers.set(("gone", session.key), now.monotonic_s + PROBES * ASK_EVERY_S)

    def is_here(self, session: Session, now: Instant) -> None:
        """Whoever says that the node has gone is told that it has not; then it is registered anew, as of now."""
        self._core.timers.cancel(("gone", session.key))
        said, session.said_gone = session.said_gone, {}
        for peer, indication in said.items():
            self._core.counters.of(peer).drop(f"revocation-refused.{int(ATTACHED)}")
            self._core.emit(Send(peer, acknowledgement(indication, ATTACHED)))
        session.registered = False  # somebody else was, in our place
        self._refresh(session, now)

    def is_doubtful(self, session: Session, peer: IPv6Address, now: Instant) -> bool:
        """Whether the node may have left since it was heard, although we serve it and would say so to ``peer`` again.

        A repetition carries the latest timestamp: an anchor or LMA would follow it away from where the node is by now.
        So does a CMD that has never heard that the node is here: nobody tells us when it has left. Where it has, it
        knows whose word counts. One that has shown no address may not be able to answer.
        """
        if session.phase is not Phase.SERVING:
            return False
        silent_s = now.monotonic_s - max(session.heard_s, session.verified_s)
        to_central = peer == self._core.settings.domain.central
        if not session.askable():
            return not to_central and silent_s > self._timing.probe_after_s
        if to_central:
            # What has waited longer than this in the queue leaves with another timestamp than it was written with.
            waits_s = self._timing.timestamp_window_s / 2
            return silent_s > (self._timing.probe_after_s if session.registered else waits_s)
        return silent_s > HEARD_LATELY_S

    def hold(self, session: Session, peer: IPv6Address, now: Instant) -> None:
        """Ask the node whether it is still here, unless that is under way; if it is, ``peer`` is told so again."""
        if ("probe", session.key) not in self._core.timers:
            session.probes, session.held = 0, (peer,)
            self.probe(session.key, now)
        elif session.held and peer not in session.held:
            session.held = (*session.held, peer)

    def _repeat_held(self, session: Session, now: Instant) -> None:
        """The node is there: what waited for that goes on, and no faster than it would have without."""
        session.verified_s = now.monotonic_s
        held, session.held = session.held, ()
        for peer in held:
            exchange = self._core.exchanges.outstanding(peer, session.key)
            if exchange is not None:
                self._core.counters.of(peer).repeated += 1
                self._core.emit(*self._core.exchanges.go_on(exchange, now))
