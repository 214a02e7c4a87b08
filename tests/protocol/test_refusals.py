"""What is not valid, not authorised or not in order changes nothing, and is answered or counted as the RFCs say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, START_WALL_S, Domain, domain_settings
from test_roaming import MAC, OTHER, acks, roles, updates

from anchord.declared import LogicalRouter, Role
from anchord.protocol.central import Central
from anchord.protocol.counters import Counters
from anchord.protocol.exchange import ticks_of
from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import MessageDropped, MessageReceived
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase
from anchord.protocol.settings import CentralSettings, Limits
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingUpdate,
    BindingUpdateFlag,
    Message,
    NotificationFlag,
    UnknownMessage,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import (
    AccessTechnologyType,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    MalformedOption,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    PreviousMaar,
    ServingMaar,
    Timestamp,
    UnknownOption,
)

FLAGS = (
    BindingUpdateFlag.ACKNOWLEDGE
    | BindingUpdateFlag.HOME_REGISTRATION
    | BindingUpdateFlag.PROXY
    | BindingUpdateFlag.DISTRIBUTED
)
STRANGER = IPv6Address("2001:db8:bad::1")


def registration(
    domain: Domain, prefix: str = "2001:db8:a1:77::/64", mac: bytes = MAC, **changes: object
) -> BindingUpdate:
    """A valid registration by gw1, with some options replaced (by class name) or left out (None)."""
    options: dict[str, Option | None] = {
        "MobileNodeIdentifier": MobileNodeIdentifier(5, mac),
        "HomeNetworkPrefix": HomeNetworkPrefix(IPv6Network(prefix)),
        "HandoffIndicator": HandoffIndicator(Handoff.UNKNOWN),
        "AccessTechnologyType": AccessTechnologyType(3),
        "Timestamp": Timestamp(ticks_of(domain.now.wall_s)),
        "MobileNodeLinkLayerIdentifier": MobileNodeLinkLayerIdentifier(mac),
    }
    message = {"sequence": 1, "lifetime_s": 600, "flags": FLAGS}
    for name, value in changes.items():
        (message if name in message else options)[name] = value  # type: ignore[index,assignment]
    kept = tuple(option for option in options.values() if option is not None)
    return BindingUpdate(**message, options=kept)  # type: ignore[arg-type]


def ask(domain: Domain, message: Message, source: IPv6Address | None = None) -> list[BindingAcknowledgement]:
    before, flying = len(domain.sent), list(domain.wire)
    domain.feed(CENTRAL, MessageReceived(source or domain.address(1), message))
    domain.wire = flying  # the gateway itself has not asked: it hears nothing of this
    return [s.message for _, s in domain.sent[before:] if isinstance(s.message, BindingAcknowledgement)]


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (160, {"MobileNodeIdentifier": None}),
        (129, {"flags": FLAGS & ~BindingUpdateFlag.DISTRIBUTED}),
        (158, {"HomeNetworkPrefix": None}),
        (161, {"HandoffIndicator": None}),
        (162, {"AccessTechnologyType": None}),
        (155, {"prefix": "2001:db8:a2:77::/64"}),
        (155, {"prefix": "2001:db8:a1::/48"}),
        (155, {"prefix": "2001:db8:dead::/64"}),
        (155, {"prefix": "::/0"}),
        (156, {"Timestamp": Timestamp(ticks_of(START_WALL_S - 60))}),
        (156, {"Timestamp": Timestamp(ticks_of(START_WALL_S + 60))}),
    ],
    ids=str,
)
def test_row_56_61_62_63_66_84_decision_5_21_each_fault_has_its_status(status: int, changes: dict[str, object]) -> None:
    domain = Domain()
    (ack,) = ask(domain, registration(domain, **changes))
    assert ack.status == status
    assert not domain.central.bindings and not domain.journal[CENTRAL].get("binding")


def test_row_52_60_the_order_of_checks_identity_before_time_before_content() -> None:
    domain = Domain()
    old = Timestamp(ticks_of(START_WALL_S - 60))
    all_wrong = registration(domain, MobileNodeIdentifier=None, HomeNetworkPrefix=None, Timestamp=old)
    time_and_content = registration(domain, HomeNetworkPrefix=None, Timestamp=old)
    assert [ask(domain, m)[0].status for m in (all_wrong, time_and_content)] == [160, 156]


def test_row_58_a_host_that_is_not_listed_gets_153() -> None:
    domain = Domain()
    domain.central = Central(CentralSettings(domain.settings, frozenset({OTHER})))
    domain.nodes[CENTRAL] = domain.central
    domain.host_at(1, MAC)
    assert acks(domain, CENTRAL, domain.address(1))[-1].status == 153
    assert not domain.shown and not domain.gw[1].sessions
    domain.host_at(1, OTHER)
    assert domain.shown


def test_a_cmd_that_is_full_refuses_who_is_new_and_keeps_whom_it_has() -> None:
    domain = Domain(settings=domain_settings(3, limits=Limits(bindings=1)))
    domain.host_at(1, MAC)
    (ack,) = ask(domain, registration(domain, mac=OTHER))
    assert ack.status == 130 and domain.central.counters.local["limit.bindings"] == 1
    domain.host_at(2, MAC)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(2)


def test_a_refused_host_is_not_tried_again_with_every_frame() -> None:
    domain = Domain()
    domain.central = Central(CentralSettings(domain.settings, frozenset({OTHER})))
    domain.nodes[CENTRAL] = domain.central
    for _ in range(50):
        domain.host_at(1, MAC, solicited=True)
    domain.pass_time(28.0)
    assert domain.ignored[domain.address(1)] == {("acc0", MAC)}, "until refuse_s is over"
    domain.host_at(1, MAC)
    assert len(updates(domain, domain.address(1), CENTRAL)) == 1
    domain.pass_time(3.0)
    assert not domain.ignored[domain.address(1)]
    domain.host_at(1, MAC)
    assert len(updates(domain, domain.address(1), CENTRAL)) == 2


def test_row_133_no_binding_error_about_a_binding_error_or_to_a_group() -> None:
    domain = Domain()
    for message, unicast in ((BindingError(1), True), (UnknownMessage(200, bytes(10)), False)):
        for node in (CENTRAL, domain.address(1)):
            peer = domain.address(2)
            domain.feed(node, MessageReceived(peer, message, unicast))
    assert not domain.sent


@pytest.mark.parametrize("status", list(BindingErrorStatus))
def test_row_133_whoever_does_not_understand_a_binding_error_says_nothing(status: BindingErrorStatus) -> None:
    domain = Domain()
    peer = domain.address(2)
    out = Outbox(Counters((peer,)))
    out.unrecognized(MessageReceived(peer, BindingError(status)), domain.now)
    assert out.take_outputs() == [] and out.counters.of(peer).dropped == {}
    out.unrecognized(MessageReceived(peer, UnknownMessage(77, bytes(2))), domain.now)
    assert out.take_outputs() == [Send(peer, BindingError(BindingErrorStatus.UNRECOGNIZED_MH_TYPE))]


@pytest.mark.parametrize("identifier", [None, MobileNodeIdentifier(5, b"")], ids=["none", "empty"])
def test_row_56_an_anchor_refuses_an_update_about_nobody_with_160(identifier: MobileNodeIdentifier | None) -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.sent.clear()
    held = str(domain.shown[-1][1].prefixes[0].prefix)
    serving = ServingMaar(domain.address(2))
    update = registration(domain, prefix=held, sequence=70, MobileNodeIdentifier=identifier, extra=serving)
    domain.feed(domain.address(1), MessageReceived(CENTRAL, update))
    (sent,) = [send for _, send in domain.sent]
    assert isinstance(sent.message, BindingAcknowledgement)
    assert (sent.destination, sent.message.status) == (CENTRAL, 160)
    # RFC 5213 section 5.3.6: a PBA to a PBU without an identifier has an empty one.
    echoed = sent.message.first(MobileNodeIdentifier)
    assert echoed is not None and echoed.identifier == b""
    assert domain.gw[1].counters.of(CENTRAL).refused == {"missing-mn-identifier-option": 1}
    assert roles(domain, 1) == {"2001:db8:a1": (Role.ANCHORED, None)}


def test_row_70_a_registration_within_the_delay_is_a_session_that_does_not_end() -> None:
    domain = Domain()
    assert ask(domain, registration(domain))[0].status == 0
    domain.pass_time(1.0)
    assert ask(domain, registration(domain, sequence=2, lifetime_s=0))[0].status == 0
    (binding,) = domain.central.bindings.values()
    assert binding.ending
    domain.pass_time(1.0)
    assert ask(domain, registration(domain, sequence=3))[0].status == 0
    assert not binding.ending


def test_row_119_a_gateway_serves_who_is_listed_there_and_counts_the_others() -> None:
    domain = Domain()
    gateway = Gateway(replace(domain.gw[1].settings, listed=frozenset({OTHER})))
    domain.gw[1] = domain.nodes[domain.address(1)] = gateway
    domain.host_at(1, MAC)
    assert not gateway.sessions and not domain.sent and gateway.counters.local == {"frame.not-listed": 1}
    domain.host_at(1, OTHER)
    assert len(gateway.sessions) == 1 and domain.shown


def test_row_94_a_clock_that_steps_back_sends_no_older_timestamp() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.skew[domain.address(1)] = -0.2
    domain.host_at(1, MAC, solicited=True)
    domain.pass_time(0.15)
    domain.host_at(1, MAC, reassociated=True, solicited=True)
    first, second = (update.first(Timestamp) for update in updates(domain, domain.address(1), CENTRAL))
    assert first is not None and second is not None and second.ticks > first.ticks
    assert [ack.status for ack in acks(domain, CENTRAL, domain.address(1))] == [0, 0]


def test_row_59_100_a_host_that_is_denied_gets_152_and_is_not_asked_about_again() -> None:
    domain = Domain()
    domain.central = Central(CentralSettings(domain.settings, frozenset({OTHER, MAC}), denied=frozenset({MAC})))
    domain.nodes[CENTRAL] = domain.central
    for _ in range(3):
        domain.host_at(1, MAC, solicited=True)
        domain.pass_time(31.0)  # when its frames are looked at again
    assert [ack.status for ack in acks(domain, CENTRAL, domain.address(1))] == [152]
    assert not domain.shown and not domain.gw[1].sessions and roles(domain, 1) == {}
    domain.host_at(1, OTHER)
    assert domain.shown


def test_row_59_100_a_host_that_is_denied_while_it_is_served_is_served_no_more() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=IPv6Address("fe80::1234"))
    denying = Central(CentralSettings(domain.settings, denied=frozenset({MAC})))
    denying.restore({t: dict(rows) for t, rows in domain.journal[CENTRAL].items()}, domain.now)
    domain.central = domain.nodes[CENTRAL] = denying
    domain.pass_time(299.0)
    domain.host_at(1, MAC, solicited=True)
    domain.pass_time(62.0)
    domain.host_at(1, MAC, solicited=True)
    assert [ack.status for ack in acks(domain, CENTRAL, domain.address(1))] == [0, 152]
    assert domain.shown[-1][1].router_lifetime_s == 0 and not domain.gw[1].sessions and roles(domain, 1) == {}


def test_row_66_77_another_hosts_prefix_is_refused_with_155() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    held = domain.shown[-1][1].prefixes[0].prefix
    (ack,) = ask(domain, registration(domain, prefix=str(held), mac=OTHER))
    assert ack.status == 155
    assert len(domain.central.bindings) == 1


def test_row_83_an_older_timestamp_gets_157_with_the_own_time_of_day() -> None:
    domain = Domain()
    assert ask(domain, registration(domain))[0].status == 0
    older = Timestamp(ticks_of(domain.now.wall_s) - 1)
    (ack,) = ask(domain, registration(domain, Timestamp=older, sequence=2))
    assert ack.status == 157
    assert ack.first(Timestamp) == Timestamp(ticks_of(domain.now.wall_s))


def test_decision_11_the_same_message_again_is_answered_again_without_effect() -> None:
    domain = Domain()
    message = registration(domain)
    first, again = ask(domain, message), ask(domain, message)
    assert first == again and first[0].status == 0


def test_row_85_135_without_timestamps_the_sequence_number_decides() -> None:
    domain = Domain()
    assert ask(domain, registration(domain, Timestamp=None, sequence=7))[0].status == 0
    (refused,) = ask(domain, registration(domain, Timestamp=None, sequence=7))
    assert (refused.status, refused.sequence) == (135, 7)
    assert refused.first(Timestamp) is None
    assert ask(domain, registration(domain, Timestamp=None, sequence=8))[0].status == 0


def test_row_134_135_sequence_numbers_are_compared_modulo_65536() -> None:
    domain = Domain()
    ask(domain, registration(domain, Timestamp=None, sequence=65535))
    assert ask(domain, registration(domain, Timestamp=None, sequence=3))[0].status == 0
    assert ask(domain, registration(domain, Timestamp=None, sequence=3 + 32768))[0].status == 135


def test_decision_6_a_refresh_with_a_foreign_prefix_set_gets_159() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    refresh = registration(domain, HandoffIndicator=HandoffIndicator(Handoff.UNCHANGED), sequence=99)
    assert ask(domain, refresh)[0].status == 159


def test_row_47_decision_36_nothing_from_an_address_that_is_not_configured() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    for node in (CENTRAL, domain.address(1)):
        domain.sent.clear()
        before = {a: dict(j) for a, j in domain.journal.items()}
        domain.feed(node, MessageReceived(STRANGER, registration(domain, sequence=50)))
        assert not domain.sent and domain.journal == before
        assert domain.nodes[node].counters.strangers.dropped == {"unconfigured-peer": 1}


def test_strangers_make_no_table_grow() -> None:
    domain = Domain()
    for number in range(1000):
        domain.feed(CENTRAL, MessageReceived(STRANGER + number, registration(domain)))
    assert len(domain.central.counters.peers) == 3
    assert domain.central.counters.strangers.messages_in == 1000


def test_row_47_gateways_do_not_believe_each_other_while_a_cmd_stands_between_them() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    forged = registration(domain, ServingMaar=ServingMaar(domain.address(2)))
    domain.feed(domain.address(1), MessageReceived(domain.address(2), forged))
    assert roles(domain, 1) == {"2001:db8:a1": (Role.ANCHORED, None)}


@pytest.mark.parametrize("role", ["central", "gateway"])
@pytest.mark.parametrize(
    "message",
    [
        UnknownMessage(77, bytes(2)),
        UpdateNotification(1, 1, NotificationFlag.ACKNOWLEDGE),
    ],
    ids=lambda message: type(message).__name__,
)
def test_row_130_a_message_that_is_not_understood_gets_a_binding_error_2(role: str, message: Message) -> None:
    domain = Domain()
    node, peer = CENTRAL if role == "central" else domain.address(1), domain.address(2)
    domain.feed(node, MessageReceived(peer, message, unicast=False))
    domain.feed(node, MessageReceived(peer, message))
    assert [(sent.destination, sent.message) for sender, sent in domain.sent if sender == node] == [
        (peer, BindingError(2))
    ]
    assert domain.nodes[node].counters.of(peer).dropped == {"unknown-type": 1, "unknown-type-unanswered": 1}


def test_row_130_what_only_a_cmd_can_be_told_means_nothing_to_a_gateway() -> None:
    domain = Domain()
    told = MessageReceived(domain.address(2), UpdateNotificationAcknowledgement(1, 0))
    domain.feed(domain.address(1), told)
    assert [sent.message for _, sent in domain.sent] == [BindingError(2)]
    domain.sent.clear()
    domain.feed(CENTRAL, told)
    assert not domain.sent
    assert domain.central.counters.of(domain.address(2)).dropped == {"unmatched-notification-ack": 1}


def test_row_137_without_the_acknowledge_or_proxy_flag_nothing_is_said() -> None:
    domain = Domain()
    for flag in (BindingUpdateFlag.ACKNOWLEDGE, BindingUpdateFlag.PROXY):
        assert not ask(domain, registration(domain, flags=FLAGS & ~flag))
    assert domain.central.counters.of(domain.address(1)).dropped == {"not-a-proxy-update": 2}


def test_malformed_messages_are_counted_by_cause() -> None:
    domain = Domain()
    domain.feed(CENTRAL, MessageDropped(domain.address(1), "malformed.truncated"))
    assert domain.central.counters.of(domain.address(1)).dropped == {"malformed.truncated": 1}


def test_row_34_unknown_options_are_skipped() -> None:
    domain = Domain()
    message = registration(domain)
    message = replace(message, options=(UnknownOption(200, b"abc"), *message.options, UnknownOption(201, b"")))
    assert ask(domain, message)[0].status == 0


def test_decision_35_an_update_to_an_anchor_without_a_usable_serving_maar_gets_128() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    held = str(domain.shown[-1][1].prefixes[0].prefix)
    domain.pass_time(1.0)
    for extra in (None, MalformedOption(68, bytes(7)), ServingMaar(STRANGER)):
        domain.sent.clear()
        update = registration(domain, prefix=held, sequence=70, extra=extra)
        domain.feed(domain.address(1), MessageReceived(CENTRAL, update))
        assert [s.message.status for _, s in domain.sent if isinstance(s.message, BindingAcknowledgement)] == [128]
    assert roles(domain, 1) == {"2001:db8:a1": (Role.ANCHORED, None)}


def test_decision_17_an_older_update_does_not_move_the_tunnel_back() -> None:
    domain = Domain()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    about_gw2 = next(
        u for u in updates(domain, CENTRAL, domain.address(1)) if u.first(ServingMaar) == ServingMaar(domain.address(2))
    )
    domain.feed(domain.address(1), MessageReceived(CENTRAL, replace(about_gw2, sequence=900)))
    assert domain.sent[-1][1].message.status == 157  # type: ignore[union-attr]
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}


def test_row_21_69_a_deregistration_by_another_gateway_than_the_serving_one_is_ignored() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    held = str(domain.shown[-1][1].prefixes[0].prefix)
    domain.host_at(2, MAC)
    domain.pass_time(1.0)
    end = registration(domain, prefix="2001:db8:a1:77::/64", lifetime_s=0, sequence=500)
    assert held != "2001:db8:a1:77::/64" and not ask(domain, end, domain.address(1))
    assert domain.central.counters.of(domain.address(1)).dropped == {"deregistration-not-serving": 1}
    stranger = registration(domain, prefix="2001:db8:a3:77::/64", lifetime_s=0, sequence=500)
    assert [(ack.status, ack.lifetime_s) for ack in ask(domain, stranger, domain.address(3))] == [(0, 0)]
    domain.pass_time(20.0)
    (binding,) = domain.central.bindings.values()
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(1)]


def test_row_98_139_an_acknowledgement_nobody_waits_for_changes_nothing() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    ack = acks(domain, CENTRAL, domain.address(1))[-1]
    before = roles(domain, 1)
    domain.feed(domain.address(1), MessageReceived(CENTRAL, replace(ack, sequence=ack.sequence + 5, status=0)))
    assert roles(domain, 1) == before
    assert domain.gw[1].counters.of(CENTRAL).dropped == {"unmatched-ack": 1}


def test_row_139_while_an_answer_is_awaited_another_number_is_not_it() -> None:
    domain = Domain()
    domain.lose = lambda sender, send: sender == CENTRAL
    domain.host_at(1, MAC)
    (ack,) = acks(domain, CENTRAL, domain.address(1))
    (session,) = domain.gw[1].sessions.values()
    domain.feed(domain.address(1), MessageReceived(CENTRAL, replace(ack, sequence=ack.sequence + 5)))
    assert not session.registered and domain.gw[1].counters.of(CENTRAL).dropped == {"unmatched-ack": 1}
    domain.feed(domain.address(1), MessageReceived(CENTRAL, ack))
    assert session.registered


def test_row_99_an_answer_about_somebody_else_is_ignored_and_not_asked_again() -> None:
    domain = Domain()
    domain.hold_kernel = True
    domain.host_at(1, MAC, settle=False)
    (update,) = updates(domain, domain.address(1), CENTRAL)
    domain.wire.clear()
    wrong = BindingAcknowledgement(0, update.sequence, 600, 0x22, (MobileNodeIdentifier(5, OTHER),))  # type: ignore[arg-type]
    domain.feed(domain.address(1), MessageReceived(CENTRAL, wrong))
    domain.hold_kernel = False
    domain.sent.clear()
    domain.pass_time(5.0)
    assert not updates(domain, domain.address(1), CENTRAL)


def test_decision_21_an_answer_without_the_d_flag_does_not_register() -> None:
    domain = Domain()
    domain.host_at(1, MAC, settle=False)
    (update,) = updates(domain, domain.address(1), CENTRAL)
    domain.wire.clear()
    legacy = BindingAcknowledgement(0, update.sequence, 600, 0x20, update.options)  # type: ignore[arg-type]
    domain.feed(domain.address(1), MessageReceived(CENTRAL, legacy))
    assert not domain.shown and domain.gw[1].counters.of(CENTRAL).dropped == {"not-distributed": 1}


def test_row_101_after_157_the_gateway_registers_again_with_a_newer_timestamp() -> None:
    domain = Domain()
    ahead = Timestamp(ticks_of(domain.now.wall_s + 0.25))
    held = Domain()
    held.host_at(1, MAC)
    prefix = str(held.shown[-1][1].prefixes[0].prefix)
    assert ask(domain, registration(domain, prefix=prefix, Timestamp=ahead))[0].status == 0
    domain.host_at(1, MAC)
    assert acks(domain, CENTRAL, domain.address(1))[-1].status == 157
    domain.pass_time(1.5)
    assert acks(domain, CENTRAL, domain.address(1))[-1].status == 0
    (session,) = domain.gw[1].sessions.values()
    assert session.phase is Phase.SERVING and session.registered


def test_row_101_status_157_is_answered_at_once_by_the_time_of_now_but_only_once() -> None:
    domain = Domain()
    domain.host_at(1, MAC, settle=False)
    (first,) = updates(domain, domain.address(1), CENTRAL)
    domain.wire.clear()
    for expected in (2, 2):
        asked = updates(domain, domain.address(1), CENTRAL)[-1]
        older = BindingAcknowledgement(157, asked.sequence, 0, 0x22, asked.options)  # type: ignore[arg-type]
        domain.feed(domain.address(1), MessageReceived(CENTRAL, older))
        assert len(updates(domain, domain.address(1), CENTRAL)) == expected
    stamps = [update.first(Timestamp) for update in (first, updates(domain, domain.address(1), CENTRAL)[-1])]
    assert stamps[0] and stamps[1] and stamps[1].ticks > stamps[0].ticks


def test_row_101_a_cmd_that_says_157_is_not_silent_and_nobody_else_is_asked() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, settle=False)
    for _ in range(2):
        domain.wire.clear()
        asked = updates(domain, domain.address(2), CENTRAL)[-1]
        older = BindingAcknowledgement(157, asked.sequence, 0, 0x22, asked.options)  # type: ignore[arg-type]
        domain.feed(domain.address(2), MessageReceived(CENTRAL, older))
    domain.wire.clear()
    domain.pass_time(domain.settings.timing.fallback_s + 0.01)
    (session,) = domain.gw[2].sessions.values()
    assert session.phase is Phase.SERVING and not session.registered, "it has an address all the same"
    assert not updates(domain, domain.address(2), domain.address(1))
    domain.pass_time(1.5)
    assert session.registered and [anchor.maar for anchor in session.anchors] == [domain.address(1)]


def test_row_102_after_155_the_same_prefix_is_not_asked_for_again() -> None:
    domain = Domain()
    reference = Domain()
    reference.host_at(1, MAC)
    taken = str(reference.shown[-1][1].prefixes[0].prefix)
    ask(domain, registration(domain, prefix=taken, mac=OTHER))
    domain.host_at(1, MAC)
    assert acks(domain, CENTRAL, domain.address(1))[-1].status == 155
    domain.pass_time(31.0)
    domain.host_at(1, MAC)
    asked = [u.first(HomeNetworkPrefix) for u in updates(domain, domain.address(1), CENTRAL)]
    assert asked[0] != asked[-1]
    assert acks(domain, CENTRAL, domain.address(1))[-1].status == 0


def test_row_135_141_the_named_sequence_number_is_adopted() -> None:
    domain = Domain()
    domain.host_at(1, MAC, settle=False)
    (update,) = updates(domain, domain.address(1), CENTRAL)
    domain.wire.clear()
    out_of_window = BindingAcknowledgement(135, 4000, 0, 0x22, update.options)  # type: ignore[arg-type]
    domain.feed(domain.address(1), MessageReceived(CENTRAL, out_of_window))
    assert updates(domain, domain.address(1), CENTRAL)[-1].sequence == 4001


def test_row_51_an_anchor_outside_its_own_pool_is_not_believed() -> None:
    """A CMD that names gw3 as the anchor of a prefix of gw1's pool."""
    domain = Domain()
    domain.host_at(2, MAC, settle=False)
    (update,) = updates(domain, domain.address(2), CENTRAL)
    domain.wire.clear()
    lie = PreviousMaar(domain.address(3), IPv6Network("2001:db8:a1:5::/64"))
    stranger = PreviousMaar(STRANGER, IPv6Network("2001:db8:a1:5::/64"))
    ack = BindingAcknowledgement(0, update.sequence, 600, 0x22, (*update.options, lie, stranger))  # type: ignore[arg-type]
    domain.feed(domain.address(2), MessageReceived(CENTRAL, ack))
    domain.settle()
    assert roles(domain, 2) == {"2001:db8:a2": (Role.ANCHORED, None)}
    assert domain.gw[2].counters.of(CENTRAL).dropped["foreign-anchor"] == 2


