"""Data planes of gateways, and what tests declare to them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from namespaces import Domain, Namespace

from anchord.declared import HostState, LogicalRouter, PrefixEntry, Role
from anchord.kernel.forwarding import Forwarding, PlaneSettings

ANSWER_WITHIN_S = 10


def gateway_address(n: int) -> IPv6Address:
    """Tunnel endpoint of gateway n."""
    return IPv6Address(f"2001:db8:f{n}::1")


def prefix(n: int, host: int = 1) -> IPv6Network:
    """The prefix that gateway n gave to a host."""
    return IPv6Network(f"2001:db8:a{n}:{host}::/64")


def router(n: int, host: int = 1) -> LogicalRouter:
    """Gateway n's face towards a host."""
    return LogicalRouter(bytes((2, 0xA0 + n, 0, 0, 0, host)), IPv6Address(f"fe80::a{n}:{host}"))


def anchored(n: int, host: int = 1) -> PrefixEntry:
    """Gateway n's own prefix, host here."""
    return PrefixEntry(prefix(n, host), Role.ANCHORED, router(n, host))


def imported(n: int, host: int = 1) -> PrefixEntry:
    """Gateway n's prefix, host here."""
    return PrefixEntry(prefix(n, host), Role.IMPORTED, router(n, host), gateway_address(n))


def exported(n: int, to: int, host: int = 1) -> PrefixEntry:
    """Gateway n's own prefix, host at gateway ``to``."""
    return PrefixEntry(prefix(n, host), Role.EXPORTED, None, gateway_address(to))


def released(n: int, host: int = 1) -> PrefixEntry:
    """Gateway n's prefix, given up."""
    return PrefixEntry(prefix(n, host), Role.RELEASED)


def wait(work: Callable[[Callable[[str | None], None]], None]) -> str | None:
    """Do something that answers by a callback; the answer."""
    answered = threading.Event()
    answers: list[str | None] = []

    def done(error: str | None) -> None:
        answers.append(error)
        answered.set()

    work(done)
    assert answered.wait(ANSWER_WITHIN_S), "no answer from the worker"
    return answers[0]


class Plane:
    """A gateway's Forwarding in its namespace, made synchronous."""

    def __init__(self, domain: Domain, n: int, access: tuple[str, ...] = ("acc0",), **changes: Any) -> None:
        self.namespace = domain.gateways[n]
        settings = PlaneSettings(
            address=gateway_address(n),
            pools=(IPv6Network(f"2001:db8:a{n}::/48"),),
            access=access,
            core=("core0",),
            peers=tuple(gateway_address(m) for m in domain.gateways if m != n),
        )
        self.settings = replace(settings, **changes)
        self.forwarding = Forwarding(self.settings)

    def start(self) -> Plane:
        """Start, in the namespace."""
        self.namespace.call(self.forwarding.start)
        return self

    def restart(self) -> None:
        """A new process, as far as the kernel can tell."""
        self.forwarding.stop()
        self.forwarding = Forwarding(self.settings)
        self.start()

    def declare(
        self, host: Namespace | None, *entries: PrefixEntry, key: str = "mn1", interface: str = "acc0"
    ) -> str | None:
        """Declare and wait; the error."""
        state = HostState(key, host.mac("eth0") if host else None, interface if host else None, entries)
        return wait(lambda done: self.forwarding.declare(state, done))

    def sweep(self) -> str | None:
        """Sweep and wait."""
        return wait(self.forwarding.sweep)

    def audit(self) -> str | None:
        """Audit and wait."""
        return wait(self.forwarding.audit)

    def settle(self) -> None:
        """Wait until what nobody wants any more is gone (an audit runs after it)."""
        self.audit()

    def counters(self) -> dict[str, int]:
        """Counters."""
        return self.forwarding.counters()


def give_address(host: Namespace, n: int, number: int = 1) -> IPv6Address:
    """What SLAAC would do: the host's address of a prefix, without duplicate address detection."""
    address = prefix(n, number)[5]
    host.run(f"ip -6 addr replace {address}/64 dev eth0 nodad noprefixroute")
    return address


def use_router(host: Namespace, n: int, number: int = 1) -> None:
    """What a Router Advertisement would do: the host's default router."""
    host.run(f"ip -6 route replace default via {router(n, number).address} dev eth0")


class Pair:
    """Two gateways with their planes and one host at gateway 1, its prefix anchored there."""

    def __init__(self, domain: Domain, planes: dict[int, Plane]) -> None:
        self.domain = domain
        self.planes = planes
        self.host = domain.host("mn1", "br-gw1")
        assert planes[1].declare(self.host, anchored(1)) is None
        self.address = give_address(self.host, 1)
        use_router(self.host, 1)

    def hand_over(self) -> None:
        """Move the host to gateway 2, which imports the old prefix; gateway 1 exports it."""
        self.domain.move("mn1", "br-gw2")
        assert self.planes[2].declare(self.host, anchored(2), imported(1)) is None
        assert self.planes[1].declare(None, exported(1, to=2)) is None
