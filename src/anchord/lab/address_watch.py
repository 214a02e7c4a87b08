"""What an application can see of its host's addresses: rtnetlink notifications, stamped when they arrive."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

RTMGRP_IPV6_IFADDR = 0x100
_RTM_NEWADDR = 20
_RTM_DELADDR = 21
_RTM_GETADDR = 22
_NLM_F_REQUEST = 1
_NLM_F_DUMP = 0x300
_NLMSG_DONE = 3
_IFA_ADDRESS = 1
_IFA_FLAGS = 8
_SCOPE_GLOBAL = 0
_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")


class AddressFlag(IntFlag):
    """linux/if_addr.h, as far as it matters here."""

    TEMPORARY = 0x01
    DEPRECATED = 0x20
    TENTATIVE = 0x40


@dataclass(frozen=True, slots=True)
class AddressState:
    """A global address of the host; ``gone`` when the kernel has just removed it."""

    address: str
    temporary: bool
    tentative: bool
    deprecated: bool
    gone: bool = False

    @property
    def usable(self) -> bool:
        """Out of DAD and preferred: what a new connection takes (RFC 6724 rule 3)."""
        return not (self.tentative or self.deprecated or self.gone)


def subscribe() -> socket.socket:
    """A socket on which the kernel reports every change of an IPv6 address in this namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    opened.bind((0, RTMGRP_IPV6_IFADDR))
    return opened


def dump() -> list[AddressState]:
    """The global addresses of this namespace now."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as opened:
        body = _IFADDRMSG.pack(socket.AF_INET6, 0, 0, 0, 0)
        opened.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)
        found: list[AddressState] = []
        while True:
            data = opened.recv(65536)
            found.extend(parse(data))
            if any(kind == _NLMSG_DONE for kind, _ in _messages(data)):
                return found


def parse(data: bytes) -> Iterator[AddressState]:
    """The global IPv6 addresses in a datagram of rtnetlink messages."""
    for kind, body in _messages(data):
        if kind not in (_RTM_NEWADDR, _RTM_DELADDR):
            continue
        family, _, flags, scope, _ = _IFADDRMSG.unpack_from(body)
        if family != socket.AF_INET6 or scope != _SCOPE_GLOBAL:
            continue
        attributes = dict(_attributes(body[_IFADDRMSG.size :]))
        if _IFA_FLAGS in attributes:
            (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
        yield AddressState(
            address=socket.inet_ntop(socket.AF_INET6, attributes[_IFA_ADDRESS]),
            temporary=bool(flags & AddressFlag.TEMPORARY),
            tentative=bool(flags & AddressFlag.TENTATIVE),
            deprecated=bool(flags & AddressFlag.DEPRECATED),
            gone=kind == _RTM_DELADDR,
        )


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
