"""Nothing central: anchors are asked by the serving gateway itself - alone, and while the CMD is dead."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings

from anchord.declared import Role
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import Finding, Limits
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Status, UpdateNotification
from anchord.wire.options import ALL_ZERO_PREFIX, AnchoredPrefix, HomeNetworkPrefix, PreviousMaar

MAC = bytes.fromhex("0255aa000001")
HOST = IPv6Address("fe80::1234")
CHAIN = {2: (1,), 3: (2,), 4: (3,), 1: (4,)}


def alone(gateways: int = 4, neighbours: dict[int, tuple[int, ...]] | None = None, **changes: object) -> Domain:
    settings = domain_settings(gateways, central=None, finding=Finding.ANCHOR_KNOWN, **changes)
    return Domain(gateways, settings, CHAIN if neighbours is None else neighbours)


def with_dead_central(gateways: int = 4) -> Domain:
    """A CMD that takes part until ``kill``."""
    return Domain(gateways, neighbours=CHAIN)


def kill(domain: Domain) -> None:
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)


def prefix_at(domain: Domain, number: int) -> IPv6Network:
    (session,) = domain.gw[number].sessions.values()
    return session.prefix


def address_in(domain: Domain, number: int) -> IPv6Address:
    return prefix_at(domain, number).network_address + 0xABCD


def session_at(domain: Domain, number: int) -> Session:
    (session,) = domain.gw[number].sessions.values()
    return session


def anchors(domain: Domain, number: int) -> set[IPv6Address]:
    (session,) = domain.gw[number].sessions.values()
    assert session.phase is Phase.SERVING
    return {anchor.maar for anchor in session.anchors}


def roles(domain: Domain, number: int) -> dict[IPv6Network, tuple[Role, IPv6Address | None]]:
    (state,) = domain.declared[domain.address(number)].values()
    return {entry.prefix: (entry.role, entry.peer) for entry in state.entries}


def sent(domain: Domain, sender: int, to: int, kind: type) -> list[BindingUpdate | BindingAcknowledgement]:
    pair = (domain.address(sender), domain.address(to))
    return [s.message for who, s in domain.sent if (who, s.destination) == pair and isinstance(s.message, kind)]


def test_the_source_address_of_the_first_packet_names_the_anchor() -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, address=address_in(domain, 1))
    assert anchors(domain, 2) == {domain.address(1)}
    (asked,) = sent(domain, 2, 1, BindingUpdate)
    assert asked.all(HomeNetworkPrefix) == (HomeNetworkPrefix(prefix_at(domain, 1)),)
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(2))}
    assert roles(domain, 2) == {
        prefix_at(domain, 1): (Role.IMPORTED, domain.address(1)),
        prefix_at(domain, 2): (Role.ANCHORED, None),
    }


@pytest.mark.parametrize("by", ["mac", "prefix", "old prefix"])
def test_where_nothing_is_central_the_serving_gateway_ends_a_session(by: str) -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, address=address_in(domain, 1))
    named = {"mac": MAC.hex(":"), "prefix": prefix_at(domain, 2), "old prefix": prefix_at(domain, 1)}[by]
    for elsewhere in (1, 3):
        assert domain.gw[elsewhere].revoke(named, domain.now) == ([], [])
    names, outputs = domain.gw[2].revoke(named, domain.now)
    assert len(names) == 1
    domain.perform(domain.address(2), outputs)
    domain.settle()
    assert not domain.gw[1].sessions and not domain.gw[2].sessions
    assert not any(state.entries for states in domain.declared.values() for state in states.values())
    told = [shown for who, shown in domain.shown if who == domain.address(2)][-2:]
    assert [shown.router_lifetime_s for shown in told] == [0, 0] and told[0].router != told[1].router
    domain.host_at(2, MAC)
    assert not domain.gw[2].sessions, "it is let alone for a while"
    domain.pass_time(domain.settings.timing.refuse_s + 1)
    domain.host_at(2, MAC)
    assert session_at(domain, 2).phase is Phase.SERVING


def test_a_host_that_has_shown_no_address_is_found_through_the_neighbours() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, reassociated=True)
    (asked,) = sent(domain, 2, 1, BindingUpdate)
    assert asked.all(HomeNetworkPrefix) == (HomeNetworkPrefix(ALL_ZERO_PREFIX),)
    (answer,) = sent(domain, 1, 2, BindingAcknowledgement)
    assert answer.all(HomeNetworkPrefix) == (HomeNetworkPrefix(prefix_at(domain, 1)),)
    assert anchors(domain, 2) == {domain.address(1)}


def test_a_neighbour_that_does_not_know_the_host_says_so_and_nothing_else_happens() -> None:
    domain = alone()
    domain.host_at(2, MAC)
    (answer,) = sent(domain, 1, 2, BindingAcknowledgement)
    assert isinstance(answer, BindingAcknowledgement) and answer.status == Status.NOT_LMA_FOR_THIS_MOBILE_NODE
    assert not domain.gw[1].sessions and anchors(domain, 2) == set()
    domain.pass_time(60)
    assert len(sent(domain, 2, 1, BindingUpdate)) == 1


def test_each_anchor_tells_of_the_others() -> None:
    domain = alone(neighbours={2: (1,)})
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.host_at(3, MAC, address=address_in(domain, 2))
    (told,) = sent(domain, 2, 3, BindingAcknowledgement)
    assert told.all(PreviousMaar) == (PreviousMaar(domain.address(1), prefix_at(domain, 1)),)
    assert anchors(domain, 3) == {domain.address(1), domain.address(2)}


def test_the_oldest_anchor_alone_is_enough_to_find_all() -> None:
    """Only a download on the oldest prefix: the newer anchors are known to the oldest from the last update."""
    domain = alone(neighbours={2: (1,), 3: (2,)})
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    domain.host_at(4, MAC, address=address_in(domain, 1))
    assert anchors(domain, 4) == {domain.address(number) for number in (1, 2, 3)}
    for number in (1, 2, 3):
        assert roles(domain, number) == {prefix_at(domain, number): (Role.EXPORTED, domain.address(4))}


def test_back_at_an_earlier_anchor_the_others_are_asked_from_memory() -> None:
    domain = alone(neighbours={2: (1,), 3: (2,)})
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    first = prefix_at(domain, 1)
    domain.host_at(1, MAC)
    assert prefix_at(domain, 1) == first
    assert roles(domain, 1)[first] == (Role.ANCHORED, None)
    assert anchors(domain, 1) == {domain.address(2), domain.address(3)}
    assert roles(domain, 3) == {prefix_at(domain, 3): (Role.EXPORTED, domain.address(1))}


def test_an_anchor_answers_before_its_kernel_does_and_asks_it_again_until_it_takes_the_tunnel() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(2, MAC)
    assert anchors(domain, 2) == {domain.address(1)}
    assert domain.gw[1].counters.local["forwarding.failed"] == 1
    domain.declared[domain.address(1)].clear()
    domain.kernel = lambda address, state: None
    domain.pass_time(1.5)
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(2))}
    domain.declared[domain.address(1)].clear()
    domain.pass_time(5.0)
    assert not domain.declared[domain.address(1)], "and then no more"


@pytest.mark.parametrize("asked", ["another host's", "nobody's", "foreign"])
def test_a_prefix_that_the_host_was_not_given_is_not_handed_over(asked: str) -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    other = bytes.fromhex("0255aa000002")
    domain.host_at(1, other)
    first, second = (session.prefix for session in domain.gw[1].sessions.values())
    prefix = {"another host's": second, "nobody's": IPv6Network("2001:db8:a1:ffff::/64"), "foreign": second}[asked]
    before = dict(domain.declared[domain.address(1)])
    domain.host_at(2, MAC, address=prefix.network_address + 1)
    (answer,) = sent(domain, 1, 2, BindingAcknowledgement)
    assert isinstance(answer, BindingAcknowledgement)
    assert answer.status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX
    assert domain.declared[domain.address(1)] == before and first != second


def test_the_end_of_the_session_is_told_to_every_anchor() -> None:
    domain = alone(neighbours={2: (1,), 3: (2,)})
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    domain.pass_time(700)  # nobody answers the probes
    assert [len(domain.gw[number].sessions) for number in (1, 2, 3)] == [0, 0, 0]
    assert all(domain.gw[number].resting() for number in (1, 2, 3))


def test_a_gateway_that_withheld_its_prefix_names_the_anchors_to_the_next_one_and_keeps_nothing() -> None:
    limits = Limits(anchors_per_host=2)
    settings = domain_settings(4, central=None, finding=Finding.ANCHOR_KNOWN, limits=limits)
    domain = Domain(4, settings, CHAIN)
    domain.host_at(1, MAC)
    for number in (2, 3):
        domain.host_at(number, MAC, address=address_in(domain, 1))
    domain.host_at(4, MAC)
    (ack,) = sent(domain, 3, 4, BindingAcknowledgement)
    assert isinstance(ack, BindingAcknowledgement) and ack.status == Status.ACCEPTED
    assert ack.first(HomeNetworkPrefix) == HomeNetworkPrefix(ALL_ZERO_PREFIX)
    assert [option.maar for option in ack.all(PreviousMaar)] == [domain.address(1), domain.address(2)]
    assert not domain.gw[3].sessions and anchors(domain, 4) == {domain.address(1), domain.address(2)}


def test_only_the_serving_gateway_ends_a_session() -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, address=address_in(domain, 1))
    (update,) = sent(domain, 2, 1, BindingUpdate)
    assert isinstance(update, BindingUpdate)
    stranger = BindingUpdate(7, 0, update.flags, tuple(o for o in update.options if not isinstance(o, AnchoredPrefix)))
    domain._at(domain.now.monotonic_s + 1)
    domain.wire.append((domain.address(3), Send(domain.address(1), stranger)))
    domain.settle()
    assert len(domain.gw[1].sessions) == 1


def test_a_host_that_is_elsewhere_by_now_is_not_drawn_back_by_a_late_request() -> None:
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    address = address_in(domain, 1)
    domain.host_at(2, MAC, settle=False, address=address)
    late = domain.wire.copy()
    domain.wire.clear()
    domain.host_at(3, MAC, address=address)
    domain.wire = late
    domain.settle()
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(3))}


def stays_at_gw4(domain: Domain) -> None:
    for _ in range(4):
        domain.pass_time(10)
        domain.host_at(4, MAC, solicited=True)


def test_with_the_cmd_dead_the_host_roams_on_and_the_cmd_is_brought_up_to_date() -> None:
    domain = with_dead_central()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    kill(domain)
    domain.host_at(4, MAC, address=address_in(domain, 1))
    domain.pass_time(0.3)
    assert anchors(domain, 4) == {domain.address(number) for number in (1, 2, 3)}
    domain.lose = lambda sender, send: False
    stays_at_gw4(domain)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(4)
    assert {anchor.maar for anchor in binding.anchors} == {domain.address(number) for number in (1, 2, 3)}
    assert anchors(domain, 4) == {domain.address(number) for number in (1, 2, 3)}


def test_moves_made_while_the_cmd_was_dead_are_known_to_it_afterwards() -> None:
    domain = with_dead_central(4)
    domain.host_at(1, MAC)
    kill(domain)
    for number in (2, 3, 4):
        domain.host_at(number, MAC, address=address_in(domain, number - 1))
        domain.pass_time(1)
    assert anchors(domain, 4) == {domain.address(number) for number in (1, 2, 3)}
    domain.lose = lambda sender, send: False
    stays_at_gw4(domain)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(4)
    assert {anchor.maar for anchor in binding.anchors} == {domain.address(number) for number in (1, 2, 3)}
    for number in (1, 2, 3):
        assert roles(domain, number) == {prefix_at(domain, number): (Role.EXPORTED, domain.address(4))}


def told(domain: Domain, sender: int, receiver: int) -> int:
    """PBUs that a gateway has sent to another."""
    return sum(
        source == domain.address(sender) and send.destination == domain.address(receiver)
        for source, send in domain.sent
        if isinstance(send.message, BindingUpdate)
    )


def test_row_111_no_repetition_draws_back_a_host_that_has_left() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    old = address_in(domain, 1)
    domain.lose = lambda sender, send: send.destination == domain.address(2)  # it hears neither answers nor claims
    domain.host_at(2, MAC, address=old)
    domain.pass_time(0.9)
    domain.host_at(3, MAC, address=old)
    before = told(domain, 2, 1)
    domain.pass_time(30.0)
    assert told(domain, 2, 1) == before
    assert session_at(domain, 1).serving == domain.address(3)
    assert any(who == domain.address(2) for who, _ in domain.probes)


@pytest.mark.parametrize("rate", [1, 3])
def test_row_26_111_a_host_that_answers_is_still_there_and_what_was_lost_is_repeated(rate: int) -> None:
    """A repetition that waited for the host's answer has taken nothing of the rate."""
    domain = alone(limits=Limits(max_update_rate=rate))
    domain.host_at(1, MAC)
    old = address_in(domain, 1)
    domain.lose = lambda sender, send: send.destination == domain.address(2)
    domain.host_at(2, MAC, address=old)
    domain.pass_time(1.5)
    assert told(domain, 2, 1) == 1 and len(domain.probes) == 1
    domain.host_at(2, MAC, address=old, solicited=True)
    assert told(domain, 2, 1) == 2
    domain.lose = lambda sender, send: False
    domain.pass_time(2.0)
    domain.host_at(2, MAC, address=old, solicited=True)
    assert anchors(domain, 2) == {domain.address(1)}


