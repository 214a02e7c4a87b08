"""What the kernels of all gateways do with packets, as far as the plan of ``kernel/tables.py`` goes.

Prefixes are the upper 64 bits of an address. ``Plane`` has what a HostState comes to: HOSTS (packets to a prefix),
UPLINK (packets from one), INNER (packets out of a tunnel). ``Core`` walks packets through them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, IPv6Network

from anchord.declared import HostState, Role

HOP_LIMIT = 16
_NOTHING = HostState("")


class Fate(Enum):
    """What became of a packet."""

    DELIVERED = "delivered"
    LOST = "lost"  # nobody at the other end of the link
    UNREACHABLE = "unreachable"  # HOSTS has no entry in the gateway's own pool
    STALE = "stale"  # decapsulated, for nobody here
    UNBOUND = "unbound"  # from a source that has no binding here
    LOOP = "loop"


@dataclass(slots=True)
class Journey:
    """Where a packet went. ``at``: who got it, a host's MAC; None: the wired network. ``place``: on which access link.

    ``tunnels``: pairs of anchor or serving gateway that it went between.
    """

    fate: Fate
    at: bytes | None = None
    place: tuple[IPv6Address, str | None] | None = None
    tunnels: list[tuple[IPv6Address, IPv6Address]] = field(default_factory=list)
    path: list[str] = field(default_factory=list)


def upper(prefix: IPv6Network) -> int:
    """The upper half of a /64."""
    return int(prefix.network_address) >> 64


class Plane:
    """What is installed at one gateway."""

    def __init__(self, name: str, address: IPv6Address, pools: tuple[IPv6Network, ...]) -> None:
        self.name, self.address = name, address
        self.pools = [(int(pool.network_address) >> (128 - pool.prefixlen), pool.prefixlen) for pool in pools]
        self.states: dict[str, HostState] = {}
        self.hosts: dict[int, tuple[str, IPv6Address | None]] = {}  # ANCHORED: None; EXPORTED: its peer
        self.uplink: dict[int, tuple[str, IPv6Address | None]] = {}  # ANCHORED: None; IMPORTED: its anchor
        self.inner: dict[int, str] = {}
        self.used_s: dict[int, float] = {}  # when a tunnel of ours last carried something
        self.since_s = 0.0  # so long it has been looked at

    def owns(self, prefix: int) -> bool:
        """Whether it lies in one of the pools."""
        return any(prefix >> (64 - length) == value for value, length in self.pools)

    def takes_back(self, source: int | None) -> bool:
        """Whether what came out of a tunnel, for nobody here, goes back to normal routing."""
        return source is not None and self.owns(source)

    def install(self, state: HostState) -> list[int]:
        """Make it true; the prefixes that another host holds here already."""
        old = self.states.pop(state.host, _NOTHING)
        for entry in old.entries:
            prefix = upper(entry.prefix)
            for table in (self.hosts, self.uplink):
                if table.get(prefix, ("", None))[0] == state.host:
                    del table[prefix]
            if self.inner.get(prefix) == state.host:
                del self.inner[prefix]
        if not state.entries:
            return []
        self.states[state.host] = state
        taken: list[int] = []
        for entry in state.entries:
            prefix = upper(entry.prefix)
            if entry.role in (Role.ANCHORED, Role.EXPORTED):
                if prefix in self.hosts:
                    taken.append(prefix)
                self.hosts[prefix] = (state.host, entry.peer)
            if entry.role in (Role.ANCHORED, Role.IMPORTED):
                if prefix in self.uplink:
                    taken.append(prefix)
                self.uplink[prefix] = (state.host, entry.peer)
            if entry.role is Role.IMPORTED:
                self.inner[prefix] = state.host
        return taken

    def leads_to(self, host: str, here: IPv6Address) -> list[int]:
        """Prefixes of this host that are tunnelled to ``here``."""
        state = self.states.get(host)
        entries = () if state is None else state.entries
        return [upper(entry.prefix) for entry in entries if (entry.role, entry.peer) == (Role.EXPORTED, here)]

    def leads_elsewhere(self, host: str, here: IPv6Address) -> IPv6Address | None:
        """A gateway that is not ``here`` to which a tunnel of this host leads."""
        state = self.states.get(host)
        for entry in () if state is None else state.entries:
            if entry.role is Role.EXPORTED and entry.peer != here:
                return entry.peer
        return None


class Core:
    """The gateways' kernels and the wired network between them, which knows every pool's gateway."""

    def __init__(self, planes: list[Plane]) -> None:
        self.planes = planes
        self.by_address = {plane.address: plane for plane in planes}
        self._owners: dict[int, Plane | None] = {}

    def from_host(self, plane: Plane, source: int, destination: int | None, now_s: float) -> Journey:
        """A packet of a host at ``plane``; ``destination`` None: somewhere in the wired network."""
        journey = Journey(Fate.LOST, path=[plane.name])
        bound = plane.uplink.get(source)
        if bound is None:
            journey.fate = Fate.UNBOUND
        elif bound[1] is None:
            self._route(plane, source, destination, journey, now_s, HOP_LIMIT)
        else:
            self._tunnel(plane, bound[1], source, destination, journey, now_s, HOP_LIMIT)
        return journey

    def to_host(self, destination: int, now_s: float) -> Journey:
        """A packet from the wired network."""
        journey = Journey(Fate.LOST)
        self._route(None, None, destination, journey, now_s, HOP_LIMIT)
        return journey

    def _route(
        self, plane: Plane | None, source: int | None, to: int | None, journey: Journey, now_s: float, hops: int
    ) -> None:
        """Normal routing: HOSTS, and the wired network for all else. ``source`` None: from there."""
        if hops <= 0:
            journey.fate = Fate.LOOP
            return
        if to is None:
            journey.fate = Fate.DELIVERED
            return
        found = None if plane is None else plane.hosts.get(to)
        if plane is not None and found is not None:
            if found[1] is not None:
                plane.used_s[to] = now_s
                self._tunnel(plane, found[1], source, to, journey, now_s, hops - 1)
            else:
                self._deliver(plane, found[0], journey)
            return
        if plane is not None and plane.owns(to):
            journey.fate = Fate.UNREACHABLE
            return
        owner = self._owner(to)
        if owner is None:
            return
        journey.path.append(owner.name)
        self._route(owner, source, to, journey, now_s, hops - 1)

    def _owner(self, prefix: int) -> Plane | None:
        if prefix not in self._owners:
            self._owners[prefix] = next((each for each in self.planes if each.owns(prefix)), None)
        return self._owners[prefix]

    def _tunnel(
        self,
        plane: Plane,
        peer: IPv6Address,
        source: int | None,
        to: int | None,
        journey: Journey,
        now_s: float,
        hops: int,
    ) -> None:
        """Into the tunnel to ``peer``, and what INNER there does with it.

        A source out of its own pool goes back to normal routing there, wherever it comes from: a packet that a host of
        the peer's sends to one that has just left it may come round several times (``kernel/tables.py``).
        """
        end = self.by_address[peer]
        journey.tunnels.append((plane.address, peer))
        journey.path.append(f"={end.name}")
        host = None if to is None else end.inner.get(to)
        if hops <= 0:
            journey.fate = Fate.LOOP
        elif host is not None:
            self._deliver(end, host, journey)
        elif end.takes_back(source):
            if source is not None:
                end.used_s[source] = now_s
            self._route(end, source, to, journey, now_s, hops - 2)
        else:
            journey.fate = Fate.STALE

    @staticmethod
    def _deliver(plane: Plane, host: str, journey: Journey) -> None:
        state = plane.states[host]
        journey.fate, journey.at, journey.place = Fate.DELIVERED, state.mac, (plane.address, state.interface)
        journey.path.append(f"{plane.name}/{state.interface}")
