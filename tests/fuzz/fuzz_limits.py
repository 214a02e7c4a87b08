"""How large each container of a protocol object may become: everything that can be reached from it is looked at."""

from __future__ import annotations

from typing import Any

from fuzz_snapshot import sizes

from anchord.simulator.limits import limit_of, table


def exceeded(node: Any, settings: Any) -> tuple[dict[str, int], dict[str, int]]:
    """What is larger than it may be, and the size of everything."""
    found = sizes(node)
    limits = table(settings.limits, len(node.counters.peers))
    return {place: size for place, size in found.items() if size > limit_of(place, limits)}, found
