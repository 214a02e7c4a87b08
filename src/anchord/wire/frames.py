"""Ethernet frames: what carries Neighbor Discovery, and the frame an access point announces a station with.

``parse_frame`` takes any bytes and never raises: it is the first thing that looks at what an unknown host sent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

from anchord.wire.checksum import ICMPV6

ETHERTYPE_IPV6 = 0x86DD  # RFC 2464 section 3
BROADCAST = b"\xff" * 6
ND_HOP_LIMIT = 255  # RFC 4861 section 3.1: proof that no router forwarded the packet

_ETHERNET = struct.Struct("!6s6sH")  # destination, source, EtherType or (IEEE 802.3) length
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200 section 3
_LONGEST_PAYLOAD = 0xFFFF
_LEAST_ETHERTYPE = 0x600  # below it the field is the length of an LLC frame (IEEE 802.3 clause 3.2.6)

# IEEE 802.2 section 5.4.1.2.1: an XID response (control 1111F101, F = 0) from the null LSAP to the null LSAP, saying
# "Type 1 LLC, receive window 0". Bridges learn from its source address where the station is now.
_LAYER_2_UPDATE = bytes((0x00, 0x01, 0xAF, 0x81, 0x01, 0x00))
_XID = (0xAF, 0xBF, 0xF5)  # XID with F = 0 and 1, and with its bits reversed: as the BSD access points send it


@dataclass(frozen=True, slots=True)
class Frame:
    """What can be told about an Ethernet frame; a field is None where the frame does not get that far.

    Both MAC addresses are empty if the frame is shorter than an Ethernet header. ``ethertype`` is None and ``llc`` the
    LLC octets for an IEEE 802.3 frame. ``icmpv6`` is the whole ICMPv6 message, directly behind the IPv6 header: none
    behind extension headers or in a packet shorter than its header says.
    """

    destination_mac: bytes
    source_mac: bytes
    ethertype: int | None = None
    llc: bytes | None = None
    source: IPv6Address | None = None
    destination: IPv6Address | None = None
    hop_limit: int | None = None
    icmpv6: bytes | None = None


def parse_frame(frame: bytes) -> Frame:
    """Return what can be told about ``frame``, whatever it is."""
    if len(frame) < _ETHERNET.size:
        return Frame(b"", b"")
    destination_mac, source_mac, ethertype = _ETHERNET.unpack_from(frame)
    payload = frame[_ETHERNET.size :]
    if ethertype < _LEAST_ETHERTYPE:
        return Frame(destination_mac, source_mac, llc=payload[:ethertype])  # cuts the padding to 60 octets
    if ethertype != ETHERTYPE_IPV6 or len(payload) < _IPV6.size or payload[0] >> 4 != 6:
        return Frame(destination_mac, source_mac, ethertype)
    _, length, next_header, hop_limit, source, destination = _IPV6.unpack_from(payload)
    body = payload[_IPV6.size : _IPV6.size + length]
    return Frame(
        destination_mac,
        source_mac,
        ethertype,
        source=IPv6Address(source),
        destination=IPv6Address(destination),
        hop_limit=hop_limit,
        icmpv6=body if next_header == ICMPV6 and len(body) == length else None,
    )


def ethernet_frame(
    destination_mac: bytes, source_mac: bytes, source: IPv6Address, destination: IPv6Address, icmpv6: bytes
) -> bytes:
    """Return an Ethernet frame with an IPv6 packet, hop limit 255, that carries the ICMPv6 message ``icmpv6``.

    The MAC address need not belong to the IPv6 destination: a multicast advertisement may be sent to one host
    (RFC 6085). Raises ValueError if a MAC address has not 6 octets, or for more than 65,535 octets of message.
    """
    if len(icmpv6) > _LONGEST_PAYLOAD:
        raise ValueError(f"{len(icmpv6)} octets do not fit in an IPv6 packet")
    header = _IPV6.pack(6 << 28, len(icmpv6), ICMPV6, ND_HOP_LIMIT, source.packed, destination.packed)
    return _mac(destination_mac) + _mac(source_mac) + ETHERTYPE_IPV6.to_bytes(2, "big") + header + icmpv6


def layer2_update_frame(mac: bytes) -> bytes:
    """Return the 802.2 XID "Layer 2 Update" that an access point broadcasts when station ``mac`` has associated.

    The form that hostapd and Linux (cfg80211) send in the station's name, after IEEE 802.11F.
    """
    return BROADCAST + _mac(mac) + len(_LAYER_2_UPDATE).to_bytes(2, "big") + _LAYER_2_UPDATE


def is_layer2_update(frame: Frame) -> bool:
    """Tell whether ``frame`` is a Layer 2 Update: ``frame.source_mac`` is a station that has just been attached.

    The size of the receive window in it differs between access points, as does the response bit of the SSAP.
    """
    llc = frame.llc
    if llc is None or len(llc) < 3 or frame.destination_mac != BROADCAST:
        return False
    return llc[0] == 0 and llc[1] in (0, 1) and llc[2] in _XID


def eui64_link_local(mac: bytes) -> IPv6Address:
    """Return the link-local address with the modified EUI-64 of ``mac`` (RFC 4291 section 2.5.6 and appendix A)."""
    mac = _mac(mac)
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:])


def _mac(mac: bytes) -> bytes:
    if len(mac) != 6:
        raise ValueError(f"a MAC address has 6 octets, not {len(mac)}")
    return mac
