"""Damage to bytes, by a seed: what a broken, a strange or a hostile peer may send in the place of a valid message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

BOUNDARIES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 18, 19, 34, 59, 63, 64, 65, 127, 128, 129, 253, 254, 255)
MH_TYPES = (5, 6, 7, 13, 16, 19, 20)
MH_OPTIONS_AT = {5: 12, 6: 12, 7: 24, 13: 12, 16: 12, 19: 12, 20: 12}
ND_OPTIONS_AT = {133: 8, 134: 16, 135: 24, 136: 24}


def _at(rng: Random, data: bytes | bytearray) -> int:
    return rng.randrange(len(data)) if data else 0


def flip(rng: Random, data: bytes) -> bytes:
    """One bit."""
    out = bytearray(data)
    if out:
        out[_at(rng, out)] ^= 1 << rng.randrange(8)
    return bytes(out)


def put(rng: Random, data: bytes) -> bytes:
    """One octet, most often a value at some boundary."""
    out = bytearray(data)
    if out:
        out[_at(rng, out)] = rng.choice(BOUNDARIES) if rng.random() < 0.7 else rng.randrange(256)
    return bytes(out)


def put_wide(rng: Random, data: bytes) -> bytes:
    """Two, four or eight octets at once: all ones, all zeros, the sign alone, or one more or less than before."""
    width = rng.choice((2, 4, 8))
    if len(data) < width:
        return data
    at = rng.randrange(len(data) - width + 1)
    value, top = int.from_bytes(data[at : at + width], "big"), 1 << (8 * width)
    value = rng.choice((0, top - 1, top // 2, top // 2 - 1, (value + 1) % top, (value - 1) % top))
    return data[:at] + value.to_bytes(width, "big") + data[at + width :]


def cut(rng: Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: _at(rng, data)]


def extend(rng: Random, data: bytes) -> bytes:
    """More than there was."""
    more = rng.randbytes(rng.choice((1, 2, 4, 8, 16, 64)))
    return data + (more if rng.random() < 0.5 else bytes(len(more)))


def insert(rng: Random, data: bytes) -> bytes:
    """Something in the middle."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randrange(1, 17)) + data[at:]


def remove(rng: Random, data: bytes) -> bytes:
    """Something out of the middle."""
    at = _at(rng, data)
    return data[:at] + data[at + rng.randrange(1, 17) :]


def repeat(rng: Random, data: bytes) -> bytes:
    """A piece of it twice."""
    at = _at(rng, data)
    piece = data[at : at + rng.randrange(1, 41)]
    return data[:at] + piece * rng.randrange(2, 5) + data[at + len(piece) :]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one, the end of another."""
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


PLAIN: tuple[Callable[[Random, bytes], bytes], ...] = (
    flip, flip, put, put, put_wide, cut, extend, insert, remove, repeat,
)  # fmt: skip


def options_of(data: bytes, start: int, unit: int, shift: int) -> list[bytes] | None:
    """The options from ``start``, padding included; None where they make no sense. Lengths in ``unit`` + ``shift``."""
    found: list[bytes] = []
    while start < len(data):
        if unit == 1 and data[start] == 0:
            size = 1
        elif start + 1 < len(data):
            size = data[start + 1] * unit + shift
        else:
            return None
        if size == 0 or start + size > len(data):
            return None
        found.append(data[start : start + size])
        start += size
    return found


def shuffle_options(rng: Random, options: list[bytes], others: Sequence[bytes]) -> list[bytes]:
    """Twice, not at all, elsewhere, the other way round, another's; or one whose length is wrong."""
    options = list(options)
    if not options:
        return list(others)[:1]
    at = rng.randrange(len(options))
    match rng.randrange(7):
        case 0:
            options.insert(rng.randrange(len(options) + 1), options[at])
        case 1:
            del options[at]
        case 2:
            options.insert(rng.randrange(len(options)), options.pop(at))
        case 3:
            options.reverse()
        case 4 if others:
            options.insert(at, rng.choice(others))
        case 5 if others:
            options[at] = rng.choice(others)
        case _:
            wrong = bytearray(options[at])
            if len(wrong) > 1:
                wrong[1] = rng.choice((wrong[1] - 1, wrong[1] + 1, 0, 255)) & 255
            options[at] = bytes(wrong)
    return options


