"""What the topology of a lab says of a message that was sent in it, and what a message says of those before it.

No decoder can know this: that a prefix belongs to the gateway whose message names it, that a router's addresses are one
pair, that a time is now, that an answer has a question. Each function returns what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from recorder import Recorded, Said

from anchord.lab.topology import Gateway, Lma, Topology
from anchord.wire import header
from anchord.wire.frames import eui64_link_local
from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingError,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Heartbeat,
    HeartbeatFlag,
    Message,
    UnknownMessage,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.neighbor import RouterAdvertisement
from anchord.wire.neighbor_options import (
    Mtu,
    PrefixInformation,
    RecursiveDnsServer,
    RouteInformation,
    SourceLinkLayerAddress,
)
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AnchoredPrefix,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    HomeNetworkPrefix,
    LocalPrefix,
    MnIdSubtype,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    PreviousMaar,
    ServingMaar,
    Timestamp,
)

A_H_P_D = 0xC210  # decision 30
P_D = BindingAckFlag.PROXY | BindingAckFlag.DISTRIBUTED
_NS_PER_TICK = 1_000_000_000 / Timestamp.TICKS_PER_S
_AGE_S = 60.0
"""How old a time in a message may be: an update that is sent again keeps its own, and an anchor is told that of the
serving gateway (decision 11)."""
_AHEAD_S = 0.1
_DEFAULTS = {"valid_s": 600, "preferred_s": 300, "router_s": 600, "advertise_every_s": 100, "binding_s": 600}
"""docs/configuration.md, section lifetimes."""
_ANSWERS: dict[type[Any], type[Any]] = {
    BindingAcknowledgement: BindingUpdate,
    BindingRevocationAcknowledgement: BindingRevocationIndication,
    UpdateNotificationAcknowledgement: UpdateNotification,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a lab."""

    addresses: Mapping[str, IPv6Address]
    pools: Mapping[IPv6Address, frozenset[IPv6Network]]
    """By anchor; an LMA between operators stands for the gateways of all."""
    local_networks: Mapping[IPv6Address, frozenset[IPv6Network]]
    fixed: frozenset[IPv6Network]
    """What plain LMAs give out. There a router's link-local address is the LMA's choice (RFC 5213 section 8.7), and its
    MAC address that of each gateway: gateways of two operators make two."""
    lmas: frozenset[IPv6Address]
    hosts: frozenset[bytes]
    """Their MAC addresses; and by whatever name a test that speaks in a daemon's place calls a node."""
    routers: Mapping[str, Set[bytes]]
    lifetimes: Mapping[str, int]

    @classmethod
    def of(cls, record: Recorded) -> Facts:
        """From the topology, and from what stood on the hosts' own frames."""
        topology = record.topology
        macs = {bytes.fromhex(host.mac.replace(":", "")) for host in topology.hosts.values() if host.mac}
        played = [option for _, message in messages_of(record.by_hand) for option in _names(message)]
        local = {
            gateway.address: {*gateway.local_networks, *(node.network for node in topology.behind(gateway.name))}
            for gateway in topology.gateways.values()
        }
        return cls(
            {node: interface.ip for node, interface in topology.on_core().items()},
            {anchor.address: frozenset(_pools(topology, anchor)) for anchor in topology.anchors()},
            {address: frozenset(networks) for address, networks in local.items()},
            frozenset(pool for lma in topology.lmas.values() for pool in lma.pools),
            frozenset(lma.address for lma in topology.lmas.values()),
            frozenset(macs | record.hosts | {option.identifier for option in played}),
            record.routers,
            {**_DEFAULTS, **topology.domain.get("lifetimes", {})},
        )

    def is_host(self, mac: bytes, to: str) -> bool:
        """Whether ``mac`` may be a host to that node."""
        return mac in self.hosts or any(mac in macs for node, macs in self.routers.items() if node != to)

    def is_anchored(self, prefix: IPv6Network, anchors: Iterable[IPv6Address]) -> bool:
        """Whether one of these anchors gives out ``prefix``."""
        pools = [pool for anchor in anchors for pool in self.pools[anchor]]
        return prefix.prefixlen == 64 and any(prefix.subnet_of(pool) for pool in pools)


