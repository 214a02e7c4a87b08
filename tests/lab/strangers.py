"""Nodes that other implementations run on: a test speaks in their place, in messages that scapy has built.

scapy lays out the header, aligns the options and computes the checksum; the kernel of the other side verifies that.
What comes is read by scapy and pypcapkit.
"""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from eyes_pcapkit import pcapkit_reads
from lab_scenes import BY_HAND, PATIENCE_S

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.wire import header

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers import inet6 as scapy

MOBILITY = 135
NOBODY = ("sleep", "infinity")
PROXY_A_H = 0b1100001  # P, H and A as scapy numbers the seven flags that it knows of a Binding Update
RESPONSE, UNSOLICITED = 1, 2  # flags of a Heartbeat, RFC 5847 section 3.3
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


def named(name: bytes, interface: bytes | None) -> list[Any]:
    """A network access identifier (RFC 4283 section 3), and the link-layer identifier if there is one."""
    link_layer = [] if interface is None else [option(25, (4, 0), bytes(2) + interface)]
    return [scapy.MIP6OptMNID(subtype=1, id=name), *link_layer]


def about(mac: bytes, prefix: str, now: float | None = None) -> list[Any]:
    """What every proxy message says of its node."""
    return about_node(identity(mac), prefix, now)


def about_node(who: list[Any], prefix: str, now: float | None = None, handoff: int = 4) -> list[Any]:
    """RFC 5213 sections 6.9.1.1 and 5.3.6."""
    ticks = int((time.time() if now is None else now) * 65536)
    return [
        *who,
        option(22, (8, 4), prefix_body(prefix)),
        option(23, (1, 0), bytes((0, handoff))),
        option(24, (1, 0), b"\0\x03"),
        option(27, (8, 2), ticks.to_bytes(8, "big")),
    ]


def update(sequence: int, lifetime_s: int, options: list[Any], distributed: bool = True) -> Any:
    """A PBU; without D one of plain PMIPv6."""
    return scapy.MIP6MH_BU(
        seq=sequence,
        flags=PROXY_A_H,
        reserved=D_OF_UPDATE if distributed else 0,
        mhtime=lifetime_s // 4,
        res=0,
        options=options,
    )


def acknowledgement(
    sequence: int, lifetime_s: int, options: list[Any], distributed: bool = True, status: int = 0
) -> Any:
    """A PBA; without D one of plain PMIPv6."""
    return scapy.MIP6MH_BA(
        status=status, seq=sequence, flags="P", res2=D_OF_ACK if distributed else 0, mhtime=lifetime_s // 4, res=0,
        options=options,
    )  # fmt: skip


def heartbeat(sequence: int, flags: int = 0, counter: int | None = None) -> Any:
    """RFC 5847 section 3.3; the Restart Counter (section 3.4) is in responses."""
    option = b"" if counter is None else bytes((1, 0, 28, 4)) + counter.to_bytes(4, "big")
    content = bytes((0, flags)) + sequence.to_bytes(4, "big") + option + bytes((1, 2, 0, 0))
    return scapy.MIP6MH_Generic(mhtype=13, res=0, msg=content, len=(6 + len(content)) // 8 - 1)


def revocation(sequence: int, trigger: int, options: list[Any]) -> Any:
    """RFC 5846 section 5.1, an indication with P set."""
    return _revocation(1, trigger, sequence, options)


def revoked(question: Any, status: int = 0) -> Any:
    """RFC 5846 section 5.2, the answer to an indication."""
    return _revocation(2, status, int.from_bytes(question.msg[2:4], "big"), [])


def _revocation(kind: int, value: int, sequence: int, options: list[Any]) -> Any:
    """Options are laid out by scapy, in a message whose fixed part has the same length."""
    fixed = scapy.MIP6MH_BU(seq=0, flags=0, reserved=0, mhtime=0, res=0, options=options)
    laid_out = bytes(scapy.IPv6() / fixed)[40 + 12 :]
    content = bytes((kind, value)) + sequence.to_bytes(2, "big") + b"\x80\0" + (laid_out or bytes((1, 2, 0, 0)))
    return scapy.MIP6MH_Generic(mhtype=16, res=0, msg=content, len=(6 + len(content)) // 8 - 1)


def binding_error(status: int) -> Any:
    """RFC 6275 section 6.1.9; status 2: a message of that type is not known."""
    return scapy.MIP6MH_BE(status=status, reserved=0, ha="::", res=0, len=2)


class Stranger:
    """A node that another implementation runs on."""

    def __init__(self, domain: Domain, node: str) -> None:
        self._address = str(domain.topology.on_core()[node].ip)
        with inside(domain.namespace(node)):
            self._out = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._in = socket.socket(socket.AF_INET6, socket.SOCK_RAW, MOBILITY)
            self.tunnel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_IPV6)
        self._in.bind((self._address, 0))

    def close(self) -> None:
        self._out.close()
        self._in.close()
        self.tunnel.close()

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


def is_indication(message: Any) -> bool:
    """A Binding Revocation Indication."""
    return bool(message.mhtype == 16 and message.msg[0] == 1)


def echo(source: str, destination: str) -> Any:
    """A packet that is answered."""
    return scapy.IPv6(src=source, dst=destination) / scapy.ICMPv6EchoRequest(id=1, seq=1)


def echo_reply(request: bytes) -> Any:
    """The answer to one."""
    asked = scapy.IPv6(request)
    heard = asked[scapy.ICMPv6EchoRequest]
    return scapy.IPv6(src=asked.dst, dst=asked.src) / scapy.ICMPv6EchoReply(id=heard.id, seq=heard.seq, data=heard.data)


def tunnelled(opened: socket.socket, source: str, destination: str) -> bytes:
    """The next packet between the two that comes out of a tunnel."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        opened.settimeout(max(deadline - time.monotonic(), 0.001))
        packet = opened.recv(2048)
        if (packet[8:24], packet[24:40]) == (IPv6Address(source).packed, IPv6Address(destination).packed):
            return packet
