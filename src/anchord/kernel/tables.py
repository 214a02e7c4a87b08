"""The forwarding plan: which tables, rules and internal links there are, and why each exists.

A gateway is three things at once, host by host and prefix by prefix: a plain router (prefix ANCHORED), the anchor of a
host that is elsewhere (EXPORTED), and the router of a visiting host whose prefix belongs elsewhere (IMPORTED). It may
also stand between two gateways (TRANSIT), and it tells those who still use a prefix that is no more (RELEASED). All of
it is ordinary Linux routing: each packet is answered by rules and tables, no process touches it, and it goes on when
the process dies. Everything below carries the route protocol number 201 or a name of ours, so that a later process
finds it again.

Why a packet takes a second pass through an internal veth pair
    A packet that grows by the 40 bytes of an outer header may no longer fit. The kernel would report that to itself,
    the sender of the outer packet, and the inner packet would be lost for good. So a packet bound for a tunnel is
    first routed into ``an-up0`` (uplink) or ``an-dn0`` (downlink), whose MTU is the tunnel's: there the kernel sends
    Packet Too Big to the *inner* sender (RFC 2473 section 7.1, RFC 5213 section 6.9.5). It leaves the other end and
    is encapsulated in its second pass. ``an-re0`` gives decapsulated packets a second pass through normal routing,
    and its other end ``an-re1`` is the sink where packets go that may not be forwarded, so that they can be counted.
    A prefix in TRANSIT is decapsulated and encapsulated again, so its packets go from table INNER straight into
    ``an-dn0`` or ``an-up0``; HOSTS does not know it, nothing is routed plainly for it.

Why the local table moves
    The gateway's own address is the tunnel endpoint. Rule 0 (local) would take tunnelled packets before any route of
    ours is asked, so rule 10 must come first: local is asked at 50 instead, for everything but tunnelled packets.

Why decapsulated packets have a table of their own
    A gateway that looked them up in the main table would carry a stale packet back to the anchor that sent it, and the
    two would play it to and fro; and it would forward for strangers. Table INNER knows few answers: to a visiting
    host; from a prefix of our pool back to normal routing (the uplink of hosts we anchor, taken by the whole pool
    because a new serving gateway may send before the anchor has heard of it); to and from a prefix in TRANSIT into the
    next tunnel; what local networks need; for all else the sink (RFC 5213 section 6.10.5: a
    decapsulated packet without a connected interface is dropped silently).

Why uplink is asked by source, and why everything not named ``core`` is
    A host sends packets of every prefix through whichever of its routers it prefers, so the interface says nothing.
    Table UPLINK knows every source that is bound here: IMPORTED goes to its anchor, ANCHORED is thrown back to normal
    routing, any other is sunk (RFC 5213 section 6.10.5: forward only with an established binding). Packets from core
    interfaces and from our own internal links are not asked.

Why ICMPv6 errors have a table
    What the gateway itself says to a host (Packet Too Big above all) goes to it directly if it visits, and through the
    tunnel if its prefix is in TRANSIT, where no other table knows the way: table LOCALOUT.

Why a local network is routed by destination and source together
    A network behind an anchor is reached through that anchor's tunnel by hosts of its own alone, but whatever the
    source (RFC 8885 section 3.7 has it work for sources of that anchor only; a host takes its preferred one, because
    RFC 6724 section 5 has rule 3 before 5.5). So UPLINK and UP have ``network from prefix`` for each prefix of the
    host. Answers to imported prefixes are let in anyway, those to a prefix that is ours by INNER ``prefix from
    network``. The anchor has the mirror image: INNER ``network from other prefix``, HOSTS and DOWN ``other prefix from
    network``. When the host comes home, UPLINK throws ``network from other prefix`` back to normal routing: the tunnel
    to the other prefix's anchor would lead away from a network that is here.
    A destination in one table has routes either with a source or without: Linux does not fall back from the ones to
    the other.

Why a released prefix has a next hop of its own
    No route says "source address failed policy". Its source is routed to the sink by way of GIVEN_UP, and the packet
    filter answers what goes that way: so it comes and goes with the routes, and needs no list of its own. The answer
    takes table LOCALOUT and a router that the host still has here; without one no packet of it gets here at all.

Hop limit: every pass through an internal link takes one. On its way through both gateways a packet to a host that
moved loses two, one from it loses three; traceroute shows that. A machine in between takes two more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from anchord.declared import HostState, PrefixEntry, Role
from anchord.kernel.objects import PROTOCOL, Address, Link, Neighbour, Object, Pair, Route, RouteKind, Rule

DECAP, HOSTS, INNER, UPLINK, DOWN, LOCALOUT, UP = 77, 78, 79, 80, 81, 82, 83
TABLE_NAMES = {  # as in examples/iproute2/rt_tables.d
    DECAP: "anchord-decap",
    HOSTS: "anchord-hosts",
    INNER: "anchord-inner",
    UPLINK: "anchord-uplink",
    DOWN: "anchord-down",
    LOCALOUT: "anchord-localout",
    UP: "anchord-up",
}
LOCAL = 255

LIVE, GRAVEYARD, SPARE = 0xAC01, 0xAC02, 0xAC03
"""Link groups: DLIFs in service; those waiting to be deleted together at a quiet moment; those made beforehand."""

FIRST_INDEX = 1_000_000
"""Interface indexes of ours start here: they are chosen before the kernel is asked, so that a link and everything on
it go in one batch."""

HOST = IPv6Address("fe80::1:1")
"""Next hop on every DLIF: a permanent neighbour with the host's MAC. Nothing is resolved, so the first packet leaves
at once and a scan of the host's /64 fills no neighbour cache."""
INSIDE = IPv6Address("fe80::2:1")
"""Next hop on every internal link: a permanent neighbour with the other end's MAC."""
GIVEN_UP = IPv6Address("fe80::2:2")
"""Next hop, on the sink, of what is sent from a released prefix (firewall.py answers it)."""