def test_row_112_a_host_that_answers_makes_no_repetition_come_sooner() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    old = address_in(domain, 1)
    domain.lose = lambda sender, send: send.destination == domain.address(2)
    domain.host_at(2, MAC, address=old)
    for _ in range(300):
        domain.pass_time(0.1)
        if len(domain.probes) > told(domain, 2, 1) - 1:
            domain.host_at(2, MAC, address=old, solicited=True)
    assert 4 <= told(domain, 2, 1) <= 6  # after 1, 2, 4, 8 and 16 s


def test_row_111_a_cmd_is_not_told_again_of_a_host_that_is_long_silent() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    old = address_in(domain, 1)
    domain.host_at(1, MAC, address=old, solicited=True)
    domain.pass_time(100.0)
    domain.host_at(1, MAC, address=old, solicited=True)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    domain.host_at(1, MAC, address=old, solicited=True, reassociated=True)
    count = len(domain.sent)
    domain.pass_time(20.0)
    assert len(domain.sent) > count
    domain.pass_time(15.0)
    count = len(domain.sent)
    domain.pass_time(200.0)
    assert len(domain.sent) == count
    assert domain.probes


def test_row_138_what_a_serving_gateway_asked_for_itself_ends_with_the_lifetime_it_asked_for() -> None:
    domain = alone()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(2))}
    domain.lose = lambda sender, send: True
    domain.pass_time(domain.settings.lifetimes.binding_s - 1)
    assert domain.gw[1].sessions
    domain.pass_time(2)
    assert not domain.gw[1].sessions


