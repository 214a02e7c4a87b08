"""What a gateway says to its hosts: Router Advertisements and Neighbour Solicitations, as frames.

A host whose link-local address is still tentative drops an advertisement sent to that address, so the advertisement
goes to all nodes in the IPv6 header and to this one host alone at layer 2 (RFC 6085).
"""

from __future__ import annotations

from anchord.protocol.outputs import Advertise, Probe
from anchord.wire.neighbor import (
    ALL_NODES,
    Mtu,
    NdOption,
    NeighborSolicitation,
    Preference,
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
    SourceLinkLayerAddress,
    encode,
    ethernet_frame,
)

HOP_LIMIT = 64


def advertisement(order: Advertise) -> bytes:
    """The frame for one advertisement.

    The source link-layer address spares the host a question; prefixes are autonomous and not on-link (RFC 8273), so
    that hosts talk to each other through their router, wherever they are.
    """
    options: list[NdOption] = [SourceLinkLayerAddress(order.router.mac), Mtu(order.mtu)]
    options += [
        PrefixInformation(p.prefix, on_link=False, autonomous=True, valid_s=p.valid_s, preferred_s=p.preferred_s)
        for p in order.prefixes
    ]
    options += [RouteInformation(route, Preference.MEDIUM, order.route_lifetime_s) for route in order.routes]
    message = RouterAdvertisement(
        hop_limit=HOP_LIMIT,
        router_lifetime_s=order.router_lifetime_s,
        preference=order.preference,
        options=tuple(options),
    )
    icmpv6 = encode(message, order.router.address, ALL_NODES)
    return ethernet_frame(order.mac, order.router.mac, order.router.address, ALL_NODES, icmpv6)


def probe(order: Probe) -> bytes:
    """The frame that asks one host whether it is still there (RFC 4861 section 7.3.3: unicast)."""
    message = NeighborSolicitation(order.target, (SourceLinkLayerAddress(order.router.mac),))
    icmpv6 = encode(message, order.router.address, order.target)
    return ethernet_frame(order.mac, order.router.mac, order.router.address, order.target, icmpv6)