ENCAPSULATION_OVERHEAD = 40
MIN_MTU = 1280
"""RFC 8200 section 5: no IPv6 link, and so no tunnel, may be narrower."""
_SECOND_PASS_MTU = 65535
_RULE_NORMAL = 57
_IPV6_IN_IPV6 = 41
_ANY = IPv6Network("::/0")
_KERNEL = 2

UP0, UP1, DOWN0, DOWN1, AGAIN0, SINK = "an-up0", "an-up1", "an-dn0", "an-dn1", "an-re0", "an-re1"
"""``an-re1`` is both: packets sent into it are lost (sink), packets sent into ``an-re0`` come out of it."""


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """What the data plane of one gateway has to know.

    ``address``: the gateway's global address, both ends of its tunnels; must be configured on this machine.
    ``pools``: the prefixes this gateway anchors, each shorter than /64 and disjoint.
    ``access``: interfaces that hosts are on; none on a machine that only stands between gateways. ``core``: all others
    that packets may be forwarded from (uplinks, wired networks, local networks); anything else counts as the hosts'
    side. ``peers``: addresses of the other gateways; tunnelled packets from anyone else are
    dropped, and the narrowest path to one of them decides what fits into a tunnel.
    ``idle_s``: seconds for which a prefix counts as active after a packet, 1 or more.
    ``local_routing``: packets between two imported prefixes that are both here need not go to the anchor
    (EnableMAGLocalRouting, RFC 5213 section 6.10.3).
    """

    address: IPv6Address
    pools: tuple[IPv6Network, ...]
    access: tuple[str, ...]
    core: tuple[str, ...]
    peers: tuple[IPv6Address, ...] = ()
    idle_s: int = 300
    local_routing: bool = False

    def __post_init__(self) -> None:
        for pool in self.pools:
            if pool.prefixlen > 63:
                raise ValueError(f"pool {pool}: must be shorter than /64, each host gets a /64 of it")
        if not self.core:
            raise ValueError("at least one core interface is needed")
        if both := sorted(set(self.access) & set(self.core)):
            raise ValueError(f"interface {both[0]} cannot be both access and core")
        if self.idle_s < 1:
            raise ValueError(f"idle_s {self.idle_s}: must be 1 or more")


LOCAL_MOVED = Rule(50, table=LOCAL)
LOCAL_FIRST = Rule(0, table=LOCAL, owner=_KERNEL)
"""The rule the kernel starts with; removed while we forward, put back by flush."""


def pairs(tunnel_mtu: int) -> tuple[Pair, ...]:
    """The internal links."""
    return (
        Pair(UP0, UP1, _mac(0), _mac(1), tunnel_mtu),
        Pair(DOWN0, DOWN1, _mac(2), _mac(3), tunnel_mtu),
        Pair(AGAIN0, SINK, _mac(4), _mac(5), _SECOND_PASS_MTU),
    )


