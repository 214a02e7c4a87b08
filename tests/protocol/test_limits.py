"""What peers, hosts and a slow kernel could make grow has a limit, and nothing is kept for nothing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

from domain import CENTRAL, Domain, domain_settings
from test_direct import address_in
from test_idle import stays
from test_roaming import MAC, acks, entries, roles

from anchord.declared import LogicalRouter, Role
from anchord.protocol.binding import MOST_RELEASED, Binding
from anchord.protocol.groups import Anchor
from anchord.protocol.identity import mn_id_of_mac
from anchord.protocol.inputs import HostSeen
from anchord.protocol.settings import Limits, Mode
from anchord.wire.messages import BindingUpdate
from anchord.wire.options import DlifLinkLayerAddress


def test_row_46_the_list_of_anchors_has_a_limit_while_none_of_them_answers() -> None:
    """A relay names no anchor that has not answered, and a host without any gets the prefix of each gateway."""
    domain = Domain(settings=domain_settings(7, mode=Mode.RELAY, limits=Limits(anchors_per_host=2)))
    domain.lose = lambda sender, send: sender == CENTRAL and isinstance(send.message, BindingUpdate)
    for number in range(1, 8):
        domain.host_at(number, MAC)
        domain.pass_time(0.2)
        (binding,) = domain.central.bindings.values()
        assert len(binding.anchors) <= 2
    assert domain.central.counters.local["limit.anchors"] == 4
    domain.lose = lambda sender, send: False
    domain.pass_time(60.0)
    assert not any(domain.gw[number].sessions for number in (1, 2, 3, 4)), "they have been told that it is over"
    assert roles(domain, 7)["2001:db8:a6"] == (Role.IMPORTED, domain.address(6))


def test_what_was_given_up_is_remembered_within_a_limit() -> None:
    binding = Binding("key", mn_id_of_mac(MAC), MAC, Anchor(CENTRAL, ()))
    prefixes = [IPv6Network((0x2001_0DB8 << 96 | number << 64, 64)) for number in range(MOST_RELEASED + 5)]
    binding.note_released(prefixes, 1000.0)
    assert list(binding.released) == prefixes[5:]


def test_row_74_an_anchor_that_gave_the_host_another_prefix_meanwhile_is_believed() -> None:
    """It lost its sessions, not what rests, and served the host while the CMD was away."""
    domain = Domain(neighbours={2: (1,)})
    domain.host_at(1, MAC)
    before = next(iter(domain.gw[1].sessions.values())).prefix
    domain.host_at(2, MAC)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    domain.journal[domain.address(1)] = {"resting": {str(before): {"until_wall_s": domain.now.wall_s + 600}}}
    domain.restart(domain.address(1))
    domain.host_at(1, MAC)
    domain.pass_time(1.0)
    after = next(iter(domain.gw[1].sessions.values())).prefix
    assert after != before
    domain.host_at(2, MAC, address=address_in(domain, 1))
    domain.pass_time(1.0)
    domain.lose = lambda sender, send: False
    stays(domain, 2, 60)
    (binding,) = domain.central.bindings.values()
    assert [anchor.prefixes for anchor in binding.anchors] == [(after,)]
    assert list(binding.released) == [before]
    held = {entry.prefix: entry.role for entry in entries(domain, 2)}
    assert held[after] is Role.IMPORTED and held[before] is Role.RELEASED


def test_a_kernel_that_does_not_answer_keeps_no_more_waiting_than_the_limit() -> None:
    domain = Domain(settings=domain_settings(3, limits=Limits(hosts=1)))
    domain.host_at(1, MAC)
    domain.hold_kernel = True
    for number in (2, 3) * 6:
        domain.host_at(number, MAC)
        domain.pass_time(1.1)
    assert domain.gw[1].counters.local["limit.continuations"] > 0
    domain.sent.clear()
    domain.hold_kernel = False
    domain.settle()
    answered = [ack for ack in acks(domain, domain.address(1), CENTRAL) if not ack.status]
    assert 1 <= len(answered) <= 4
    domain.pass_time(40.0)
    assert roles(domain, 1) == {"2001:db8:a1": (Role.EXPORTED, domain.address(3))}


def test_a_face_that_is_not_shown_any_more_may_be_a_hosts() -> None:
    """Each time an anchor answers it may show itself with another face; only the last one counts."""
    domain = Domain(settings=domain_settings(2))
    domain.host_at(1, MAC)
    session = next(iter(domain.gw[1].sessions.values()))
    macs = [bytes((2, 0, 0, 0, 1, number)) for number in range(3)]
    for mac in macs:
        session.router = LogicalRouter(mac, session.router.address)
        domain.host_at(2, MAC, reassociated=True)
        domain.pass_time(1.0)
        domain.host_at(1, MAC, reassociated=True)
        domain.pass_time(1.0)
    domain.host_at(2, MAC, reassociated=True)
    told = acks(domain, CENTRAL, domain.address(2))
    shown = [option.address for ack in told for option in ack.all(DlifLinkLayerAddress)]
    assert macs[-1] in shown
    first, last = macs[0], macs[-1]
    for mac in (first, last):
        domain.feed(domain.address(2), HostSeen("acc0", mac))
    known = {session.mac for session in domain.gw[2].sessions.values()}
    assert first in known and last not in known


def test_a_prefix_that_nobody_was_told_of_does_not_rest() -> None:
    settings = domain_settings(1)
    domain = Domain(settings=replace(settings, serve_unregistered=False))
    domain.lose = lambda sender, send: True
    domain.host_at(1, MAC)
    domain.pass_time(settings.lifetimes.binding_s + 1.0)
    assert not domain.gw[1].sessions and not domain.gw[1].resting()
