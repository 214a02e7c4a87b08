"""tshark as a second reader: what it sees in a capture, and what it should see in a message of ours.

It knows RFC 5213, RFC 5846 and RFC 5847, and shows the options of RFC 8885 with their place and octets. Three things it
does not: the Mobility Header's checksum is shown, not verified; MH types 19 and 20 (RFC 7077) have no dissector; and a
mobile node identifier is taken for text whatever its subtype.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingError,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Heartbeat,
    HeartbeatFlag,
    Message,
    RevocationFlag,
    UnknownMessage,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.neighbor import RouterAdvertisement, RouterFlag
from anchord.wire.neighbor_options import Mtu, PrefixInformation, RecursiveDnsServer, RouteInformation
from anchord.wire.options import (
    AccessTechnologyType,
    AlternateCareOfAddress,
    BindingRefreshAdvice,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    MnIdSubtype,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    RestartCounter,
)

Fields = dict[str, list[str]]

NOTE, WARNING = 0x400000, 0x600000
"""Severities in tshark; above them is Error."""

# Messages whose options tshark looks into; it has no dissector for RFC 7077.
DISSECTED = (
    BindingUpdate,
    BindingAcknowledgement,
    Heartbeat,
    BindingRevocationIndication,
    BindingRevocationAcknowledgement,
)

# Each option that it reads, with the name of the field.
_OPTIONS: dict[type[Any], tuple[str, Callable[[Any], str]]] = {
    HomeNetworkPrefix: ("mip6.nemo.mnp.mnp", lambda option: str(option.prefix.network_address)),
    HandoffIndicator: ("mip6.hi", lambda option: str(option.value)),
    AccessTechnologyType: ("mip6.att", lambda option: str(option.value)),
    LinkLocalAddress: ("mip6.lila_lla", lambda option: str(option.address)),
    MobileNodeLinkLayerIdentifier: ("mip6.mnlli.lli", lambda option: option.identifier.hex()),
    AlternateCareOfAddress: ("mip6.acoa.acoa", lambda option: str(option.address)),
    BindingRefreshAdvice: ("mip6.bra.interval", lambda option: str(option.interval_s // 4)),
    RestartCounter: ("mip6.rc", lambda option: str(option.value)),
}
_BY_LETTER = {"p": RevocationFlag.PROXY, "v": RevocationFlag.IPV4_ONLY, "g": RevocationFlag.GLOBAL}


class Dissected(NamedTuple):
    """One packet: its fields by name, each mobility option as (offset in the header, octets), and the flags as a whole
    as hexadecimal digits, D among them, where the message has any that tshark knows."""

    fields: Fields
    options: list[tuple[int, bytes]]
    flags: str


@cache
def tshark_path() -> str:
    """Where tshark is. Root has it, everybody else may have to skip."""
    path = shutil.which("tshark")
    if path is None and os.geteuid() != 0:
        pytest.skip("no tshark")
    assert path is not None, "tshark is part of a machine these tests run on as root"
    return path


def _run(path: Path, *options: str) -> bytes:
    return subprocess.run([tshark_path(), "-n", "-r", str(path), *options], capture_output=True, check=True).stdout


def dissect(path: Path, *options: str) -> list[Dissected]:
    """Every packet of a capture, to the last octet; takes it about 2 ms a packet."""
    output = _run(path, *options, "-T", "pdml")
    return [_dissected(element) for element in ElementTree.fromstring(output).iter("packet")]


def read_fields(path: Path, names: list[str], *options: str) -> Iterator[Fields]:
    """The named fields of every packet, without those that are not there; twenty times as quick as :func:`dissect`."""
    wanted = [argument for name in names for argument in ("-e", name)]
    shape = ("-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=|")
    for line in _run(path, *options, *shape, *wanted).decode().splitlines():
        values = line.split("\t")
        yield {name: value.split("|") for name, value in zip(names, values, strict=True) if value}


def _dissected(element: ElementTree.Element) -> Dissected:
    fields: Fields = {}
    options: list[tuple[int, bytes]] = []
    flags = ""
    for field in element.iter("field"):
        name = field.get("name", "")
        show = field.get("show", "")
        # Octets have colons between them here, and none as a field on its own (read_fields).
        fields.setdefault(name, []).append(show.replace(":", "") if name == "mip6.mnlli.lli" else show)
        if name in ("mip6.bu.a_flag", "mip6.ba.k_flag"):
            flags = field.get("unmaskedvalue", "")
        if field.get("show") == "Mobility Options":
            proto = element.find(".//field[@name='mip6.proto']")
            assert proto is not None
            start = int(proto.get("pos", ""))
            options = [(int(child.get("pos", "")) - start, bytes.fromhex(child.get("value", ""))) for child in field]
    return Dissected(fields, options, flags)


_UNDISSECTED = "IE data not dissected yet"
_NOT_TEXT = "Trailing stray characters"
_NO_NAME = "Mobile Node Identifier (with option length = 1 byte; should be >= 2)"


def complaints(fields: Fields, message: object = None) -> list[str]:
    """What tshark objects to: everything worse than a note, and any note except that an option is not known to it.

    Two warnings of its are wrong, and pass where ``message`` explains them: the identifier of a mobile node is no text
    unless it is an NAI (RFC 4283 section 3, RFC 8371), and an empty one says that it was missing (RFC 5213 section
    5.3.6).
    """
    nodes = message.all(MobileNodeIdentifier) if isinstance(message, DISSECTED) else ()
    passed = {_UNDISSECTED}
    if any(node.subtype != MnIdSubtype.NAI and 0 in node.identifier for node in nodes):
        passed.add(_NOT_TEXT)
    if any(not node.identifier for node in nodes):
        passed.add(_NO_NAME)
    found = ["malformed"] if "_ws.malformed" in fields else []
    noted = zip(fields.get("_ws.expert.severity", ()), fields.get("_ws.expert.message", ()), strict=True)
    worse = {_UNDISSECTED: NOTE}
    return found + [text for level, text in noted if text not in passed or int(level, 0) > worse.get(text, WARNING)]


def notes(fields: Fields) -> list[str]:
    """What tshark remarks that :func:`complaints` passes over."""
    return fields.get("_ws.expert.message", [])


COMPLAINTS = ["_ws.expert.severity", "_ws.expert.message", "_ws.malformed"]


def _flag(holds: object) -> list[str]:
    return [str(int(bool(holds)))]


def expected(message: Message) -> Fields:
    """What tshark has to say of ``message``; a field with an empty list must not be there."""
    fields: Fields = {"mip6.proto": ["59"], "mip6.reserved": ["0x00"], **_fixed(message)}
    if isinstance(message, DISSECTED):
        for kind, (name, show) in _OPTIONS.items():
            fields[name] = [show(option) for option in message.all(kind)]
        fields["mip6.nemo.mnp.pfl"] = [str(option.prefix.prefixlen) for option in message.all(HomeNetworkPrefix)]
    return fields


def _fixed(message: Message) -> Fields:  # noqa: PLR0911  one for each message
    match message:
        case BindingUpdate(sequence, lifetime_s, flags):
            return {
                "mip6.mhtype": ["5"],
                "mip6.bu.seqnr": [str(sequence)],
                "mip6.bu.lifetime": [str(lifetime_s // 4)],
                "mip6.bu.a_flag": _flag(BindingUpdateFlag.ACKNOWLEDGE in flags),
                "mip6.bu.h_flag": _flag(BindingUpdateFlag.HOME_REGISTRATION in flags),
                "mip6.bu.p_flag": _flag(BindingUpdateFlag.PROXY in flags),
            }
        case BindingAcknowledgement(status, sequence, lifetime_s, ack_flags):
            return {
                "mip6.mhtype": ["6"],
                "mip6.ba.status": [str(status)],
                "mip6.ba.seqnr": [str(sequence)],
                "mip6.ba.lifetime": [str(lifetime_s // 4)],
                "mip6.ba.p_flag": _flag(BindingAckFlag.PROXY in ack_flags),
            }
        case BindingError(status, home_address):
            return {"mip6.mhtype": ["7"], "mip6.be.status": [str(status)], "mip6.be.haddr": [str(home_address)]}
        case Heartbeat(sequence, heartbeat_flags):
            return {
                "mip6.mhtype": ["13"],
                "mip6.hb.seqnr": [str(sequence)],
                "mip6.hb.u_flag": _flag(HeartbeatFlag.UNSOLICITED in heartbeat_flags),
                "mip6.hb.r_flag": _flag(HeartbeatFlag.RESPONSE in heartbeat_flags),
            }
        case BindingRevocationIndication(trigger, sequence, revoked):
            return {
                "mip6.mhtype": ["16"],
                "mip6.bri_br.type": ["1"],
                "mip6.bri_r.trigger": [str(trigger)],
                "mip6.bri_seqnr": [str(sequence)],
                **{f"mip6.bri_i{letter}": _flag(flag in revoked) for letter, flag in _BY_LETTER.items()},
            }
        case BindingRevocationAcknowledgement(status, sequence, revoked):
            return {
                "mip6.mhtype": ["16"],
                "mip6.bri_br.type": ["2"],
                "mip6.bri_status": [str(status)],
                "mip6.bri_seqnr": [str(sequence)],
                **{f"mip6.bri_a{letter}": _flag(flag in revoked) for letter, flag in _BY_LETTER.items()},
            }
        case UpdateNotification():
            return {"mip6.mhtype": ["19"]}
        case UpdateNotificationAcknowledgement():
            return {"mip6.mhtype": ["20"]}
        case UnknownMessage(mh_type):
            return {"mip6.mhtype": [str(mh_type)]}


def expected_advertisement(message: RouterAdvertisement) -> Fields:
    """What tshark has to say of an advertisement; a field with an empty list must not be there."""
    offers = [each for each in message.options if isinstance(each, PrefixInformation | RouteInformation)]
    prefixes, routes = message.all(PrefixInformation), message.all(RouteInformation)
    resolvers = message.all(RecursiveDnsServer)
    return {
        "icmpv6.type": ["134"],
        "icmpv6.code": ["0"],
        "icmpv6.checksum.status": ["1"],
        "ipv6.hlim": ["255"],
        "icmpv6.nd.ra.cur_hop_limit": [str(message.hop_limit)],
        "icmpv6.nd.ra.flag.m": _flag(RouterFlag.MANAGED in message.flags),
        "icmpv6.nd.ra.flag.o": _flag(RouterFlag.OTHER in message.flags),
        "icmpv6.nd.ra.flag.prf": [str(int(message.preference))],
        "icmpv6.nd.ra.router_lifetime": [str(message.router_lifetime_s)],
        "icmpv6.nd.ra.reachable_time": [str(message.reachable_ms)],
        "icmpv6.nd.ra.retrans_timer": [str(message.retrans_ms)],
        "icmpv6.opt.mtu": [str(option.mtu) for option in message.all(Mtu)],
        "icmpv6.opt.prefix": [str(option.prefix.network_address) for option in offers],
        "icmpv6.opt.prefix.length": [str(option.prefix.prefixlen) for option in offers],
        "icmpv6.opt.prefix.flag.l": [str(int(option.on_link)) for option in prefixes],
        "icmpv6.opt.prefix.flag.a": [str(int(option.autonomous)) for option in prefixes],
        "icmpv6.opt.prefix.valid_lifetime": [str(option.valid_s) for option in prefixes],
        "icmpv6.opt.prefix.preferred_lifetime": [str(option.preferred_s) for option in prefixes],
        "icmpv6.opt.route_info.flag.route_preference": [str(int(option.preference)) for option in routes],
        "icmpv6.opt.route_lifetime": [str(option.lifetime_s) for option in routes],
        "icmpv6.opt.rdnss.lifetime": [str(option.lifetime_s) for option in resolvers],
        "icmpv6.opt.rdnss": [str(server) for option in resolvers for server in option.servers],
    }
