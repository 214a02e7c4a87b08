"""What the nodes of a lab send: one socket listens to all links of the core router, one to all ports of the switch.

Nothing is read while a lab runs, and nothing runs for it: the kernel filters, stamps and queues, so that listening
disturbs no measurement. A frame is seen where it comes out of its sender's link, thus once, and the interface says who
sent it. Kept are Mobility Headers, ICMPv6 Parameter Problems, and Neighbor Discovery; of LLC frames, by which access
points announce stations, and of reports of multicast listeners only who sent them.

A test that speaks in a daemon's place sets the traffic class :data:`lab_scenes.BY_HAND`.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from lab_scenes import BY_HAND

from anchord.lab import namespaces
from anchord.lab.topology import CORE, SWITCH, Topology

_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35  # asm-generic/socket.h
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23  # linux/if_packet.h
_ETH_P_ALL = 3
_QUEUE_BYTES = 64 << 20  # some 60,000 frames
_LOAD_HALF, _LOAD_BYTE, _EQUAL, _AT_LEAST, _RETURN = 0x28, 0x30, 0x15, 0x35, 0x06
_libc = ctypes.CDLL(None, use_errno=True)
_TIMESPEC = struct.Struct("=qq")

# (code, steps if true, steps if not, value)
_FILTER = (
    (_LOAD_HALF, 0, 0, 12),  # EtherType, or the length of an LLC frame
    (_AT_LEAST, 0, 10, 0x600),
    (_EQUAL, 0, 8, 0x86DD),
    (_LOAD_BYTE, 0, 0, 20),  # next header
    (_EQUAL, 7, 0, 0),  # hop-by-hop options: listeners' reports
    (_EQUAL, 6, 0, 135),  # Mobility Header
    (_EQUAL, 0, 4, 58),  # ICMPv6
    (_LOAD_BYTE, 0, 0, 54),  # its type
    (_EQUAL, 3, 0, 4),  # Parameter Problem
    (_AT_LEAST, 0, 1, 133),
    (_AT_LEAST, 0, 1, 137),  # 133 to 136: Neighbor Discovery
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 4096),
)
_PROGRAM = b"".join(struct.pack("=HBBI", *step) for step in _FILTER)


@dataclass(frozen=True, slots=True)
class Said:
    """One IPv6 packet in its Ethernet frame, as ``node`` sent it at ``time_ns`` since 1970."""

    node: str
    time_ns: int
    frame: bytes

    @property
    def packet(self) -> bytes:
        """From the IPv6 header on."""
        return self.frame[14:]

    @property
    def source(self) -> IPv6Address:
        """As the IPv6 header says."""
        return IPv6Address(self.frame[22:38])

    @property
    def destination(self) -> IPv6Address:
        """As the IPv6 header says."""
        return IPv6Address(self.frame[38:54])

    @property
    def next_header(self) -> int:
        """135 or 58."""
        return self.frame[20]


@dataclass
class Recorded:
    """What was sent in one lab: ``said`` by daemons, ``by_hand`` in their place, and the MAC addresses of ``hosts``.

    Where a test makes one segment of two gateways' links, each takes the other's ``routers`` for hosts until it hears
    who they are (:mod:`anchord.attachment.segment`).
    """

    topology: Topology
    said: list[Said] = field(default_factory=list)
    by_hand: list[Said] = field(default_factory=list)
    hosts: set[bytes] = field(default_factory=set)
    routers: dict[str, set[bytes]] = field(default_factory=dict)
    lost: int = 0
    """Frames that found the queue full."""


class Recorder:
    """All labs of a session."""

    def __init__(self) -> None:
        self.labs: list[Recorded] = []
        self.report: list[str] = []  # what other decoders made of it, for the end of the session
        self._open: dict[str, tuple[Recorded, list[socket.socket]]] = {}

    def listen(self, lab: str, topology: Topology) -> None:
        """Begin with a lab whose network stands."""
        record = Recorded(topology)
        self.labs.append(record)
        self._open[lab] = record, [_listening(namespaces.namespace_name(lab, node)) for node in (CORE, SWITCH)]

    def let_go(self, lab: str) -> None:
        """Read what is queued of a lab that goes away, if it was made here; its namespaces go with the sockets."""
        record, sockets = self._open.pop(lab, (None, []))
        for opened in sockets:
            assert record is not None
            with opened:
                _read(opened, record)

    def close(self) -> None:
        """Let go of every lab."""
        for lab in list(self._open):
            self.let_go(lab)


def _listening(namespace: str) -> socket.socket:
    with namespaces.inside(namespace):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    buffer = mmap.mmap(-1, len(_PROGRAM))  # only for an address that stays put during the call
    buffer.write(_PROGRAM)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FILTER), address))
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
    opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    opened.setblocking(False)
    # Every interface there is and every one that comes: index 0, which socket.bind() has no name for.
    anywhere = struct.pack("=HHiHBB8x", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0)
    if _libc.bind(opened.fileno(), anywhere, len(anywhere)):
        raise OSError(ctypes.get_errno(), "cannot listen", namespace)
    return opened


def _read(opened: socket.socket, record: Recorded) -> None:
    at_port = {namespaces.core_port(node.name): node.name for node in record.topology.daemon_nodes()}
    at_port |= {link.port: link.gateway for link in record.topology.links()}
    # A test may play a MAG where the topology has a correspondent.
    at_far_port = {namespaces.core_port(name): name for name in record.topology.correspondents}
    host_ports = {namespaces.host_port(host) for host in record.topology.hosts}
    for interface, time_ns, frame in _frames(opened):
        if interface in host_ports:
            record.hosts.add(frame[6:12])
        elif interface in at_far_port and frame[12:14] == b"\x86\xdd" and frame[20] == 135:
            record.by_hand.append(Said(at_far_port[interface], time_ns, frame))
        elif interface in at_port and frame[12:14] == b"\x86\xdd":
            record.routers.setdefault(at_port[interface], set()).add(frame[6:12])
            if frame[20] not in (58, 135):
                continue
            by_hand = (int.from_bytes(frame[14:16], "big") >> 4) & 0xFF == BY_HAND
            said = record.by_hand if by_hand else record.said
            said.append(Said(at_port[interface], time_ns, frame))
    statistics = opened.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
    record.lost += struct.unpack("=II", statistics)[1]


def _frames(opened: socket.socket) -> Iterator[tuple[str, int, bytes]]:
    while True:
        try:
            frame, ancillary, _, address = opened.recvmsg(4096, 128)
        except BlockingIOError:
            return
        stamp = next(data for level, kind, data in ancillary if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS))
        seconds, nanoseconds = _TIMESPEC.unpack(stamp[:16])
        yield address[0], seconds * 1_000_000_000 + nanoseconds, frame
