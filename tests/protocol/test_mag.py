"""A gateway as the MAG of a plain LMA, for the hosts whose policy says so: RFC 5213 section 6, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from lma_domain import LMA, PLAIN_FLAGS, POOL
from test_roaming import MAC, OTHER, acks, entries, updates

from anchord.declared import PrefixEntry, Role
from anchord.protocol.exchange import ticks_of
from anchord.protocol.identity import mn_id_of_mac, mn_id_text
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.lma import Lma
from anchord.protocol.outputs import Advertise, Send
from anchord.protocol.settings import LmaInfo, LmaSettings
from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Status,
)
from anchord.wire.neighbor import Preference
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    AnchoredPrefix,
    BindingRefreshAdvice,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    LocalPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    PreviousMaar,
    ServingMaar,
    Timestamp,
)

FIXED_LINK_LOCAL = IPv6Address("fe80::77")
FIXED_MAC = bytes.fromhex("02000000ff01")


class Plain(Domain):
    """Two gateways and an LMA that anchors MAC; OTHER is everybody else's, with a CMD."""

    def __init__(self, **changes: object) -> None:
        info = LmaInfo("home", LMA, (POOL,))
        plain = domain_settings(2, **{"lmas": {LMA: info}, "fixed_anchors": {MAC: LMA}, **changes})
        super().__init__(settings=plain)
        self.lma = Lma(LmaSettings(info, plain))
        self.nodes[LMA] = self.lma  # type: ignore[assignment]
        for table in (self.declared, self.ignored, self.journal):
            table[LMA] = type(next(iter(table.values())))()  # type: ignore[index]

    def alter(self, change: Callable[[BindingAcknowledgement], BindingAcknowledgement]) -> None:
        """What the LMA answers from now on is changed on its way."""

        def on_its_way(sender: IPv6Address, send: Send) -> bool:
            ack = send.message
            if sender == LMA and isinstance(ack, BindingAcknowledgement):
                self.wire.append((LMA, Send(send.destination, change(ack))))
                return True
            return False

        self.lose = on_its_way

    def refuse(self, status: Status) -> None:
        """The LMA says no from now on."""
        self.alter(lambda ack: replace(ack, status=int(status)))


def home(domain: Plain) -> IPv6Network:
    """The prefix that the LMA gave the node."""
    (binding,) = domain.lma.plain_bindings.values()
    return binding.prefixes[0]


def asked(domain: Domain, number: int) -> list[BindingUpdate]:
    return updates(domain, domain.address(number), LMA)


def shown_last(domain: Domain, number: int) -> Advertise:
    return [advertise for who, advertise in domain.shown if who == domain.address(number)][-1]


def with_its_own(named: Option, ack: BindingAcknowledgement) -> BindingAcknowledgement:
    """``ack`` with ``named`` in the place of its option of that kind."""
    kind = type(named)
    return replace(ack, options=tuple(named if isinstance(option, kind) else option for option in ack.options))


def test_row_91_92_93_95_96_the_first_registration() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    (update,) = asked(domain, 1)
    assert update.flags == PLAIN_FLAGS and update.lifetime_s == 600
    assert update.options == (
        MobileNodeIdentifier(5, MAC),
        HomeNetworkPrefix(ALL_ZERO_PREFIX),
        HandoffIndicator(Handoff.UNKNOWN),
        AccessTechnologyType(3),
        update.first(Timestamp),
        MobileNodeLinkLayerIdentifier(MAC),
        LinkLocalAddress(IPv6Address("::")),
    )
    assert updates(domain, domain.address(1), CENTRAL) == []  # and nobody else is asked


def test_row_104_105_109_tunnel_then_one_router_that_the_lma_names_with_a_preferred_prefix() -> None:
    domain = Plain()
    domain.hold_kernel = True
    domain.host_at(1, MAC)
    assert domain.shown == []
    while domain.pending or domain.wire:
        domain.install()
        if domain.wire:
            domain.deliver()
    prefix = home(domain)
    (entry,) = entries(domain, 1)
    assert (entry.prefix, entry.role, entry.peer) == (prefix, Role.IMPORTED, LMA)
    (ack,) = acks(domain, LMA, domain.address(1))
    told = ack.first(LinkLocalAddress)
    assert told is not None and entry.router is not None and entry.router.address == told.address
    ((_, advertised),) = domain.shown
    assert advertised.router == entry.router and advertised.preference is Preference.MEDIUM
    ((of_prefix),) = advertised.prefixes
    assert (of_prefix.prefix, of_prefix.valid_s, of_prefix.preferred_s) == (prefix, 600, 300)