def _names(message: Message) -> Iterator[MobileNodeIdentifier | MobileNodeLinkLayerIdentifier]:
    if not isinstance(message, UnknownMessage):
        yield from message.all(MobileNodeIdentifier)
        yield from message.all(MobileNodeLinkLayerIdentifier)


def _pools(topology: Topology, anchor: Gateway | Lma) -> Iterable[IPv6Network]:
    between = isinstance(anchor, Lma) and anchor.operators
    others = [pool for gateway in topology.gateways.values() for pool in gateway.pools] if between else []
    return [*anchor.pools, *others]


def wrong_message(facts: Facts, said: Said, message: Message) -> Iterator[str]:
    """What in a message contradicts the lab."""
    if said.source != facts.addresses[said.node]:
        yield f"{said.node} sends as {said.source}"
    if said.destination not in facts.addresses.values():
        yield f"to {said.destination}, where nobody is"
    binding = facts.lifetimes["binding_s"]
    plain = not facts.lmas.isdisjoint((said.source, said.destination))  # of RFC 5213, without the D flag
    match message:
        case BindingUpdate(_, lifetime_s, flags):
            if (flags | BindingUpdateFlag.DISTRIBUTED if plain else flags) != A_H_P_D:
                yield f"flags {flags:#x}"
            if lifetime_s > binding:
                yield f"lifetime {lifetime_s} s of {binding} s"
        case BindingAcknowledgement(status, _, lifetime_s, ack_flags):
            if (ack_flags | BindingAckFlag.DISTRIBUTED if plain else ack_flags) != P_D:
                yield f"flags {ack_flags:#x}"
            if lifetime_s > binding or (status >= 128 and lifetime_s):
                yield f"lifetime {lifetime_s} s of {binding} s with status {status}"
    for option in message.options:
        yield from _wrong_option(facts, said, message, option)
    yield from _wrong_routers(facts, message.options)


def _wrong_option(facts: Facts, said: Said, message: Message, option: Any) -> Iterator[str]:
    match option:
        case MobileNodeIdentifier(MnIdSubtype.EUI48, mac) | MobileNodeLinkLayerIdentifier(mac):
            if not facts.is_host(mac, said.node):
                yield f"no host has {mac.hex(':')}"
        case MobileNodeIdentifier(subtype, name) if name not in facts.hosts:
            yield f"subtype {subtype} for {name!r}: every host of the labs is known by its MAC address"
        case HomeNetworkPrefix(prefix) | AnchoredPrefix(prefix):
            if prefix != ALL_ZERO_PREFIX and not facts.is_anchored(prefix, facts.pools):
                yield f"nobody anchors {prefix}"
        case PreviousMaar(maar, prefix):
            # ::/0: what it gave the node, if anything, the sender was not told.
            if maar not in facts.pools or (prefix != ALL_ZERO_PREFIX and not facts.is_anchored(prefix, [maar])):
                yield f"{prefix} is not anchored at {maar}"
        case ServingMaar(address):
            if address not in facts.pools:
                yield f"{address} is no gateway"
        case Timestamp(ticks):
            age_s = (said.time_ns - ticks * _NS_PER_TICK) / 1e9
            if not -_AHEAD_S <= age_s <= _AGE_S:
                yield f"the time is {age_s:.3f} s ago"


def _wrong_routers(facts: Facts, options: Iterable[Any]) -> Iterator[str]:
    """Of a router both addresses are there, one made from the other, and neither from an interface (decision 15); a
    local network stands behind its gateway (decision 1)."""
    maar: IPv6Address | None = None
    link_local: IPv6Address | None = None
    for option in options:
        match option:
            case PreviousMaar(maar, _):
                pass
            case DlifLinkLocalAddress(link_local):
                pass
            case DlifLinkLayerAddress(mac):
                if link_local != eui64_link_local(mac) or mac[0] != 2 or mac in facts.hosts:
                    yield f"a router {link_local} with {mac.hex(':')}"
            case LocalPrefix(network):
                known = [facts.local_networks[maar]] if maar in facts.local_networks else facts.local_networks.values()
                if not any(network in networks for networks in known):
                    yield f"{network} is not local at {maar}"


