"""Gateways that the CMD has not heard: what they have given a host is not lost when it moves on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from test_direct import address_in, anchors, prefix_at, roles, sent
from test_refusals import ask, registration
from test_relay import settled_state
from test_roaming import MAC, OTHER, acks, updates

from anchord.declared import LogicalRouter, Role
from anchord.protocol.clues import GLANCE_FRAMES
from anchord.protocol.identity import derive_router
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.outputs import Send
from anchord.protocol.session import Phase
from anchord.protocol.settings import Limits, Mode
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Status
from anchord.wire.neighbor import Preference
from anchord.wire.options import AnchoredPrefix

LINK_LOCAL = IPv6Address("fe80::1234")
MODES = pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)


def between(*pairs: tuple[IPv6Address, IPv6Address]) -> Callable[[IPv6Address, Send], bool]:
    """Nothing arrives between these."""
    return lambda sender, send: (sender, send.destination) in pairs or (send.destination, sender) in pairs


def cut_off(mode: Mode = Mode.PROXY) -> Domain:
    """A host that was at gw1, and now is at gw3, which alone cannot reach the CMD."""
    domain = Domain(4, domain_settings(4, mode=mode), neighbours={3: (1,)})
    domain.host_at(1, MAC, address=LINK_LOCAL)
    domain.pass_time(5.0)
    domain.lose = between((CENTRAL, domain.address(3)))
    domain.host_at(3, MAC, address=LINK_LOCAL)
    domain.pass_time(5.0)
    assert anchors(domain, 3) == {domain.address(1)}
    return domain


def exported_to(domain: Domain, number: int) -> dict[IPv6Network, tuple[Role, IPv6Address | None]]:
    return {prefix_at(domain, 3): (Role.EXPORTED, domain.address(number))}


@MODES
def test_decision_26_the_source_of_a_packet_names_an_anchor_that_the_cmd_has_never_heard_of(mode: Mode) -> None:
    domain = cut_off(mode)
    domain.host_at(2, MAC, reassociated=True)
    assert anchors(domain, 2) == {domain.address(1)}
    domain.pass_time(0.2)
    domain.host_at(2, MAC, address=address_in(domain, 3))
    domain.pass_time(1.0)
    assert anchors(domain, 2) == {domain.address(1), domain.address(3)}
    assert roles(domain, 3) == exported_to(domain, 2)
    # The CMD hears of it, and cannot tell gw3 anything: what gw3 says itself counts.
    (binding,) = domain.central.bindings.values()
    assert binding.anchor(domain.address(3)) is not None
    for _ in range(70):
        domain.pass_time(10.0)
        domain.host_at(2, MAC, address=LINK_LOCAL, solicited=True)
    assert anchors(domain, 2) == {domain.address(1), domain.address(3)}
    assert roles(domain, 3) == exported_to(domain, 2)
    domain.lose = lambda sender, send: False
    for _ in range(5):
        domain.pass_time(10.0)
        domain.host_at(2, MAC, address=LINK_LOCAL, solicited=True)
    assert not binding.unconfirmed and anchors(domain, 2) == {domain.address(1), domain.address(3)}
    settled_state(domain)


def test_row_51_a_source_that_is_another_hosts_adds_nothing_and_is_asked_about_once() -> None:
    domain = Domain(3)
    domain.host_at(3, b"\x02\x55\xaa\0\0\x09")
    theirs = address_in(domain, 3)
    domain.host_at(1, MAC, address=LINK_LOCAL)
    domain.pass_time(0.2)
    for host in range(20):
        domain.host_at(1, MAC, address=theirs + host)
    (asked,) = sent(domain, 1, 3, BindingUpdate)
    (answer,) = sent(domain, 3, 1, BindingAcknowledgement)
    assert isinstance(answer, BindingAcknowledgement)
    assert (answer.sequence, answer.status) == (asked.sequence, Status.NOT_LMA_FOR_THIS_MOBILE_NODE)
    domain.pass_time(60.0)
    assert anchors(domain, 1) == set() and len(sent(domain, 1, 3, BindingUpdate)) == 1


def test_a_few_frames_of_a_host_are_looked_at_and_no_more() -> None:
    domain = Domain(2)
    domain.host_at(1, MAC, reassociated=True)
    kept_away, here = ("acc0", MAC), domain.address(1)
    assert kept_away in domain.ignored[here]
    for pause_s in (0.2, 1.0):
        domain.pass_time(pause_s)
        frames = 0
        while kept_away not in domain.ignored[here]:
            domain.host_at(1, MAC, address=LINK_LOCAL + frames)
            frames += 1
        assert frames == GLANCE_FRAMES
    domain.pass_time(100.0)
    assert kept_away in domain.ignored[here]


def shown_by(domain: Domain, number: int, router: LogicalRouter) -> list[tuple[int, Preference]]:
    """Lifetime and preference of a router in what was shown at a gateway, in order."""
    here = domain.address(number)
    return [(o.router_lifetime_s, o.preference) for at, o in domain.shown if (at, o.router) == (here, router)]


def test_decision_23_a_router_that_nobody_here_is_is_forgotten_and_its_gateway_asked() -> None:
    """The host only receives on the prefix of gw3; but it sends everything to the router that it had there."""
    domain = cut_off()
    (session,) = domain.gw[3].sessions.values()
    domain.host_at(2, MAC, address=LINK_LOCAL)
    domain.pass_time(0.2)
    domain.host_at(2, MAC, address=address_in(domain, 1), router=session.router.mac, settle=False)
    assert shown_by(domain, 2, session.router) == [(0, Preference.MEDIUM)]
    domain.settle()
    assert set(shown_by(domain, 2, session.router)[1:]) == {(600, Preference.LOW)}
    assert anchors(domain, 2) == {domain.address(1), domain.address(3)} and roles(domain, 3) == exported_to(domain, 2)


def test_a_gateway_that_has_given_the_host_nothing_is_asked_once_and_its_router_stays_away() -> None:
    domain = Domain(3)
    domain.host_at(1, MAC, address=LINK_LOCAL)
    (session,) = domain.gw[1].sessions.values()
    stray = derive_router(domain.settings.secret, "gw3", session.mn_id)
    domain.pass_time(0.2)
    for router in (stray.mac, session.router.mac) * 3:
        domain.host_at(1, MAC, router=router)
    assert {lifetime_s for lifetime_s, _ in shown_by(domain, 1, stray)} == {0}
    assert len(sent(domain, 1, 3, BindingUpdate)) == 1 and anchors(domain, 1) == set()
    assert all(lifetime_s for lifetime_s, _ in shown_by(domain, 1, session.router))


@MODES
def test_decision_26_a_gateway_whose_host_has_left_tells_the_cmd_what_it_anchors_without_claiming_the_host(
    mode: Mode,
) -> None:
    """The host only receives at gw2: none of its packets shows an address of gw3's prefix."""
    domain = cut_off(mode)
    domain.host_at(2, MAC, address=LINK_LOCAL)
    domain.pass_time(43.0)
    assert anchors(domain, 2) == {domain.address(1)}
    assert domain.gw[3].sessions[next(iter(domain.gw[3].sessions))].phase is Phase.SERVING
    domain.lose = lambda sender, send: False
    domain.sent.clear()
    domain.pass_time(40.0)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(2) and not binding.unconfirmed
    assert anchors(domain, 2) == {domain.address(1), domain.address(3)}
    assert roles(domain, 3) == exported_to(domain, 2)
    assert [ack.status for ack in acks(domain, CENTRAL, domain.address(3))] == [157]
    settled_state(domain)