def test_a_move_keeps_prefix_router_and_its_addresses() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    before, prefix = shown_last(domain, 1), home(domain)
    domain.host_at(2, MAC)
    after = shown_last(domain, 2)
    assert (after.router, after.prefixes) == (before.router, before.prefixes)
    (state,) = domain.declared[LMA].values()
    assert state.entries == (PrefixEntry(prefix, Role.EXPORTED, None, domain.address(2)),)


def test_the_mag_that_a_host_has_left_is_told_and_forgets_it() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(3)
    assert not domain.gw[1].sessions and entries(domain, 1) == ()
    assert [entry.role for entry in entries(domain, 2)] == [Role.IMPORTED]
    assert domain.lma.plain_bindings
    domain.host_at(1, MAC)  # where it is news again
    (binding,) = domain.lma.plain_bindings.values()
    assert binding.proxy_coa == domain.address(1)


def test_a_host_that_is_back_in_time_is_not_revoked() -> None:
    domain = Plain()
    domain.lose = lambda sender, send: isinstance(send.message, BindingRevocationIndication)
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(2.1)  # gw1 was told, and did not hear
    domain.lose = lambda sender, send: False
    domain.host_at(1, MAC, solicited=True)
    domain.pass_time(60)
    assert [entry.role for entry in entries(domain, 1)] == [Role.IMPORTED] and entries(domain, 2) == ()


def test_two_mags_hear_the_host_at_once_and_the_one_that_it_answers_keeps_it() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(3)
    before, shown = entries(domain, 2), len(domain.shown)
    domain.host_at(1, MAC)  # somebody else with its MAC address
    (binding,) = domain.lma.plain_bindings.values()
    assert binding.proxy_coa == domain.address(1)
    for _ in range(100):
        domain.pass_time(0.001)
        domain.host_at(2, MAC)  # the host itself, which sends data all the time
    assert binding.proxy_coa == domain.address(2), "within a tenth of a second"
    domain.pass_time(1)
    assert not domain.gw[1].sessions and entries(domain, 1) == ()
    assert entries(domain, 2) == before and binding.proxy_coa == domain.address(2)
    told = [order for who, order in domain.shown[shown:] if who == domain.address(2)]
    assert all(order.router_lifetime_s for order in told), "the host has had a router all the time"
    assert domain.gw[2].counters.of(LMA).dropped == {"revocation-refused.132": 1}


def test_what_an_administrator_ends_a_moment_after_a_handover_ends_at_both_mags() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    name = mn_id_text(mn_id_of_mac(MAC))
    names, outputs = domain.lma.revoke(name, domain.now)
    domain.perform(LMA, outputs)
    domain.settle()
    assert names == [name] and not domain.lma.plain_bindings
    domain.pass_time(1)
    for number in (1, 2):
        assert not domain.gw[number].sessions and entries(domain, number) == ()


def test_the_host_that_returns_unnoticed_is_registered_again() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(1)
    domain.host_at(1, MAC, solicited=True)
    (binding,) = domain.lma.plain_bindings.values()
    assert binding.proxy_coa == domain.address(1)


def test_other_hosts_are_anchored_as_ever() -> None:
    domain = Plain()
    domain.host_at(1, OTHER)
    domain.host_at(2, OTHER)
    assert [entry.role for entry in entries(domain, 2)] == [Role.IMPORTED, Role.ANCHORED]
    assert not domain.lma.plain_bindings