def test_an_anchor_that_has_let_go_by_now_is_given_up() -> None:
    domain = alone()
    domain.host_at(1, MAC, address=HOST)
    domain.host_at(2, MAC, address=HOST)
    domain.lose = lambda sender, send: True
    for _ in range(92):
        domain.pass_time(10.0)
        domain.host_at(2, MAC, solicited=True)
    assert not domain.gw[1].sessions
    assert anchors(domain, 2) == set()


def test_neighbours_that_know_nothing_of_a_host_take_none_of_the_room_for_its_anchors() -> None:
    settings = domain_settings(6, central=None, finding=Finding.ANCHOR_KNOWN, limits=Limits(anchors_per_host=2))
    domain = Domain(6, settings, {4: (1, 2, 3, 5, 6), 5: (), 6: (1, 2, 3, 4)})
    domain.host_at(5, MAC)
    domain.host_at(4, MAC)
    assert anchors(domain, 4) == {domain.address(5)}
    domain.host_at(6, MAC)
    assert domain.address(5) in {send.destination for sender, send in domain.sent if sender == domain.address(6)}
    assert roles(domain, 5) == {prefix_at(domain, 5): (Role.EXPORTED, domain.address(6))}


def test_a_neighbour_that_is_being_asked_is_not_asked_once_more_because_another_names_it() -> None:
    domain = alone(neighbours={2: (1,), 3: (1, 2)})
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.sent.clear()
    domain.host_at(3, MAC)
    assert anchors(domain, 3) == {domain.address(1), domain.address(2)}
    assert len(sent(domain, 3, 1, BindingUpdate)) == len(sent(domain, 3, 2, BindingUpdate)) == 1


