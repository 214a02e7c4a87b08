"""The protocol's orders to say something to a host, as the frames that say it."""

from __future__ import annotations

from anchord.protocol.outputs import Advertise, Probe
from anchord.wire import host_frames
from anchord.wire.host_frames import Offer, offered_prefix
from anchord.wire.neighbor import Preference, RecursiveDnsServer, RouteInformation


def advertisement(order: Advertise) -> bytes:
    """The frame for one advertisement."""
    offers: list[Offer] = [offered_prefix(p.prefix, p.valid_s, p.preferred_s) for p in order.prefixes]
    offers += [RouteInformation(route, Preference.MEDIUM, order.route_lifetime_s) for route in order.routes]
    if order.resolvers:
        offers.append(RecursiveDnsServer(order.resolver_lifetime_s, order.resolvers))
    return host_frames.advertisement(
        order.mac,
        order.router.mac,
        order.router.address,
        lifetime_s=order.router_lifetime_s,
        mtu=order.mtu,
        preference=order.preference,
        offers=offers,
    )


def probe(order: Probe) -> bytes:
    """The frame that asks one host whether it is still there."""
    return host_frames.probe(order.mac, order.router.mac, order.router.address, order.target)
