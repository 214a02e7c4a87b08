"""What a seed stands for: the domain, its parameters, and how hostile everything is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

from anchord.protocol.settings import (
    CentralSettings,
    DomainSettings,
    Finding,
    GatewayInfo,
    GatewaySettings,
    Lifetimes,
    Limits,
    Mode,
    Timing,
)

CENTRAL = IPv6Address("2001:db8:fc::1")
KINDS = ("proxy", "relay", "locator", "directory", "anchor-known")
# Every fifth seed has nothing but hosts that move: there the bounds are tight.
CALM_EVERY = 5
# Two refreshes and the back-off's longest pause fit in; a lifetime may be shorter than a back-off.
LEAST_SETTLING_S = 40.0


@dataclass(frozen=True, slots=True)
class Network:
    """What the core does to messages. Shares of messages, 0 to 1; delays in seconds, one way."""

    delay_s: float = 0.002
    jitter_s: float = 0.0  # up to so much more, for each message by itself: that reorders
    loss: float = 0.0
    duplication: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything about a run that is decided beforehand. Times in virtual seconds."""

    seed: int
    kind: str
    calm: bool
    hosts: int
    domain: DomainSettings
    idle_release: bool
    network: Network
    radio_loss: float  # of frames and advertisements between hosts and gateways
    pause_s: float  # between moves of one host, on average
    hostile_s: float  # how long hosts move and faults come
    kernel_s: float  # what a declaration takes, at most
    partitions: int
    crashes: int
    lose_journals: bool
    refusals: int
    outages: int
    skews: int

    @property
    def settle_s(self) -> float:
        """How long after the last fault everything has to be in order."""
        return max(2.0 * self.domain.lifetimes.binding_s, LEAST_SETTLING_S)

    @property
    def stale_s(self) -> float:
        """How long a tunnel may lead to a gateway where the node is not.

        Without faults: two repetitions of what a slow network may cross. With them, the worst is a gateway that
        believes for a lifetime to serve the node, and whose last word an anchor keeps for its dead-man timer.
        """
        return 3.0 if self.calm else self.believed_s

    @property
    def believed_s(self) -> float:
        """How long somebody may believe that a node is where it is not."""
        timing, lifetimes = self.domain.timing, self.domain.lifetimes
        served_s = timing.probe_after_s + timing.min_delay_before_bce_delete_s + 2.0 * lifetimes.binding_s
        return served_s + timing.dead_man_lifetimes * lifetimes.binding_s

    @property
    def gone_s(self) -> float:
        """How long after the last host has left nothing may be left of any."""
        timing, lifetimes = self.domain.timing, self.domain.lifetimes
        ends_s = sum(min(2.0**n, timing.max_bindack_s) for n in range(self.domain.limits.end_tries + 1))
        return self.believed_s + ends_s + lifetimes.valid_s + 2.0 * lifetimes.binding_s + 10.0

    def gateway_settings(self) -> list[GatewaySettings]:
        """One for each gateway; where nothing is central all others are neighbours."""
        addresses = tuple(self.domain.gateways)
        return [
            GatewaySettings(info, self.domain, neighbours=tuple(a for a in addresses if a != info.address))
            for info in self.domain.gateways.values()
        ]

    def central_settings(self) -> CentralSettings:
        """Of the CMD, where there is one."""
        return CentralSettings(self.domain, idle_release=self.idle_release)


def scenario(seed: int) -> Scenario:
    """What ``seed`` stands for."""
    random = Random(seed)
    kind = KINDS[seed % len(KINDS)]
    calm = (seed // len(KINDS)) % CALM_EVERY == 0
    hosts = random.choice((1, 1, 2, 3))
    domain = _domain(random, kind, random.randint(2, 6), hosts)
    one_way_s = random.choice((0.0005, 0.002, 0.01, 0.04))
    network = Network(one_way_s)
    pause_s = random.choice((2.0, 5.0, 15.0) if calm else (0.03, 0.3, 2.0, 5.0, 15.0))
    made = Scenario(
        seed=seed,
        kind=kind,
        calm=calm,
        hosts=hosts,
        domain=domain,
        idle_release=random.random() < 0.7,
        network=network,
        radio_loss=0.0,
        pause_s=pause_s,
        # Some hundreds of moves of a host find what thousands would, and leave time for other seeds.
        hostile_s=random.choice((20.0, 40.0, 80.0)) if pause_s > 0.1 else 20.0,
        kernel_s=random.choice((0.0005, 0.005, 0.05)),
        partitions=0,
        crashes=0,
        lose_journals=False,
        refusals=0,
        outages=0,
        skews=0,
    )
    return made if calm else _with_faults(made, random)


def _with_faults(made: Scenario, random: Random) -> Scenario:
    delay_s = made.network.delay_s
    network = Network(
        delay_s,
        random.choice((0.0, delay_s, 0.05, 0.5)),
        random.choice((0.0, 0.0, 0.05, 0.2, 0.5)),
        random.choice((0.0, 0.02, 0.2)),
    )
    return replace(
        made,
        network=network,
        radio_loss=random.choice((0.0, 0.0, 0.05, 0.3)),
        partitions=random.choice((0, 0, 1, 3)),
        crashes=random.choice((0, 0, 1, 3)),
        lose_journals=random.random() < 0.3,
        refusals=random.choice((0, 0, 1, 2)),
        outages=random.choice((0, 0, 1)),
        skews=random.choice((0, 0, 0, 1)),
    )


def _domain(random: Random, kind: str, count: int, hosts: int) -> DomainSettings:
    infos = [
        GatewayInfo(f"gw{n}", IPv6Address(f"2001:db8:f{n}::1"), (IPv6Network(f"2001:db8:a{n}::/48"),))
        for n in range(1, count + 1)
    ]
    binding_s = random.choice((12, 16, 20, 32))
    valid_s = binding_s * random.choice((1, 2))
    lifetimes = Lifetimes(valid_s, valid_s // 2, valid_s, max(valid_s // 6, 2), binding_s)
    timing = Timing(
        max_bindack_s=random.choice((4.0, 8.0, 16.0, 32.0)),
        probe_after_s=random.choice((2.0, 5.0)),
        min_delay_before_bce_delete_s=random.choice((2.0, 10.0)),
        refuse_s=random.choice((5.0, 20.0)),
        idle_release_s=random.choice((10.0, 30.0, 300.0)),
        heartbeat_s=random.choice((10.0, 60.0)),
    )
    attaches_per_s, attach_burst = random.choice(((50.0, 200), (1.0, 4)))
    limits = Limits(
        hosts=hosts,
        bindings=8 * hosts,
        anchors_per_host=random.choice((2, 3, 7, 7)),
        max_update_rate=random.choice((1, 3)),
        updates_per_s=random.choice((20.0, 2000.0)),
        attaches_per_s=attaches_per_s,
        attach_burst=attach_burst,
    )
    central = kind in ("proxy", "relay", "locator")
    return DomainSettings(
        secret=b"s" * 32,
        central=CENTRAL if central else None,
        gateways={info.address: info for info in infos},
        mode=Mode(kind) if central else Mode.PROXY,
        finding=Finding.CENTRAL if central else Finding(kind),
        lifetimes=lifetimes,
        timing=timing,
        limits=limits,
        digest=b"d" * 8,
    )
