"""Binding Revocation (RFC 5846): who revokes what, and what is done about silence and refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from test_direct import address_in, alone
from test_roaming import MAC, roles, updates

from anchord.declared import Role
from anchord.protocol.clues import GLANCE_FRAMES
from anchord.protocol.identity import mn_id_of_mac, mn_id_text
from anchord.protocol.inputs import HostSeen, MessageReceived
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase
from anchord.protocol.settings import Limits
from anchord.wire.messages import (
    BindingError,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    Heartbeat,
    Message,
    RevocationFlag,
    RevocationStatus,
    RevocationTrigger,
    UpdateNotification,
)
from anchord.wire.options import (
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
)

NODE: tuple[Option, ...] = (mn_id_of_mac(MAC), MobileNodeLinkLayerIdentifier(MAC))
OUT_OF_SYNC = RevocationTrigger.POSSIBLE_OUT_OF_SYNC_BCE_STATE


def indication(
    *prefixes: IPv6Network,
    trigger: int = OUT_OF_SYNC,
    flags: RevocationFlag = RevocationFlag.PROXY,
    node: tuple[Option, ...] = NODE,
) -> BindingRevocationIndication:
    return BindingRevocationIndication(trigger, 77, flags, (*node, *map(HomeNetworkPrefix, prefixes)))


def revoke_at(domain: Domain, number: int, message: BindingRevocationIndication, source: IPv6Address = CENTRAL) -> int:
    """What a gateway answers: its status. Everything else that the answer has to be is looked at here."""
    begin = len(domain.sent)
    domain.feed(domain.address(number), MessageReceived(source, message))
    sent = [send for sender, send in domain.sent[begin:] if sender == domain.address(number)]
    acks = [send for send in sent if isinstance(send.message, BindingRevocationAcknowledgement)]
    assert len(acks) == 1 and acks[0].destination == source
    ack = acks[0].message
    assert isinstance(ack, BindingRevocationAcknowledgement)
    assert (ack.sequence, ack.flags) == (message.sequence, message.flags)
    domain.settle()
    return ack.status


def prefix(domain: Domain, number: int) -> IPv6Network:
    return next(iter(domain.gw[number].sessions.values())).prefix


def indications(domain: Domain) -> list[tuple[IPv6Address, BindingRevocationIndication]]:
    return [
        (send.destination, send.message)
        for _, send in domain.sent
        if isinstance(send.message, BindingRevocationIndication)
    ]


def roamed() -> Domain:
    """A host with a prefix of gw1, and one of gw2, where it is."""
    domain = Domain()
    for number in (1, 2):
        domain.host_at(number, MAC)
    domain.shown.clear()
    return domain


def gone(domain: Domain) -> set[IPv6Network]:
    """What hosts were told to forget."""
    return {shown.prefix for _, order in domain.shown for shown in order.prefixes if not shown.valid_s}


# A gateway that is told


def test_row_148_an_anchors_prefix_is_withdrawn_and_acknowledged() -> None:
    domain = roamed()
    old = prefix(domain, 1)
    assert revoke_at(domain, 2, indication(old)) == RevocationStatus.SUCCESS
    assert roles(domain, 2) == {"2001:db8:a2": (Role.ANCHORED, None), "2001:db8:a1": (Role.RELEASED, None)}
    assert gone(domain) == {old}
    assert revoke_at(domain, 2, indication(old)) == RevocationStatus.BINDING_DOES_NOT_EXIST


def test_row_148_its_own_prefix_is_the_session() -> None:
    domain = roamed()
    both = {prefix(domain, 1), prefix(domain, 2)}
    assert revoke_at(domain, 2, indication(prefix(domain, 2))) == RevocationStatus.SUCCESS
    assert not domain.gw[2].sessions and roles(domain, 2) == {} and gone(domain) == both
    domain.host_at(2, MAC)
    assert domain.gw[2].sessions, "whoever is still there comes back"


def test_row_148_without_prefixes_everything_of_the_node_is_meant() -> None:
    domain = roamed()
    assert revoke_at(domain, 1, indication()) == RevocationStatus.SUCCESS
    assert revoke_at(domain, 2, indication()) == RevocationStatus.SUCCESS
    assert not domain.gw[1].sessions and not domain.gw[2].sessions


def test_row_148_what_is_not_held_is_named_in_the_answer() -> None:
    domain = roamed()
    other = IPv6Network("2001:db8:a3:1::/64")
    assert revoke_at(domain, 2, indication(prefix(domain, 1), other)) == RevocationStatus.PARTIAL_SUCCESS
    ack = domain.sent[-1][1].message
    assert [option.prefix for option in ack.options if isinstance(option, HomeNetworkPrefix)] == [other]


def test_row_148_after_an_administrators_revocation_the_host_is_let_alone_for_a_while() -> None:
    domain = roamed()
    revoke_at(domain, 2, indication(prefix(domain, 2), trigger=RevocationTrigger.ADMINISTRATIVE_REASON))
    domain.feed(domain.address(2), HostSeen("acc0", MAC))
    assert not domain.gw[2].sessions
    assert domain.gw[2].counters.local["frame.refused"] == 1
    domain.pass_time(domain.settings.timing.refuse_s + 1)
    domain.host_at(2, MAC)
    assert domain.gw[2].sessions


NONE = IPv6Network("2001:db8:ffff::/64")
BAD: dict[str, tuple[BindingRevocationIndication, int]] = {
    "every binding": (indication(flags=RevocationFlag.PROXY | RevocationFlag.GLOBAL, trigger=128, node=()), 130),
    "a realm": (indication(flags=RevocationFlag.PROXY | RevocationFlag.GLOBAL, trigger=129), 130),
    "a trigger for many": (indication(trigger=128), 134),
    "not of a proxy": (indication(flags=RevocationFlag(0)), 134),
    "a trigger nobody knows": (indication(trigger=77), 133),
    "an IPv4 address": (indication(flags=RevocationFlag.PROXY | RevocationFlag.IPV4_ONLY), 128),
    "nobody": (indication(NONE, node=()), 131),
    "an empty identifier": (indication(NONE, node=(MobileNodeIdentifier(1, b""),)), 131),
    "a stranger": (indication(NONE, node=(MobileNodeIdentifier(1, b"stranger@example"),)), 128),
    "another prefix": (indication(NONE), 128),
}


@pytest.mark.parametrize("case", BAD)
def test_row_148_what_cannot_be_revoked_is_refused_and_changes_nothing(case: str) -> None:
    domain = roamed()
    message, status = BAD[case]
    before = roles(domain, 2)
    assert revoke_at(domain, 2, message) == status
    assert roles(domain, 2) == before and not gone(domain)
    assert domain.gw[2].counters.of(CENTRAL).dropped == {f"revocation-refused.{status}": 1}


MOVED = (
    RevocationTrigger.HANDOVER_SAME_ACCESS_TYPE,
    RevocationTrigger.HANDOVER_DIFFERENT_ACCESS_TYPE,
    RevocationTrigger.HANDOVER_UNKNOWN,
)


def told_that_it_moved(trigger: int = RevocationTrigger.HANDOVER_UNKNOWN) -> Domain:
    """A gateway that serves a node has just been told that it has gone to another one."""
    domain = roamed()
    domain.sent.clear()
    domain.feed(domain.address(2), MessageReceived(CENTRAL, indication(prefix(domain, 2), trigger=trigger)))
    assert not answered(domain), "the node is asked first"
    assert [probe.mac for who, probe in domain.probes if who == domain.address(2)] == [MAC]
    return domain


def answered(domain: Domain) -> list[int]:
    """What gateways have said to revocations."""
    acks = [send.message for _, send in domain.sent if isinstance(send.message, BindingRevocationAcknowledgement)]
    assert all(ack.sequence == 77 for ack in acks)
    return [ack.status for ack in acks]


@pytest.mark.parametrize("trigger", MOVED)
def test_row_148_a_node_that_is_said_to_have_moved_and_does_not_answer_is_let_go(trigger: int) -> None:
    domain = told_that_it_moved(trigger)
    domain.pass_time(0.31)
    assert answered(domain) == [RevocationStatus.SUCCESS] and len(domain.probes) == 3
    assert not domain.gw[2].sessions
    assert not domain.shown, "should it be here all the same, it keeps its router"


def test_row_148_a_node_that_is_said_to_have_moved_and_sends_on_is_kept_and_registered_again() -> None:
    domain = told_that_it_moved()
    before = roles(domain, 2)
    domain.host_at(2, MAC)  # data, which is not looked at otherwise
    assert answered(domain) == [132]
    assert domain.gw[2].counters.of(CENTRAL).dropped == {"revocation-refused.132": 1}
    (claim,) = updates(domain, domain.address(2), CENTRAL)
    assert claim.first(HandoffIndicator) == HandoffIndicator(Handoff.UNKNOWN)
    domain.pass_time(1.0)
    assert answered(domain) == [132] and roles(domain, 2) == before and not gone(domain)
    for _ in range(GLANCE_FRAMES):
        domain.host_at(2, MAC)
    assert ("acc0", MAC) in domain.ignored[domain.address(2)], "its data is spared again"


def test_row_148_a_frame_that_had_been_waiting_does_not_say_that_the_node_is_here() -> None:
    domain = told_that_it_moved()
    domain.host_at(2, MAC, age_s=0.05)
    assert not answered(domain) and domain.gw[2].counters.local["frame.before-departure"] == 1
    domain.pass_time(0.31)
    assert answered(domain) == [RevocationStatus.SUCCESS]


def test_row_148_a_node_on_another_link_of_the_same_gateway_is_here() -> None:
    domain = told_that_it_moved()
    domain.host_at(2, MAC, interface="acc1")
    domain.pass_time(0.31)
    assert answered(domain) == [132] and len(updates(domain, domain.address(2), CENTRAL)) == 1


def test_row_148_an_indication_that_is_repeated_meanwhile_is_answered_once() -> None:
    domain = told_that_it_moved()
    domain.pass_time(0.2)
    moved = indication(prefix(domain, 2), trigger=RevocationTrigger.HANDOVER_UNKNOWN)
    domain.feed(domain.address(2), MessageReceived(CENTRAL, moved))
    domain.pass_time(0.11)
    assert answered(domain) == [RevocationStatus.SUCCESS]


def test_row_148_a_node_that_has_just_come_has_not_moved() -> None:
    domain = roamed()
    domain.host_at(1, MAC, settle=False)  # whose registration is on its way
    moved = indication(prefix(domain, 1), trigger=RevocationTrigger.HANDOVER_UNKNOWN)
    assert revoke_at(domain, 1, moved) == 132


def test_row_148_a_gateway_may_revoke_what_it_anchors_and_nothing_else() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, address=address_in(domain, 1))
    before = roles(domain, 2)
    assert set(before) == {"2001:db8:a1", "2001:db8:a2"}
    one, two, three = (domain.address(number) for number in (1, 2, 3))
    assert two != three
    assert revoke_at(domain, 2, indication(), three) == RevocationStatus.BINDING_DOES_NOT_EXIST
    assert revoke_at(domain, 2, indication(prefix(domain, 2)), one) == RevocationStatus.BINDING_DOES_NOT_EXIST
    assert roles(domain, 2) == before
    assert revoke_at(domain, 2, indication(prefix(domain, 1)), one) == RevocationStatus.SUCCESS
    assert roles(domain, 2) == {"2001:db8:a2": (Role.ANCHORED, None), "2001:db8:a1": (Role.RELEASED, None)}


def test_row_148_the_cmd_is_not_revoked_by_gateways() -> None:
    domain = roamed()
    domain.sent.clear()
    domain.feed(CENTRAL, MessageReceived(domain.address(1), indication()))
    ((_, send),) = domain.sent
    assert isinstance(send.message, BindingRevocationAcknowledgement) and send.message.status == 134
    assert len(domain.central.bindings) == 1


# The CMD, when an anchor's prefix is gone


def refusing_anchor(domain: Domain) -> None:
    """gw1 cannot tunnel: its prefix is lost when the host moves to gw2, which does not know Update Notifications."""
    lose = domain.lose
    domain.lose = lambda sender, send: isinstance(send.message, UpdateNotification) or lose(sender, send)
    domain.host_at(1, MAC)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(2, MAC)
    domain.feed(CENTRAL, MessageReceived(domain.address(2), BindingError(2)))
    domain.pass_time(1.1)


def test_row_148_an_anchor_that_refuses_is_withdrawn_where_the_host_is() -> None:
    domain = Domain()
    refusing_anchor(domain)
    (old,) = domain.gw[1].resting()
    ((destination, message),) = indications(domain)
    assert destination == domain.address(2)
    assert message.flags == RevocationFlag.PROXY and message.trigger == OUT_OF_SYNC
    assert message.options == (NODE[0], HomeNetworkPrefix(old), NODE[1])
    assert gone(domain) == {old}
    domain.pass_time(10.0)
    assert len(indications(domain)) == 1, "it was acknowledged"


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_row_148_without_an_answer_it_is_said_again_and_then_given_up(retries: int) -> None:
    domain = Domain(settings=domain_settings(limits=Limits(revocation_retries=retries)))
    domain.lose = lambda sender, send: isinstance(send.message, BindingRevocationIndication)
    refusing_anchor(domain)
    domain.pass_time(30.0)
    said = indications(domain)
    assert len(said) == 1 + retries and len({message for _, message in said}) == 1, "the same message"
    at = [
        at for at, (_, send) in zip(domain.times, domain.sent, strict=True)
        if isinstance(send.message, BindingRevocationIndication)
    ]  # fmt: skip
    assert [round(later - earlier, 3) for earlier, later in itertools.pairwise(at)] == [1.0, 2.0, 2.0][:retries]
    assert [r.event for _, r in domain.reports if r.event.startswith("revocation")] == ["revocation-unanswered"]
    assert domain.central.counters.of(domain.address(2)).repeated == retries


def test_row_148_an_acknowledgement_that_nobody_waits_for_is_counted() -> None:
    domain = roamed()
    for node, peer in ((CENTRAL, domain.address(2)), (domain.address(2), CENTRAL)):
        domain.feed(node, MessageReceived(peer, BindingRevocationAcknowledgement(0, 5, RevocationFlag.PROXY)))
        assert domain.nodes[node].counters.of(peer).dropped == {"unmatched-revocation-ack": 1}
    assert len(domain.central.bindings) == 1


def test_who_does_not_know_revocations_is_sent_none_any_more() -> None:
    domain = Domain()
    domain.lose = lambda sender, send: isinstance(send.message, BindingRevocationIndication)
    refusing_anchor(domain)
    domain.feed(CENTRAL, MessageReceived(domain.address(2), BindingError(2)))
    domain.pass_time(60.0)
    assert len(indications(domain)) == 1
    assert [r.fields["type"] for _, r in domain.reports if r.event == "type-unknown"] == [
        "UpdateNotification", "BindingRevocationIndication",
    ]  # fmt: skip
    domain.central.revoke(mn_id_text(mn_id_of_mac(MAC)), domain.now)
    assert domain.central.counters.local["revocation-unknown"] == 1
    assert not domain.central.bindings, "it is over for us all the same"


def test_an_error_that_may_be_about_either_of_two_messages_stops_neither() -> None:
    domain = Domain()
    domain.restart(CENTRAL)
    domain.lose = lambda sender, send: (
        sender == CENTRAL and isinstance(send.message, BindingRevocationIndication | Heartbeat)
    )
    domain.host_at(1, MAC)
    beats: list[Message] = []
    while not beats:
        domain.pass_time(0.1)
        sent = [send.message for sender, send in domain.sent if send.destination == domain.address(1)]
        beats = [message for message in sent if isinstance(message, Heartbeat) and not message.flags]
    _, outputs = domain.central.revoke(mn_id_text(mn_id_of_mac(MAC)), domain.now)
    domain.perform(CENTRAL, outputs)
    domain.feed(CENTRAL, MessageReceived(domain.address(1), BindingError(2)))
    assert not [r for _, r in domain.reports if r.event == "type-unknown"]
    domain.pass_time(1.1)
    assert len(indications(domain)) == 2


# An administrator


def revoke(domain: Domain, named: str | IPv6Network) -> list[str]:
    names, outputs = domain.central.revoke(named, domain.now)
    domain.perform(CENTRAL, outputs)
    domain.settle()
    return names


@pytest.mark.parametrize("named", ["identifier", "prefix here", "prefix there"])
def test_an_administrator_ends_a_session_everywhere(named: str) -> None:
    domain = roamed()
    text = mn_id_text(mn_id_of_mac(MAC))
    what = {"identifier": text, "prefix here": prefix(domain, 2), "prefix there": prefix(domain, 1)}[named]
    assert revoke(domain, what) == [text]
    ((destination, message),) = indications(domain)
    assert destination == domain.address(2) and message.trigger == RevocationTrigger.ADMINISTRATIVE_REASON
    assert not domain.central.bindings and not domain.journal[CENTRAL]["binding"]
    for number in (1, 2):
        assert not domain.gw[number].sessions and roles(domain, number) == {}
    assert revoke(domain, what) == []


def test_only_the_host_that_is_meant() -> None:
    domain = roamed()
    other = bytes([2, 0, 0, 0, 0, 99])
    domain.host_at(2, other)
    assert revoke(domain, "nobody@example") == []
    assert revoke(domain, mn_id_text(mn_id_of_mac(MAC))) == [mn_id_text(mn_id_of_mac(MAC))]
    (left,) = domain.central.bindings.values()
    assert left.link_layer_id == other and len(domain.gw[2].sessions) == 1


def test_row_148_a_session_whose_gateway_does_not_answer_is_cleaned_up() -> None:
    domain = roamed()
    domain.lose = lambda sender, send: send.destination == domain.address(2)
    revoke(domain, mn_id_text(mn_id_of_mac(MAC)))
    assert len(domain.central.bindings) == 1, "it is waited for"
    domain.pass_time(3.5)
    assert not domain.central.bindings and not domain.gw[1].sessions


def test_a_session_that_has_moved_on_meanwhile_is_revoked_where_it_is() -> None:
    domain = roamed()
    domain.lose = lambda sender, send: (
        isinstance(send.message, BindingRevocationIndication) and (send.destination == domain.address(2))
    )
    revoke(domain, mn_id_text(mn_id_of_mac(MAC)))
    domain.host_at(3, MAC)
    domain.pass_time(4.0)
    assert not domain.central.bindings
    assert not any(gateway.sessions for gateway in domain.gw.values())


def test_a_refresh_does_not_save_a_session_that_is_being_revoked() -> None:
    domain = roamed()
    domain.lose = lambda sender, send: isinstance(send.message, BindingRevocationIndication)
    revoke(domain, mn_id_text(mn_id_of_mac(MAC)))
    domain.host_at(2, MAC, reassociated=True)
    domain.pass_time(1.5)
    domain.lose = lambda sender, send: False
    domain.pass_time(2.0)
    assert not domain.central.bindings


def test_a_prefix_and_the_session_are_revoked_at_the_same_time() -> None:
    domain = Domain()
    domain.lose = lambda sender, send: isinstance(send.message, BindingRevocationIndication)
    refusing_anchor(domain)
    revoke(domain, mn_id_text(mn_id_of_mac(MAC)))
    domain.pass_time(4.0)
    said = [message.trigger for _, message in indications(domain)]
    assert sorted(said) == [RevocationTrigger.ADMINISTRATIVE_REASON] * 2 + [OUT_OF_SYNC] * 2
    assert not domain.central.bindings


def test_after_a_crash_in_the_middle_the_session_ends_all_the_same() -> None:
    domain = roamed()
    _, outputs = domain.central.revoke(mn_id_text(mn_id_of_mac(MAC)), domain.now)
    domain.perform(CENTRAL, [output for output in outputs if not isinstance(output, Send)])
    domain.restart(CENTRAL)
    domain.pass_time(15.0)
    assert not domain.central.bindings
    assert domain.gw[2].sessions[next(iter(domain.gw[2].sessions))].phase is Phase.SERVING, "it was never asked"


def test_a_gateway_that_refuses_is_reported_and_the_session_ends_here() -> None:
    domain = roamed()
    domain.lose = lambda sender, send: isinstance(send.message, BindingRevocationIndication)
    revoke(domain, mn_id_text(mn_id_of_mac(MAC)))
    ((_, message),) = indications(domain)
    answer = BindingRevocationAcknowledgement(130, message.sequence, message.flags)
    domain.feed(CENTRAL, MessageReceived(domain.address(3), answer))
    assert domain.central.bindings, "not its to answer"
    domain.feed(CENTRAL, MessageReceived(domain.address(2), replace(answer)))
    assert not domain.central.bindings
    assert domain.central.counters.of(domain.address(2)).dropped == {"revocation-refused.130": 1}
    assert [r.fields["status"] for _, r in domain.reports if r.event == "revocation-refused"] == [130]