def overtaken() -> Domain:
    """The host has gone from gw2 to gw3, and gw1 hears of that in the wrong order."""
    domain = alone(neighbours={})
    domain.host_at(1, MAC)
    domain.pass_time(5.0)
    old = address_in(domain, 1)
    domain.skew[domain.address(2)] = 0.2  # its PBU carries a later time although it is earlier
    domain.host_at(2, MAC, address=old, settle=False)
    (late,) = domain.wire
    domain.wire.clear()
    domain.host_at(3, MAC, address=old)
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(3))}
    domain.wire.append(late)
    domain.settle()
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(2))}
    return domain


def test_two_gateways_that_ask_within_a_moment_the_one_that_has_the_host_is_right_whatever_the_timestamps_say() -> None:
    domain = overtaken()
    domain.pass_time(0.3)
    assert {address for address, _ in domain.probes} == {domain.address(3)}
    domain.host_at(3, MAC, address=HOST, solicited=True)
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(3))}


def test_two_gateways_that_ask_within_a_moment_the_one_that_the_host_has_left_does_not_insist() -> None:
    domain = overtaken()
    domain.sent.clear()
    domain.pass_time(30.0)
    assert not [message for message in sent(domain, 3, 1, BindingUpdate) if message.lifetime_s]


def test_gateways_that_ask_one_after_the_other_are_believed_in_that_order() -> None:
    domain = alone()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
        domain.pass_time(5.0)
    assert not [send for _, send in domain.sent if isinstance(send.message, UpdateNotification)]