def plan(settings: PlaneSettings, tunnel_mtu: int) -> tuple[Object, ...]:
    """Everything that exists whether or not a host is here, in the order in which to make it."""
    internal = pairs(tunnel_mtu)
    neighbours = [Neighbour(pair.name, INSIDE, pair.peer_mac) for pair in internal]
    neighbours += [Neighbour(SINK, address, internal[2].mac) for address in (INSIDE, GIVEN_UP)]
    routes = [
        Route(INNER, IPv6Network("ff00::/8"), kind=RouteKind.BLACKHOLE),
        Route(INNER, IPv6Network("fe80::/10"), kind=RouteKind.BLACKHOLE),
        Route(INNER, _ANY, device=SINK, via=INSIDE),
        *(Route(INNER, _ANY, pool, device=AGAIN0, via=INSIDE) for pool in settings.pools),
        Route(UPLINK, _ANY, device=SINK, via=INSIDE),
        # A prefix of ours that no host has: without this the core's default route would bring the packet back.
        *(Route(HOSTS, pool, kind=RouteKind.UNREACHABLE) for pool in settings.pools),
        # The device of a tunnel route decides nothing, the outer packet is routed anew. An internal one never goes
        # down, so the route outlives trouble on the core link.
        Route(DECAP, IPv6Network(settings.address), device=AGAIN0, decapsulate_into=INNER),
    ]
    return (*internal, *neighbours, *routes, *rules(settings))


def rules(settings: PlaneSettings) -> tuple[Rule, ...]:
    """Routing policy, last first: a rule is in force only when those behind it are."""
    not_hosts = (*settings.core, SINK, UP1, DOWN1, "lo")
    return (
        Rule(_RULE_NORMAL, table=HOSTS),
        LOCAL_MOVED,
        Rule(51, table=LOCALOUT, iif="lo"),
        Rule(52, table=DOWN, iif=DOWN1),
        # After the first pass, in which UPLINK has looked at the source.
        *((Rule(52, table=LOCALOUT, iif=UP1),) if settings.local_routing else ()),
        Rule(53, table=UP, iif=UP1),
        Rule(54, iif=AGAIN0),
        *(Rule(55, goto=_RULE_NORMAL, iif=name) for name in not_hosts),
        Rule(56, table=UPLINK),
        Rule(10, table=DECAP, destination=settings.address, ip_protocol=_IPV6_IN_IPV6),
    )


def host_objects(state: HostState) -> tuple[Object, ...]:
    """What a declaration comes to, in the order in which to make it.

    Imported prefixes come first: their connections are waiting, a new prefix has none yet. Released ones come after
    the routers that errors take, and local networks after the prefixes they are used from. Within a prefix the steps
    that a packet takes last are made first, so that nothing is steered to where it cannot go on.
    Raises ValueError when the declaration contradicts itself.
    """
    made: dict[object, Object] = {}
    for entry in sorted(state.entries, key=_urgency):
        for each in _entry_objects(state, entry):
            made.setdefault(each.key, each)
    for each in (*_networks_from_here(state), *_networks_from_elsewhere(state)):
        made.setdefault(each.key, each)
    return tuple(made.values())


def leases(installed: Iterable[Object], pools: tuple[IPv6Network, ...]) -> dict[IPv6Network, bytes | None]:
    """The other way round: which /64 of ``pools`` a host has, and its MAC address if it is here."""
    objects = tuple(installed)
    macs = {each.device: each.mac for each in objects if isinstance(each, Neighbour) and each.address == HOST}
    return {
        route.destination: macs.get(route.device)
        for route in objects
        if isinstance(route, Route) and route.table == HOSTS and route.source is None
        and route.destination.prefixlen == 64 and any(route.destination.subnet_of(pool) for pool in pools)
    }  # fmt: skip


def _urgency(entry: PrefixEntry) -> int:
    return {Role.IMPORTED: 0, Role.RELEASED: 2}.get(entry.role, 1)


def _entry_objects(state: HostState, entry: PrefixEntry) -> list[Object]:
    match entry.role:
        case Role.EXPORTED:
            return [
                Route(DOWN, entry.prefix, device=AGAIN0, segment=_peer(entry)),
                Route(HOSTS, entry.prefix, device=DOWN0, via=INSIDE),
            ]
        case Role.TRANSIT:
            return _transit_objects(entry)
        case Role.RELEASED:
            return _released_objects(state, entry.prefix)
        case Role.PREPARED | Role.ANCHORED | Role.IMPORTED:
            return _served_objects(state, entry)


def _served_objects(state: HostState, entry: PrefixEntry) -> list[Object]:
    prefix = entry.prefix
    link, address, neighbour = _router_objects(state, entry)
    made: list[Object] = [link, address, neighbour]
    if entry.role is Role.ANCHORED:
        made.append(Route(HOSTS, prefix, device=link.device, via=HOST))
        made.append(Route(UPLINK, _ANY, prefix, kind=RouteKind.THROW))
    elif entry.role is Role.IMPORTED:
        made.append(Route(INNER, prefix, device=link.device, via=HOST))
        made.append(Route(LOCALOUT, prefix, device=link.device, via=HOST))
        made.append(Route(UP, _ANY, prefix, device=AGAIN0, segment=_peer(entry)))
        made.append(Route(UPLINK, _ANY, prefix, device=UP0, via=INSIDE))
    return made


