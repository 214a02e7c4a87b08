"""What is installed: the kernel's own lists, read back into the values of ``objects.py``.

Only what carries a mark of ours is returned: routes and rules by protocol number, links by name and group, addresses
and neighbours by the link they are on. Everything else on the machine is invisible here and so can never be removed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, IPv6Network

from anchord.kernel import objects as o
from anchord.kernel.netlink import NetlinkSocket, attributes, text_of
from anchord.kernel.objects import Address, Link, Neighbour, Object, Pair, Route, RouteKind, Rule
from anchord.kernel.seg6 import LWTUNNEL_ENCAP_SEG6, LWTUNNEL_ENCAP_SEG6_LOCAL, segment_of, table_of
from anchord.kernel.tables import GRAVEYARD, LIVE, LOCAL_FIRST, SPARE, pairs

_U32 = struct.Struct("=I")
_PAIRS = {pair.name: pair.peer for pair in pairs(1280)}


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of this namespace, ours or not. ``parent`` is an interface index, 0 when there is none."""

    name: str
    index: int
    parent: int
    mac: bytes
    mtu: int
    group: int
    flags: int
    kind: str
    own_address: bool  # the kernel gives it a link-local address by itself

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & o.IFF_UP)

    @property
    def promiscuous(self) -> bool:
        """Whether somebody asked for promiscuous mode (packet sockets are not counted)."""
        return bool(self.flags & o.IFF_PROMISC)


@dataclass(slots=True)
class Installed:
    """A reading: objects of ours by key, interface indexes by device, and all interfaces by name.

    A device is an interface's name or, for a DLIF, ``Link.device``. ``spares`` are indexes of links without identity,
    by the name of their parent.
    """

    objects: dict[Hashable, Object] = field(default_factory=dict)
    indexes: dict[str, int] = field(default_factory=dict)
    interfaces: dict[str, Interface] = field(default_factory=dict)
    spares: dict[str, list[int]] = field(default_factory=dict)


class InterruptedReadError(Exception):
    """The reading was broken off because something more urgent came in."""


def read(sock: NetlinkSocket, urgent: Callable[[], bool] = lambda: False) -> Installed:
    """Read everything of ours. ``urgent`` is asked between lists. Raises NetlinkError, InterruptedReadError."""
    found = Installed(interfaces=interfaces(sock))
    names = {each.index: name for name, each in found.interfaces.items()}
    found.indexes = {name: index for index, name in names.items()}
    ours: set[int] = set()
    for each in found.interfaces.values():
        parent = names.get(each.parent, "")
        made = _link(each, parent) or _pair(each, found.interfaces)
        if made is not None:
            found.objects[made.key] = made
            ours.add(each.index)
        if isinstance(made, Link):
            found.indexes[made.device] = each.index
            names[each.index] = made.device
        elif isinstance(made, Pair):
            ours.add(found.indexes[made.peer])
        elif _is_spare(each):
            found.spares.setdefault(parent, []).append(each.index)
    readers = (
        lambda: _addresses(sock, names, ours),
        lambda: _neighbours(sock, names, ours),
        lambda: routes(sock, names),
        lambda: rules(sock),
    )
    for reader in readers:
        if urgent():
            raise InterruptedReadError
        for item in reader():
            found.objects[item.key] = item
    return found


def interfaces(sock: NetlinkSocket) -> dict[str, Interface]:
    """All interfaces by name. Raises NetlinkError."""
    found = (_interface(payload) for _, payload in sock.dump(o.RTM_GETLINK, o.ifinfo(0), "list interfaces"))
    return {each.name: each for each in found}


def addresses(sock: NetlinkSocket) -> set[IPv6Address]:
    """All IPv6 addresses of this namespace. Raises NetlinkError."""
    dumped = sock.dump(o.RTM_GETADDR, struct.pack("=BBBBI", 10, 0, 0, 0, 0), "list addresses")
    return {IPv6Address(attributes(payload, 8)[o.IFA_ADDRESS]) for _, payload in dumped}


def routes(sock: NetlinkSocket, names: dict[int, str]) -> Iterator[Route]:
    """Routes that carry our protocol number. Raises NetlinkError."""
    asked = struct.pack("=8BI", 10, 0, 0, 0, 0, o.PROTOCOL, 0, 0, 0)
    for _, payload in sock.dump(o.RTM_GETROUTE, asked, "list routes"):
        if payload[5] == o.PROTOCOL:  # kernels without strict checking list them all
            yield _route(payload, names)


def rules(sock: NetlinkSocket) -> Iterator[Rule]:
    """Our rules, and the kernel's own rule for the local table while it stands. Raises NetlinkError."""
    for _, payload in sock.dump(o.RTM_GETRULE, struct.pack("=8BI", 10, *[0] * 8), "list rules"):
        rule = _rule(payload)
        if rule.owner == o.PROTOCOL:
            yield rule
        elif replace(rule, owner=LOCAL_FIRST.owner) == LOCAL_FIRST:
            yield LOCAL_FIRST


