"""Unsigned integers in network order."""

from __future__ import annotations


def unsigned(value: int, octets: int, what: str) -> bytes:
    """Return ``value`` as ``octets`` octets in network order, or raise ValueError naming ``what``."""
    if 0 <= value < 1 << 8 * octets:
        return value.to_bytes(octets, "big")
    raise ValueError(f"{what} {value} does not fit in {8 * octets} bits")
