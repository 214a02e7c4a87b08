"""The CMD as relay (RFC 8885 section 3.2): the anchors' answers are gathered before the serving gateway is answered.

What holds for a locator too (section 3.3) is tried in both modes.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from hypothesis import given
from hypothesis import strategies as st
from test_roaming import MAC, acks, entries, roles, updates

from anchord.declared import Role
from anchord.protocol.inputs import Installed, MessageReceived
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase
from anchord.protocol.settings import Limits, Mode, Timing
from anchord.wire.messages import BindingAcknowledgement, UpdateNotification
from anchord.wire.options import PreviousMaar, ServingMaar

both = pytest.mark.parametrize("mode", [Mode.RELAY, Mode.LOCATOR], ids=lambda mode: mode.value)


def domain_in(mode: Mode, gateways: int = 4, **changes: object) -> Domain:
    return Domain(settings=domain_settings(gateways, mode=mode, **changes))


def named(ack: BindingAcknowledgement) -> list[IPv6Address]:
    return [option.maar for option in ack.all(PreviousMaar)]


def unheard(domain: Domain, *numbers: int) -> None:
    """What the CMD says to these gateways is lost."""
    addresses = [domain.address(number) for number in numbers]
    domain.lose = lambda sender, send: sender == CENTRAL and send.destination in addresses


def heard(domain: Domain) -> None:
    domain.lose = lambda sender, send: False


def moved_along(domain: Domain, *numbers: int) -> None:
    for number in numbers:
        domain.host_at(number, MAC)
        domain.pass_time(2.0)


def test_row_7_8_13_the_anchors_are_asked_before_the_serving_gateway_is_answered_once() -> None:
    domain = domain_in(Mode.RELAY)
    moved_along(domain, 1, 2)
    domain.sent.clear()
    domain.host_at(3, MAC)
    order = [(sender, send.destination) for sender, send in domain.sent]
    one, two, new = (domain.address(number) for number in (1, 2, 3))
    assert order == [(new, CENTRAL), (CENTRAL, one), (CENTRAL, two), (one, CENTRAL), (two, CENTRAL), (CENTRAL, new)]
    assert named(acks(domain, CENTRAL, new)[-1]) == [one, two]
    assert [u.first(ServingMaar) for u in updates(domain, CENTRAL, one)] == [ServingMaar(new)]
    assert roles(domain, 3)["2001:db8:a1"] == (Role.IMPORTED, one)


@both
def test_without_anchors_the_answer_is_immediate(mode: Mode) -> None:
    domain = domain_in(mode)
    domain.host_at(1, MAC)
    assert [ack.status for ack in acks(domain, CENTRAL, domain.address(1))] == [0]


def test_row_13_a_timer_releases_a_partial_answer_and_the_rest_is_added_under_the_same_number() -> None:
    domain = domain_in(Mode.RELAY)
    moved_along(domain, 1, 2)
    unheard(domain, 1)
    domain.host_at(3, MAC)
    new = domain.address(3)
    assert not acks(domain, CENTRAL, new)
    domain.pass_time(0.09)
    assert not acks(domain, CENTRAL, new)
    domain.pass_time(0.02)
    (partial,) = acks(domain, CENTRAL, new)
    assert named(partial) == [domain.address(2)] and set(roles(domain, 3)) == {"2001:db8:a2", "2001:db8:a3"}
    assert domain.central.counters.local["gathering.partial"] == 1
    heard(domain)
    domain.pass_time(1.0)
    late = acks(domain, CENTRAL, new)[-1]
    assert named(late) == [domain.address(1)] and late.sequence == partial.sequence
    assert set(roles(domain, 3)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3"}


def test_decision_12_answers_under_one_number_add_no_more_prefixes_than_a_host_may_have() -> None:
    domain = domain_in(Mode.RELAY)
    domain.host_at(1, MAC)
    (answer,) = acks(domain, CENTRAL, domain.address(1))
    pool = int(IPv6Network("2001:db8:a2::/48").network_address)
    for number in range(20):
        more = tuple(PreviousMaar(domain.address(2), IPv6Network((pool | 2 * number + n << 64, 64))) for n in range(2))
        domain.feed(domain.address(1), MessageReceived(CENTRAL, replace(answer, options=(*answer.options, *more))))
    (session,) = domain.gw[1].sessions.values()
    assert sum(len(anchor.prefixes) for anchor in session.anchors) == domain.settings.limits.anchors_per_host
    assert domain.gw[1].counters.local["limit.prefixes"] > 0


def test_decision_12_a_late_answer_that_names_an_anchor_which_the_limit_keeps_out_changes_nothing() -> None:
    domain = domain_in(Mode.RELAY, 5, limits=Limits(anchors_per_host=2))
    domain.host_at(1, MAC)
    (answer,) = acks(domain, CENTRAL, domain.address(1))

    def told(*numbers: int) -> None:
        pools = [(domain.address(number), domain.gw[number].settings.me.pools[0]) for number in numbers]
        more = [PreviousMaar(maar, next(pool.subnets(new_prefix=64))) for maar, pool in pools]
        late = replace(answer, options=(*answer.options, *more))
        domain.feed(domain.address(1), MessageReceived(CENTRAL, late))

    told(2, 3)
    told(3, 4)
    (session,) = domain.gw[1].sessions.values()
    assert [anchor.maar for anchor in session.anchors] == [domain.address(2), domain.address(3)]
    assert domain.gw[1].counters.local["limit.prefixes"] == 1


def test_decision_12_late_answers_that_come_close_together_share_a_message() -> None:
    domain = domain_in(Mode.RELAY)
    moved_along(domain, 1, 2, 3)
    unheard(domain, 1, 2, 3)
    domain.host_at(4, MAC)
    domain.pass_time(0.15)
    heard(domain)
    domain.pass_time(0.83)
    before = len(acks(domain, CENTRAL, domain.address(4)))
    domain.pass_time(0.1)
    late = acks(domain, CENTRAL, domain.address(4))[before:]
    assert [named(ack) for ack in late] == [[domain.address(1), domain.address(2), domain.address(3)]]


def test_decision_12_late_answers_within_20_ms_wait_for_each_other_and_later_ones_do_not() -> None:
    domain = domain_in(Mode.RELAY, 5)
    moved_along(domain, 1, 2, 3, 4)
    domain.hold_kernel = True
    domain.host_at(5, MAC)
    waiting = [item for item in domain.pending if item[0] != domain.address(5)]
    domain.pass_time(0.15)
    before = len(acks(domain, CENTRAL, domain.address(5)))
    for gap_s, (address, ticket) in zip((0.0, 0.005, 0.005, 0.05), waiting, strict=True):
        domain.pass_time(gap_s)
        domain.feed(address, Installed(ticket))
        domain.settle()
    late = acks(domain, CENTRAL, domain.address(5))[before:]
    assert [len(named(ack)) for ack in late] == [3, 1]


def test_decision_12_who_answers_late_does_not_wait_for_who_answers_later() -> None:
    domain = domain_in(Mode.RELAY)
    moved_along(domain, 1, 2)
    unheard(domain, 1, 2)
    domain.host_at(3, MAC)
    domain.pass_time(0.15)
    unheard(domain, 1)
    domain.pass_time(0.9)
    assert named(acks(domain, CENTRAL, domain.address(3))[-1]) == [domain.address(2)]


def test_decision_12_a_repetition_meanwhile_is_answered_from_the_current_state_and_asks_nobody_again() -> None:
    domain = domain_in(Mode.RELAY, timing=Timing(gather_s=2.0), serve_unregistered=False)
    moved_along(domain, 1, 2)
    unheard(domain, 1)
    domain.host_at(3, MAC)
    asked = len(updates(domain, CENTRAL, domain.address(1)))
    assert not acks(domain, CENTRAL, domain.address(3))
    domain.pass_time(1.005)
    first, second = updates(domain, domain.address(3), CENTRAL)
    (ack,) = acks(domain, CENTRAL, domain.address(3))
    assert ack.sequence == second.sequence and named(ack) == [domain.address(2)]
    assert len(updates(domain, CENTRAL, domain.address(1))) == asked + 1, "its own repetition, and nothing else"
    heard(domain)
    domain.pass_time(2.0)
    assert acks(domain, CENTRAL, domain.address(3))[-1].sequence == second.sequence != first.sequence
    assert set(roles(domain, 3)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3"}


@both
def test_the_same_message_twice_does_not_end_the_gathering(mode: Mode) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1)
    domain.host_at(2, MAC, settle=False)
    domain.wire.append(domain.wire[-1])
    domain.settle()
    assert [named(ack) for ack in acks(domain, CENTRAL, domain.address(2))] == [[domain.address(1)]]
    assert domain.central.counters.of(domain.address(2)).dropped == {"repeated-while-gathering": 1}


@both
def test_decision_13_an_anchor_that_refuses_is_not_announced_nor_waited_for(mode: Mode) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1, 2)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(3, MAC)
    assert [named(ack) for ack in acks(domain, CENTRAL, domain.address(3))] == [[domain.address(2)]]
    (binding,) = domain.central.bindings.values()
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(2)]


@both
def test_decision_13_an_anchor_that_stays_silent_delays_only_one_handover_and_joins_when_it_is_back(
    mode: Mode,
) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1, 2)
    unheard(domain, 1)
    domain.host_at(3, MAC)
    domain.pass_time(20.0)
    assert ("anchor-silent", str(domain.address(1))) in [(r.event, r.fields.get("anchor")) for _, r in domain.reports]
    domain.sent.clear()
    domain.host_at(4, MAC)
    assert [named(ack) for ack in acks(domain, CENTRAL, domain.address(4))] == [[domain.address(2), domain.address(3)]]
    heard(domain)
    domain.pass_time(5.0)
    assert roles(domain, 4)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    assert roles(domain, 1)["2001:db8:a1"] == (Role.EXPORTED, domain.address(4))


def preferred_at(domain: Domain, number: int) -> set[str]:
    """Of which prefixes the gateway has last told the host to take addresses for new connections."""
    told = {
        str(prefix.prefix)[:11]: prefix.preferred_s
        for address, order in domain.shown
        if address == domain.address(number)
        for prefix in order.prefixes
    }
    return {prefix for prefix, preferred_s in told.items() if preferred_s}


@pytest.mark.parametrize("late", [2, 3], ids=["an older one", "the newest"])
def test_decision_12_18_a_late_answer_leaves_the_newest_prefix_preferred_when_the_budget_is_spent(late: int) -> None:
    domain = domain_in(Mode.RELAY, 5, limits=Limits(anchors_per_host=3))
    moved_along(domain, 1, 2, 3, 4)
    assert preferred_at(domain, 4) == {"2001:db8:a3"}
    unheard(domain, late)
    domain.host_at(5, MAC)
    domain.pass_time(0.2)
    assert preferred_at(domain, 5) == {"2001:db8:a2" if late == 3 else "2001:db8:a3"}
    heard(domain)
    domain.pass_time(2.0)
    assert named(acks(domain, CENTRAL, domain.address(5))[-1]) == [domain.address(2), domain.address(3)]
    assert preferred_at(domain, 5) == {"2001:db8:a3"}


@both
def test_a_host_that_moves_on_while_answers_are_gathered_is_followed(mode: Mode) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1, 2)
    unheard(domain, 1)
    domain.host_at(3, MAC)
    domain.pass_time(0.05)
    heard(domain)
    domain.host_at(4, MAC)
    domain.pass_time(2.0)
    assert set(roles(domain, 4)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3", "2001:db8:a4"}
    for number in (1, 2, 3):
        assert roles(domain, number) == {f"2001:db8:a{number}": (Role.EXPORTED, domain.address(4))}


@both
def test_a_cmd_that_is_restarted_in_the_middle_of_gathering_answers_the_repetition(mode: Mode) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1, 2)
    unheard(domain, 1, 2)
    domain.host_at(3, MAC)
    domain.pass_time(0.02)
    heard(domain)
    domain.restart(CENTRAL)
    domain.pass_time(1.5)
    (session,) = domain.gw[3].sessions.values()
    assert session.registered and set(roles(domain, 3)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3"}
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}


def test_a_cmd_that_is_restarted_after_a_partial_answer_brings_the_rest() -> None:
    domain = domain_in(Mode.RELAY)
    moved_along(domain, 1, 2)
    unheard(domain, 1)
    domain.host_at(3, MAC)
    domain.pass_time(0.2)
    assert set(roles(domain, 3)) == {"2001:db8:a2", "2001:db8:a3"}
    heard(domain)
    domain.restart(CENTRAL)
    domain.pass_time(0.5)
    assert set(roles(domain, 3)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3"}
    assert [send.destination for _, send in domain.sent if isinstance(send.message, UpdateNotification)] == [
        domain.address(3)
    ]


@both
def test_what_was_acknowledged_survives_a_restart(mode: Mode) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1, 2, 3)
    domain.restart(CENTRAL)
    domain.host_at(3, MAC, solicited=True)
    domain.sent.clear()
    domain.pass_time(298.0)
    domain.host_at(3, MAC, solicited=True)
    domain.pass_time(5.0)
    assert named(acks(domain, CENTRAL, domain.address(3))[-1]) == [domain.address(1), domain.address(2)]


@both
def test_a_refresh_gathers_nothing(mode: Mode) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1, 2)
    domain.pass_time(290.0)
    domain.host_at(2, MAC, solicited=True)
    domain.sent.clear()
    unheard(domain, 1)
    domain.pass_time(10.0)
    assert [named(ack) for ack in acks(domain, CENTRAL, domain.address(2))] == [[domain.address(1)]]


def test_row_16_decision_9_10_in_locator_mode_each_anchor_answers_both_and_the_cmd_has_the_last_word() -> None:
    domain = domain_in(Mode.LOCATOR)
    moved_along(domain, 1, 2)
    domain.sent.clear()
    domain.host_at(3, MAC)
    new = domain.address(3)
    for number in (1, 2):
        told = [send.destination for sender, send in domain.sent if sender == domain.address(number)]
        assert told == [new, CENTRAL]
    (ack,) = acks(domain, CENTRAL, new)
    assert named(ack) == [domain.address(1), domain.address(2)] and ack.lifetime_s == 600
    assert domain.gw[3].counters.of(domain.address(1)).dropped == {}


def test_decision_9_in_locator_mode_the_timer_releases_the_complete_list() -> None:
    domain = domain_in(Mode.LOCATOR)
    moved_along(domain, 1, 2)
    unheard(domain, 1)
    domain.host_at(3, MAC)
    domain.pass_time(0.09)
    assert not acks(domain, CENTRAL, domain.address(3))
    domain.pass_time(0.02)
    assert [named(ack) for ack in acks(domain, CENTRAL, domain.address(3))] == [[domain.address(1), domain.address(2)]]
    domain.pass_time(10.0)
    assert roles(domain, 3)["2001:db8:a1"] == (Role.RELEASED, None), "it was silent for too long"
    heard(domain)
    domain.pass_time(30.0)
    assert roles(domain, 3)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))


def test_decision_9_what_an_anchor_told_the_serving_gateway_is_not_taken_away_because_the_cmd_did_not_hear_it() -> None:
    domain = domain_in(Mode.LOCATOR)
    moved_along(domain, 1)
    domain.lose = lambda sender, send: sender == domain.address(1) and send.destination == CENTRAL
    domain.host_at(2, MAC)
    domain.shown.clear()
    domain.pass_time(0.5)
    (session,) = domain.gw[2].sessions.values()
    assert session.registered and roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    assert all(order.router_lifetime_s for _, order in domain.shown)


def test_row_16_in_locator_mode_old_flows_do_not_wait_for_the_cmd() -> None:
    domain = domain_in(Mode.LOCATOR)
    moved_along(domain, 1)
    domain.lose = lambda sender, send: sender == CENTRAL and send.destination == domain.address(2)
    domain.host_at(2, MAC)
    (session,) = domain.gw[2].sessions.values()
    assert roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1)) and not session.registered
    heard(domain)
    domain.pass_time(1.5)
    assert session.registered and roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))


def settled_state(domain: Domain) -> None:
    """One gateway serves the host, and every other one that knows it sends its prefix there."""
    (binding,) = domain.central.bindings.values()
    serving = binding.serving.maar
    phases = {number: [s.phase for s in gateway.sessions.values()] for number, gateway in domain.gw.items()}
    for number, phase in phases.items():
        expected = [[Phase.SERVING]] if domain.address(number) == serving else [[], [Phase.AWAY]]
        assert phase in expected, (number, phases)
    for anchor in binding.anchors:
        number = next(n for n in domain.gw if domain.address(n) == anchor.maar)
        assert list(roles(domain, number).values()) == [(Role.EXPORTED, serving)]
    number = next(n for n in domain.gw if domain.address(n) == serving)
    # A gateway may have given the host another prefix than the one that it had to give up.
    imported = {entry.peer for entry in entries(domain, number) if entry.role is Role.IMPORTED}
    assert imported == {anchor.maar for anchor in binding.anchors}


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["host", "deliver", "install", "lose", "cmd-restart"]), st.integers(0, 30)),
        max_size=60,
    )
)
def test_row_83_ping_pong_faster_than_the_signalling_ends_with_one_serving_gateway(
    mode: Mode, steps: list[tuple[str, int]]
) -> None:
    """Messages overtake each other and are lost; two gateways may think that the host is theirs."""
    domain = domain_in(mode, 3)
    domain.hold_kernel = True
    for step, number in steps:
        if step == "host":
            domain.host_at(number % 3 + 1, MAC, settle=False)
        elif step == "cmd-restart":
            domain.wire = [(sender, send) for sender, send in domain.wire if send.destination != CENTRAL]
            flying, domain.wire = domain.wire, []
            domain.restart(CENTRAL)
            domain.wire = flying + domain.wire
        elif step == "install":
            domain.install()
        elif domain.wire:
            index = number % len(domain.wire)
            if step == "lose":
                domain.wire.pop(index)
            else:
                domain.deliver(index)
    domain.hold_kernel = False
    domain.settle()
    domain.pass_time(40.0)
    domain.host_at(1, MAC, solicited=True)
    domain.pass_time(40.0)
    settled_state(domain)


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_row_85_every_mode_works_without_timestamps(mode: Mode) -> None:
    domain = domain_in(mode, 3, timestamps=False)
    for number in (1, 2, 3, 1, 3, 2):
        moved_along(domain, number)
        settled_state(domain)


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_row_84_101_a_gateway_whose_clock_is_wrong_is_refused_and_the_host_stays_where_it_was(mode: Mode) -> None:
    domain = domain_in(mode, 3)
    moved_along(domain, 1)
    domain.skew[domain.address(2)] = 5.0
    domain.host_at(2, MAC)
    assert [ack.status for ack in acks(domain, CENTRAL, domain.address(2))] == [156]
    settled_state(domain)
    domain.skew.clear()
    domain.pass_time(31.0)
    moved_along(domain, 2)
    settled_state(domain)
    assert set(roles(domain, 2)) == {"2001:db8:a1", "2001:db8:a2"}


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_two_gateways_that_see_the_host_at_once_agree_on_the_newer_one(mode: Mode) -> None:
    domain = domain_in(mode, 3)
    moved_along(domain, 3)
    domain.host_at(1, MAC, settle=False)
    domain.host_at(2, MAC, settle=False)
    # The later registration arrives first: the earlier one is refused with 157 and asked again, as if it were a move.
    domain.wire.reverse()
    domain.settle()
    domain.pass_time(5.0)
    assert 157 in [ack.status for ack in acks(domain, CENTRAL, domain.address(1))]
    settled_state(domain)


@both
def test_an_answer_of_an_anchor_that_names_an_older_serving_gateway_confirms_nothing(mode: Mode) -> None:
    """Decisions 3 and 17."""
    domain = domain_in(mode)
    moved_along(domain, 1)
    domain.hold_kernel = True
    domain.host_at(2, MAC)
    told = updates(domain, CENTRAL, domain.address(1))[-1]
    domain.pending = [item for item in domain.pending if item[0] != domain.address(1)]
    echoed = (*(o for o in told.options if not isinstance(o, ServingMaar)), ServingMaar(domain.address(3)))
    domain.wire.append((domain.address(1), Send(CENTRAL, BindingAcknowledgement(0, told.sequence, 600, 0x22, echoed))))  # type: ignore[arg-type]
    domain.settle()
    assert not acks(domain, CENTRAL, domain.address(2))
    assert domain.central.counters.of(domain.address(1)).dropped == {"stale-serving-maar": 1}
