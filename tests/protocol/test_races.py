"""Orders of events that are rare, and what must hold afterwards all the same."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from test_direct import MAC, address_in, alone, anchors, prefix_at, roles, sent
from test_idle import advertised, stays

from anchord.declared import Role
from anchord.protocol.anchoring import refusal
from anchord.protocol.inputs import HostSeen, MessageReceived
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import DomainSettings, Finding, Limits, Mode
from anchord.wire.messages import BindingRevocationIndication, BindingUpdate, Status, UpdateNotification

OTHERS = [bytes.fromhex(f"0255aa0000{number:02x}") for number in range(2, 5)]


def session_at(domain: Domain, number: int) -> Session:
    (session,) = domain.gw[number].sessions.values()
    return session


def announce_again(domain: Domain, number: int) -> None:
    """An access point announces the host where it is believed to be already."""
    domain._at(domain.now.monotonic_s + 0.002)
    domain.feed(domain.address(number), HostSeen("acc0", MAC, reassociated=True))


def two_prefixes_each(settings: DomainSettings) -> DomainSettings:
    """Pools so small that a prefix given up too early is given out again at once."""
    gateways = {
        address: replace(info, pools=(IPv6Network(f"2001:db8:a{number}::/63"),))
        for number, (address, info) in enumerate(settings.gateways.items(), 1)
    }
    return replace(settings, gateways=gateways)


def test_what_a_host_must_forget_is_forgotten_after_a_restart_too() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    old = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != old
    stays(domain, 2, 320)
    assert roles(domain, 2)[old] == (Role.RELEASED, None)
    domain.restart(domain.address(2))
    assert roles(domain, 2)[old] == (Role.RELEASED, None)
    stays(domain, 2, domain.settings.lifetimes.valid_s)
    assert set(roles(domain, 2)) == {prefix_at(domain, 2)}


def test_a_host_heard_again_before_the_news_that_it_was_elsewhere_stays_where_it_is() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(5.0)
    domain.host_at(2, MAC, settle=False)
    announce_again(domain, 1)
    domain.settle()
    domain.pass_time(3.0)
    assert [session_at(domain, number).phase for number in (1, 2)] == [Phase.SERVING, Phase.AWAY]
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(1)


def test_the_same_without_anything_central() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.pass_time(5.0)
    domain.host_at(2, MAC, settle=False)
    announce_again(domain, 1)
    domain.settle()
    domain.pass_time(3.0)
    assert [session_at(domain, number).phase for number in (1, 2)] == [Phase.SERVING, Phase.AWAY]


@pytest.mark.parametrize("finding", [Finding.ANCHOR_KNOWN, Finding.DIRECTORY])
def test_an_anchor_that_refused_for_the_order_of_two_clocks_is_asked_again(finding: Finding) -> None:
    domain = Domain(3, domain_settings(3, central=None, finding=finding), {})
    domain.host_at(1, MAC)
    domain.pass_time(5.0)
    address = address_in(domain, 1)
    domain.skew[domain.address(2)] = 0.2
    domain.host_at(2, MAC, address=address)
    domain.pass_time(0.05)
    domain.host_at(3, MAC, address=address)
    domain.pass_time(0.3)
    stays(domain, 3, 60, address=address)
    assert domain.address(1) in anchors(domain, 3)
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(3))}


def test_an_anchor_that_was_short_of_resources_for_a_moment_is_asked_again() -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    address = address_in(domain, 1)
    domain.lose = lambda sender, send: send.destination == domain.address(1)
    domain.host_at(2, MAC, address=address)
    (asked,) = sent(domain, 2, 1, BindingUpdate)
    assert isinstance(asked, BindingUpdate)
    refused = refusal(asked, Status.INSUFFICIENT_RESOURCES, domain.now)
    domain.feed(domain.address(2), MessageReceived(domain.address(1), refused))
    assert anchors(domain, 2) == set()
    domain.lose = lambda sender, send: False
    domain.pass_time(2.0)
    assert anchors(domain, 2) == {domain.address(1)}


def test_an_idle_release_that_was_asked_of_an_earlier_gateway_does_not_end_a_prefix_in_use() -> None:
    domain = alone(neighbours={2: (1,), 3: (1,)})
    domain.host_at(1, MAC)
    domain.pass_time(5.0)
    address = address_in(domain, 1)
    domain.host_at(2, MAC, address=address)
    domain.used = lambda prefix: False
    domain.lose = lambda sender, send: (
        (sender, send.destination) == (domain.address(1), domain.address(2)) and isinstance(send.message, BindingUpdate)
    )
    stays(domain, 2, 310, address=address)
    domain.host_at(3, MAC, address=address)
    domain.used = lambda prefix: True
    domain.pass_time(5.0)
    domain.host_at(2, MAC, address=address)
    domain.lose = lambda sender, send: False
    stays(domain, 2, 60, address=address)
    assert domain.address(1) in anchors(domain, 2)
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(2))}


def test_a_prefix_rests_until_the_last_lifetime_that_anybody_advertised_has_run_out() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    old = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != old
    domain.lose = lambda sender, send: isinstance(send.message, UpdateNotification)
    until = 0.0
    last_advertised = domain.now.wall_s
    for _ in range(70):
        before = len(advertised(domain, old))
        stays(domain, 2, 20)
        if any(valid for _, valid, _ in advertised(domain, old)[before:]):
            last_advertised = domain.now.wall_s
        until = until or domain.gw[1].resting().get(old, 0.0)
    assert until >= last_advertised - 20 + domain.settings.lifetimes.valid_s


def test_row_111_a_question_about_a_host_that_has_gone_is_not_repeated_for_ever() -> None:
    domain = alone(3, neighbours={2: (3,)})
    domain.lose = lambda sender, send: domain.address(3) in (sender, send.destination)
    domain.host_at(2, MAC)
    domain.pass_time(40.0)
    domain.lose = lambda sender, send: False
    domain.host_at(3, MAC)
    domain.pass_time(120.0)
    assert session_at(domain, 3).phase is Phase.SERVING


def test_a_revocation_that_ends_a_session_while_answers_are_gathered_ends_the_gathering() -> None:
    domain = Domain(3, domain_settings(3, mode=Mode.RELAY))
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(5.0)
    domain.lose = lambda sender, send: isinstance(send.message, BindingRevocationIndication)
    _, outputs = domain.central.revoke(MAC.hex(":"), domain.now)
    domain.perform(CENTRAL, outputs)
    domain.settle()
    domain.pass_time(0.9)
    domain.lose = lambda sender, send: send.destination == domain.address(1)
    domain.host_at(2, MAC, reassociated=True)
    domain.pass_time(30.0)
    domain.host_at(3, OTHERS[0])
    assert domain.gw[3].sessions


def test_a_gateway_whose_clock_was_wrong_for_a_moment_serves_a_host_that_has_come_back() -> None:
    domain = Domain(3, domain_settings(3, serve_unregistered=False))
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(5.0)
    domain.skew[domain.address(1)] = 1.0
    domain.host_at(1, MAC)
    domain.pass_time(2.0)
    domain.skew.clear()
    for _ in range(5):
        domain.pass_time(10.0)
        domain.host_at(1, MAC, solicited=True)
    assert session_at(domain, 1).phase is Phase.SERVING


def test_one_refusal_of_a_refresh_for_a_wrong_clock_does_not_end_the_session() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    address = address_in(domain, 1)
    prefix = prefix_at(domain, 1)
    stays(domain, 1, 290, address=address)
    domain.skew[domain.address(1)] = 0.5
    domain.pass_time(15.0)
    domain.skew.clear()
    stays(domain, 1, 400, address=address)
    assert prefix_at(domain, 1) == prefix and session_at(domain, 1).registered


def test_in_locator_mode_too_a_host_is_not_shown_more_prefixes_than_it_may_have() -> None:
    domain = Domain(4, domain_settings(4, mode=Mode.LOCATOR, limits=Limits(anchors_per_host=2)))
    for number in range(1, 5):
        domain.host_at(number, MAC)
        domain.pass_time(0.5)
    shown = {p.prefix for _, order in domain.shown for p in order.prefixes if p.valid_s}
    assert len(shown) == 2


def test_an_anchor_that_gave_a_host_two_prefixes_in_a_row_hands_over_the_one_it_holds() -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    address = address_in(domain, 1)
    domain.host_at(2, MAC, address=address)
    first = prefix_at(domain, 2)
    domain.host_at(3, MAC, address=address)
    domain.used = lambda prefix: prefix != first
    stays(domain, 3, 310, address=address)
    assert not domain.gw[2].sessions
    domain.host_at(2, MAC, address=address)
    domain.pass_time(1.0)
    second = prefix_at(domain, 2)
    assert second != first
    domain.host_at(4, MAC, address=address)
    domain.pass_time(3.0)
    assert roles(domain, 4)[second] == (Role.IMPORTED, domain.address(2))


@pytest.mark.parametrize("central", [True, False], ids=["CMD dead", "partitioned from its anchor"])
def test_no_prefix_reaches_two_hosts_however_long_an_outage_lasts(central: bool) -> None:
    if central:
        domain = Domain(3, two_prefixes_each(domain_settings(3)))
    else:
        settings = domain_settings(3, central=None, finding=Finding.ANCHOR_KNOWN)
        domain = Domain(3, two_prefixes_each(settings), {})
    domain.host_at(1, MAC)
    address = address_in(domain, 1)
    domain.host_at(2, MAC, address=address)
    domain.pass_time(2.0)
    first, second = domain.address(1), domain.address(2)
    if central:
        domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    else:
        domain.lose = lambda sender, send: {sender, send.destination} == {first, second}
    stays(domain, 2, 3000, address=address)
    for mac in OTHERS:
        domain.host_at(1, mac)
        domain.pass_time(1.0)
    given = {s.prefix for s in domain.gw[1].sessions.values() if s.mac != MAC}
    imported = {prefix for prefix, (role, _) in roles(domain, 2).items() if role is Role.IMPORTED}
    assert not given & imported
    if central:
        assert imported, "while the CMD is dead, its old connections live"
