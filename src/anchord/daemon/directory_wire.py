"""What gateways and a directory say to each other: JSON objects, one a line, over TCP (docs/protocol.md has the table).

    {"get": KEY}                                  ->  {"key": KEY, "revision": N, "value": {...} or null}
    {"put": KEY, "revision": N, "value": {...}}   ->  {"key": KEY, "done": true, "revision": N, "value": {...}}
    {"grant": TTL_S, "domain": HEX}               ->  {"granted": OWNER, "domain": HEX, "began": SECONDS}
    anything else                                 ->  {"error": "..."}, with "key" if there is one

Many questions may be under way; ``get`` and ``put`` are answered in their order.
"""

from __future__ import annotations

import json
import math
import socket
from typing import Any, NoReturn

LINE_BYTES = 8192  # the longest line, without its end
BRACKETS = 500  # in a line; what is nested deeper than that no JSON decoder of ours should meet
TTL_S = 6.0  # a gateway that says nothing for so long counts as gone
RENEW_S = 2.0  # how often it says that it is there
MAX_TTL_S = 3600.0
DIGEST_DIGITS = 16  # of the domain file's digest: as much as PBUs carry


class LineTooLongError(Exception):
    """More than LINE_BYTES came in without an end of line."""


class Lines:
    """Cuts a stream into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends. Raises LineTooLongError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if max(map(len, (*lines, self._rest))) > LINE_BYTES:
            raise LineTooLongError
        return lines


def encode(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """One line as an object. Raises ValueError, which says what is wrong."""
    if line.count(b"[") + line.count(b"{") > BRACKETS:
        raise ValueError("too deep")
    message = json.loads(line, parse_constant=_no_number, parse_float=_finite)
    if not isinstance(message, dict):
        raise ValueError("no object")
    return message


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


def prompt(connection: socket.socket, silence_s: float) -> None:
    """Send at once, and give up a peer that acknowledges nothing for ``silence_s``."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_s * 1000))
