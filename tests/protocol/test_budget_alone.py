"""Decision 18 a where nobody central counts: seven prefixes a host, oldest first, and always one that works."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from domain import Domain, domain_settings
from hypothesis import given
from hypothesis import strategies as st
from test_budget import Host, led_astray, works
from test_direct import prefix_at
from test_idle import advertised, stays

from anchord.declared import Role
from anchord.protocol.session import Phase
from anchord.protocol.settings import Finding, Limits
from anchord.wire.messages import BindingUpdate
from anchord.wire.options import AnchoredPrefix

MAC = bytes.fromhex("0255aa000001")
GATEWAYS = 10
FINDERS = pytest.mark.parametrize("finding", [Finding.ANCHOR_KNOWN, Finding.DIRECTORY], ids=lambda f: f.value)


def domain_of(finding: Finding, limit: int = 7) -> Domain:
    settings = domain_settings(GATEWAYS, central=None, finding=finding, limits=Limits(anchors_per_host=limit))
    ring = {number: ((number - 2) % GATEWAYS + 1,) for number in range(1, GATEWAYS + 1)}
    return Domain(settings=settings, neighbours=ring)


class Roaming:
    """A host that uses its preferred address, and what it makes of what it is told."""

    def __init__(self, domain: Domain) -> None:
        self.domain, self.host = domain, Host(domain)

    def to(self, number: int) -> IPv6Network:
        """It moves; the prefix that it prefers there."""
        used = self.host.preferred()
        address = {"address": used[0].network_address + 0xABCD} if used else {}
        self.domain.host_at(number, MAC, reassociated=True, **address)
        self.domain.pass_time(0.5)
        self.host.read()
        return self.preferred(number)

    def preferred(self, number: int) -> IPv6Network:
        """The one preferred prefix, which works."""
        (preferred,) = self.host.preferred()
        assert works(self.domain, number, preferred)
        assert not led_astray(self.domain, number, self.host)
        return preferred

    def stay(self, number: int, seconds: float) -> None:
        """It stays where it is, and sends something now and then."""
        stays(self.domain, number, seconds)
        self.host.read()


def number_of(prefix: IPv6Network) -> int:
    return int(str(prefix).split(":")[2][1:], 16)


@FINDERS
def test_ten_gateways_in_two_minutes_always_one_preferred_address_that_works_and_seven_at_most(
    finding: Finding,
) -> None:
    domain = domain_of(finding)
    roaming = Roaming(domain)
    for number in range(1, GATEWAYS + 1):
        assert number_of(roaming.to(number)) == min(number, 7)
        assert len(roaming.host.valid()) == min(number, 7)
        domain.pass_time(11.5)
    (session,) = domain.gw[10].sessions.values()
    assert [anchor.maar for anchor in session.anchors] == [domain.address(number) for number in range(1, 8)]
    assert not domain.gw[8].sessions and not domain.gw[9].sessions, "the host has never had anything of theirs"


@FINDERS
def test_the_oldest_runs_out_and_makes_room_for_the_new_one(finding: Finding) -> None:
    domain = domain_of(finding)
    roaming = Roaming(domain)
    for number in range(1, 9):
        roaming.to(number)
        domain.pass_time(5.0)
    oldest = prefix_at(domain, 1)
    lifetimes = []
    for _ in range(12):
        roaming.stay(8, 100)
        assert len(roaming.host.valid()) <= 7
        newest = roaming.preferred(8)
        if oldest in roaming.host.valid():
            lifetimes.append(advertised(domain, oldest)[-1])
    assert all(preferred == 0 for _, _, preferred in lifetimes)
    valid = [valid_s for _, valid_s, _ in lifetimes]
    assert valid == sorted(valid, reverse=True) and 0 <= valid[-1] < valid[0] <= 600, "left to run out"
    assert not domain.gw[1].sessions and domain.gw[2].sessions
    assert number_of(newest) == 8


@FINDERS
def test_the_preferred_one_is_not_given_up_for_want_of_use(finding: Finding) -> None:
    domain = domain_of(finding)
    roaming = Roaming(domain)
    for number in range(1, 9):
        roaming.to(number)
        domain.pass_time(5.0)
    domain.used = lambda prefix: False
    roaming.stay(8, 320)
    assert domain.gw[7].sessions and not domain.gw[3].sessions
    assert number_of(roaming.preferred(8)) == 7


def test_what_was_given_up_is_counted_by_the_next_gateway_that_reads_it_in_the_directory() -> None:
    domain = domain_of(Finding.DIRECTORY, limit=4)
    roaming = Roaming(domain)
    for number in (1, 2, 3):
        roaming.to(number)
        domain.pass_time(5.0)
    domain.used = lambda prefix: False
    roaming.stay(3, 320)
    assert not domain.gw[1].sessions and not domain.gw[2].sessions
    for number in (4, 5, 6):
        roaming.to(number)
        assert len(roaming.host.valid()) <= 4
        (state,) = domain.declared[domain.address(number)].values()
        assert sum(entry.role is Role.RELEASED for entry in state.entries) == 2, "their packets are answered"


@FINDERS
def test_where_no_anchor_answers_the_new_prefix_is_given_whatever_the_budget(finding: Finding) -> None:
    domain = domain_of(finding, limit=1)
    roaming = Roaming(domain)
    roaming.to(1)
    domain.pass_time(5.0)
    domain.lose = lambda sender, send: True
    domain.host_at(2, MAC, reassociated=True, address=prefix_at(domain, 1).network_address + 0xABCD)
    domain.pass_time(1.0)
    roaming.host.read()
    assert number_of(roaming.host.preferred()[-1]) == 2


def test_row_38_anchors_are_told_what_the_host_holds_in_the_order_it_got_it() -> None:
    domain = domain_of(Finding.ANCHOR_KNOWN)
    roaming = Roaming(domain)
    for number in (3, 1, 2, 4):
        roaming.to(number)
        domain.pass_time(5.0)
    roaming.stay(4, 400)
    pair = (domain.address(4), domain.address(1))
    messages = [send.message for sender, send in domain.sent if (sender, send.destination) == pair]
    told = [message for message in messages if isinstance(message, BindingUpdate)][-1]
    assert [number_of(option.prefix) for option in told.all(AnchoredPrefix)] == [3, 1, 2, 4]
    (session,) = domain.gw[1].sessions.values()
    assert [number_of(prefix) for prefix in session.others] == [3, 2, 4] and session.older == 1


@FINDERS
def test_a_host_that_comes_back_to_where_it_had_nothing_is_served_like_anybody(finding: Finding) -> None:
    domain = domain_of(finding, limit=2)
    roaming = Roaming(domain)
    for number in (1, 2, 3, 4, 3, 2, 1, 3):
        roaming.to(number)
        domain.pass_time(5.0)
        assert len(roaming.host.valid()) <= 2
        assert [s.phase for s in domain.gw[number].sessions.values()] == [Phase.SERVING]


@FINDERS
@given(st.lists(st.tuples(st.integers(1, GATEWAYS), st.sampled_from([1.0, 5.0, 30.0, 200.0])), max_size=30))
def test_however_a_host_roams_it_has_a_preferred_address_that_works(
    finding: Finding, steps: list[tuple[int, float]]
) -> None:
    domain = domain_of(finding, limit=4)
    roaming = Roaming(domain)
    for number, stay_s in steps:
        roaming.to(number)
        roaming.stay(number, stay_s)
        assert len(roaming.host.valid()) <= 4
        roaming.preferred(number)
        serving = [n for n in domain.gw for s in domain.gw[n].sessions.values() if s.phase is Phase.SERVING]
        assert serving == [number]
