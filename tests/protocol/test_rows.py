"""What a registration says, and what it need not: rows and decisions that no other page of tests is about."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings, gateway_info
from test_refusals import FLAGS, ask, registration
from test_roaming import MAC, acks, entries, roles, updates

from anchord.declared import Role
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.session import Phase
from anchord.protocol.settings import Mode
from anchord.wire.messages import BindingAckFlag, BindingUpdateFlag
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    LocalPrefix,
    MobileNodeIdentifier,
    ServingMaar,
    Timestamp,
)

LOCAL = IPv6Network("fd00:1::/48")


def with_local_network(**changes: object) -> Domain:
    """gw1 has a network of its own behind it."""
    settings = domain_settings(**changes)  # type: ignore[arg-type]
    info = replace(gateway_info(1), local_networks=(LOCAL,))
    return Domain(settings=replace(settings, gateways={**settings.gateways, info.address: info}))


def test_row_6_97_from_question_to_answer_the_session_is_there_and_serves_nobody() -> None:
    domain = Domain()
    domain.host_at(1, MAC, settle=False)
    (session,) = domain.gw[1].sessions.values()
    assert session.phase is Phase.REGISTERING and not session.registered
    assert session.key in domain.journal[domain.address(1)]["session"], "what was asked for outlives a crash"
    assert [entry.role for entry in entries(domain, 1)] == [Role.PREPARED]
    domain.settle()
    assert session.phase is Phase.SERVING and session.registered
    assert [entry.role for entry in entries(domain, 1)] == [Role.ANCHORED]


def test_row_6_103_a_refusal_takes_what_was_there_until_then() -> None:
    domain = Domain()
    reference = Domain()
    reference.host_at(1, MAC)
    taken = str(reference.shown[-1][1].prefixes[0].prefix)
    ask(domain, registration(domain, prefix=taken, mac=b"\x02\0\0\0\0\x77"))
    domain.host_at(1, MAC)
    assert acks(domain, CENTRAL, domain.address(1))[-1].status == 155
    assert not domain.gw[1].sessions and not domain.shown and roles(domain, 1) == {}


def test_row_55_no_home_address_option_is_asked_for() -> None:
    """The option would be in a header before this one: nothing but the message itself reaches the protocol."""
    domain = Domain()
    (ack,) = ask(domain, registration(domain))
    assert ack.status == 0 and len(domain.central.bindings) == 1


def test_row_32_108_decision_28_30_a_registration_has_flags_ahpd_and_no_link_local_address_option() -> None:
    domain = Domain()
    for number in (1, 2):
        domain.host_at(number, MAC)
    sent = [update for n in (1, 2) for update in updates(domain, domain.address(n), CENTRAL)]
    sent += updates(domain, CENTRAL, domain.address(1))
    assert len(sent) == 3 and {update.flags for update in sent} == {0xC210}
    assert not any(update.all(LinkLocalAddress) for update in sent)


def test_row_36_120_every_answer_has_the_flags_p_and_d() -> None:
    domain = Domain()
    for number in (1, 2):
        domain.host_at(number, MAC)
    told = [ack for n in (1, 2) for ack in acks(domain, CENTRAL, domain.address(n))]
    told += acks(domain, domain.address(1), CENTRAL)
    told += ask(domain, registration(domain, HandoffIndicator=None))
    assert len(told) == 4
    assert {ack.flags for ack in told} == {BindingAckFlag.PROXY | BindingAckFlag.DISTRIBUTED}


def test_decision_30_the_h_flag_may_come_and_go() -> None:
    domain = Domain()
    assert ask(domain, registration(domain))[0].status == 0
    domain.pass_time(1.0)
    without = registration(domain, sequence=2, flags=FLAGS & ~BindingUpdateFlag.HOME_REGISTRATION)
    assert ask(domain, without)[0].status == 0


def test_row_89_decision_29_a_node_is_its_mac_address_wherever_it_is_and_whatever_addresses_it_takes() -> None:
    domain = Domain()
    domain.host_at(1, MAC, address=IPv6Address("fe80::1"))
    domain.host_at(2, MAC, interface="acc1", address=IPv6Address("fe80::2"))
    named = [
        update.first(MobileNodeIdentifier) for n in (1, 2) for update in updates(domain, domain.address(n), CENTRAL)
    ]
    assert named == [MobileNodeIdentifier(5, MAC)] * 2
    assert len(domain.central.bindings) == 1
    (session,) = domain.gw[2].sessions.values()
    assert session.interface == "acc1"


def test_row_64_decision_6_a_registration_by_another_gateway_is_a_handover_whatever_its_handoff_indicator_says() -> (
    None
):
    for handoff in Handoff:
        domain = Domain()
        domain.host_at(1, MAC)
        domain.pass_time(1.0)
        told = registration(domain, "2001:db8:a2:77::/64", HandoffIndicator=HandoffIndicator(handoff), sequence=9)
        assert ask(domain, told, domain.address(2))[0].status == 0
        (binding,) = domain.central.bindings.values()
        assert binding.serving.maar == domain.address(2)
        assert [anchor.maar for anchor in binding.anchors] == [domain.address(1)]


@pytest.mark.parametrize("strict", [False, True])
def test_decision_2_27_a_gateway_tells_its_face_and_local_networks_in_its_registration_unless_strict(
    strict: bool,
) -> None:
    domain = with_local_network(strict_8885=strict)
    domain.host_at(1, MAC)
    router = domain.shown[-1][1].router
    (asked,) = updates(domain, domain.address(1), CENTRAL)
    face = (
        *asked.all(DlifLinkLocalAddress),
        *asked.all(DlifLinkLayerAddress),
        *asked.all(LocalPrefix),
    )
    own = (DlifLinkLocalAddress(router.address), DlifLinkLayerAddress(router.mac), LocalPrefix(LOCAL))
    assert face == (() if strict else own)
    domain.host_at(2, MAC)
    (told,) = acks(domain, domain.address(1), CENTRAL)
    assert (*told.all(DlifLinkLocalAddress), *told.all(DlifLinkLayerAddress), *told.all(LocalPrefix)) == own
    old = [order for _, order in domain.shown if order.prefixes[0].preferred_s == 0]
    assert old[-1].router == router, "told or derived, the host sees the same router"


def test_row_42_decision_7_an_anchor_is_told_by_its_own_prefix() -> None:
    domain = Domain()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    for number in (1, 2):
        (held,) = (entry.prefix for entry in entries(domain, number))
        told = updates(domain, CENTRAL, domain.address(number))[-1]
        assert told.all(HomeNetworkPrefix) == (HomeNetworkPrefix(held),)
        assert told.first(ServingMaar) == ServingMaar(domain.address(3))


def test_decision_7_a_prefix_that_is_not_the_anchors_is_accepted_from_the_cmd_and_answered_by_its_own() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    (own,) = (entry.prefix for entry in entries(domain, 1))
    domain.pass_time(1.0)
    for prefix in ("2001:db8:a2:77::/64", str(ALL_ZERO_PREFIX)):
        told = registration(domain, prefix, sequence=50, extra=ServingMaar(domain.address(2)))
        domain.feed(domain.address(1), MessageReceived(CENTRAL, told))
        domain.settle()
        ack = acks(domain, domain.address(1), CENTRAL)[-1]
        assert ack.status == 0 and ack.all(HomeNetworkPrefix) == (HomeNetworkPrefix(own),)
        domain.pass_time(1.0)


def test_row_82_what_lies_ahead_within_the_window_is_accepted_and_beyond_it_is_not() -> None:
    domain = Domain()
    for ahead_s, status in ((0.29, 0), (0.31, 156), (-0.31, 156), (-0.29, 0)):
        stamp = Timestamp(int((domain.now.wall_s + ahead_s) * 65536))
        mac = b"\x02\0\0\0\0" + bytes((int(ahead_s * 100) % 256,))
        told = registration(domain, f"2001:db8:a1:{int(ahead_s * 100) % 256:x}::/64", mac, Timestamp=stamp)
        assert ask(domain, told)[0].status == status


def test_row_150_a_solicitation_without_a_source_address_does_not_change_the_address_that_is_asked() -> None:
    domain = Domain()
    known = IPv6Address("fe80::1234")
    domain.host_at(1, MAC, address=known)
    domain.pass_time(1.0)
    domain.host_at(1, MAC, solicited=True)
    domain.pass_time(301.0)
    assert {probe.target for _, probe in domain.probes} == {known}


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_row_12_whatever_the_mode_old_prefixes_go_through_one_tunnel_each_and_the_new_one_through_none(
    mode: Mode,
) -> None:
    domain = Domain(settings=domain_settings(mode=mode))
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
        domain.pass_time(0.5)
    assert roles(domain, 3) == {
        "2001:db8:a1": (Role.IMPORTED, domain.address(1)),
        "2001:db8:a2": (Role.IMPORTED, domain.address(2)),
        "2001:db8:a3": (Role.ANCHORED, None),
    }
    for number in (1, 2):
        assert roles(domain, number) == {f"2001:db8:a{number}": (Role.EXPORTED, domain.address(3))}
