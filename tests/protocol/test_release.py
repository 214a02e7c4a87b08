"""Anchors that leave the list, and how the serving gateway hears of it (decisions 13, 14, 18 b; RFC 7077)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from domain import CENTRAL, Domain, domain_settings
from test_idle import advertised, stays
from test_refusals import ask, registration
from test_relay import heard, moved_along, named, unheard
from test_roaming import MAC, acks, roles, updates

from anchord.declared import Role
from anchord.protocol.central import Central
from anchord.protocol.inputs import MessageReceived, UseTold
from anchord.protocol.outputs import Send
from anchord.protocol.settings import CentralSettings, Finding, Mode
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingUpdate,
    NotificationFlag,
    NotificationReason,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import AnchoredPrefix, MobileNodeIdentifier, MobileNodeLinkLayerIdentifier, ServingMaar

every = pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)


def idle(domain: Domain, *numbers: int) -> None:
    """The host does not use what these gateways anchor."""
    pools = [domain.gw[number].settings.me for number in numbers]
    domain.used = lambda prefix: not any(info.owns(prefix) for info in pools)


def notifications(domain: Domain) -> list[UpdateNotification]:
    return [send.message for _, send in domain.sent if isinstance(send.message, UpdateNotification)]


def released_once(domain: Domain) -> None:
    """gw1 gives up its idle prefix of a host at gw2."""
    moved_along(domain, 1, 2)
    idle(domain, 1)
    stays(domain, 2, 280)
    domain.sent.clear()
    stays(domain, 2, 40)


def refusing(domain: Domain) -> Domain:
    """The CMD does not let anchors go."""
    domain.central = Central(CentralSettings(domain.settings, idle_release=False))
    domain.nodes[CENTRAL] = domain.central
    return domain


def release(domain: Domain, number: int, sequence: int = 900) -> BindingUpdate:
    """What gateway ``number`` says to give up its prefix."""
    (session,) = domain.gw[number].sessions.values()
    return registration(domain, prefix=str(session.prefix), lifetime_s=0, sequence=sequence)


@every
def test_decision_18_an_idle_prefix_leaves_the_list_and_the_host_hears_of_it_at_once(mode: Mode) -> None:
    domain = Domain(settings=domain_settings(mode=mode))
    released_once(domain)
    old = next(
        e.prefix for s in domain.declared[domain.address(2)].values() for e in s.entries if "a1:" in str(e.prefix)
    )
    assert not domain.gw[1].sessions and old in domain.gw[1].resting()
    (binding,) = domain.central.bindings.values()
    assert not binding.anchors and list(binding.released) == [old]
    (notification,) = notifications(domain)
    assert notification.reason == NotificationReason.FORCE_REREGISTRATION
    assert notification.flags == NotificationFlag.ACKNOWLEDGE
    assert notification.first(MobileNodeIdentifier) == binding.mn_id
    assert notification.first(MobileNodeLinkLayerIdentifier) == MobileNodeLinkLayerIdentifier(MAC)
    assert named(acks(domain, CENTRAL, domain.address(2))[-1]) == []
    assert advertised(domain, old)[-1] == (0, 0, 0)
    assert roles(domain, 2)["2001:db8:a1"] == (Role.RELEASED, None)


def test_row_20_a_cmd_that_refuses_answers_with_a_lifetime_while_the_host_is_in_the_domain() -> None:
    domain = refusing(Domain())
    released_once(domain)
    (session,) = domain.gw[1].sessions.values()
    (asked,) = [u for u in updates(domain, domain.address(1), CENTRAL) if not u.lifetime_s]
    answer = acks(domain, CENTRAL, domain.address(1))[-1]
    assert answer.sequence == asked.sequence and answer.status == 0 and answer.lifetime_s > 0
    assert roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    assert not notifications(domain) and session.serving == domain.address(2)


def test_a_release_that_is_said_again_is_answered_again() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    (prefix,) = (session.prefix for session in domain.gw[1].sessions.values())
    for sequence in (900, 901):
        message = registration(domain, prefix=str(prefix), lifetime_s=0, sequence=sequence)
        assert [(a.status, a.lifetime_s) for a in ask(domain, message)] == [(0, 0)]
        domain.pass_time(0.5)


def test_decision_18_a_release_that_crosses_an_update_of_the_cmd_is_carried_out() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    (session,) = domain.gw[1].sessions.values()
    said = {"prefix": str(session.prefix), "ServingMaar": ServingMaar(domain.address(2))}
    crossing = registration(domain, sequence=990, **said)
    domain.feed(domain.address(1), UseTold(session.key, False))
    domain.deliver()
    (granted,) = [item for item in domain.wire if isinstance(item[1].message, BindingAcknowledgement)]
    domain.wire.clear()
    domain.feed(domain.address(1), MessageReceived(CENTRAL, crossing))
    domain.install()
    assert domain.gw[1].sessions
    domain.wire.append(granted)
    domain.settle()
    assert not domain.gw[1].sessions and session.prefix in domain.gw[1].resting()


def test_decision_18_an_anchor_that_never_heard_that_it_is_one_no_more_is_let_go_whenever_it_asks() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    (session,) = domain.gw[1].sessions.values()
    asked = release(domain, 1)
    ask(domain, asked, domain.address(1))
    stays(domain, 2, domain.settings.lifetimes.valid_s + 310)
    (binding,) = domain.central.bindings.values()
    assert not binding.released
    asked = registration(domain, prefix=str(session.prefix), lifetime_s=0, sequence=901)
    assert [(ack.status, ack.lifetime_s) for ack in ask(domain, asked, domain.address(1))] == [(0, 0)]


def test_row_83_a_release_older_than_the_hosts_return_is_refused() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    late = release(domain, 1)
    domain.pass_time(0.1)
    domain.host_at(1, MAC)
    assert [ack.status for ack in ask(domain, late)] == [157]
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(1) and not binding.ending


def test_the_end_of_a_session_that_nobody_knows_is_acknowledged() -> None:
    domain = Domain()
    assert [(a.status, a.lifetime_s) for a in ask(domain, registration(domain, lifetime_s=0))] == [(0, 0)]
    assert not domain.central.bindings


@every
def test_row_117_decision_13_a_refused_anchor_that_was_announced_is_withdrawn_at_once(mode: Mode) -> None:
    domain = Domain(settings=domain_settings(mode=mode))
    moved_along(domain, 1)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(2, MAC)
    domain.pass_time(1.0)
    (binding,) = domain.central.bindings.values()
    assert not binding.anchors
    announced = mode is Mode.PROXY
    assert len(notifications(domain)) == announced
    assert roles(domain, 2).get("2001:db8:a1") == ((Role.RELEASED, None) if announced else None)
    stays(domain, 2, 320)
    assert not binding.anchors, "a refresh does not bring it back"


@every
def test_decision_13_a_refused_anchor_hears_that_its_part_is_over_and_keeps_nothing(mode: Mode) -> None:
    """Its kernel may still forward as it was told before, or take later what it has refused."""
    domain = Domain(settings=domain_settings(mode=mode))
    moved_along(domain, 1, 2)
    (prefix,) = (session.prefix for session in domain.gw[1].sessions.values())
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) and state.entries else None
    domain.host_at(3, MAC)
    domain.pass_time(1.0)
    assert updates(domain, CENTRAL, domain.address(1))[-1].lifetime_s == 0
    assert not domain.gw[1].sessions and prefix in domain.gw[1].resting()
    assert not any(state.entries for state in domain.declared[domain.address(1)].values())
    domain.sent.clear()
    domain.pass_time(60.0)
    assert not updates(domain, CENTRAL, domain.address(1))


def test_decision_13_14_in_proxy_mode_a_silent_anchor_is_withdrawn_and_comes_back() -> None:
    domain = Domain()
    moved_along(domain, 1)
    unheard(domain, 1)
    domain.host_at(2, MAC)
    assert roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    domain.pass_time(8.0)
    assert roles(domain, 2)["2001:db8:a1"] == (Role.RELEASED, None)
    (binding,) = domain.central.bindings.values()
    assert binding.unconfirmed == {domain.address(1): True}
    domain.restart(CENTRAL)
    domain.pass_time(8.0)
    heard(domain)
    domain.pass_time(40.0)
    assert roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    assert roles(domain, 1)["2001:db8:a1"] == (Role.EXPORTED, domain.address(2))


def test_an_anchor_that_misses_a_refresh_keeps_what_it_forwards() -> None:
    """Its daemon may be down while its kernel goes on."""
    domain = Domain()
    moved_along(domain, 1, 2)
    stays(domain, 2, 300)
    unheard(domain, 1)
    stays(domain, 2, 700)
    assert [u for u in updates(domain, CENTRAL, domain.address(1)) if u.lifetime_s][1:], "it was asked again"
    assert roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))


def test_decision_14_an_unanswered_notification_is_repeated_once_with_the_d_flag_and_given_up() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.lose = lambda sender, send: isinstance(send.message, UpdateNotification)
    ask(domain, release(domain, 1))
    domain.pass_time(10.0)
    first, second = notifications(domain)
    assert second == replace(first, flags=first.flags | NotificationFlag.RETRANSMITTED)
    assert [r.event for _, r in domain.reports].count("notification-unanswered") == 1
    assert roles(domain, 2)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    heard(domain)
    stays(domain, 2, 320)
    assert roles(domain, 2)["2001:db8:a1"] == (Role.RELEASED, None), "its next refresh"


def test_rfc_7077_a_lost_acknowledgement_costs_nothing_once_the_gateway_has_registered_again() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.lose = lambda sender, send: isinstance(send.message, UpdateNotificationAcknowledgement)
    domain.feed(CENTRAL, MessageReceived(domain.address(1), release(domain, 1)))
    domain.settle()
    domain.pass_time(10.0)
    assert len(notifications(domain)) == 1


def test_rfc_7077_a_gateway_that_does_not_know_the_message_is_never_sent_another_one() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.lose = lambda sender, send: isinstance(send.message, UpdateNotification)
    ask(domain, release(domain, 1))
    domain.feed(CENTRAL, MessageReceived(domain.address(2), BindingError(2)))
    domain.pass_time(10.0)
    assert len(notifications(domain)) == 1
    assert roles(domain, 2)["2001:db8:a1"] == (Role.RELEASED, None), "it knows revocations"
    moved_along(domain, 3, 2)
    ask(domain, release(domain, 3), domain.address(3))
    domain.pass_time(10.0)
    assert len(notifications(domain)) == 1
    assert domain.central.counters.local["notifications.unable"] == 2


def test_a_binding_error_to_something_else_stops_no_notification() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.feed(CENTRAL, MessageReceived(domain.address(2), BindingError(2)))
    ask(domain, release(domain, 1))
    assert len(notifications(domain)) == 1


def test_two_anchors_that_leave_together_make_one_notification() -> None:
    domain = Domain(settings=domain_settings(4))
    moved_along(domain, 1, 2, 3)
    domain.feed(CENTRAL, MessageReceived(domain.address(1), release(domain, 1)))
    domain.pass_time(0.001)
    domain.feed(CENTRAL, MessageReceived(domain.address(2), release(domain, 2)))
    assert len(notifications(domain)) == 1
    domain.settle()
    assert named(acks(domain, CENTRAL, domain.address(3))[-1]) == []


def test_a_failed_notification_is_told_to_the_operator() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.feed(CENTRAL, MessageReceived(domain.address(1), release(domain, 1)))
    (notification,) = notifications(domain)
    domain.wire.clear()
    failed = UpdateNotificationAcknowledgement(notification.sequence, 128, notification.options)
    domain.wire.append((domain.address(2), Send(CENTRAL, failed)))
    domain.settle()
    assert [r.fields["status"] for _, r in domain.reports if r.event == "notification-failed"] == [128]
    domain.pass_time(5.0)
    assert len(notifications(domain)) == 1


def test_decision_20_the_end_of_a_session_reaches_an_anchor_that_was_away_for_a_while() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.lose = lambda sender, send: domain.address(1) in (sender, send.destination)
    domain.pass_time(640.0)
    assert not domain.central.bindings and domain.gw[1].sessions
    heard(domain)
    domain.pass_time(40.0)
    assert not domain.gw[1].sessions


def test_decision_20_an_anchor_whose_clock_is_wrong_hears_of_the_end_when_it_is_right_again() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.skew[domain.address(1)] = 5.0
    domain.pass_time(620.0)
    assert not domain.central.bindings and domain.gw[1].sessions
    assert 156 in [ack.status for ack in acks(domain, domain.address(1), CENTRAL)]
    domain.skew.clear()
    domain.pass_time(33.0)
    assert not domain.gw[1].sessions


def test_a_host_that_comes_back_to_an_anchor_that_is_being_told_of_the_end_stays() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    unheard(domain, 1)
    domain.pass_time(630.0)
    assert not domain.central.bindings
    heard(domain)
    domain.host_at(1, MAC)
    domain.sent.clear()
    domain.pass_time(60.0)
    assert not updates(domain, CENTRAL, domain.address(1))
    assert roles(domain, 1) == {"2001:db8:a1": (Role.ANCHORED, None)}


def test_decision_19_an_anchor_that_was_away_for_longer_ends_by_itself() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    domain.lose = lambda sender, send: domain.address(1) in (sender, send.destination)
    domain.pass_time(1200.0)
    heard(domain)
    domain.pass_time(120.0)
    assert domain.gw[1].sessions, "nobody tells it any more"
    domain.pass_time(600.0)
    assert not domain.gw[1].sessions


def test_decision_26_a_gateway_that_went_on_alone_brings_the_anchors_it_found() -> None:
    """Its late registration lists them; who is new to the CMD is told where the host is."""
    domain = Domain(settings=domain_settings(4))
    moved_along(domain, 2, 1)
    (binding,) = domain.central.bindings.values()
    extra = AnchoredPrefix(next(iter(domain.gw[4].settings.me.pools[0].subnets(new_prefix=64))))
    (session,) = domain.gw[1].sessions.values()
    message = registration(domain, prefix=str(session.prefix), sequence=950, extra=extra)
    (ack,) = ask(domain, message)
    assert named(ack) == [domain.address(2), domain.address(4)]
    assert updates(domain, CENTRAL, domain.address(4))[-1].lifetime_s
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(2), domain.address(4)]


def test_decision_26_what_was_given_up_or_is_somebody_elses_is_not_taken_over() -> None:
    domain = Domain(settings=domain_settings(4))
    moved_along(domain, 2, 1)
    (session,) = domain.gw[2].sessions.values()
    given_up, other = session.prefix, bytes.fromhex("0255aa000009")
    ask(domain, registration(domain, prefix=str(given_up), lifetime_s=0, sequence=900), domain.address(2))
    domain.host_at(3, other)
    theirs = next(s.prefix for s in domain.gw[3].sessions.values() if s.mac == other)
    domain.pass_time(1.0)
    (mine,) = domain.gw[1].sessions.values()
    message = registration(
        domain, prefix=str(mine.prefix), sequence=950, a=AnchoredPrefix(given_up), b=AnchoredPrefix(theirs)
    )
    assert [named(ack) for ack in ask(domain, message)] == [[]]


def test_decision_18_an_answer_that_an_anchor_gave_before_it_was_let_go_does_not_bring_it_back() -> None:
    domain = Domain(settings=domain_settings(central=None, finding=Finding.ANCHOR_KNOWN), neighbours={2: (1,)})
    moved_along(domain, 1, 2)
    (key,) = domain.gw[1].sessions
    assert domain.gw[2].sessions[key].anchors
    domain.host_at(2, MAC, settle=False, solicited=True, reassociated=True)
    domain.pass_time(0.01)
    domain.feed(domain.address(1), UseTold(key, False))
    (refresh,) = [at for at, (_, send) in enumerate(domain.wire) if send.destination == domain.address(1)]
    domain.deliver(refresh)
    domain.settle()
    assert not domain.gw[1].sessions and not domain.gw[2].sessions[key].anchors
