"""Which frames of an access interface reach user space: a classic BPF program.

Everything is wanted of a host that is not known: its first frame is what tells that it has come. Of a host that is
known only what the kernel does not answer itself: Router Solicitations, its Neighbour Solicitations and Advertisements
(they show that it lives and which addresses it uses), 802.2 frames (an access point's Layer 2 Update), and hellos of
gateways. Its data, however fast, is decided about in the kernel.

The program is a binary search over the known addresses, so hundreds of them cost ten comparisons a frame. The kernel
charges it to the socket (net.core.optmem_max), and packet loads are dear there: each address is searched for in two
words that are loaded once, which costs some 60 bytes an address.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterable

from anchord.attachment.segment import ETHERTYPE as HELLO

MOST_HOSTS = 600  # what fits into the 4096 instructions of a classic BPF program
SNAP_BYTES = 256  # enough of a frame to see who it is from, and for any solicitation

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LD_W, _LD_H, _LD_B, _LD_LEN, _LD_MEM, _ST = 0x20, 0x28, 0x30, 0x80, 0x60, 0x02
_JEQ, _JGE, _JGT, _JSET, _JA, _RET = 0x15, 0x35, 0x25, 0x45, 0x05, 0x06
_LEAF = 4
_LONGEST_LLC = 1500  # IEEE 802.3: a length, not an EtherType
_TAIL, _HEAD = 0, 1  # where the last four and the first two bytes of the source are kept

Instruction = tuple[int, int, int, int]


def program(known: Iterable[bytes]) -> list[Instruction]:
    """The filter that spares user space the data of ``known`` MAC addresses (at most MOST_HOSTS)."""
    keys = sorted((int.from_bytes(mac[2:], "big"), int.from_bytes(mac[:2], "big")) for mac in known)
    return [
        # Bridges talk to each other at 01:80:c2:00:00:0x; those are no hosts (IEEE 802.1D).
        (_LD_W, 0, 0, 0),
        (_JEQ, 0, 3, 0x0180C200),
        (_LD_H, 0, 0, 4),
        (_JGT, 1, 0, 0x0F),
        (_RET, 0, 0, 0),
        # A group address is no source.
        (_LD_B, 0, 0, 6),
        (_JSET, 0, 1, 1),
        (_RET, 0, 0, 0),
        *_signs_of_life(),
        (_LD_H, 0, 0, 6),
        (_ST, 0, 0, _HEAD),
        (_LD_W, 0, 0, 8),
        (_ST, 0, 0, _TAIL),
        *_search(keys),
    ]


def _signs_of_life() -> list[Instruction]:
    """Accept what is wanted of everybody. A load beyond the end would drop the frame, so the length is asked first."""
    return [
        (_LD_H, 0, 0, 12),
        (_JGT, 0, 10, _LONGEST_LLC),  # 802.3: accept
        (_JEQ, 9, 0, HELLO),  # another gateway may have been taken for a host before it said so
        (_JEQ, 0, 9, 0x86DD),
        (_LD_LEN, 0, 0, 0),
        (_JGT, 0, 7, 54),
        (_LD_B, 0, 0, 20),
        (_JEQ, 0, 5, 58),  # ICMPv6 directly behind the header
        (_LD_B, 0, 0, 54),
        (_JEQ, 2, 0, 133),
        (_JEQ, 1, 0, 135),
        (_JEQ, 0, 1, 136),
        (_RET, 0, 0, SNAP_BYTES),
    ]


def _search(keys: list[tuple[int, int]]) -> list[Instruction]:
    """With the last four bytes of the source in the accumulator: is it one of ``keys``? Unknown: accept."""
    if len(keys) > _LEAF:
        middle = len(keys) // 2
        while middle < len(keys) and keys[middle][0] == keys[middle - 1][0]:
            middle += 1  # equal halves stay together
        if middle < len(keys):
            low, high = _search(keys[:middle]), _search(keys[middle:])
            return [(_JGE, 0, 1, keys[middle][0]), (_JA, 0, 0, len(low)), *low, *high]
    found: list[Instruction] = []
    for tail, head in keys:
        found += [
            (_JEQ, 0, 4, tail),
            (_LD_MEM, 0, 0, _HEAD),
            (_JEQ, 0, 1, head),
            (_RET, 0, 0, 0),
            (_LD_MEM, 0, 0, _TAIL),
        ]
    return [*found, (_RET, 0, 0, SNAP_BYTES)]


def attach(sock: socket.socket, instructions: list[Instruction]) -> None:
    """Put the program in force on ``sock``; frames that are queued already are not affected.

    Raises OSError; ENOMEM while net.core.optmem_max has no room for the old program and the new one together.
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code)
    fprog = struct.pack("HL", len(instructions), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def detach(sock: socket.socket) -> None:
    """Filter nothing on ``sock``; nothing to do where nothing is filtered."""
    with contextlib.suppress(FileNotFoundError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
