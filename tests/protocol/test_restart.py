"""kill -9 and a new process with the same journal, or without."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from hypothesis import given
from hypothesis import strategies as st
from test_life import HOST
from test_roaming import MAC, OTHER, acks, entries, roles, updates

from anchord.declared import Role
from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.identity import mn_id_of_mac, session_key
from anchord.protocol.inputs import LeaseLeft
from anchord.protocol.session import Phase
from anchord.protocol.settings import CentralSettings, Finding, GatewaySettings, Limits, Mode
from anchord.wire.messages import BindingUpdate, Status
from anchord.wire.options import Timestamp


def test_decision_32_after_a_restart_of_the_cmd_the_next_handover_finds_every_anchor() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.restart(CENTRAL)
    domain.host_at(3, MAC)
    assert set(roles(domain, 3)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3"}
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}


def started_anew_without_the_pool_of(domain: Domain, loser: int, there: bool) -> IPv6Address:
    """Every domain file gives that gateway another pool (``there``) or knows it no more, and everybody is restarted."""
    gateways = dict(domain.settings.gateways)
    changed = gateways.pop(domain.address(loser))
    if there:
        gateways[changed.address] = replace(changed, pools=(IPv6Network("2001:db8:ee::/48"),))
    del domain.nodes[changed.address]
    domain.settings = replace(domain.settings, gateways=gateways)
    domain.central = domain.nodes[CENTRAL] = Central(CentralSettings(domain.settings))
    for number in domain.gw:
        address = domain.address(number)
        if address in gateways:
            domain.gw[number] = domain.nodes[address] = Gateway(GatewaySettings(gateways[address], domain.settings))
    domain.sent.clear()
    for address in list(domain.nodes):
        domain.declared[address] = {}
        journal = {table: dict(rows) for table, rows in domain.journal[address].items()}
        domain.perform(address, domain.nodes[address].restore(journal, domain.now))
    domain.settle()
    return changed.address


another_pool_or_gone = pytest.mark.parametrize("there", [True, False], ids=["another pool", "gone"])


@another_pool_or_gone
def test_row_138_no_binding_outlives_the_pool_that_its_prefix_is_of(there: bool) -> None:
    domain = Domain()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    first = started_anew_without_the_pool_of(domain, 1, there)
    (binding,) = domain.central.bindings.values()
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(2)]
    domain.host_at(3, MAC, solicited=True, reassociated=True)
    domain.pass_time(2.0)
    assert set(roles(domain, 3)) == {"2001:db8:a2", "2001:db8:a3"}
    assert updates(domain, CENTRAL, first) == []
    assert not there or (not domain.gw[1].sessions and roles(domain, 1) == {})


@another_pool_or_gone
def test_row_138_a_session_whose_serving_gateway_lost_its_pool_ends_and_every_anchor_hears_of_it(there: bool) -> None:
    domain = Domain()
    for number in (1, 2):
        domain.host_at(number, MAC)
    started_anew_without_the_pool_of(domain, 2, there)
    domain.pass_time(11.0)  # MinDelayBeforeBCEDelete
    assert not domain.central.bindings and not domain.gw[1].sessions
    assert domain.journal[CENTRAL]["binding"] == {}


@another_pool_or_gone
def test_row_138_the_host_of_a_gateway_that_lost_its_pool_keeps_its_anchors_where_it_goes_on(there: bool) -> None:
    domain = Domain()
    for number in (1, 2):
        domain.host_at(number, MAC)
    lost = started_anew_without_the_pool_of(domain, 2, there)
    domain.pass_time(2.0)
    domain.host_at(3, MAC)
    domain.pass_time(20.0)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(3) and binding.anchor(domain.address(1)) is not None
    assert binding.anchor(lost) is None
    assert set(roles(domain, 3)) == {"2001:db8:a1", "2001:db8:a3"}


def test_decision_26_a_cmd_that_lost_its_store_learns_the_anchors_from_a_refresh() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.journal[CENTRAL].clear()
    domain.restart(CENTRAL)
    domain.pass_time(290.0)
    domain.host_at(2, MAC, solicited=True)
    domain.pass_time(15.0)
    (binding,) = domain.central.bindings.values()
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(1)]


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_decision_26_a_cmd_without_its_store_takes_nothing_from_a_host_that_holds_all_it_may(mode: Mode) -> None:
    domain = Domain(settings=domain_settings(8, mode=mode))
    for number in range(1, 9):
        domain.host_at(number, MAC)
        domain.pass_time(2.0)
    before = roles(domain, 8)
    domain.journal[CENTRAL].clear()
    domain.restart(CENTRAL)
    domain.pass_time(280.0)
    domain.host_at(8, MAC, solicited=True)
    domain.pass_time(25.0)
    (binding,) = domain.central.bindings.values()
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(number) for number in range(2, 8)]
    assert {entry for entry in roles(domain, 8).items() if entry[1][0] is Role.IMPORTED} == {
        entry for entry in before.items() if entry[1][0] is Role.IMPORTED
    }


def what_lasts(domain: Domain) -> list[tuple[object, ...]]:
    """All of the CMD's sessions that has to outlive it."""
    return [
        (b.key, b.serving, b.anchors, b.ticks, b.sequence, b.expires_wall_s, b.ending, b.withheld, b.released)
        for b in domain.central.bindings.values()
    ]