def test_row_106_a_refresh_names_prefix_and_link_local_address_with_handoff_5() -> None:
    domain = Plain()
    domain.host_at(1, MAC, address=IPv6Address("fe80::1234"))
    domain.pass_time(299)
    domain.host_at(1, MAC, solicited=True)  # it is there
    before = len(asked(domain, 1))
    domain.pass_time(290)
    refresh = asked(domain, 1)[before - 1]
    assert refresh.first(HandoffIndicator) == HandoffIndicator(Handoff.UNCHANGED)
    assert refresh.first(HomeNetworkPrefix) == HomeNetworkPrefix(home(domain))
    (entry,) = entries(domain, 1)
    assert entry.router is not None and refresh.first(LinkLocalAddress) == LinkLocalAddress(entry.router.address)


@pytest.mark.parametrize("mac", [MAC, OTHER], ids=["of the LMA", "of the CMD"])
def test_row_140_what_is_granted_counts_from_the_question(mac: bytes) -> None:
    domain = Plain()
    domain.host_at(1, mac, settle=False)
    domain.install()
    asked_s = domain.now.wall_s
    domain.deliver()
    domain.install() if mac == MAC else None  # the LMA's answer waits for its kernel
    domain.pass_time(0.05)
    sender, answer = domain.wire.pop()
    assert isinstance(answer.message, BindingAcknowledgement)
    domain.wire.append((sender, replace(answer, message=replace(answer.message, lifetime_s=100))))
    domain.settle()
    (session,) = domain.gw[1].sessions.values()
    assert session.registered and abs(session.expires_wall_s - (asked_s + 100)) < 0.01


def test_row_128_an_lma_may_have_its_binding_refreshed_sooner() -> None:
    domain = Plain()
    domain.alter(lambda ack: replace(ack, options=(*ack.options, BindingRefreshAdvice(20))))
    domain.host_at(1, MAC)
    domain.pass_time(30.0)
    assert len(asked(domain, 1)) == 2


def test_row_107_118_a_silent_host_ends_by_lifetime_and_is_deregistered() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    prefix = home(domain)
    domain.pass_time(620)
    last = asked(domain, 1)[-1]
    assert (last.lifetime_s, last.first(HomeNetworkPrefix)) == (0, HomeNetworkPrefix(prefix))
    assert last.first(HandoffIndicator) == HandoffIndicator(Handoff.UNKNOWN)
    assert entries(domain, 1) == () and not domain.gw[1].sessions
    gone = shown_last(domain, 1)
    assert gone.router_lifetime_s == 0 and [(p.valid_s, p.preferred_s) for p in gone.prefixes] == [(0, 0)]
    assert not domain.lma.plain_bindings  # its own lifetime was over as well


def test_row_115_without_the_lma_the_binding_runs_out_and_nothing_is_forwarded() -> None:
    domain = Plain()
    domain.host_at(1, MAC, address=IPv6Address("fe80::1234"))
    domain.lose = lambda sender, send: LMA in (sender, send.destination)
    for _ in range(7):
        domain.pass_time(100)
        domain.host_at(1, MAC, solicited=True)
        if not domain.gw[1].sessions or entries(domain, 1) == ():
            break
    assert all(entry.role is not Role.IMPORTED for entry in entries(domain, 1))


def test_row_96_with_a_fixed_link_local_address_no_option_is_sent_and_it_is_shown() -> None:
    domain = Plain(fixed_link_local=FIXED_LINK_LOCAL)
    domain.host_at(1, MAC)
    assert asked(domain, 1)[0].first(LinkLocalAddress) is None
    assert shown_last(domain, 1).router.address == FIXED_LINK_LOCAL


def test_row_122_a_fixed_mac_address_is_the_first_nodes_router() -> None:
    domain = Plain(fixed_mac=FIXED_MAC, fixed_anchors={b"": LMA})
    domain.host_at(1, MAC)
    assert shown_last(domain, 1).router.mac == FIXED_MAC
    domain.host_at(1, OTHER)
    assert shown_last(domain, 1).router.mac != FIXED_MAC
    assert domain.gw[1].counters.local == {"fixed-mac.in-use": 1}


def test_row_105_whatever_link_local_address_the_lma_names_is_the_routers() -> None:
    domain = Plain()
    named = LinkLocalAddress(IPv6Address("fe80::1234"))
    domain.alter(lambda ack: with_its_own(named, ack))
    domain.host_at(1, MAC, address=IPv6Address("fe80::5678"))
    assert shown_last(domain, 1).router.address == named.address
    (entry,) = entries(domain, 1)
    assert entry.router is not None and entry.router.address == named.address


