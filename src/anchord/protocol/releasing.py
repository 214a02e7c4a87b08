"""An anchor gives up a prefix that nobody uses any more (RFC 8885 section 3.5, decision 18).

The kernel is asked now and then whether a packet went through the prefix's tunnel. If none did for ``idle_release_s``,
whoever the anchor takes its orders from is asked to let it go: a PBU with lifetime 0 for our own prefix, to the CMD,
or, where there is none, to the serving gateway. A PBA with lifetime 0 ends our part, and the prefix rests until the
host's address has run out. A longer lifetime is a no: the node is still in the domain (RFC 8885 section 3.5).
"""

from __future__ import annotations

from ipaddress import IPv6Address

from anchord.protocol.core import GatewayCore
from anchord.protocol.counters import status_name
from anchord.protocol.identity import mn_id_text
from anchord.protocol.outputs import AskUse
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant
from anchord.protocol.updates import proxy_update
from anchord.wire.messages import BindingAcknowledgement
from anchord.wire.options import Handoff, HomeNetworkPrefix

# The kernel remembers for idle_release_s who was used; it is asked this often meanwhile.
ASK_SHARE = 0.25


class ReleasingRole:
    """The end of prefixes that are anchored here and not used."""

    def __init__(self, core: GatewayCore) -> None:
        self._core = core
        self._domain = core.settings.domain

    def due(self, session: Session) -> None:
        """Has anything gone through this node's tunnel?

        What it sends to our local networks from its other prefixes takes the tunnel of ours, and would lose it.
        """
        if session.phase is Phase.AWAY:
            others = session.others if self._core.settings.me.local_networks else ()
            self._core.emit(AskUse(session.key, (session.prefix, *others)))

    def use_told(self, key: str, used: bool, now: Instant) -> None:
        """The kernel has looked."""
        session = self._core.sessions.get(key)
        if session is None or session.phase is not Phase.AWAY:
            return
        share = ASK_SHARE if used else 1.0  # a release that is refused is asked for again, but not soon
        self._core.timers.set(("idle", key), now.monotonic_s + self._domain.timing.idle_release_s * share)
        if not used:
            self._ask_release(session, now)

    def _ask_release(self, session: Session, now: Instant) -> None:
        peer = self._domain.central or session.serving
        if peer is None:
            return
        own = (HomeNetworkPrefix(session.prefix),)
        message, ticks = proxy_update(self._core, session, Handoff.UNKNOWN, 0, own, (), now)
        self._core.emit(*self._core.exchanges.start(peer, session.key, message, ticks, now))

    def answered(self, source: IPv6Address, ack: BindingAcknowledgement, now: Instant) -> bool:
        """A PBA; False unless it answers a release that we asked for."""
        exchange = self._core.exchanges.match(source, ack)
        session = None if exchange is None else self._core.sessions.get(exchange.session)
        if exchange is None or session is None or session.phase is not Phase.AWAY or exchange.message.lifetime_s:
            return False
        self._core.exchanges.cancel(source, session.key)
        if ack.status >= 128:
            self._core.counters.of(source).refuse(ack.status)
            self._core.report("refused", "warning", session=session.key, meaning=status_name(ack.status))
        elif not ack.lifetime_s:
            self._core.report("released-idle", mn=mn_id_text(session.mn_id), prefix=str(session.prefix))
            self._core.close(session, now)
        return True
