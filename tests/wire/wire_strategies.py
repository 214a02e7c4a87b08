"""Hypothesis strategies: any value the wire layer can write, and bytes that nearly are messages."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from hypothesis import strategies as st
from wire_vectors import VECTORS

from anchord.wire import header, messages, neighbor, neighbor_options, options

addresses = st.integers(0, 2**128 - 1).map(IPv6Address)
link_locals = st.integers(0, 2**64 - 1).map(lambda low: IPv6Address(0xFE80 << 112 | low))
macs = st.binary(min_size=6, max_size=6)


def _prefix(value: int, length: int) -> IPv6Network:
    return IPv6Network((value, length), strict=False)


prefixes = st.builds(_prefix, st.integers(0, 2**128 - 1), st.integers(0, 128))
octets = st.integers(0, 255)
whole_units = st.integers(0, 0xFFFF).map(lambda units: 4 * units)
link_layer_addresses = st.sampled_from((1, 2, 4, 6, 8, 16, 253)).flatmap(lambda n: st.binary(min_size=n, max_size=n))

KNOWN_KINDS = {row.kind for row in options.FORMATS}
KNOWN_OPTIONS = {
    2: st.builds(options.BindingRefreshAdvice, whole_units),
    3: st.builds(options.AlternateCareOfAddress, addresses),
    8: st.builds(options.MobileNodeIdentifier, octets, st.binary(max_size=254)),
    22: st.builds(options.HomeNetworkPrefix, prefixes),
    23: st.builds(options.HandoffIndicator, octets),
    24: st.builds(options.AccessTechnologyType, octets),
    25: st.builds(options.MobileNodeLinkLayerIdentifier, link_layer_addresses),
    26: st.builds(options.LinkLocalAddress, addresses),
    27: st.builds(options.Timestamp, st.integers(0, 2**64 - 1)),
    28: st.builds(options.RestartCounter, st.integers(0, 2**32 - 1)),
    65: st.builds(options.AnchoredPrefix, prefixes),
    66: st.builds(options.LocalPrefix, prefixes),
    67: st.builds(options.PreviousMaar, addresses, prefixes),
    68: st.builds(options.ServingMaar, addresses),
    69: st.builds(options.DlifLinkLocalAddress, addresses),
    70: st.builds(options.DlifLinkLayerAddress, link_layer_addresses),
}
unknown_options = st.builds(
    options.UnknownOption, octets.filter(lambda kind: kind > 1 and kind not in KNOWN_KINDS), st.binary(max_size=255)
)
known_options = st.one_of(*KNOWN_OPTIONS.values())
mobility_options = st.one_of(known_options, unknown_options)
option_lists = st.lists(mobility_options, max_size=6).map(tuple)  # 6 options of 263 octets always fit

sequences = st.integers(0, 0xFFFF)
binding_updates = st.builds(
    messages.BindingUpdate,
    sequences,
    whole_units,
    st.integers(0, 0xFFFF).map(messages.BindingUpdateFlag),
    option_lists,
)
binding_acknowledgements = st.builds(
    messages.BindingAcknowledgement,
    octets,
    sequences,
    whole_units,
    octets.map(messages.BindingAckFlag),
    option_lists,
)
binding_errors = st.builds(messages.BindingError, octets, addresses, option_lists)
heartbeats = st.builds(
    messages.Heartbeat, st.integers(0, 2**32 - 1), st.integers(0, 3).map(messages.HeartbeatFlag), option_lists
)
revocation_flags = st.integers(0, 7).map(lambda bits: messages.RevocationFlag(bits << 13))
revocation_indications = st.builds(
    messages.BindingRevocationIndication, octets, sequences, revocation_flags, option_lists
)
revocation_acknowledgements = st.builds(
    messages.BindingRevocationAcknowledgement, octets, sequences, revocation_flags, option_lists
)
notification_flags = st.integers(0, 3).map(lambda bits: messages.NotificationFlag(bits << 14))
update_notifications = st.builds(
    messages.UpdateNotification,
    sequences,
    st.integers(0, 0xFFFF),
    notification_flags,
    option_lists,
)
notification_acknowledgements = st.builds(messages.UpdateNotificationAcknowledgement, sequences, octets, option_lists)
KNOWN_TYPES = (5, 6, 7, 13, 16, 19, 20)
unknown_messages = st.builds(
    messages.UnknownMessage,
    octets.filter(lambda kind: kind not in KNOWN_TYPES),
    st.integers(0, 255).flatmap(lambda units: st.binary(min_size=8 * units + 2, max_size=8 * units + 2)),
)
with_options = st.one_of(
    binding_updates,
    binding_acknowledgements,
    binding_errors,
    heartbeats,
    revocation_indications,
    revocation_acknowledgements,
    update_notifications,
    notification_acknowledgements,
)
any_message = st.one_of(with_options, unknown_messages)


def _plausible(mh_type: int, body: bytes) -> bytes:
    body += bytes(-(6 + len(body)) % 8)
    return bytes((59, (6 + len(body)) // 8 - 1, mh_type, 0, 0, 0)) + body


headers_of_noise = st.builds(_plausible, octets | st.sampled_from(KNOWN_TYPES), st.binary(min_size=2, max_size=400))


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of ``originals`` with a few octets changed, inserted or lost."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("change", "insert", "delete", "cut"))):
            case "change":
                data[at : at + 1] = bytes((draw(octets),))
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "delete":
                del data[at : at + draw(st.integers(1, 16))]
            case "cut":
                del data[at:]
    return bytes(data)


any_mobility_bytes = st.one_of(
    st.binary(max_size=300),
    headers_of_noise,
    mutated([vector.data for vector in VECTORS]),
    any_message.map(header.encode),
)

# Neighbor Discovery

lifetimes = st.integers(0, 2**32 - 1)
nd_link_layer = st.sampled_from((6, 14)).flatmap(lambda n: st.binary(min_size=n, max_size=n))
preferences = st.sampled_from(neighbor.Preference)
labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
domains = st.lists(labels, min_size=1, max_size=5).map(".".join).filter(lambda domain: len(domain) <= 253)


def _prefix_information(
    prefix: IPv6Network, on_link: bool, autonomous: bool, two: list[int]
) -> neighbor.PrefixInformation:
    return neighbor.PrefixInformation(prefix, on_link, autonomous, max(two), min(two))


KNOWN_ND_KINDS = {row.kind for row in neighbor_options.FORMATS}
KNOWN_ND_OPTIONS = {
    1: st.builds(neighbor.SourceLinkLayerAddress, nd_link_layer),
    2: st.builds(neighbor.TargetLinkLayerAddress, nd_link_layer),
    3: st.builds(
        _prefix_information, prefixes, st.booleans(), st.booleans(), st.lists(lifetimes, min_size=2, max_size=2)
    ),
    5: st.builds(neighbor.Mtu, lifetimes),
    24: st.builds(neighbor.RouteInformation, prefixes, preferences, lifetimes),
    25: st.builds(neighbor.RecursiveDnsServer, lifetimes, st.lists(addresses, min_size=1, max_size=5).map(tuple)),
    31: st.builds(neighbor.DnsSearchList, lifetimes, st.lists(domains, min_size=1, max_size=5).map(tuple)),
}
unknown_nd_options = st.builds(
    neighbor.UnknownNdOption,
    octets.filter(lambda kind: kind not in KNOWN_ND_KINDS),
    st.integers(0, 30).flatmap(lambda units: st.binary(min_size=8 * units + 6, max_size=8 * units + 6)),
)
nd_option_lists = st.lists(st.one_of(*KNOWN_ND_OPTIONS.values(), unknown_nd_options), max_size=6).map(tuple)
unicast = addresses.filter(lambda address: not address.is_multicast and int(address) != 0)


def distinct_routes(found: tuple[neighbor.NdOption, ...]) -> bool:
    routes = [option.prefix for option in found if isinstance(option, neighbor.RouteInformation)]
    return len(routes) == len(set(routes))


def _no_preference_without_lifetime(message: neighbor.RouterAdvertisement) -> bool:
    return message.router_lifetime_s > 0 or message.preference == neighbor.Preference.MEDIUM


router_advertisements = st.builds(
    neighbor.RouterAdvertisement,
    octets,
    st.sampled_from([neighbor.RouterFlag(bits << 5) for bits in range(8)]),
    preferences,
    sequences,
    lifetimes,
    lifetimes,
    nd_option_lists.filter(distinct_routes),
).filter(_no_preference_without_lifetime)
nd_messages = st.one_of(
    st.builds(neighbor.RouterSolicitation, nd_option_lists),
    router_advertisements,
    st.builds(neighbor.NeighborSolicitation, unicast, nd_option_lists),
    st.builds(neighbor.NeighborAdvertisement, unicast, st.booleans(), st.booleans(), st.booleans(), nd_option_lists),
)
