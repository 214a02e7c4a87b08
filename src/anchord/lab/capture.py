"""Captures taken outside the gateways: kernel stamps, no loss, hardly any cost.

A measurement must not disturb what it measures, and the lab shares two processors with the daemons. So frames are not
read one by one: every point has a ring that the kernel fills (AF_PACKET, TPACKET_V3), and this process only copies
whole blocks of it to a file, a few times a second. The blocks become pcap files after the capture has ended.

Each frame carries the kernel's time stamp: SO_TIMESTAMPNS makes the kernel stamp frames where they enter or leave the
device, and the ring hands the stamp over in nanoseconds of CLOCK_REALTIME. Frames are cut: signalling (ICMPv6 and
Mobility Header) is kept whole, of everything else only the headers and the 64 bytes of the UDP probes.

A frame that found the ring full is counted by the kernel. One such frame makes a measurement invalid: see
:attr:`PointResult.dropped`.

Run as ``python -m anchord.lab.capture``: the first line of standard input is the order (JSON: ``directory``,
``points`` with namespace and interface of each), the answer ``{"ready": true}`` says that all points are open; the end
of standard input ends the capture, and the last line of output holds what was caught at each point.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from anchord.lab.errors import LabError
from anchord.lab.namespaces import inside
from anchord.wire.pcap import PcapWriter

# linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 3
_STATUS_KERNEL = 0
_STATUS_USER = 1

_BLOCK_HEADER = struct.Struct("=8xIIIIQ16x")  # status, packets, offset of the first one, length, sequence
_BLOCK_STATUS = struct.Struct("=I")
_BLOCK_STATUS_AT = 8
_FRAME_HEADER = struct.Struct("=IIIIIIH")  # offset of the next, seconds, nanoseconds, caught, length, status, mac

BLOCK_BYTES = 128 * 1024
RETIRE_MS = 100  # a block that is not full is handed over after this time
SNAP_WHOLE = 4096
SNAP_HEADERS = 192  # Ethernet 14, outer and inner IPv6 80, UDP 8, probe 64, and room for options

_BPF_LOAD_HALF = 0x28
_BPF_LOAD_BYTE = 0x30
_BPF_JUMP_EQUAL = 0x15
_BPF_RETURN = 0x06


def _filter_program() -> bytes:
    """cBPF: accept everything; IPv6 frames with ICMPv6 (58) or a Mobility Header (135) whole, others cut."""
    program = (
        (_BPF_LOAD_HALF, 0, 0, 12),
        (_BPF_JUMP_EQUAL, 0, 3, 0x86DD),
        (_BPF_LOAD_BYTE, 0, 0, 20),
        (_BPF_JUMP_EQUAL, 2, 0, 58),
        (_BPF_JUMP_EQUAL, 1, 0, 135),
        (_BPF_RETURN, 0, 0, SNAP_HEADERS),
        (_BPF_RETURN, 0, 0, SNAP_WHOLE),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in program)


@dataclass(frozen=True, slots=True)
class Point:
    """Where frames are caught: an interface in a namespace."""

    namespace: str
    interface: str


@dataclass(frozen=True, slots=True)
class PointResult:
    """What a point saw. ``dropped`` frames found the ring full: the capture is then no proof of anything."""

    frames: int
    dropped: int


class Ring:
    """One capture point: a socket, its ring, and the file that the ring's blocks are copied to.

    Raises OSError when the namespace or the interface is missing, or CAP_NET_RAW.
    """

    def __init__(self, point: Point, blocks: int, spool: Path) -> None:
        self._spool: BinaryIO = spool.open("wb")
        self._blocks = blocks
        self._next = 0
        with inside(point.namespace):
            # Protocol 0 receives nothing until bind(): no frame arrives before filter and ring stand.
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._set_up(point.interface)

    def _set_up(self, interface: str) -> None:
        program = _filter_program()
        buffer = mmap.mmap(-1, len(program))  # only for an address that stays put during the call
        buffer.write(program)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        fprog = struct.pack("@HP", len(program) // 8, address)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frame = 2048
        request = struct.pack(
            "=7I", BLOCK_BYTES, self._blocks, frame, BLOCK_BYTES // frame * self._blocks, RETIRE_MS, 0, 0
        )
        self.socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self._ring = mmap.mmap(self.socket.fileno(), BLOCK_BYTES * self._blocks)
        self.socket.bind((interface, _ETH_P_ALL))

    def drain(self) -> None:
        """Copy every block that the kernel has handed over, and give it back."""
        while True:
            start = self._next * BLOCK_BYTES
            status, _, _, length, _ = _BLOCK_HEADER.unpack_from(self._ring, start)
            if not status & _STATUS_USER:
                return
            self._spool.write(self._ring[start : start + length])
            _BLOCK_STATUS.pack_into(self._ring, start + _BLOCK_STATUS_AT, _STATUS_KERNEL)
            self._next = (self._next + 1) % self._blocks

    def close(self) -> int:
        """End the capture at this point; the number of frames that the kernel had to drop."""
        self.drain()
        statistics = self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
        dropped: int = struct.unpack("=III", statistics)[1]
        self._ring.close()
        self.socket.close()
        self._spool.close()
        return dropped


def spooled_frames(spool: bytes) -> Iterator[tuple[int, bytes, int]]:
    """The frames in a file of copied blocks: time stamp in ns, bytes, length before the cut."""
    start = 0
    while start < len(spool):
        _, packets, offset, length, _ = _BLOCK_HEADER.unpack_from(spool, start)
        at = start + offset
        for _ in range(packets):
            following, seconds, nanoseconds, caught, full, _, mac = _FRAME_HEADER.unpack_from(spool, at)
            yield seconds * 1_000_000_000 + nanoseconds, spool[at + mac : at + mac + caught], full
            at += following
        start += length


def _to_pcap(spool: Path, target: Path) -> int:
    """Turn copied blocks into a pcap file; the number of frames."""
    frames = 0
    with target.open("wb") as file:
        writer = PcapWriter(file)
        for time_ns, data, length in spooled_frames(spool.read_bytes()):
            writer.write(time_ns, data, length)
            frames += 1
    spool.unlink()
    return frames


def capture_until(stop: BinaryIO, directory: Path, points: Mapping[str, Point], blocks: int) -> None:
    """Capture at all points until ``stop`` ends; prints the two answers of this module's protocol."""
    rings: dict[str, Ring] = {}
    for name, point in points.items():
        rings[name] = Ring(point, blocks, directory / f"{name}.spool")
    poll = select.poll()
    by_descriptor = {ring.socket.fileno(): ring for ring in rings.values()}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    poll.register(stop.fileno(), select.POLLIN | select.POLLHUP)
    print(json.dumps({"ready": True}), flush=True)
    end: float | None = None
    while end is None or time.monotonic() < end:
        for descriptor, _ in poll.poll(RETIRE_MS):
            if descriptor in by_descriptor:
                by_descriptor[descriptor].drain()
            elif end is None:
                poll.unregister(descriptor)
                end = time.monotonic() + 3 * RETIRE_MS / 1000  # the blocks now open are handed over meanwhile
    result = {}
    for name, ring in rings.items():
        dropped = ring.close()
        result[name] = {"dropped": dropped, "frames": _to_pcap(directory / f"{name}.spool", directory / f"{name}.pcap")}
    print(json.dumps(result), flush=True)


