"""scapy as a second reader: it computes the checksum, and reads the frame of each message and of each option.

It has classes for Binding Update, Acknowledgement and Error; of any other message it sees the header alone. The D flags
are reserved bits to it, and options from 22 on a type, a length and octets.
"""

from __future__ import annotations

import warnings
from ipaddress import IPv6Address
from typing import Any

from wire_walk import walk

from anchord.wire.messages import BindingAcknowledgement, BindingError, BindingUpdate, Message

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers import inet6 as scapy

_LONGEST = 1400
"""Octets of Mobility Header: scapy does not look into longer ones."""


def scapy_checksum(data: bytes, source: IPv6Address, destination: IPv6Address) -> int:
    """The checksum of a Mobility Header as scapy computes it."""
    pseudo_header = scapy.IPv6(src=str(source), dst=str(destination))
    return int(scapy.in6_chksum(135, pseudo_header, data[:4] + b"\0\0" + data[6:]))  # type: ignore[no-untyped-call]


def scapy_reads(packet: bytes, message: Message) -> None:
    """Assert that scapy finds in an IPv6 packet what ``message`` says, as far as it looks, and its checksum right."""
    data = packet[40:]
    parsed: Any = scapy.IPv6(packet)
    source, destination = IPv6Address(parsed.src), IPv6Address(parsed.dst)
    assert parsed.nh == 135 and parsed.plen == len(data)
    if len(data) > _LONGEST:
        assert scapy_checksum(data, source, destination) == int.from_bytes(data[4:6], "big"), message
        return
    seen = parsed.payload
    assert (seen.nh, seen.len, seen.mhtype, seen.res) == (59, len(data) // 8 - 1, data[2], 0)
    match message:
        case BindingUpdate(sequence, lifetime_s, flags):
            assert (seen.seq, seen.mhtime) == (sequence, lifetime_s // 4)
            assert (int(seen.flags) << 9) + seen.reserved == flags
        case BindingAcknowledgement(status, sequence, lifetime_s, flags):
            assert (seen.status, seen.seq, seen.mhtime) == (status, sequence, lifetime_s // 4)
            assert (int(seen.flags) << 5) + seen.res2 == flags
        case BindingError(status, home_address):
            assert (seen.status, IPv6Address(seen.ha), seen.reserved) == (status, home_address, 0)
    if isinstance(message, BindingUpdate | BindingAcknowledgement | BindingError):
        theirs = [(option.fields.get("otype", 0), bytes(option)) for option in seen.options]
        ours = [(kind, data[at : at + (1 if octets is None else 2 + len(octets))]) for at, kind, octets in walk(data)]
        assert theirs == ours
    seen.cksum = None  # it computes the checksum when it builds the packet again
    assert bytes(parsed) == packet, message
