"""What a plain LMA takes back from MAGs (RFC 5846 section 8): sessions that an administrator ends, nodes that left.

RFC 5213 lets the session of a node that has moved live on at its old MAG until its lifetime is over. There it would
draw in what others at that MAG send to the node (EnableMAGLocalRouting), so the MAG is told.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network

from anchord.protocol.identity import mac_text, mn_id_text
from anchord.protocol.outbox import Outbox
from anchord.protocol.plain_binding import PlainBinding, PlainCache
from anchord.protocol.revoking import Revocation, Revoking
from anchord.protocol.settings import DomainSettings
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import BindingRevocationAcknowledgement, RevocationTrigger

# A MAG that a node has left is told so much later, when the handover is over. It asks the node before it believes that.
LEFT_S = 0.05
_LEFT, _ENDED = RevocationTrigger.HANDOVER_UNKNOWN, RevocationTrigger.ADMINISTRATIVE_REASON


class PlainRevoking:
    """Revocations of plain sessions. ``end`` ends one that no MAG has any more."""

    def __init__(
        self, out: Outbox, domain: DomainSettings, cache: PlainCache, end: Callable[[PlainBinding, Instant], None]
    ) -> None:
        self._out = out
        self._cache = cache
        self._end = end
        self._revoking = Revoking(out, domain.timing, domain.limits, self._revoked)
        self._left: dict[str, dict[IPv6Address, None]] = {}  # by session: MAGs that do not know that the node has left
        self._timers: Timers[str] = Timers()

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        times = [t for t in (self._timers.next_s(), self._revoking.next_s()) if t is not None]
        return min(times) if times else None

    def due(self, now: Instant) -> None:
        """MAGs that are to be told, and what has to be said again."""
        while (key := self._timers.pop_due(now.monotonic_s)) is not None:
            binding = self._cache.by_key[key]
            for mag in self._left.pop(key):
                if mag != binding.proxy_coa and not self._revoking.is_waiting(mag, key, _ENDED):
                    self._start(binding, mag, _LEFT, now)
        self._revoking.due(now)

    def awaits(self, source: IPv6Address, ack: BindingRevocationAcknowledgement) -> bool:
        """Whether ``ack`` answers a revocation of a plain session."""
        return self._revoking.awaits(source, ack)

    def acknowledged(self, source: IPv6Address, ack: BindingRevocationAcknowledgement, now: Instant) -> None:
        """A MAG has answered."""
        self._revoking.acknowledged(source, ack, now)

    def revoke(self, named: str | IPv6Network, now: Instant) -> list[str]:
        """End every session of a node, or the one that holds a prefix; returns the nodes' identifiers."""
        found = [binding for binding in self._cache.by_key.values() if _is_named(binding, named)]
        for binding in found:
            self._out.report("revoked", mn=mn_id_text(binding.mn_id), prefixes=[str(p) for p in binding.prefixes])
            self._start(binding, binding.proxy_coa, _ENDED, now)
        return [mn_id_text(binding.mn_id) for binding in found]

    def handed_over(self, binding: PlainBinding, to: IPv6Address, now: Instant) -> None:
        """The node leaves the MAG that the session still names, for ``to``."""
        self._left.setdefault(binding.key, {})[binding.proxy_coa] = None
        self._timers.set(binding.key, now.monotonic_s + LEFT_S)
        self._revoking.cancel(to, binding.key, _LEFT)  # the node is back

    def forget(self, binding: PlainBinding, now: Instant) -> None:
        """The session is over. MAGs that were to hear of the node's departure hear it now."""
        self._timers.cancel(binding.key)
        for mag in self._left.pop(binding.key, ()):
            if mag != binding.proxy_coa:
                self._start(binding, mag, _LEFT, now)

    def _start(self, binding: PlainBinding, mag: IPv6Address, trigger: RevocationTrigger, now: Instant) -> None:
        node = (mag, binding.key, binding.mn_id, binding.link_layer_id)
        self._revoking.start(Revocation(*node, binding.prefixes, trigger), now)

    def _revoked(self, revocation: Revocation, now: Instant) -> None:
        """A MAG has let the node go, or does not answer; the node may have another one meanwhile."""
        binding = self._cache.by_key.get(revocation.session)
        if binding is None or revocation.trigger is _LEFT:
            return
        if binding.proxy_coa == revocation.peer:
            self._end(binding, now)
        else:
            self._start(binding, binding.proxy_coa, revocation.trigger, now)


def _is_named(binding: PlainBinding, named: str | IPv6Network) -> bool:
    if isinstance(named, IPv6Network):
        return named in binding.prefixes
    return named in (mn_id_text(binding.mn_id), mac_text(binding.link_layer_id or b""))