def test_row_111_a_host_that_has_left_is_not_claimed_by_a_repetition() -> None:
    domain = cut_off()
    domain.host_at(2, MAC, address=LINK_LOCAL)
    domain.lose = lambda sender, send: False
    for _ in range(60):
        domain.pass_time(1.0)
        (binding,) = domain.central.bindings.values()
        assert binding.serving.maar == domain.address(2)


def test_a_host_that_is_asleep_at_an_unregistered_gateway_is_registered_when_it_speaks() -> None:
    """The CMD takes no stamp that is old, and nothing is taken from the host."""
    domain = Domain(2)
    domain.lose = between((CENTRAL, domain.address(1)))
    domain.host_at(1, MAC, address=LINK_LOCAL)
    domain.pass_time(60.0)
    domain.lose = lambda sender, send: False
    domain.pass_time(60.0)
    assert not domain.central.bindings and anchors(domain, 1) == set()
    domain.host_at(1, MAC, address=LINK_LOCAL)
    (binding,) = domain.central.bindings.values()
    assert binding.serving.maar == domain.address(1)


@pytest.mark.parametrize("spoilt", ["not its own", "another's", "given up", "unnamed", "too many"])
def test_row_51_what_an_older_pbu_says_of_a_prefix_is_believed_only_if_it_can_be_true(spoilt: str) -> None:
    limits = Limits(anchors_per_host=1) if spoilt == "too many" else Limits()
    domain = Domain(4, domain_settings(4, limits=limits), neighbours={3: (1,)})
    domain.host_at(1, MAC, address=LINK_LOCAL)
    domain.lose = between((CENTRAL, domain.address(3)))
    domain.host_at(3, MAC, address=LINK_LOCAL)
    domain.pass_time(1.0)
    domain.host_at(2, MAC, address=LINK_LOCAL)
    domain.pass_time(10.0)
    late = next(m for m in reversed(updates(domain, domain.address(3), CENTRAL)) if m.all(AnchoredPrefix))
    (binding,) = domain.central.bindings.values()
    source, own = domain.address(3), prefix_at(domain, 3)
    if spoilt == "not its own":
        source = domain.address(4)
    elif spoilt == "another's":
        (accepted,) = ask(domain, registration(domain, str(own), OTHER), source)
        assert accepted.status == Status.ACCEPTED
    elif spoilt == "given up":
        binding.released[own] = domain.now.wall_s + 100
    elif spoilt == "unnamed":
        late = replace(late, options=tuple(o for o in late.options if not isinstance(o, AnchoredPrefix)))
    before = list(binding.anchors)
    domain.feed(CENTRAL, MessageReceived(source, late))
    assert binding.anchors == before and binding.serving.maar == domain.address(2)
