"""Two gateways on one layer-2 segment would fight for every host; they find each other out and refuse.

Every gateway broadcasts a short hello on each of its access interfaces, authenticated with the domain's secret so
that no host can switch a gateway off. Whoever hears another's, or its own from another interface, refuses to attach
new hosts there until it has been quiet for QUIET_S. The frame format is ours (EtherType 0x88B5, set aside by IEEE 802
for local experiments)::

    0               6               12     14      15         15+n
    | ff:ff:...     | source MAC    | 88b5 | n      | name      | HMAC-SHA-256(secret, name), 16 bytes |

The name is ``gateway/interface``.
"""

from __future__ import annotations

import hashlib
import hmac

ETHERTYPE = 0x88B5
EVERY_S = 5.0
QUIET_S = 16.0  # three hellos missed
_TAG_BYTES = 16


def hello(secret: bytes, source: bytes, name: str) -> bytes:
    """The frame with which the access interface ``name`` makes itself known. ``name``: at most 255 bytes."""
    text = name.encode()
    if len(text) > 255:
        raise ValueError(f"{name!r} is too long for a hello")
    body = bytes([len(text)]) + text + _tag(secret, text)
    return b"\xff" * 6 + source + ETHERTYPE.to_bytes(2, "big") + body


def read_hello(secret: bytes, frame: bytes) -> str | None:
    """Whose hello ``frame`` is; None when it is none or was not made with ``secret``."""
    if len(frame) < 15 or frame[12:14] != ETHERTYPE.to_bytes(2, "big"):
        return None
    length = frame[14]
    text, tag = frame[15 : 15 + length], frame[15 + length : 15 + length + _TAG_BYTES]
    if len(text) != length or not hmac.compare_digest(tag, _tag(secret, text)):
        return None
    return text.decode("utf-8", "replace")


def _tag(secret: bytes, text: bytes) -> bytes:
    return hmac.new(secret, b"anchord hello\0" + text, hashlib.sha256).digest()[:_TAG_BYTES]
