"""Which anchors the CMD has told that they have no part in a session any more, and waits for: its journal of ends.

A PBU* with lifetime 0 (decision 20) is about a session that the CMD has forgotten, so nothing else in its store says
that an anchor has still to hear of it. Each is kept until the anchor has answered, or its own dead-man timer has ended
what we could not (decision 19).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.binding import Binding
from anchord.protocol.groups import Anchor
from anchord.protocol.journal import address_text, prefix_text
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Persist
from anchord.protocol.settings import DomainSettings
from anchord.protocol.timers import Instant
from anchord.wire.options import MobileNodeIdentifier

TABLE = "dismissal"


class Dismissals:
    """What is still to be said, by anchor and session; no more of it than there may be sessions."""

    def __init__(self, domain: DomainSettings, out: Outbox) -> None:
        self._domain = domain
        self._out = out
        self._until_wall_s: dict[tuple[IPv6Address, str], float] = {}

    def begin(self, binding: Binding, anchor: Anchor, ticks: int, now: Instant) -> None:
        """``anchor`` is being told, with a timestamp of ``ticks`` or later."""
        key = (anchor.maar, binding.key)
        if key not in self._until_wall_s and len(self._until_wall_s) >= self._domain.limits.bindings:
            self._out.counters.count("limit.dismissals")  # told all the same, by this process
            return
        # By then the anchor has let go by itself: nobody re-arms its timer.
        patience_s = self._domain.lifetimes.binding_s * self._domain.timing.dead_man_lifetimes
        until = self._until_wall_s.setdefault(key, now.wall_s + patience_s)
        value = {
            "maar": address_text(anchor.maar),
            "session": binding.key,
            "subtype": int(binding.mn_id.subtype),
            "identifier": binding.mn_id.identifier.hex(),
            "link_layer_id": None if binding.link_layer_id is None else binding.link_layer_id.hex(),
            "access_technology": binding.access_technology,
            "prefixes": [prefix_text(prefix) for prefix in anchor.prefixes],
            "ticks": ticks,
            "until_wall_s": until,
        }
        self._out.emit(Persist(TABLE, _row(key), value))

    def end(self, maar: IPv6Address, session: str) -> None:
        """It has answered, or need not hear of it any more."""
        if self._until_wall_s.pop((maar, session), None) is not None:
            self._out.emit(Persist(TABLE, _row((maar, session)), None))

    def is_over(self, maar: IPv6Address, session: str, now: Instant) -> bool:
        """Whether the anchor's dead-man timer has done by now what we wanted of it."""
        return now.wall_s >= self._until_wall_s.get((maar, session), now.wall_s + 1)

    def restore(self, store: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[tuple[Binding, Anchor]]:
        """What an earlier process had still to say, each with as much of its session as that takes."""
        unsaid: list[tuple[Binding, Anchor]] = []
        for value in store.get(TABLE, {}).values():
            anchor = Anchor(IPv6Address(value["maar"]), tuple(IPv6Network(prefix) for prefix in value["prefixes"]))
            link_layer_id = value["link_layer_id"]
            binding = Binding(
                value["session"],
                MobileNodeIdentifier(value["subtype"], bytes.fromhex(value["identifier"])),
                None if link_layer_id is None else bytes.fromhex(link_layer_id),
                anchor,
                ticks=value["ticks"],
                access_technology=value["access_technology"],
            )
            self._until_wall_s[anchor.maar, binding.key] = value["until_wall_s"]
            unsaid.append((binding, anchor))
        return unsaid


def _row(key: tuple[IPv6Address, str]) -> str:
    return f"{address_text(key[0])} {key[1]}"
