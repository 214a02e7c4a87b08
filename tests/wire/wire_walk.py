"""A walk over mobility options as they stand, written without a look at the one under test."""

from __future__ import annotations

from typing import NamedTuple


class Tlv(NamedTuple):
    at: int  # offset from the start of the Mobility Header
    kind: int
    data: bytes | None  # None for Pad1


# Where the options begin: RFC 6275 sections 6.1.7 to 6.1.9, RFC 5847 3.3, RFC 5846 5, RFC 7077 4.
FIXED = {5: 12, 6: 12, 7: 24, 13: 12, 16: 12, 19: 12, 20: 12}


def walk(data: bytes) -> list[Tlv]:
    """Return every option and every padding of a Mobility Header with its place."""
    found = []
    at = FIXED[data[2]]
    while at < len(data):
        if data[at] == 0:
            found.append(Tlv(at, 0, None))
            at += 1
        else:
            end = at + 2 + data[at + 1]
            found.append(Tlv(at, data[at], data[at + 2 : end]))
            at = end
    assert at == len(data)
    return found


# From the RFCs, not from the table under test: alignment m * n + k as (m, k).
ALIGNMENT = {
    2: (2, 0),  # RFC 6275 section 6.2.4
    3: (8, 6),  # RFC 6275 section 6.2.5
    8: (1, 0),  # RFC 4283 section 3
    22: (8, 4),  # RFC 5213 section 8.3
    23: (1, 0),  # RFC 5213 section 8.4
    24: (1, 0),  # RFC 5213 section 8.5
    26: (8, 6),  # RFC 5213 section 8.7
    27: (8, 2),  # RFC 5213 section 8.8
    28: (4, 2),  # RFC 5847 section 3.4
    65: (8, 4),  # RFC 8885 section 4.3
    66: (8, 4),  # RFC 8885 section 4.4
    67: (8, 4),  # RFC 8885 section 4.5
    68: (8, 6),  # RFC 8885 section 4.6
    69: (8, 6),  # RFC 8885 section 4.7
}


def expected_alignment(kind: int, data: bytes) -> tuple[int, int]:
    """Return (m, k): an option of type ``kind`` with ``data`` after its length has to stand at m * n + k."""
    if kind in (25, 70):  # RFC 5213 section 8.6, RFC 8885 section 4.8: by the size of the address; decision 34
        return (8, 4) if (len(data) - 2) % 8 == 0 else (4, 0)
    return ALIGNMENT.get(kind, (1, 0))