def question_of(message: Message) -> tuple[object, ...] | None:
    """What identifies the message that this one answers, if it is an answer: type, number and mobile node."""
    asked = Heartbeat if _is_response(message) else _ANSWERS.get(type(message))
    return None if asked is None else (asked, *_key(message))


def questions(messages: Iterable[tuple[Said, Message]]) -> set[tuple[object, ...]]:
    """What can be answered to ``messages``, and where.

    An anchor answers a locating CMD's question to the serving gateway as well, so who asked does not matter.
    """
    return {(said.destination, type(message), *_key(message)) for said, message in messages}


def _is_response(message: Message) -> bool:
    return isinstance(message, Heartbeat) and message.flags == HeartbeatFlag.RESPONSE


def _key(message: Message) -> tuple[object, ...]:
    if isinstance(message, UnknownMessage | BindingError):
        return ()
    # An identifier that was missing is an empty one in the answer (RFC 5213 section 5.3.6).
    node = message.first(MobileNodeIdentifier)
    return message.sequence, node if node and node.identifier else None


def wrong_advertisement(facts: Facts, said: Said, message: RouterAdvertisement) -> Iterator[str]:
    """What in a router advertisement contradicts the lab, RFC 8885 section 3.7 or RFC 4861."""
    mac, router_s = said.frame[6:12], facts.lifetimes["router_s"]
    if not facts.is_host(said.frame[:6], said.node):
        yield f"for {said.frame[:6].hex(':')}, who is no host"
    prefixes = [offer.prefix for offer in message.all(PrefixInformation)]
    fixed = any(prefix.subnet_of(pool) for prefix in prefixes for pool in facts.fixed)
    if message.first(SourceLinkLayerAddress) != SourceLinkLayerAddress(mac):
        yield f"the router {mac.hex(':')} gives another address of its own"
    if said.source != eui64_link_local(mac) and not (fixed and said.source.is_link_local):
        yield f"{said.source} from {mac.hex(':')}"
    if message.router_lifetime_s not in (0, router_s):
        yield f"router lifetime {message.router_lifetime_s} s of {router_s} s"
    for prefix in message.all(PrefixInformation):
        yield from _wrong_prefix(facts, said, message, prefix)
    for route in message.all(RouteInformation):
        if not any(route.prefix in networks for networks in facts.local_networks.values()):
            yield f"a route to {route.prefix}, which is local to nobody"
        if route.lifetime_s != message.router_lifetime_s:
            yield f"a route for {route.lifetime_s} s"
    if any(not 1280 <= option.mtu <= 1500 for option in message.all(Mtu)) or len(message.all(Mtu)) != 1:
        yield f"MTU {message.all(Mtu)}"
    every_s = facts.lifetimes["advertise_every_s"]
    if any(option.lifetime_s not in (0, 3 * every_s) for option in message.all(RecursiveDnsServer)):
        yield "a resolver whose time is not three intervals (RFC 8106 section 5.1)"


def _wrong_prefix(facts: Facts, said: Said, message: RouterAdvertisement, offer: PrefixInformation) -> Iterator[str]:
    if not facts.is_anchored(offer.prefix, facts.pools):
        yield f"nobody anchors {offer.prefix}"
    if offer.on_link or not offer.autonomous:
        yield f"{offer.prefix} is not one host's alone (RFC 8273 section 4)"
    if offer.valid_s > facts.lifetimes["valid_s"] or offer.preferred_s not in (0, facts.lifetimes["preferred_s"]):
        yield f"{offer.prefix} for {offer.valid_s} s and {offer.preferred_s} s"
    own = facts.addresses[said.node]
    withheld = not offer.preferred_s and own in facts.pools and facts.is_anchored(offer.prefix, [own])
    if not message.router_lifetime_s and offer.valid_s and not withheld:
        # Only what a gateway gave a node whose budget was spent stays, and another gateway's router is used.
        yield f"{offer.prefix} stays, and its router goes"


def messages_of(said: Iterable[Said]) -> Iterator[tuple[Said, Message]]:
    """Every Mobility Header that can be read."""
    for each in said:
        if each.next_header == 135:
            try:
                yield each, header.decode(each.packet[40:])
            except header.WireError:
                continue
