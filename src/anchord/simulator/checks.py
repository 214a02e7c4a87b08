"""What must be true: of installations, messages, processes and packets all along, of the whole domain after quiet."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from anchord.declared import HostState, Role
from anchord.simulator import leftovers
from anchord.simulator.forwarding import Fate, Journey, Plane, upper
from anchord.simulator.hosts import Host
from anchord.simulator.process import START_WALL_S, Process

if TYPE_CHECKING:
    from anchord.simulator.world import World

# RFC 8200 section 5: what every link carries; no message of ours is to need fragments.
LARGEST_MESSAGE = 1280 - 40
_SERVING = (Role.ANCHORED, Role.IMPORTED)
# What one seed has to say; the same thing again and again helps nobody.
MOST_LINES = 50


class Checks:
    """``violations``: a line each, with virtual seconds. ``plainly``, ``by_tunnel``: packets delivered so;
    ``between_hosts``: those of them that one host sent to another.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.plainly = 0
        self.by_tunnel = 0
        self.between_hosts = 0
        self._stale_since_s: dict[tuple[IPv6Address, str], tuple[IPv6Address, float]] = {}  # by anchor and host
        self._looping_since_s: dict[int, float] = {}  # packets to a prefix, none of which has arrived since
        self._suspects: dict[tuple[Host, int], str] = {}

    def violated(self, what: str) -> None:
        """Note it, here and in the trace."""
        if len(self.violations) < MOST_LINES:
            self.violations.append(f"{self.world.now_s:.4f} s: {what}")
        if self.world.trace.wanted:
            self.world.trace.note(self.world.now_s, "CHECK", what)

    # All along

    def found(self, process: Process, what: str | None) -> None:
        """``what`` is wrong with what a process does; None: nothing."""
        if what is not None:
            self.violated(f"{process.name}: {what}")

    def size(self, process: Process, carried: bytes) -> None:
        """A message fits into the least MTU."""
        if len(carried) > LARGEST_MESSAGE:
            self.violated(f"{process.name} sends a message of {len(carried)} bytes")

    def limits(self, process: Process) -> None:
        """Nothing that a process holds is larger than its limit."""
        for line in process.containers.exceeded():
            self.violated(f"{process.name}: {line}")

    def installed(self, plane: Plane, state: HostState, taken: list[int]) -> None:
        """No prefix has two hosts, at one gateway or at two."""
        for prefix in taken:
            self.violated(f"{plane.name}: {_text(prefix)} has two hosts, one of them {state.host}")
        host = state.host
        for entry in state.entries:
            prefix = upper(entry.prefix)
            for other in self.world.core.planes:
                for table in (other.hosts, other.uplink):
                    held = table.get(prefix)
                    if held is not None and held[0] != host and other is not plane:
                        self.violated(f"{_text(prefix)}: {host} at {plane.name}, another at {other.name}")

    def watch(self) -> None:
        """No tunnel leads for long to a gateway where the host is not."""
        now_s, known = self.world.now_s, self._stale_since_s
        self._stale_since_s = {}
        for host in self.world.hosts:
            if host.place is None:
                continue
            for plane in self.world.core.planes:
                wrong = plane.leads_elsewhere(host.key, host.place[0])
                if wrong is None:
                    continue
                before, since_s = known.get((plane.address, host.key), (wrong, now_s))
                since_s = max(since_s, host.since_s) if before == wrong else now_s
                if now_s - since_s > self.world.scenario.stale_s:
                    name = self.world.core.by_address[wrong].name
                    self.violated(
                        f"host{host.number}: {plane.name} has had a tunnel to {name} for {now_s - since_s:.1f} s"
                    )
                    since_s = now_s
                self._stale_since_s[plane.address, host.key] = (wrong, since_s)

    # Packets

    def exchange_packets(self, host: Host, other: Host | None) -> None:
        """Both ways, with every address that the host has, and one packet from it to ``other``."""
        plane, now_s = self._plane_of(host), self.world.now_s
        usable = host.usable(now_s)
        for prefix in usable:
            for journey in self._both_ways(plane, prefix):
                self._judge(journey, host, prefix)
        theirs = other.usable(now_s) if other is not None else ()
        if other is not None and usable and theirs:
            source, to = self.world.random.choice(usable), self.world.random.choice(theirs)
            self._judge(self.world.core.from_host(plane, source, to, now_s), other, to, source)

    def _both_ways(self, plane: Plane, prefix: int) -> tuple[Journey, Journey]:
        core, now_s = self.world.core, self.world.now_s
        return core.from_host(plane, prefix, None, now_s), core.to_host(prefix, now_s)

    def _judge(self, journey: Journey, to: Host, prefix: int, source: int | None = None) -> bool:
        """Whether a packet got there: from ``prefix`` of host ``to`` to the wired network, or from there to it.

        ``source``: from this prefix of another host. What arrives arrives at the right host, and nothing loops.
        """
        if journey.fate is Fate.LOOP:
            self._looped(journey, to, prefix, source)
            return False
        if journey.fate is not Fate.DELIVERED:
            return False
        if journey.at is not None and journey.at != to.mac:
            self.violated(f"a packet to host{to.number} reaches another host: {' '.join(journey.path)}")
            return False
        if journey.place is not None and journey.place != to.place:
            return False  # it was put on a link where the host is not
        self._looping_since_s.pop(prefix, None)
        if journey.tunnels:
            self.by_tunnel += 1
        else:
            self.plainly += 1
        self.between_hosts += source is not None
        return True

    def _looped(self, journey: Journey, to: Host, prefix: int, source: int | None) -> None:
        """One loop is no fault of ours, but it has to end as soon as a stale tunnel.

        A packet that comes out of a tunnel to where its host is not served (any more, or yet) cannot be told from what
        a visiting host sends, if its source is of the pool of the gateway there: it goes back to where it came from.
        """
        now_s, ends = self.world.now_s, (self.world.core.by_address[end] for _, end in journey.tunnels)
        since_s = self._looping_since_s.setdefault(prefix, now_s)
        if source is None or not any(end.owns(source) for end in ends) or now_s - since_s > self.world.scenario.stale_s:
            self.violated(f"a packet of host{to.number} loops: {' '.join(journey.path)}")

    # After quiet

    def settled(self) -> None:
        """One serving gateway a host; every address works both ways, through one tunnel at most; nothing else."""
        for process in self.world.nodes.values():
            self.limits(process)
        for host in self.world.hosts:
            serving = [plane for plane in self.world.core.planes if self._serves(plane, host)]
            names = ", ".join(plane.name for plane in serving) or "nobody"
            if host.place is None:
                if serving:
                    self.violated(f"host{host.number} is away, and served by {names}")
                continue
            here = self._plane_of(host)
            if serving != [here]:
                self.violated(f"host{host.number} is at {here.name}, and served by {names}")
                continue
            self._only_current_tunnels(host, here)
            if not any(held.preferred_until_s > self.world.now_s for held in host.addresses.values()):
                self.violated(f"host{host.number} is at {here.name}, and has no preferred address")
        self._suspects = dict(self._unreachable())
        preferred = {host: host.preferred(self.world.now_s) for host in self.world.hosts}
        for (host, prefix), line in list(self._suspects.items()):
            if prefix in preferred[host]:
                self.violated(line)
                del self._suspects[host, prefix]

    def settled_still(self) -> None:
        """What did not work a moment ago may just have been given up, for want of use or of room. Not so by now."""
        for (host, prefix), line in self._unreachable():
            if (host, prefix) in self._suspects:
                self.violated(line)

    def _unreachable(self) -> Iterator[tuple[tuple[Host, int], str]]:
        """Prefixes that a host retains, and that do not work as they should: with the wired network, with other hosts.

        At its anchor no tunnel is taken, elsewhere exactly one; and no other anchor tunnels anything to where it is.
        """
        works: list[tuple[Host, int]] = []
        for host in self.world.hosts:
            if host.place is None:
                continue
            here = self._plane_of(host)
            for prefix in self._retained(host):
                wanted = 0 if here.owns(prefix) else 1
                ways = self._both_ways(here, prefix)
                wrong = [j for j in ways if not self._judge(j, host, prefix) or len(j.tunnels) != wanted]
                for journey in wrong:
                    yield (host, prefix), _not_as(wanted, f"host{host.number}: {_text(prefix)}", journey)
                if not wrong:
                    works.append((host, prefix))
            for plane in self.world.core.planes:
                for prefix in plane.leads_to(host.key, here.address):
                    if prefix not in here.uplink:
                        line = f"host{host.number} is at {here.name}, which makes nothing of {_text(prefix)}"
                        yield (host, prefix), f"{line}, tunnelled from {plane.name}"
        for host, prefix in works:
            for other, source in works:
                if other is not host:
                    yield from self._between(host, prefix, other, source)

    def _between(self, host: Host, prefix: int, other: Host, source: int) -> Iterator[tuple[tuple[Host, int], str]]:
        """What another host sends to this prefix takes no more tunnels than both need for other packets."""
        there, here = self._plane_of(other), self._plane_of(host)
        most = (not here.owns(prefix)) + (not there.owns(source))
        journey = self.world.core.from_host(there, source, prefix, self.world.now_s)
        if not self._judge(journey, host, prefix, source) or len(journey.tunnels) > most:
            who = f"host{host.number}: {_text(prefix)} from {_text(source)} of host{other.number}"
            yield (host, prefix), _not_as(most, who, journey)

    def _retained(self, host: Host) -> list[int]:
        """What the host believes to have, and what its gateway believes it to have."""
        host.forget(self.world.now_s)
        state = self._plane_of(host).states.get(host.key)
        entries = () if state is None else state.entries
        served = [upper(entry.prefix) for entry in entries if entry.role in _SERVING]
        return list(dict.fromkeys((*host.kept(self.world.now_s), *served)))

    def _only_current_tunnels(self, host: Host, here: Plane) -> None:
        for plane in self.world.core.planes:
            state = plane.states.get(host.key)
            for entry in () if state is None or plane is here else state.entries:
                if entry.role is not Role.RELEASED and (entry.role, entry.peer) != (Role.EXPORTED, here.address):
                    peer = "" if entry.peer is None else f" to {self.world.core.by_address[entry.peer].name}"
                    self.violated(f"host{host.number} is at {here.name}; {plane.name} has {entry.role.value}{peer}")

    def nothing_left(self) -> None:
        """Long after the last host has left: nobody has anything of any."""
        world = self.world
        for process in world.nodes.values():
            for line in leftovers.of_process(process):
                self.violated(line)
        if world.directory is not None:
            for line in leftovers.of_directory(world.directory, world.store, START_WALL_S + world.now_s):
                self.violated(line)

    @staticmethod
    def _serves(plane: Plane, host: Host) -> bool:
        state = plane.states.get(host.key)
        return state is not None and any(entry.role in _SERVING for entry in state.entries)

    def _plane_of(self, host: Host) -> Plane:
        assert host.place is not None
        return self.world.core.by_address[host.place[0]]


def _text(prefix: int) -> str:
    return f"{IPv6Address(prefix << 64)}/64"


def _not_as(tunnels: int, who: str, journey: Journey) -> str:
    return f"{who} is {journey.fate.value}, wanted: delivered by {tunnels} tunnels: {' '.join(journey.path)}"
