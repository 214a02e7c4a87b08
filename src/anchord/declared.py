"""What should be true of a mobile node: the values that a control plane declares and the kernel layer makes true.

Forwarding is declared, not scripted. A control plane says once, completely, which prefixes a mobile node holds and
where each is anchored; whoever receives the declaration compares it with what is installed and makes the difference.
Saying the same thing twice therefore does no harm, and a lost reply is repaired by saying it again.

These values know nothing of PBU and PBA: any other network-based mobility control plane can speak them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, IPv6Network


class Role(Enum):
    """What this gateway is to one prefix of one mobile node (RFC 8885 section 3)."""

    PREPARED = "prepared"  # the logical router stands, nothing is routed yet: the registration is under way
    ANCHORED = "anchored"  # ours, and the node is here: plain routing
    IMPORTED = "imported"  # another gateway's, and the node is here: tunnel to and from that anchor
    EXPORTED = "exported"  # ours, and the node is elsewhere: tunnel to and from the serving gateway
    TRANSIT = "transit"  # neither ours nor is the node here: between two gateways that do not know each other
    RELEASED = "released"  # given up, yet the node may still use an address of it: errors tell it to stop


@dataclass(frozen=True, slots=True)
class LogicalRouter:
    """The face of one anchoring gateway towards one mobile node (DLIF): the same wherever the node is."""

    mac: bytes  # 6 bytes, locally administered unicast
    address: IPv6Address  # link-local


@dataclass(frozen=True, slots=True)
class PrefixEntry:
    """One prefix of a mobile node and how this gateway has to forward it.

    ``peer`` is the global address of the gateway at the other end of the tunnel: the anchor of an IMPORTED prefix,
    the serving gateway of an EXPORTED one, the gateway towards the node of one in TRANSIT, else None. ``anchor`` is
    the gateway towards the anchor of a prefix in TRANSIT, else None: packets from ``peer`` go on to ``anchor`` and
    packets from ``anchor`` to ``peer``, through two tunnels in series. ``router`` is shown to the node here; None
    when EXPORTED, in TRANSIT or RELEASED.

    A RELEASED prefix belongs to nobody. Where the node is (``HostState.mac``), packets that it sends from it are
    answered with ICMPv6 destination unreachable, source address failed policy (RFC 4443 section 3.1, code 5), if
    another router is shown to it there. Where the node is not, this gateway anchored the prefix, and packets to it are
    answered with destination unreachable.

    ``local_networks`` are networks that are reachable only behind the anchor of this prefix. On an IMPORTED prefix:
    what the node sends to them from any prefix that is ANCHORED or IMPORTED here goes through the tunnel to
    ``peer``, and what comes back out of it is delivered. On an ANCHORED one, where they are close by: those packets
    and the answers are routed plainly, also of prefixes whose other packets are tunnelled to their anchor. On an
    EXPORTED one: the prefixes ``others`` of the same node may reach them too, out of the tunnel from ``peer``, and
    what these networks send to ``others`` or to this prefix goes back into that tunnel. Empty in any other role.
    """

    prefix: IPv6Network  # a /64
    role: Role
    router: LogicalRouter | None = None
    peer: IPv6Address | None = None
    anchor: IPv6Address | None = None
    local_networks: tuple[IPv6Network, ...] = ()
    others: tuple[IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class HostState:
    """Everything that should be true of one mobile node on this gateway.

    ``host`` is an opaque, stable key. ``mac`` and ``interface`` (the access interface the node was heard on) are None
    when the node is not attached here. No ``entries``: nothing of this node may remain.
    """

    host: str
    mac: bytes | None = None
    interface: str | None = None
    entries: tuple[PrefixEntry, ...] = ()
