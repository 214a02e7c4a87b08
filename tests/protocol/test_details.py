"""Single conditions and single words of a message that no procedure as a whole depends on, and somebody does."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from test_budget import tour
from test_budget_alone import FINDERS, Roaming, domain_of, number_of
from test_direct import CHAIN, MAC, address_in, alone, anchors, prefix_at, session_at, told
from test_directory import PREFIXES, with_directory
from test_idle import stays
from test_life import HOST
from test_peerlife import born, lose, moments
from test_refusals import ask, registration
from test_relay import domain_in, moved_along, named, unheard
from test_roaming import acks, roles, updates

from anchord.protocol.groups import write_group
from anchord.protocol.inputs import HostSeen, MessageReceived, SegmentConflict
from anchord.protocol.outputs import Ignore
from anchord.protocol.session import Phase
from anchord.protocol.settings import Finding, Limits, Mode
from anchord.wire.header import encode
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, UpdateNotification
from anchord.wire.options import (
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeLinkLayerIdentifier,
    ServingMaar,
)

UNKNOWN = IPv6Address("2001:db8:bad::1")


# What is told once


def test_a_late_answer_of_an_anchor_starts_no_round_of_messages() -> None:
    """Its prefix was shown while the CMD was silent and is withheld since: nobody need be told otherwise."""
    domain = Domain(4, domain_settings(4, limits=Limits(anchors_per_host=3)), CHAIN)
    tour(domain, 3)
    old = address_in(domain, 1)
    deaf = domain.address(3)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination) or send.destination == deaf
    domain.host_at(4, MAC, address=old)
    domain.pass_time(0.5)
    domain.lose = lambda sender, send: send.destination == deaf
    stays(domain, 4, 10)
    session = session_at(domain, 4)
    assert session.registered and session.withheld and session.shown
    domain.lose = lambda sender, send: False
    before = sum(told(domain, 4, number) for number in (1, 2, 3))
    stays(domain, 4, 60)
    told_more = sum(told(domain, 4, number) for number in (1, 2, 3)) - before
    assert told_more <= 2, "what the deaf one had not heard, and whether the CMD has given the oldest up"


def test_that_a_host_is_served_keeps_its_frames_away_once() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    outputs = domain.gw[1].handle(HostSeen("acc0", MAC, solicited=True), domain.now)
    assert outputs and not [output for output in outputs if isinstance(output, Ignore)]


# Who is believed what


def test_row_135_the_number_that_a_refusal_names_is_the_last_one_of_this_interface() -> None:
    domain = Domain()
    assert ask(domain, registration(domain, Timestamp=None, sequence=7))[0].status == 0
    (refused,) = ask(domain, registration(domain, Timestamp=None, sequence=5))
    assert (refused.status, refused.sequence) == (135, 7)


def test_a_gateway_in_the_record_that_nobody_knows_is_not_asked() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    (held,) = domain.directory.entries.values()
    assert held.value is not None
    value = {**held.value, "anchors": [{**held.value["serving"], "maar": str(UNKNOWN)}]}
    domain.directory.compare_and_set(held.key, held.revision, value, lambda outcome: None)
    domain.host_at(2, MAC)
    assert set(roles(domain, 2)) == set(PREFIXES[:2])
    assert not [send for _, send in domain.sent if send.destination == UNKNOWN]


def test_an_old_update_of_the_cmd_is_refused_and_the_cmd_is_asked_for_nothing() -> None:
    domain = Domain()
    for number in (1, 2, 1):
        domain.host_at(number, MAC)
    old = updates(domain, CENTRAL, domain.address(1))[0]
    domain.sent.clear()
    domain.feed(domain.address(1), MessageReceived(CENTRAL, old))
    (answer,) = [send.message for _, send in domain.sent]
    assert isinstance(answer, BindingAcknowledgement) and answer.status == 157


# What is remembered


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_decision_13_that_an_anchor_is_silent_survives_a_restart_of_the_cmd(mode: Mode) -> None:
    domain = domain_in(mode)
    moved_along(domain, 1)
    unheard(domain, 1)
    domain.host_at(2, MAC)
    domain.pass_time(8.0)
    domain.restart(CENTRAL)
    domain.host_at(3, MAC)
    assert session_at(domain, 3).phase is Phase.SERVING, "nobody waits for it"
    assert named(acks(domain, CENTRAL, domain.address(3))[-1]) == [domain.address(2)]


@pytest.mark.parametrize("timestamps", [True, False])
def test_who_withheld_its_prefix_keeps_nothing_of_a_host_that_has_moved_on(timestamps: bool) -> None:
    limits = Limits(anchors_per_host=1)
    domain = Domain(settings=domain_settings(3, limits=limits, timestamps=timestamps))
    tour(domain, 2)
    assert session_at(domain, 2).withheld
    domain.host_at(3, MAC)
    assert session_at(domain, 3).phase is Phase.SERVING
    assert not domain.gw[2].sessions


def test_what_was_given_to_a_host_whose_anchor_refused_it_is_kept_through_a_restart_of_the_cmd() -> None:
    domain = Domain(settings=domain_settings(2, limits=Limits(anchors_per_host=1)))
    domain.host_at(1, MAC)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(2, MAC)
    domain.pass_time(3.0)
    domain.restart(CENTRAL)
    (binding,) = domain.central.bindings.values()
    assert not binding.withheld


# Refusals that come where something else is expected


def test_in_locator_mode_an_anchor_that_refuses_is_not_forwarded_through() -> None:
    domain = domain_in(Mode.LOCATOR)
    domain.host_at(1, MAC)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(2, MAC)
    refusals = [ack.status for ack in acks(domain, domain.address(1), domain.address(2))]
    assert refusals and all(status >= 128 for status in refusals)
    assert domain.gw[2].counters.of(domain.address(1)).dropped == {"unmatched-ack": len(refusals)}


def test_a_refusal_under_a_number_that_was_answered_before_adds_no_anchor() -> None:
    domain = Domain()
    moved_along(domain, 1, 2, 3)
    known = anchors(domain, 3)
    answer = acks(domain, CENTRAL, domain.address(3))[-1]
    groups = [write_group(anchor) for anchor in session_at(domain, 3).anchors]
    domain.host_at(3, MAC, solicited=True, reassociated=True)
    domain.host_at(2, MAC)
    again = acks(domain, CENTRAL, domain.address(2))[-1]
    assert answer.options and len(groups) == 2 and known == {domain.address(1), domain.address(2)}
    late = replace(again, status=130, options=(*again.options, *groups[0][:1]))
    before = session_at(domain, 2).anchors
    domain.feed(domain.address(2), MessageReceived(CENTRAL, late))
    assert session_at(domain, 2).anchors == before
    assert domain.gw[2].counters.of(CENTRAL).dropped["unmatched-ack"] == 1


@pytest.mark.parametrize("octets", [5, 8])
def test_decision_31_nobody_is_made_of_an_update_whose_link_layer_identifier_is_no_mac_address(octets: int) -> None:
    domain = Domain()
    update = registration(
        domain,
        mobile=ServingMaar(domain.address(2)),
        MobileNodeLinkLayerIdentifier=MobileNodeLinkLayerIdentifier(bytes(range(2, 2 + octets))),
    )
    domain.feed(domain.address(1), MessageReceived(CENTRAL, update))
    assert not domain.gw[1].sessions
    assert [ack.status for ack in acks(domain, domain.address(1), CENTRAL)] == [155]


# Limits


def test_no_more_anchors_are_asked_for_a_host_than_twice_what_it_may_hold() -> None:
    settings = domain_settings(5, central=None, finding=Finding.ANCHOR_KNOWN, limits=Limits(anchors_per_host=1))
    domain = Domain(5, settings)
    for number in (1, 2, 3, 4):
        domain.host_at(5, MAC, address=IPv6Address(f"2001:db8:a{number}::abcd"), settle=False)
    domain.settle()
    assert [told(domain, 5, number) for number in (1, 2, 3, 4)] == [1, 1, 0, 0]
    assert domain.gw[5].counters.local["limit.anchors"] == 2


@FINDERS
def test_the_older_of_two_makes_room_for_the_new_one(finding: Finding) -> None:
    domain = domain_of(finding, limit=2)
    roaming = Roaming(domain)
    for number in (1, 2, 3):
        roaming.to(number)
        domain.pass_time(5.0)
    assert number_of(roaming.preferred(3)) == 2
    roaming.stay(3, 1300)
    assert number_of(roaming.preferred(3)) == 3
    assert not domain.gw[1].sessions and domain.gw[2].sessions


def test_decision_33_however_much_a_host_holds_every_message_about_it_fits() -> None:
    gateways = 60
    domain = Domain(settings=domain_settings(gateways, limits=Limits(anchors_per_host=gateways)))
    for number in range(1, gateways + 1):
        domain.host_at(number, MAC)
    longest = max(len(encode(send.message)) for _, send in domain.sent)
    assert 1000 < longest <= 1240
    assert len(anchors(domain, gateways)) == gateways - 1


def test_of_two_anchors_the_idle_one_goes_and_the_other_stays() -> None:
    domain = alone(neighbours={2: (1,), 3: (2,)})
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    idle = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != idle
    stays(domain, 3, 320)
    assert not domain.gw[1].sessions and idle in domain.gw[1].resting()
    assert anchors(domain, 3) == {domain.address(2)}


# Peers


def test_a_gateway_that_lost_its_journal_is_told_of_its_host_at_once_however_many_others_there_are() -> None:
    domain = born(Domain(settings=domain_settings(limits=Limits(updates_per_s=100.0, hosts=1000, attach_burst=1000))))
    for number in range(100):
        domain.host_at(3, bytes([2, 0, 0, 0, 1, number]))
        domain.pass_time(0.05)
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(5.0)
    domain.sent.clear()
    domain.times.clear()
    began_s = domain.now.monotonic_s
    lose(domain, domain.address(1))
    domain.pass_time(1.0)
    about = moments(domain, CENTRAL, BindingUpdate)
    assert len(about) == 1 and about[0] - began_s < 0.1


def test_row_144_of_a_peer_without_bindings_it_is_not_said_that_it_can_be_reached() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(100.0)
    assert domain.central.counters.of(domain.address(1)).reachable is True
    domain.pass_time(900.0)
    assert not domain.central.bindings
    assert domain.central.counters.of(domain.address(1)).reachable is None


def test_every_message_of_a_peer_is_counted_once() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    sent = [send for sender, send in domain.sent if sender == domain.address(1)]
    assert domain.central.counters.of(domain.address(1)).messages_in == len(sent) == 1


# Ends


def test_without_serve_unregistered_a_host_that_was_never_registered_and_has_left_is_forgotten() -> None:
    domain = Domain(settings=domain_settings(serve_unregistered=False))
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(domain.settings.lifetimes.binding_s + 1.0)
    assert not domain.gw[1].sessions


def test_a_gateway_that_was_registered_as_a_host_is_deregistered() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.feed(domain.address(1), SegmentConflict("acc0", "gw2/acc0", MAC))
    domain.settle()
    assert updates(domain, domain.address(1), CENTRAL)[-1].lifetime_s == 0


def test_row_138_a_refresh_lasts_no_longer_than_the_cmd_wants_it_to() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    prefix = prefix_at(domain, 1)
    domain.pass_time(1.0)
    unchanged = HandoffIndicator(Handoff.UNCHANGED)
    refresh = registration(domain, str(prefix), HandoffIndicator=unchanged, sequence=50, lifetime_s=6000)
    (answer,) = ask(domain, refresh)
    assert (answer.status, answer.lifetime_s) == (0, domain.settings.lifetimes.binding_s)
    domain.nodes.pop(domain.address(1))
    domain.pass_time(domain.settings.lifetimes.binding_s + domain.settings.timing.min_delay_before_bce_delete_s + 1.0)
    assert not domain.central.bindings


def test_a_prefix_that_nobody_uses_is_given_up_by_a_gateway_that_was_restarted_too() -> None:
    domain = Domain()
    moved_along(domain, 1, 2)
    idle = prefix_at(domain, 1)
    domain.used = lambda prefix: prefix != idle
    domain.restart(domain.address(1))
    stays(domain, 2, domain.settings.timing.idle_release_s + 20.0)
    assert not domain.gw[1].sessions


def test_row_101_an_anchor_whose_clock_differs_is_asked_again_after_a_while_and_not_at_once() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.skew[domain.address(1)] = 60.0
    domain.host_at(2, MAC)
    assert {ack.status for ack in acks(domain, domain.address(1), domain.address(2))} == {156}
    stays(domain, 2, domain.settings.timing.refuse_s - 10.0)
    assert told(domain, 2, 1) == 1
    stays(domain, 2, 20.0)
    assert told(domain, 2, 1) == 2


def test_a_gateway_asks_itself_nothing_about_its_own_prefix() -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    domain.host_at(1, MAC, address=address_in(domain, 1), solicited=True)
    domain.pass_time(5.0)
    assert not domain.sent


def test_an_anchor_that_holds_another_prefix_than_the_cmd_knew_is_believed_and_the_serving_gateway_hears_of_it() -> (
    None
):
    domain = Domain()
    moved_along(domain, 1)
    known = prefix_at(domain, 1)
    domain.lose = lambda sender, send: (sender, send.destination) == (domain.address(1), CENTRAL)
    domain.host_at(2, MAC)
    answer = acks(domain, domain.address(1), CENTRAL)[-1]
    other = HomeNetworkPrefix(IPv6Network((int(known.network_address) + (1 << 64), 64)))
    options = tuple(other if isinstance(option, HomeNetworkPrefix) else option for option in answer.options)
    domain.sent.clear()
    domain.feed(CENTRAL, MessageReceived(domain.address(1), replace(answer, options=options)))
    (binding,) = domain.central.bindings.values()
    assert [anchor.prefixes for anchor in binding.anchors] == [(other.prefix,)]
    assert list(binding.released) == [known], "the host may have an address of it"
    ((_, told_of_it),) = domain.sent
    assert told_of_it.destination == domain.address(2) and isinstance(told_of_it.message, UpdateNotification)


def test_row_111_a_repetition_that_waited_for_the_host_is_counted_as_one() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    old = address_in(domain, 1)
    domain.lose = lambda sender, send: send.destination == domain.address(2)
    domain.host_at(2, MAC, address=old)
    domain.pass_time(1.5)
    assert domain.gw[2].counters.of(domain.address(1)).repeated == 0
    domain.host_at(2, MAC, address=old, solicited=True)
    assert (told(domain, 2, 1), domain.gw[2].counters.of(domain.address(1)).repeated) == (2, 1)
