"""What the paths to the tunnel peers carry: path MTU discovery (RFC 8201) for packets that routes encapsulate.

A packet that a route has put into a tunnel belongs to no socket, so Linux forgets a Packet Too Big about it. A raw
socket for IPv6 in IPv6 that asks for errors makes it remember: the MTU is noted in the routing cache as for any other
sender, whether or not anybody reads the error, and expires there (net.ipv6.route.mtu_expires, 600 s). A thread waits
for such errors, so that the first packet that was too big is also the last.

The routing cache is asked by way of a UDP socket that is connected to one peer after another: connecting sends nothing.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address

_IPV6_IN_IPV6 = 41
_IPV6_MTU, _IPV6_RECVERR = 24, 25  # linux/in6.h
_SO_ATTACH_FILTER = 26
_DROP = 0x06  # BPF_RET with 0: keep no byte of the packet
_DISCARD_PORT = 9  # any will do
_PAUSE_MS = 100
"""After an error the next ones are gathered for so long: whoever sends many gets no more of our time."""
_ERROR_BYTES = 512  # of the control message: sock_extended_err and an address


class Paths:
    """Path MTUs from ``address``, in the network namespace of the thread that makes it.

    ``told`` is called, from a thread of its own and at most every 100 ms, when the kernel has heard that a packet was
    too big for its path. Raises OSError: EPERM without CAP_NET_RAW, EADDRNOTAVAIL when the address is not here.
    """

    def __init__(self, address: IPv6Address, told: Callable[[], None]) -> None:
        self._told = told
        self._errors = _silent(socket.SOCK_RAW, _IPV6_IN_IPV6)
        self._errors.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        self._asking = _silent(socket.SOCK_DGRAM)
        self._stopping, self._stop = socket.socketpair()
        try:
            for each in (self._errors, self._asking):
                each.bind((str(address), 0))
        except OSError:
            self._close_sockets()
            raise
        self._thread = threading.Thread(target=self._watch, name="anchord-paths", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._thread.is_alive():
            self._stop.send(b"\0")
            self._thread.join()
        self._close_sockets()

    def mtus(self, peers: Iterable[IPv6Address]) -> dict[IPv6Address, int]:
        """Bytes that the path to each peer carries as far as is known; without those that no route leads to.

        Some 5 microseconds for each. To be used by one thread at a time.
        """
        found: dict[IPv6Address, int] = {}
        for peer in peers:
            try:
                self._asking.connect((str(peer), _DISCARD_PORT))  # looks the route up anew
                found[peer] = self._asking.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
            except OSError:
                continue
        return found

    def _watch(self) -> None:
        """Wait for errors; the socket itself never has anything to read."""
        stopped = select.poll()
        stopped.register(self._stopping, select.POLLIN)
        anything = select.poll()
        anything.register(self._stopping, select.POLLIN)
        anything.register(self._errors, 0)  # POLLERR is always reported
        while True:
            ready = anything.poll()
            if any(descriptor == self._stopping.fileno() for descriptor, _ in ready):
                return
            if self._drain():
                self._told()
            if stopped.poll(_PAUSE_MS):
                return

    def _drain(self) -> bool:
        """Take all errors that wait; whether one of them was about a packet's size."""
        too_big = False
        self._errors.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        while True:
            try:
                _, control, _, _ = self._errors.recvmsg(0, _ERROR_BYTES, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except OSError:
                return too_big
            codes = (struct.unpack_from("=I", data)[0] for _, kind, data in control if kind == _IPV6_RECVERR)
            too_big = too_big or errno.EMSGSIZE in codes

    def _close_sockets(self) -> None:
        for each in (self._errors, self._asking, self._stopping, self._stop):
            each.close()


def _silent(kind: int, protocol: int = 0) -> socket.socket:
    """A socket that takes in no packet, only errors."""
    made = socket.socket(socket.AF_INET6, kind | socket.SOCK_CLOEXEC, protocol)
    program = ctypes.create_string_buffer(struct.pack("=HBBI", _DROP, 0, 0, 0))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program)))
    return made
