"""How addresses and prefixes are written into the journal.

Turning an address into text costs as much as deciding about a message, and the same few addresses are written again
and again: the text is kept.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

_KEPT = 1 << 14


@lru_cache(_KEPT)
def address_text(address: IPv6Address) -> str:
    """``2001:db8::1``"""
    return str(address)


@lru_cache(_KEPT)
def prefix_text(prefix: IPv6Network) -> str:
    """``2001:db8::/64``"""
    return str(prefix)
