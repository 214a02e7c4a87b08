"""Capture files in the classic pcap format (draft-ietf-opsawg-pcap), with times in nanoseconds.

Written in this machine's byte order with nanosecond times; read in either order, with micro- or nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from anchord.wire.errors import WireError

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101  # IPv4 or IPv6, told apart by the version
LINKTYPE_IPV6 = 229

LONGEST_RECORD = 262_144
"""Octets: the largest snapshot length in use (MAXIMUM_SNAPLEN of libpcap); a longer record is garbage."""

_NS_PER_S = 1_000_000_000
_MAGIC_NS = 0xA1B23C4D
_MAGIC_US = 0xA1B2C3D4
_HEADER = "IHHiIII"  # magic, version 2.4, time zone 0, accuracy 0, snapshot length, link type
_RECORD = "IIII"  # seconds, fraction, octets here, octets on the wire


class PcapWriter:
    """Writes packets to a binary file, which stays the caller's to flush and close.

    ``snaplen``: how many octets of each packet to keep at most. Raises OSError as the file does.
    """

    def __init__(self, file: BinaryIO, linktype: int = LINKTYPE_ETHERNET, snaplen: int = LONGEST_RECORD) -> None:
        self._file = file
        self._snaplen = snaplen
        self._record = struct.Struct("=" + _RECORD)
        file.write(struct.pack("=" + _HEADER, _MAGIC_NS, 2, 4, 0, 0, snaplen, linktype))

    def write(self, time_ns: int, data: bytes, original_length: int | None = None) -> None:
        """Append one packet seen ``time_ns`` nanoseconds after 1970 (UTC; before 2106).

        ``original_length``: its octets on the wire, if ``data`` is not all of them.
        """
        seconds, nanoseconds = divmod(time_ns, _NS_PER_S)
        kept = data[: self._snaplen]
        length = len(data) if original_length is None else original_length
        self._file.write(self._record.pack(seconds, nanoseconds, len(kept), length) + kept)


class PcapReader:
    """Iterates over a capture file: (time in ns since 1970, octets, length on the wire) for each packet.

    Raises WireError ("pcap-format") if this is no pcap file, and ("truncated") after the last whole packet of one that
    ends inside a packet, as that of a killed capture program may.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        header = file.read(struct.calcsize("=" + _HEADER))
        for order in "<>":
            magic = struct.unpack_from(order + "I", header.ljust(4, b"\0"))[0]
            if magic in (_MAGIC_NS, _MAGIC_US) and len(header) == struct.calcsize("=" + _HEADER):
                break
        else:
            raise WireError("pcap-format", "not a pcap file")
        self.snaplen, linktype = struct.unpack_from(order + "II", header, 16)
        self.linktype = linktype & 0xFFFF  # above it: length of a frame check sequence, if any
        self._record = struct.Struct(order + _RECORD)
        self._ns = 1 if magic == _MAGIC_NS else 1000

    def __iter__(self) -> Iterator[tuple[int, bytes, int]]:
        while header := self._file.read(self._record.size):
            if len(header) < self._record.size:
                raise WireError("truncated", "the file ends inside the header of a packet")
            seconds, fraction, kept, length = self._record.unpack(header)
            if kept > LONGEST_RECORD:
                raise WireError("pcap-format", f"a packet of {kept} octets")
            data = self._file.read(kept)
            if len(data) < kept:
                raise WireError("truncated", "the file ends inside a packet")
            yield seconds * _NS_PER_S + fraction * self._ns, data, length


def read_pcap(file: BinaryIO) -> PcapReader:
    """Return an iterable over the packets in ``file``; its ``linktype`` says what they begin with."""
    return PcapReader(file)