def test_what_a_refresh_has_promised_survives_a_restart_of_the_cmd() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    whole = dict(domain.journal[CENTRAL]["binding"])
    domain.pass_time(290.0)
    domain.host_at(2, MAC, solicited=True)
    domain.pass_time(15.0)
    assert domain.journal[CENTRAL]["binding"] == whole, "only the times are kept"
    before = what_lasts(domain)
    domain.restart(CENTRAL)
    assert what_lasts(domain) == before
    # Later the whole is kept again: the times of before say nothing any more.
    domain.host_at(3, MAC)
    before = what_lasts(domain)
    domain.restart(CENTRAL)
    assert what_lasts(domain) == before
    # The session ends, and nothing of it is left.
    domain.lose = lambda sender, send: sender == domain.address(3)
    domain.pass_time(700.0)
    assert not domain.central.bindings
    assert not domain.journal[CENTRAL]["binding"] and not domain.journal[CENTRAL]["refreshed"]


def test_a_refresh_by_which_something_else_changes_is_kept_whole() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    (held,) = domain.journal[CENTRAL]["binding"].values()
    domain.pass_time(590.0)  # nothing is heard of the host
    domain.pass_time(15.0)
    (ending,) = domain.journal[CENTRAL]["binding"].values()
    assert not held["ending"] and ending["ending"]
    domain.host_at(1, MAC, solicited=True)
    before = what_lasts(domain)
    domain.restart(CENTRAL)
    assert what_lasts(domain) == before


def test_a_restarted_gateway_declares_what_was_true_and_asks_nobody_for_it() -> None:
    domain = Domain()
    for number in (1, 2):
        domain.host_at(number, MAC)
    domain.pass_time(0.01)  # what nobody waits for is journalled a moment later
    before = {number: entries(domain, number) for number in (1, 2)}
    domain.sent.clear()
    for number in (1, 2):
        domain.restart(domain.address(number))
    assert {number: entries(domain, number) for number in (1, 2)} == before
    assert not domain.sent


def test_the_first_frame_after_a_restart_tells_that_the_host_is_there_and_is_the_last_to_be_reported() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(0.01)
    domain.restart(domain.address(1))
    assert domain.ignored[domain.address(1)] == set()
    domain.sent.clear()
    domain.host_at(1, MAC)
    assert domain.ignored[domain.address(1)] == {("acc0", MAC)}
    assert not domain.sent, "it is no news"


def test_a_host_that_is_silent_at_a_restart_is_asked_at_the_address_it_had() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(0.01)
    domain.restart(domain.address(1))
    domain.pass_time(400.0)
    assert {probe.target for _, probe in domain.probes} == {HOST}


def test_a_restarted_gateway_goes_on_with_the_next_sequence_number() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    (first,) = updates(domain, domain.address(1), CENTRAL)
    domain.restart(domain.address(1))
    domain.host_at(2, MAC)
    domain.host_at(1, MAC)
    assert updates(domain, domain.address(1), CENTRAL)[-1].sequence > first.sequence