def test_an_anchor_that_answers_after_the_cmd_is_made_known_to_it() -> None:
    """The CMD was dead when the host was at gw1, and is back when gw3 asks both."""
    domain = with_dead_central()
    kill(domain)
    domain.host_at(1, MAC)
    domain.pass_time(0.5)
    domain.host_at(2, MAC)
    domain.pass_time(0.5)
    assert anchors(domain, 2) == {domain.address(1)}
    late: list[tuple[IPv6Address, Send]] = []

    def keep(sender: IPv6Address, send: Send) -> bool:
        answer = sender == domain.address(2) and send.destination == domain.address(3)
        if answer:
            late.append((sender, send))
        return answer or CENTRAL in (sender, send.destination)

    domain.lose = keep
    domain.host_at(3, MAC)
    domain.pass_time(0.5)
    domain.lose = lambda sender, send: sender == domain.address(2)
    domain.pass_time(1.0)
    assert session_at(domain, 3).registered and anchors(domain, 3) == set()
    domain.lose = lambda sender, send: False
    domain.wire += late
    domain.settle()
    domain.pass_time(1.0)
    assert session_at(domain, 3).registered and anchors(domain, 3) == {domain.address(1), domain.address(2)}
    (binding,) = domain.central.bindings.values()
    assert {anchor.maar for anchor in binding.anchors} == anchors(domain, 3)


def test_an_anchor_that_answers_after_the_cmd_takes_the_place_of_none_that_the_cmd_has_told() -> None:
    """gw3 has served the host without the CMD's word, and still has no connection to it."""
    domain = Domain(4, domain_settings(4, limits=Limits(anchors_per_host=1)), {2: (3,)})
    late: list[tuple[IPv6Address, Send]] = []

    def keep(sender: IPv6Address, send: Send) -> bool:
        answer = sender == domain.address(3) and send.destination == domain.address(2)
        if answer:
            late.append((sender, send))
        return answer or {sender, send.destination} == {CENTRAL, domain.address(3)}

    domain.lose = keep
    domain.host_at(3, MAC)
    domain.pass_time(1.0)
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    domain.lose = lambda sender, send: keep(sender, send) or send.destination == CENTRAL
    domain.host_at(2, MAC)
    domain.pass_time(0.5)
    domain.lose = keep
    domain.pass_time(1.0)
    assert session_at(domain, 2).registered and anchors(domain, 2) == {domain.address(1)}
    domain.wire += late
    domain.settle()
    domain.pass_time(1.0)
    assert anchors(domain, 2) == {domain.address(1)}
    assert roles(domain, 1) == {prefix_at(domain, 1): (Role.EXPORTED, domain.address(2))}