def _transit_objects(entry: PrefixEntry) -> list[Object]:
    prefix, peer = entry.prefix, _peer(entry)
    if entry.anchor is None or entry.anchor == peer:
        raise ValueError(f"{prefix} is in transit, so an anchor other than the peer is needed")
    return [
        Route(DOWN, prefix, device=AGAIN0, segment=peer),
        Route(UP, _ANY, prefix, device=AGAIN0, segment=entry.anchor),
        Route(LOCALOUT, prefix, device=DOWN0, via=INSIDE),
        Route(INNER, prefix, device=DOWN0, via=INSIDE),
        Route(INNER, _ANY, prefix, device=UP0, via=INSIDE),
    ]


def _released_objects(state: HostState, prefix: IPv6Network) -> list[Object]:
    if state.mac is None:  # the host is elsewhere: in the place of the way to it, so that no packet goes astray
        return [Route(HOSTS, prefix, kind=RouteKind.UNREACHABLE)]
    made: list[Object] = []
    routers = (entry.router for entry in state.entries if entry.router is not None)
    if (router := next(routers, None)) is not None and state.interface is not None:
        made.append(Route(LOCALOUT, prefix, device=Link(state.interface, router.mac, LIVE).device, via=HOST))
    return [*made, Route(UPLINK, _ANY, prefix, device=SINK, via=GIVEN_UP)]


def _networks_from_here(state: HostState) -> list[Object]:
    """The way to and from the local networks of anchors, this gateway among them, for every prefix served here.

    When two anchors offer one network, a prefix of theirs goes through its own anchor: that is where its connections
    began. Any other goes there plainly if it is ours too, or else through the anchor that is named first.
    """
    served = [entry for entry in state.entries if entry.role in (Role.ANCHORED, Role.IMPORTED)]
    offers = [(entry, used) for entry in served if entry.local_networks for used in served]
    made: list[Object] = []
    for entry, used in sorted(offers, key=lambda offer: (offer[0] is not offer[1], offer[0].role is Role.IMPORTED)):
        device = _router_objects(state, used)[0].device
        for network in entry.local_networks:
            if entry.role is Role.ANCHORED:
                if used.role is Role.IMPORTED:
                    made.append(Route(HOSTS, used.prefix, network, device=device, via=HOST))
                made.append(Route(UPLINK, network, used.prefix, kind=RouteKind.THROW))
                continue
            made.append(Route(UP, network, used.prefix, device=AGAIN0, segment=_peer(entry)))
            if used.role is Role.ANCHORED:
                made.append(Route(INNER, used.prefix, network, device=device, via=HOST))
            made.append(Route(UPLINK, network, used.prefix, device=UP0, via=INSIDE))
    return made


def _networks_from_elsewhere(state: HostState) -> list[Object]:
    """The way between our local networks and the prefixes that other gateways gave to a host of ours elsewhere."""
    exported = [entry for entry in state.entries if entry.role is Role.EXPORTED]
    known = {entry.prefix for entry in exported}  # all of their packets take this tunnel already
    made: list[Object] = []
    for entry in exported:
        for other in entry.others:
            for network in entry.local_networks if other not in known else ():
                made.append(Route(DOWN, other, network, device=AGAIN0, segment=_peer(entry)))
                made.append(Route(HOSTS, other, network, device=DOWN0, via=INSIDE))
                made.append(Route(INNER, network, other, device=AGAIN0, via=INSIDE))
    return made


def _router_objects(state: HostState, entry: PrefixEntry) -> tuple[Link, Address, Neighbour]:
    if entry.router is None or state.mac is None or state.interface is None:
        raise ValueError(f"{entry.prefix} is {entry.role.value}, so router, host MAC and access interface are needed")
    link = Link(state.interface, entry.router.mac, LIVE)
    return link, Address(link.device, entry.router.address), Neighbour(link.device, HOST, state.mac)


def _peer(entry: PrefixEntry) -> IPv6Address:
    if entry.peer is None:
        raise ValueError(f"{entry.prefix} is {entry.role.value}, so the peer is needed")
    return entry.peer


def _mac(number: int) -> bytes:
    """MAC of an end of an internal link: locally administered, never on any wire."""
    return bytes((0x02, 0xAC, PROTOCOL, 0, 0, number))
