"""Every message that was dropped, refused or repeated, counted by peer and cause: so that an operator sees why."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from anchord.protocol.timers import Instant
from anchord.wire.messages import Status


def status_name(status: int) -> str:
    """A status as an operator looks it up; unknown ones as their number."""
    try:
        return Status(status).name.lower().replace("_", "-")
    except ValueError:
        return str(status)


@dataclass(slots=True)
class PeerCounters:
    """What passed between this node and one peer."""

    messages_in: int = 0
    messages_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # by cause
    refused: dict[str, int] = field(default_factory=dict)  # by status name
    repeated: int = 0
    last_heard_wall_s: float | None = None
    same_domain: bool | None = None  # None: it has not said
    clock_skew_ms: int | None = None  # how far its clock is ahead of ours, if that is too far; None: it is not
    reachable: bool | None = None  # by its answers to heartbeats; None: it has not been asked
    restart_counter: int | None = None  # of RFC 5847: another one, and it has lost its sessions

    def drop(self, cause: str) -> None:
        """Count one message that changed nothing."""
        self.dropped[cause] = self.dropped.get(cause, 0) + 1

    def refuse(self, status: int) -> None:
        """Count one message that was answered with ``status`` (128 or more), by us or by the peer."""
        name = status_name(status)
        self.refused[name] = self.refused.get(name, 0) + 1


class Counters:
    """Counters by configured peer; everybody else shares one entry, so that strangers cannot make it grow."""

    def __init__(self, peers: tuple[IPv6Address, ...]) -> None:
        self.peers = {peer: PeerCounters() for peer in peers}
        self.strangers = PeerCounters()
        self.local: dict[str, int] = {}

    def of(self, peer: IPv6Address) -> PeerCounters:
        """The counters of ``peer``, or those of all strangers."""
        return self.peers.get(peer, self.strangers)

    def heard(self, peer: IPv6Address, now: Instant) -> PeerCounters:
        """A message of ``peer`` came in; its counters."""
        counters = self.of(peer)
        counters.messages_in += 1
        counters.last_heard_wall_s = now.wall_s
        return counters

    def agreement(self, peer: IPv6Address, same: bool | None) -> bool:
        """Note what ``peer`` said of its domain file; whether that is news, and bad."""
        counters = self.of(peer)
        if same is None or same == counters.same_domain:
            return False
        counters.same_domain = same
        return not same

    def count(self, cause: str) -> None:
        """Count something that no peer caused: frames, attaches, limits."""
        self.local[cause] = self.local.get(cause, 0) + 1
