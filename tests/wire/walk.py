"""A walk over mobility options as they stand, written without a look at the one under test."""

from __future__ import annotations

from typing import NamedTuple


class Tlv(NamedTuple):
    at: int  # offset from the start of the Mobility Header
    kind: int
    data: bytes | None  # None for Pad1


FIXED = {5: 12, 6: 12, 7: 24}  # where the options begin: RFC 6275 sections 6.1.7 to 6.1.9


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