def test_row_105_an_address_that_the_node_uses_is_not_taken() -> None:
    domain = Plain()
    theirs = LinkLocalAddress(IPv6Address("fe80::1234"))
    domain.alter(lambda ack: with_its_own(theirs, ack))
    domain.host_at(1, MAC, address=theirs.address)
    assert shown_last(domain, 1).router.address != theirs.address
    assert "link-local-in-use" in [report.event for _, report in domain.reports]


def test_row_98_an_answer_to_nothing_is_dropped() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    (ack,) = acks(domain, LMA, domain.address(1))
    domain.feed(domain.address(1), MessageReceived(LMA, replace(ack, sequence=999)))
    assert domain.gw[1].counters.of(LMA).dropped == {"unmatched-ack": 1}


def test_row_99_a_wrong_echo_is_ignored_and_not_asked_again() -> None:
    domain = Plain()
    wrong = MobileNodeLinkLayerIdentifier(OTHER)
    domain.alter(lambda ack: with_its_own(wrong, ack))
    domain.host_at(1, MAC)
    domain.pass_time(100)
    assert len(asked(domain, 1)) == 1 and domain.shown == []
    assert domain.gw[1].counters.of(LMA).dropped == {"echo-mismatch": 1}


def test_row_40_without_d_no_option_of_rfc_8885_is_sent_either_way() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(310.0)
    plain = [send.message for who, send in domain.sent if LMA in (who, send.destination)]
    said = [message for message in plain if isinstance(message, BindingUpdate | BindingAcknowledgement)]
    assert len(said) > 3
    anchoring = (AnchoredPrefix, LocalPrefix, PreviousMaar, ServingMaar, DlifLinkLocalAddress, DlifLinkLayerAddress)
    assert not any(isinstance(option, anchoring) for message in said for option in message.options)


def test_row_99_a_wrong_echo_says_nothing_of_clocks_either() -> None:
    domain = Plain()
    wrong = MobileNodeLinkLayerIdentifier(OTHER)
    domain.alter(
        lambda ack: replace(ack, status=int(Status.TIMESTAMP_MISMATCH), options=(*ack.options[:2], wrong, Timestamp(1)))
    )
    domain.host_at(1, MAC)
    counters = domain.gw[1].counters.of(LMA)
    assert counters.dropped == {"echo-mismatch": 1} and counters.clock_skew_ms is None


def test_row_37_decision_21_an_answer_with_d_is_not_believed() -> None:
    domain = Plain()
    domain.alter(lambda ack: replace(ack, flags=ack.flags | BindingAckFlag.DISTRIBUTED))
    domain.host_at(1, MAC)
    assert domain.shown == [] and domain.gw[1].counters.of(LMA).dropped == {"not-a-plain-ack": 1}


def test_a_prefix_that_is_not_the_lmas_is_not_believed() -> None:
    domain = Plain()
    lie = HomeNetworkPrefix(IPv6Network("2001:db8:dead::/64"))
    domain.alter(
        lambda ack: replace(
            ack, options=tuple(lie if isinstance(option, HomeNetworkPrefix) else option for option in ack.options)
        )
    )
    domain.host_at(1, MAC)
    assert domain.shown == [] and entries(domain, 1) == ()
    assert domain.gw[1].counters.of(LMA).dropped == {"foreign-prefix": 1}


def test_row_100_a_node_that_is_not_entitled_is_not_asked_about_again() -> None:
    domain = Plain()
    domain.refuse(Status.PROXY_REG_NOT_ENABLED)
    domain.host_at(1, MAC)
    domain.pass_time(31)  # when its frames are looked at again
    domain.host_at(1, MAC)
    assert len(asked(domain, 1)) == 1 and domain.shown == [] and not domain.gw[1].sessions


