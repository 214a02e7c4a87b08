"""A throw-away network: two namespaces with a veth link between them, gone when their process ends.

Only for a process of its own (``features.py`` starts one): it leaves its network namespace for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

from anchord.kernel import dump
from anchord.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkSocket,
    Request,
    attribute,
    attribute_text,
    attribute_u32,
    nested,
)
from anchord.kernel.objects import (
    IFA_ADDRESS,
    IFA_F_NODAD,
    IFA_LOCAL,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    RTM_NEWADDR,
    RTM_NEWLINK,
    VETH_INFO_PEER,
    Neighbour,
    ifinfo,
)

_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_IFLA_NET_NS_FD = 28
_ETH_P_IPV6 = 0x86DD
_IFF_RUNNING = 0x40
_RUNNING_WITHIN_S = 3
_libc = ctypes.CDLL(None, use_errno=True)

HERE, THERE = IPv6Address("2001:db8:5c::1"), IPv6Address("2001:db8:5c::2")
HERE_MAC, THERE_MAC = bytes.fromhex("020000005c01"), bytes.fromhex("020000005c02")
LINK_HERE, LINK_THERE = "p0", "p1"


class Scratch:
    """Two routers and a link: ``p0`` with HERE in the namespace this thread is in, ``p1`` with THERE in the other."""

    def __init__(self) -> None:
        """Leave the present namespace. Raises OSError when that is not permitted, even in a user namespace."""
        self.in_user_namespace = False
        try:
            _unshare(_CLONE_NEWNET)
        except PermissionError:
            user = os.geteuid()
            _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")  # some tools ask whether they are root
            self.in_user_namespace = True
        self._there = _own_namespace()
        _prepare()
        _unshare(_CLONE_NEWNET)
        self._here = _own_namespace()
        _prepare()
        with NetlinkSocket() as sock:
            sock.execute(_veth(self._there))
        self._finish(LINK_HERE, HERE, THERE, THERE_MAC)
        with self.there():
            self._finish(LINK_THERE, THERE, HERE, HERE_MAC)
            _await_running(LINK_THERE)
        _await_running(LINK_HERE)

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        """This thread in the other namespace; sockets opened meanwhile stay there."""
        _setns(self._there)
        try:
            yield
        finally:
            _setns(self._here)

    def send_from_there(self, packet: bytes) -> None:
        """Put an IPv6 packet on the link by hand, as if a router beyond had sent it."""
        with self.there(), packet_socket(LINK_THERE) as sock:
            sock.send(HERE_MAC + THERE_MAC + struct.pack("!H", _ETH_P_IPV6) + packet)

    def _finish(self, link: str, own: IPv6Address, other: IPv6Address, other_mac: bytes) -> None:
        with NetlinkSocket() as sock:
            index = socket.if_nametoindex(link)
            address = struct.pack("=BBBBI", socket.AF_INET6, 64, IFA_F_NODAD, 0, index)
            address += attribute(IFA_LOCAL, own.packed) + attribute(IFA_ADDRESS, own.packed)
            sock.execute(
                Request(RTM_NEWLINK, 0, ifinfo(index, IFF_UP, IFF_UP), f"bring up {link}"),
                Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address, f"add {own}"),
                *Neighbour(link, other, other_mac).put({link: index}),
            )


def packet_socket(link: str) -> socket.socket:
    """A packet socket for IPv6 frames on an interface; receiving gives up after a second."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IPV6))
    sock.bind((link, _ETH_P_IPV6))
    sock.settimeout(1)
    return sock


def ipv6(source: IPv6Address, destination: IPv6Address, next_header: int, payload: bytes) -> bytes:
    """An IPv6 packet."""
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64) + source.packed + destination.packed + payload


def checksum(source: IPv6Address, destination: IPv6Address, next_header: int, payload: bytes) -> int:
    """Upper-layer checksum (RFC 8200 section 8.1) over a payload; 0 when the payload carries a valid one."""
    pseudo = source.packed + destination.packed + struct.pack("!II", len(payload), next_header)
    total = sum(int(word) for (word,) in struct.iter_unpack("!H", pseudo + payload))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def udp(source: IPv6Address, destination: IPv6Address, port: int, data: bytes) -> bytes:
    """An IPv6 packet with a UDP datagram of even length."""
    header = struct.pack("!HHHH", port, port, 8 + len(data), 0)
    filled = header[:6] + struct.pack("!H", checksum(source, destination, 17, header + data) or 0xFFFF)
    return ipv6(source, destination, 17, filled + data)


def _prepare() -> None:
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
    with NetlinkSocket() as sock:
        sock.execute(Request(RTM_NEWLINK, 0, ifinfo(1, IFF_UP, IFF_UP), "bring up lo"))


def _await_running(link: str) -> None:
    """A new link loses packets until the kernel's link watch has seen its carrier."""
    ends = time.monotonic() + _RUNNING_WITHIN_S
    with NetlinkSocket() as sock:
        while not dump.interfaces(sock)[link].flags & _IFF_RUNNING and time.monotonic() < ends:
            time.sleep(0.01)


def _veth(other_namespace: int) -> Request:
    peer = b"".join(
        (
            ifinfo(0),
            attribute_text(IFLA_IFNAME, LINK_THERE),
            attribute(IFLA_ADDRESS, THERE_MAC),
            attribute_u32(_IFLA_NET_NS_FD, other_namespace),
        )
    )
    info = nested(
        IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    )
    body = ifinfo(0) + attribute_text(IFLA_IFNAME, LINK_HERE) + attribute(IFLA_ADDRESS, HERE_MAC) + info
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "create a veth pair")


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
