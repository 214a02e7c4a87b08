"""A few questions and orders to the kernel about interfaces of one namespace, without a process for each.

A move has to be one message to the kernel, because its moment is what handovers are measured from; ``ip`` would take
2 ms. Message formats: rtnetlink(7), linux/if_link.h, linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from anchord.lab.errors import LabError
from anchord.lab.namespaces import inside
from anchord.lab.rtnetlink import ACK, CREATE, DUMP, REPLACE, attribute, attributes, request

_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, device type, index, flags, which flags to change
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type

_NEWLINK, _GETLINK, _SETLINK, _NEWNEIGH = 16, 18, 19, 28  # RTM_
_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MASTER, _IFLA_OPERSTATE, _IFLA_CARRIER = 1, 3, 10, 16, 33
_OPERATIONAL = b"\x06"  # IF_OPER_UP
_NDA_LLADDR = 2
_NUD_REACHABLE, _NTF_MASTER = 0x02, 0x04
_UP = 0x1  # IFF_UP
_SEND_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Link:
    """An interface: ``master`` is the index of the bridge it is a port of, 0 for none.

    ``operational``: the kernel has taken note of the carrier (RFC 2863); a bridge forwards to the port from then on.
    """

    index: int
    name: str
    mac: bytes
    master: int
    up: bool
    carrier: bool
    operational: bool


class Links:
    """The interfaces of one namespace, over a socket that is opened there and closed with the ``with`` block.

    Every method raises LabError with the kernel's reason.
    """

    def __init__(self, namespace: str) -> None:
        """Open the socket; raises LabError if there is no such namespace."""
        self._namespace = namespace
        with inside(namespace):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(_SEND_TIMEOUT_S)

    def __enter__(self) -> Self:
        """Nothing to do: the socket is open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self._socket.close()

    def all(self) -> list[Link]:
        """Every interface of the namespace."""
        replies = self._request(_GETLINK, DUMP, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return [_link(body) for kind, body in replies if kind == _NEWLINK]

    def get(self, name: str) -> Link:
        """One interface by its name."""
        for link in self.all():
            if link.name == name:
                return link
        raise LabError(f"namespace {self._namespace}: no interface {name}")

    def set_master(self, link: Link, bridge: Link) -> None:
        """Make ``link`` a port of ``bridge``, and of no other any more; its carrier does not change."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, link.index, 0, 0)
        self._request(_SETLINK, ACK, body + attribute(_IFLA_MASTER, struct.pack("=I", bridge.index)))

    def set_up(self, link: Link, up: bool) -> None:
        """Set the interface up or down; the other end of a veth pair gets or loses its carrier."""
        self._request(_SETLINK, ACK, _IFINFO.pack(socket.AF_UNSPEC, 0, link.index, _UP if up else 0, _UP))

    def learn(self, port: Link, mac: bytes) -> None:
        """Let the bridge of ``port`` know that ``mac`` is behind it, as if a frame had come in there."""
        body = _NEIGHBOUR.pack(socket.AF_BRIDGE, port.index, _NUD_REACHABLE, _NTF_MASTER, 0)
        self._request(_NEWNEIGH, ACK | CREATE | REPLACE, body + attribute(_NDA_LLADDR, mac))

    def _request(self, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
        try:
            return request(self._socket, kind, flags, body)
        except OSError as error:
            raise LabError(f"namespace {self._namespace}: {error.strerror or error}") from None


def _link(body: bytes) -> Link:
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = attributes(body[_IFINFO.size :])
    return Link(
        index=index,
        name=found[_IFLA_NAME].rstrip(b"\0").decode(),
        mac=found.get(_IFLA_ADDRESS, b""),
        master=int.from_bytes(found.get(_IFLA_MASTER, b""), sys.byteorder),
        up=bool(flags & _UP),
        carrier=bool(int.from_bytes(found.get(_IFLA_CARRIER, b""), sys.byteorder)),
        operational=found.get(_IFLA_OPERSTATE) == _OPERATIONAL,
    )
