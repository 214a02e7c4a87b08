"""Prefixes that nobody uses are given up, here and there; what a host must forget is answered until it has."""

from __future__ import annotations

from ipaddress import IPv6Network

from domain import Domain, domain_settings
from test_direct import MAC, alone, anchors, prefix_at, roles

from anchord.declared import Role
from anchord.protocol.outputs import Advertise
from anchord.protocol.session import Phase

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
