"""Prefix pools: which /64 a mobile node is given, and how long a returned one rests.

A prefix is exclusive to one gateway and one mobile node (RFC 8885 section 3.1). A host forgets an address only when
the last valid lifetime that was advertised for it has run out (RFC 4862 section 5.5.3 e), so a prefix that was given
back rests until then: it is never given to another host that early.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv6Network


class PoolExhaustedError(Exception):
    """Every prefix of the gateway is leased or resting."""


class PrefixPool:
    """The /64s of one gateway: free, leased to a key, or resting until a wall-clock time (seconds)."""

    def __init__(self, pools: tuple[IPv6Network, ...]) -> None:
        self._pools = pools
        self._leases: dict[IPv6Network, str] = {}
        self._resting: dict[IPv6Network, float] = {}
        self._last_keys: dict[IPv6Network, str] = {}  # of resting ones: who had it
        self._kept: dict[str, IPv6Network] = {}  # of resting ones: whose it still is, as soon as it comes

    def resting(self) -> dict[IPv6Network, float]:
        """Prefixes that were given back, each with the wall-clock second at which it is free again."""
        return dict(self._resting)

    def allocate(self, key: str, now_wall_s: float) -> IPv6Network:
        """Lease a free /64 to ``key``; raises PoolExhaustedError.

        The search begins at a place that depends on ``key`` alone: no randomness is needed, neighbours in the pool
        are not handed out in order of arrival, and a gateway that lost its journal tends to give a host the same
        prefix again.
        """
        self._wake(now_wall_s)
        kept = self._kept.get(key)
        if kept is not None and self.claim(kept, key):
            return kept
        for pool in self._pools:
            size = 1 << (64 - pool.prefixlen)
            taken = len(self._leases) + len(self._resting)
            start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % size
            # Among taken + 1 different candidates at least one is free, unless the pool is smaller than that.
            for step in range(min(size, taken + 1)):
                prefix = _slash64(pool, (start + step) % size)
                if self.is_free(prefix):
                    self._leases[prefix] = key
                    return prefix
        raise PoolExhaustedError

    def claim(self, prefix: IPv6Network, key: str) -> bool:
        """Lease exactly ``prefix`` to ``key`` (restart, decision 31); False when another key holds it."""
        if self._leases.get(prefix, key) != key:
            return False
        self.rested(prefix)
        self._leases[prefix] = key
        return True

    def release(self, prefix: IPv6Network, rest_until_wall_s: float, key: str = "") -> None:
        """Take ``prefix`` back and let it rest until ``rest_until_wall_s``; ``key`` had it, if that is known."""
        self._leases.pop(prefix, None)
        self._resting[prefix] = max(rest_until_wall_s, self._resting.get(prefix, 0.0))
        self._last_keys[prefix] = key

    def keep(self, prefix: IPv6Network, until_wall_s: float, key: str) -> None:
        """Let ``prefix`` rest for all but ``key``, which has it and will say so."""
        self.release(prefix, until_wall_s, key)
        self._kept[key] = prefix

    def is_free(self, prefix: IPv6Network) -> bool:
        """Whether ``prefix`` is neither leased nor resting."""
        return prefix not in self._leases and prefix not in self._resting

    def resting_of(self, key: str, now_wall_s: float) -> dict[IPv6Network, float]:
        """What ``key`` had and may still have addresses of, each with the wall-clock second at which it is free."""
        self._wake(now_wall_s)
        return {prefix: self._resting[prefix] for prefix, last in self._last_keys.items() if last == key}

    def give_up(self, prefix: IPv6Network) -> None:
        """Take ``prefix`` back; nobody has had an address of it, so it is free at once."""
        self._leases.pop(prefix, None)

    def rested(self, prefix: IPv6Network) -> None:
        """``prefix`` has rested long enough: it is free again."""
        self._resting.pop(prefix, None)
        last = self._last_keys.pop(prefix, "")
        if self._kept.get(last) == prefix:
            del self._kept[last]

    def _wake(self, now_wall_s: float) -> None:
        for prefix in [p for p, until in self._resting.items() if until <= now_wall_s]:
            self.rested(prefix)


def _slash64(pool: IPv6Network, index: int) -> IPv6Network:
    # From an integer: made from an IPv6Address it would be written out as text and read again (15 us).
    return IPv6Network((int(pool.network_address) | index << 64, 64))
