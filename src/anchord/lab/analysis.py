"""Handovers, from captures alone: when the host appeared, when each thing that it needs was there, what was lost.

Definitions (all times from kernel stamps outside the gateways; ms after ``t0`` unless said otherwise):

- **handover**: the frames with the host's source MAC address at the switch's ports towards gateways change from one
  gateway to another. Its **t0** is the first such frame at the new gateway, whatever it is: an 802.2 XID frame, a
  neighbour solicitation, a data packet.
- **old flow**: the probes of an address of the host that were under way when it moved: one was sent in either
  direction in the 100 ms before t0.
- ``pbu_ms``: first PBU for this host that leaves the new gateway, whoever it is for: the central database, or an anchor
  (core router's interface towards the gateway).
- ``pba_ms``: the acknowledgement of that PBU (sequence number, peer) arriving there.
- ``ra_new_ms``: first Router Advertisement to the host at the new gateway with a prefix of preferred lifetime > 0.
- ``ra_old_ms``: the first advertisement of each prefix with preferred lifetime 0; the last of these firsts: from then
  on the host has been told of every old prefix.
- ``old_flow_down_ms``: first packet of an old flow to the host at the new gateway. With several old flows the slowest.
- ``old_flow_up_ms``: the first packet of an old flow that the host sent at or after t0 and that came out on a
  correspondent's link, at the moment it did. With several old flows the slowest.
- ``anchor_ms``: at each old anchor, from the first PBU for this host arriving after t0, whoever sent it, to its
  acknowledgement leaving. A delay of the anchor's link is in it, both ways.
- ``lost_down``, ``lost_up``: numbers sent but never delivered, over all flows of the host. Down: sent on the
  correspondent's link, delivered to the host at its own port. Up: the other way round. A loss belongs to the handover
  whose t0 is nearest in time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise
from pathlib import Path

from anchord.lab.probes import Way
from anchord.lab.sightings import PointView, ProbeTrack, Sightings, Signal, read
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate
from anchord.wire.neighbor_options import PrefixInformation

SETTLE_NS = 5_000_000
"""A frame of the host still on its way at the old gateway when it is seen at the new one is no move back."""

UNDER_WAY_NS = 100_000_000

REPOINTED_NS = 250_000_000
"""How long after t0 packets may still use the tunnel of the gateway before: the anchor is being told meanwhile."""

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Handover:
    """One handover; see this module for each number. None: it never happened."""

    host: str
    number: int  # of this host, from 0
    origin: str
    target: str
    t0_ns: int
    old_flows: int  # how many there were
    pbu_ms: float | None
    pba_ms: float | None
    ra_new_ms: float | None
    ra_old_ms: float | None
    old_flow_down_ms: float | None
    old_flow_up_ms: float | None
    anchor_ms: Mapping[str, float]
    lost_down: int
    lost_up: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the captures of one run say.

    ``tunnel_faults`` and ``router_faults`` hold a line for everything that is not as it should be.
    """

    handovers: list[Handover]
    tunnel_packets: int
    tunnel_faults: list[str]
    routers: dict[IPv6Network, tuple[IPv6Address, str]]
    router_faults: list[str]


@dataclass(slots=True)
class _Host:
    name: str
    mac: bytes
    addresses: list[bytes] = field(default_factory=list)  # those that were probed
    stays: list[tuple[int, str]] = field(default_factory=list)  # (from when, gateway)


def analyse(directory: Path) -> Analysis:
    """Analyse a directory of captures; raises CaptureFileError."""
    return evaluate(read(directory))


def evaluate(seen: Sightings) -> Analysis:
    """Analyse what was seen."""
    hosts = _hosts(seen)
    handovers = [handover for host in hosts for handover in _handovers(seen, host)]
    packets, tunnel_faults = _judge_tunnels(seen, hosts)
    routers, router_faults = _judge_routers(seen, hosts)
    handovers.sort(key=lambda handover: handover.t0_ns)
    return Analysis(handovers, packets, tunnel_faults, routers, router_faults)


# Who and where


def _hosts(seen: Sightings) -> list[_Host]:
    hosts = []
    for name, view in sorted(seen.hosts_access.items()):
        # Its own port also sees frames to other hosts, when a bridge floods: the host is in most of them.
        frequency: Counter[bytes] = Counter()
        for (_, _, mac), track in view.probes.items():
            frequency[mac] += len(track.times)
        if not frequency:
            continue
        host = _Host(name, frequency.most_common(1)[0][0])
        host.addresses = sorted({address for address, _, mac in view.probes if mac == host.mac})
        host.stays = _stays(seen, host.mac)
        hosts.append(host)
    return hosts