def test_an_anchors_face_that_no_host_would_take_is_derived_instead() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    (binding,) = domain.central.bindings.values()
    bad = LogicalRouter(bytes.fromhex("030000000001"), IPv6Address("2001:db8::1"))
    binding.serving = replace(binding.serving, router=bad, local_networks=(IPv6Network("fd00::/48"),) * 3)
    domain.host_at(2, MAC)
    old = domain.shown[-1][1]
    assert old.router.address.is_link_local and not old.router.mac[0] & 1
    assert old.routes == (IPv6Network("fd00::/48"),)


def test_nodes_with_different_domain_files_tell_their_operators_once() -> None:
    domain = Domain()
    other = replace(domain.settings, digest=b"other---")
    domain.central = Central(CentralSettings(other))
    domain.nodes[CENTRAL] = domain.central
    domain.host_at(1, MAC)
    domain.host_at(1, OTHER)
    told = [(who, report.fields["peer"]) for who, report in domain.reports if report.event == "domain-differs"]
    assert told == [(CENTRAL, str(domain.address(1))), (domain.address(1), str(CENTRAL))]
    assert domain.shown, "it is an alarm, not a refusal"


def test_nodes_with_the_same_domain_file_know_it() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    assert domain.gw[1].counters.of(CENTRAL).same_domain is True
    assert domain.central.counters.of(domain.address(1)).same_domain is True
    assert domain.central.counters.of(domain.address(2)).same_domain is None


