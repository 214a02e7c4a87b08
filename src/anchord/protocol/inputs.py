"""What can happen to a protocol object. Every value here can be written down and fed in again."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.wire.messages import Message


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A well-formed Mobility Header message came in. ``unicast``: it was sent to a unicast address of ours."""

    source: IPv6Address
    message: Message
    unicast: bool = True


@dataclass(frozen=True, slots=True)
class MessageDropped:
    """Bytes came in that were not looked at further: not from a peer, or no message. ``cause`` is counted."""

    source: IPv6Address
    cause: str


@dataclass(frozen=True, slots=True)
class HostSeen:
    """A frame of a candidate host was noticed on an access interface, whatever noticed it.

    ``address``: one of the host's own, if the frame showed one. ``solicited``: the frame was a Router Solicitation.
    ``reassociated``: layer 2 says that the host (re)associated, so it may have forgotten its routers.
    ``age_s``: how long ago the frame arrived (seconds). ``router``: the MAC address that an IPv6 packet was sent to.
    """

    interface: str
    mac: bytes
    address: IPv6Address | None = None
    solicited: bool = False
    reassociated: bool = False
    age_s: float = 0.0
    router: bytes | None = None


@dataclass(frozen=True, slots=True)
class SegmentConflict:
    """Another gateway (or another access interface of ours) was heard on ``interface``; ``other`` names it.

    ``mac``: what it sent with. That is no host, whatever it was taken for before.
    """

    interface: str
    other: str
    mac: bytes = b""


@dataclass(frozen=True, slots=True)
class SegmentClear:
    """The conflict on ``interface`` is over."""

    interface: str


@dataclass(frozen=True, slots=True)
class Installed:
    """The forwarding layer made declaration ``ticket`` true, or could not (``error`` says why)."""

    ticket: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseLeft:
    """An earlier process has left forwarding for ``prefix``, which is of our pool; told once, right after the start.

    ``mac``: of the host that has it, if that is here.
    """

    prefix: IPv6Network
    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class MtuChanged:
    """What hosts on an access interface are to be told from now on (bytes): what fits onto it and into any tunnel."""

    interface: str
    mtu: int


@dataclass(frozen=True, slots=True)
class UseTold:
    """Whether a packet of what was asked about used a tunnel within ``idle_release_s``, in either direction."""

    session: str
    used: bool


@dataclass(frozen=True, slots=True)
class DirectoryAnswered:
    """What the directory holds under ``key``; ``value`` None: nothing, at ``revision`` 0 if there never was anything.

    ``written``: None answers ``DirectoryGet``; True or False ``DirectoryPut``: whether it was carried out. If not,
    ``revision`` and ``value`` are what somebody else has put there.
    """

    key: str
    revision: int
    value: dict[str, Any] | None
    written: bool | None = None


@dataclass(frozen=True, slots=True)
class DirectoryMet:
    """A directory answers whose store began at ``began_wall_s`` (seconds since 1970, by the directory's clock).

    Of another time than before: it has lost all that it held, or it is another directory.
    """

    began_wall_s: float


Input = (
    MessageReceived
    | MessageDropped
    | HostSeen
    | SegmentConflict
    | SegmentClear
    | Installed
    | LeaseLeft
    | MtuChanged
    | UseTold
    | DirectoryAnswered
    | DirectoryMet
)
