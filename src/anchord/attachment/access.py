"""One access interface: noticing hosts by their first frame, and sending frames to them.

Attachment by first frame believes what a frame says of itself: it trusts MAC addresses. Where those may be forged,
attachment has to come from something that authenticates hosts.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from anchord.attachment import filter as frames
from anchord.attachment.segment import ETHERTYPE, hello, read_hello
from anchord.wire.errors import WireError
from anchord.wire.frames import is_layer2_update, parse_frame
from anchord.wire.neighbor import NeighborSolicitation, RouterSolicitation, received

# Frames a wake-up: one busy interface does not starve the rest, and a host whose data has been seen is filtered soon.
DRAIN = 16
RECEIVE_BUFFER = 1 << 20
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
# What a gateway that was stopped, or flooded, finds in its queue says where hosts were, not where they are: taken for
# news, it would draw them away from the gateway that serves them.
LATE_S = 0.5
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_TIMESPEC = struct.Struct("=qq")
_STAMP_SPACE = socket.CMSG_SPACE(_TIMESPEC.size)
_UNSPECIFIED = IPv6Address("::")


@dataclass(frozen=True, slots=True)
class Notice:
    """A host was noticed. ``address``: one of its own, if the frame showed it; ``age_s``: seconds since it arrived.

    ``router``: the MAC address that it sent an IPv6 packet to, if that is one interface's.
    """

    interface: str
    mac: bytes
    address: IPv6Address | None
    solicited: bool
    reassociated: bool
    age_s: float = field(default=0.0, compare=False)
    router: bytes | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """A gateway's access interface of this domain, ``name``, is on the same segment as ours."""

    interface: str
    name: str
    mac: bytes


class AccessInterface:
    """The raw socket of one access interface. Needs CAP_NET_RAW; raises OSError when there is no such interface.

    With the domain's ``secret``, and ``node`` to be known by, it finds out other gateways on its segment (segment.py).
    Without a secret it says no hello and believes none.
    """

    def __init__(self, name: str, secret: bytes | None = None, node: str = "") -> None:
        self.name = name
        self.frames = 0  # frames that reached user space
        self.filter_full = 0  # hosts whose data could not be kept from user space
        self.late = 0  # frames that had waited too long to tell where their sender is now
        self._secret = secret
        self._label = f"{node}/{name}"
        self._known: set[bytes] = set()
        self._room = frames.MOST_HOSTS  # less where the kernel's limit (net.core.optmem_max) is low
        self._open()

    def _open(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setblocking(False)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._apply()
        try:
            self._socket.bind((self.name, _ETH_P_ALL))
            self._index = socket.if_nametoindex(self.name)
        except OSError as error:
            self._socket.close()
            mend = "make it, or correct access in node.toml"
            raise OSError(f"access interface {self.name}: {error.strerror}: {mend}") from error
        self.mac: bytes = self._socket.getsockname()[4]

    def is_there(self) -> bool:
        """Whether the interface that this listens on still exists (one made anew under its name is another)."""
        try:
            return socket.if_nametoindex(self.name) == self._index
        except OSError:
            return False

    def reopen(self) -> None:
        """Listen on what bears the name now. Raises OSError when nothing does; this can be tried again then."""
        self._socket.close()
        self._open()

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def ignore(self, mac: bytes) -> None:
        """``mac`` is known: spare us its data."""
        if mac not in self._known:
            self._known.add(mac)
            self._apply()

    def heed(self, mac: bytes) -> None:
        """Whatever ``mac`` sends here is news."""
        if mac in self._known:
            self._known.remove(mac)
            self._apply()

    def send(self, frame: bytes) -> bool:
        """Send one frame; False when the interface does not take it (it is down, or its queue is full)."""
        try:
            self._socket.send(frame)
        except OSError:
            return False
        return True

    def say_hello(self) -> None:
        """Make this interface known on its segment, if there is a secret to do it with."""
        if self._secret is not None:
            self.send(hello(self._secret, self.mac, self._label, time.time()))

    def drain(self) -> Iterator[Notice | Hello]:
        """What has come in since; at most DRAIN frames."""
        for _ in range(DRAIN):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(frames.SNAP_BYTES, _STAMP_SPACE)
            except OSError:  # nothing more, or the interface went down: the next frame tells
                return
            self.frames += 1
            age_s = _age_s(ancillary)
            if age_s > LATE_S:
                self.late += 1
                continue
            seen = self.read(data, age_s, time.time())
            if seen is not None:
                yield seen

    def read(self, data: bytes, age_s: float, now_s: float) -> Notice | Hello | None:
        """What a frame says that arrived ``age_s`` ago; None: nothing of a host. ``now_s``: seconds since 1970."""
        frame = parse_frame(data)
        mac = frame.source_mac
        if len(mac) != 6 or mac == self.mac or mac[0] & 1 or mac == bytes(6):
            return None
        if frame.ethertype == ETHERTYPE:
            name = None if self._secret is None else read_hello(self._secret, data, now_s)
            return Hello(self.name, name, mac) if name is not None and name != self._label else None
        address = frame.source if frame.source is not None and frame.source != _UNSPECIFIED else None
        solicited = False
        if frame.icmpv6 is not None and frame.icmpv6[:1] in (b"\x85", b"\x87"):
            try:
                message = received(frame)
            except WireError:
                message = None
            solicited = isinstance(message, RouterSolicitation)
            if address is None and isinstance(message, NeighborSolicitation):
                address = message.target  # RFC 4862 section 5.4.2: it is about to use this one
        router = frame.destination_mac if frame.source is not None and not frame.destination_mac[0] & 1 else None
        return Notice(self.name, mac, address, solicited, is_layer2_update(frame), max(age_s, 0.0), router)

    def _apply(self) -> None:
        """Filter as many known hosts as the kernel lets us; the data of the others is only a waste of time."""
        known = sorted(self._known)
        room = min(len(known), self._room)
        while not self._filter(known[:room]):
            self._room = room = room * 7 // 8
        self.filter_full = len(known) - room

    def _filter(self, known: list[bytes]) -> bool:
        """Put a filter in force; False when the kernel has no room for it."""
        program = frames.program(known)
        for replace in (True, False):
            if not replace:
                frames.detach(self._socket)  # the old one takes up room too; meanwhile everything comes in, no harm
            try:
                frames.attach(self._socket, program)
            except OSError as error:
                if error.errno != errno.ENOMEM or not known:
                    raise
            else:
                return True
        return False


def _age_s(ancillary: list[tuple[int, int, bytes]]) -> float:
    """How long ago the kernel received a frame (seconds); 0 where it does not say."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return float(time.time() - seconds - nanoseconds / 1e9)
    return 0.0
