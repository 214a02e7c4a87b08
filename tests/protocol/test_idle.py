"""Prefixes that nobody uses are given up, here and there; what a host must forget is answered until it has."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Network

import pytest
from domain import Domain, domain_settings
from test_direct import MAC, alone, anchors, prefix_at, roles

from anchord.declared import Role
from anchord.protocol.outputs import Advertise
from anchord.protocol.session import Phase
from anchord.protocol.settings import Finding, Mode

HOUR_S = 3600.0


def stays(domain: Domain, number: int, seconds: float, **seen: object) -> None:
    """Time passes, and the host is heard at its gateway now and then; ``seen``: what its frames tell besides."""
    for _ in range(int(seconds / 10)):
        domain.pass_time(10.0)
        domain.host_at(number, MAC, solicited=True, **seen)


def advertised(domain: Domain, prefix: IPv6Network) -> list[tuple[int, int, int]]:
    """Router lifetime, valid and preferred lifetime of every advertisement of a prefix."""
    return [
        (order.router_lifetime_s, p.valid_s, p.preferred_s)
        for _, order in domain.shown
        if isinstance(order, Advertise)
        for p in order.prefixes
        if p.prefix == prefix
    ]


def test_row_117_decision_18_an_idle_prefix_is_given_up_withdrawn_at_the_host_and_rests() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    old = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != old
    stays(domain, 2, 320)
    assert not domain.gw[1].sessions and old in domain.gw[1].resting()
    assert anchors(domain, 2) == set()
    assert advertised(domain, old)[-1] == (0, 0, 0)
    assert roles(domain, 2)[old] == (Role.RELEASED, None)
    assert domain.declared[domain.address(1)] == {} or not any(
        state.entries for state in domain.declared[domain.address(1)].values()
    )


def test_what_the_host_still_uses_of_it_is_answered_until_its_address_has_run_out() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    old = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != old
    stays(domain, 2, 320)
    assert roles(domain, 2)[old] == (Role.RELEASED, None)
    stays(domain, 2, domain.settings.lifetimes.valid_s)
    assert set(roles(domain, 2)) == {prefix_at(domain, 2)}


def test_a_prefix_that_is_used_stays() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    stays(domain, 2, HOUR_S)
    assert roles(domain, 2)[prefix_at(domain, 1)] == (Role.IMPORTED, domain.address(1))


def test_an_anchor_that_lost_the_cmd_as_well_lets_go_in_the_end() -> None:
    """Decision 19: the dead-man timer."""
    settings = domain_settings(2)
    domain = Domain(2, settings)
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    assert next(iter(domain.gw[1].sessions.values())).phase is Phase.AWAY
    domain.lose = lambda sender, send: True
    domain.pass_time(settings.lifetimes.binding_s * settings.timing.dead_man_lifetimes + 1)
    assert not domain.gw[1].sessions


# What was given up, and who tells the node of it


IDLE_S = 310.0


def central_in(mode: Mode) -> Callable[[], Domain]:
    return lambda: Domain(4, domain_settings(4, mode=mode))


def with_directory() -> Domain:
    return Domain(4, domain_settings(4, finding=Finding.DIRECTORY, central=None))


WAYS = {
    "proxy": central_in(Mode.PROXY),
    "relay": central_in(Mode.RELAY),
    "locator": central_in(Mode.LOCATOR),
    "directory": with_directory,
    "anchor-known": alone,
}


def given_up_at_gw2(way: str) -> tuple[Domain, IPv6Network]:
    """A host that has lost the prefix of gw1 while it was at gw2."""
    domain = WAYS[way]()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    old = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != old
    stays(domain, 2, IDLE_S)
    assert roles(domain, 2)[old] == (Role.RELEASED, None)
    return domain, old


@pytest.mark.parametrize("way", WAYS)
def test_what_was_given_up_is_answered_after_further_moves_too(way: str) -> None:
    domain, old = given_up_at_gw2(way)
    for number in (3, 4):
        domain.host_at(number, MAC)
        domain.pass_time(1.0)
        assert roles(domain, number)[old] == (Role.RELEASED, None), f"gw{number}"
    stays(domain, 4, domain.settings.lifetimes.valid_s)
    assert old not in roles(domain, 4), "the host has forgotten it by now"


@pytest.mark.parametrize("way", WAYS)
def test_what_was_given_up_is_answered_at_its_own_anchor_too(way: str) -> None:
    domain, old = given_up_at_gw2(way)
    domain.restart(domain.address(1))
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    assert roles(domain, 1)[old] == (Role.RELEASED, None)
    assert prefix_at(domain, 1) != old, "it is resting"
    until = domain.gw[1].resting()[old]
    stays(domain, 1, until - domain.now.wall_s + 10.0)
    assert old not in roles(domain, 1)


def test_what_one_host_lost_is_not_held_against_another() -> None:
    domain, old = given_up_at_gw2("anchor-known")
    other = bytes.fromhex("0255aa000002")
    domain.host_at(1, other)
    domain.host_at(1, MAC)
    states = domain.declared[domain.address(1)]
    lost = {key: [e.prefix for e in state.entries if e.role is Role.RELEASED] for key, state in states.items()}
    assert sorted(lost.values()) == [[], [old]]


def test_what_a_host_sends_from_has_nobody_told_that_it_was_given_up() -> None:
    """The prefix of another host, in the source of a packet: the anchor says no, and that is all."""
    domain = alone(neighbours={})
    other = bytes.fromhex("0255aa000002")
    domain.host_at(1, other)
    held = prefix_at(domain, 1)
    domain.host_at(2, MAC, address=held.network_address + 1)
    assert set(roles(domain, 2)) == {prefix_at(domain, 2)}
    domain.host_at(2, other, address=held.network_address + 1)
    (victim,) = (s for s in domain.declared[domain.address(2)].values() if s.mac == other)
    assert held in {entry.prefix for entry in victim.entries if entry.role is Role.IMPORTED}


def test_an_anchor_is_asked_once_more_for_what_others_say_when_it_holds_not_what_the_host_used() -> None:
    domain = alone(neighbours={1: (2,), 2: (1,), 3: (2,)})
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    old = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != old
    stays(domain, 2, IDLE_S)
    domain.used = lambda prefix: True
    domain.host_at(1, MAC)
    new = prefix_at(domain, 1)
    domain.host_at(2, MAC)
    assert new != old and roles(domain, 2)[new] == (Role.IMPORTED, domain.address(1))
    domain.host_at(3, MAC, address=old.network_address + 1)
    domain.host_at(3, MAC, address=prefix_at(domain, 2).network_address + 1)
    domain.pass_time(1.0)
    assert roles(domain, 3)[new] == (Role.IMPORTED, domain.address(1))
    assert roles(domain, 3)[old] == (Role.RELEASED, None)


def test_to_hear_of_it_before_the_kernel_has_answered_keeps_no_host_waiting_for_its_routers() -> None:
    domain, old = given_up_at_gw2("proxy")
    domain.hold_kernel = True
    domain.host_at(3, MAC)
    (state,) = domain.declared[domain.address(3)].values()
    assert old in {entry.prefix for entry in state.entries}, "the CMD has told, the kernel has not done anything"
    domain.hold_kernel = False
    domain.settle()
    assert advertised(domain, prefix_at(domain, 3))
