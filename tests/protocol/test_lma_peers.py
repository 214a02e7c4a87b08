"""Heartbeats of an LMA and to it, and what it revokes: RFC 5847, RFC 5846 section 8."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from domain import CENTRAL
from lma_domain import LMA, MAG1, MAG2, Operators, PlainLma
from test_mag import Plain, home
from test_roaming import MAC, OTHER, entries

from anchord.protocol.identity import mn_id_of_mac, mn_id_text
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.lma import Lma
from anchord.wire.messages import (
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    Heartbeat,
    HeartbeatFlag,
    RevocationFlag,
    RevocationTrigger,
)
from anchord.wire.options import HomeNetworkPrefix, MobileNodeIdentifier, RestartCounter


def revocations(lma: PlainLma) -> list[tuple[IPv6Address, BindingRevocationIndication]]:
    return [(s.destination, s.message) for s in lma.sent if isinstance(s.message, BindingRevocationIndication)]


def revoke(lma: PlainLma, named: str) -> list[str]:
    names, outputs = lma.lma.revoke(named, lma.now)
    lma.perform(outputs)
    return names


def answer(lma: PlainLma, source: IPv6Address, status: int = 0) -> None:
    """That MAG acknowledges the last revocation."""
    _, message = revocations(lma)[-1]
    ack = BindingRevocationAcknowledgement(status, message.sequence, message.flags)
    lma.perform(lma.lma.handle(MessageReceived(source, ack), lma.now))


def test_row_144_an_lma_answers_every_mag_and_asks_those_with_bindings() -> None:
    lma = PlainLma()
    lma.restart()
    for mag in (MAG1, MAG2):
        lma.hear(Heartbeat(7, HeartbeatFlag(0)), mag)
    answers = [send for send in lma.sent if isinstance(send.message, Heartbeat) and send.message.sequence == 7]
    assert [send.destination for send in answers] == [MAG1, MAG2]
    assert all(isinstance(send.message, Heartbeat) and send.message.first(RestartCounter) for send in answers)
    lma.ask(source=MAG1)
    lma.sent.clear()
    lma.pass_time(60.0)
    asked = [s.destination for s in lma.sent if isinstance(s.message, Heartbeat) and not s.message.flags]
    assert asked == [MAG1]


def test_row_146_an_lma_that_lost_its_store_is_told_again_by_its_mag() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    domain.host_at(1, OTHER)
    before = home(domain), entries(domain, 1)
    domain.pass_time(1.0)
    domain.lma = Lma(domain.lma.settings)  # a new process, without the store
    domain.nodes[LMA] = domain.lma  # type: ignore[assignment]
    domain.perform(LMA, domain.lma.restore({}, domain.now))
    domain.settle()
    domain.pass_time(0.5)
    assert (home(domain), entries(domain, 1)) == before
    assert [r.fields["peer"] for _, r in domain.reports if r.event == "peer-lost-state"] == [str(LMA)]


def test_row_148_an_lma_revokes_a_plain_session_at_its_mag() -> None:
    lma = PlainLma()
    (prefix,) = (option.prefix for option in lma.ask().all(HomeNetworkPrefix))
    assert revoke(lma, "mn1@example") == ["mn1@example"]
    ((mag, message),) = revocations(lma)
    assert mag == MAG1 and message.flags == RevocationFlag.PROXY
    assert message.trigger == RevocationTrigger.ADMINISTRATIVE_REASON
    assert message.first(MobileNodeIdentifier) == MobileNodeIdentifier(1, b"mn1@example")
    assert [option.prefix for option in message.all(HomeNetworkPrefix)] == [prefix]
    assert lma.lma.plain_bindings, "kept until it is acknowledged (RFC 5846 section 8.1)"
    answer(lma, MAG2)
    assert lma.lma.plain_bindings, "not its to answer"
    answer(lma, MAG1)
    assert not lma.lma.plain_bindings and prefix in lma.lma.resting()
    assert all(not state.entries for state in lma.declared.values())
    assert revoke(lma, "mn1@example") == []


@pytest.mark.parametrize("moved", [False, True])
def test_row_148_a_mag_that_does_not_answer_is_given_up_and_the_next_one_asked(moved: bool) -> None:
    lma = PlainLma()
    lma.ask()
    revoke(lma, "mn1@example")
    if moved:
        lma.ask(source=MAG2)
    lma.pass_time(3.5)
    assert [mag for mag, _ in revocations(lma)] == [MAG1, MAG1, *([MAG2] if moved else [])]
    lma.pass_time(3.5)
    assert not lma.lma.plain_bindings


def test_row_148_a_gateway_that_is_its_mag_ends_the_session() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    _, outputs = domain.lma.revoke(mn_id_text(mn_id_of_mac(MAC)), domain.now)
    domain.perform(LMA, outputs)
    domain.settle()
    assert not domain.lma.plain_bindings and not domain.gw[1].sessions
    assert entries(domain, 1) == ()


def test_row_148_the_cmd_has_no_say_in_a_session_of_the_lmas() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    (session,) = domain.gw[1].sessions.values()
    options = (session.mn_id, HomeNetworkPrefix(home(domain)))
    domain.feed(
        domain.address(1), MessageReceived(CENTRAL, BindingRevocationIndication(1, 1, RevocationFlag.PROXY, options))
    )
    assert domain.gw[1].sessions


def test_between_operators_a_session_is_revoked_everywhere() -> None:
    domain = Operators()
    for number in (1, 3):
        domain.host_at(number, MAC)
    assert len(domain.lma.bindings) == 1
    _, outputs = domain.lma.revoke(mn_id_text(mn_id_of_mac(MAC)), domain.now)
    domain.perform(CENTRAL, outputs)
    domain.settle()
    assert not domain.lma.bindings
    for number in (1, 3):
        assert not domain.gw[number].sessions
    assert not domain.lma.forwarding()
