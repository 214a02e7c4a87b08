"""The things in the kernel that forwarding is made of, as values that can be compared: wanted with installed.

Each has a ``key`` (what makes it the same thing), ``put`` (the netlink requests that create it or bring an existing
one into this form) and ``remove``. Devices are referred to by name; a mapping of names to interface indexes turns
them into numbers when the requests are made. Readers of dumps are in ``dump.py``.
Formats: linux/if_link.h, linux/if_addr.h, linux/neighbour.h, linux/rtnetlink.h, linux/fib_rules.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network

from anchord.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    attribute_text,
    attribute_u32,
    nested,
)
from anchord.kernel.seg6 import LWTUNNEL_ENCAP_SEG6, LWTUNNEL_ENCAP_SEG6_LOCAL, encap_red, end_dt6

PROTOCOL = 201
"""The route protocol number ("anchord") that marks every route and rule of ours: unassigned elsewhere."""

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

IFF_UP, IFF_PROMISC = 0x1, 0x100
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_GROUP = 18, 26, 27
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_MACVLAN_MODE, MACVLAN_MODE_PRIVATE = 1, 1
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE = 8, 1
IFLA_INET_CONF, IPV4_DEVCONF_ARP_IGNORE, ARP_IGNORE_ALL = 1, 19, 8  # linux/if_link.h, linux/ip.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
NDA_DST, NDA_LLADDR, NUD_PERMANENT = 1, 2, 0x80
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY = 1, 2, 4, 5
RTA_TABLE, RTA_ENCAP_TYPE, RTA_ENCAP = 15, 21, 22
FRA_DST, FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY = 1, 3, 4, 6
FRA_TABLE, FRA_PROTOCOL, FRA_IP_PROTO = 15, 21, 22
FR_ACT_TO_TBL, FR_ACT_GOTO, FR_ACT_BLACKHOLE = 1, 2, 6

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_RTMSG = struct.Struct("=8BI")
_RULE = struct.Struct("=8BI")
_INET6 = socket.AF_INET6


class RouteKind(IntEnum):
    """What a route does with a packet (rtm_type)."""

    UNICAST = 1
    BLACKHOLE = 6
    UNREACHABLE = 7
    THROW = 9


def ifinfo(index: int, flags: int = 0, change: int = 0) -> bytes:
    """The fixed part of a link message."""
    return _IFINFO.pack(0, 0, index, flags, change)


@dataclass(frozen=True, slots=True)
class Link:
    """A private macvlan on ``parent`` with its own MAC: how one logical router (DLIF) is shown to one host.

    Parent and MAC are what it is; the interface's name (``dl`` and its index) means nothing and is never changed,
    because renaming takes as long as creating. A link out of service differs from one in service in its group only.
    """

    parent: str
    mac: bytes
    group: int
    up: bool = True

    @property
    def device(self) -> str:
        """What addresses, neighbours and routes on this link name as their device."""
        return f"{self.parent}/{self.mac.hex(':')}"

    @property
    def key(self) -> Hashable:
        """Links are the same when their parents and MACs are."""
        return ("link", self.parent, self.mac)

    def adopt(self, index: int) -> list[Request]:
        """Turn the spare interface ``index`` into this link. A MAC can be set at once only while it is down."""
        body = ifinfo(index, IFF_UP, IFF_UP) + attribute(IFLA_ADDRESS, self.mac) + attribute_u32(IFLA_GROUP, self.group)
        return [Request(RTM_NEWLINK, 0, body, self)]

    def adjust(self, index: int) -> list[Request]:
        """Bring the existing interface ``index`` up and into this group."""
        body = ifinfo(index, IFF_UP, IFF_UP) + attribute_u32(IFLA_GROUP, self.group)
        return [no_automatic_address(index, self), Request(RTM_NEWLINK, 0, body, self)]

    def remove(self, index: int) -> list[Request]:
        """Delete interface ``index``."""
        return [Request(RTM_DELLINK, 0, ifinfo(index), f"delete {self}")]

    def __str__(self) -> str:
        return f"macvlan {self.mac.hex(':')} on {self.parent}"


@dataclass(frozen=True, slots=True)
class Pair:
    """An internal veth pair: what is sent into ``name`` comes out of ``peer`` and is looked up a second time."""

    name: str
    peer: str
    mac: bytes
    peer_mac: bytes
    mtu: int
    up: bool = True

    @property
    def key(self) -> Hashable:
        """Pairs are the same when the names of their sending ends are."""
        return ("pair", self.name)

    def create(self, index: int, peer_index: int) -> list[Request]:
        """Create both ends as interfaces ``index`` and ``peer_index``."""
        peer = _veth_end(peer_index, self.peer, self.peer_mac, self.mtu)
        info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, attribute(1, peer)))
        body = _veth_end(index, self.name, self.mac, self.mtu) + info
        what = f"create {self}"
        return [
            Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what),
            *self.adjust(index, peer_index),
        ]

    def adjust(self, index: int, peer_index: int) -> list[Request]:
        """Set MTU and state of both existing ends."""
        requests: list[Request] = []
        for each in (index, peer_index):
            body = ifinfo(each, IFF_UP, IFF_UP) + attribute_u32(IFLA_MTU, self.mtu)
            requests += [no_automatic_address(each, self), Request(RTM_NEWLINK, 0, body, self)]
        return requests

    def remove(self, index: int) -> list[Request]:
        """Delete it (deleting one end deletes both)."""
        return [Request(RTM_DELLINK, 0, ifinfo(index), f"delete {self}")]

    def __str__(self) -> str:
        return f"veth pair {self.name}/{self.peer} mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class Address:
    """A link-local /64 address on one of our interfaces, usable at once (no duplicate address detection)."""

    device: str
    address: IPv6Address

    @property
    def key(self) -> Hashable:
        """Address on its device."""
        return ("address", self.device, self.address.packed)

    def put(self, indexes: Mapping[str, int]) -> list[Request]:
        """Add it, or leave it."""
        return [Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, self._body(indexes), self)]

    def remove(self, indexes: Mapping[str, int]) -> list[Request]:
        """Take it away."""
        return [Request(RTM_DELADDR, 0, self._body(indexes), f"remove {self}")]

    def _body(self, indexes: Mapping[str, int]) -> bytes:
        head = _IFADDR.pack(_INET6, 64, IFA_F_NODAD | IFA_F_PERMANENT, 253, indexes[self.device])
        return head + attribute(IFA_LOCAL, self.address.packed) + attribute(IFA_ADDRESS, self.address.packed)

    def __str__(self) -> str:
        return f"address {self.address}/64 on {self.device}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour: packets to ``address`` leave at once for ``mac``, without neighbour discovery."""

    device: str
    address: IPv6Address
    mac: bytes

    @property
    def key(self) -> Hashable:
        """Address on its device."""
        return ("neighbour", self.device, self.address.packed)

    def put(self, indexes: Mapping[str, int]) -> list[Request]:
        """Add it, or give the existing one this MAC."""
        body = self._body(indexes) + attribute(NDA_LLADDR, self.mac)
        return [Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, self)]

    def remove(self, indexes: Mapping[str, int]) -> list[Request]:
        """Take it away."""
        return [Request(RTM_DELNEIGH, 0, self._body(indexes), f"remove {self}")]

    def _body(self, indexes: Mapping[str, int]) -> bytes:
        head = _NDMSG.pack(_INET6, indexes[self.device], NUD_PERMANENT, 0, 0)
        return head + attribute(NDA_DST, self.address.packed)

    def __str__(self) -> str:
        return f"neighbour {self.address} at {self.mac.hex(':')} on {self.device}"


