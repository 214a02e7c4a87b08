"""What a node's frames tell of gateways that nobody has named: its addresses, and the routers that it sends to.

Pools are exclusive, so an address names its anchor. So does a router's face, which is derived from the domain's secret.
Where nothing central is there to ask, all of a node's data is looked at for a moment. Where a CMD has answered, a few
frames are: a gateway that cannot reach the CMD may have given the node something that the CMD does not know of. Whoever
gave it says so only to a gateway that asks for this node, so that a forged frame adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address

from anchord.protocol.advertising import Advertising
from anchord.protocol.core import GatewayCore
from anchord.protocol.direct import Direct
from anchord.protocol.identity import derive_router, mn_id_text
from anchord.protocol.inputs import HostSeen
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import Finding
from anchord.protocol.timers import Instant

# Where a CMD has answered, frames are looked at so soon after a node came, and so many each time: it may use several
# addresses, and send seldom.
GLANCES_S = (0.1, 1.0)
GLANCE_FRAMES = 16


class Clues:
    """Anchors are asked, and routers withdrawn, by what a node shows."""

    def __init__(
        self, core: GatewayCore, direct: Direct, advertising: Advertising, knew_nothing: Callable[[Session], bool]
    ) -> None:
        """``knew_nothing``: whether there is a directory, and it had no record of a node."""
        self._core = core
        self._knew_nothing = knew_nothing
        self._domain = core.settings.domain
        self._direct = direct
        self._advertising = advertising
        central = self._domain.central is not None and self._domain.finding is Finding.CENTRAL
        self._by_cmd = self._domain.mobility and central

    def begin(self, session: Session, now: Instant) -> None:
        """The node has come."""
        session.sends_to = None
        if self._by_cmd and not session.is_fixed:
            self._core.timers.set(("glance", session.key), now.monotonic_s + GLANCES_S[0])

    def glance(self, session: Session, now: Instant) -> None:
        """Look at a few frames of a node that has come a moment ago."""
        if session.phase is Phase.SERVING:
            session.glances = GLANCE_FRAMES
            self._core.heed(session)
        later = [at_s for at_s in GLANCES_S if session.attached_s + at_s > now.monotonic_s]
        if later:
            self._core.timers.set(("glance", session.key), session.attached_s + later[0])

    def read(self, session: Session, seen: HostSeen, now: Instant) -> None:
        """A frame of the node."""
        if seen.address is not None:
            self._shown(session, seen.address, now)
        if seen.router is not None and seen.router != session.sends_to and session.phase is Phase.SERVING:
            self._sends_to(session, seen.router, now)

    def _shown(self, session: Session, address: IPv6Address, now: Instant) -> None:
        """The node has used ``address``."""
        first = (session.link_local if address.is_link_local else session.address) is None
        if not session.note(address):
            return
        if not address.is_link_local and self._may_have_more(session):
            self._direct.heard(session, address, now)
        if first and session.phase is Phase.SERVING:
            self._core.persist_soon(session, now)  # a restarted gateway has to know whom to ask

    def _sends_to(self, session: Session, mac: bytes, now: Instant) -> None:
        """The node takes ``mac`` for a router. If nobody here is, what it sends there is lost: it has to forget it.

        The face is a gateway's that the node has come from and nobody has told us of; that may anchor something of it.
        """
        if now.monotonic_s - session.looked_up_s < self._domain.timing.advertise_guard_s:
            return
        session.sends_to = mac
        if mac in self._core.router_macs or not self._may_have_more(session):
            return
        session.looked_up_s = now.monotonic_s
        for gateway in self._domain.gateways.values():
            router = derive_router(self._domain.secret, gateway.name, session.mn_id)
            if router.mac == mac:
                self._core.report("stray-router", mn=mn_id_text(session.mn_id), gateway=str(gateway.address))
                self._advertising.withdraw_router(session, router)
                self._direct.came_from(session, gateway.address, now)

    def _may_have_more(self, session: Session) -> bool:
        """Whether the node may have anchors that nobody central has told us of, or will."""
        if not self._domain.mobility or session.is_fixed or session.phase is Phase.AWAY:
            return False
        if self._domain.finding is Finding.ANCHOR_KNOWN or self._knew_nothing(session):
            return True
        return session.phase is Phase.SERVING and (self._by_cmd or not session.registered)
