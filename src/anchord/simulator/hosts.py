"""Mobile hosts, unmodified: they make addresses from advertisements, and keep them and routers by lifetime."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from random import Random

from anchord.protocol.identity import mn_id_of_mac, session_key
from anchord.protocol.outputs import Advertise
from anchord.simulator.forwarding import upper
from anchord.wire.neighbor import eui64_link_local

DAD_S = 1.0
# RFC 4862 section 5.5.3 (e): an advertisement may not cut what is left of a valid lifetime below this.
TWO_HOURS_S = 7200.0
_IDENTIFIER = 0x0200_00FF_FE00_0000


@dataclass(slots=True)
class Held:
    """An address. Virtual seconds. ``withdrawn``: its router has said that it leads nowhere any more."""

    usable_s: float
    valid_until_s: float
    preferred_until_s: float
    withdrawn: bool = False


@dataclass(slots=True, eq=False)
class Host:
    """``place``: gateway and access interface; None: out of the domain. ``addresses`` by the upper half."""

    number: int
    mac: bytes
    key: str
    link_local: IPv6Address
    idle: bool  # it sends nothing of itself
    place: tuple[IPv6Address, str] | None = None
    before: IPv6Address | None = None  # the gateway it was at last
    since_s: float = 0.0
    moves: int = 0
    confirmed_s: float = 0.0  # when it last made sure of its router
    addresses: dict[int, Held] = field(default_factory=dict)
    routers: dict[bytes, tuple[float, int]] = field(default_factory=dict)  # by MAC: until when, preference

    def address(self, prefix: int) -> IPv6Address:
        """SLAAC."""
        return IPv6Address(prefix << 64 | _IDENTIFIER | self.number)

    def has(self, address: IPv6Address, now_s: float) -> bool:
        """Whether it answers for ``address``: not for a tentative one (RFC 4862 section 5.4.3)."""
        prefix = int(address) >> 64
        held = self.addresses.get(prefix)
        if held is None or self.address(prefix) != address:
            return address == self.link_local
        return held.usable_s <= now_s < held.valid_until_s

    def advertised(self, order: Advertise, now_s: float) -> list[int]:
        """A Router Advertisement; the prefixes that it makes new addresses of."""
        if order.router_lifetime_s:
            self.routers[order.router.mac] = (now_s + order.router_lifetime_s, int(order.preference))
        else:
            self.routers.pop(order.router.mac, None)
        new: list[int] = []
        for offer in order.prefixes:
            prefix = upper(offer.prefix)
            held = self.addresses.get(prefix)
            if held is None or held.valid_until_s <= now_s:
                if not offer.valid_s:
                    continue
                held = self.addresses[prefix] = Held(now_s + DAD_S, now_s, now_s)
                new.append(prefix)
            left_s = held.valid_until_s - now_s
            if offer.valid_s > min(TWO_HOURS_S, left_s):
                held.valid_until_s = now_s + offer.valid_s
            elif left_s > TWO_HOURS_S:
                held.valid_until_s = now_s + TWO_HOURS_S
            held.preferred_until_s = now_s + offer.preferred_s
            held.withdrawn = not offer.valid_s
        return new

    def forget(self, now_s: float) -> None:
        """What has run out."""
        for prefix in [p for p, held in self.addresses.items() if held.valid_until_s <= now_s]:
            del self.addresses[prefix]
        for mac in [m for m, (until_s, _) in self.routers.items() if until_s <= now_s]:
            del self.routers[mac]

    def usable(self, now_s: float) -> list[int]:
        """Prefixes of addresses that packets may come from."""
        return [p for p, held in self.addresses.items() if held.usable_s <= now_s < held.valid_until_s]

    def kept(self, now_s: float) -> list[int]:
        """Prefixes of addresses that are to work, deprecated or not."""
        return [p for p in self.usable(now_s) if not self.addresses[p].withdrawn]

    def preferred(self, now_s: float) -> list[int]:
        """Those that new connections take."""
        return [p for p in self.usable(now_s) if self.addresses[p].preferred_until_s > now_s]


def population(count: int, random: Random) -> list[Host]:
    """Hosts that are nowhere yet. Not all make their link-local address of their MAC address (RFC 7217)."""
    hosts: list[Host] = []
    for number in range(1, count + 1):
        mac = bytes((0x06, 0, 0, 0, 0, number))
        opaque = IPv6Address(f"fe80::1:{number}")
        link_local = opaque if random.random() < 0.5 else eui64_link_local(mac)
        hosts.append(Host(number, mac, session_key(mn_id_of_mac(mac), mac), link_local, random.random() < 0.3))
    return hosts