@pytest.mark.parametrize("status", [Status.NOT_LMA_FOR_THIS_MOBILE_NODE, Status.TIMESTAMP_MISMATCH])
def test_row_101_103_a_refused_node_gets_no_advertisement_and_no_forwarding(status: Status) -> None:
    domain = Plain()
    domain.refuse(status)
    domain.host_at(1, MAC)
    domain.pass_time(29)
    assert domain.shown == [] and entries(domain, 1) == () and len(asked(domain, 1)) == 1


def test_row_101_status_157_is_asked_again_at_once_with_the_time_of_now() -> None:
    domain = Plain()
    domain.skew[domain.address(2)] = -0.2
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    first, second = asked(domain, 2)[:2]
    assert first.first(Timestamp) != second.first(Timestamp)
    assert acks(domain, LMA, domain.address(2))[0].status == Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED
    domain.pass_time(2)
    assert shown_last(domain, 2).prefixes[0].prefix == home(domain)


def test_row_102_status_155_to_a_refresh_asks_for_another_prefix_and_withdraws_the_old_one() -> None:
    domain = Plain()
    domain.host_at(1, MAC, address=IPv6Address("fe80::1234"))
    old = home(domain)
    new = IPv6Network((int(old.network_address) + (1 << 64), 64))

    def answer(ack: BindingAcknowledgement) -> BindingAcknowledgement:
        if len(asked(domain, 1)) == 2:
            return replace(ack, status=int(Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX))
        return with_its_own(HomeNetworkPrefix(new), ack)

    domain.alter(answer)
    domain.host_at(1, MAC, solicited=True)
    refused, other = asked(domain, 1)[-2:]
    assert refused.first(HomeNetworkPrefix) == HomeNetworkPrefix(old)
    assert other.first(HomeNetworkPrefix) == HomeNetworkPrefix(ALL_ZERO_PREFIX)
    gone, preferred = domain.shown[-2:]
    assert [(p.prefix, p.valid_s) for p in gone[1].prefixes] == [(old, 0)]
    assert [p.prefix for p in preferred[1].prefixes] == [new] and preferred[1].router_lifetime_s > 0


def test_row_135_a_sequence_number_out_of_the_window_is_adopted() -> None:
    domain = Plain(timestamps=False)
    domain.host_at(1, MAC)
    for _ in range(3):
        domain.pass_time(1)
        domain.host_at(1, MAC, solicited=True)
    domain.host_at(2, MAC)  # whose numbers begin at 1 again
    assert acks(domain, LMA, domain.address(2))[0].status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert shown_last(domain, 2).prefixes[0].prefix == home(domain)


def test_row_111_112_113_an_unanswered_registration_is_repeated() -> None:
    domain = Plain()
    domain.lose = lambda sender, send: LMA in (sender, send.destination)
    domain.host_at(1, MAC)
    domain.pass_time(8)
    stamps = [update.first(Timestamp) for update in asked(domain, 1)]
    assert len(stamps) == 4 and len(set(stamps)) == 4  # at 0, 1, 3 and 7 s
    assert domain.shown == []  # nothing is given without the LMA's word


def test_a_restarted_gateway_goes_on_with_the_lmas_prefix() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    before = entries(domain, 1)
    domain.pass_time(1)
    domain.restart(domain.address(1))
    assert entries(domain, 1) == before != ()


def test_a_cmd_that_speaks_of_a_node_with_a_fixed_anchor_is_refused() -> None:
    domain = Plain()
    domain.host_at(1, MAC)
    before = entries(domain, 1)
    update = BindingUpdate(
        7,
        0,
        PLAIN_FLAGS | BindingUpdateFlag.DISTRIBUTED,
        (
            MobileNodeIdentifier(5, MAC),
            HomeNetworkPrefix(IPv6Network("2001:db8:a1:1::/64")),
            HandoffIndicator(4),
            AccessTechnologyType(3),
            Timestamp(ticks_of(domain.now.wall_s)),
            MobileNodeLinkLayerIdentifier(MAC),
        ),
    )
    domain.feed(domain.address(1), MessageReceived(CENTRAL, update))
    assert entries(domain, 1) == before
    assert acks(domain, domain.address(1), CENTRAL)[-1].status == Status.NOT_LMA_FOR_THIS_MOBILE_NODE
