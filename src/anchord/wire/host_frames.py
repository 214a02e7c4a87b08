"""What a router says to one host, as frames: Router Advertisements, and the question whether the host is still there.

A host whose link-local address is still tentative drops an advertisement sent to that address, so the advertisement
goes to all nodes in the IPv6 header and to this one host alone at layer 2 (RFC 6085).

``host``, ``mac`` and ``address`` are the host's MAC address (6 bytes), and the router's MAC and link-local addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

from anchord.wire.neighbor import (
    ALL_NODES,
    Mtu,
    NeighborSolicitation,
    Preference,
    PrefixInformation,
    RecursiveDnsServer,
    RouteInformation,
    RouterAdvertisement,
    SourceLinkLayerAddress,
    encode,
    ethernet_frame,
)

HOP_LIMIT = 64

Offer = PrefixInformation | RouteInformation | RecursiveDnsServer


def offered_prefix(prefix: IPv6Network, valid_s: int, preferred_s: int) -> PrefixInformation:
    """A /64 that is one host's alone: autonomous and not on-link (RFC 8273 section 4), so that hosts talk to each
    other through their router, wherever they are. Lifetimes in seconds; 0 withdraws."""
    return PrefixInformation(prefix, on_link=False, autonomous=True, valid_s=valid_s, preferred_s=preferred_s)


def advertisement(
    host: bytes,
    mac: bytes,
    address: IPv6Address,
    *,
    lifetime_s: int,
    mtu: int,
    preference: Preference = Preference.MEDIUM,
    offers: Iterable[Offer] = (),
) -> bytes:
    """One router's advertisement for one host. ``lifetime_s`` is the router's, 0 to 65,535: 0 is no default router.

    ``mtu`` in bytes: one value from all the routers that a host is shown, because the last one it hears counts. The
    source link-layer address spares the host a question. Raises ValueError for what a field cannot hold.
    """
    message = RouterAdvertisement(
        hop_limit=HOP_LIMIT,
        router_lifetime_s=lifetime_s,
        preference=preference,
        options=(SourceLinkLayerAddress(mac), Mtu(mtu), *offers),
    )
    return ethernet_frame(host, mac, address, ALL_NODES, encode(message, address, ALL_NODES))


def probe(host: bytes, mac: bytes, address: IPv6Address, target: IPv6Address) -> bytes:
    """Asks one host whether it is still there at ``target`` (RFC 4861 section 7.3.3: unicast)."""
    message = NeighborSolicitation(target, (SourceLinkLayerAddress(mac),))
    return ethernet_frame(host, mac, address, target, encode(message, address, target))
