"""How addresses and prefixes are written into the journal: as ``str`` writes them.

``str`` costs as much as deciding about a message. What every host has its own of (a /64, the link-local addresses of
its routers) is therefore written here, in a third of the time; of gateways there are few, so their text is kept.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

_KEPT = 1 << 12
_LINK_LOCAL = 0xFE80 << 48  # the upper half of fe80::/64


def address_text(address: IPv6Address) -> str:
    """``2001:db8::1``"""
    value = int(address)
    first = value >> 48 & 0xFFFF
    if value >> 64 == _LINK_LOCAL and first:
        # The three zeros before ``first`` are the first of the longest runs of zeros (RFC 5952 section 4.2).
        return f"fe80::{first:x}:{value >> 32 & 0xFFFF:x}:{value >> 16 & 0xFFFF:x}:{value & 0xFFFF:x}"
    return _address_text(address)


def prefix_text(prefix: IPv6Network) -> str:
    """``2001:db8::/64``"""
    value = int(prefix.network_address)
    if prefix.prefixlen != 64 or not value >> 112:
        return _prefix_text(prefix)
    text = f"{value >> 112:x}:{value >> 96 & 0xFFFF:x}:{value >> 80 & 0xFFFF:x}:{value >> 64 & 0xFFFF:x}"
    while text.endswith(":0"):  # these zeros and the lower half's are one run
        text = text[:-2]
    return text + "::/64"


@lru_cache(_KEPT)
def _address_text(address: IPv6Address) -> str:
    return str(address)


@lru_cache(_KEPT)
def _prefix_text(prefix: IPv6Network) -> str:
    return str(prefix)
