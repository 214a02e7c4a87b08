"""What must be true: of every installation and packet all along, and of the whole domain after quiet."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from anchord.declared import HostState, Role
from anchord.simulator.forwarding import Fate, Journey, Plane, upper
from anchord.simulator.hosts import Host
from anchord.simulator.process import Process

if TYPE_CHECKING:
    from anchord.simulator.world import World

# RFC 8200 section 5: what every link carries; no message of ours is to need fragments.
LARGEST_MESSAGE = 1280 - 40
_SERVING = (Role.ANCHORED, Role.IMPORTED)


class Checks:
    """``violations``: a line each, with virtual seconds. ``plainly``, ``by_tunnel``: packets delivered so."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.plainly = 0
        self.by_tunnel = 0
        self._stale_since_s: dict[tuple[IPv6Address, str], tuple[IPv6Address, float]] = {}  # by anchor and host

    def violated(self, what: str) -> None:
        """Note it, here and in the trace."""
        line = f"{self.world.now_s:.4f} s: {what}"
        self.violations.append(line)
        if self.world.trace.wanted:
            self.world.trace.note(self.world.now_s, "CHECK", what)

    # All along

    def size(self, process: Process, carried: bytes) -> None:
        """A message fits into the least MTU."""
        if len(carried) > LARGEST_MESSAGE:
            self.violated(f"{process.name} sends a message of {len(carried)} bytes")

    def installed(self, process: Process, state: HostState, taken: list[int]) -> None:
        """No prefix has two hosts, at one gateway or at two."""
        for prefix in taken:
            self.violated(f"{process.name}: {_text(prefix)} has two hosts, one of them {state.host}")
        for entry in state.entries:
            prefix = upper(entry.prefix)
            for plane in self._planes():
                if plane is process.plane:
                    continue
                for table in (plane.hosts, plane.uplink):
                    if prefix in table and table[prefix][0] != state.host:
                        self.violated(f"{_text(prefix)}: {state.host} at {process.name}, another at {plane.name}")

    def exchange_packets(self, host: Host) -> None:
        """Both ways, with every address that the host has; what arrives arrives at the right one, and nothing loops."""
        assert host.place is not None
        plane = self.world.nodes[host.place[0]].plane
        assert plane is not None
        for prefix in host.usable(self.world.now_s):
            for journey in self._both_ways(plane, prefix):
                self._packet(host, prefix, journey)

    def _both_ways(self, plane: Plane, prefix: int) -> tuple[Journey, Journey]:
        core, now_s = self.world.core, self.world.now_s
        return core.from_host(plane, prefix, None, now_s), core.to_host(prefix, now_s)

    def _packet(self, host: Host, prefix: int, journey: Journey) -> None:
        way = " ".join(journey.path)
        if journey.fate is Fate.LOOP:
            self.violated(f"host{host.number}: a packet of {_text(prefix)} loops: {way}")
        elif journey.fate is Fate.DELIVERED:
            if journey.at not in (None, host.mac):
                self.violated(f"host{host.number}: a packet to {_text(prefix)} reaches another host: {way}")
            elif journey.tunnels:
                self.by_tunnel += 1
            else:
                self.plainly += 1

    def watch(self) -> None:
        """No tunnel leads for long to a gateway where the host is not."""
        now_s, known = self.world.now_s, self._stale_since_s
        self._stale_since_s = {}
        for host in self.world.hosts:
            if host.place is None:
                continue
            for plane in self._planes():
                state = plane.states.get(host.key)
                peers = {entry.peer for entry in state.entries if entry.role is Role.EXPORTED} if state else set()
                wrong = next((p for p in peers if p is not None and p != host.place[0]), None)
                if wrong is None:
                    continue
                before, since_s = known.get((plane.address, host.key), (wrong, now_s))
                since_s = max(since_s, host.since_s) if before == wrong else now_s
                if now_s - since_s > self.world.scenario.stale_s:
                    self.violated(
                        f"host{host.number}: {plane.name} has a tunnel to {wrong} for {now_s - since_s:.1f} s"
                    )
                    since_s = now_s
                self._stale_since_s[plane.address, host.key] = (wrong, since_s)

    # After quiet

    def settled(self) -> None:
        """One serving gateway a host; every address works both ways, through one tunnel at most; nothing else."""
        for host in self.world.hosts:
            serving = [plane for plane in self._planes() if self._serves(plane, host)]
            names = ", ".join(plane.name for plane in serving) or "nobody"
            if host.place is None:
                if serving:
                    self.violated(f"host{host.number} is away, and served by {names}")
                continue
            here = self.world.nodes[host.place[0]].plane
            assert here is not None
            if serving != [here]:
                self.violated(f"host{host.number} is at {here.name}, and served by {names}")
                continue
            self._reachable(host, here)
            self._only_current_tunnels(host, here)

    def _reachable(self, host: Host, here: Plane) -> None:
        host.forget(self.world.now_s)
        for prefix in host.preferred(self.world.now_s):
            tunnels = 0 if here.owns(prefix) else 1
            for journey in self._both_ways(here, prefix):
                self._packet(host, prefix, journey)
                if journey.fate is not Fate.DELIVERED or journey.tunnels != tunnels:
                    way = " ".join(journey.path)
                    wanted = f"not delivered by {tunnels} tunnels"
                    self.violated(f"host{host.number}: {_text(prefix)} is {journey.fate.value}, {wanted}: {way}")

    def _only_current_tunnels(self, host: Host, here: Plane) -> None:
        for plane in self._planes():
            state = plane.states.get(host.key)
            for entry in () if state is None or plane is here else state.entries:
                if entry.role is not Role.RELEASED and (entry.role, entry.peer) != (Role.EXPORTED, here.address):
                    self.violated(f"host{host.number} is at {here.name}; {plane.name} has {entry.role} to {entry.peer}")

    def empty(self) -> None:
        """Long after the last host has left: no kernel has anything of any."""
        for plane in self._planes():
            for host in plane.states:
                self.violated(f"{plane.name} has forwarding of {host}, which left")

    @staticmethod
    def _serves(plane: Plane, host: Host) -> bool:
        state = plane.states.get(host.key)
        return state is not None and any(entry.role in _SERVING for entry in state.entries)

    def _planes(self) -> list[Plane]:
        return self.world.core.planes


def _text(prefix: int) -> str:
    return f"{IPv6Address(prefix << 64)}/64"
