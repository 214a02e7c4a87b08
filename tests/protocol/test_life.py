"""Refresh, "still there?", expiry, de-registration, retransmission, the silent CMD."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from test_idle import stays
from test_refusals import ask, registration
from test_roaming import MAC, OTHER, acks, entries, roles, updates

from anchord.declared import Role
from anchord.protocol.central import Central
from anchord.protocol.inputs import SegmentClear, SegmentConflict
from anchord.protocol.settings import CentralSettings, Limits
from anchord.wire.messages import BindingAcknowledgement
from anchord.wire.options import BindingRefreshAdvice, Handoff, HandoffIndicator, HomeNetworkPrefix, Timestamp

HOST = IPv6Address("fe80::1234")


def test_rows_22_to_25_111_112_142_retransmissions_double_up_to_32_seconds_and_go_on() -> None:
    domain = Domain(settings=domain_settings(serve_unregistered=True))
    times: list[float] = []
    domain.lose = lambda sender, send: send.destination == CENTRAL and not times.append(domain.now.monotonic_s)
    domain.host_at(1, MAC)
    domain.host_at(1, MAC, solicited=True)
    domain.pass_time(200.0)
    gaps = [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]
    assert gaps[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0]


def test_row_113_142_a_repetition_has_a_greater_sequence_number_and_the_latest_timestamp() -> None:
    domain = Domain()
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(1, MAC)
    domain.pass_time(1.1)
    first, second = updates(domain, domain.address(1), CENTRAL)
    stamps = [update.first(Timestamp) for update in (first, second)]
    assert second.sequence == first.sequence + 1
    assert stamps[0] and stamps[1] and 0.9 < (stamps[1].ticks - stamps[0].ticks) / 65536 < 1.1


def test_a_lost_answer_is_repaired_by_the_repetition() -> None:
    domain = Domain()
    lost: list[object] = []
    domain.lose = lambda sender, send: sender == CENTRAL and not lost and not lost.append(send)
    domain.host_at(1, MAC)
    assert not domain.shown
    domain.pass_time(1.5)
    (session,) = domain.gw[1].sessions.values()
    assert session.registered and domain.shown


def test_row_14_22_the_cmd_repeats_to_an_anchor_until_it_answers() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.lose = lambda sender, send: sender == CENTRAL and send.destination == domain.address(1)
    domain.host_at(2, MAC)
    assert roles(domain, 1)["2001:db8:a1"][0] is Role.ANCHORED
    domain.lose = lambda sender, send: False
    domain.pass_time(1.5)
    assert roles(domain, 1)["2001:db8:a1"] == (Role.EXPORTED, domain.address(2))
    domain.sent.clear()
    domain.pass_time(60.0)
    assert not updates(domain, CENTRAL, domain.address(1)), "answered: no more repetitions"


def test_row_26_no_more_than_three_updates_a_second_about_one_host_and_the_newest_wins() -> None:
    domain = Domain()
    domain.host_at(3, MAC)
    domain.sent.clear()
    for number in (1, 2, 1, 2, 1, 2):
        domain.host_at(number, MAC)
    early = len(updates(domain, CENTRAL, domain.address(3)))
    domain.pass_time(5.0)
    assert early == 3
    assert roles(domain, 3) == {"2001:db8:a3": (Role.EXPORTED, domain.address(2))}


def test_a_host_that_was_heard_is_refreshed_without_a_question() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(290.0)
    domain.host_at(1, MAC, solicited=True)
    domain.pass_time(15.0)
    assert not domain.probes
    assert updates(domain, domain.address(1), CENTRAL)[-1].first(HandoffIndicator) == HandoffIndicator(
        Handoff.UNCHANGED
    )


def test_row_118_a_silent_host_is_asked_three_times_before_each_refresh() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=HOST)
    domain.sent.clear()
    domain.pass_time(305.0)
    assert [probe.target for _, probe in domain.probes] == [HOST] * 3
    assert not updates(domain, domain.address(1), CENTRAL)


def test_a_host_that_answers_the_question_is_refreshed() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=HOST)
    domain.sent.clear()
    domain.pass_time(301.0)
    domain.host_at(1, MAC, address=HOST, solicited=True)
    (refresh,) = updates(domain, domain.address(1), CENTRAL)
    assert refresh.lifetime_s == 600
    domain.pass_time(400.0)
    assert domain.gw[1].sessions, "it lives on beyond its first lifetime"


def test_row_19_21_138_a_silent_host_ends_by_lifetime_everywhere_and_leaves_nothing() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(640.0)
    assert not domain.central.bindings
    assert all(not gateway.sessions for gateway in domain.gw.values())
    assert entries(domain, 1) == () and entries(domain, 2) == ()
    gone = [order for _, order in domain.shown if order.router_lifetime_s == 0]
    assert {str(order.prefixes[0].prefix)[:11] for order in gone} == {"2001:db8:a1", "2001:db8:a2"}


def test_row_19_21_decision_19_the_dead_man_timer_frees_an_anchor_when_the_cmd_is_lost_for_good() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    domain.pass_time(1500.0)
    assert domain.gw[1].sessions, "not before three lifetimes"
    domain.sent.clear()
    domain.pass_time(400.0)
    assert not domain.gw[1].sessions
    assert not updates(domain, domain.address(1), CENTRAL), "an anchor has nothing to de-register"


def test_decision_20_the_anchors_are_told_only_after_min_delay_before_bce_delete() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.sent.clear()
    domain.pass_time(601.0)
    assert updates(domain, domain.address(2), CENTRAL)[-1].lifetime_s == 0
    assert acks(domain, CENTRAL, domain.address(2))[-1].status == 0
    assert not [u for u in updates(domain, CENTRAL, domain.address(1)) if u.lifetime_s == 0]
    domain.pass_time(10.5)
    assert updates(domain, CENTRAL, domain.address(1))[-1].lifetime_s == 0
    assert not domain.gw[1].sessions


def test_row_70_an_update_within_the_delay_cancels_the_end() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(602.0)
    domain.host_at(3, MAC)
    domain.pass_time(30.0)
    assert [b.serving.maar for b in domain.central.bindings.values()] == [domain.address(3)]
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}


def test_a_returned_prefix_rests_until_its_last_advertised_lifetime_has_run_out() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    prefix = domain.shown[-1][1].prefixes[0].prefix
    domain.pass_time(640.0)
    assert prefix in domain.gw[1].resting()
    domain.host_at(1, MAC)
    assert domain.shown[-1][1].prefixes[0].prefix != prefix


def test_row_30_advertisements_are_renewed_before_the_preferred_lifetime_ends() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.shown.clear()
    domain.pass_time(250.0)
    assert len(domain.shown) == 4, "two routers, twice"


def test_silent_cmd_the_host_is_served_unregistered_and_registered_later() -> None:
    domain = Domain()
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(1, MAC)
    domain.pass_time(0.2)
    assert not domain.shown
    domain.pass_time(0.1)
    (session,) = domain.gw[1].sessions.values()
    assert domain.shown and not session.registered
    domain.lose = lambda sender, send: False
    domain.pass_time(1.0)
    assert session.registered and domain.central.bindings


def test_row_90_silent_cmd_without_serve_unregistered_nothing_is_shown() -> None:
    domain = Domain(settings=domain_settings(serve_unregistered=False))
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(1, MAC)
    domain.pass_time(10.0)
    assert not domain.shown


def test_silent_cmd_a_host_that_is_there_outlives_its_lifetime_and_keeps_its_prefixes() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=HOST)
    domain.host_at(2, MAC, address=HOST)
    before = entries(domain, 2)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    for _ in range(90):
        domain.pass_time(10.0)
        domain.host_at(2, MAC, address=HOST, solicited=True)
    assert entries(domain, 2) == before
    domain.lose = lambda sender, send: False
    stays(domain, 2, 40)
    (session,) = domain.gw[2].sessions.values()
    assert session.registered


def test_silent_cmd_a_host_that_is_gone_ends_all_the_same() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=HOST)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    domain.pass_time(1300.0)
    assert not domain.gw[1].sessions


@pytest.mark.parametrize(("advice_s", "refreshed_after_s"), [(20, 20), (400, 300), (600, 300), (0, 300), (None, 300)])
def test_row_128_a_refresh_comes_when_the_cmd_advises_it_if_that_is_sooner(
    advice_s: int | None, refreshed_after_s: int
) -> None:
    domain = Domain()
    domain.host_at(1, MAC, settle=False)
    domain.install()
    domain.deliver()
    sender, answer = domain.wire.pop()
    ack = answer.message
    assert isinstance(ack, BindingAcknowledgement)
    if advice_s is not None:
        ack = replace(ack, options=(*ack.options, BindingRefreshAdvice(advice_s)))
    domain.wire.append((sender, replace(answer, message=ack)))
    domain.settle()
    domain.pass_time(refreshed_after_s - 1)
    domain.host_at(1, MAC, solicited=True)
    assert len(updates(domain, domain.address(1), CENTRAL)) == 1
    domain.pass_time(2)
    assert len(updates(domain, domain.address(1), CENTRAL)) == 2


def test_row_138_a_registration_lasts_no_longer_than_asked_and_no_longer_than_ours() -> None:
    for asked_s, granted_s in ((100, 100), (10_000, 600)):
        domain = Domain()
        (ack,) = ask(domain, registration(domain, lifetime_s=asked_s))
        assert (ack.status, ack.lifetime_s) == (0, granted_s)
        domain.pass_time(granted_s - 1)
        assert not next(iter(domain.central.bindings.values())).ending
        domain.pass_time(12)  # and MinDelayBeforeBCEDelete
        assert not domain.central.bindings


def test_row_103_a_refusal_that_comes_after_the_fallback_ends_what_was_begun() -> None:
    domain = Domain()
    domain.central = Central(CentralSettings(domain.settings, frozenset({OTHER})))
    domain.nodes[CENTRAL] = domain.central
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(1, MAC)
    domain.pass_time(0.3)
    assert roles(domain, 1) == {"2001:db8:a1": (Role.ANCHORED, None)}
    domain.lose = lambda sender, send: False
    domain.pass_time(1.0)
    assert not domain.gw[1].sessions and entries(domain, 1) == ()
    assert domain.shown[-1][1].router_lifetime_s == 0


def test_silent_cmd_at_a_handover_the_old_anchor_joins_when_it_is_back() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(2, MAC)
    domain.pass_time(0.5)
    assert roles(domain, 2) == {"2001:db8:a2": (Role.ANCHORED, None)}
    domain.lose = lambda sender, send: False
    domain.pass_time(1.0)
    assert roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(2))}


def test_limit_of_hosts_and_of_the_pool_are_kept_and_counted() -> None:
    domain = Domain(settings=domain_settings(limits=Limits(hosts=2)))
    for number in range(4):
        domain.host_at(1, bytes([2, 0, 0, 0, 1, number]))
    assert len(domain.gw[1].sessions) == 2
    assert domain.gw[1].counters.local["limit.hosts"] == 2


def test_row_1_a_full_pool_gives_no_prefix_twice() -> None:
    settings = domain_settings()
    small = {
        a: replace(i, pools=(IPv6Network((int(i.pools[0].network_address), 63)),)) for a, i in settings.gateways.items()
    }
    domain = Domain(settings=replace(settings, gateways=small))
    for number in range(5):
        domain.host_at(1, bytes([2, 0, 0, 0, 1, number]))
    held = [session.prefix for session in domain.gw[1].sessions.values()]
    assert len(held) == len(set(held)) == 2
    assert domain.gw[1].counters.local["limit.pool"] == 3


def test_attaches_are_limited_in_rate() -> None:
    domain = Domain(settings=domain_settings(limits=Limits(attaches_per_s=10, attach_burst=5)))
    for number in range(50):
        domain.host_at(1, bytes([2, 0, 0, 0, 1, number]))
    assert len(domain.gw[1].sessions) <= 7
    domain.pass_time(1.0)
    domain.host_at(1, OTHER)
    assert any(session.mac == OTHER for session in domain.gw[1].sessions.values())


def test_a_segment_shared_with_another_gateway_attaches_nobody_until_it_is_clear() -> None:
    domain = Domain()
    domain.feed(domain.address(1), SegmentConflict("acc0", "gw2/acc0"))
    domain.host_at(1, MAC)
    assert not domain.gw[1].sessions
    assert domain.gw[1].conflicts() == {"acc0": "gw2/acc0"}
    domain.host_at(1, MAC, interface="acc1")
    assert domain.gw[1].sessions, "other segments are served"
    domain.feed(domain.address(1), SegmentClear("acc0"))
    domain.host_at(1, OTHER)
    assert len(domain.gw[1].sessions) == 2


def test_a_gateway_that_was_taken_for_a_host_is_forgotten_when_it_says_what_it_is() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.feed(domain.address(1), SegmentConflict("acc0", "gw2/acc0", MAC))
    domain.settle()
    domain.pass_time(11.0)
    assert not domain.gw[1].sessions and not domain.central.bindings and entries(domain, 1) == ()


def test_a_host_that_reassociates_where_it_is_served_is_registered_once_more() -> None:
    """An update that says it is elsewhere may be on its way: the newer registration overtakes it."""
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(5.0)
    domain.ignored[domain.address(1)].clear()
    before = len(updates(domain, domain.address(1), CENTRAL))
    domain.host_at(1, MAC, interface="acc1")
    domain.ignored[domain.address(1)].clear()
    domain.host_at(1, MAC, interface="acc1", reassociated=True)
    assert len(updates(domain, domain.address(1), CENTRAL)) == before, "that was about the move just noticed"
    domain.pass_time(5.0)
    domain.ignored[domain.address(1)].clear()
    domain.host_at(1, MAC, interface="acc1", reassociated=True)
    assert len(updates(domain, domain.address(1), CENTRAL)) == before + 1


def test_silent_cmd_the_operator_is_told_when_the_host_is_registered_at_last() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(2, MAC)
    domain.pass_time(0.5)
    domain.reports.clear()
    domain.lose = lambda sender, send: False
    domain.pass_time(1.0)
    served = [report.fields for who, report in domain.reports if report.event == "served"]
    assert [(fields["registered"], fields["anchors"]) for fields in served] == [(True, [domain.address(1)])]


@pytest.mark.parametrize(
    "mac", ["01005e000001", "ffffffffffff", "333300000001"], ids=["multicast", "broadcast", "ipv6-multicast"]
)
def test_group_addresses_are_no_hosts(mac: str) -> None:
    domain = Domain()
    domain.host_at(1, bytes.fromhex(mac))
    assert not domain.gw[1].sessions


def test_a_face_of_ours_is_no_host() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(1, domain.shown[-1][1].router.mac)
    assert len(domain.gw[1].sessions) == 1


def test_decision_25_the_anchor_grants_what_is_asked_and_remembers_the_host_until_then() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    told = updates(domain, CENTRAL, domain.address(1))[-1]
    answer = acks(domain, domain.address(1), CENTRAL)[-1]
    assert answer.lifetime_s == told.lifetime_s == 600
    own = answer.first(HomeNetworkPrefix)
    assert own is not None and str(own.prefix).startswith("2001:db8:a1")
