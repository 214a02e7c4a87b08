"""A handover that never happened: captures of it, frame by frame, with times that are known exactly.

One host, ``mn1``, moves from gw1 to gw2. Its address from gw1 has 1 kHz of probes each way, from a second before the
move to a second after it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

from anchord.lab import probes
from anchord.lab.probes import Way
from anchord.wire import header, neighbor
from anchord.wire.frames import ethernet_frame, eui64_link_local, layer2_update_frame
from anchord.wire.messages import BindingAckFlag, BindingAcknowledgement, BindingUpdate, BindingUpdateFlag
from anchord.wire.neighbor import RouterAdvertisement
from anchord.wire.neighbor_options import PrefixInformation
from anchord.wire.options import MnIdSubtype, MobileNodeIdentifier
from anchord.wire.pcap import PcapWriter

HOST_MAC = bytes.fromhex("0a0000000001")
ROUTER1_MAC = bytes.fromhex("020000000101")
ROUTER2_MAC = bytes.fromhex("020000000202")
CORE_MAC = bytes.fromhex("0600000000ff")
PREFIX1, PREFIX2 = IPv6Network("2001:db8:a1:1::/64"), IPv6Network("2001:db8:a2:1::/64")
ADDRESS1 = PREFIX1[7]
GW1, GW2, CMD = (IPv6Address(f"2001:db8:{net}::1") for net in ("f1", "f2", "fc"))
CN1 = IPv6Address("2001:db8:c1::1")
ALL_NODES = IPv6Address("ff02::1")

UDP, IN_IPV6, MOBILITY = 17, 41, 135
START_NS = 1_800_000_000_000_000_000


def packet(source: IPv6Address, destination: IPv6Address, kind: int, body: bytes) -> bytes:
    """An IPv6 packet."""
    return (
        (6 << 28).to_bytes(4, "big")
        + len(body).to_bytes(2, "big")
        + bytes((kind, 64))
        + source.packed
        + destination.packed
        + body
    )


def frame(source_mac: bytes, destination_mac: bytes, content: bytes) -> bytes:
    """An Ethernet frame around an IPv6 packet."""
    return destination_mac + source_mac + b"\x86\xdd" + content


def probe_packet(way: Way, number: int, address: IPv6Address = ADDRESS1) -> bytes:
    """A probe of the host's address; checksum zero, which nobody verifies."""
    payload = probes.build(way, number, 0)
    datagram = probes.PORT.to_bytes(2, "big") * 2 + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    ends = (address, CN1) if way is Way.UP else (CN1, address)
    return packet(*ends, UDP, datagram)


def advertisement(router_mac: bytes, prefix: IPv6Network, preferred_s: int) -> bytes:
    """What a gateway sends to the host, and to it alone."""
    message = RouterAdvertisement(
        router_lifetime_s=600, options=(PrefixInformation(prefix, False, True, 600, preferred_s),)
    )
    source = eui64_link_local(router_mac)
    return ethernet_frame(HOST_MAC, router_mac, source, ALL_NODES, neighbor.encode(message, source, ALL_NODES))


def update(source: IPv6Address, destination: IPv6Address, sequence: int, mac: bytes = HOST_MAC) -> bytes:
    """A PBU for the host."""
    flags = BindingUpdateFlag.ACKNOWLEDGE | BindingUpdateFlag.PROXY | BindingUpdateFlag.DISTRIBUTED
    message = BindingUpdate(sequence, 600, flags, (MobileNodeIdentifier(MnIdSubtype.EUI48, mac),))
    return frame(CORE_MAC, CORE_MAC, packet(source, destination, MOBILITY, header.encode(message, source, destination)))


def acknowledgement(source: IPv6Address, destination: IPv6Address, sequence: int) -> bytes:
    """A PBA that accepts."""
    flags = BindingAckFlag.PROXY | BindingAckFlag.DISTRIBUTED
    message = BindingAcknowledgement(0, sequence, 600, flags, (MobileNodeIdentifier(MnIdSubtype.EUI48, HOST_MAC),))
    return frame(CORE_MAC, CORE_MAC, packet(source, destination, MOBILITY, header.encode(message, source, destination)))


def tunnelled(entrance: IPv6Address, exit_: IPv6Address, inner: bytes, kind: int = IN_IPV6) -> bytes:
    """A packet in a tunnel between two gateways."""
    return frame(CORE_MAC, CORE_MAC, packet(entrance, exit_, kind, inner))