def test_a_restarted_gateway_uses_no_number_of_before_again() -> None:
    domain = Domain()
    for number in range(1, 7):
        domain.host_at(1, bytes((2, 0, 0, 0, 1, number)))
    used = {update.sequence for update in updates(domain, domain.address(1), CENTRAL)}
    assert len(used) == 6
    domain.restart(domain.address(1))
    domain.sent.clear()
    domain.host_at(1, MAC)
    assert used.isdisjoint({update.sequence for update in updates(domain, domain.address(1), CENTRAL)})
    assert updates(domain, domain.address(1), CENTRAL)


def test_decision_31_an_anchor_that_lost_its_journal_believes_the_cmd() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.journal[domain.address(1)].clear()
    domain.restart(domain.address(1))
    assert not domain.gw[1].sessions
    domain.host_at(3, MAC)
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}
    assert acks(domain, domain.address(1), CENTRAL)[-1].status == 0


def without_central(finding: Finding, pool: str = "2001:db8:a1::/48") -> Domain:
    settings = domain_settings(3, central=None, finding=finding)
    first = replace(next(iter(settings.gateways.values())), pools=(IPv6Network(pool),))
    domain = Domain(3, replace(settings, gateways={**settings.gateways, first.address: first}))
    if finding is Finding.DIRECTORY:
        domain.meet_directory()
    return domain


def lose_journal(domain: Domain, number: int) -> None:
    domain.pass_time(5.0)
    domain.journal[domain.address(number)].clear()
    domain.restart(domain.address(number))
    domain.pass_time(0.1)


@pytest.mark.parametrize("finding", [Finding.ANCHOR_KNOWN, Finding.DIRECTORY])
def test_row_1_51_an_anchor_that_lost_its_journal_gives_no_prefix_to_a_second_host(finding: Finding) -> None:
    """Two prefixes in all, so that the place in the pool decides nothing."""
    domain = without_central(finding, "2001:db8:a1::/63")
    domain.host_at(1, MAC)
    (held,) = [session.prefix for session in domain.gw[1].sessions.values()]
    domain.host_at(2, MAC, address=held.network_address + 1)
    lose_journal(domain, 1)
    assert roles(domain, 1) == {str(held.network_address)[:-2]: (Role.EXPORTED, domain.address(2))}, "it lives on"
    others = [bytes((2, 0, 0, 0, 9, number)) for number in range(4)]
    for other in others:
        domain.host_at(1, other)
    leased = {session.mac: session.prefix for session in domain.gw[1].sessions.values()}
    assert leased.pop(MAC) == held
    assert len(leased) == 1 and held not in leased.values()
    assert domain.gw[1].counters.local["limit.pool"] == 3


@pytest.mark.parametrize("finding", [Finding.ANCHOR_KNOWN, Finding.DIRECTORY])
def test_row_1_51_a_first_start_serves_at_once(finding: Finding) -> None:
    domain = without_central(finding)
    domain.perform(domain.address(1), domain.gw[1].restore({}, domain.now))
    domain.host_at(1, MAC)
    domain.pass_time(0.1)
    assert entries(domain, 1)


@pytest.mark.parametrize("again", [False, True], ids=["once", "restarted once more"])
def test_row_1_51_what_the_kernel_still_forwards_is_kept_for_who_has_it(again: bool) -> None:
    domain = without_central(Finding.ANCHOR_KNOWN, "2001:db8:a1::/63")
    first, second = IPv6Network("2001:db8:a1::/64"), IPv6Network("2001:db8:a1:1::/64")
    address = domain.address(1)
    domain.perform(address, domain.gw[1].restore({}, domain.now))
    for left in (LeaseLeft(first, MAC), LeaseLeft(second)):
        domain.feed(address, left)
    if again:
        domain.pass_time(1.0)
        domain.restart(address)
    for other in (OTHER, bytes((2, 0, 0, 0, 9, 9))):
        domain.host_at(1, other)
    assert not domain.gw[1].sessions
    domain.host_at(1, MAC)
    assert [session.prefix for session in domain.gw[1].sessions.values()] == [first]
    assert list(domain.gw[1].resting()) == [second]
    lifetimes = domain.settings.lifetimes
    domain.pass_time(lifetimes.valid_s + lifetimes.binding_s / 2 - 2.0)
    assert second in domain.gw[1].resting()
    domain.pass_time(2.0)
    assert second not in domain.gw[1].resting(), "by now its host has refreshed or forgotten it"


