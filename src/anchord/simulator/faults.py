"""What hosts do and what is done to the nodes until the hostile part of a run is over."""

from __future__ import annotations

from ipaddress import IPv6Address

from anchord.simulator.hosts import Host
from anchord.simulator.process import Process
from anchord.simulator.scenario import CENTRAL
from anchord.simulator.world import DIRECTORY, World

INTERFACES = ("acc0", "acc1")
PACKET_S = 2.0


class Hostility:
    """Draws everything from the world's random numbers as it goes."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.over_s = world.scenario.hostile_s
        self.handovers = 0
        self._gateways = list(world.scenario.domain.gateways)
        self._partitions: list[list[tuple[IPv6Address, IPv6Address]]] = []

    def begin(self) -> None:
        """Put all of it on the calendar."""
        world, scenario = self.world, self.world.scenario
        for host in world.hosts:
            world.at(self.random.random() * 2.0, self._move, host)
            world.at(self.random.random(), self._traffic, host)
        for _ in range(scenario.partitions):
            world.at(self._some_time(), self._cut)
        for _ in range(scenario.crashes):
            world.at(self._some_time(), self._crash)
        for _ in range(scenario.refusals):
            world.at(self._some_time(), self._refuse)
        for _ in range(scenario.outages):
            world.at(self._some_time(), self._outage)
        for _ in range(scenario.skews):
            world.at(self._some_time(), self._skew)

    def _some_time(self) -> float:
        return self.random.random() * self.over_s * 0.9

    def _for_a_while(self) -> float:
        left_s = self.over_s - self.world.now_s
        return self.world.now_s + min(left_s, self.random.choice((0.3, 2.0, 10.0, 40.0)) * self.random.random())

    def end(self) -> None:
        """The network is good, every node is there, clocks agree."""
        world = self.world
        world.links.heal()
        world.radio_loss = 0.0
        for address, process in world.nodes.items():
            process.refuses, process.skew_s, process.cut_after = False, 0.0, None
            world.start(address)
        if world.directory is None:
            world.directory_back()
        for host in world.hosts:
            if host.place is None and (host is world.hosts[0] or self.random.random() < 0.8):
                self._arrive(host, self.random.choice(self._gateways))

    # Hosts

    def _move(self, host: Host) -> None:
        world, random = self.world, self.random
        if world.now_s >= self.over_s:
            return
        if host.place is not None and random.random() < 0.1:
            self._leave(host)
        elif host.moves > 1 and random.random() < 0.3:
            self._arrive(host, host.before or random.choice(self._gateways))
        else:
            self._arrive(host, random.choice(self._gateways))
        world.at(world.now_s + random.expovariate(1.0 / world.scenario.pause_s), self._move, host)

    def _leave(self, host: Host) -> None:
        if self.world.trace.wanted:
            self.world.trace.note(self.world.now_s, f"host{host.number}", "leaves")
        if host.place is not None:
            host.before = host.place[0]
        host.place = None
        self.world.fault("leave")

    def _arrive(self, host: Host, gateway: IPv6Address) -> None:
        world, random = self.world, self.random
        place = (gateway, random.choice(INTERFACES))
        if host.place == place:
            return
        if host.place is not None:
            host.before = host.place[0]
        if host.moves and host.before != gateway:
            self.handovers += 1
        host.moves += 1
        host.place, host.since_s = place, world.now_s
        if world.trace.wanted:
            world.trace.note(world.now_s, f"host{host.number}", f"is at {world.nodes[gateway].name} {place[1]}")
        # An access point says so, or the host does, or its next packet will.
        if random.random() < 0.7:
            world.frame(host, reassociated=True)
        if random.random() < 0.5:
            world.at(world.now_s + random.random() * 0.05, self._solicit, host, host.moves)
        world.at(world.now_s + random.random() * 3.0, self._speak, host, host.moves)

    def _solicit(self, host: Host, moves: int) -> None:
        if host.moves == moves:
            self.world.frame(host, solicited=True)

    def _speak(self, host: Host, moves: int) -> None:
        """Multicast listener reports and the like, from whoever has nothing else to say."""
        if host.moves == moves and host.place is not None:
            self.world.frame(host)

    def _traffic(self, host: Host) -> None:
        """Both ways, with every address; a host without a router asks for one."""
        world = self.world
        host.forget(world.now_s)
        if host.place is not None:
            if not host.routers:
                world.frame(host, solicited=True)
            elif not host.idle or self.random.random() < 0.2:
                world.checks.exchange_packets(host)
        world.at(world.now_s + PACKET_S * (0.5 + self.random.random()), self._traffic, host)

    # Nodes

    def _cut(self) -> None:
        world, random = self.world, self.random
        victims = [*world.nodes, *((DIRECTORY,) if world.scenario.kind == "directory" else ())]
        one = random.choice(victims)
        others = [each for each in victims if each != one]
        if random.random() < 0.5:
            others = [random.choice(others)]
        pairs = [(one, other) for other in others]
        way = random.randrange(3)
        pairs = [pairs, [(b, a) for a, b in pairs], pairs + [(b, a) for a, b in pairs]][way]
        world.fault("partition-begun")
        world.links.block(pairs)
        world.at(self._for_a_while(), world.links.unblock, pairs)

    def _crash(self) -> None:
        world, random = self.world, self.random
        address = random.choice(list(world.nodes))
        keep = not world.scenario.lose_journals or random.random() < 0.5
        world.fault("crash" if keep else "crash-without-store")
        if keep and random.random() < 0.5:
            world.nodes[address].cut_after = random.randrange(5)
            world.at(world.now_s + 1.0, world.kill, address, True)
        else:
            world.kill(address, keep)
        world.at(max(self._for_a_while(), min(world.now_s + 1.1, self.over_s)), world.start, address)

    def _refuse(self) -> None:
        gateway = self.world.nodes[self.random.choice(self._gateways)]
        gateway.refuses = True
        self.world.at(self._for_a_while(), self._accept, gateway)

    @staticmethod
    def _accept(gateway: Process) -> None:
        gateway.refuses = False

    def _outage(self) -> None:
        """What is central is away."""
        world = self.world
        keep = not world.scenario.lose_journals or self.random.random() < 0.5
        if world.scenario.kind == "directory":
            world.fault("directory-away")
            world.directory_away(keep)
            world.at(self._for_a_while(), world.directory_back)
        elif CENTRAL in world.nodes:
            world.fault("cmd-away")
            world.kill(CENTRAL, keep)
            world.at(self._for_a_while(), world.start, CENTRAL)

    def _skew(self) -> None:
        world = self.world
        node = world.nodes[self.random.choice(list(world.nodes))]
        node.skew_s = self.random.choice((-5.0, -0.5, -0.2, 0.2, 0.5, 5.0))
        world.fault("skew")

    # The end

    def empty(self) -> None:
        """Every host leaves for good."""
        for host in self.world.hosts:
            host.moves += 1
            host.place = None
