"""P7: gateways of two operators that only the home LMA stands between; a session moves from one to the other."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from domain import CENTRAL
from lma_domain import LMA, OPERATORS, PLAIN_FLAGS, POOL, Operators, PlainLma, prefixes
from test_roaming import MAC, acks, entries, updates

from anchord.declared import HostState, PrefixEntry, Role
from anchord.protocol.inputs import HostSeen
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase
from anchord.protocol.settings import LmaInfo, LmaSettings, Mode
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, BindingUpdateFlag, Status
from anchord.wire.options import (
    AnchoredPrefix,
    DlifLinkLayerAddress,
    HomeNetworkPrefix,
    LocalPrefix,
    PreviousMaar,
    ServingMaar,
    UnknownOption,
)


def transit(domain: Operators) -> tuple[PrefixEntry, ...]:
    """What the LMA forwards."""
    return tuple(entry for state in domain.declared[CENTRAL].values() for entry in state.entries)


def own_prefix(domain: Operators, number: int) -> IPv6Network:
    (session,) = domain.gw[number].sessions.values()
    return session.prefix


def heard_across_operators(domain: Operators) -> list[tuple[object, Send]]:
    """Messages between gateways of different operators, and addresses of the others in any message."""
    owner = {domain.address(number): operator for number, operator in enumerate(OPERATORS, 1)}
    found: list[tuple[object, Send]] = []
    for sender, send in domain.sent:
        named = {send.destination, sender} - {CENTRAL}
        if isinstance(send.message, BindingUpdate | BindingAcknowledgement):
            named |= {option.maar for option in send.message.all(PreviousMaar)} - {CENTRAL}
            named |= {option.address for option in send.message.all(ServingMaar)} - {CENTRAL}
        if len({owner[address] for address in named}) > 1:
            found.append((sender, send))
    return found


@pytest.mark.parametrize("mode", list(Mode))
def test_p7_a_session_moves_to_another_operator_through_two_tunnels_in_series(mode: Mode) -> None:
    """Whichever way the LMA tells of a handover; nobody but itself answers a gateway of another operator."""
    domain = Operators(mode=mode)
    domain.host_at(1, MAC)
    old = own_prefix(domain, 1)
    assert transit(domain) == ()
    domain.host_at(3, MAC)
    new = own_prefix(domain, 3)
    (session,) = domain.gw[1].sessions.values()
    face = session.router
    (exported,) = entries(domain, 1)
    assert (exported.prefix, exported.role, exported.peer) == (old, Role.EXPORTED, CENTRAL)
    assert transit(domain) == (PrefixEntry(old, Role.TRANSIT, None, peer=domain.address(3), anchor=domain.address(1)),)
    imported, anchored = entries(domain, 3)
    assert imported == PrefixEntry(old, Role.IMPORTED, face, CENTRAL)  # the old gateway's own face
    assert (anchored.prefix, anchored.role) == (new, Role.ANCHORED)
    assert heard_across_operators(domain) == []


def test_p7_to_the_new_gateway_the_lma_is_the_anchor_and_to_the_old_one_the_serving_gateway() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    old = own_prefix(domain, 1)
    domain.host_at(3, MAC)
    (told,) = updates(domain, CENTRAL, domain.address(1))
    assert told.first(ServingMaar) == ServingMaar(CENTRAL) and told.first(HomeNetworkPrefix) == HomeNetworkPrefix(old)
    (answer,) = acks(domain, CENTRAL, domain.address(3))
    assert answer.all(PreviousMaar) == (PreviousMaar(CENTRAL, old),)
    assert answer.all(DlifLinkLayerAddress) == (DlifLinkLayerAddress(entries(domain, 3)[0].router.mac),)  # type: ignore[union-attr]
    assert domain.lma.bindings and domain.lma.counters.of(domain.address(1)).dropped == {}


def test_p7_within_an_operator_gateways_tunnel_to_each_other() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    assert entries(domain, 2)[0].peer == domain.address(1) and entries(domain, 1)[0].peer == domain.address(2)
    assert transit(domain) == ()


def test_p7_local_networks_are_for_gateways_of_the_same_operator() -> None:
    domain = Operators()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    (near,) = acks(domain, CENTRAL, domain.address(2))
    (far,) = acks(domain, CENTRAL, domain.address(3))
    assert near.all(LocalPrefix) and not far.all(LocalPrefix)


def test_row_48_what_a_node_holds_at_one_operator_is_not_told_to_another() -> None:
    domain = Operators()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    told = updates(domain, CENTRAL, domain.address(1))[-1]
    assert {option.prefix for option in told.all(AnchoredPrefix)} == {own_prefix(domain, 2)}


def test_p7_two_anchors_behind_the_lma_keep_their_own_faces() -> None:
    domain = Operators()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    first, second, own = entries(domain, 3)
    assert (first.peer, second.peer, own.role) == (CENTRAL, CENTRAL, Role.ANCHORED)
    assert {first.prefix, second.prefix} == {own_prefix(domain, 1), own_prefix(domain, 2)}
    assert first.router != second.router and None not in (first.router, second.router)
    assert [(entry.peer, entry.anchor) for entry in transit(domain)] == [
        (domain.address(3), domain.address(1)),
        (domain.address(3), domain.address(2)),
    ]


def test_p7_moving_on_and_back_leaves_nothing_of_the_way_there() -> None:
    domain = Operators()
    for number in (1, 3, 4):
        domain.host_at(number, MAC)
    assert [entry.peer for entry in transit(domain)] == [domain.address(4)]
    assert entries(domain, 3)[0].peer == domain.address(4)  # both operator b's
    domain.host_at(1, MAC)
    assert [(entry.peer, entry.anchor) for entry in transit(domain)] == [
        (domain.address(1), domain.address(3)),
        (domain.address(1), domain.address(4)),
    ]
    assert {entry.peer for number in (3, 4) for entry in entries(domain, number)} == {CENTRAL}
    assert heard_across_operators(domain) == []


def test_p7_the_answer_waits_for_the_transit_and_the_old_gateway_is_told_meanwhile() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.hold_kernel = True
    domain.feed(domain.address(3), HostSeen("acc0", MAC))
    domain.settle()
    assert updates(domain, CENTRAL, domain.address(1)) and not acks(domain, CENTRAL, domain.address(3))
    domain.hold_kernel = False
    domain.settle()
    assert acks(domain, CENTRAL, domain.address(3))
    assert entries(domain, 3)[0].role is Role.IMPORTED


def test_p7_what_the_lmas_kernel_refuses_is_not_promised() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.kernel = lambda address, state: "no" if address == CENTRAL and state.entries else None
    domain.host_at(3, MAC)
    (answer,) = acks(domain, CENTRAL, domain.address(3))
    assert answer.status == Status.INSUFFICIENT_RESOURCES and not answer.all(PreviousMaar)
    assert not domain.gw[3].sessions and domain.lma.counters.local["forwarding.failed"]


def test_p7_what_the_lmas_kernel_refused_is_declared_again_until_it_is_true() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.host_at(3, MAC)
    domain.kernel = lambda address, state: "busy" if address == CENTRAL else None
    domain.host_at(4, MAC)
    domain.lose = lambda sender, send: True  # nobody's message is what helps
    domain.declared[CENTRAL].clear()  # it has not been done
    failed = domain.lma.counters.local["forwarding.failed"]
    domain.pass_time(2.5)
    assert domain.lma.counters.local["forwarding.failed"] == failed + 2
    domain.declared[CENTRAL].clear()
    domain.kernel = lambda address, state: None
    domain.pass_time(1.0)
    assert [(entry.peer, entry.anchor) for entry in transit(domain)] == [(domain.address(4), domain.address(1))]
    domain.declared[CENTRAL].clear()
    domain.pass_time(5.0)
    assert transit(domain) == (), "installed: not declared once more"


def test_p7_the_end_of_a_transit_that_the_lmas_kernel_refuses_is_declared_again() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.host_at(3, MAC)
    ends: list[HostState] = []

    def refuse_the_end(address: object, state: HostState) -> str | None:
        if address == CENTRAL and not state.entries:
            ends.append(state)
            return "busy" if len(ends) == 1 else None
        return None

    domain.kernel = refuse_the_end
    domain.pass_time(3000)
    assert not domain.lma.bindings and len(ends) == 2


def test_p7_the_end_of_the_session_ends_it_with_every_operator() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.host_at(3, MAC)
    domain.pass_time(3000)  # the host says nothing any more
    assert not any(domain.gw[number].sessions for number in domain.gw)
    assert not domain.lma.bindings and transit(domain) == ()
    assert all(not state.entries for states in domain.declared.values() for state in states.values())


def test_p7_a_restarted_lma_declares_the_transit_again() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.host_at(3, MAC)
    before = transit(domain)
    domain.restart_lma()
    assert transit(domain) == before != ()
    domain.host_at(2, MAC)
    assert entries(domain, 2)[0].peer == domain.address(1)


def test_row_57_an_operator_without_an_agreement_is_refused() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.host_at(5, MAC)
    (answer,) = acks(domain, CENTRAL, domain.address(5))
    assert answer.status == Status.MAG_NOT_AUTHORIZED_FOR_PROXY_REG
    assert not answer.all(PreviousMaar) and not domain.gw[5].sessions
    assert [address for address, _ in domain.shown] == [domain.address(1)]  # no RA (row 103)
    (session,) = domain.gw[1].sessions.values()
    assert session.phase is Phase.SERVING  # and the session is untouched


def test_p7_what_stands_for_nobody_is_not_believed() -> None:
    """The LMA names only pools of other operators; a prefix of nobody's is dropped (rows 47, 51)."""
    domain = Operators()
    domain.host_at(1, MAC)
    lost = IPv6Network("2001:db8:dead::/64")

    def lie(sender: object, send: Send) -> bool:
        ack = send.message
        if sender == CENTRAL and isinstance(ack, BindingAcknowledgement) and send.destination == domain.address(3):
            options = tuple(PreviousMaar(CENTRAL, lost) if isinstance(o, PreviousMaar) else o for o in ack.options)
            forged = BindingAcknowledgement(ack.status, ack.sequence, ack.lifetime_s, ack.flags, options)
            domain.wire.append((CENTRAL, Send(send.destination, forged)))
            return True
        return False

    domain.lose = lie
    domain.host_at(3, MAC)
    assert [entry.role for entry in entries(domain, 3)] == [Role.ANCHORED]
    assert domain.gw[3].counters.of(CENTRAL).dropped == {"foreign-anchor": 1}


