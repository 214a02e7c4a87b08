"""How large each container of a protocol object may become, whatever its peers and hosts send."""

from __future__ import annotations

import re
from typing import Any

from fuzz_snapshot import sizes

from anchord.protocol.exchange import REMEMBERED_SEQUENCES
from anchord.protocol.groups import LOCAL_NETWORKS
from anchord.wire.options import FORMATS

# What is not named here holds a few things of one session or peer, and never more than this.
OTHERWISE = 48


def exceeded(node: Any, settings: Any) -> tuple[dict[str, int], dict[str, int]]:
    """What is larger than it may be, and the size of everything."""
    found = sizes(node)
    limits = limits_of(node, settings)
    return {place: size for place, size in found.items() if size > limit_of(place, limits)}, found


def limit_of(place: str, limits: list[tuple[str, int]]) -> int:
    """The limit of the first pattern that the name of a container matches."""
    return next((limit for pattern, limit in limits if re.fullmatch(pattern, place)), OTHERWISE)


def limits_of(node: Any, settings: Any) -> list[tuple[str, int]]:
    """Patterns and limits, from the settings of the domain."""
    of = settings.limits
    peers = len(node.counters.peers)
    nodes = max(of.hosts, of.bindings)
    held = of.anchors_per_host  # prefixes of a node besides the one where it is
    kinds = 13  # of timers that a session may have
    asked = nodes * peers
    return [
        (r"GatewayCore\.(sessions|by_mac|_newest_ticket)|DirectoryFinder\._entries", of.hosts),
        (r"GatewayCore\._continuations", 4 * of.hosts),
        (r"GatewayCore\.router_macs", of.hosts * (1 + 2 * held)),
        (r"GatewayCore\.barred", of.hosts),
        (r"BindingCache\.(by_key|_held_of)", of.bindings),
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
        (r"Timers\._due", nodes * kinds + 1024),
        (r"Timers\.(_heap|_entry)", 64 + 3 * (nodes * kinds + 1024)),
        (r"Counters\.peers", peers),
        (r"PeerCounters\.dropped", 256 + len(FORMATS) + 64),  # Binding Errors by status, malformed options by type
        (r"PeerCounters\.refused", 128),
        (r"\w+\.options", 700),  # of one message: at most 2048 octets
    ]