@dataclass
class Captures:
    """Frames by point, with times in ms from the beginning; :meth:`write` makes the pcap files."""

    points: dict[str, list[tuple[float, bytes]]] = field(default_factory=lambda: defaultdict(list))

    def at(self, time_ms: float, seen: bytes, *points: str) -> None:
        """A frame is seen at some points."""
        for point in points:
            self.points[point].append((time_ms, seen))

    def up(self, time_ms: float, number: int, gateway: str, arrives: bool = True) -> None:
        """A probe from the host, by way of the gateway where it is."""
        content = probe_packet(Way.UP, number)
        self.at(time_ms, frame(HOST_MAC, ROUTER1_MAC, content), "access-mn1", f"access-{gateway}")
        if not arrives:
            return
        if gateway == "gw2":
            self.at(time_ms + 0.01, tunnelled(GW2, GW1, content), "core-gw2", "core-gw1")
        self.at(time_ms + 0.02, frame(CORE_MAC, CORE_MAC, content), "core-gw1")
        self.at(time_ms + 0.03, frame(CORE_MAC, CORE_MAC, content), "core-cn1")

    def down(self, time_ms: float, number: int, gateway: str, arrives: bool = True) -> None:
        """A probe to the host."""
        content = probe_packet(Way.DOWN, number)
        self.at(time_ms, frame(CORE_MAC, CORE_MAC, content), "core-cn1", "core-gw1")
        if not arrives:
            return
        if gateway == "gw2":
            self.at(time_ms + 0.01, tunnelled(GW1, GW2, content), "core-gw1", "core-gw2")
        self.at(time_ms + 0.02, frame(ROUTER1_MAC, HOST_MAC, content), f"access-{gateway}", "access-mn1")

    def write(self, directory: Path) -> Path:
        """One pcap file for each point, in the order of time."""
        directory.mkdir(exist_ok=True)
        for point, frames in self.points.items():
            with (directory / f"{point}.pcap").open("wb") as file:
                writer = PcapWriter(file)
                for time_ms, seen in sorted(frames, key=lambda entry: entry[0]):
                    writer.write(START_NS + round(time_ms * 1e6), seen)
        return directory


def handover() -> Captures:
    """The host leaves gw1 after 1000 ms; its first frame at gw2 comes at 1000.5 ms.

    Three probes are lost on the way up (1000, 1001, 1002) and four on the way down (1000 to 1003).
    """
    seen = Captures()
    seen.at(1.0, update(GW1, CMD, 1), "core-gw1")
    seen.at(2.0, acknowledgement(CMD, GW1, 1), "core-gw1")
    seen.at(3.0, advertisement(ROUTER1_MAC, PREFIX1, 300), "access-gw1", "access-mn1")
    for number in range(10, 1000):
        seen.up(number, number, "gw1")
        seen.down(number + 0.2, number, "gw1")
    t0 = 1000.5
    seen.at(t0, layer2_update_frame(HOST_MAC), "access-gw2")
    seen.at(t0 + 0.4, update(GW2, CMD, 8, mac=bytes(6)), "core-gw2")  # of some other host
    seen.at(t0 + 0.5, update(GW2, CMD, 9), "core-gw2")
    seen.at(t0 + 0.7, acknowledgement(CMD, GW2, 8), "core-gw2")
    seen.at(t0 + 0.75, acknowledgement(CMD, GW2, 9), "core-gw2")
    seen.at(t0 + 0.8, update(CMD, GW1, 4), "core-gw1")
    seen.at(t0 + 1.55, acknowledgement(GW1, CMD, 4), "core-gw1")
    seen.at(t0 + 1.25, advertisement(ROUTER2_MAC, PREFIX2, 300), "access-gw2", "access-mn1")
    seen.at(t0 + 1.5, advertisement(ROUTER1_MAC, PREFIX1, 0), "access-gw2", "access-mn1")
    for number in range(1000, 2000):
        seen.up(number, number, "gw1" if number == 1000 else "gw2", arrives=number >= 1003)
        seen.down(number + 0.2, number, "gw1" if number == 1000 else "gw2", arrives=number >= 1004)
    return seen


def direct_handover() -> Captures:
    """The same without a central database: gw2 asks the anchor itself, and nobody else says anything. Links have a
    delay, so that every message is on its sender's link a while before it is on its receiver's."""
    seen = handover()
    for point, frames in seen.points.items():
        seen.points[point] = [(time_ms, content) for time_ms, content in frames if not _is_signal(content)]
    t0 = 1000.5
    for sequence, mac, began in ((8, bytes(6), t0 + 0.3), (9, HOST_MAC, t0 + 0.5)):
        asked, answered = update(GW2, GW1, sequence, mac), acknowledgement(GW1, GW2, sequence)
        seen.at(began, asked, "core-gw2")
        seen.at(began + 0.2, asked, "core-gw1")
        seen.at(began + 0.3, answered, "core-gw1")
        seen.at(began + 0.5, answered, "core-gw2")
    return seen


def _is_signal(content: bytes) -> bool:
    return content[12:14] == b"\x86\xdd" and content[20] == MOBILITY
