"""How large each container of a protocol object may become, whatever its peers and hosts send it.

Containers are found by looking: what is added to a protocol object is counted without being named here. They are named
``Class.attribute``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from anchord.protocol.exchange import REMEMBERED_SEQUENCES
from anchord.protocol.groups import LOCAL_NETWORKS
from anchord.protocol.settings import Limits
from anchord.wire.options import FORMATS

CONTAINERS = (dict, list, tuple, deque, set)
# What is not named below holds a few things of one session or peer, and never more than this.
OTHERWISE = 48
_KINDS_OF_TIMERS = 13  # that a session may have
_CONTAINS = re.compile(r"(dict|list|tuple|deque|set)\[")

Table = list[tuple[re.Pattern[str], int]]


def table(of: Limits, peers: int) -> Table:
    """Patterns of names and what they allow; the first one counts. ``peers``: configured ones."""
    nodes = max(of.hosts, of.bindings)
    held = of.anchors_per_host  # prefixes of a node besides the one where it is
    asked = nodes * peers
    timers = nodes * _KINDS_OF_TIMERS + 1024
    return [
        (re.compile(pattern), limit)
        for pattern, limit in (
            (r"GatewayCore\.(sessions|by_mac|_newest_ticket)|DirectoryFinder\._entries", of.hosts),
            (r"GatewayCore\._continuations", 4 * of.hosts),
            (r"GatewayCore\.router_macs", of.hosts * (1 + 2 * held)),
            (r"GatewayCore\.barred", of.hosts),
            (r"BindingCache\.(by_key|_held_of)|Dismissals\._until_wall_s", of.bindings),
            (r"BindingCache\._holders", of.bindings * (2 + held)),
            (r"PlainCache\.(by_key|_by_node)|PlainAnchor\.(_newest|_waiting)", of.bindings),
            (r"PlainCache\._by_prefix|PrefixPool\._leases", nodes * held),
            (r"PrefixPool\._resting", 1024),  # what was held at most attaches_per_s times the time that a prefix rests
            (r"Session\.anchors|Binding\.anchors|PlainBinding\.prefixes", held),
            (r"Session\.(others|ages)", 2 * held),  # what we are told, which may be late
            (r"Session\.withdrawn", 4 * held),
            (r"(Anchor|_Draft)\.local_networks", LOCAL_NETWORKS),
            (r"Exchanges\.(_waiting|_queue|_recent)", asked),
            (r"Exchanges\._by_sequence", asked * REMEMBERED_SEQUENCES),
            (r"Exchange\.sequences", REMEMBERED_SEQUENCES),
            (r"Timers\._due", timers),
            (r"Timers\.(_heap|_entry)", 64 + 3 * timers),
            (r"Counters\.peers", peers),
            (r"PeerCounters\.dropped", 256 + len(FORMATS) + 64),  # Binding Errors by status, malformed options by type
            (r"PeerCounters\.refused", 128),
            (r"\w+\.options", 700),  # of one message: at most 2048 octets
        )
    ]


def limit_of(name: str, limits: Table) -> int:
    """What the container of that name may hold."""
    return next((limit for pattern, limit in limits if pattern.fullmatch(name)), OTHERWISE)


class Containers:
    """The containers of one protocol object that live as long as it does, and those in what these hold.

    Found once, so that looking at all of them takes microseconds and can be done all along.
    """

    def __init__(self, node: Any, limits: Table) -> None:
        self._limits = limits
        self._found = [(owner, name, place, limit_of(place, limits)) for owner, name, place, _ in _lasting(node)]
        self._paths = [(owner, name, path) for owner, name, _, path in _lasting(node)]
        self._inner: dict[type, tuple[tuple[str, str, int], ...]] = {}
        self._said: set[str] = set()

    def exceeded(self) -> list[str]:
        """What is larger than it may be, a line each, once in the life of the object."""
        lines: list[str] = []
        for owner, name, place, limit in self._found:
            held = getattr(owner, name)
            if not held:
                continue
            if len(held) > limit:
                self._say(place, len(held), limit, lines)
            values = held.values() if type(held) is dict else held
            # What is in a container is all of one kind: mostly of one that contains nothing.
            inside = self._inside(type(next(iter(values))))
            for value in values if inside else ():
                for inner, inner_place, inner_limit in inside:
                    size = len(getattr(value, inner) or ())
                    if size > inner_limit:
                        self._say(inner_place, size, inner_limit, lines)
        return lines

    def _say(self, place: str, size: int, limit: int, lines: list[str]) -> None:
        if place not in self._said:
            self._said.add(place)
            lines.append(f"{place} holds {size}, limit {limit}")

    def left(self) -> Iterator[tuple[str, Any]]:
        """Those of the object itself that hold something: attributes on the way there, and the content."""
        for owner, name, path in self._paths:
            if held := getattr(owner, name):
                yield path, held

    def _inside(self, kind: type) -> tuple[tuple[str, str, int], ...]:
        inside = self._inner.get(kind)
        if inside is None:
            named = ((name, f"{kind.__name__}.{name}") for name in _containers_of(kind))
            inside = tuple((name, place, limit_of(place, self._limits)) for name, place in named)
            self._inner[kind] = inside
        return inside


@cache
def _containers_of(kind: type) -> tuple[str, ...]:
    """The fields of a value that are containers: by their annotations, which are texts."""
    if not is_dataclass(kind):
        return ()
    return tuple(field.name for field in fields(kind) if _CONTAINS.match(str(field.type)))


def _lasting(node: Any) -> Iterator[tuple[Any, str, str, str]]:
    """The containers of ``node`` and of the objects that it is made of: owner, attribute, name, and the way there."""
    seen: set[int] = set()
    waiting = deque([(node, "")])
    while waiting:
        owner, way = waiting.popleft()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for name, value in vars(owner).items():
            if isinstance(value, CONTAINERS) and not isinstance(value, tuple):
                yield owner, name, f"{type(owner).__name__}.{name}", way + name
            elif type(value).__module__.startswith("anchord.protocol.") and hasattr(value, "__dict__"):
                waiting.append((value, f"{way}{name}."))
