"""Which options of a message belong to which anchor (decision 1), and how many of them fit into one (decision 33)."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from test_roaming import MAC, acks, entries

from anchord.declared import LogicalRouter, Role
from anchord.protocol.groups import Anchor, read_groups, write_group
from anchord.protocol.settings import Limits
from anchord.wire.header import encode
from anchord.wire.options import DlifLinkLayerAddress, DlifLinkLocalAddress, LocalPrefix, Option, PreviousMaar

CMD = IPv6Address("2001:db8:fc::1")
MAARS = [IPv6Address(f"2001:db8:f{number}::1") for number in (1, 2)]
PREFIXES = [IPv6Network(f"2001:db8:a{number}:7::/64") for number in (1, 2)]
FACES = [LogicalRouter(bytes((2, 0, 0, 0, 0, number)), IPv6Address(f"fe80::{number}")) for number in (1, 2)]
LOCAL = IPv6Network("fd00:1::/48")
PREVIOUS = [PreviousMaar(maar, prefix) for maar, prefix in zip(MAARS, PREFIXES, strict=True)]
ADDRESSES = [DlifLinkLocalAddress(face.address) for face in FACES]
MACS = [DlifLinkLayerAddress(face.mac) for face in FACES]
WHOLE = tuple(Anchor(*each) for each in zip(MAARS, [(p,) for p in PREFIXES], FACES, strict=True))


def test_decision_1_a_group_is_sent_in_one_piece() -> None:
    anchor = Anchor(MAARS[0], tuple(PREFIXES), FACES[0], (LOCAL,))
    second = PreviousMaar(MAARS[0], PREFIXES[1])
    assert write_group(anchor) == (PREVIOUS[0], second, ADDRESSES[0], MACS[0], LocalPrefix(LOCAL))


def test_decision_1_options_belong_to_the_nearest_anchor_before_them() -> None:
    read = read_groups(CMD, (PREVIOUS[0], ADDRESSES[0], MACS[0], PREVIOUS[1], MACS[1], ADDRESSES[1]))
    assert read.anchors == WHOLE and read.orphans == 0 and read.own == Anchor(CMD, ())


def test_decision_1_before_any_anchor_they_are_the_senders_own() -> None:
    read = read_groups(CMD, (ADDRESSES[0], MACS[0], LocalPrefix(LOCAL), PREVIOUS[1], ADDRESSES[1], MACS[1]))
    assert read.own == Anchor(CMD, (), FACES[0], (LOCAL,))
    assert read.anchors == WHOLE[1:]


def test_decision_1_all_anchors_first_and_as_many_addresses_behind_them_are_paired() -> None:
    assert read_groups(CMD, (*PREVIOUS, *ADDRESSES, *MACS)).anchors == WHOLE


def test_decision_1_groups_of_one_gateway_are_one_anchor_with_all_its_prefixes_each_once() -> None:
    second = PreviousMaar(MAARS[0], PREFIXES[1])
    read = read_groups(CMD, (PREVIOUS[0], ADDRESSES[0], MACS[0], second, PREVIOUS[0]))
    assert read.anchors == (Anchor(MAARS[0], tuple(PREFIXES), FACES[0]),)


@pytest.mark.parametrize(
    ("options", "orphans"),
    [((*PREVIOUS, ADDRESSES[1], *MACS), 1), ((PREVIOUS[0], *ADDRESSES, *MACS), 2)],
    ids=["not as many", "two faces of one"],
)
def test_decision_1_what_fits_nowhere_is_counted(options: tuple[Option, ...], orphans: int) -> None:
    assert read_groups(CMD, options).orphans == orphans


def test_row_10_13_decision_12_33_many_anchors_take_several_messages_of_1240_bytes_that_add_up() -> None:
    gateways = 20
    domain = Domain(settings=domain_settings(gateways, limits=Limits(anchors_per_host=gateways)))
    for number in range(1, gateways + 1):
        domain.host_at(number, MAC)
        domain.pass_time(1.0)
    last = acks(domain, CENTRAL, domain.address(gateways))
    sizes = [len(encode(ack)) for ack in last]
    assert len(sizes) > 1 and max(sizes) <= 1240
    assert {ack.sequence for ack in last} == {last[0].sequence}
    held = [entry.role for entry in entries(domain, gateways)]
    assert held.count(Role.IMPORTED) == gateways - 1