@dataclass(frozen=True, slots=True)
class Route:
    """One route in one table, for packets to ``destination`` and, if given, only those from ``source``.

    At most one of ``via`` (next hop), ``segment`` (encapsulate towards it) and ``decapsulate_into`` (take the outer
    header off, look up in that table) is set, each with a ``device``; none of them and no device when the kind is
    not UNICAST.
    """

    table: int
    destination: IPv6Network
    source: IPv6Network | None = None
    kind: RouteKind = RouteKind.UNICAST
    device: str = ""
    via: IPv6Address | None = None
    segment: IPv6Address | None = None
    decapsulate_into: int | None = None

    @property
    def key(self) -> Hashable:
        """Table, destination and source prefix."""
        to, source = self.destination, self.source
        return (
            "route",
            self.table,
            to.network_address.packed,
            to.prefixlen,
            source and (source.network_address.packed, source.prefixlen),
        )

    def put(self, indexes: Mapping[str, int]) -> list[Request]:
        """Add it, or replace the one there in a single step: no packet meets a table without it (NLM_F_REPLACE)."""
        parts = [self._head(self.kind)]
        if self.device:
            parts.append(attribute_u32(RTA_OIF, indexes[self.device]))
        if self.via is not None:
            parts.append(attribute(RTA_GATEWAY, self.via.packed))
        if self.segment is not None:
            parts.append(_encapsulation(LWTUNNEL_ENCAP_SEG6, encap_red(self.segment)))
        if self.decapsulate_into is not None:
            parts.append(_encapsulation(LWTUNNEL_ENCAP_SEG6_LOCAL, end_dt6(self.decapsulate_into)))
        return [Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, b"".join(parts), self)]

    def remove(self, _indexes: Mapping[str, int]) -> list[Request]:
        """Take it away, whatever its next hop is now; only one of ours (protocol number) is touched."""
        return [Request(RTM_DELROUTE, 0, self._head(0), f"remove {self}")]

    def _head(self, kind: int) -> bytes:
        to, source = self.destination, self.source
        head = _RTMSG.pack(
            _INET6, to.prefixlen, source.prefixlen if source else 0, 0, 0, PROTOCOL, 0 if kind else 255, kind, 0
        )
        head += attribute_u32(RTA_TABLE, self.table)
        if to.prefixlen:
            head += attribute(RTA_DST, to.network_address.packed)
        if source:
            head += attribute(RTA_SRC, source.network_address.packed)
        return head

    def __str__(self) -> str:
        text = "route " if self.kind is RouteKind.UNICAST else f"route {self.kind.name.lower()} "
        text += str(self.destination)
        if self.source:
            text += f" from {self.source}"
        if self.via:
            text += f" via {self.via}"
        if self.segment:
            text += f" in IPv6 to {self.segment}"
        if self.decapsulate_into:
            text += f" decapsulate into table {self.decapsulate_into}"
        return text + (f" dev {self.device}" if self.device else "") + f" table {self.table}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing policy rule: exactly one of ``table``, ``goto`` and neither (drop) says what to do with a match."""

    priority: int
    table: int | None = None
    goto: int | None = None
    iif: str = ""
    destination: IPv6Address | None = None
    ip_protocol: int = 0
    owner: int = PROTOCOL

    @property
    def key(self) -> Hashable:
        """Rules are never changed in place: the whole rule is its key."""
        return ("rule", self)

    def put(self, _indexes: Mapping[str, int]) -> list[Request]:
        """Add it."""
        body = self._body() + attribute(FRA_PROTOCOL, bytes([self.owner]))
        return [Request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body, self)]

    def remove(self, _indexes: Mapping[str, int]) -> list[Request]:
        """Take it away: only one of ours, or, of the kernel's rules, whoever put it back."""
        body = self._body()
        if self.owner == PROTOCOL:
            body += attribute(FRA_PROTOCOL, bytes([self.owner]))
        return [Request(RTM_DELRULE, 0, body, f"remove {self}")]

    def _body(self) -> bytes:
        action = FR_ACT_TO_TBL if self.table is not None else FR_ACT_GOTO if self.goto is not None else FR_ACT_BLACKHOLE
        body = _RULE.pack(_INET6, 128 if self.destination else 0, 0, 0, 0, 0, 0, action, 0)
        body += attribute_u32(FRA_PRIORITY, self.priority)
        if self.table is not None:
            body += attribute_u32(FRA_TABLE, self.table)
        if self.goto is not None:
            body += attribute_u32(FRA_GOTO, self.goto)
        if self.iif:
            body += attribute_text(FRA_IIFNAME, self.iif)
        if self.destination:
            body += attribute(FRA_DST, self.destination.packed)
        if self.ip_protocol:
            body += attribute(FRA_IP_PROTO, bytes([self.ip_protocol]))
        return body

    def __str__(self) -> str:
        text = f"rule {self.priority}:"
        if self.iif:
            text += f" iif {self.iif}"
        if self.destination:
            text += f" to {self.destination}"
        if self.ip_protocol:
            text += f" ipproto {self.ip_protocol}"
        if self.table is not None:
            return f"{text} lookup {self.table}"
        return f"{text} goto {self.goto}" if self.goto is not None else f"{text} blackhole"


