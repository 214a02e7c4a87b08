"""Nothing central: anchors are asked by the serving gateway itself - alone, and while the CMD is dead."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings

from anchord.declared import Role
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase
from anchord.protocol.settings import Finding
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Status
from anchord.wire.options import ALL_ZERO_PREFIX, AnchoredPrefix, HomeNetworkPrefix, PreviousMaar

MAC = bytes.fromhex("0255aa000001")
CHAIN = {2: (1,), 3: (2,), 4: (3,), 1: (4,)}


def alone(gateways: int = 4, neighbours: dict[int, tuple[int, ...]] | None = None) -> Domain:
    settings = domain_settings(gateways, central=None, finding=Finding.ANCHOR_KNOWN)
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


def test_with_the_cmd_dead_the_host_roams_on_and_the_cmd_is_brought_up_to_date() -> None:
    domain = with_dead_central()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    kill(domain)
    domain.host_at(4, MAC, address=address_in(domain, 1))
    domain.pass_time(0.3)
    assert anchors(domain, 4) == {domain.address(number) for number in (1, 2, 3)}
    domain.lose = lambda sender, send: False
    domain.pass_time(40)
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
    domain.pass_time(40)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(4)
    assert {anchor.maar for anchor in binding.anchors} == {domain.address(number) for number in (1, 2, 3)}
    for number in (1, 2, 3):
        assert roles(domain, number) == {prefix_at(domain, number): (Role.EXPORTED, domain.address(4))}
