"""Capture files: written and read back, read from other writers, and any bytes."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchord.wire.errors import WireError
from anchord.wire.pcap import LINKTYPE_ETHERNET, LINKTYPE_IPV6, LONGEST_RECORD, PcapWriter, read_pcap

TIME_NS = 1_700_000_000_123_456_789
records = st.tuples(st.integers(0, (1 << 32) * 1_000_000_000 - 1), st.binary(max_size=200), st.integers(0, 2**32 - 1))


@given(st.lists(records, max_size=5), st.sampled_from((1, 101, 229)))
def test_what_is_written_is_read_back(packets: list[tuple[int, bytes, int]], linktype: int) -> None:
    file = BytesIO()
    writer = PcapWriter(file, linktype)
    for packet in packets:
        writer.write(*packet)
    file.seek(0)
    reader = read_pcap(file)
    assert list(reader) == packets
    assert reader.linktype == linktype


def test_packets_are_cut_to_the_snapshot_length() -> None:
    file = BytesIO()
    writer = PcapWriter(file, LINKTYPE_ETHERNET, snaplen=4)
    writer.write(TIME_NS, b"123456")
    writer.write(TIME_NS, b"12")
    file.seek(0)
    reader = read_pcap(file)
    assert reader.snaplen == 4
    assert list(reader) == [(TIME_NS, b"1234", 6), (TIME_NS, b"12", 2)]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "fraction"), [(0xA1B2C3D4, 123_456), (0xA1B23C4D, 123_456_000)])
def test_files_of_either_byte_order_and_precision_are_read(order: str, magic: int, fraction: int) -> None:
    # The two highest bits of the link type: a frame check sequence of 4 octets, which is not part of the type.
    header = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65_535, 0x4400_0000 | LINKTYPE_IPV6)
    record = struct.pack(order + "IIII", 1_700_000_000, fraction, 3, 60) + b"abc"
    reader = read_pcap(BytesIO(header + record))
    assert list(reader) == [(1_700_000_000_123_456_000, b"abc", 60)]
    assert reader.linktype == LINKTYPE_IPV6


def written(count: int) -> bytes:
    file = BytesIO()
    writer = PcapWriter(file)
    for _ in range(count):
        writer.write(TIME_NS, b"packet")
    return file.getvalue()


@pytest.mark.parametrize("lost", [1, 5, 6, 7, 21])
def test_a_file_cut_short_gives_its_whole_packets_first(lost: int) -> None:
    reader = iter(read_pcap(BytesIO(written(2)[:-lost])))
    assert next(reader) == (TIME_NS, b"packet", 6)
    with pytest.raises(WireError) as caught:
        next(reader)
    assert caught.value.cause == "truncated"


def test_an_impossible_length_is_refused_before_it_is_read() -> None:
    record = struct.pack("=IIII", 0, 0, LONGEST_RECORD + 1, 60)
    with pytest.raises(WireError) as caught:
        list(read_pcap(BytesIO(written(0) + record)))
    assert caught.value.cause == "pcap-format"


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda noise: written(1) + noise)))
def test_any_bytes_give_packets_or_one_wire_error(data: bytes) -> None:
    try:
        for _time_ns, packet, _length in read_pcap(BytesIO(data)):
            assert len(packet) <= LONGEST_RECORD
    except WireError as problem:
        assert problem.cause in {"pcap-format", "truncated"}
