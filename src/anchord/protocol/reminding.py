"""What the CMD does about gateways that have lost their sessions, and to learn of it.

An anchor that has lost its journal is told again, host by host, what it exports, and believes it (decision 31); a
serving gateway registers its hosts by itself with their next frames. RFC 5847 section 3.2 only says that sessions are
to be established again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Any

from anchord.protocol.binding import BindingCache
from anchord.protocol.outbox import Admitted, Outbox
from anchord.protocol.peerlife import Again, PeerLife
from anchord.protocol.settings import DomainSettings
from anchord.protocol.telling import LEAST_LIFETIME_S, Telling
from anchord.protocol.timers import Instant

# So much of what may be sent at all goes to reminders: handovers are told at the same rate.
SHARE = 0.5


class Reminding:
    """Heartbeats of the CMD, and PBU* to gateways that were restarted without their journal."""

    def __init__(
        self,
        domain: DomainSettings,
        cache: BindingCache,
        telling: Telling,
        out: Outbox,
        is_bound: Callable[[IPv6Address], bool],
    ) -> None:
        """``is_bound``: whether there are bindings with a peer that are not in ``cache``."""
        self._domain = domain
        self._cache = cache
        self._telling = telling
        self._is_bound_elsewhere = is_bound
        self._life = PeerLife(out, domain.timing, domain.limits, self._is_bound, self._lost_state)
        self._again = Again(domain.limits.updates_per_s * SHARE, self._tell)

    def restore(self, store: Mapping[str, Mapping[str, Mapping[str, Any]]], now: Instant) -> None:
        """Begin to live; after everything else was restored."""
        self._life.restore(store, now)

    def heard(self, source: IPv6Address, message: Admitted, now: Instant) -> bool:
        """A message of a gateway; False if it is none of ours."""
        return self._life.heard(source, message, now)

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        times = [t for t in (self._life.next_s(), self._again.next_s()) if t is not None]
        return min(times) if times else None

    def due(self, now: Instant) -> None:
        """Heartbeats and reminders."""
        self._life.due(now)
        self._again.due(now)

    def _is_bound(self, peer: IPv6Address) -> bool:
        return self._cache.has_prefixes_of(peer) or self._is_bound_elsewhere(peer)

    def _lost_state(self, gateway: IPv6Address, now: Instant) -> None:
        if gateway in self._domain.gateways:
            self._again.start(gateway, self._cache.by_key, now)

    def _tell(self, gateway: IPv6Address, key: str, now: Instant) -> bool:
        binding = self._cache.by_key.get(key)
        anchor = None if binding is None or binding.ending else binding.anchor(gateway)
        if binding is None or anchor is None:
            return False
        lifetime_s = int(binding.expires_wall_s - now.wall_s)
        if lifetime_s < LEAST_LIFETIME_S:
            return False
        self._telling.tell(binding, anchor, lifetime_s, now)
        return True
