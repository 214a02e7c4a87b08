"""Domains in the middle of their work, with one node of each that is to be fed what nobody should send.

Every node is the protocol object of a daemon, with hosts in every phase: some that it serves, some whose prefix it
anchors and that are elsewhere, some on their way, some that an LMA anchors. Limits are low, so that they are reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

from domain import CENTRAL, Domain, domain_settings
from fuzz_values import Palette
from lma_domain import LMA, POOL, Operators

from anchord.protocol.gateway import Gateway
from anchord.protocol.identity import mn_id_of_mac
from anchord.protocol.lma import Lma
from anchord.protocol.settings import Finding, GatewayInfo, Limits, LmaInfo, LmaSettings, Mode, Timing
from anchord.wire.options import ALL_ZERO_PREFIX, MobileNodeIdentifier

HOSTS = tuple(bytes((2, 0, 0, 0, 0, number)) for number in range(1, 7))
STRANGER = IPv6Address("2001:db8:bad::1")
LIMITS = Limits(hosts=10, bindings=12, anchors_per_host=3, attaches_per_s=20.0, attach_burst=20)
FIXED = HOSTS[4]  # anchored by an LMA, where there is one for plain nodes


@dataclass
class World:
    """``node`` at ``address`` is the one to be fed; the others of ``domain`` are alive and answer."""

    domain: Domain
    address: IPv6Address
    gateways: tuple[int, ...] = (1, 2, 3)

    @property
    def node(self) -> Any:
        return self.domain.nodes[self.address]

    @property
    def is_gateway(self) -> bool:
        return isinstance(self.node, Gateway)

    def peers(self) -> tuple[IPv6Address, ...]:
        return tuple(self.node.counters.peers)


class Mixed(Domain):
    """Three gateways, a CMD, and an LMA that anchors one of the hosts."""

    def __init__(self, **changes: Any) -> None:
        info = LmaInfo("home", LMA, (POOL,))
        settings = domain_settings(3, **{"lmas": {LMA: info}, "fixed_anchors": {FIXED: LMA}, **changes})
        super().__init__(settings=settings)
        self.lma = Lma(LmaSettings(info, settings))
        self.nodes[LMA] = self.lma  # type: ignore[assignment]
        for table in (self.declared, self.ignored, self.journal):
            table[LMA] = type(next(iter(table.values())))()  # type: ignore[index]


def _timing(rng: Random) -> Timing:
    return Timing(
        timestamp_window_s=rng.choice((0.3, 0.3, 5.0)),
        heartbeat_s=rng.choice((2.0, 60.0)),
        idle_release_s=rng.choice((3.0, 300.0)),
        min_delay_before_bce_delete_s=rng.choice((1.0, 10.0)),
    )


def _settings(rng: Random) -> dict[str, Any]:
    return {
        "limits": LIMITS,
        "timing": _timing(rng),
        "timestamps": rng.random() < 0.8,
        "strict_8885": rng.random() < 0.2,
    }


def _central(rng: Random, mode: Mode) -> Domain:
    return Mixed(mode=mode, **_settings(rng))


def _alone(rng: Random, finding: Finding) -> Domain:
    settings = domain_settings(3, central=None, finding=finding, **_settings(rng))
    return Domain(settings=settings, neighbours={1: (2, 3), 2: (1,)})


def _with_networks(domain: Domain) -> Domain:
    """The gateway to be fed has networks behind it."""
    me = domain.gw[1].settings
    info = replace(me.me, local_networks=(IPv6Network("fd00:1::/48"),))
    domain.gw[1] = domain.nodes[info.address] = Gateway(replace(me, me=info))
    return domain


def _gateway(make: Callable[[Random], Domain]) -> Callable[[Random], World]:
    def build(rng: Random) -> World:
        domain = make(rng)
        if rng.random() < 0.3:
            domain = _with_networks(domain)
        return World(domain, domain.address(1), tuple(domain.gw))

    return build


def _other(make: Callable[[Random], Domain], address: IPv6Address) -> Callable[[Random], World]:
    def build(rng: Random) -> World:
        domain = make(rng)
        return World(domain, address, tuple(domain.gw))

    return build


WORLDS: dict[str, Callable[[Random], World]] = {
    "gateway-proxy": _gateway(lambda rng: _central(rng, Mode.PROXY)),
    "gateway-relay": _gateway(lambda rng: _central(rng, Mode.RELAY)),
    "gateway-locator": _gateway(lambda rng: _central(rng, Mode.LOCATOR)),
    "gateway-directory": _gateway(lambda rng: _alone(rng, Finding.DIRECTORY)),
    "gateway-anchor-known": _gateway(lambda rng: _alone(rng, Finding.ANCHOR_KNOWN)),
    "gateway-operators": _gateway(lambda rng: Operators(**_settings(rng))),
    "gateway-plain": _gateway(lambda rng: Mixed(fixed_anchors={b"": LMA}, **_settings(rng))),
    "gateway-immobile": _gateway(lambda rng: Domain(settings=domain_settings(3, mobility=False, **_settings(rng)))),
    "central-proxy": _other(lambda rng: _central(rng, Mode.PROXY), CENTRAL),
    "central-relay": _other(lambda rng: _central(rng, Mode.RELAY), CENTRAL),
    "central-locator": _other(lambda rng: _central(rng, Mode.LOCATOR), CENTRAL),
    "lma-between": _other(lambda rng: Operators(mode=rng.choice(list(Mode)), **_settings(rng)), CENTRAL),
    "lma-plain": _other(lambda rng: Mixed(fixed_anchors={b"": LMA}, **_settings(rng)), LMA),
}  # fmt: skip


def build(name: str, rng: Random) -> World:
    """A world in the middle of its work: hosts have come, gone and come back."""
    world = WORLDS[name](rng)
    domain = world.domain
    for node in domain.nodes.values():
        domain.perform(_address_of(domain, node), node.restore({}, domain.now))  # type: ignore[arg-type]
    for _ in range(rng.randrange(4, 12)):
        move(rng, world)
    if rng.random() < 0.3:
        domain.hold_kernel = True
        domain.host_at(rng.choice(world.gateways), rng.choice(HOSTS), settle=False)
        domain.hold_kernel = False
    return world


def _address_of(domain: Domain, node: object) -> IPv6Address:
    return next(address for address, known in domain.nodes.items() if known is node)


def move(rng: Random, world: World) -> None:
    """A host turns up somewhere; most often the gateway to be fed has a part in it."""
    domain, number = world.domain, rng.choice((1, *world.gateways))
    if number in domain.gw:
        mac = rng.choice(HOSTS)
        domain.host_at(number, mac, settle=False, reassociated=rng.random() < 0.7, solicited=rng.random() < 0.3)
        deliver(world, 60)
    domain.pass_time(rng.choice((0.01, 0.3, 1.1, 4.0)))


def deliver(world: World, most: int) -> None:
    """What is in flight arrives, and kernels answer: not for ever, whatever was said before."""
    domain = world.domain
    for _ in range(most):
        if domain.pending:
            domain.install()
        elif domain.questions:
            domain.ask()
        elif domain.wire:
            domain.deliver()
        else:
            return


def palette(rng: Random, world: World) -> Palette:
    """What there is in the domain, and a little that is not."""
    domain = world.domain
    known: list[GatewayInfo] = list(domain.settings.gateways.values())
    prefixes = [POOL, IPv6Network((int(POOL.network_address) | 1 << 64, 64)), ALL_ZERO_PREFIX, IPv6Network("fe80::/64")]
    for gateway in domain.gw.values():
        prefixes += [session.prefix for session in gateway.sessions.values()]
        prefixes += gateway.resting()
    for info in known:
        base = int(info.pools[0].network_address)
        prefixes += [IPv6Network((base | number << 64, 64)) for number in (0, 1, 2, 3, 4, 5, 65535)]
    addresses = (*domain.nodes, STRANGER, IPv6Address(0), IPv6Address("fe80::1"), IPv6Address("ff02::1"))
    macs = (
        *HOSTS,
        bytes(6),
        b"\xff" * 6,
        b"\x01",
        rng.randbytes(8),
        *(bytes((2,)) + rng.randbytes(5) for _ in range(8)),
    )
    names = tuple(mn_id_of_mac(mac) for mac in macs if len(mac) == 6)
    strange = (
        MobileNodeIdentifier(1, b""),
        MobileNodeIdentifier(1, b"mn@example"),
        MobileNodeIdentifier(255, b"\0" * 254),
    )
    return Palette(addresses, tuple(prefixes), macs, names + strange)
