"""Real daemons and messages that scapy has built: a central database and gateways of somebody else would be understood.

In each lab one node runs nothing and the test speaks in its place. scapy lays out the header, aligns the options and
computes the checksum; the kernel of the other side verifies that. Answers are read by scapy and pypcapkit.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from eyes_pcapkit import pcapkit_reads
from lab_scenes import BY_HAND, PATIENCE_S, binding, ip, show, topology, usable_address, wait_for

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.lab.topology import Central
from anchord.wire import header

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers import inet6 as scapy

LAB = f"anct-{os.getpid()}-others"
MOBILITY = 135
NOBODY = ("sleep", "infinity")
CMD, GW1, GW2 = "2001:db8:fc::1", "2001:db8:f1::1", "2001:db8:f2::1"
STRANGER = b"\x02\x5c\xa9\x00\x00\x01"
PROXY_A_H = 0b1100001  # P, H and A as scapy numbers the seven flags that it knows of a Binding Update
D_OF_UPDATE, P_OF_ACK, D_OF_ACK = 0x10, 1, 0x2  # RFC 8885 sections 4.1 and 4.2: reserved bits to scapy


def option(kind: int, alignment: tuple[int, int], body: bytes) -> Any:
    """An option that scapy does not know, at the place that its RFC asks for."""
    layout = type(f"Option{kind}", (scapy.MIP6OptUnknown,), {"x": alignment[0], "y": alignment[1]})
    return layout(otype=kind, odata=body)


def prefix_body(prefix: str) -> bytes:
    network = IPv6Network(prefix)
    return bytes((0, network.prefixlen)) + network.network_address.packed


def identity(mac: bytes) -> list[Any]:
    """Mobile node identifier, EUI-48 (RFC 8371), and link-layer identifier (RFC 5213 section 8.6)."""
    return [scapy.MIP6OptMNID(subtype=5, id=mac), option(25, (4, 0), bytes(2) + mac)]


def about(mac: bytes, prefix: str, now: float | None = None) -> list[Any]:
    """What every proxy message says of its node (RFC 5213 sections 6.9.1.1 and 5.3.6)."""
    ticks = int((time.time() if now is None else now) * 65536)
    return [
        *identity(mac),
        option(22, (8, 4), prefix_body(prefix)),
        option(23, (1, 0), b"\0\x04"),
        option(24, (1, 0), b"\0\x03"),
        option(27, (8, 2), ticks.to_bytes(8, "big")),
    ]


def update(sequence: int, lifetime_s: int, options: list[Any]) -> Any:
    return scapy.MIP6MH_BU(
        seq=sequence, flags=PROXY_A_H, reserved=D_OF_UPDATE, mhtime=lifetime_s // 4, res=0, options=options
    )


def acknowledgement(sequence: int, lifetime_s: int, options: list[Any]) -> Any:
    return scapy.MIP6MH_BA(
        status=0, seq=sequence, flags="P", res2=D_OF_ACK, mhtime=lifetime_s // 4, res=0,
        options=options,
    )  # fmt: skip


class Stranger:
    """A node that another implementation runs on."""

    def __init__(self, domain: Domain, node: str) -> None:
        self._address = str(domain.topology.on_core()[node].ip)
        with inside(domain.namespace(node)):
            self._out = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._in = socket.socket(socket.AF_INET6, socket.SOCK_RAW, MOBILITY)
        self._in.bind((self._address, 0))

    def close(self) -> None:
        self._out.close()
        self._in.close()

    def say(self, to: str, message: Any) -> None:
        """Send what scapy makes of it, checksum and all."""
        self._out.sendto(bytes(scapy.IPv6(src=self._address, dst=to, tc=BY_HAND) / message), (to, 0))

    def hear(self, source: str, wanted: Callable[[Any], bool]) -> Any:
        """The next message from ``source`` that is ``wanted``, as scapy reads it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self._in.settimeout(max(deadline - time.monotonic(), 0.001))
            data, (sender, *_) = self._in.recvfrom(2048)
            if sender != source:
                continue
            pcapkit_reads(data, header.decode(data))
            packet = bytes(scapy.IPv6(src=sender, dst=self._address, nh=MOBILITY, plen=len(data))) + data
            message = scapy.IPv6(packet).payload
            if wanted(message):
                return message


def body(message: Any, kind: int) -> list[bytes]:
    """The contents of every option of that type."""
    return [each.odata for each in message.options if each.fields.get("otype") == kind]


def answers(question: Any) -> Callable[[Any], bool]:
    return lambda message: message.mhtype == 6 and message.seq == question.seq


def is_update(message: Any) -> bool:
    return bool(message.mhtype == 5)


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[Domain, Stranger]]:
    """gw2 is somebody else's; mn1 is at gw1."""
    plain = topology(2, {"mn1": "gw1"})
    gateways = {**plain.gateways, "gw2": dataclasses.replace(plain.gateways["gw2"], program=NOBODY)}
    with Domain.up(dataclasses.replace(plain, gateways=gateways), LAB, owner_pid=os.getpid()) as domain:
        usable_address(domain, "mn1", "gw1")
        with closing(Stranger(domain, "gw2")) as stranger:
            yield domain, stranger


@pytest.fixture
def central(lab_name: str) -> Iterator[tuple[Domain, Stranger]]:
    """The central database is somebody else's."""
    made = dataclasses.replace(topology(2, {"mn1": "gw1"}), central=Central(program=NOBODY))
    made = dataclasses.replace(made, domain={"serve_unregistered": False})
    with Domain.up(made, lab_name, owner_pid=os.getpid()) as domain, closing(Stranger(domain, "cmd")) as stranger:
        yield domain, stranger


