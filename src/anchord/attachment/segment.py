"""Two gateways on one layer-2 segment would fight for every host; they find each other out and refuse.

Every gateway broadcasts a short hello on each of its access interfaces. Whoever hears another's, or its own from
another interface, refuses to attach new hosts there until it has been quiet for QUIET_S. The frame format is ours
(EtherType 0x88B5, set aside by IEEE 802 for local experiments)::

    0           6            12     14          22   23        23+n
    | ff:ff:... | source MAC | 88b5 | time (ms) | n | name     | HMAC-SHA-256(secret, bytes 6 to 23+n), 16 bytes |

The name is ``gateway/interface``, the time in milliseconds since 1970. Without the domain's secret nobody makes one,
and one that was overheard is worth something for FRESH_S only. A host that carries a hello from one gateway's link to
another's within that time can still keep new hosts off the second: those two links are then one segment, by a host.
"""

from __future__ import annotations

import hashlib
import hmac

ETHERTYPE = 0x88B5
EVERY_S = 5.0
QUIET_S = 16.0  # three hellos missed
FRESH_S = 10.0  # gateways' clocks are synchronised far better than this (RFC 5213 section 5.5)
_TAG_BYTES = 16
_TIME = slice(14, 22)
_LENGTH = 22
_NAME = 23


def hello(secret: bytes, source: bytes, name: str, now_s: float) -> bytes:
    """The frame with which an access interface makes itself known.

    ``source``: its MAC address; ``name``: at most 255 bytes, else ValueError; ``now_s``: seconds since 1970.
    """
    text = name.encode()
    if len(text) > 255:
        raise ValueError(f"{name!r} is too long for a hello")
    body = source + ETHERTYPE.to_bytes(2, "big") + int(now_s * 1000).to_bytes(8, "big") + bytes([len(text)]) + text
    return b"\xff" * 6 + body + _tag(secret, body)


def read_hello(secret: bytes, frame: bytes, now_s: float) -> str | None:
    """Whose hello ``frame`` is; None when it is none, is stale, or was not made with ``secret``."""
    if len(frame) < _NAME or frame[12:14] != ETHERTYPE.to_bytes(2, "big"):
        return None
    end = _NAME + frame[_LENGTH]
    tag = frame[end : end + _TAG_BYTES]
    if len(tag) != _TAG_BYTES or not hmac.compare_digest(tag, _tag(secret, frame[6:end])):
        return None
    if abs(int.from_bytes(frame[_TIME], "big") / 1000 - now_s) > FRESH_S:
        return None
    return frame[_NAME:end].decode("utf-8", "replace")


def _tag(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, b"anchord hello\0" + body, hashlib.sha256).digest()[:_TAG_BYTES]