def main() -> None:
    """The capturing process; its user is :class:`Capture`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the controller, which ends us by closing our input
    os.nice(5)
    line = sys.stdin.buffer.readline()  # nothing follows it: the buffer hides no input from poll()
    if not line:
        return  # the controller died before it gave an order
    try:
        _carry_out(json.loads(line))
    except BrokenPipeError:
        # The controller is gone, and nobody wants the answer: what is buffered of it must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _carry_out(order: dict[str, Any]) -> None:
    points = {name: Point(*where) for name, where in order["points"].items()}
    try:
        capture_until(sys.stdin.buffer, Path(order["directory"]), points, order["blocks"])
    except BrokenPipeError:
        raise
    except (OSError, LabError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(1)


class CaptureError(RuntimeError):
    """The capture could not start, or its process died."""


class Capture:
    """A running capture at several points; the pcap files appear when it is stopped.

    ``blocks`` is the size of each point's ring in units of 128 KiB (about 600 frames each). Raises CaptureError.
    """

    def __init__(self, directory: Path, points: Mapping[str, tuple[str, str]], blocks: int = 32) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CaptureError(f"no captures in {directory}: {error.strerror}") from None
        if any(directory.glob("*.pcap")):  # what is read later are all captures of a directory
            raise CaptureError(f"{directory} holds captures of an earlier run: remove them or name another directory")
        self.directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "anchord.lab.capture"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        order = {"directory": str(directory), "points": {k: list(v) for k, v in points.items()}, "blocks": blocks}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            self._answer()
        except BaseException:  # a signal, too: nobody holds this object yet who could end the process
            self.abandon()
            raise

    def _answer(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CaptureError(f"the capturing process ended early (exit status {self._process.wait()})")
        answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            self._process.wait()
            raise CaptureError(f"cannot capture: {answer['error']}")
        return answer

    def stop(self) -> dict[str, PointResult]:
        """End the capture and wait for the pcap files; what each point saw."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        answer = self._answer()
        self._process.wait()
        return {name: PointResult(**seen) for name, seen in answer.items()}  # type: ignore[arg-type]

    def abandon(self) -> None:
        """End the process without waiting for files; harmless after :meth:`stop`."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    main()
