"""Each check of the simulator fails when there is something to find: a kernel, a gateway or a CMD that is wrong on
purpose, in a run that passes without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from anchord.declared import HostState, Role
from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import Input, MessageReceived
from anchord.protocol.outputs import Advertise, Declare, DirectoryPut, Heed, Output, Persist, Send
from anchord.protocol.settings import CentralSettings, GatewaySettings, Limits
from anchord.protocol.timers import Instant
from anchord.simulator.forwarding import Plane
from anchord.simulator.pace import Pace
from anchord.simulator.run import Outcome, play
from anchord.simulator.scenario import scenario
from anchord.wire.messages import (
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Message,
    NotificationFlag,
    RevocationFlag,
    UpdateNotification,
)
from anchord.wire.options import MnIdSubtype, MobileNodeIdentifier, UnknownOption

# Seeds without faults of their own, by what they have.
PROXY, ANCHOR_KNOWN, DIRECTORY = 50, 54, 28
TWO_HOSTS = 52  # and two gateways
MANY_GATEWAYS = 51  # six, one host, and a CMD
FEW_ANCHORS = 4  # two, and four gateways
# With faults: hosts that move faster than the signalling.
HOSTILE = 45
FEW_ARRIVALS = 195  # and faster than gateways may take them in


@cache
def sound(seed: int) -> Outcome:
    return play(scenario(seed))


def found(outcome: Outcome, what: str) -> bool:
    """Whether a run says ``what``; without the fault it says nothing."""
    assert not sound(outcome.seed).violations
    return any(what in line for line in outcome.violations)


class Tampered:
    """A protocol object some of whose outputs come out wrong; None: not at all."""

    def __init__(self, machine: Any, change: Callable[[Output], Output | None]) -> None:
        self._machine, self._change = machine, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def _changed(self, outputs: list[Output]) -> list[Output]:
        return [changed for output in outputs if (changed := self._change(output)) is not None]

    def restore(self, journal: Any, now: Instant) -> list[Output]:
        return self._changed(self._machine.restore(journal, now))

    def handle(self, event: Input, now: Instant) -> list[Output]:
        return self._changed(self._machine.handle(event, now))

    def handle_timers(self, now: Instant) -> list[Output]:
        return self._changed(self._machine.handle_timers(now))


def tampered(change: Callable[[Output], Output | None]) -> Callable[[GatewaySettings], Tampered]:
    return lambda settings: Tampered(Gateway(settings), change)


def without(kind: type, which: Callable[[Any], bool] = lambda output: True) -> Callable[[Output], Output | None]:
    return lambda output: None if isinstance(output, kind) and which(output) else output


def generous(**limits: float) -> Callable[[GatewaySettings], Gateway]:
    """A gateway that has other limits than its domain."""

    def make(settings: GatewaySettings) -> Gateway:
        more = replace(settings.domain.limits, **limits)
        return Gateway(replace(settings, domain=replace(settings.domain, limits=more)))

    return make


# Kernels


class OneHost(Plane):
    """Everything is delivered to the same host."""

    def install(self, state: HostState) -> list[int]:
        return super().install(replace(state, mac=bytes((6, 0, 0, 0, 0, 1))))


class OtherLink(Plane):
    """Everything is delivered to a link where nobody is."""

    def install(self, state: HostState) -> list[int]:
        return super().install(replace(state, interface="acc9"))


class Stubborn(Plane):
    """What is tunnelled to one gateway is never tunnelled to another."""

    def install(self, state: HostState) -> list[int]:
        before = self.states.get(state.host)
        kept = {e.prefix: e for e in before.entries if e.role is Role.EXPORTED} if before is not None else {}
        entries = tuple(kept.get(e.prefix, e) if e.role is Role.EXPORTED else e for e in state.entries)
        return super().install(replace(state, entries=entries))


class Keeping(Plane):
    """Whoever was served is served for ever."""

    def install(self, state: HostState) -> list[int]:
        before = self.states.get(state.host)
        here = (Role.ANCHORED, Role.IMPORTED)
        if before is not None and any(e.role in here for e in before.entries):
            return []
        return super().install(state)


class Without(Plane):
    """Entries of some roles are forgotten."""

    roles = (Role.ANCHORED, Role.IMPORTED)

    def install(self, state: HostState) -> list[int]:
        return super().install(replace(state, entries=tuple(e for e in state.entries if e.role not in self.roles)))


class WithoutImported(Without):
    roles = (Role.IMPORTED,)


class OneTable(Plane):
    """What comes out of a tunnel is looked up as if it had not, and no tunnel is ever taken down."""

    def takes_back(self, source: int | None) -> bool:
        return True

    def install(self, state: HostState) -> list[int]:
        before = self.states.get(state.host)
        if before is not None and any(e.role is Role.EXPORTED for e in before.entries):
            return []
        return super().install(state)


class Full(Plane):
    """Hosts that have left keep their routes."""

    def install(self, state: HostState) -> list[int]:
        return super().install(state) if state.entries else []


@pytest.mark.parametrize(
    ("seed", "plane", "what"),
    [
        (TWO_HOSTS, OneHost, "reaches another host"),
        (PROXY, Stubborn, "has had a tunnel to"),
        (PROXY, Stubborn, "has exported to"),
        (TWO_HOSTS, OtherLink, "is delivered, wanted: delivered by 0 tunnels"),
        (PROXY, OneTable, "loops"),
        (PROXY, Keeping, "and served by gw"),
        (PROXY, Without, "and served by nobody"),
        (PROXY, WithoutImported, "unbound, wanted: delivered by 1 tunnels"),
        (ANCHOR_KNOWN, WithoutImported, "which makes nothing of"),
        (PROXY, Full, "has forwarding of"),
    ],
)
def test_a_wrong_kernel_is_found(seed: int, plane: type[Plane], what: str) -> None:
    assert found(play(scenario(seed), plane=plane), what)


# Protocol objects


def too_long(output: Output) -> Output:
    if isinstance(output, Send) and isinstance(output.message, BindingUpdate):
        options = (*output.message.options, *[UnknownOption(200, bytes(250))] * 5)
        return replace(output, message=replace(output.message, options=options))
    return output


def for_ever(output: Output) -> Output:
    if isinstance(output, DirectoryPut):
        return replace(output, value={**(output.value or {}), "expires_wall_s": 1e12})
    return output


@pytest.mark.parametrize(
    ("seed", "change", "what"),
    [
        (PROXY, too_long, "sends a message of"),
        (PROXY, without(Persist, lambda output: output.value is None), "has in its journal session"),
        (PROXY, without(Heed), "ignores 06:"),
        (PROXY, without(Declare, lambda output: not output.state.entries), "has forwarding of"),
        (PROXY, without(Advertise), "has no preferred address"),
        (DIRECTORY, for_ever, "which has not run out"),
    ],
)
def test_a_gateway_that_does_something_else_is_found(
    seed: int, change: Callable[[Output], Output | None], what: str
) -> None:
    assert found(play(scenario(seed), gateway=tampered(change)), what)


def test_one_prefix_for_two_hosts_is_found() -> None:
    def make(settings: GatewaySettings) -> Gateway:
        return Gateway(replace(settings, me=replace(settings.me, pools=(IPv6Network("2001:db8:a1::/64"),))))

    made = scenario(79)
    two = replace(made, hosts=2, domain=replace(made.domain, limits=replace(made.domain.limits, hosts=2)))
    assert any("another at" in line for line in play(two, gateway=make).violations)


def test_an_exception_is_found_and_ends_only_its_seed() -> None:
    class Raising(Gateway):
        def handle(self, event: Input, now: Instant) -> list[Output]:
            if isinstance(event, MessageReceived):
                raise ValueError("a message")
            return super().handle(event, now)

    assert found(play(scenario(PROXY), gateway=Raising), "ValueError: a message in handle")


def test_what_grows_without_a_limit_and_is_left_over_is_found() -> None:
    class Leaking(Gateway):
        def __init__(self, settings: GatewaySettings) -> None:
            super().__init__(settings)
            self.met: list[Input] = []

        def handle(self, event: Input, now: Instant) -> list[Output]:
            self.met.append(event)
            return super().handle(event, now)

    outcome = play(scenario(PROXY), gateway=Leaking)
    assert found(outcome, "Leaking.met holds")
    assert found(outcome, "has met: ")


def test_a_cmd_that_forgets_to_forget_is_found() -> None:
    class Forgetful(Central):
        def _end(self, binding: Any, now: Instant) -> None:
            self._ends_soon(binding, now)

    assert found(play(scenario(PROXY), central=Forgetful), "cmd has _cache.by_key")


@pytest.mark.parametrize(
    ("seed", "limits", "what"),
    [
        (FEW_ANCHORS, {"anchors_per_host": 100}, "Session.anchors holds"),
        (HOSTILE, {"max_update_rate": 100}, "updates in a second"),
        (HOSTILE, {"updates_per_s": 1e9, "max_update_rate": 100}, "more updates than"),
        (FEW_ARRIVALS, {"attaches_per_s": 1e9, "attach_burst": 10**9}, "more arrivals than"),
    ],
)
def test_a_gateway_with_limits_of_its_own_is_found(seed: int, limits: dict[str, float], what: str) -> None:
    assert found(play(scenario(seed), gateway=generous(**limits)), what)


def test_a_cmd_that_takes_more_anchors_than_the_domain_allows_is_found() -> None:
    def make(settings: CentralSettings) -> Central:
        more = replace(settings.domain.limits, anchors_per_host=100)
        return Central(replace(settings, domain=replace(settings.domain, limits=more)))

    made = scenario(MANY_GATEWAYS)
    few = replace(made, domain=replace(made.domain, limits=replace(made.domain.limits, anchors_per_host=2)))
    assert not play(few).violations
    assert any("Binding.anchors holds" in line for line in play(few, central=make).violations)


PEER = IPv6Address("2001:db8:f1::1")
NODE = (MobileNodeIdentifier(MnIdSubtype.EUI48, bytes(6)),)


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        (BindingUpdate(0, 0, BindingUpdateFlag.PROXY, NODE), 9),  # end_tries, and one that is hurried
        (UpdateNotification(7, 1, NotificationFlag.ACKNOWLEDGE, NODE), 2),
        (BindingRevocationIndication(1, 7, RevocationFlag.PROXY, NODE), 2),
    ],
)
def test_what_is_said_again_and_again_is_found(message: Message, allowed: int) -> None:
    domain = replace(scenario(PROXY).domain, limits=Limits())
    pace = Pace(domain, {})
    said = [pace.sent(PEER, message, 10.0 * number) for number in range(allowed + 1)]
    assert said[:allowed] == [None] * allowed and said[allowed] is not None