Object = Link | Pair | Address | Neighbour | Route | Rule


def no_automatic_address(index: int, what: object) -> Request:
    """Keep the kernel from giving interface ``index`` a link-local address of its own (addrgenmode none)."""
    return Request(RTM_NEWLINK, 0, ifinfo(index) + nested(IFLA_AF_SPEC, _no_own_address()), what)


def no_life_of_its_own(index: int, what: object) -> Request:
    """The same for a DLIF, which is also not to answer ARP.

    The kernel would answer for any IPv4 address of the machine, so that a host who asks on the link for one would get
    an answer from each of its DLIFs. IPv4 is none of our business.
    """
    silent = nested(socket.AF_INET, nested(IFLA_INET_CONF, attribute_u32(IPV4_DEVCONF_ARP_IGNORE, ARP_IGNORE_ALL)))
    return Request(RTM_NEWLINK, 0, ifinfo(index) + nested(IFLA_AF_SPEC, _no_own_address() + silent), what)


def _no_own_address() -> bytes:
    return nested(_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([ADDR_GEN_MODE_NONE])))


def link_name(index: int) -> str:
    """Name of the interface that is created with this index."""
    return f"dl{index:x}"


def spare(index: int, parent: str, parent_index: int, group: int) -> list[Request]:
    """Create a link without identity yet: down, with a random MAC. Two thirds of the work of showing a router.

    addrgenmode is refused in the creating message and would come too late once the interface is up.
    """
    what = f"create a macvlan on {parent}"
    body = b"".join(
        (
            ifinfo(index),
            attribute_text(IFLA_IFNAME, link_name(index)),
            attribute_u32(IFLA_LINK, parent_index),
            attribute_u32(IFLA_GROUP, group),
            nested(
                IFLA_LINKINFO,
                attribute_text(IFLA_INFO_KIND, "macvlan"),
                nested(IFLA_INFO_DATA, attribute_u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_PRIVATE)),
            ),
        )
    )
    return [Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what), no_life_of_its_own(index, what)]


def group_deletion(group: int) -> Request:
    """Delete all interfaces of a link group at once: 200 macvlans in some 40 ms, where one alone takes 20."""
    return Request(RTM_DELLINK, 0, ifinfo(0) + attribute_u32(IFLA_GROUP, group), f"delete links of group {group:#x}")


def _veth_end(index: int, name: str, mac: bytes, mtu: int) -> bytes:
    return (
        ifinfo(index) + attribute_text(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac) + attribute_u32(IFLA_MTU, mtu)
    )


def _encapsulation(kind: int, contents: bytes) -> bytes:
    return attribute(RTA_ENCAP_TYPE, struct.pack("=H", kind)) + nested(RTA_ENCAP, contents)
