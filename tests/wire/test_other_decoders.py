"""What we build, as read by decoders nobody here wrote: tshark and scapy; pypcapkit has a file of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from eyes_scapy import scapy_checksum, scapy_reads
from eyes_tshark import DISSECTED, Dissected, complaints, dissect, expected
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import addresses
from wire_vectors import A_H_P_D, GATEWAY_1, GATEWAY_2, P_D, PREFIX_1, PREFIX_2, ROUTER_1, VECTORS
from wire_walk import expected_alignment

from anchord.wire import header, neighbor
from anchord.wire.frames import ethernet_frame, eui64_link_local, layer2_update_frame
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    Heartbeat,
    HeartbeatFlag,
    Message,
    NotificationFlag,
    RevocationFlag,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.neighbor import (
    ALL_NODES,
    ALL_ROUTERS,
    DnsSearchList,
    Mtu,
    NdMessage,
    NeighborAdvertisement,
    NeighborSolicitation,
    Preference,
    PrefixInformation,
    RecursiveDnsServer,
    RouteInformation,
    RouterAdvertisement,
    RouterFlag,
    RouterSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    AlternateCareOfAddress,
    AnchoredPrefix,
    BindingRefreshAdvice,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    LocalPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    PreviousMaar,
    RestartCounter,
    ServingMaar,
    Timestamp,
    UnknownOption,
)
from anchord.wire.pcap import LINKTYPE_ETHERNET, LINKTYPE_IPV6, PcapWriter

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers import inet6 as scapy
    from scapy.utils6 import in6_mactoifaceid

MAC = bytes.fromhex("020000000001")
HOST, ROUTER = IPv6Address("fe80::1"), IPv6Address("fe80::a1")
LOCAL_NETWORK = IPv6Network("2001:db8:f::/48")
TIME_NS = 1_700_000_000_123_456_789
EUI48_ID = MobileNodeIdentifier(5, bytes.fromhex("0211223344fe"))  # tshark takes it for a string and objects to zeros
SERVING = ServingMaar(GATEWAY_2)
REVOKED = (HomeNetworkPrefix(PREFIX_1), HomeNetworkPrefix(PREFIX_2), AlternateCareOfAddress(GATEWAY_2))
GROUP = (PreviousMaar(GATEWAY_1, PREFIX_1), *ROUTER_1, LocalPrefix(LOCAL_NETWORK))

# Besides the vectors: every option behind an identifier of every length modulo 8, and the long messages.
BUILT: list[Message] = [
    *(vector.message for vector in VECTORS),
    BindingUpdate(0, 0, A_H_P_D),
    BindingAcknowledgement(155, 65_535, 262_140, P_D),
    BindingError(2),
    BindingError(1, GATEWAY_1),
    *(
        BindingUpdate(
            length,
            600,
            A_H_P_D,
            (
                MobileNodeIdentifier(1, b"n" * length),
                HomeNetworkPrefix(ALL_ZERO_PREFIX),
                MobileNodeLinkLayerIdentifier(bytes(6 if length % 2 else 8)),
                AnchoredPrefix(PREFIX_1),
                HandoffIndicator(5),
                DlifLinkLayerAddress(MAC),
                AlternateCareOfAddress(GATEWAY_2),
                AccessTechnologyType(3),
                Timestamp((TIME_NS << 16) // 1_000_000_000),
                LocalPrefix(LOCAL_NETWORK),
                DlifLinkLocalAddress(ROUTER),
                UnknownOption(200, b"x" * length),
                LinkLocalAddress(ROUTER),
            ),
        )
        for length in range(1, 17)
    ),
    *(
        BindingAcknowledgement(0, 1, 600, P_D, (EUI48_ID, BindingRefreshAdvice(300), SERVING, *GROUP * n))
        for n in (1, 2, 7, 12, 20)
    ),
    *(
        Heartbeat(2**32 - length, HeartbeatFlag.RESPONSE, (UnknownOption(200, b"x" * length), RestartCounter(length)))
        for length in range(1, 9)
    ),
    *(
        kind(value, 65_535, flag, (MobileNodeIdentifier(1, b"n" * length), *REVOKED))
        for kind, value in ((BindingRevocationIndication, 7), (BindingRevocationAcknowledgement, 135))
        for flag in RevocationFlag
        for length in range(1, 9)
    ),
    UpdateNotification(65_535, 4, NotificationFlag.ACKNOWLEDGE, (EUI48_ID,)),
    UpdateNotificationAcknowledgement(65_535, 129, (EUI48_ID,)),
]  # fmt: skip

ND_BUILT: list[tuple[NdMessage, IPv6Address, IPv6Address]] = [
    (RouterSolicitation((SourceLinkLayerAddress(MAC),)), HOST, ALL_ROUTERS),
    (RouterSolicitation(), IPv6Address("::"), ALL_ROUTERS),
    (
        RouterAdvertisement(
            64,
            RouterFlag.OTHER,
            Preference.LOW,
            600,
            30_000,
            1_000,
            (
                SourceLinkLayerAddress(MAC),
                PrefixInformation(PREFIX_1, on_link=False, autonomous=True, valid_s=600, preferred_s=0),
                Mtu(1460),
                RouteInformation(LOCAL_NETWORK, Preference.HIGH, 601),
                RecursiveDnsServer(602, (GATEWAY_1, GATEWAY_2)),
                DnsSearchList(603, ("dmm.example", "a.b")),
            ),
        ),
        ROUTER,
        ALL_NODES,
    ),
    (NeighborSolicitation(HOST, (SourceLinkLayerAddress(MAC),)), ROUTER, IPv6Address("ff02::1:ff00:1")),
    (NeighborAdvertisement(ROUTER, True, True, True, (TargetLinkLayerAddress(MAC),)), ROUTER, HOST),
]


def packet(data: bytes) -> bytes:
    return bytes.fromhex("60000000") + len(data).to_bytes(2, "big") + b"\x87\x40" + ADDRESSES + data


ADDRESSES = GATEWAY_1.packed + GATEWAY_2.packed


# tshark


@pytest.fixture(scope="module")
def mobility(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Message, Dissected]]]:
    path = tmp_path_factory.mktemp("tshark") / "mobility.pcap"
    with path.open("wb") as file:
        writer = PcapWriter(file, LINKTYPE_IPV6)
        for message in BUILT:
            writer.write(TIME_NS, packet(header.encode(message, GATEWAY_1, GATEWAY_2)))
    dissected = dissect(path)
    assert len(dissected) == len(BUILT)
    yield list(zip(BUILT, dissected, strict=True))


def test_tshark_finds_nothing_worse_than_options_it_does_not_know(mobility: list[tuple[Message, Dissected]]) -> None:
    for message, seen in mobility:
        assert not complaints(seen.fields), message


def test_tshark_row_38_to_44_126_options_stand_aligned_and_in_order(mobility: list[tuple[Message, Dissected]]) -> None:
    for message, seen in mobility:
        if isinstance(message, DISSECTED):
            options = [(at, data) for at, data in seen.options if data[0] > 1]
            assert len(options) == len(message.options)
            for at, data in options:
                modulus, remainder = expected_alignment(data[0], data[2:])
                assert at % modulus == remainder, (message, data)


def test_tshark_row_32_36_121_123_125_144_146_148_reads_fields_flags_and_values(
    mobility: list[tuple[Message, Dissected]],
) -> None:
    for message, seen in mobility:
        wanted = expected(message)
        assert {name: seen.fields.get(name, []) for name in wanted} == wanted, message
        if isinstance(message, BindingUpdate | BindingAcknowledgement):
            assert int(seen.flags, 16) == message.flags
    assert {type(message) for message, _ in mobility} >= {*DISSECTED, UpdateNotification, BindingError}
    registration = mobility[0][1].fields
    assert registration["mip6.mnid.identifier"] == ["mn1@dmm.example"]
    assert registration["mip6.timestamp_tmp"] == ["Nov 14, 2023 22:13:20.250000000 UTC"]


def test_tshark_reads_the_time_to_the_nanosecond(mobility: list[tuple[Message, Dissected]]) -> None:
    assert {seen.fields["frame.time_epoch"][0] for _, seen in mobility} == {"1700000000.123456789"}


@pytest.fixture(scope="module")
def discovery(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    path = tmp_path_factory.mktemp("tshark") / "discovery.pcap"
    with path.open("wb") as file:
        writer = PcapWriter(file, LINKTYPE_ETHERNET)
        for message, source, destination in ND_BUILT:
            icmpv6 = neighbor.encode(message, source, destination)
            writer.write(TIME_NS, ethernet_frame(b"\x33\x33\0\0\0\1", MAC, source, destination, icmpv6))
        writer.write(TIME_NS, layer2_update_frame(MAC))
    return [seen.fields for seen in dissect(path)]


def test_tshark_finds_good_checksums_and_nothing_to_complain_of(discovery: list[dict[str, list[str]]]) -> None:
    assert len(discovery) == len(ND_BUILT) + 1
    for fields in discovery:
        assert "_ws.malformed" not in fields
        assert "_ws.expert" not in fields
    for fields in discovery[:-1]:
        assert fields["icmpv6.checksum.status"] == ["1"]
        assert fields["ipv6.hlim"] == ["255"]


def test_tshark_row_29_31_110_reads_the_router_advertisement(discovery: list[dict[str, list[str]]]) -> None:
    fields = discovery[2]
    expected = {
        "icmpv6.type": ["134"],
        "icmpv6.nd.ra.cur_hop_limit": ["64"],
        "icmpv6.nd.ra.flag.m": ["0"],
        "icmpv6.nd.ra.flag.o": ["1"],
        "icmpv6.nd.ra.flag.prf": ["3"],
        "icmpv6.nd.ra.router_lifetime": ["600"],
        "icmpv6.nd.ra.reachable_time": ["30000"],
        "icmpv6.nd.ra.retrans_timer": ["1000"],
        "icmpv6.opt.prefix.length": ["64", "48"],
        "icmpv6.opt.prefix": ["2001:db8:a:1::", "2001:db8:f::"],
        "icmpv6.opt.prefix.flag.l": ["0"],
        "icmpv6.opt.prefix.flag.a": ["1"],
        "icmpv6.opt.prefix.valid_lifetime": ["600"],
        "icmpv6.opt.prefix.preferred_lifetime": ["0"],
        "icmpv6.opt.mtu": ["1460"],
        "icmpv6.opt.route_info.flag.route_preference": ["1"],
        "icmpv6.opt.route_lifetime": ["601"],
        "icmpv6.opt.rdnss.lifetime": ["602"],
        "icmpv6.opt.rdnss": [str(GATEWAY_1), str(GATEWAY_2)],
        "icmpv6.opt.dnssl.lifetime": ["603"],
        "icmpv6.opt.dnssl": ["dmm.example", "a.b"],
    }
    assert {name: fields.get(name) for name in expected} == expected


def test_tshark_reads_neighbor_messages(discovery: list[dict[str, list[str]]]) -> None:
    assert [fields["icmpv6.type"] for fields in discovery[:-1]] == [["133"], ["133"], ["134"], ["135"], ["136"]]
    assert discovery[0]["icmpv6.opt.src_linkaddr"] == ["02:00:00:00:00:01"]
    assert discovery[3]["icmpv6.nd.ns.target_address"] == ["fe80::1"]
    advertisement = discovery[4]
    assert advertisement["icmpv6.nd.na.target_address"] == ["fe80::a1"]
    assert [advertisement[f"icmpv6.nd.na.flag.{flag}"] for flag in "rso"] == [["1"], ["1"], ["1"]]
    assert advertisement["icmpv6.opt.target_linkaddr"] == ["02:00:00:00:00:01"]


def test_tshark_reads_the_layer_2_update_as_an_xid_response(discovery: list[dict[str, list[str]]]) -> None:
    fields = discovery[-1]
    assert fields["eth.dst"] == ["ff:ff:ff:ff:ff:ff"]
    assert fields["eth.src"] == ["02:00:00:00:00:01"]
    assert fields["eth.len"] == ["6"]
    assert (fields["llc.dsap"], fields["llc.ssap.cr"]) == (["0x00"], ["1"])
    assert fields["llc.control.u_modifier_resp"] == ["0x2b"]
    assert (fields["basicxid.llc.xid.format"], fields["basicxid.llc.xid.types"]) == (["0x81"], ["0x01"])


# scapy


@pytest.mark.parametrize("message", BUILT, ids=lambda message: type(message).__name__)
def test_scapy_row_35_124_126_reads_what_we_build_and_computes_the_same_checksum(message: Message) -> None:
    scapy_reads(packet(header.encode(message, GATEWAY_1, GATEWAY_2)), message)


@given(st.binary(min_size=1, max_size=100), addresses, addresses)
def test_scapy_row_124_agrees_on_any_octets(noise: bytes, source: IPv6Address, destination: IPv6Address) -> None:
    data = b"\x3b\0\x05\0\0\0" + noise
    assert header.checksum(source, destination, data) == scapy_checksum(data, source, destination)


def scapy_frames() -> list[bytes]:
    def frame(source: IPv6Address, destination: IPv6Address, *layers: Any) -> bytes:
        built = scapy.IPv6(src=str(source), dst=str(destination), hlim=255)
        for layer in layers:
            built = built / layer
        return MAC + MAC + b"\x86\xdd" + bytes(built)

    mac = MAC.hex(":")
    (_, *solicitation), (_, *detection), (_, *advertisement), (_, *question), (_, *answer) = ND_BUILT
    return [
        frame(*solicitation, scapy.ICMPv6ND_RS(), scapy.ICMPv6NDOptSrcLLAddr(lladdr=mac)),
        frame(*detection, scapy.ICMPv6ND_RS()),
        frame(
            *advertisement,
            scapy.ICMPv6ND_RA(chlim=64, M=0, O=1, prf=3, routerlifetime=600, reachabletime=30_000, retranstimer=1_000),
            scapy.ICMPv6NDOptSrcLLAddr(lladdr=mac),
            scapy.ICMPv6NDOptPrefixInfo(
                prefix="2001:db8:a:1::", prefixlen=64, L=0, A=1, validlifetime=600, preferredlifetime=0
            ),
            scapy.ICMPv6NDOptMTU(mtu=1460),
            scapy.ICMPv6NDOptRouteInfo(prefix="2001:db8:f::", plen=48, prf=1, rtlifetime=601, len=2),
            scapy.ICMPv6NDOptRDNSS(dns=[str(GATEWAY_1), str(GATEWAY_2)], lifetime=602),
            scapy.ICMPv6NDOptDNSSL(searchlist=["dmm.example", "a.b"], lifetime=603),
        ),
        frame(*question, scapy.ICMPv6ND_NS(tgt=str(HOST)), scapy.ICMPv6NDOptSrcLLAddr(lladdr=mac)),
        frame(*answer, scapy.ICMPv6ND_NA(tgt=str(ROUTER), R=1, S=1, O=1), scapy.ICMPv6NDOptDstLLAddr(lladdr=mac)),
    ]


@pytest.mark.parametrize("number", range(len(ND_BUILT)))
def test_scapy_builds_the_same_neighbor_discovery_octet_for_octet(number: int) -> None:
    message, source, destination = ND_BUILT[number]
    theirs = scapy_frames()[number]
    assert ethernet_frame(MAC, MAC, source, destination, neighbor.encode(message, source, destination)) == theirs
    assert neighbor.received(neighbor.parse_frame(theirs)) == message


@given(st.binary(min_size=6, max_size=6))
def test_scapy_agrees_on_link_local_addresses(mac: bytes) -> None:
    assert eui64_link_local(mac) == IPv6Address(f"fe80::{in6_mactoifaceid(mac.hex(':'))}".replace(":::", "::"))
