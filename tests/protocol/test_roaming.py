"""P1, P2, P4: attach, hand over, come back - proxy mode, all nodes as plain objects."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from domain import CENTRAL, Domain, domain_settings, gateway_info

from anchord.declared import PrefixEntry, Role
from anchord.protocol.identity import derive_router, mn_id_of_mac
from anchord.protocol.outputs import Advertise, Send
from anchord.protocol.session import Phase
from anchord.wire.frames import eui64_link_local
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate
from anchord.wire.neighbor import Preference
from anchord.wire.options import (
    AnchoredPrefix,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    PreviousMaar,
    ServingMaar,
    Timestamp,
)

MAC = bytes.fromhex("0255aa000001")
OTHER = bytes.fromhex("0255aa000002")


def entries(domain: Domain, number: int) -> tuple[PrefixEntry, ...]:
    states = list(domain.declared[domain.address(number)].values())
    return states[0].entries if states else ()


def roles(domain: Domain, number: int) -> dict[str, tuple[Role, IPv6Address | None]]:
    return {str(entry.prefix)[:11]: (entry.role, entry.peer) for entry in entries(domain, number)}


def updates(domain: Domain, sender: IPv6Address, destination: IPv6Address) -> list[BindingUpdate]:
    return [
        s.message
        for who, s in domain.sent
        if who == sender and s.destination == destination and isinstance(s.message, BindingUpdate)
    ]


def acks(domain: Domain, sender: IPv6Address, destination: IPv6Address) -> list[BindingAcknowledgement]:
    return [
        s.message
        for who, s in domain.sent
        if who == sender and s.destination == destination and isinstance(s.message, BindingAcknowledgement)
    ]


def test_row_1_2_3_first_attachment_registers_an_own_prefix_and_the_answer_lists_no_anchor() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    (update,) = updates(domain, domain.address(1), CENTRAL)
    prefix = update.first(HomeNetworkPrefix)
    assert prefix is not None and domain.settings.gateways[domain.address(1)].owns(prefix.prefix)
    assert update.first(HandoffIndicator) == HandoffIndicator(Handoff.UNKNOWN)
    assert update.first(MobileNodeLinkLayerIdentifier) == MobileNodeLinkLayerIdentifier(MAC)
    (ack,) = acks(domain, CENTRAL, domain.address(1))
    assert ack.status == 0 and ack.sequence == update.sequence and not ack.all(PreviousMaar)
    assert ack.all(HomeNetworkPrefix) == (prefix,) and ack.lifetime_s == 600
    (binding,) = domain.central.bindings.values()
    assert binding.mn_id == update.first(MobileNodeIdentifier)
    assert (binding.serving.maar, binding.serving.prefixes) == (domain.address(1), (prefix.prefix,))
    assert entries(domain, 1) == (PrefixEntry(prefix.prefix, Role.ANCHORED, domain.gw[1].sessions.popitem()[1].router),)


def test_row_4_90_nothing_is_advertised_and_nothing_routed_before_the_answer() -> None:
    domain = Domain()
    domain.lose = lambda sender, send: send.destination == CENTRAL
    domain.host_at(1, MAC)
    assert not domain.shown
    assert {role for role, _ in roles(domain, 1).values()} == {Role.PREPARED}


def test_row_4_104_advertisements_wait_for_the_kernel() -> None:
    domain = Domain()
    domain.hold_kernel = True
    domain.host_at(1, MAC)
    assert not domain.shown
    domain.hold_kernel = False
    domain.settle()
    assert len(domain.shown) == 1


def test_row_9_the_anchors_answer_waits_for_the_kernel() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.hold_kernel = True
    domain.host_at(2, MAC)
    assert updates(domain, CENTRAL, domain.address(1)) and not acks(domain, domain.address(1), CENTRAL)
    domain.hold_kernel = False
    domain.settle()
    assert [ack.status for ack in acks(domain, domain.address(1), CENTRAL)] == [0]


def test_an_anchor_whose_kernel_fails_does_not_claim_success() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(2, MAC)
    refused, over = acks(domain, domain.address(1), CENTRAL)
    assert refused.status == 130
    assert (over.status, over.lifetime_s) == (0, 0), "the CMD ends its part"


def test_row_7_8_18_handover_tells_every_anchor_where_the_node_is() -> None:
    domain = Domain()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    told = [updates(domain, CENTRAL, domain.address(n))[-1] for n in (1, 2)]
    assert [t.first(ServingMaar) for t in told] == [ServingMaar(domain.address(3))] * 2
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}
    assert roles(domain, 2) == {"2001:db8:a2": (Role.EXPORTED, domain.address(3))}
    assert roles(domain, 3) == {
        "2001:db8:a1": (Role.IMPORTED, domain.address(1)),
        "2001:db8:a2": (Role.IMPORTED, domain.address(2)),
        "2001:db8:a3": (Role.ANCHORED, None),
    }


def test_row_10_11_the_answer_has_one_group_for_each_anchor() -> None:
    domain = Domain()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    ack = acks(domain, CENTRAL, domain.address(3))[-1]
    assert [o.maar for o in ack.all(PreviousMaar)] == [domain.address(1), domain.address(2)]
    assert len(ack.all(DlifLinkLocalAddress)) == len(ack.all(DlifLinkLayerAddress)) == 2


def test_row_9_36_decision_3_the_anchor_echoes_the_serving_maar_and_its_own_prefix() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    (ack,) = acks(domain, domain.address(1), CENTRAL)
    assert ack.first(ServingMaar) == ServingMaar(domain.address(2))
    own = ack.first(HomeNetworkPrefix)
    assert own is not None and domain.settings.gateways[domain.address(1)].owns(own.prefix)


def test_row_27_29_30_decision_23_routers_keep_their_face_and_old_prefixes_are_deprecated() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    first = domain.shown[-1][1]
    domain.shown.clear()
    domain.host_at(2, MAC)
    own, old = (order for _, order in domain.shown)
    assert (old.router, old.prefixes[0].prefix) == (first.router, first.prefixes[0].prefix)
    assert old.prefixes[0].preferred_s == 0 and old.prefixes[0].valid_s == 600
    assert old.preference is Preference.LOW and old.router_lifetime_s > 0
    assert own.prefixes[0].preferred_s == 300 and own.preference is Preference.MEDIUM
    assert own.router != old.router and own.mtu == old.mtu


def test_row_28_decision_15_the_face_is_no_address_of_the_interface_and_differs_by_node_and_gateway() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(1, OTHER)
    domain.host_at(2, MAC)
    faces = {order.router.mac for _, order in domain.shown}
    assert len(faces) == 3 and all(face[0] == 2 for face in faces)


def test_row_28_decision_15_everybody_who_knows_the_secret_derives_the_same_face_and_nobody_else() -> None:
    one = derive_router(b"secret", "gw1", mn_id_of_mac(MAC))
    assert derive_router(b"secret", "gw1", mn_id_of_mac(MAC)) == one
    others = [
        derive_router(b"Secret", "gw1", mn_id_of_mac(MAC)),
        derive_router(b"secret", "gw2", mn_id_of_mac(MAC)),
        derive_router(b"secret", "gw1", mn_id_of_mac(OTHER)),
        derive_router(b"secret", "gw1", mn_id_of_mac(MAC), attempt=1),
    ]
    assert len({one.mac, *(face.mac for face in others)}) == 5
    for face in (one, *others):
        assert face.mac[0] == 2 and face.address == eui64_link_local(face.mac)


def test_row_18_in_proxy_mode_the_answer_names_anchors_that_have_not_agreed_yet() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.lose = lambda sender, send: sender == CENTRAL and send.destination == domain.address(1)
    domain.host_at(2, MAC)
    (answer,) = acks(domain, CENTRAL, domain.address(2))
    assert [option.maar for option in answer.all(PreviousMaar)] == [domain.address(1)]
    assert not acks(domain, domain.address(1), CENTRAL)
    domain.lose = lambda sender, send: False
    domain.pass_time(2.0)
    assert [ack.status for ack in acks(domain, domain.address(1), CENTRAL)] == [0]
    domain.sent.clear()
    domain.pass_time(60.0)
    assert not updates(domain, CENTRAL, domain.address(1)), "its answer closes the operation"


def test_decision_16_back_at_an_earlier_anchor_the_same_prefix_is_preferred_again() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    first = domain.shown[-1][1].prefixes[0].prefix
    domain.host_at(2, MAC)
    domain.host_at(3, MAC)
    before = len(updates(domain, CENTRAL, domain.address(1)))
    domain.shown.clear()
    domain.host_at(1, MAC)
    assert len(updates(domain, CENTRAL, domain.address(1))) == before, "no PBU* to the serving gateway itself"
    assert domain.shown[0][1].prefixes[0].prefix == first and domain.shown[0][1].prefixes[0].preferred_s == 300
    assert roles(domain, 1) == {
        "2001:db8:a2": (Role.IMPORTED, domain.address(2)),
        "2001:db8:a3": (Role.IMPORTED, domain.address(3)),
        "2001:db8:a1": (Role.ANCHORED, None),
    }
    assert roles(domain, 3) == {"2001:db8:a3": (Role.EXPORTED, domain.address(1))}


def test_row_114_the_gateway_left_behind_forwards_for_nobody_else() -> None:
    domain = Domain()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    assert roles(domain, 2) == {"2001:db8:a2": (Role.EXPORTED, domain.address(3))}, "nothing of gw1's any more"


def test_decision_11_the_serving_gateways_timestamp_is_forwarded() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    asked = updates(domain, domain.address(2), CENTRAL)[-1]
    told = updates(domain, CENTRAL, domain.address(1))[-1]
    assert told.first(Timestamp) == asked.first(Timestamp)


def test_decision_8_sequence_numbers_are_counted_for_each_pair_of_nodes() -> None:
    domain = Domain()
    for number in (1, 2, 3, 1, 2, 3):
        domain.host_at(number, MAC)
        domain.pass_time(1.0)
    told = [u.sequence for u in updates(domain, CENTRAL, domain.address(1))]
    assert told == list(range(told[0], told[0] + len(told)))


def test_row_109_decision_37_a_solicitation_of_a_served_host_gets_an_advertisement_not_a_registration() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    domain.sent.clear()
    domain.shown.clear()
    domain.host_at(1, MAC, solicited=True)
    assert len(domain.shown) == 1 and not domain.sent


def test_row_150_decision_22_37_a_storm_of_solicitations_is_one_answer() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    domain.shown.clear()
    for _ in range(20):
        domain.host_at(1, MAC, solicited=True)
    assert len(domain.shown) == 1


def test_a_host_that_moves_between_two_interfaces_of_a_gateway_keeps_everything_without_signalling() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, interface="acc0")
    before = entries(domain, 2)
    domain.sent.clear()
    domain.host_at(2, MAC, interface="acc1")
    assert entries(domain, 2) == before and not domain.sent
    (state,) = domain.declared[domain.address(2)].values()
    assert state.interface == "acc1"
    assert domain.ignored[domain.address(2)] == {("acc1", MAC)}
    assert domain.shown[-1][1].interface == "acc1"


def test_frames_of_a_served_host_are_spared_and_of_a_departed_one_wanted() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    assert domain.ignored[domain.address(1)] == {("acc0", MAC)}
    domain.host_at(2, MAC)
    assert domain.ignored[domain.address(1)] == set()


def test_row_1_two_hosts_do_not_share_anything() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(1, OTHER)
    prefixes = [entry.prefix for state in domain.declared[domain.address(1)].values() for entry in state.entries]
    assert len(set(prefixes)) == 2


def test_decision_26_a_refresh_lists_retained_anchors() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(299.0)
    domain.host_at(2, MAC, solicited=True)  # heard lately: no probe is needed
    domain.pass_time(5.0)
    refresh = updates(domain, domain.address(2), CENTRAL)[-1]
    assert refresh.first(HandoffIndicator) == HandoffIndicator(Handoff.UNCHANGED)
    assert [str(o.prefix)[:11] for o in refresh.all(AnchoredPrefix)] == ["2001:db8:a1"]


def test_plain_routers_advertise_their_own_prefix_and_signal_nothing() -> None:
    domain = Domain(settings=domain_settings(mobility=False))
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    assert not domain.sent
    assert [len(order.prefixes) for _, order in domain.shown] == [1, 1]
    assert roles(domain, 2) == {"2001:db8:a2": (Role.ANCHORED, None)}


def test_row_31_decision_27_local_networks_of_an_anchor_are_announced_through_its_face() -> None:
    settings = domain_settings()
    local = IPv6Network("fd00:1::/48")
    info = replace(gateway_info(1), local_networks=(local,))
    settings = replace(settings, gateways={**settings.gateways, info.address: info})
    domain = Domain(settings=settings)
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    old = [order for _, order in domain.shown if isinstance(order, Advertise) and order.prefixes[0].preferred_s == 0]
    assert old[-1].routes == (local,)


def test_decision_17_an_update_in_flight_is_overtaken_by_the_hosts_return() -> None:
    """The CMD's PBU* about gw2 reaches gw1 only after gw1 has asked for the node again."""
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC, settle=False)
    domain.install()
    domain.deliver()  # PBU of gw2 at the CMD; its answer and the PBU* to gw1 are now in flight
    late: list[tuple[IPv6Address, Send]] = [item for item in domain.wire if item[1].destination == domain.address(1)]
    domain.wire = [item for item in domain.wire if item not in late]
    domain.settle()
    # gw1 still thinks it serves the node: it learns otherwise, then the node is heard there.
    domain.wire += late
    domain.settle()
    domain.host_at(1, MAC)
    assert [s.phase for s in domain.gw[1].sessions.values()] == [Phase.SERVING]
    assert [s.phase for s in domain.gw[2].sessions.values()] == [Phase.AWAY]
    assert roles(domain, 2) == {"2001:db8:a2": (Role.EXPORTED, domain.address(1))}


def test_decision_17_an_update_that_names_another_gateway_ends_our_own_question() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    domain.lose = lambda sender, send: sender == domain.address(1) and isinstance(send.message, BindingUpdate)
    domain.host_at(1, MAC, reassociated=True, solicited=True)
    asked = len(updates(domain, domain.address(1), CENTRAL))
    assert asked == 2, "the second one waits for its answer"
    domain.pass_time(0.1)
    domain.host_at(2, MAC)
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(2))}
    domain.pass_time(200.0)
    assert len(updates(domain, domain.address(1), CENTRAL)) == asked
    shown = [order for who, order in domain.shown if who == domain.address(1)]
    domain.pass_time(200.0)
    assert shown == [order for who, order in domain.shown if who == domain.address(1)]


def test_a_frame_that_was_waiting_when_the_host_left_does_not_bring_it_back() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(0.01)
    domain.host_at(1, MAC, age_s=0.1)
    assert [s.phase for s in domain.gw[2].sessions.values()] == [Phase.SERVING]
    assert domain.gw[1].counters.local == {"frame.before-departure": 1}
    domain.host_at(1, MAC)
    assert [s.phase for s in domain.gw[1].sessions.values()] == [Phase.SERVING]