def test_row_101_an_anchor_whose_clock_differs_is_asked_with_back_off() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    prefix = domain.shown[-1][1].prefixes[0].prefix
    domain.sent.clear()
    domain.skew[domain.address(1)] = 5.0
    domain.host_at(2, MAC)
    domain.pass_time(20.0)
    asked = updates(domain, CENTRAL, domain.address(1))
    assert len(asked) == 5, "after 0, 1, 3, 7 and 15 seconds"
    domain.skew.clear()
    domain.pass_time(40.0)
    assert roles(domain, 1) == {str(prefix)[:11]: (Role.EXPORTED, domain.address(2))}


def test_row_101_the_difference_between_two_clocks_is_reported_once_until_they_agree() -> None:
    domain = Domain()
    domain.skew[domain.address(1)] = 5.0
    for mac in (MAC, OTHER, MAC):
        domain.host_at(1, mac)
        domain.pass_time(31.0)
    (report,) = (report for who, report in domain.reports if report.event == "clocks-differ")
    assert report.fields["peer"] == str(CENTRAL)
    assert abs(report.fields["skew_ms"] + 5000) <= 2  # theirs is behind ours; the answer was 0.5 ms on its way
    peer = domain.gw[1].counters.of(CENTRAL)
    assert peer.clock_skew_ms is not None and abs(peer.clock_skew_ms + 5000) <= 2
    asked = updates(domain, domain.address(1), CENTRAL)
    assert len(asked) == 3  # one for each time that a host was looked at
    domain.skew.clear()
    domain.host_at(1, MAC)
    assert domain.shown and peer.clock_skew_ms is None
    domain.skew[domain.address(1)] = -5.0
    domain.host_at(1, OTHER)
    assert [r.fields["skew_ms"] > 0 for _, r in domain.reports if r.event == "clocks-differ"] == [False, True]


