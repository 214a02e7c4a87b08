"""Frames of hosts, and what the daemon of a gateway makes of them before the protocol hears of any."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random

from fuzz_bytes import damage_frame
from fuzz_worlds import HOSTS, World

from anchord.attachment.access import AccessInterface, Hello
from anchord.attachment.segment import hello
from anchord.protocol.inputs import HostSeen, Input, SegmentConflict
from anchord.wire.checksum import ICMPV6, internet_checksum
from anchord.wire.frames import layer2_update_frame
from anchord.wire.neighbor import (
    ALL_NODES,
    ALL_ROUTERS,
    Mtu,
    NeighborAdvertisement,
    NeighborSolicitation,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
    encode,
    ethernet_frame,
    eui64_link_local,
)

SECRET = b"s" * 32
ALL_ROUTERS_MAC = bytes.fromhex("333300000002")


class Ear:
    """The access interface of a gateway, without an interface: frames are handed in."""

    def __init__(self, world: World) -> None:
        self._access = AccessInterface("lo", SECRET, "gw1")
        self._access.close()
        self._access.name = "acc0"
        self._gateways: set[bytes] = set()

    def hear(self, data: bytes, now_s: float) -> Input | None:
        """As ``daemon.gateway`` does."""
        seen = self._access.read(data, 0.0, now_s)
        if seen is None or seen.mac in self._gateways:
            return None
        if isinstance(seen, Hello):
            return SegmentConflict(seen.interface, seen.name, seen.mac)
        return HostSeen(seen.interface, seen.mac, seen.address, seen.solicited, seen.reassociated, seen.age_s)


def frames_of(rng: Random, world: World) -> list[bytes]:
    """Valid frames of the hosts there are, of one that is new, and of a gateway."""
    found: list[bytes] = []
    prefixes = [session.prefix for gateway in world.domain.gw.values() for session in gateway.sessions.values()]
    for mac in (*HOSTS, rng.randbytes(6)):
        own = eui64_link_local(mac)
        group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(own) & 0xFFFFFF)
        source = SourceLinkLayerAddress(mac)
        for message, address, to in (
            (RouterSolicitation((source,)), own, ALL_ROUTERS),
            (RouterSolicitation(), IPv6Address(0), ALL_ROUTERS),
            (NeighborSolicitation(own), IPv6Address(0), group),
            (NeighborSolicitation(IPv6Address("fe80::1"), (source,)), own, IPv6Address("fe80::1")),
            (
                NeighborAdvertisement(own, solicited=True, options=(TargetLinkLayerAddress(mac),)),
                own,
                IPv6Address("fe80::1"),
            ),
        ):
            found.append(ethernet_frame(ALL_ROUTERS_MAC, mac, address, to, encode(message, address, to)))
        found.append(layer2_update_frame(mac))
        if prefixes:
            address = rng.choice(prefixes)[1] if rng.random() < 0.5 else rng.choice(prefixes)[rng.randrange(2**32)]
            found.append(ethernet_frame(ALL_ROUTERS_MAC, mac, address, IPv6Address("2001:db8::5"), b"data of a host"))
    prefix = PrefixInformation(IPv6Network("2001:db8:a1::/64"), True, True, 600, 300)
    router = RouterAdvertisement(router_lifetime_s=600, options=(Mtu(1460), prefix))
    own = eui64_link_local(HOSTS[0])
    found.append(ethernet_frame(ALL_ROUTERS_MAC, HOSTS[0], own, ALL_NODES, encode(router, own, ALL_NODES)))
    return found


def damaged_frame(rng: Random, frames: list[bytes], now_s: float) -> bytes:
    """One of ``frames`` with faults, or, seldom, as it is; now and then the hello of another gateway."""
    choice = rng.random()
    if choice < 0.03:
        frame = hello(SECRET if choice < 0.01 else b"another", rng.randbytes(6), "gw2/acc0", now_s)
        return damage_frame(rng, frame, frames, lambda data: data) if rng.random() < 0.8 else frame
    frame = rng.choice(frames)
    return frame if choice < 0.1 else damage_frame(rng, frame, frames, mend_frame)


def mend_frame(data: bytes) -> bytes:
    """The same with the IPv6 payload length, and the checksum of an ICMPv6 message, as they have to be."""
    if len(data) < 58 or data[12:14] != b"\x86\xdd":
        return data
    body = data[54:]
    head = data[:18] + len(body).to_bytes(2, "big") + data[20:54]
    source, destination = IPv6Address(data[22:38]), IPv6Address(data[38:54])
    checksum = internet_checksum(source, destination, ICMPV6, body[:2] + b"\0\0" + body[4:])
    return head + body[:2] + checksum.to_bytes(2, "big") + body[4:]