def test_what_the_kernel_forwards_says_nothing_to_a_gateway_with_its_journal() -> None:
    domain = without_central(Finding.ANCHOR_KNOWN)
    domain.perform(domain.address(1), domain.gw[1].restore({}, domain.now))
    domain.host_at(1, MAC)
    (held,) = [session.prefix for session in domain.gw[1].sessions.values()]
    domain.restart(domain.address(1))
    domain.feed(domain.address(1), LeaseLeft(held, MAC))
    assert not domain.gw[1].resting(), "it is leased, as the journal says"
    domain.pass_time(domain.settings.lifetimes.binding_s)
    domain.restart(domain.address(1))
    domain.feed(domain.address(1), LeaseLeft(IPv6Network("2001:db8:a1:9::/64")))
    assert IPv6Network("2001:db8:a1:9::/64") not in domain.gw[1].resting()


def test_a_gateway_that_lost_its_journal_believes_refreshes_alone_and_for_one_lifetime() -> None:
    """In a question a prefix may be named by nothing but the source of a packet; in a refresh it was granted once."""
    domain = without_central(Finding.ANCHOR_KNOWN)
    domain.host_at(1, MAC)
    (held,) = [session.prefix for session in domain.gw[1].sessions.values()]
    domain.lose = lambda sender, send: domain.address(1) in (sender, send.destination)
    lose_journal(domain, 1)
    domain.lose = lambda sender, send: False
    domain.host_at(2, OTHER, address=held.network_address + 1)
    assert not domain.gw[1].sessions
    lifetimes = domain.settings.lifetimes
    for late, believed in ((True, False), (False, True)):
        domain = without_central(Finding.ANCHOR_KNOWN)
        domain.host_at(1, MAC)
        domain.host_at(2, MAC, address=held.network_address + 1)
        cut = {domain.address(1)}
        domain.lose = lambda sender, send, cut=cut: not cut.isdisjoint((sender, send.destination))
        lose_journal(domain, 1)
        for _ in range(lifetimes.binding_s // 50 if late else 0):
            domain.pass_time(50.0)
            domain.host_at(2, MAC, solicited=True)
        cut.clear()
        domain.pass_time(lifetimes.binding_s / 2)
        domain.host_at(2, MAC, solicited=True)
        domain.pass_time(15.0)
        assert bool(domain.gw[1].sessions) is believed


def test_an_anchor_that_lost_its_journal_believes_no_more_than_it_has_room_for() -> None:
    domain = Domain(settings=domain_settings(limits=Limits(hosts=1)))
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.journal[domain.address(1)].clear()
    domain.restart(domain.address(1))
    domain.host_at(1, OTHER)
    domain.host_at(3, MAC)
    assert list(domain.gw[1].sessions) == [session_key(mn_id_of_mac(OTHER), OTHER)]
    refused, over = acks(domain, domain.address(1), CENTRAL)[-2:]
    assert refused.status == Status.INSUFFICIENT_RESOURCES and over.lifetime_s == 0
    assert domain.gw[1].counters.local["limit.hosts"] == 1


def test_a_prefix_that_rests_still_rests_after_a_restart() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    prefix = domain.shown[-1][1].prefixes[0].prefix
    domain.pass_time(640.0)
    domain.restart(domain.address(1))
    assert prefix in domain.gw[1].resting()


def test_a_crash_between_journal_and_answer_keeps_the_lease() -> None:
    domain = Domain()
    domain.lose = lambda sender, send: True
    domain.host_at(1, MAC)
    lease = next(iter(domain.gw[1].sessions.values())).prefix
    domain.lose = lambda sender, send: False
    domain.restart(domain.address(1))
    domain.host_at(1, MAC)
    (session,) = domain.gw[1].sessions.values()
    assert session.prefix == lease and session.phase is Phase.SERVING


def test_a_crash_in_the_moment_before_that_costs_no_more_than_another_registration() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    lease = entries(domain, 1)
    domain.restart(domain.address(1))
    assert entries(domain, 1) == ()
    domain.host_at(1, MAC)
    assert entries(domain, 1) == lease


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["host", "crash", "lose-journal-of-cmd", "time"]),
            st.integers(1, 3),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_whatever_crashes_no_prefix_ever_has_two_hosts(steps: list[tuple[str, int, int]]) -> None:
    domain = Domain()
    holder: dict[str, bytes] = {}
    for kind, number, which in steps:
        if kind == "host":
            domain.host_at(number, bytes([2, 0, 0, 0, 0, which]))
        elif kind == "crash":
            domain.restart(domain.address(number))
        elif kind == "lose-journal-of-cmd":
            domain.journal[CENTRAL].clear()
            domain.restart(CENTRAL)
        else:
            domain.pass_time(which)
        for _, order in domain.shown:
            for advertised in order.prefixes:
                if advertised.valid_s:
                    assert holder.setdefault(str(advertised.prefix), order.mac) == order.mac