def test_row_101_an_anchor_whose_clock_differs_is_reported_by_the_cmd() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.skew[domain.address(1)] = 5.0
    domain.host_at(2, MAC)
    domain.pass_time(20.0)
    reports = [report for who, report in domain.reports if report.event == "clocks-differ" and who == CENTRAL]
    assert [report.fields["peer"] for report in reports] == [str(domain.address(1))]
    assert abs(reports[0].fields["skew_ms"] - 5000) <= 2


def test_a_155_to_a_host_that_comes_back_leaves_its_prefix_to_it() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    prefix = domain.shown[-1][1].prefixes[0].prefix
    domain.host_at(2, MAC)
    domain.host_at(1, MAC, settle=False)
    domain.wire.clear()
    update = updates(domain, domain.address(1), CENTRAL)[-1]
    refusal = BindingAcknowledgement(155, update.sequence, 0, 0x22, update.options)  # type: ignore[arg-type]
    domain.feed(domain.address(1), MessageReceived(CENTRAL, refusal))
    domain.settle()
    assert roles(domain, 1) == {str(prefix)[:11]: (Role.EXPORTED, domain.address(2))}
    assert prefix not in domain.gw[1].resting()


def test_row_85_a_domain_without_timestamps_hands_over() -> None:
    domain = Domain(settings=domain_settings(timestamps=False))
    for number in (1, 2, 3, 1):
        domain.host_at(number, MAC)
    assert {ack.status for who in (1, 2, 3) for ack in acks(domain, CENTRAL, domain.address(who))} == {0}
    assert set(roles(domain, 1)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3"}


def test_row_85_without_timestamps_an_anchor_goes_by_sequence_number() -> None:
    domain = Domain(settings=domain_settings(timestamps=False))
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    about_gw2 = next(
        u for u in updates(domain, CENTRAL, domain.address(1)) if u.first(ServingMaar) == ServingMaar(domain.address(2))
    )
    newest = updates(domain, CENTRAL, domain.address(1))[-1].sequence
    domain.feed(domain.address(1), MessageReceived(CENTRAL, about_gw2))
    answer = domain.sent[-1][1].message
    assert isinstance(answer, BindingAcknowledgement) and (answer.status, answer.sequence) == (135, newest)
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}


@pytest.mark.parametrize("asked", ["fe80::77", "::"])
def test_row_75_decision_28_a_link_local_address_option_is_answered_with_one(asked: str) -> None:
    domain = Domain()
    face = LogicalRouter(bytes.fromhex("020102030405"), IPv6Address("fe80::1:2ff:fe03:405"))
    message = registration(domain, a=LinkLocalAddress(IPv6Address(asked)), b=DlifLinkLocalAddress(face.address))
    message = replace(message, options=(*message.options, DlifLinkLayerAddress(face.mac)))
    (ack,) = ask(domain, message)
    expected = face.address if asked == "::" else IPv6Address(asked)
    assert ack.first(LinkLocalAddress) == LinkLocalAddress(expected)
