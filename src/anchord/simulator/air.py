"""Between hosts and their gateways: what a gateway hears, through its filter, and what a host does.

A gateway is told of data and listener reports of hosts it does not know alone; of solicitations and advertisements of
neighbours, Router Solicitations and an access point's word in any case (``attachment/filter.py``). What a frame shows
of a host's addresses is what ``attachment/access.py`` makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from anchord.protocol.inputs import HostSeen
from anchord.protocol.outputs import Advertise, Heed, Ignore, Probe
from anchord.simulator.hosts import DAD_S, Host
from anchord.simulator.process import Process

if TYPE_CHECKING:
    from anchord.simulator.world import World

FRAME_S = 0.0001  # from a host to its gateway's process
FILTER_S = 0.005
# RFC 4862 section 5.4.2 and RFC 4861 section 6.3.7: who comes up waits so long at most, so that not all speak at once.
FIRST_WORD_S = 1.0
Word = tuple[float, Callable[[], None]]
"""When a host says something, and how."""


class Air:
    """All access links. ``loss``: the share of frames that are lost, 0 to 1."""

    def __init__(self, world: World, loss: float) -> None:
        self.world, self.loss = world, loss
        self._random = world.random

    # From hosts

    def reassociates(self, host: Host) -> None:
        """Its access point says so, in its name: a Layer 2 Update frame."""
        self._always_heard(host, HostSeen(_interface(host), host.mac, reassociated=True))

    def comes_up(self, host: Host) -> None:
        """Its carrier was lost: it joins groups, asks whether its addresses are still its own, then for routers."""
        random, now_s = self._random, self.world.now_s
        host.forget(now_s)
        self._heard_if_new(
            host, HostSeen(_interface(host), host.mac)
        )  # a listener report, from the unspecified address
        own = (host.link_local, *(host.address(prefix) for prefix in host.addresses))
        asks = sorted((now_s + random.random() * FIRST_WORD_S, number) for number in range(len(own)))
        ready_s = asks[-1][0] + DAD_S
        for held in host.addresses.values():
            held.usable_s = ready_s
        words: list[Word] = [(at_s, partial(self.shows, host, own[number])) for at_s, number in asks]
        self._say_later(host, [*words, (ready_s, partial(self.solicits, host))])

    def _say_later(self, host: Host, words: list[Word]) -> None:
        """One after the other, unless it moves on: many a host does before it has said anything."""
        self.world.at(words[0][0], self._say, host, host.moves, words)

    def _say(self, host: Host, moves: int, words: list[Word]) -> None:
        if host.moves == moves and host.place is not None:
            words.pop(0)[1]()
            if words:
                self._say_later(host, words)

    def solicits(self, host: Host) -> None:
        """A Router Solicitation, from the link-local address."""
        self._always_heard(host, HostSeen(_interface(host), host.mac, host.link_local, solicited=True))

    def shows(self, host: Host, address: IPv6Address) -> None:
        """A Neighbour Solicitation or Advertisement from one of its addresses, or for one that it is about to use."""
        self._always_heard(host, HostSeen(_interface(host), host.mac, address))

    def reports(self, host: Host) -> None:
        """A multicast listener report, from whoever has nothing else to say."""
        self._heard_if_new(host, HostSeen(_interface(host), host.mac, host.link_local))

    def sends(self, host: Host, prefix: int) -> None:
        """Data."""
        self._heard_if_new(host, HostSeen(_interface(host), host.mac, host.address(prefix)))

    def _always_heard(self, host: Host, seen: HostSeen) -> None:
        if host.place is not None and not self._fades():
            self.world.at(self.world.now_s + FRAME_S, self.world.feed, self.world.nodes[host.place[0]], seen)

    def _heard_if_new(self, host: Host, seen: HostSeen) -> None:
        if host.place is not None and not self._fades():
            self.world.at(self.world.now_s + FRAME_S, self._unless_filtered, self.world.nodes[host.place[0]], seen)

    def _unless_filtered(self, process: Process, seen: HostSeen) -> None:
        if (seen.interface, seen.mac) not in process.filtered:
            self.world.feed(process, seen)

    def _fades(self) -> bool:
        """Whether a frame between a host and its gateway is lost."""
        lost = bool(self.loss) and self._random.random() < self.loss
        if lost:
            self.world.fault("frame-loss")
        return lost

    # To hosts

    def _on_link(self, process: Process, interface: str, mac: bytes) -> Host | None:
        """The host that a frame of this gateway reaches."""
        host = self.world.by_mac[mac]
        place = host.place
        there = place is not None and place[1] == interface and self.world.nodes[place[0]] is process
        return host if there and not self._fades() else None

    def advertise(self, process: Process, output: Advertise) -> None:
        """A Router Advertisement; before a host uses a new address it asks whether anybody has it."""
        host, world = self._on_link(process, output.interface, output.mac), self.world
        if host is None:
            return
        host.forget(world.now_s)
        for prefix in host.advertised(output, world.now_s):
            at_s = world.now_s + self._random.random() * FIRST_WORD_S
            self._say_later(host, [(at_s, partial(self.shows, host, host.address(prefix)))])

    def probe(self, process: Process, output: Probe) -> None:
        """A Neighbour Solicitation; who has the address says so, with it."""
        host = self._on_link(process, output.interface, output.mac)
        if host is not None and host.has(output.target, self.world.now_s):
            self.shows(host, output.target)

    # The filter

    def filter(self, process: Process, output: Ignore | Heed) -> None:
        """It is changed a moment later; the last order counts."""
        place = (output.interface, output.mac)
        pending = place in process.filtering
        process.filtering[place] = type(output) is Ignore
        if not pending:
            self.world.at(self.world.now_s + FILTER_S, self._filter_now, process, process.life, place)

    @staticmethod
    def _filter_now(process: Process, life: int, place: tuple[str, bytes]) -> None:
        if process.life != life or place not in process.filtering:
            return
        if process.filtering.pop(place):
            process.filtered.add(place)
        else:
            process.filtered.discard(place)


def _interface(host: Host) -> str:
    return "" if host.place is None else host.place[1]