def test_operators_have_domain_files_of_their_own_and_none_is_compared() -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    (update,) = updates(domain, domain.address(1), CENTRAL)
    (answer,) = acks(domain, CENTRAL, domain.address(1))
    assert any(isinstance(option, UnknownOption) for option in update.options)
    assert not any(isinstance(option, UnknownOption) for option in answer.options)
    assert not [report for _, report in domain.reports if report.event == "domain-differs"]


def test_row_33_an_lma_that_stands_between_nobody_refuses_d() -> None:
    lma = PlainLma()
    ack = lma.ask(flags=PLAIN_FLAGS | BindingUpdateFlag.DISTRIBUTED)
    assert ack.status == Status.ADMINISTRATIVELY_PROHIBITED and not lma.lma.bindings


@pytest.mark.parametrize("operator", [1, 3])
def test_a_gateway_may_be_a_plain_mag_of_the_lma_as_well(operator: int) -> None:
    domain = Operators()
    lma = PlainLma(LmaSettings(LmaInfo("home", LMA, (POOL,)), domain.settings, operators=("a", "b")))
    ack = lma.ask(domain.address(operator))
    assert ack.status == 0 and prefixes(ack)[0].subnet_of(POOL)
    assert lma.ask(domain.address(5)).status == Status.MAG_NOT_AUTHORIZED_FOR_PROXY_REG
    assert isinstance(next(iter(lma.declared.values())), HostState)