def _stays(seen: Sightings, mac: bytes) -> list[tuple[int, str]]:
    """Where a host was from when on: its port is on one bridge at a time, so its first frame elsewhere is a move."""
    times = {gateway: view.sources[mac] for gateway, view in seen.gateways_access.items() if mac in view.sources}
    if not times:
        return []
    first, gateway = min((series[0], gateway) for gateway, series in times.items())
    stays = [(first, gateway)]
    while True:
        start = stays[-1][0] + SETTLE_NS
        elsewhere = []
        for other, series in times.items():
            at = bisect_left(series, start)
            if other != stays[-1][1] and at < len(series):
                elsewhere.append((series[at], other))
        if not elsewhere:
            return stays
        stays.append(min(elsewhere))


def _tracks(view: PointView, address: bytes, way: Way, mac: bytes | None = None) -> ProbeTrack:
    """The probes of an address at a point; ``mac`` None: whatever the MAC address (beyond the first router)."""
    if mac is not None:
        return view.probes.get((address, way, mac), ProbeTrack())
    merged = ProbeTrack()
    for (own, direction, _), track in view.probes.items():
        if own == address and direction == way:
            merged.times.extend(track.times)
            merged.numbers.extend(track.numbers)
    return merged


def _gateway_addresses(seen: Sightings) -> dict[str, IPv6Address]:
    """The address of each gateway: in every Mobility Header on its link, and not known to be elsewhere.

    A central database is in all of them too, but on several links. A gateway that talks to another one alone is told
    from it by the order in which their links were passed.
    """
    elsewhere = _elsewhere(seen)
    common: dict[str, set[IPv6Address]] = {}
    for gateway in seen.gateways:
        pairs = [{signal.source, signal.destination} for signal in seen.core[gateway].signals]
        common[gateway] = (set.intersection(*pairs) if pairs else set()) - elsewhere[gateway]
    shared = Counter(address for addresses in common.values() for address in addresses)
    own = {gateway: [a for a in addresses if shared[a] == 1] for gateway, addresses in common.items()}
    return {gateway: addresses[0] for gateway, addresses in own.items() if len(addresses) == 1}


def _elsewhere(seen: Sightings) -> dict[str, set[IPv6Address]]:
    """The addresses that are not at a gateway although its link saw them: a message between two gateways is first on
    its sender's link and last on its receiver's."""
    passed: dict[tuple[IPv6Address, IPv6Address, bytes], list[tuple[int, str]]] = defaultdict(list)
    for gateway in seen.gateways:
        for signal in seen.core[gateway].signals:
            passed[signal.source, signal.destination, signal.octets].append((signal.time_ns, gateway))
    elsewhere: dict[str, set[IPv6Address]] = defaultdict(set)
    for (source, destination, _), links in passed.items():
        (_, first), (_, last) = min(links), max(links)
        if first != last:
            elsewhere[last].add(source)
            elsewhere[first].add(destination)
    return elsewhere


# Handovers


