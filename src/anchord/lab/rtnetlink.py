"""Just enough of rtnetlink(7) for the lab: one request at a time, and the attributes of what comes back.

The daemons have an engine of their own for this; the lab looks at the kernel with other eyes on purpose.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP, CREATE, REPLACE = 0x1, 0x4, 0x300, 0x400, 0x100  # NLM_F_

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_ERROR, _DONE = 2, 3  # NLMSG_
_RECEIVE = 1 << 16


def request(opened: socket.socket, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    """Send one message and collect the answers, (type, body) each, up to the end of a DUMP or the ACK.

    Raises OSError with what the kernel refused it for.
    """
    opened.send(_HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, 1, 0) + body)
    replies: list[tuple[int, bytes]] = []
    while True:
        for reply, payload in messages(opened.recv(_RECEIVE)):
            if reply == _DONE:
                return replies
            if reply == _ERROR:
                (code,) = struct.unpack_from("=i", payload)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return replies
            replies.append((reply, payload))


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages in one datagram, (type, body) each."""
    while data:
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes behind a message's fixed part, by type."""
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