def _interface(payload: bytes) -> Interface:
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", payload)
    found = attributes(payload, 16)
    info = attributes(found.get(o.IFLA_LINKINFO, b""))
    inet6 = attributes(attributes(found.get(o.IFLA_AF_SPEC, b"")).get(10, b""))
    return Interface(
        name=text_of(found[o.IFLA_IFNAME]),
        index=index,
        parent=_number(found.get(o.IFLA_LINK)),
        mac=found.get(o.IFLA_ADDRESS, b""),
        mtu=_number(found.get(o.IFLA_MTU)),
        group=_number(found.get(o.IFLA_GROUP)),
        flags=flags,
        kind=text_of(info.get(o.IFLA_INFO_KIND, b"")),
        own_address=inet6.get(o.IFLA_INET6_ADDR_GEN_MODE, b"\0")[0] != o.ADDR_GEN_MODE_NONE,
    )


def _link(each: Interface, parent: str) -> Link | None:
    """A DLIF. One that is half made (a crash in between) reads as not up and is completed."""
    if each.kind != "macvlan" or each.group not in (LIVE, GRAVEYARD):
        return None
    return Link(parent, each.mac, each.group, up=each.up and not each.own_address)


def _pair(each: Interface, known: dict[str, Interface]) -> Pair | None:
    """An internal pair, read at its sending end."""
    other = known.get(_PAIRS.get(each.name, ""))
    if other is None or each.kind != "veth":
        return None
    whole = each.up and other.up and not each.own_address and not other.own_address
    mtu = each.mtu if each.mtu == other.mtu else 0
    return Pair(each.name, other.name, each.mac, other.mac, mtu, up=whole)


def _is_spare(each: Interface) -> bool:
    return each.kind == "macvlan" and each.group == SPARE and not each.up and not each.own_address


def _addresses(sock: NetlinkSocket, names: dict[int, str], ours: set[int]) -> Iterator[Address]:
    for _, payload in sock.dump(o.RTM_GETADDR, struct.pack("=BBBBI", 10, 0, 0, 0, 0), "list addresses"):
        (index,) = _U32.unpack_from(payload, 4)
        if index in ours:
            yield Address(names[index], IPv6Address(attributes(payload, 8)[o.IFA_ADDRESS]))


def _neighbours(sock: NetlinkSocket, names: dict[int, str], ours: set[int]) -> Iterator[Neighbour]:
    for _, payload in sock.dump(o.RTM_GETNEIGH, struct.pack("=BxxxiHBB", 10, 0, 0, 0, 0), "list neighbours"):
        _, index, state, _, _ = struct.unpack_from("=BxxxiHBB", payload)
        if index in ours and state & o.NUD_PERMANENT:
            found = attributes(payload, 12)
            yield Neighbour(names[index], IPv6Address(found[o.NDA_DST]), found.get(o.NDA_LLADDR, b""))


def _route(payload: bytes, names: dict[int, str]) -> Route:
    _, to_length, source_length, _, table, _, _, kind, _ = struct.unpack_from("=8BI", payload)
    found = attributes(payload, 12)
    encapsulation, via = found.get(o.RTA_ENCAP, b""), found.get(o.RTA_GATEWAY)
    how = int.from_bytes(found.get(o.RTA_ENCAP_TYPE, b""), "little")
    unicast = kind == RouteKind.UNICAST
    return Route(
        table=_number(found.get(o.RTA_TABLE)) or table,
        destination=_prefix(found.get(o.RTA_DST), to_length),
        source=_prefix(found.get(o.RTA_SRC), source_length) if source_length else None,
        kind=RouteKind(kind) if kind in set(RouteKind) else RouteKind.UNICAST,
        device=names.get(_number(found.get(o.RTA_OIF)), "?") if unicast else "",
        via=IPv6Address(via) if via else None,
        segment=segment_of(encapsulation) if how == LWTUNNEL_ENCAP_SEG6 else None,
        decapsulate_into=table_of(encapsulation) if how == LWTUNNEL_ENCAP_SEG6_LOCAL else None,
    )


def _rule(payload: bytes) -> Rule:
    _, _, _, _, table, _, _, action, _ = struct.unpack_from("=8BI", payload)
    found = attributes(payload, 12)
    to = found.get(o.FRA_DST)
    return Rule(
        priority=_number(found.get(o.FRA_PRIORITY)),
        table=(_number(found.get(o.FRA_TABLE)) or table) if action == o.FR_ACT_TO_TBL else None,
        goto=_number(found.get(o.FRA_GOTO)) if action == o.FR_ACT_GOTO else None,
        iif=text_of(found.get(o.FRA_IIFNAME, b"")),
        destination=IPv6Address(to) if to else None,
        ip_protocol=found.get(o.FRA_IP_PROTO, b"\0")[0],
        owner=found.get(o.FRA_PROTOCOL, b"\0")[0],
    )


def _prefix(data: bytes | None, length: int) -> IPv6Network:
    return IPv6Network((data or bytes(16), length))


def _number(data: bytes | None) -> int:
    return int(_U32.unpack(data)[0]) if data and len(data) == 4 else 0