def _handovers(seen: Sightings, host: _Host) -> list[Handover]:
    gateways = _gateway_addresses(seen)
    moves = [(number, origin, target, t0) for number, ((_, origin), (t0, target)) in enumerate(pairwise(host.stays))]
    borders = [(a[3] + b[3]) // 2 for a, b in pairwise(moves)]
    lost = {way: _losses(seen, host, way, borders) for way in Way}
    handovers = []
    for number, origin, target, t0 in moves:
        end = moves[number + 1][3] if number + 1 < len(moves) else t0 + 60_000_000_000
        old = [address for address in host.addresses if _under_way(seen, host, address, t0)]
        pbu, pba = _registration(seen.core[target].signals, gateways.get(target), host.mac, t0, end)
        ra_new, ra_old = _advertised(seen.gateways_access[target], host.mac, t0, end)
        handovers.append(
            Handover(
                host.name,
                number,
                origin,
                target,
                t0,
                len(old),
                _ms(pbu, t0),
                _ms(pba, t0),
                _ms(ra_new, t0),
                _ms(ra_old, t0),
                _slowest(_first_down(seen.gateways_access[target], host.mac, address, t0, end) for address in old),
                _slowest(_first_up(seen, host, address, t0, end) for address in old),
                _anchors_answer(seen, gateways, host.mac, target, (t0, end)),
                lost[Way.DOWN][number],
                lost[Way.UP][number],
            )
        )
    return handovers


def _under_way(seen: Sightings, host: _Host, address: bytes, t0: int) -> bool:
    sent = [_tracks(seen.hosts_access[host.name], address, Way.UP, host.mac)]
    sent += [_tracks(seen.core[node], address, Way.DOWN) for node in seen.correspondents]
    return any(bisect_left(track.times, t0) > bisect_left(track.times, t0 - UNDER_WAY_NS) for track in sent)


def _ms(time_ns: int | None, t0: int) -> float | None:
    return None if time_ns is None else (time_ns - t0) / _NS_PER_MS


def _slowest(values: Iterable[float | None]) -> float | None:
    """The largest, or None if one never came, or there was none to wait for."""
    known = list(values)
    return None if not known or None in known else max(value for value in known if value is not None)


def _registration(
    signals: Iterable[Signal], gateway: IPv6Address | None, mac: bytes, t0: int, end: int
) -> tuple[int | None, int | None]:
    """When the gateway's own PBU left it and when its acknowledgement came back."""
    sent: Signal | None = None
    for signal in signals:
        if not t0 <= signal.time_ns < end:
            continue
        if sent is None:
            # The MN-ID of a host that nobody named is its MAC address (RFC 8371 subtype EUI-48).
            if isinstance(signal.message, BindingUpdate) and signal.source == gateway and mac in signal.octets:
                sent = signal
        elif _acknowledges(signal, sent):
            return sent.time_ns, signal.time_ns
    return (None if sent is None else sent.time_ns), None


def _acknowledges(signal: Signal, update: Signal) -> bool:
    return (
        isinstance(signal.message, BindingAcknowledgement)
        and signal.message.sequence == update.message.sequence
        and signal.source == update.destination
        and signal.destination == update.source
    )


def _anchors_answer(
    seen: Sightings, gateways: Mapping[str, IPv6Address], mac: bytes, target: str, window: tuple[int, int]
) -> dict[str, float]:
    took = {}
    for gateway, address in gateways.items():
        asked: Signal | None = None
        for signal in seen.core[gateway].signals if gateway != target else ():
            if not window[0] <= signal.time_ns < window[1]:
                continue
            if asked is None:
                if isinstance(signal.message, BindingUpdate) and signal.destination == address and mac in signal.octets:
                    asked = signal
            elif _acknowledges(signal, asked):
                took[gateway] = (signal.time_ns - asked.time_ns) / _NS_PER_MS
                break
    return took


def _advertised(view: PointView, mac: bytes, t0: int, end: int) -> tuple[int | None, int | None]:
    new: int | None = None
    old: dict[IPv6Network, int] = {}
    for advertisement in view.advertisements:
        if not t0 <= advertisement.time_ns < end or advertisement.to_mac != mac:
            continue
        for prefix in advertisement.message.all(PrefixInformation):
            if prefix.preferred_s > 0:
                new = advertisement.time_ns if new is None else new
            elif prefix.valid_s > 0:
                old.setdefault(prefix.prefix, advertisement.time_ns)
    return new, max(old.values(), default=None)


def _first_down(view: PointView, mac: bytes, address: bytes, t0: int, end: int) -> float | None:
    times = _tracks(view, address, Way.DOWN, mac).times
    at = bisect_left(times, t0)
    return _ms(times[at], t0) if at < len(times) and times[at] < end else None


def _first_up(seen: Sightings, host: _Host, address: bytes, t0: int, end: int) -> float | None:
    sent = _tracks(seen.hosts_access[host.name], address, Way.UP, host.mac)
    at = bisect_left(sent.times, t0)
    if at == len(sent.times):
        return None
    first = sent.numbers[at]
    arrivals = (
        time_ns
        for node in seen.correspondents
        for track in [_tracks(seen.core[node], address, Way.UP)]
        for time_ns, number in zip(track.times, track.numbers, strict=True)
        if number >= first and time_ns < end
    )
    return _ms(min(arrivals, default=None), t0)


def _losses(seen: Sightings, host: _Host, way: Way, borders: list[int]) -> Counter[int]:
    """How many probes were lost, by the number of the nearest handover."""
    lost: Counter[int] = Counter()
    for address in host.addresses:
        near = _tracks(seen.hosts_access[host.name], address, way, host.mac)
        far = [_tracks(seen.core[node], address, way) for node in seen.correspondents]
        sent, delivered = ([near], far) if way is Way.UP else (far, [near])
        arrived = set().union(*(track.numbers for track in delivered))
        for track in sent:
            for time_ns, number in zip(track.times, track.numbers, strict=True):
                if number not in arrived:
                    lost[bisect_right(borders, time_ns)] += 1
    return lost


# Verdicts


def _judge_tunnels(seen: Sightings, hosts: list[_Host]) -> tuple[int, list[str]]:
    """Every encapsulated packet: plain, between the address's anchor and the gateway where the host was then."""
    faults = [
        f"{count} packets with {what} on the link of {node}"
        for node, view in seen.core.items()
        for what, count in sorted(view.odd.items())
    ]
    names = {address: gateway for gateway, address in _gateway_addresses(seen).items()}
    anchors = _anchors(seen)
    owners = {IPv6Address(address): host for host in hosts for address in host.addresses}
    packets = 0
    for node in seen.gateways:
        for tunnel, times in seen.core[node].tunnels.items():
            packets += len(times)
            inner = tunnel.source if tunnel.source in owners else tunnel.destination
            if inner not in owners:
                continue
            ends = {names.get(tunnel.entrance, str(tunnel.entrance)), names.get(tunnel.exit, str(tunnel.exit))}
            anchor = anchors.get(inner)
            for gateway, count in _misdirected(times, owners[inner].stays, ends, anchor):
                faults.append(
                    f"{count} packets of {inner} (anchor {anchor or 'unknown'}) between {' and '.join(sorted(ends))}"
                    f" when the host was at {gateway}"
                )
    for address in sorted(owners):
        if len(_plain_at(seen, address)) > 1:
            faults.append(f"{address} ran outside tunnels on the links of {', '.join(_plain_at(seen, address))}")
    return packets, faults


def _misdirected(
    times: array[int], stays: list[tuple[int, str]], ends: set[str], anchor: str | None
) -> list[tuple[str, int]]:
    """How many packets used a tunnel other than (anchor, current gateway), by where the host was."""
    wrong = []
    for number, (since, gateway) in enumerate(stays):
        start = bisect_left(times, since) if number else 0
        end = bisect_left(times, stays[number + 1][0]) if number + 1 < len(stays) else len(times)
        if ends == {anchor, gateway}:
            continue
        if number and ends == {anchor, stays[number - 1][1]}:
            start = bisect_left(times, since + REPOINTED_NS)
        if end > start:
            wrong.append((gateway, end - start))
    return wrong


def _anchors(seen: Sightings) -> dict[IPv6Address, str]:
    """The anchor of each probed address: the only gateway on whose core link its packets run outside tunnels."""
    addresses = {IPv6Address(key[0]) for node in seen.gateways for key in seen.core[node].probes}
    anchors = {address: _plain_at(seen, address) for address in addresses}
    return {address: gateways[0] for address, gateways in anchors.items() if len(gateways) == 1}


def _plain_at(seen: Sightings, address: IPv6Address) -> list[str]:
    return [node for node in seen.gateways if any(key[0] == address.packed for key in seen.core[node].probes)]


def _judge_routers(seen: Sightings, hosts: list[_Host]) -> tuple[dict[IPv6Network, tuple[IPv6Address, str]], list[str]]:
    """Each prefix of a host is advertised by one router, with one MAC and one link-local address, wherever it is."""
    faces: dict[IPv6Network, Counter[tuple[IPv6Address, str]]] = defaultdict(Counter)
    macs = {host.mac for host in hosts}
    for view in seen.gateways_access.values():
        for advertisement in view.advertisements:
            if advertisement.to_mac not in macs:
                continue
            for prefix in advertisement.message.all(PrefixInformation):
                faces[prefix.prefix][advertisement.router, advertisement.router_mac.hex(":")] += 1
    routers = {prefix: seen_as.most_common(1)[0][0] for prefix, seen_as in sorted(faces.items())}
    faults = [
        f"{prefix} was advertised by {len(seen_as)} routers: {', '.join(f'{a} {m}' for a, m in sorted(seen_as))}"
        for prefix, seen_as in sorted(faces.items())
        if len(seen_as) > 1
    ]
    return routers, faults