def damage_message(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A Mobility Header with one to four faults. ``others``: messages to take pieces from."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        choice = rng.random()
        start = MH_OPTIONS_AT.get(data[2], 12) if len(data) > 2 else 0
        if choice < 0.25 and (found := options_of(data, start, 1, 2)) is not None:
            other = rng.choice(others)
            pieces = options_of(other, MH_OPTIONS_AT.get(other[2], 12), 1, 2) or []
            data = data[:start] + b"".join(shuffle_options(rng, found, pieces))
        elif choice < 0.35:
            data = splice(rng, data, rng.choice(others))
        elif choice < 0.40 and len(data) > 2:
            kind = rng.choice(MH_TYPES) if rng.random() < 0.7 else rng.randrange(256)
            data = data[:2] + bytes((kind,)) + data[3:]
        else:
            data = rng.choice(PLAIN)(rng, data)
    if rng.random() < 0.8:
        # Most of what the header check would catch is mended, or nothing behind it would ever be reached.
        data = mend_message(data)
    return data


def mend_message(data: bytes) -> bytes:
    """The same with Header Len and Payload Proto as they have to be."""
    data = data[:2048] + bytes(-len(data[:2048]) % 8)
    return bytes((59, max(len(data) // 8 - 1, 0))) + data[2:]


def damage_frame(rng: Random, data: bytes, others: Sequence[bytes], mend: Callable[[bytes], bytes]) -> bytes:
    """An Ethernet frame with one to three faults; ``mend`` puts the length and the checksum right, most often."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        choice = rng.random()
        kind = data[54] if len(data) > 54 else 0
        start = 54 + ND_OPTIONS_AT.get(kind, 8)
        if choice < 0.25 and (found := options_of(data, start, 8, 0)) is not None:
            other = rng.choice(others)
            pieces = options_of(other, 54 + ND_OPTIONS_AT.get(other[54] if len(other) > 54 else 0, 8), 8, 0) or []
            data = data[:start] + b"".join(shuffle_options(rng, found, pieces))
        elif choice < 0.35:
            data = splice(rng, data, rng.choice(others))
        else:
            data = rng.choice(PLAIN)(rng, data)
    return mend(data) if rng.random() < 0.7 else data


LINE_PIECES = (
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"NaN", b"1e999", b"-1", b"\xff", b"\x00", b"\\ud800",
    b'"key"', b'"value"', b'"revision"', b'{"get":"x"}', b"[" * 600, b"9" * 5000, b"9" * 400, b"0.5", b'"put"',
    b'"grant"',
)  # fmt: skip


def damage_line(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A line of JSON with one to three faults."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        choice = rng.random()
        if choice < 0.4:
            at = rng.randrange(len(data) + 1)
            data = data[:at] + rng.choice(LINE_PIECES) + data[at + rng.choice((0, 0, 1, 4)) :]
        elif choice < 0.5:
            data = splice(rng, data, rng.choice(others))
        else:
            data = rng.choice(PLAIN)(rng, data)
    return data


ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**64, 10**400, 1e300, 0.5, "", "x", "\0", "é", "::/0", "2001:db8::/64",
    "2001:db8::1", "fe80::1", [], [[]], {}, {"maar": None},
)  # fmt: skip


def damage_value(rng: Random, value: Any) -> Any:
    """JSON that is well formed and not what it should be: something in it is of another kind, missing or too much."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {name: held for name, held in value.items() if name != key}
        return {**value, key: damage_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], damage_value(rng, value[at]), *value[at + rng.choice((0, 1, 1)) :]]
    return rng.choice(ODD)
