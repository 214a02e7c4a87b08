"""What a served node is shown: one router for each anchor, and when to forget one.

Rules: RFC 8885 section 3.7; RFC 4191 for preferences and routes; RFC 8106 for resolvers; decisions 22 and 23.

A resolver is announced where it can be reached. One in a local network of a gateway is shown by that gateway's router
alone, here or as an old anchor's, and goes with it. Any other is shown by the router of the gateway that the node is
at, so that every move renews it; old anchors' routers do not mention it, because a lifetime of 0 from one of them would
take it away.

A gateway whose own prefix is withheld has no router for the node: the next gateway would not know of it, and the node
would go on sending there. The router of what is preferred instead takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

from anchord.declared import LogicalRouter
from anchord.protocol.core import GatewayCore
from anchord.protocol.groups import Anchor
from anchord.protocol.outputs import Advertise, AdvertisedPrefix
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant
from anchord.wire.neighbor import Preference

# RFC 8106 section 5.1: at least this many times the interval between advertisements, so that one may get lost.
_RESOLVER_INTERVALS = 3


class Advertising:
    """Router Advertisements to the nodes that are served here."""

    def __init__(self, core: GatewayCore) -> None:
        self._core = core
        domain = core.settings.domain
        local = [network for gateway in domain.gateways.values() for network in gateway.local_networks]
        everywhere = tuple(resolver for resolver in domain.resolvers if not any(resolver in each for each in local))
        self._resolvers_everywhere = everywhere
        self._own_resolvers = everywhere + self._resolvers_in(core.settings.me.local_networks)

    def advertise(self, session: Session, now: Instant) -> None:
        """Show the node all its routers: ours first, then each old anchor's as deprecated."""
        if session.interface is None or session.phase is not Phase.SERVING:
            return
        lifetimes = self._core.settings.domain.lifetimes
        session.advertised_s = now.monotonic_s
        if session.is_fixed:
            self._advertise_home(session)
        else:
            self._advertise_anchors(session, now)
        self._core.timers.set(("advertise", session.key), now.monotonic_s + lifetimes.advertise_every_s)

    def _advertise_home(self, session: Session) -> None:
        """Of a plain LMA's node: one router, and the prefixes are the node's for good (RFC 5213 section 6.9.2)."""
        lifetimes = self._core.settings.domain.lifetimes
        for anchor in session.anchors:
            home = tuple(AdvertisedPrefix(p, lifetimes.valid_s, lifetimes.preferred_s) for p in anchor.prefixes)
            router_s, resolvers = lifetimes.router_s, self._own_resolvers
            self._show(session, anchor.router, home, router_s, Preference.MEDIUM, resolvers=resolvers)

    def _advertise_anchors(self, session: Session, now: Instant) -> None:
        lifetimes = self._core.settings.domain.lifetimes
        # A host that holds as many prefixes as it can goes on with the newest of them, through its tunnel.
        preferred = session.anchors[-1] if session.withheld and session.anchors else None
        self._advertise_own(session, preferred is not None)
        for anchor in session.anchors:
            valid_s = lifetimes.valid_s
            if session.fading is not None and session.fading[0] == anchor.maar:
                valid_s = max(int(valid_s - (now.monotonic_s - session.fading[1])), 0)
            # Preferred 0: old connections go on, new ones take the new prefix. The router stays, at low preference:
            # it is the next hop of what is anchored there (decision 23).
            preferred_s = lifetimes.preferred_s if anchor is preferred else 0
            preference = Preference.MEDIUM if anchor is preferred else Preference.LOW
            resolvers = self._resolvers_everywhere if anchor is preferred else ()
            old = tuple(AdvertisedPrefix(prefix, valid_s, preferred_s) for prefix in anchor.prefixes)
            self._show_anchor(session, anchor, old, lifetimes.router_s, preference, resolvers)

    def _advertise_own(self, session: Session, replaced: bool) -> None:
        """Our own prefix and router. ``replaced``: the node is to use those of another gateway."""
        lifetimes = self._core.settings.domain.lifetimes
        if not session.withheld:
            session.shown = True
        elif not session.shown:
            return
        # Served without the CMD's word at first: what the node has been given stays, but is not to be preferred, and
        # the next gateway may not know of this router (RFC 4861 section 6.3.4: lifetime 0, no default router).
        preferred_s = 0 if session.withheld else lifetimes.preferred_s
        prefixes = (AdvertisedPrefix(session.prefix, lifetimes.valid_s, preferred_s),)
        router_s, resolvers = (0, ()) if replaced else (lifetimes.router_s, self._own_resolvers)
        self._show(session, session.router, prefixes, router_s, Preference.MEDIUM, resolvers=resolvers)

    def answer(self, session: Session, now: Instant) -> None:
        """To a solicitation: at once, because a DLIF is a point-to-point link, but rate limited (decision 22)."""
        if now.monotonic_s - session.advertised_s >= self._core.settings.domain.timing.advertise_guard_s:
            self.advertise(session, now)

    def withdraw_anchor(self, session: Session, anchor: Anchor) -> None:
        """Have the node forget an old anchor's router, prefixes and routes at once (RFC 5213 section 6.12)."""
        gone = tuple(AdvertisedPrefix(prefix, 0, 0) for prefix in anchor.prefixes)
        self._show_anchor(session, anchor, gone, 0, Preference.MEDIUM)

    def withdraw_router(self, session: Session, router: LogicalRouter) -> None:
        """Have the node forget a router that nobody here is."""
        self._show(session, router, (), 0, Preference.MEDIUM)

    def withdraw_all(self, session: Session) -> None:
        """Have the node forget every router it has been shown here."""
        for anchor in session.anchors:
            self.withdraw_anchor(session, anchor)
        if session.is_fixed:
            return
        gone = (AdvertisedPrefix(session.prefix, 0, 0),)
        self._show(session, session.router, gone, 0, Preference.MEDIUM, resolvers=self._own_resolvers)

    def _resolvers_in(self, networks: Iterable[IPv6Network]) -> tuple[IPv6Address, ...]:
        found = tuple(networks)
        return tuple(each for each in self._core.settings.domain.resolvers if any(each in network for network in found))

    def _show_anchor(
        self,
        session: Session,
        anchor: Anchor,
        prefixes: tuple[AdvertisedPrefix, ...],
        router_lifetime_s: int,
        preference: Preference,
        more_resolvers: tuple[IPv6Address, ...] = (),
    ) -> None:
        networks = anchor.local_networks
        resolvers = more_resolvers + self._resolvers_in(networks)
        self._show(session, anchor.router, prefixes, router_lifetime_s, preference, networks, resolvers)

    def _show(
        self,
        session: Session,
        router: LogicalRouter | None,
        prefixes: tuple[AdvertisedPrefix, ...],
        router_lifetime_s: int,
        preference: Preference,
        routes: tuple[IPv6Network, ...] = (),
        resolvers: tuple[IPv6Address, ...] = (),
    ) -> None:
        if router is None or session.interface is None:
            return
        every_s = self._core.settings.domain.lifetimes.advertise_every_s
        # RFC 5213 sections 6.9.2 (3) and 6.9.5. One value on all DLIFs of a host: the last one it hears counts.
        mtu = self._core.mtus.get(session.interface, self._core.settings.mtu)
        self._core.emit(
            Advertise(
                interface=session.interface,
                mac=session.mac,
                router=router,
                prefixes=prefixes,
                router_lifetime_s=router_lifetime_s,
                preference=preference,
                mtu=mtu,
                routes=routes,
                route_lifetime_s=router_lifetime_s,
                resolvers=resolvers,
                resolver_lifetime_s=_RESOLVER_INTERVALS * every_s if router_lifetime_s else 0,
            )
        )
