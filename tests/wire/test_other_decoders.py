"""What we build, as read by decoders nobody here wrote: tshark and scapy; pypcapkit has a file of its own.

tshark knows RFC 5213, RFC 5846 and RFC 5847 and shows the options of RFC 8885 with their place and octets; scapy
computes the checksum.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
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

# What tshark looks into; it has no dissector for RFC 7077.
DISSECTED = (
    BindingUpdate,
    BindingAcknowledgement,
    Heartbeat,
    BindingRevocationIndication,
    BindingRevocationAcknowledgement,
)

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


class Dissected(NamedTuple):
    """One packet as tshark sees it: its fields by name, and each mobility option as (offset in the header, octets)."""

    fields: dict[str, list[str]]
    options: list[tuple[int, bytes]]


@cache
def tshark_path() -> str:
    path = shutil.which("tshark")
    if path is None and os.geteuid() != 0:
        pytest.skip("no tshark")
    assert path is not None, "tshark is part of a machine these tests run on as root"
    return path


def dissect(path: Path) -> list[Dissected]:
    run = subprocess.run([tshark_path(), "-n", "-r", str(path), "-T", "pdml"], capture_output=True, check=True)
    return [_dissected(element) for element in ElementTree.fromstring(run.stdout).iter("packet")]


def _dissected(element: ElementTree.Element) -> Dissected:
    fields: dict[str, list[str]] = {}
    options: list[tuple[int, bytes]] = []
    for field in element.iter("field"):
        fields.setdefault(field.get("name", ""), []).append(field.get("show", ""))
        if field.get("show") == "Mobility Options":
            start = int(element.find(".//field[@name='mip6.proto']").get("pos"))  # type: ignore[union-attr,arg-type]
            options = [(int(child.get("pos", "")) - start, bytes.fromhex(child.get("value", ""))) for child in field]
    return Dissected(fields, options)


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


P_V_G = (RevocationFlag.PROXY, RevocationFlag.IPV4_ONLY, RevocationFlag.GLOBAL)
NOTE = 0x400000  # severity in tshark; above it are Warning and Error


def test_tshark_finds_nothing_worse_than_options_it_does_not_know(mobility: list[tuple[Message, Dissected]]) -> None:
    for message, seen in mobility:
        assert "_ws.malformed" not in seen.fields, message
        for severity, text in zip(
            seen.fields.get("_ws.expert.severity", ()), seen.fields.get("_ws.expert.message", ()), strict=True
        ):
            assert int(severity) <= NOTE, (message, text)
            assert text == "IE data not dissected yet"


def test_tshark_row_38_to_44_126_options_stand_aligned_and_in_order(mobility: list[tuple[Message, Dissected]]) -> None:
    for message, seen in mobility:
        if isinstance(message, DISSECTED):
            options = [(at, data) for at, data in seen.options if data[0] > 1]
            assert len(options) == len(message.options)
            for at, data in options:
                modulus, remainder = expected_alignment(data[0], data[2:])
                assert at % modulus == remainder, (message, data)


def test_tshark_row_123_125_reads_the_fixed_fields(mobility: list[tuple[Message, Dissected]]) -> None:
    for message, seen in mobility:
        fields = seen.fields
        assert fields["mip6.proto"] == ["59"]
        assert fields["mip6.reserved"] == ["0x00"]
        match message:
            case BindingUpdate():
                assert fields["mip6.bu.seqnr"] == [str(message.sequence)]
                assert fields["mip6.bu.lifetime"] == [str(message.lifetime_s // 4)]
                assert fields["mip6.bu.a_flag"] == fields["mip6.bu.h_flag"] == fields["mip6.bu.p_flag"] == ["1"]
            case BindingAcknowledgement():
                assert fields["mip6.ba.status"] == [str(message.status)]
                assert fields["mip6.ba.seqnr"] == [str(message.sequence)]
                assert fields["mip6.ba.lifetime"] == [str(message.lifetime_s // 4)]
                assert fields["mip6.ba.p_flag"] == ["1"]
            case BindingError():
                assert fields["mip6.be.status"] == [str(message.status)]
                assert fields["mip6.be.haddr"] == [str(message.home_address)]


def test_tshark_row_144_148_reads_heartbeats_and_revocations(mobility: list[tuple[Message, Dissected]]) -> None:
    seen_types = set()
    for message, seen in mobility:
        fields = {name.removeprefix("mip6."): values for name, values in seen.fields.items()}
        seen_types.add(type(message))
        match message:
            case Heartbeat(sequence, flags):
                assert fields["mhtype"] == ["13"]
                assert fields["hb.seqnr"] == [str(sequence)]
                assert fields["hb.u_flag"] == [str(int(HeartbeatFlag.UNSOLICITED in flags))]
                assert fields["hb.r_flag"] == [str(int(HeartbeatFlag.RESPONSE in flags))]
            case BindingRevocationIndication(trigger, sequence, flags):
                assert (fields["mhtype"], fields["bri_br.type"]) == (["16"], ["1"])
                assert (fields["bri_r.trigger"], fields["bri_seqnr"]) == ([str(trigger)], [str(sequence)])
                assert [fields[f"bri_i{flag}"] for flag in "pvg"] == [[str(int(each in flags))] for each in P_V_G]
            case BindingRevocationAcknowledgement(status, sequence, flags):
                assert (fields["mhtype"], fields["bri_br.type"]) == (["16"], ["2"])
                assert (fields["bri_status"], fields["bri_seqnr"]) == ([str(status)], [str(sequence)])
                assert [fields[f"bri_a{flag}"] for flag in "pvg"] == [[str(int(each in flags))] for each in P_V_G]
            case UpdateNotification():
                assert fields["mhtype"] == ["19"]
            case UpdateNotificationAcknowledgement():
                assert fields["mhtype"] == ["20"]
    assert seen_types >= {*DISSECTED, UpdateNotification, UpdateNotificationAcknowledgement}


def test_tshark_row_121_146_reads_the_values_of_options(mobility: list[tuple[Message, Dissected]]) -> None:
    names: dict[type[Any], tuple[str, Callable[[Any], str]]] = {
        HomeNetworkPrefix: ("mip6.nemo.mnp.mnp", lambda option: str(option.prefix.network_address)),
        HandoffIndicator: ("mip6.hi", lambda option: str(option.value)),
        AccessTechnologyType: ("mip6.att", lambda option: str(option.value)),
        LinkLocalAddress: ("mip6.lila_lla", lambda option: str(option.address)),
        MobileNodeLinkLayerIdentifier: ("mip6.mnlli.lli", lambda option: option.identifier.hex(":")),
        AlternateCareOfAddress: ("mip6.acoa.acoa", lambda option: str(option.address)),
        BindingRefreshAdvice: ("mip6.bra.interval", lambda option: str(option.interval_s // 4)),
        RestartCounter: ("mip6.rc", lambda option: str(option.value)),
    }
    for message, seen in mobility:
        if isinstance(message, DISSECTED):
            for kind, (name, show) in names.items():
                expected = [show(option) for option in message.all(kind)]
                assert seen.fields.get(name, []) == expected, (name, message)
    registration = mobility[0][1].fields
    assert registration["mip6.mnid.identifier"] == ["mn1@dmm.example"]
    assert registration["mip6.timestamp_tmp"] == ["Nov 14, 2023 22:13:20.250000000 UTC"]
    assert registration["mip6.nemo.mnp.pfl"] == ["64"]


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


def scapy_checksum(data: bytes, source: IPv6Address, destination: IPv6Address) -> int:
    pseudo_header = scapy.IPv6(src=str(source), dst=str(destination))
    return int(scapy.in6_chksum(135, pseudo_header, data[:4] + b"\0\0" + data[6:]))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("message", BUILT, ids=lambda message: type(message).__name__)
def test_scapy_row_124_computes_the_same_checksum(message: Message) -> None:
    data = header.encode(message, GATEWAY_1, GATEWAY_2)
    assert scapy_checksum(data, GATEWAY_1, GATEWAY_2) == int.from_bytes(data[4:6], "big")
    if len(data) <= 1400:  # scapy does not look into longer ones
        parsed = scapy.IPv6(packet(data))
        assert parsed.payload.len == len(data) // 8 - 1
        parsed.payload.cksum = None  # it computes the checksum when it builds the packet again
        assert bytes(parsed)[44:46] == data[4:6]


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
