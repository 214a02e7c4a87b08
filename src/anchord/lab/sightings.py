"""What the captures of a lab show, before any judgement: who was seen where, and when.

A directory of captures holds one pcap file for each point (:meth:`anchord.lab.domain.Domain.points`): ``access-gw1``
is the access switch's port towards gateway gw1, ``access-mn1`` that towards host mn1, ``core-gw1`` the core router's
interface towards gw1, ``core-cn1`` towards a correspondent. Nothing else is needed, and no point lies inside a gateway.

All times are the kernel's stamps, in ns of CLOCK_REALTIME.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

from anchord.lab import probes
from anchord.lab.probes import Way
from anchord.wire import header, neighbor
from anchord.wire.errors import WireError
from anchord.wire.frames import parse_frame
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate
from anchord.wire.neighbor import RouterAdvertisement
from anchord.wire.pcap import read_pcap

_IPV6 = b"\x86\xdd"
_ETHERNET = 14
_HEADER = 40
_UDP = 17
_IN_IPV6 = 41
_ROUTING = 43
_ICMPV6 = 58
_MOBILITY = 135
_MULTICAST_BIT = 1

_PROBE = struct.Struct("!4sB3xQ")
_PROBE_AT = _ETHERNET + _HEADER + 8


class CaptureFileError(Exception):
    """A directory of captures lacks something, or a file in it is damaged."""


@dataclass(slots=True)
class ProbeTrack:
    """The probes of one address in one direction at one point, in the order of the capture."""

    times: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, time_ns: int, number: int) -> None:
        """Append one probe."""
        self.times.append(time_ns)
        self.numbers.append(number)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One direction of one inner conversation in one tunnel."""

    entrance: IPv6Address
    exit: IPv6Address
    source: IPv6Address  # of the inner packet
    destination: IPv6Address


@dataclass(frozen=True, slots=True)
class Signal:
    """A PBU or PBA. ``octets`` is the whole Mobility Header, to look for an identifier in."""

    time_ns: int
    source: IPv6Address
    destination: IPv6Address
    message: BindingUpdate | BindingAcknowledgement
    octets: bytes


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A Router Advertisement, with the router's two addresses and the frame's destination."""

    time_ns: int
    router_mac: bytes
    router: IPv6Address
    to_mac: bytes
    message: RouterAdvertisement


@dataclass(slots=True)
class PointView:
    """What one point saw.

    ``sources``: for every unicast source MAC address the times of its frames (kept at access points only).
    ``probes``: plain probes by (host address, way, MAC address of the frame's host side).
    ``tunnels``: the times of encapsulated packets. ``odd``: encapsulated packets that are not plain IPv6-in-IPv6.
    """

    frames: int = 0
    sources: dict[bytes, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    probes: dict[tuple[bytes, Way, bytes], ProbeTrack] = field(default_factory=lambda: defaultdict(ProbeTrack))
    tunnels: dict[Tunnel, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    odd: Counter[str] = field(default_factory=Counter)
    signals: list[Signal] = field(default_factory=list)
    advertisements: list[Advertisement] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sightings:
    """Everything seen, by point; the keys of the three maps are the names of nodes."""

    gateways_access: dict[str, PointView]
    hosts_access: dict[str, PointView]
    core: dict[str, PointView]

    @property
    def gateways(self) -> list[str]:
        """The gateways, in the order of their names."""
        return sorted(self.gateways_access)

    @property
    def correspondents(self) -> list[str]:
        """The nodes beyond the core that probes were seen on the way to."""
        return sorted(node for node, view in self.core.items() if node not in self.gateways_access and view.probes)


def read(directory: Path) -> Sightings:
    """Read the captures in a directory; raises CaptureFileError."""
    files = {path.stem: path for path in sorted(directory.glob("*.pcap"))}
    core = {name.removeprefix("core-"): path for name, path in files.items() if name.startswith("core-")}
    access = {name.removeprefix("access-"): path for name, path in files.items() if name.startswith("access-")}
    gateways = [name for name in access if name in core]
    if not gateways:
        raise CaptureFileError(f"{directory}: no captures, expected access-GW.pcap and core-GW.pcap of each gateway")
    return Sightings(
        {name: read_point(access[name], access=True) for name in gateways},
        {name: read_point(path, access=True) for name, path in access.items() if name not in core},
        {name: read_point(path, access=False) for name, path in core.items()},
    )


def read_point(path: Path, access: bool) -> PointView:
    """Read the capture of one point; ``access``: of the access side. Raises CaptureFileError."""
    view = PointView()
    sources, tracks = view.sources, view.probes
    try:
        with path.open("rb", buffering=1 << 20) as file:
            for time_ns, frame, _ in read_pcap(file):
                view.frames += 1
                if access and not frame[6] & _MULTICAST_BIT:
                    sources[frame[6:12]].append(time_ns)
                if frame[12:14] != _IPV6 or len(frame) < _ETHERNET + _HEADER:
                    continue
                kind = frame[20]
                if kind == _UDP:
                    if (probe := _probe(frame)) is not None:
                        tracks[probe[0], probe[1], probe[2]].add(time_ns, probe[3])
                elif kind == _ICMPV6:
                    if access:
                        _read_advertisement(view, time_ns, frame)
                elif kind == _MOBILITY:
                    _read_signal(view, time_ns, frame)
                elif kind in (_IN_IPV6, _ROUTING):
                    _read_tunnel(view, time_ns, frame)
    except (OSError, WireError) as error:
        raise CaptureFileError(f"{path}: {error}") from error
    return view


def _probe(frame: bytes) -> tuple[bytes, Way, bytes, int] | None:
    """Host address, way, MAC address on the host's side of the frame, number."""
    if len(frame) < _PROBE_AT + _PROBE.size:
        return None
    magic, way, number = _PROBE.unpack_from(frame, _PROBE_AT)
    if magic != probes.MAGIC:
        return None
    if way == Way.UP:
        return frame[22:38], Way.UP, frame[6:12], number
    return frame[38:54], Way.DOWN, frame[0:6], number


def _read_advertisement(view: PointView, time_ns: int, frame: bytes) -> None:
    parsed = parse_frame(frame)
    try:
        message = neighbor.received(parsed)
    except WireError:
        return
    if isinstance(message, RouterAdvertisement) and parsed.source is not None:
        view.advertisements.append(
            Advertisement(time_ns, parsed.source_mac, parsed.source, parsed.destination_mac, message)
        )


def _read_signal(view: PointView, time_ns: int, frame: bytes) -> None:
    octets = frame[_ETHERNET + _HEADER :]
    try:
        message = header.decode(octets)
    except WireError:
        return
    if isinstance(message, BindingUpdate | BindingAcknowledgement):
        view.signals.append(Signal(time_ns, IPv6Address(frame[22:38]), IPv6Address(frame[38:54]), message, octets))


def _read_tunnel(view: PointView, time_ns: int, frame: bytes) -> None:
    if frame[20] == _ROUTING:
        view.odd["a routing header"] += 1
        return
    inner = frame[_ETHERNET + _HEADER :]
    if len(inner) < _HEADER or inner[0] >> 4 != 6:
        view.odd["no IPv6 packet inside"] += 1
        return
    if inner[6] == _IN_IPV6:
        view.odd["a tunnel in a tunnel"] += 1
        return
    tunnel = Tunnel(*(IPv6Address(octets) for octets in (frame[22:38], frame[38:54], inner[8:24], inner[24:40])))
    view.tunnels[tunnel].append(time_ns)