def told_of_the_end(domain: Domain, number: int) -> list[BindingUpdate]:
    return [update for update in updates(domain, CENTRAL, domain.address(number)) if not update.lifetime_s]


def test_decision_20_a_cmd_that_crashes_while_it_tells_of_an_end_goes_on_with_it() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.lose = lambda sender, send: domain.address(1) in (sender, send.destination)
    domain.pass_time(640.0)
    assert not domain.central.bindings and domain.gw[1].sessions
    before = told_of_the_end(domain, 1)[-1]
    domain.restart(CENTRAL)
    after = told_of_the_end(domain, 1)[-1]
    stamps = [update.first(Timestamp) for update in (before, after)]
    assert after.sequence != before.sequence and stamps[0] and stamps[1] and stamps[0].ticks < stamps[1].ticks
    domain.lose = lambda sender, send: False
    domain.pass_time(2.0)
    assert not domain.gw[1].sessions
    assert domain.journal[CENTRAL]["dismissal"] == {}


def test_decision_20_an_end_that_an_anchor_never_hears_of_is_not_kept_for_ever() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.lose = lambda sender, send: domain.address(1) in (sender, send.destination)
    domain.pass_time(640.0)
    for _ in range(80):  # however often the CMD starts anew, and counts its tries from the beginning
        domain.pass_time(25.0)
        domain.restart(CENTRAL)
    assert not domain.gw[1].sessions, "decision 19: the anchor has let go by itself"
    assert domain.journal[CENTRAL]["dismissal"] == {}
    domain.sent.clear()
    domain.pass_time(120.0)
    assert not told_of_the_end(domain, 1)


def test_decision_18_a_prefix_given_up_for_the_budget_is_told_after_a_crash_and_not_for_ever() -> None:
    settings = domain_settings(3, limits=Limits(anchors_per_host=2))
    domain = Domain(settings=settings)
    domain.host_at(1, MAC)
    domain.pass_time(2.0)
    domain.host_at(2, MAC)
    domain.pass_time(2.0)
    domain.lose = lambda sender, send: domain.address(1) in (sender, send.destination)
    domain.host_at(3, MAC, address=IPv6Address("fe80::1234"))
    domain.pass_time(2.0)
    assert told_of_the_end(domain, 1) and domain.journal[CENTRAL]["dismissal"]
    domain.restart(CENTRAL)
    domain.sent.clear()
    domain.pass_time(5.0)
    assert told_of_the_end(domain, 1)
    for _ in range(40):
        domain.host_at(3, MAC, solicited=True)
        domain.pass_time(60.0)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(3)
    assert domain.journal[CENTRAL]["dismissal"] == {}


def test_a_host_that_is_back_at_an_anchor_ends_what_the_cmd_had_still_to_tell_it() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.lose = lambda sender, send: sender == CENTRAL and send.destination == domain.address(1)
    domain.pass_time(640.0)
    assert domain.journal[CENTRAL]["dismissal"]
    domain.lose = lambda sender, send: False
    domain.host_at(1, MAC)
    assert domain.journal[CENTRAL]["dismissal"] == {}
    domain.restart(CENTRAL)
    domain.pass_time(60.0)
    assert roles(domain, 1) == {"2001:db8:a1": (Role.ANCHORED, None)}


def test_a_limit_on_ends_that_are_kept_is_counted_and_stops_no_end() -> None:
    domain = Domain(settings=domain_settings(3, limits=Limits(bindings=1)))
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    domain.pass_time(640.0)
    assert len(domain.journal[CENTRAL]["dismissal"]) == 1
    assert domain.central.counters.local["limit.dismissals"] == 1
    assert told_of_the_end(domain, 1) and told_of_the_end(domain, 2)
