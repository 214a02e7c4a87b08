"""``anchord lma`` as the LMA of plain MAGs: RFC 5213 section 5, row by row."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from lma_domain import LMA, MAG1, MAG2, PLAIN_FLAGS, POOL, STRANGER, PlainLma, plain_settings, prefixes

from anchord.declared import PrefixEntry, Role
from anchord.protocol.exchange import ticks_of
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.settings import Limits, LmaInfo, LmaSettings
from anchord.wire.messages import BindingAckFlag, BindingError, BindingUpdateFlag, Status, UnknownMessage
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    AlternateCareOfAddress,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    Timestamp,
)

ZERO_LINK_LOCAL = LinkLocalAddress(IPv6Address("::"))
UNCHANGED = HandoffIndicator(Handoff.UNCHANGED)
BETWEEN_INTERFACES = HandoffIndicator(Handoff.BETWEEN_INTERFACES)
BETWEEN_GATEWAYS = HandoffIndicator(Handoff.BETWEEN_GATEWAYS)
UNKNOWN = HandoffIndicator(Handoff.UNKNOWN)
OTHER_INTERFACE = MobileNodeLinkLayerIdentifier(b"\x02\0\0\0\0\2")


def forwarded(lma: PlainLma) -> dict[IPv6Network, IPv6Address | None]:
    """Every prefix that the kernel tunnels, and where to."""
    entries = [entry for state in lma.declared.values() for entry in state.entries]
    assert all(entry.role is Role.EXPORTED for entry in entries)
    return {entry.prefix: entry.peer for entry in entries}


def named(*networks: IPv6Network) -> tuple[Option, ...]:
    return tuple(HomeNetworkPrefix(network) for network in networks)


def test_row_65_67_74_an_all_zero_prefix_is_answered_by_a_free_one_of_the_pool() -> None:
    lma = PlainLma()
    ack = lma.ask()
    (prefix,) = prefixes(ack)
    assert ack.status == 0 and prefix.prefixlen == 64 and prefix.subnet_of(POOL)
    assert prefixes(lma.ask(mn=b"mn2@example")) != [prefix]
    (binding, _) = lma.lma.plain_bindings.values()
    assert binding.proxy_coa == MAG1 and binding.mn_id == MobileNodeIdentifier(1, b"mn1@example")


def test_row_74_every_prefix_that_was_asked_for_comes_back_whatever_the_answer() -> None:
    lma = PlainLma()
    ours = [IPv6Network("2001:db8:aa:7::/64"), IPv6Network("2001:db8:aa:9::/64")]
    foreign = IPv6Network("2001:db8:bb:7::/64")
    refused = lma.ask(HomeNetworkPrefix=named(*ours, foreign))
    assert refused.status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX and prefixes(refused) == [*ours, foreign]
    accepted = lma.ask(HomeNetworkPrefix=named(*ours))
    assert accepted.status == 0 and prefixes(accepted) == ours


def test_row_65_without_a_free_prefix_resources_are_insufficient() -> None:
    info = LmaInfo("home", LMA, (IPv6Network("2001:db8:aa::/63"),))
    lma = PlainLma(LmaSettings(info, plain_settings(), mags=frozenset((MAG1,))))
    acks = [lma.ask(mn=name) for name in (b"a", b"b", b"c")]
    assert [ack.status for ack in acks] == [0, 0, Status.INSUFFICIENT_RESOURCES]
    assert prefixes(acks[2]) == [ALL_ZERO_PREFIX] and lma.lma.counters.local["limit.pool"] == 1


def test_row_66_a_prefix_that_is_asked_for_is_given_if_it_is_ours_and_free() -> None:
    lma = PlainLma()
    wanted = IPv6Network("2001:db8:aa:7::/64")
    assert prefixes(lma.ask(HomeNetworkPrefix=HomeNetworkPrefix(wanted))) == [wanted]
    foreign = HomeNetworkPrefix(IPv6Network("2001:db8:bb:7::/64"))
    ack = lma.ask(mn=b"mn2@example", HomeNetworkPrefix=foreign)
    assert ack.status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX and prefixes(ack) == [foreign.prefix]


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (Status.MISSING_MN_IDENTIFIER_OPTION, {"MobileNodeIdentifier": None}),  # row 56
        (Status.MISSING_MN_IDENTIFIER_OPTION, {"MobileNodeIdentifier": MobileNodeIdentifier(1, b"")}),  # row 56
        (Status.NOT_LMA_FOR_THIS_MOBILE_NODE, {"MobileNodeIdentifier": MobileNodeIdentifier(1, b"who")}),  # row 58
        (Status.PROXY_REG_NOT_ENABLED, {"MobileNodeIdentifier": MobileNodeIdentifier(1, b"banned")}),  # row 59
        (Status.TIMESTAMP_MISMATCH, {"Timestamp": Timestamp(1 << 20)}),  # row 84
        (Status.MISSING_HOME_NETWORK_PREFIX_OPTION, {"HomeNetworkPrefix": None}),  # row 61
        (Status.MISSING_HANDOFF_INDICATOR_OPTION, {"HandoffIndicator": None}),  # row 62
        (Status.MISSING_ACCESS_TECH_TYPE_OPTION, {"AccessTechnologyType": None}),  # row 63
        (Status.ADMINISTRATIVELY_PROHIBITED, {"flags": PLAIN_FLAGS | BindingUpdateFlag.DISTRIBUTED}),  # row 33
    ],
    ids=lambda value: value.name if isinstance(value, Status) else next(iter(value)),
)
def test_rows_33_56_to_63_each_fault_has_its_status_and_leaves_no_session(
    status: Status, changes: dict[str, object]
) -> None:
    plain = PlainLma().settings
    lma = PlainLma(replace(plain, listed=frozenset((b"mn1@example", b"banned")), denied=frozenset((b"banned",))))
    ack = lma.ask(**changes)
    assert ack.status == status and not lma.lma.plain_bindings and not lma.declared
    assert ack.flags & BindingAckFlag.PROXY and lma.lma.counters.of(MAG1).refused
    # Row 74: what was asked for is repeated; row 56, row 73: what was not is empty or zero.
    assert prefixes(ack) == [ALL_ZERO_PREFIX]
    mn_id = ack.first(MobileNodeIdentifier)
    assert mn_id is not None and (status != Status.MISSING_MN_IDENTIFIER_OPTION or mn_id.identifier == b"")
    handoff = HandoffIndicator(0 if "HandoffIndicator" in changes else Handoff.NEW_INTERFACE)
    assert ack.first(HandoffIndicator) == handoff


def test_row_52_the_checks_are_made_in_the_order_of_the_rfc() -> None:
    lma = PlainLma(replace(PlainLma().settings, listed=frozenset((b"mn1@example",))))
    faults: list[tuple[str, object, Status]] = [
        ("AccessTechnologyType", None, Status.MISSING_ACCESS_TECH_TYPE_OPTION),
        ("HandoffIndicator", None, Status.MISSING_HANDOFF_INDICATOR_OPTION),
        ("HomeNetworkPrefix", None, Status.MISSING_HOME_NETWORK_PREFIX_OPTION),
        ("Timestamp", Timestamp(1 << 20), Status.TIMESTAMP_MISMATCH),
        ("MobileNodeIdentifier", MobileNodeIdentifier(1, b"who"), Status.NOT_LMA_FOR_THIS_MOBILE_NODE),
        ("MobileNodeIdentifier", None, Status.MISSING_MN_IDENTIFIER_OPTION),
    ]
    present: dict[str, object] = {}
    for name, value, status in faults:  # each more fault is found before those that are there already
        present[name] = value
        assert lma.ask(**present).status == status


def test_row_47_51_57_who_is_no_mag_of_ours_is_not_heard_and_who_may_not_register_is_refused() -> None:
    lma = PlainLma()
    assert lma.hear(lma.update(), STRANGER) == []
    assert lma.lma.counters.strangers.dropped == {"unconfigured-peer": 1}
    elsewhere = AlternateCareOfAddress(STRANGER)
    assert lma.ask(AlternateCareOfAddress=elsewhere).status == Status.MAG_NOT_AUTHORIZED_FOR_PROXY_REG


def test_row_54_130_137_header_rules() -> None:
    lma = PlainLma()
    assert lma.hear(lma.update(flags=BindingUpdateFlag.PROXY)) == []
    lma.hear(UnknownMessage(99, bytes(2)))
    assert isinstance(lma.sent[-1].message, BindingError)
    assert lma.lma.counters.of(MAG1).dropped == {"not-a-proxy-update": 1, "unknown-type": 1}


def test_row_67_87_the_answer_waits_for_the_tunnel() -> None:
    lma = PlainLma()
    lma.hold_kernel = True
    assert lma.hear(lma.update()) == []
    (state,) = lma.declared.values()
    assert state.entries == (PrefixEntry(state.entries[0].prefix, Role.EXPORTED, None, MAG1),)
    lma.install()
    (ack,) = lma.acks()
    assert ack.status == 0 and prefixes(ack) == [state.entries[0].prefix]


def test_what_the_kernel_refuses_is_refused_and_its_prefix_free_again() -> None:
    lma = PlainLma()
    lma.kernel_error = "no"
    assert lma.ask().status == Status.INSUFFICIENT_RESOURCES
    assert not lma.lma.plain_bindings and not lma.store["plain"]
    lma.kernel_error = None
    (prefix,) = prefixes(lma.ask())
    tried = [report.fields["prefixes"] for report in lma.reports if report.event == "bound"]
    assert tried == [[str(prefix)]] * 2  # the same one again: nobody had been told of it


def test_row_72_73_120_the_answer_repeats_what_the_request_said() -> None:
    lma = PlainLma()
    update = lma.update(sequence=77)
    (ack,) = lma.hear(update)
    assert ack.flags == BindingAckFlag.PROXY and ack.sequence == 77 and ack.lifetime_s == 600
    for kind in (MobileNodeIdentifier, HandoffIndicator, AccessTechnologyType, Timestamp):
        assert ack.first(kind) == update.first(kind)


def test_row_75_optional_options_come_back_only_if_they_were_there() -> None:
    lma = PlainLma()
    bare = lma.ask(Timestamp=None, MobileNodeLinkLayerIdentifier=None)
    for kind in (Timestamp, MobileNodeLinkLayerIdentifier, LinkLocalAddress):
        assert bare.first(kind) is None
    assert lma.ask(mn=b"mn2@example").first(MobileNodeLinkLayerIdentifier) is not None


def test_row_75_link_local_address_is_generated_kept_and_replaced() -> None:
    lma = PlainLma()
    made = lma.ask(LinkLocalAddress=ZERO_LINK_LOCAL).first(LinkLocalAddress)
    assert made is not None and made.address.is_link_local
    assert lma.ask(MAG2, LinkLocalAddress=ZERO_LINK_LOCAL).first(LinkLocalAddress) == made
    told = LinkLocalAddress(IPv6Address("fe80::77"))
    assert lma.ask(MAG2, LinkLocalAddress=told).first(LinkLocalAddress) == told
    assert lma.ask(MAG1, LinkLocalAddress=ZERO_LINK_LOCAL).first(LinkLocalAddress) == told


def test_row_68_a_refresh_extends_and_says_so_at_once() -> None:
    lma = PlainLma()
    given = prefixes(lma.ask())
    lma.pass_time(400)
    lma.hold_kernel = True  # nothing in the kernel changes, so nothing is waited for
    assert prefixes(lma.ask(HandoffIndicator=UNCHANGED, HomeNetworkPrefix=named(*given))) == given
    lma.pass_time(400)
    assert len(lma.lma.plain_bindings) == 1
    lma.pass_time(201)
    assert not lma.lma.plain_bindings


def test_row_68_after_a_handoff_the_tunnel_goes_to_the_new_mag() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MAG1))
    assert prefixes(lma.ask(MAG2, HandoffIndicator=BETWEEN_GATEWAYS)) == [prefix]
    assert forwarded(lma) == {prefix: MAG2}


def test_row_69_a_deregistration_by_the_former_mag_is_ignored() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MAG1))
    lma.ask(MAG2)
    assert lma.hear(lma.update(HomeNetworkPrefix=HomeNetworkPrefix(prefix), lifetime_s=0), MAG1) == []
    assert forwarded(lma) == {prefix: MAG2}
    assert lma.lma.counters.of(MAG1).dropped == {"deregistration-not-serving": 1}


def test_a_deregistration_of_nothing_is_ignored() -> None:
    lma = PlainLma()
    assert lma.hear(lma.update(lifetime_s=0)) == []
    assert lma.lma.counters.of(MAG1).dropped == {"deregistration-of-nothing": 1}


def test_row_70_71_deregistered_answered_at_once_dropped_meanwhile_and_deleted_later() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask())
    ack = lma.ask(HomeNetworkPrefix=HomeNetworkPrefix(prefix), HandoffIndicator=UNKNOWN, lifetime_s=0)
    assert (ack.status, ack.lifetime_s, prefixes(ack)) == (0, 0, [prefix])
    assert forwarded(lma) == {} and len(lma.lma.plain_bindings) == 1
    lma.pass_time(9.9)
    assert len(lma.lma.plain_bindings) == 1
    lma.pass_time(0.2)
    assert not lma.lma.plain_bindings and not lma.store["plain"]


def test_row_70_a_registration_within_the_delay_keeps_session_and_prefix() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask())
    lma.ask(HomeNetworkPrefix=HomeNetworkPrefix(prefix), lifetime_s=0)
    lma.pass_time(5)
    assert prefixes(lma.ask(MAG2)) == [prefix] and forwarded(lma) == {prefix: MAG2}
    lma.pass_time(60)
    assert len(lma.lma.plain_bindings) == 1


def test_a_prefix_rests_until_its_last_valid_lifetime_is_over() -> None:
    info = LmaInfo("home", LMA, (IPv6Network("2001:db8:aa::/64"),))
    lma = PlainLma(LmaSettings(info, plain_settings(), mags=frozenset((MAG1,))))
    (prefix,) = prefixes(lma.ask())
    lma.ask(HomeNetworkPrefix=HomeNetworkPrefix(prefix), lifetime_s=0)
    lma.pass_time(11)
    assert lma.ask(mn=b"mn2@example").status == Status.INSUFFICIENT_RESOURCES
    asked = lma.ask(mn=b"mn2@example", HomeNetworkPrefix=HomeNetworkPrefix(prefix))
    assert asked.status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX
    lma.restart()
    assert lma.ask(mn=b"mn2@example").status == Status.INSUFFICIENT_RESOURCES
    lma.pass_time(600)
    assert prefixes(lma.ask(mn=b"mn2@example")) == [prefix]


def test_row_76_each_interface_of_a_node_has_a_session_of_its_own() -> None:
    lma = PlainLma()
    (one,) = prefixes(lma.ask())
    (other,) = prefixes(lma.ask(MAG2, MobileNodeLinkLayerIdentifier=OTHER_INTERFACE))
    assert one != other and forwarded(lma) == {one: MAG1, other: MAG2}


def test_row_77_lookup_by_prefix() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask())
    mine = HomeNetworkPrefix(prefix)
    assert lma.ask(mn=b"mn2@example", HomeNetworkPrefix=mine).status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX
    more = named(prefix, IPv6Network("2001:db8:aa:9::/64"))
    assert lma.ask(HomeNetworkPrefix=more).status == Status.BCE_PBU_PREFIX_SET_DO_NOT_MATCH
    # Another interface's session, but for a handover between the two: the prefix cannot be in both.
    strange = lma.ask(MAG2, HomeNetworkPrefix=mine, MobileNodeLinkLayerIdentifier=OTHER_INTERFACE)
    assert strange.status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX
    moved = lma.ask(
        MAG2, HomeNetworkPrefix=mine, MobileNodeLinkLayerIdentifier=OTHER_INTERFACE, HandoffIndicator=BETWEEN_INTERFACES
    )
    assert prefixes(moved) == [prefix] and forwarded(lma) == {prefix: MAG2}


def test_row_77_without_a_link_layer_identifier_the_prefix_and_handoff_3_name_the_session() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MobileNodeLinkLayerIdentifier=None))
    ack = lma.ask(
        MAG2,
        MobileNodeLinkLayerIdentifier=None,
        HomeNetworkPrefix=HomeNetworkPrefix(prefix),
        HandoffIndicator=BETWEEN_GATEWAYS,
    )
    assert prefixes(ack) == [prefix] and forwarded(lma) == {prefix: MAG2}


def test_row_78_lookup_by_link_layer_identifier_and_technology() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask())
    assert prefixes(lma.ask(MAG2, HandoffIndicator=UNKNOWN)) == [prefix]
    assert prefixes(lma.ask(MAG2, AccessTechnologyType=AccessTechnologyType(3))) != [prefix]


def test_row_78_handoff_2_finds_the_only_session_whatever_its_interface() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask())
    moved = lma.ask(MAG2, MobileNodeLinkLayerIdentifier=OTHER_INTERFACE, HandoffIndicator=BETWEEN_INTERFACES)
    assert prefixes(moved) == [prefix]


@pytest.mark.parametrize("handoff", [Handoff.BETWEEN_INTERFACES, Handoff.BETWEEN_GATEWAYS])
def test_row_78_lookup_by_identity_alone(handoff: Handoff) -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MobileNodeLinkLayerIdentifier=None))
    ack = lma.ask(MAG2, MobileNodeLinkLayerIdentifier=None, HandoffIndicator=HandoffIndicator(handoff))
    assert prefixes(ack) == [prefix]


def test_row_78_handoff_1_and_5_without_a_session_are_new_ones() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MobileNodeLinkLayerIdentifier=None))
    for indicator in (HandoffIndicator(Handoff.NEW_INTERFACE), UNCHANGED):
        assert prefixes(lma.ask(MAG2, MobileNodeLinkLayerIdentifier=None, HandoffIndicator=indicator)) != [prefix]


def test_row_78_handoff_4_waits_for_the_end_of_the_old_session_and_takes_it_over() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MAG1))
    asked = lma.update(MobileNodeLinkLayerIdentifier=OTHER_INTERFACE, HandoffIndicator=UNKNOWN)
    assert lma.hear(asked, MAG2) == []
    lma.pass_time(1.0)
    before = len(lma.sent)
    lma.sequence += 100
    end = lma.update(HomeNetworkPrefix=HomeNetworkPrefix(prefix), HandoffIndicator=UNKNOWN, lifetime_s=0)
    lma.perform(lma.lma.handle(MessageReceived(MAG1, end), lma.now))
    ended, taken_over = lma.acks(before)
    assert [send.destination for send in lma.sent[before:]] == [MAG1, MAG2]
    assert ended.lifetime_s == 0 and taken_over.status == 0 and prefixes(taken_over) == [prefix]
    assert forwarded(lma) == {prefix: MAG2}
    lma.pass_time(20)
    assert len(lma.lma.plain_bindings) == 1


def test_row_78_122_handoff_4_without_an_end_in_time_is_a_new_session() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MAG1))
    before = len(lma.sent)
    for _ in range(2):  # the MAG repeats: one answer, to the newest
        lma.hear(lma.update(MobileNodeLinkLayerIdentifier=OTHER_INTERFACE, HandoffIndicator=UNKNOWN), MAG2)
        lma.pass_time(0.7)
    assert lma.acks(before) == []
    lma.pass_time(0.2)
    (ack,) = lma.acks(before)
    assert ack.status == 0 and ack.sequence == lma.sequence
    assert forwarded(lma) == {prefix: MAG1, prefixes(ack)[0]: MAG2} and prefixes(ack) != [prefix]


def test_row_78_122_the_wait_is_a_setting() -> None:
    timing = replace(plain_settings().timing, max_delay_before_new_bce_assign_s=0.0)
    settings = replace(PlainLma().settings, domain=plain_settings(timing=timing))
    lma = PlainLma(settings)
    lma.ask(MAG1)
    lma.ask(MAG2, MobileNodeLinkLayerIdentifier=OTHER_INTERFACE, HandoffIndicator=UNKNOWN)
    assert len(lma.lma.plain_bindings) == 2


def test_row_79_81_an_accepted_timestamp_comes_back_and_orders_alone() -> None:
    lma = PlainLma()
    assert lma.ask(sequence=500).status == 0
    update = lma.update(sequence=3, HandoffIndicator=UNCHANGED)
    (ack,) = lma.hear(update)
    assert (ack.status, ack.sequence) == (0, 3) and ack.first(Timestamp) == update.first(Timestamp)


def test_row_82_83_a_timestamp_that_is_not_newer_is_refused_with_our_time() -> None:
    lma = PlainLma()
    old = Timestamp(ticks_of(lma.now.wall_s))
    assert lma.ask().status == 0
    ack = lma.ask(MAG2, Timestamp=old)
    assert ack.status == Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED
    assert ack.first(Timestamp) == Timestamp(ticks_of(lma.now.wall_s))
    # All sessions of the node count.
    other = lma.ask(MAG2, Timestamp=old, MobileNodeLinkLayerIdentifier=OTHER_INTERFACE)
    assert other.status == Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED


def test_row_84_a_clock_outside_the_window_is_refused_with_our_time() -> None:
    lma = PlainLma()
    ack = lma.ask(Timestamp=Timestamp(ticks_of(lma.now.wall_s + 0.4)))
    assert ack.status == Status.TIMESTAMP_MISMATCH and ack.first(Timestamp) == Timestamp(ticks_of(lma.now.wall_s))


def test_row_85_134_135_without_a_timestamp_sequence_numbers_order() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(sequence=40, Timestamp=None))
    stale = lma.ask(MAG2, sequence=40, Timestamp=None)
    assert (stale.status, stale.sequence) == (Status.SEQUENCE_NUMBER_OUT_OF_WINDOW, 40)
    assert stale.first(Timestamp) is None
    moved = lma.ask(MAG2, sequence=41, Timestamp=None)
    assert prefixes(moved) == [prefix] and moved.first(Timestamp) is None


def test_the_same_message_twice_is_answered_twice_and_done_once() -> None:
    lma = PlainLma()
    update = lma.update()
    (first,), (second,) = lma.hear(update), lma.hear(update)
    assert first == second and len(lma.lma.plain_bindings) == 1


def test_row_138_lifetime_is_no_longer_than_asked_and_no_longer_than_ours() -> None:
    lma = PlainLma()
    assert lma.ask(lifetime_s=100).lifetime_s == 100
    lma.pass_time(101)
    assert not lma.lma.plain_bindings
    assert lma.ask(mn=b"mn2@example", lifetime_s=10_000).lifetime_s == 600


def test_row_138_no_binding_outlives_the_pool_that_its_prefix_is_of() -> None:
    lma = PlainLma()
    (gone,) = prefixes(lma.ask())
    new_pool = IPv6Network("2001:db8:ab::/48")
    lma.settings = replace(lma.settings, me=replace(lma.settings.me, pools=(new_pool,)))
    lma.restart()
    assert not lma.lma.plain_bindings and forwarded(lma) == {}
    assert [report.event for report in lma.reports][-1] == "journal-refused" and not lma.store["plain"]
    refresh = {"HomeNetworkPrefix": HomeNetworkPrefix(gone), "HandoffIndicator": UNCHANGED}
    assert lma.ask(**refresh).status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX
    (given,) = prefixes(lma.ask())
    assert given.subnet_of(new_pool)


def test_an_alternate_care_of_address_is_the_end_of_the_tunnel_and_the_sender_is_answered() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(MAG1, AlternateCareOfAddress=AlternateCareOfAddress(MAG2)))
    assert forwarded(lma) == {prefix: MAG2}


def test_limits_of_sessions_and_of_prefixes_in_one() -> None:
    domain = plain_settings(limits=Limits(bindings=1, anchors_per_host=2))
    lma = PlainLma(replace(PlainLma().settings, domain=domain))
    many = named(*(IPv6Network(f"2001:db8:aa:{number}::/64") for number in range(3)))
    assert lma.ask(HomeNetworkPrefix=many).status == Status.INSUFFICIENT_RESOURCES
    assert lma.ask().status == 0
    assert lma.ask(mn=b"mn2@example").status == Status.INSUFFICIENT_RESOURCES
    assert lma.lma.counters.local == {"limit.asked-prefixes": 1, "limit.bindings": 1}


def test_a_restarted_lma_goes_on_where_it_was() -> None:
    lma = PlainLma()
    (prefix,) = prefixes(lma.ask(LinkLocalAddress=ZERO_LINK_LOCAL))
    (ending,) = prefixes(lma.ask(mn=b"mn2@example"))
    lma.ask(mn=b"mn2@example", HomeNetworkPrefix=HomeNetworkPrefix(ending), lifetime_s=0)
    lma.restart()
    assert forwarded(lma) == {prefix: MAG1}
    assert prefixes(lma.ask(MAG2)) == [prefix]
    lma.pass_time(11)
    assert [str(binding.prefixes[0]) for binding in lma.lma.plain_bindings.values()] == [str(prefix)]