def test_rows_3_7_10_and_18_a_central_database_serves_a_gateway_of_somebody_else(
    gateway: tuple[Domain, Stranger],
) -> None:
    domain, stranger = gateway
    question = update(41, 600, about(STRANGER, "2001:db8:a2:77::/64"))
    stranger.say(CMD, question)
    answer = stranger.hear(CMD, answers(question))
    assert (answer.status, answer.mhtime, int(answer.flags), answer.res2) == (0, 150, P_OF_ACK, D_OF_ACK)
    assert body(answer, 22) == [prefix_body("2001:db8:a2:77::/64")] and body(answer, 67) == []

    # A node that was at gw1 until now.
    anchored = binding(domain, "gw1", "mn1")
    assert anchored is not None
    question = update(42, 600, about(domain.host_mac("mn1"), "2001:db8:a2:78::/64"))
    stranger.say(CMD, question)
    answer = stranger.hear(CMD, answers(question))
    (previous,) = body(answer, 67)
    prefix = IPv6Network(anchored["prefix"])
    # RFC 8885 section 4.5: Reserved, Prefix Length, address of the anchor, prefix.
    assert previous == bytes((0, 64)) + IPv6Address(GW1).packed + prefix.network_address.packed
    assert body(answer, 69) == [IPv6Address(anchored["router"]["address"]).packed]
    assert body(answer, 70) == [bytes(2) + bytes.fromhex(anchored["router"]["mac"].replace(":", ""))]

    # The anchor was told, and forwards to the stranger.
    def exported() -> bool:
        return any(row["role"] == "exported" and row["peer"] == GW2 for row in show(domain, "gw1", "prefixes"))

    wait_for(exported, "gw1 forwards to the other gateway")
    routes = ip(domain, "gw1", "route", "show", "table", "81")
    assert [(row["dst"], row["segs"]) for row in routes] == [(str(prefix), [GW2])]


def test_rows_144_and_146_a_heartbeat_of_somebody_else_is_answered(gateway: tuple[Domain, Stranger]) -> None:
    _, stranger = gateway
    # RFC 5847 section 3.3: Reserved and flags, Sequence Number; then PadN.
    content = bytes(2) + (4711).to_bytes(4, "big") + bytes((1, 2, 0, 0))
    stranger.say(CMD, scapy.MIP6MH_Generic(mhtype=13, res=0, msg=content, len=1))
    answer = stranger.hear(CMD, lambda message: message.mhtype == 13 and message.msg[2:6] == (4711).to_bytes(4, "big"))
    assert answer.msg[:2] == b"\0\x01"  # R
    assert answer.msg[6:10] == bytes((1, 0, 28, 4))  # PadN up to 4n+2, Restart Counter (section 3.4)


def test_rows_2_9_11_and_29_a_gateway_obeys_a_central_database_of_somebody_else(
    central: tuple[Domain, Stranger],
) -> None:
    domain, stranger = central
    mac = domain.host_mac("mn1")
    asked = stranger.hear(GW1, lambda message: is_update(message) and STRANGER not in bytes(message))
    assert (int(asked.flags), asked.reserved) == (PROXY_A_H, D_OF_UPDATE)
    (registered,) = body(asked, 22)
    (stamp,) = body(asked, 27)
    assert abs(int.from_bytes(stamp, "big") / 65536 - time.time()) < 5
    own = str(IPv6Network((registered[2:], registered[1])))

    # It is accepted, and there is an anchor somewhere else: RFC 8885 sections 4.5, 4.7 and 4.8 in this order.
    elsewhere, router = IPv6Network("2001:db8:a2:99::/64"), bytes.fromhex("025ca9000099")
    link_local = IPv6Address("fe80::5c:a9ff:fe00:99")
    stranger.say(
        GW1,
        acknowledgement(
            asked.seq,
            600,
            [
                *about(mac, own, now=int.from_bytes(stamp, "big") / 65536),
                option(67, (8, 4), bytes((0, 64)) + IPv6Address(GW2).packed + elsewhere.network_address.packed),
                option(69, (8, 6), link_local.packed),
                option(70, (4, 0), bytes(2) + router),
            ],
        ),
    )
    domain.wait_served("mn1", "gw1", PATIENCE_S)

    def prefixes() -> dict[str, bool]:
        states = domain.host_addresses("mn1")
        return {str(state.prefix): bool(state.preferred) for state in states if state.usable}

    wait_for(lambda: prefixes() == {own: True, str(elsewhere): False}, "the host has an address of each anchor")
    assert {row["gateway"]: row["pref"] for row in ip(domain, "mn1", "route", "show", "default")}[
        str(link_local)
    ] == "low"

    # The node has gone on: RFC 8885 section 4.6, Serving MAAR.
    question = update(7, 600, [*about(mac, own), option(68, (8, 6), IPv6Address(GW2).packed)])
    stranger.say(GW1, question)
    answer = stranger.hear(GW1, answers(question))
    assert (answer.status, int(answer.flags), answer.res2) == (0, P_OF_ACK, D_OF_ACK)
    assert body(answer, 22) == [prefix_body(own)] and body(answer, 68) == [IPv6Address(GW2).packed]
    routes = ip(domain, "gw1", "route", "show", "table", "81")
    assert [(row["dst"], row["segs"]) for row in routes] == [(own, [GW2])]
