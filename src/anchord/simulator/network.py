"""The core between nodes: it delays, and when told to it loses, repeats, reorders, and cuts some from others."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address
from random import Random

from anchord.simulator.scenario import Network


class Links:
    """Decides what becomes of each message. ``faults`` counts by kind what was done to messages."""

    def __init__(self, network: Network, random: Random, faults: Counter[str]) -> None:
        self.network = network
        self.cut: dict[tuple[IPv6Address, IPv6Address], int] = {}  # one way; how many partitions are in force
        self._random = random
        self._faults = faults

    def heal(self) -> None:
        """Nothing hostile from now on."""
        self.network = Network(self.network.delay_s)
        self.cut = {}

    def arrivals_s(self, source: IPv6Address, destination: IPv6Address) -> tuple[float, ...]:
        """After how many seconds a message arrives; none: it does not, two: it does twice."""
        network, random = self.network, self._random
        if self.cut and (source, destination) in self.cut:
            self._faults["partition"] += 1
            return ()
        if network.loss and random.random() < network.loss:
            self._faults["loss"] += 1
            return ()
        first_s = network.delay_s
        if network.jitter_s:
            first_s += random.random() * network.jitter_s
            self._faults["delay"] += 1
        if network.duplication and random.random() < network.duplication:
            self._faults["duplication"] += 1
            return (first_s, network.delay_s + random.random() * max(network.jitter_s, 0.05))
        return (first_s,)

    def block(self, pairs: list[tuple[IPv6Address, IPv6Address]]) -> None:
        """From now on nothing goes this way."""
        for pair in pairs:
            self.cut[pair] = self.cut.get(pair, 0) + 1

    def unblock(self, pairs: list[tuple[IPv6Address, IPv6Address]]) -> None:
        """What ``block`` did is over."""
        for pair in pairs:
            left = self.cut.get(pair, 0) - 1
            if left > 0:
                self.cut[pair] = left
            else:
                self.cut.pop(pair, None)
