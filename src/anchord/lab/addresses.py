"""The addresses of a host, as its own kernel reports them: asked for, or told of each change (rtnetlink(7)).

What is opened here belongs to the namespace of the calling thread (:func:`anchord.lab.namespaces.inside`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from anchord.lab.rtnetlink import DUMP, attributes, messages, request

_IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, interface index
_CACHEINFO = struct.Struct("=IIII")  # ifa_cacheinfo: preferred, valid (seconds), created, updated
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22  # RTM_
_IFA_ADDRESS, _IFA_CACHEINFO, _IFA_FLAGS = 1, 6, 8
_TEMPORARY, _DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40  # IFA_F_
_GROUP_IPV6_IFADDR = 0x100  # RTMGRP_IPV6_IFADDR
_UNIVERSE = 0  # RT_SCOPE_UNIVERSE
_FOREVER = 0xFFFFFFFF  # RFC 4861 section 4.6.2: all ones is infinity


@dataclass(frozen=True, slots=True)
class AddressState:
    """One global address. Lifetimes are in seconds, as of the moment of the report; None is for ever."""

    address: str
    length: int
    tentative: bool  # duplicate address detection has not ended well (RFC 4862 section 5.4)
    deprecated: bool  # usable, not preferred for new connections (RFC 4862 section 5.5.4)
    temporary: bool  # a privacy address (RFC 8981)
    gone: bool  # the report is of its removal
    preferred_s: int | None
    valid_s: int | None

    @property
    def usable(self) -> bool:
        """Whether packets can be sent from it."""
        return not self.tentative and not self.gone

    @property
    def preferred(self) -> bool:
        """Whether the host may choose it for a new connection: usable and not deprecated."""
        return self.usable and not self.deprecated

    @property
    def prefix(self) -> IPv6Network:
        """The prefix it is from."""
        return IPv6Network((self.address, self.length), strict=False)


def subscribe() -> socket.socket:
    """A socket at which every change of an IPv6 address arrives; :func:`parse` reads what comes."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.bind((0, _GROUP_IPV6_IFADDR))
    return opened


def dump() -> list[AddressState]:
    """The global addresses there are, the newest of an interface first; that of ``lo`` has another scope."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        replies = request(asked, _GETADDR, DUMP, _IFADDR.pack(socket.AF_INET6, 0, 0, 0, 0))
    return [state for kind, body in replies for state in _states(kind, body)]


def parse(data: bytes) -> Iterator[AddressState]:
    """The changes of global addresses that one datagram from :func:`subscribe` tells of."""
    for kind, body in messages(data):
        yield from _states(kind, body)


def _states(kind: int, body: bytes) -> Iterator[AddressState]:
    if kind not in {_NEWADDR, _DELADDR}:
        return
    family, length, short_flags, scope, _index = _IFADDR.unpack_from(body)
    if family != socket.AF_INET6 or scope != _UNIVERSE:
        return
    found = attributes(body[_IFADDR.size :])
    flags = struct.unpack("=I", found[_IFA_FLAGS])[0] if _IFA_FLAGS in found else short_flags
    preferred, valid, _created, _updated = _CACHEINFO.unpack(found[_IFA_CACHEINFO])
    yield AddressState(
        address=str(IPv6Address(found[_IFA_ADDRESS])),
        length=length,
        tentative=bool(flags & (_TENTATIVE | _DAD_FAILED)),
        deprecated=bool(flags & _DEPRECATED),
        temporary=bool(flags & _TEMPORARY),
        gone=kind == _DELADDR,
        preferred_s=None if preferred == _FOREVER else preferred,
        valid_s=None if valid == _FOREVER else valid,
    )
