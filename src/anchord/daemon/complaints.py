"""ICMPv6 Parameter Problems about Mobility Headers (RFC 6275 section 9.2, RFC 4443 section 3.4).

A Linux kernel with its mip6 module loaded says this itself, and drops the message before a socket hears of it.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from ipaddress import IPv6Address

# As Binding Errors (RFC 6275 section 9.3.3): to each peer no more than one in so many seconds.
EVERY_S = 1.0
_IPV6_HEADER = struct.Struct("!IHBB16s16s")  # version, class and flow label; length; next header; hop limit; addresses
_PARAMETER_PROBLEM = struct.Struct("!BBHI")  # type, code, checksum, pointer
_ERRONEOUS_FIELD = 0  # code
# An error fits into the smallest IPv6 MTU, its own headers included (RFC 4443 section 3.4).
_QUOTED = 1280 - _IPV6_HEADER.size - _PARAMETER_PROBLEM.size
_PASS_NOTHING = (1, bytes([255]) * 32)  # ICMP6_FILTER of RFC 3542 section 3.2: a bit for each type that is not wanted


class Complaints:
    """A raw ICMPv6 socket that only sends; the kernel fills in the checksum (RFC 3542 section 3.1)."""

    def __init__(self, address: IPv6Address) -> None:
        """``address``: this node's own. Raises OSError."""
        self._me = address
        self._said_s: dict[IPv6Address, float] = {}  # monotonic; by peer, and only configured ones are told
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, *_PASS_NOTHING)
        self._socket.bind((str(address), 0))

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def say(self, peer: IPv6Address, pointer: int, message: bytes) -> None:
        """Tell ``peer`` that its Mobility Header ``message`` is wrong at octet ``pointer``, unless it was just told.

        The IPv6 header before it was the kernel's and is written anew, without extension headers and with 0 for what
        is not known: traffic class, flow label and hop limit.
        """
        now_s = time.monotonic()
        if now_s - self._said_s.get(peer, -EVERY_S) < EVERY_S:
            return
        self._said_s[peer] = now_s
        header = _IPV6_HEADER.pack(6 << 28, len(message), 135, 0, peer.packed, self._me.packed)
        problem = _PARAMETER_PROBLEM.pack(4, _ERRONEOUS_FIELD, 0, len(header) + pointer)
        with suppress(OSError):  # it is a courtesy: the message was counted, and nobody waits for this
            self._socket.sendto(problem + (header + message)[:_QUOTED], (str(peer), 0))
