"""How many prefixes a node may hold where nobody central counts them (decision 18 a).

A host keeps addresses of a limited number of prefixes. Where as many are in use, the serving gateway's own prefix is
withheld, and the newest of the old ones stays preferred, through its tunnel. Room is made by the oldest: it is
deprecated and its advertised lifetime is left to run out; when the host has forgotten its addresses, its anchor is told
that it is over. A CMD remembers what was given up and when the host forgets it, and gives up first; here the next
gateway would know nothing of that, whereas it is told of every anchor.

Ages: lists of prefixes go from the oldest to the newest, in a PBU (options 65) as in a PBA (groups of option 67).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network

from anchord.protocol.core import GatewayCore
from anchord.protocol.groups import Anchor
from anchord.protocol.identity import mn_id_text
from anchord.protocol.session import Session
from anchord.protocol.timers import Instant


class Budget:
    """What a node holds, by age, and what of it is to go."""

    def __init__(self, core: GatewayCore) -> None:
        self._core = core
        self._domain = core.settings.domain

    def learn_ages(self, session: Session, prefixes: Iterable[IPv6Network]) -> None:
        """``prefixes``: a list of what the node holds, oldest first. The longest list is right about its members.

        What it does not have, only few knew of: that counts as older.
        """
        told = tuple(dict.fromkeys(prefixes))
        longer, shorter = (told, session.ages) if len(told) >= len(session.ages) else (session.ages, told)
        missing = tuple(prefix for prefix in shorter if prefix not in longer)
        session.ages = (*missing, *longer)[-2 * self._domain.limits.anchors_per_host :]

    def by_age(self, session: Session, anchors: Iterable[Anchor]) -> tuple[Anchor, ...]:
        """``anchors`` with the oldest first; those of unknown age before all."""
        ages = {prefix: age for age, prefix in enumerate(session.ages)}
        return tuple(sorted(anchors, key=lambda anchor: max(ages.get(prefix, -1) for prefix in anchor.prefixes)))

    def judge(self, session: Session, anchors: tuple[Anchor, ...], now: Instant) -> None:
        """Before ``anchors`` (by age) are served: may the node have our prefix as well, and has the oldest to go?"""
        if self._domain.central is not None:
            return
        spent = len(self._held(session, anchors, now)) >= self._domain.limits.anchors_per_host
        # The node must have one prefix that works, whatever its budget says.
        withheld = spent and not session.shown and bool(anchors or self._awaited(session))
        if withheld and not session.withheld:
            self._core.counters.count("limit.prefixes")
            gateway = str(self._core.settings.me.address)
            self._core.report("prefix-withheld", mn=mn_id_text(session.mn_id), gateway=gateway)
        session.withheld = withheld
        oldest = anchors[0].maar if spent and len(anchors) > 1 else None
        if oldest is None:
            session.fading = None
        elif session.fading is None or session.fading[0] != oldest:
            session.fading = (oldest, now.monotonic_s)

    def faded(self, session: Session, now: Instant) -> Anchor | None:
        """The anchor whose addresses the host has forgotten by now."""
        if session.fading is None:
            return None
        maar, since_s = session.fading
        if now.monotonic_s - since_s < self._domain.lifetimes.valid_s:
            return None
        return next((anchor for anchor in session.anchors if anchor.maar == maar), None)

    def _held(self, session: Session, anchors: tuple[Anchor, ...], now: Instant) -> set[IPv6Network]:
        """What the node has besides our own prefix: anchored, probably anchored, and given up a while ago."""
        held = {prefix for anchor in anchors for prefix in anchor.prefixes}
        held.update(self._awaited(session))
        held.update(prefix for prefix, until_wall_s in session.released.items() if until_wall_s > now.wall_s)
        return held - {session.prefix}

    def _awaited(self, session: Session) -> list[IPv6Network]:
        """What anchors have been asked for and have not answered for yet."""
        outstanding = self._core.exchanges.outstanding
        return [p for maar, asked in session.asked.items() if outstanding(maar, session.key) is not None for p in asked]
