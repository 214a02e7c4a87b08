"""What a protocol object wants done. Outputs are carried out in order.

What is persisted before a message in that order survives a crash before the message leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import HostState, LogicalRouter
from anchord.wire.messages import Message
from anchord.wire.neighbor import Preference


@dataclass(frozen=True, slots=True)
class Send:
    """Send a Mobility Header message from this node's own address."""

    destination: IPv6Address
    message: Message


@dataclass(frozen=True, slots=True)
class Declare:
    """Make ``state`` true, then answer with ``Installed(ticket)``."""

    state: HostState
    ticket: int


@dataclass(frozen=True, slots=True)
class AdvertisedPrefix:
    """A prefix in a Router Advertisement; lifetimes in seconds."""

    prefix: IPv6Network
    valid_s: int
    preferred_s: int


@dataclass(frozen=True, slots=True)
class Advertise:
    """Send one Router Advertisement from ``router`` to one host, at layer 2 to that host only (RFC 6085)."""

    interface: str
    mac: bytes
    router: LogicalRouter
    prefixes: tuple[AdvertisedPrefix, ...]
    router_lifetime_s: int
    preference: Preference
    mtu: int
    routes: tuple[IPv6Network, ...] = ()  # RFC 4191: networks reachable through this router only
    route_lifetime_s: int = 0
    resolvers: tuple[IPv6Address, ...] = ()  # RFC 8106: reachable through this router
    resolver_lifetime_s: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the host whether it is still there: a Neighbour Solicitation from ``router`` for ``target``."""

    interface: str
    mac: bytes
    router: LogicalRouter
    target: IPv6Address


@dataclass(frozen=True, slots=True)
class AskUse:
    """Ask the kernel whether any of ``prefixes`` was used through its tunnel lately; answered by ``UseTold``."""

    session: str
    prefixes: tuple[IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Ignore:
    """Frames of this host on this interface need not be reported until ``Heed``."""

    interface: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class Heed:
    """Frames of this host on this interface are wanted again."""

    interface: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class Persist:
    """Remember ``value`` (JSON) under ``table``/``key`` across a crash; None forgets it."""

    table: str
    key: str
    value: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class DirectoryGet:
    """Ask the directory for what it holds under ``key``; no answer is no error, the protocol asks again."""

    key: str


@dataclass(frozen=True, slots=True)
class DirectoryPut:
    """Have the directory hold ``value`` (JSON; None: nothing) under ``key`` if its ``revision`` is still this one."""

    key: str
    revision: int
    value: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Report:
    """Something an operator may want to know. ``level``: debug, info, warning or error."""

    event: str
    level: str = "info"
    fields: dict[str, Any] = field(default_factory=dict)


Output = Send | Declare | Advertise | Probe | AskUse | Ignore | Heed | Persist | DirectoryGet | DirectoryPut | Report
