"""What the two roles of a gateway share: sessions, leases, timers and tickets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import HostState, LogicalRouter
from anchord.protocol.counters import Counters
from anchord.protocol.exchange import Exchanges
from anchord.protocol.identity import derive_router
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Declare, Heed, Ignore, Persist
from anchord.protocol.prefixes import PrefixPool
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import GatewaySettings
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import BindingAcknowledgement

PERSIST_SOON_S = 0.005
# What waits for the kernel: so many continuations for each node that there may be.
CONTINUATIONS = 4
# What there may be to do for a node; the key of each of these timers is its session's.
SESSION_TIMERS = (
    "refresh", "expire", "advertise", "fallback", "probe", "gone", "redeclare", "persist", "listen", "glance", "idle",
    "released",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Continuation:
    """What to do when the kernel has made a declaration true.

    ``acknowledgement``: a PBA to send to ``to``; None: the host is served now and gets its advertisements.
    """

    session: str
    acknowledgement: BindingAcknowledgement | None = None
    to: tuple[IPv6Address, ...] = ()


class GatewayCore(Outbox):
    """State of one gateway. Roles change it and call ``emit``; the gateway hands the outputs to the caller."""

    def __init__(self, settings: GatewaySettings) -> None:
        domain = settings.domain
        central = () if domain.central is None else (domain.central,)
        peers = (*central, *(a for a in domain.gateways if a != settings.me.address), *domain.lmas)
        super().__init__(Counters(peers))
        self.settings = settings
        self.sessions: dict[str, Session] = {}
        self.by_mac: dict[bytes, Session] = {}
        self.router_macs: dict[bytes, str] = {}  # every face shown here -> session key
        self.pool = PrefixPool(settings.me.pools)
        self.exchanges = Exchanges(domain.timing, domain.limits, self.counters)
        self.timers: Timers[tuple[str, str]] = Timers()
        self.mtus: dict[str, int] = {}  # access interface -> what is advertised there
        self.barred: dict[bytes, None] = {}  # MAC addresses that were answered with 152; at most limits.hosts
        self.forgetful_until_wall_s = 0.0  # until then others may know of leases that we do not
        self.conflicts: dict[str, str] = {}  # access interface -> who else is on that segment
        self._ticket = 0
        self._continuations: dict[int, Continuation] = {}
        self._newest_ticket: dict[str, int] = {}

    # Sessions

    def open(self, session: Session) -> None:
        """Add a session."""
        self.sessions[session.key] = session
        self.by_mac[session.mac] = session
        self.router_macs[session.router.mac] = session.key

    def somebody_holds(self, prefix: IPv6Network) -> bool:
        """Whether a node that is here has been given ``prefix``."""
        return any(prefix == s.prefix or any(prefix in a.prefixes for a in s.anchors) for s in self.sessions.values())

    def persist(self, session: Session) -> None:
        """Journal a session as it is now."""
        self.timers.cancel(("persist", session.key))
        self.emit(Persist("session", session.key, session.to_json()))

    def persist_soon(self, session: Session, now: Instant) -> None:
        """Journal a session when there is time: nothing that leaves now depends on it."""
        self.timers.set(("persist", session.key), now.monotonic_s + PERSIST_SOON_S)

    def face(self, session_key: str, mn_id: Any, gateway: str) -> Any:
        """Derive the face of ``gateway`` towards a node; collisions are settled at allocation (decision 15)."""
        attempt = 0
        while True:
            router = derive_router(self.settings.domain.secret, gateway, mn_id, attempt)
            if self.router_macs.get(router.mac, session_key) == session_key:
                return router
            attempt += 1

    def show(self, session: Session, routers: Iterable[LogicalRouter | None]) -> None:
        """The node sees these besides ours, and no others any more: what is sent in their name comes from no host."""
        for mac in session.faces:
            if self.router_macs.get(mac) == session.key and mac != session.router.mac:
                del self.router_macs[mac]
        session.faces = tuple(router.mac for router in routers if router is not None)
        self.router_macs.update(dict.fromkeys(session.faces, session.key))

    def close(self, session: Session, now: Instant, heed: bool = True, rest: bool = False) -> None:
        """Forget a session; its prefix rests until the last advertised valid lifetime has run out.

        ``heed``: its frames are news again at once. ``rest``: the prefix rests although nobody was told of it.
        """
        if not session.is_fixed:
            self._give_back(session, rest, now)
        self.emit(Persist("session", session.key, None))
        for kind in SESSION_TIMERS:
            self.timers.cancel((kind, session.key))
        for peer in self.counters.peers:
            self.exchanges.cancel(peer, session.key)
        if heed:
            self.detach(session)
        self.emit(Declare(HostState(session.key), self._next_ticket(session.key)))
        del self.sessions[session.key], self.by_mac[session.mac], self._newest_ticket[session.key]
        for mac in [mac for mac, key in self.router_macs.items() if key == session.key]:
            del self.router_macs[mac]

    def _give_back(self, session: Session, rest: bool, now: Instant) -> None:
        known = session.shown or (session.phase is not Phase.REGISTERING and not session.withheld)
        lifetimes, timing = self.settings.domain.lifetimes, self.settings.domain.timing
        rest_s = lifetimes.valid_s if known or rest else 0
        if session.phase is Phase.AWAY:
            # Whoever serves the node may go on advertising it until its next refresh tells it otherwise.
            rest_s += int(lifetimes.binding_s * timing.refresh_share)
        if not rest_s:
            self.pool.give_up(session.prefix)
            return
        until = now.wall_s + rest_s
        self.pool.release(session.prefix, until, session.key)
        self.rests(session.prefix, {"until_wall_s": until, "session": session.key}, now)

    def keep(self, prefix: IPv6Network, key: str, now: Instant) -> None:
        """The node with session ``key`` (``""``: some node) has ``prefix``, although we do not remember it."""
        lifetimes, timing = self.settings.domain.lifetimes, self.settings.domain.timing
        until = now.wall_s + lifetimes.valid_s + int(lifetimes.binding_s * timing.refresh_share)
        self.pool.keep(prefix, until, key)
        self.rests(prefix, {"until_wall_s": until, "session": key, "kept": True}, now)

    def rests(self, prefix: IPv6Network, row: dict[str, Any], now: Instant) -> None:
        """Journal that a prefix rests, and have it forgotten in time."""
        self.emit(Persist("resting", str(prefix), row))
        self.timers.set(("rested", str(prefix)), now.monotonic_s + row["until_wall_s"] - now.wall_s)

    def lives_on(self, session: Session, lifetime_s: float, now: Instant, advised_s: float | None = None) -> None:
        """The session may last ``lifetime_s`` from now; it is refreshed in time, after ``advised_s`` at the latest."""
        session.expires_wall_s = now.wall_s + lifetime_s
        self.timers.set(("expire", session.key), now.monotonic_s + lifetime_s)
        refresh_s = lifetime_s * self.settings.domain.timing.refresh_share
        if advised_s is not None:
            refresh_s = min(refresh_s, advised_s)
        self.timers.set(("refresh", session.key), now.monotonic_s + refresh_s)

    # Attachment

    def attach(self, session: Session, interface: str, now: Instant, listen_s: float = 0.0) -> None:
        """The node is on ``interface``: its frames need not be reported from there any more, after ``listen_s``."""
        if session.interface == interface:
            return
        self.detach(session)
        session.interface = interface
        session.attached_s = now.monotonic_s
        if listen_s:
            self.timers.set(("listen", session.key), now.monotonic_s + listen_s)
        else:
            self.ignore(session)

    def listen(self, session: Session, listen_s: float, now: Instant) -> None:
        """Have the node's frames reported for ``listen_s``: they show which addresses it uses."""
        if session.interface is not None:
            self.heed(session)
            self.timers.set(("listen", session.key), now.monotonic_s + listen_s)

    def heed(self, session: Session) -> None:
        """Have the node's next frame reported."""
        if session.interface is not None and session.ignored:
            session.ignored = False
            self.emit(Heed(session.interface, session.mac))

    def ignore(self, session: Session) -> None:
        """Spare us the node's data."""
        self.timers.cancel(("listen", session.key))
        if session.interface is not None:
            session.ignored = True
            self.emit(Ignore(session.interface, session.mac))

    def detach(self, session: Session) -> None:
        """The node is on none of our interfaces: whatever it sends here is news."""
        if session.interface is not None:
            self.emit(Heed(session.interface, session.mac))
            session.interface = None
            session.ignored = False

    # Declarations

    def declare(self, session: Session, then: Continuation | None = None) -> None:
        """Have the kernel forward as the session says; ``then`` happens when it does.

        What the node is to hear after a declaration that this one overtakes, it hears after this one.
        """
        waiting = self._continuations.get(self._newest_ticket.get(session.key, -1))
        if then is None and session.phase is Phase.SERVING and waiting is not None and waiting.acknowledgement is None:
            then = waiting
        ticket = self._next_ticket(session.key)
        if then is not None:
            self._make_room()
            self._continuations[ticket] = then
        self.emit(Declare(session.forwarding(self.settings.me.local_networks), ticket))

    def continuation(self, ticket: int) -> tuple[Continuation | None, bool]:
        """What was to happen after ``ticket``, and whether no newer declaration of that session has been made."""
        then = self._continuations.pop(ticket, None)
        return then, then is not None and self._newest_ticket.get(then.session) == ticket

    def _make_room(self) -> None:
        """A kernel that does not answer keeps no more waiting than that: what was overtaken longest ago is dropped.

        Whoever waits for that acknowledgement asks again; the newest declaration of each session is never among it.
        """
        waiting = self._continuations
        if len(waiting) >= CONTINUATIONS * self.settings.domain.limits.hosts:
            newest = self._newest_ticket
            del waiting[next(ticket for ticket, then in waiting.items() if newest.get(then.session) != ticket)]
            self.counters.count("limit.continuations")

    def _next_ticket(self, key: str) -> int:
        self._ticket += 1
        self._newest_ticket[key] = self._ticket
        return self._ticket
