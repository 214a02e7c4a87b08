"""What a router says to one host, read back from the frame."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import addresses, distinct_routes, link_locals, macs, octets, prefixes, sequences, unicast

from anchord.wire import host_frames, neighbor
from anchord.wire.frames import parse_frame
from anchord.wire.neighbor import ALL_NODES, Mtu, Preference, RouterAdvertisement, SourceLinkLayerAddress

lifetimes = st.integers(0, 2**32 - 1)
slash64s = addresses.map(lambda address: IPv6Network((int(address) >> 64 << 64, 64)))
offers = st.lists(
    st.one_of(
        st.builds(host_frames.offered_prefix, slash64s, lifetimes, st.just(0)),
        st.builds(neighbor.RouteInformation, prefixes, st.sampled_from(Preference), lifetimes),
        st.builds(neighbor.RecursiveDnsServer, lifetimes, st.lists(addresses, min_size=1, max_size=3).map(tuple)),
    ),
    max_size=6,
).filter(lambda found: distinct_routes(tuple(found)))


@given(macs, macs, link_locals, st.integers(1, 0xFFFF), lifetimes, st.sampled_from(Preference), offers)
def test_an_advertisement_reaches_one_host_and_says_what_was_meant(
    host: bytes,
    mac: bytes,
    address: IPv6Address,
    lifetime_s: int,
    mtu: int,
    preference: Preference,
    offered: list[host_frames.Offer],
) -> None:
    data = host_frames.advertisement(
        host, mac, address, lifetime_s=lifetime_s, mtu=mtu, preference=preference, offers=offered
    )
    frame = parse_frame(data)
    assert (frame.destination_mac, frame.source_mac) == (host, mac)  # RFC 6085: one host alone at layer 2
    assert (frame.source, frame.destination) == (address, ALL_NODES)
    assert neighbor.received(frame) == RouterAdvertisement(
        hop_limit=host_frames.HOP_LIMIT,
        router_lifetime_s=lifetime_s,
        preference=preference,
        options=(SourceLinkLayerAddress(mac), Mtu(mtu), *offered),
    )


@given(macs, macs, link_locals, unicast)
def test_a_probe_asks_one_host_for_one_address(
    host: bytes, mac: bytes, address: IPv6Address, target: IPv6Address
) -> None:
    frame = parse_frame(host_frames.probe(host, mac, address, target))
    assert (frame.destination_mac, frame.source_mac, frame.source, frame.destination) == (host, mac, address, target)
    assert neighbor.received(frame) == neighbor.NeighborSolicitation(target, (SourceLinkLayerAddress(mac),))


@given(slash64s, octets, sequences)
def test_an_offered_prefix_is_the_hosts_own_and_not_on_link(prefix: IPv6Network, preferred_s: int, more_s: int) -> None:
    offered = host_frames.offered_prefix(prefix, preferred_s + more_s, preferred_s)
    assert offered == neighbor.PrefixInformation(prefix, False, True, preferred_s + more_s, preferred_s)
