"""What hosts do and what is done to the nodes until the hostile part of a run is over."""

from __future__ import annotations

from ipaddress import IPv6Address

from anchord.simulator.hosts import Host
from anchord.simulator.process import Process
from anchord.simulator.scenario import CENTRAL
from anchord.simulator.world import DIRECTORY, World

INTERFACES = ("acc0", "acc1")
PACKET_S = 2.0
REACHABLE_S = 30.0  # RFC 4861 section 10: for about so long a host believes that its router is there


class Hostility:
    """Draws everything from the world's random numbers as it goes."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.over_s = world.scenario.hostile_s
        self.handovers = 0
        self._gateways = list(world.scenario.domain.gateways)

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
        world.air.loss = 0.0
        for process in world.nodes.values():
            process.refuses, process.skew_s, process.cut_after = False, 0.0, None
            world.start(process)
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
            world.air.reassociates(host)
        if random.random() < 0.5:
            world.at(world.now_s + random.random() * 0.05, self._come_up, host, host.moves)
        world.at(world.now_s + random.random() * 3.0, self._speak, host, host.moves)

    def _come_up(self, host: Host, moves: int) -> None:
        if host.moves == moves and host.place is not None:
            self.world.air.comes_up(host)

    def _speak(self, host: Host, moves: int) -> None:
        """Its carrier may not have gone, and it says nothing until it has something to say."""
        if host.moves != moves or host.place is None:
            return
        usable = [] if host.idle else host.preferred(self.world.now_s)
        if usable:
            self.world.air.sends(host, usable[0])
        else:
            self.world.air.reports(host)

    def _traffic(self, host: Host) -> None:
        """Both ways, with every address; a host without a router asks for one."""
        world = self.world
        host.forget(world.now_s)
        if host.place is not None:
            if not host.routers:
                world.air.solicits(host)
            elif not host.idle or self.random.random() < 0.2:
                self._packets(host)
        world.at(world.now_s + PACKET_S * (0.5 + self.random.random()), self._traffic, host)

    def _packets(self, host: Host) -> None:
        world, usable = self.world, host.usable(self.world.now_s)
        for prefix in usable:
            world.air.sends(host, prefix)  # what a gateway does not filter tells it that the host is there
        if usable and not host.idle and world.now_s >= host.confirmed_s + REACHABLE_S:
            # With the address of a packet that it has for its router (RFC 4861 section 7.2.2).
            world.air.shows(host, host.address(self.random.choice(usable)))
            host.confirmed_s = world.now_s
        others = [each for each in world.hosts if each is not host and each.place is not None]
        world.checks.exchange_packets(host, self.random.choice(others) if others else None)

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
            world.at(world.now_s + 1.0, world.kill, world.nodes[address], True)
        else:
            world.kill(world.nodes[address], keep)
        world.at(max(self._for_a_while(), min(world.now_s + 1.1, self.over_s)), world.start, world.nodes[address])

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
            world.kill(world.nodes[CENTRAL], keep)
            world.at(self._for_a_while(), world.start, world.nodes[CENTRAL])

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
