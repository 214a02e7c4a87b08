"""Is a host still there? Whom to ask, and what tells of it besides an answer (RFC 5213 section 6.13)."""

from __future__ import annotations

from ipaddress import IPv6Address

from domain import CENTRAL, Domain
from test_direct import address_in, prefix_at
from test_idle import stays
from test_roaming import MAC, updates

from anchord.protocol.clues import GLANCE_FRAMES

LINK_LOCAL = IPv6Address("fe80::1234")


def asked(domain: Domain, seconds: float = 305.0) -> list[IPv6Address]:
    """Addresses that were asked for before the next refresh."""
    domain.probes.clear()
    domain.pass_time(seconds)
    return [probe.target for _, probe in domain.probes]


def test_row_118_a_host_is_asked_at_its_link_local_address_and_at_the_last_other_in_turn() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=LINK_LOCAL)
    used = address_in(domain, 1)
    domain.host_at(1, MAC, address=used, solicited=True)
    assert asked(domain) == [LINK_LOCAL, used, LINK_LOCAL]


def test_row_118_a_host_is_not_asked_for_an_address_that_it_has_forgotten() -> None:
    """The last that it used was of an anchor that was given up since."""
    domain = Domain()
    domain.host_at(1, MAC)
    old = address_in(domain, 1)
    domain.host_at(2, MAC, address=LINK_LOCAL)
    for used in (address_in(domain, 2), old):
        domain.host_at(2, MAC, address=used, solicited=True)
    assert asked(domain) == [LINK_LOCAL, address_in(domain, 2), old]
    domain.used = lambda prefix: prefix != prefix_at(domain, 1)
    stays(domain, 2, 320)
    stays(domain, 2, domain.settings.lifetimes.valid_s)
    assert set(asked(domain)) == {LINK_LOCAL, address_in(domain, 2)}


def test_row_118_an_address_that_it_may_have_forgotten_takes_the_place_of_none_that_it_has() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    held = address_in(domain, 1)
    domain.host_at(2, MAC, reassociated=True)
    for used in (held, IPv6Address("2001:db8:a3:bdf9::1")):
        domain.host_at(2, MAC, address=used, solicited=True)
    assert asked(domain) == [held] * 3


def test_row_118_a_host_that_has_shown_no_address_is_asked_for_the_one_of_its_mac_address() -> None:
    domain = Domain()
    domain.host_at(1, MAC, reassociated=True)
    assert asked(domain) == [IPv6Address("fe80::55:aaff:fe00:1")] * 3


def test_row_118_the_data_of_a_host_that_does_not_answer_tells_that_it_is_there() -> None:
    domain = Domain()
    domain.host_at(1, MAC, reassociated=True)
    kept_away = ("acc0", MAC)
    assert kept_away in domain.ignored[domain.address(1)]
    domain.pass_time(2.5)
    for _ in range(GLANCE_FRAMES):
        domain.host_at(1, MAC)
    assert kept_away in domain.ignored[domain.address(1)]
    domain.pass_time(299.5)
    assert kept_away in domain.ignored[domain.address(1)], "it may still answer"
    domain.pass_time(3.0)
    assert kept_away not in domain.ignored[domain.address(1)]
    domain.sent.clear()
    domain.host_at(1, MAC)
    assert [update.lifetime_s for update in updates(domain, domain.address(1), CENTRAL)] == [600]
    assert kept_away in domain.ignored[domain.address(1)]
    domain.pass_time(400.0)
    assert domain.gw[1].sessions


def test_row_118_after_a_restart_the_host_is_asked_for_the_same_addresses() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=LINK_LOCAL)
    used = address_in(domain, 1)
    domain.host_at(1, MAC, address=used, solicited=True)
    domain.pass_time(1.0)
    domain.restart(domain.address(1))
    assert asked(domain, 5.0) == [LINK_LOCAL, used, LINK_LOCAL]
