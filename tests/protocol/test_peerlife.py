"""Heartbeats, and what is done about a peer that has lost its sessions (RFC 5847)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from domain import CENTRAL, START_WALL_S, Domain, domain_settings
from test_life import HOST
from test_roaming import MAC, roles

from anchord.declared import Role
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.peerlife import ANNOUNCEMENTS
from anchord.protocol.settings import Limits, Mode
from anchord.wire.messages import (
    BindingError,
    BindingErrorStatus,
    BindingUpdate,
    Heartbeat,
    HeartbeatFlag,
    Message,
    UnknownMessage,
)
from anchord.wire.options import RestartCounter, UnknownOption

UNSOLICITED = HeartbeatFlag.RESPONSE | HeartbeatFlag.UNSOLICITED
MODES = pytest.mark.parametrize("mode", Mode)
ROLES = pytest.mark.parametrize("role", ["central", "gateway"])


def born(domain: Domain) -> Domain:
    """Every node has begun its life, and has said so."""
    for address in domain.nodes:
        domain.restart(address)
    domain.pass_time(5.0)
    domain.sent.clear()
    domain.times.clear()
    domain.reports.clear()
    return domain


def moments(domain: Domain, sender: IPv6Address, kind: type[Message]) -> list[float]:
    """When a node sent messages of that kind, since the last time that both lists were cleared."""
    sent = zip(domain.times, domain.sent, strict=True)
    return [at for at, (source, send) in sent if source == sender and isinstance(send.message, kind)]


def ends(domain: Domain, role: str) -> tuple[IPv6Address, IPv6Address]:
    """A node in that role and a peer of it."""
    return (CENTRAL, domain.address(1)) if role == "central" else (domain.address(1), CENTRAL)


def heartbeats(domain: Domain, sender: IPv6Address, destination: IPv6Address) -> list[Heartbeat]:
    sent = [send.message for source, send in domain.sent if (source, send.destination) == (sender, destination)]
    return [message for message in sent if isinstance(message, Heartbeat)]


def requests(domain: Domain, sender: IPv6Address, destination: IPv6Address) -> list[Heartbeat]:
    return [beat for beat in heartbeats(domain, sender, destination) if not beat.flags & HeartbeatFlag.RESPONSE]


def counter_of(beat: Heartbeat) -> int:
    (option,) = beat.options
    assert isinstance(option, RestartCounter)
    return option.value


def events(domain: Domain, address: IPv6Address) -> list[str]:
    names = ("peer-down", "peer-up", "peer-lost-state", "type-unknown")
    return [report.event for source, report in domain.reports if source == address and report.event in names]


def hear(domain: Domain, node: IPv6Address, peer: IPv6Address, message: Message) -> None:
    domain.feed(node, MessageReceived(peer, message))
    domain.settle()


def lose(domain: Domain, address: IPv6Address) -> None:
    """kill -9, and its store is gone."""
    domain.journal[address].clear()
    domain.restart(address)


@ROLES
def test_row_144_a_request_is_answered_always_with_its_own_sequence_number(role: str) -> None:
    domain = born(Domain())
    node, peer = ends(domain, role)
    assert not domain.central.bindings
    for sequence in (0, 7, 2**32 - 1):
        domain.feed(node, MessageReceived(peer, Heartbeat(sequence, HeartbeatFlag(0), (UnknownOption(200, b"?"),))))
    answers = heartbeats(domain, node, peer)
    assert [(beat.sequence, beat.flags) for beat in answers] == [
        (sequence, HeartbeatFlag.RESPONSE) for sequence in (0, 7, 2**32 - 1)
    ]
    assert {counter_of(beat) for beat in answers} == {int(START_WALL_S)}


def test_row_144_only_peers_with_bindings_are_asked() -> None:
    domain = born(Domain())
    domain.pass_time(200.0)
    assert not domain.sent
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(200.0)
    asked = {(sender, send.destination) for sender, send in domain.sent if isinstance(send.message, Heartbeat)}
    assert asked == {(CENTRAL, domain.address(1)), (domain.address(1), CENTRAL)}


def test_row_144_an_anchor_and_a_serving_gateway_have_bindings() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(61.0)
    for number, count in ((1, 1), (2, 1), (3, 0)):
        assert len(requests(domain, CENTRAL, domain.address(number))) == count
        assert len(requests(domain, domain.address(number), CENTRAL)) == count


def test_row_144_when_the_session_is_over_nobody_is_asked_any_more() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC)
    domain.pass_time(700.0)
    assert not domain.central.bindings and not domain.gw[1].sessions
    domain.sent.clear()
    domain.pass_time(300.0)
    assert not domain.sent


@ROLES
def test_row_145_who_answers_with_a_binding_error_is_never_asked_again(role: str) -> None:
    domain = born(Domain())
    node, peer = ends(domain, role)
    domain.host_at(1, MAC, address=HOST)
    domain.lose = lambda sender, send: sender == peer and isinstance(send.message, Heartbeat)
    while not requests(domain, node, peer):
        domain.pass_time(1.0)
    hear(domain, node, peer, BindingError(BindingErrorStatus.UNRECOGNIZED_MH_TYPE))
    assert events(domain, node) == ["type-unknown"]
    domain.sent.clear()
    domain.pass_time(250.0)
    assert not requests(domain, node, peer)
    assert "peer-down" not in events(domain, node)
    domain.feed(node, MessageReceived(peer, Heartbeat(1, HeartbeatFlag(0))))
    assert heartbeats(domain, node, peer), "its own requests are answered still"


def test_a_binding_error_that_answers_nothing_changes_nothing() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    for status in (0, 1, 2, 3, 255):
        hear(domain, CENTRAL, domain.address(1), BindingError(status))
        domain.pass_time(10.0)
    assert domain.central.counters.of(domain.address(1)).dropped == {
        f"binding-error.{status}": 1 for status in (0, 1, 2, 3, 255)
    }
    domain.sent.clear()
    domain.pass_time(61.0)
    assert requests(domain, CENTRAL, domain.address(1))
    assert roles(domain, 1) == {"2001:db8:a1": (Role.ANCHORED, None)}


def test_an_error_after_an_answer_does_not_make_a_peer_forget_what_it_knows() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(61.0)
    hear(domain, CENTRAL, domain.address(1), BindingError(2))
    domain.pass_time(60.5)
    hear(domain, CENTRAL, domain.address(1), BindingError(2))
    domain.sent.clear()
    domain.pass_time(61.0)
    assert requests(domain, CENTRAL, domain.address(1)) and not events(domain, CENTRAL)


def test_who_does_not_know_a_binding_is_asked_whether_it_knows_any() -> None:
    """RFC 6275 section 11.3.6: status 1. The answer shows whether sessions were lost; no more than one a second."""
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    domain.sent.clear()
    for _ in range(5):
        hear(domain, domain.address(1), CENTRAL, BindingError(BindingErrorStatus.UNKNOWN_BINDING))
    assert len(requests(domain, domain.address(1), CENTRAL)) == 1
    hear(domain, domain.address(3), CENTRAL, BindingError(BindingErrorStatus.UNKNOWN_BINDING))
    assert not requests(domain, domain.address(3), CENTRAL), "it has no bindings"


@ROLES
def test_row_146_the_counter_stays_as_long_as_the_sessions_do(role: str) -> None:
    domain = born(Domain())
    node, peer = ends(domain, role)
    domain.host_at(1, MAC)
    domain.pass_time(100.0)
    domain.sent.clear()
    domain.restart(node)
    assert not heartbeats(domain, node, peer), "nothing was lost, so there is nothing to say"
    domain.feed(node, MessageReceived(peer, Heartbeat(1, HeartbeatFlag(0))))
    assert [counter_of(beat) for beat in heartbeats(domain, node, peer)] == [int(START_WALL_S)]


def test_row_146_a_store_whose_sessions_have_all_ended_has_lost_none() -> None:
    domain = born(Domain())
    domain.restart(CENTRAL)
    domain.pass_time(5.0)
    assert not domain.sent


@ROLES
def test_row_146_who_lost_everything_has_a_greater_counter_and_says_so_unasked(role: str) -> None:
    domain = born(Domain())
    node, peer = ends(domain, role)
    domain.pass_time(100.0)
    lose(domain, node)
    domain.pass_time(30.0)
    said = heartbeats(domain, node, peer)
    assert [beat.flags for beat in said] == [UNSOLICITED] * ANNOUNCEMENTS
    assert len({counter_of(beat) for beat in said}) == 1 and counter_of(said[0]) > int(START_WALL_S)
    domain.sent.clear()
    domain.restart(node)
    domain.pass_time(30.0)
    assert not heartbeats(domain, node, peer), "the new counter was kept"


def test_row_146_the_response_to_a_request_shows_a_restart_as_well() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(100.0)
    domain.lose = lambda sender, send: (
        isinstance(send.message, Heartbeat) and bool(send.message.flags & HeartbeatFlag.UNSOLICITED)
    )
    lose(domain, CENTRAL)
    domain.pass_time(5.0)
    assert not events(domain, domain.address(1))
    domain.pass_time(61.0)
    assert events(domain, domain.address(1)) == ["peer-lost-state"]


def test_row_147_a_peer_that_leaves_out_three_is_reported_once_and_when_it_is_back_once() -> None:
    domain = born(Domain())
    node, peer = domain.address(1), CENTRAL
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(70.0)
    assert domain.gw[1].counters.of(peer).reachable is True
    domain.lose = lambda sender, send: sender == peer and isinstance(send.message, Heartbeat)
    domain.sent.clear()
    while len(requests(domain, node, peer)) < 3:
        domain.pass_time(1.0)
    assert not events(domain, node), "the third has not been missed yet"
    domain.pass_time(250.0)
    assert events(domain, node) == ["peer-down"]
    assert domain.gw[1].counters.of(peer).reachable is False
    domain.lose = lambda sender, send: False
    domain.pass_time(130.0)
    assert events(domain, node) == ["peer-down", "peer-up"]
    assert domain.gw[1].counters.of(peer).reachable is True


def test_row_147_interval_and_misses_are_what_the_domain_says() -> None:
    settings = domain_settings(limits=Limits(missing_heartbeats=1))
    domain = born(Domain(settings=settings))
    domain.host_at(1, MAC, address=HOST)
    domain.lose = lambda sender, send: sender == CENTRAL and isinstance(send.message, Heartbeat)
    domain.pass_time(121.0)
    first, second = moments(domain, domain.address(1), Heartbeat)
    assert second - first == pytest.approx(settings.timing.heartbeat_s)
    assert events(domain, domain.address(1)) == ["peer-down"]


def test_a_response_to_another_question_than_the_last_one_is_no_answer_to_it() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    node = domain.address(1)
    domain.lose = lambda sender, send: sender == CENTRAL and isinstance(send.message, Heartbeat)
    while not requests(domain, node, CENTRAL):
        domain.pass_time(1.0)
    asked = requests(domain, node, CENTRAL)[-1].sequence
    counters = domain.gw[1].counters.of(CENTRAL)
    hear(domain, node, CENTRAL, Heartbeat(asked - 1, HeartbeatFlag.RESPONSE, (RestartCounter(5),)))
    assert counters.dropped == {"unmatched-heartbeat": 1} and counters.restart_counter != 5
    hear(domain, node, CENTRAL, Heartbeat(asked, HeartbeatFlag.RESPONSE, (RestartCounter(5),)))
    assert counters.dropped == {"unmatched-heartbeat": 1} and counters.restart_counter == 5


def test_a_response_that_nobody_waits_for_is_counted_and_changes_nothing() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    domain.sent.clear()
    hear(domain, domain.address(1), CENTRAL, Heartbeat(99, HeartbeatFlag.RESPONSE, (RestartCounter(5),)))
    assert domain.gw[1].counters.of(CENTRAL).dropped == {"unmatched-heartbeat": 1}
    domain.pass_time(1.0)
    assert not domain.sent and not events(domain, domain.address(1))


@MODES
def test_decision_32_a_cmd_that_lost_its_store_is_rebuilt_at_once(mode: Mode) -> None:
    domain = born(Domain(settings=domain_settings(mode=mode)))
    domain.host_at(1, MAC, address=HOST)
    domain.host_at(2, MAC)
    lose(domain, CENTRAL)
    assert events(domain, domain.address(2)) == ["peer-lost-state"]
    domain.pass_time(0.2)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(2)
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(1)]
    domain.host_at(3, MAC)
    assert set(roles(domain, 3)) == {"2001:db8:a1", "2001:db8:a2", "2001:db8:a3"}


def test_a_host_that_left_meanwhile_is_not_drawn_back_by_the_rebuilding() -> None:
    """Its old gateway asks it first: it has not been heard for a while, and does not answer."""
    domain = born(Domain())
    domain.host_at(1, MAC, address=HOST)
    domain.pass_time(100.0)
    domain.journal[CENTRAL].clear()
    domain.lose = lambda sender, send: sender == CENTRAL and isinstance(send.message, Heartbeat)
    domain.restart(CENTRAL)
    domain.host_at(2, MAC)
    domain.lose = lambda sender, send: False
    domain.pass_time(20.0)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(2)
    assert domain.probes and {address for address, _ in domain.probes} == {domain.address(1)}


def test_hosts_are_registered_again_a_little_at_a_time() -> None:
    hosts = 90
    domain = born(Domain(settings=domain_settings(limits=Limits(updates_per_s=300.0, hosts=1000))))
    for number in range(hosts):
        domain.host_at(1, bytes([2, 0, 0, 0, 1, number]))
        domain.pass_time(0.05)
    domain.sent.clear()
    domain.times.clear()
    lose(domain, CENTRAL)
    domain.pass_time(5.0)
    assert len(domain.central.bindings) == hosts
    at = moments(domain, domain.address(1), BindingUpdate)
    assert len(at) == hosts
    for number in range(hosts - 10):
        assert at[number + 10] - at[number] > 0.05, "100 a second: a third of what the CMD is to bear"


@MODES
def test_a_gateway_that_lost_its_journal_is_told_again_what_it_exports(mode: Mode) -> None:
    domain = born(Domain(settings=domain_settings(mode=mode)))
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(100.0)
    before = roles(domain, 1)
    lose(domain, domain.address(1))
    assert roles(domain, 1) == {}
    domain.pass_time(0.2)
    assert roles(domain, 1) == before == {"2001:db8:a1": (Role.EXPORTED, domain.address(2))}
    assert events(domain, CENTRAL) == ["peer-lost-state"]
    domain.host_at(3, MAC)
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}


def test_where_it_served_hosts_they_are_registered_with_their_next_frames() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    lose(domain, domain.address(2))
    domain.pass_time(1.0)
    assert roles(domain, 2) == {} and len(domain.central.bindings) == 1
    domain.host_at(2, MAC)
    assert set(roles(domain, 2)) == {"2001:db8:a1", "2001:db8:a2"}


def test_a_gateway_is_told_again_a_little_at_a_time() -> None:
    hosts = 60
    domain = born(Domain(settings=domain_settings(limits=Limits(updates_per_s=100.0, hosts=1000))))
    macs = [bytes([2, 0, 0, 0, 1, number]) for number in range(hosts)]
    for gateway in (1, 2):
        for mac in macs:
            domain.host_at(gateway, mac)
            domain.pass_time(0.1)
    domain.sent.clear()
    lose(domain, domain.address(1))
    begin = domain.now.monotonic_s
    while len(domain.gw[1].sessions) < hosts:
        domain.pass_time(0.1)
        assert domain.now.monotonic_s - begin < 10.0
    assert domain.now.monotonic_s - begin > 1.0, "50 a second, and as many handovers could go on beside them"
    told = [send for sender, send in domain.sent if sender == CENTRAL and isinstance(send.message, BindingUpdate)]
    assert len(told) == hosts


def test_a_peer_that_is_restarted_all_the_time_costs_no_more_than_one_a_second() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.sent.clear()
    for number in range(50):
        hear(domain, CENTRAL, domain.address(1), Heartbeat(0, UNSOLICITED, (RestartCounter(number),)))
        domain.pass_time(0.1)
    told = [send for sender, send in domain.sent if sender == CENTRAL and isinstance(send.message, BindingUpdate)]
    assert 4 <= len(told) <= 6
    assert domain.central.counters.of(domain.address(1)).dropped["restart-too-soon"] >= 40


def test_row_133_binding_errors_are_rate_limited_and_name_no_home_address() -> None:
    domain = born(Domain())
    for _ in range(10):
        for number in (1, 2):
            domain.feed(CENTRAL, MessageReceived(domain.address(number), UnknownMessage(200, bytes(2))))
        domain.pass_time(0.3)
    errors = [send for sender, send in domain.sent if sender == CENTRAL]
    assert {send.message for send in errors} == {BindingError(2, IPv6Address("::"))}
    for number in (1, 2):
        assert sum(send.destination == domain.address(number) for send in errors) == 3
        dropped = domain.central.counters.of(domain.address(number)).dropped
        assert dropped == {"unknown-type": 3, "unknown-type-unanswered": 7}


def test_an_error_is_never_answered_by_an_error() -> None:
    domain = born(Domain())
    for status in (0, 1, 2, 200):
        hear(domain, CENTRAL, domain.address(1), BindingError(status))
    assert not domain.sent


def test_a_cmd_that_lost_its_store_does_not_know_whom_to_tell_of_the_end_and_the_serving_gateway_does() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    lose(domain, CENTRAL)
    domain.pass_time(700.0)
    assert not domain.central.bindings and not domain.gw[2].sessions
    assert not domain.gw[1].sessions, "long before the dead-man timer"


def test_a_cmd_that_lost_its_store_is_told_of_hosts_and_tells_their_anchors_itself() -> None:
    domain = born(Domain())
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    lose(domain, CENTRAL)
    domain.sent.clear()
    domain.pass_time(5.0)
    (binding,) = domain.central.bindings.values()
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(1)]
    assert not [
        send for sender, send in domain.sent if (sender, send.destination) == (domain.address(2), domain.address(1))
    ]
