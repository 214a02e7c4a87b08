"""Which way the packets of each TCP connection take through the gateways, counted there.

A table of the lab's own (``inet lab_paths``) in each gateway's namespace counts forwarded TCP packets by input
interface, output interface and ports. It counts in the forward hook, where every pass of a packet through a gateway
shows: a tunnel needs a pass through one of the gateway's internal interfaces, whose names begin with ``an-``. The
ports identify a connection, since the lab gives each its own; addresses would not fit into the key of an nft set.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

INTERNAL_PREFIX = "an-"

_RULESET = """
table inet lab_paths {
    set passes {
        type ifname . ifname . inet_service . inet_service
        size 65535
        flags dynamic
        counter
    }
    chain forward {
        type filter hook forward priority -200; policy accept;
        meta l4proto tcp add @passes { iifname . oifname . tcp sport . tcp dport }
    }
}
"""


class PathsError(Exception):
    """nft is missing, or refused; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One pass through a gateway, in one direction, of the connection with these ports."""

    gateway: str
    entrance: str
    exit: str
    source_port: int
    destination_port: int

    @property
    def in_tunnel(self) -> bool:
        """Whether this pass is part of a tunnel."""
        return self.entrance.startswith(INTERNAL_PREFIX) or self.exit.startswith(INTERNAL_PREFIX)


class Paths:
    """The counters in all gateways; ``namespaces`` maps gateways to their namespaces."""

    def __init__(self, namespaces: dict[str, str]) -> None:
        self._namespaces = namespaces
        for namespace in namespaces.values():
            _nft(namespace, ["-f", "-"], _RULESET)

    def read(self) -> Counter[Hop]:
        """Packets so far, by hop."""
        counts: Counter[Hop] = Counter()
        for gateway, namespace in self._namespaces.items():
            listing = json.loads(_nft(namespace, ["-j", "list", "set", "inet", "lab_paths", "passes"]))
            for item in listing["nftables"]:
                for element in item.get("set", {}).get("elem", ()):
                    value = element["elem"]
                    counts[Hop(gateway, *value["val"]["concat"])] += value["counter"]["packets"]
        return counts


def of_connection(counts: Iterable[Hop], host_port: int) -> list[Hop]:
    """The hops of the connection whose port at the host is ``host_port``, both directions."""
    return [hop for hop in counts if host_port in (hop.source_port, hop.destination_port)]


def detours(hops: Iterable[Hop], current: str) -> list[str]:
    """What is not plain about a connection's hops while the host is at gateway ``current``; empty if all is."""
    found = []
    for hop in hops:
        if hop.gateway != current:
            found.append(f"through {hop.gateway} ({hop.entrance} to {hop.exit})")
        elif hop.in_tunnel:
            found.append(f"through a tunnel at {hop.gateway} ({hop.entrance} to {hop.exit})")
    return found


def _nft(namespace: str, arguments: list[str], stdin: str | None = None) -> str:
    argv = ["ip", "netns", "exec", namespace, "nft", *arguments]
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PathsError(f"{error.filename} is missing: install iproute2") from None
    if done.returncode:
        raise PathsError(f"nft in {namespace}: {done.stderr.strip() or 'not found: install nftables'}")
    return done.stdout
