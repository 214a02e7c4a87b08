"""Whether two nodes were given the same domain file.

Nodes that disagree about pools or lifetimes do damage slowly. A registration therefore carries eight bytes of a keyed
hash over the domain, and so does its answer; a node that sees another value tells its operator, once for each change.
The carrier is the Experimental Mobility Option (type 18, RFC 5096 section 4.2), which everybody else skips.
"""

from __future__ import annotations

from collections.abc import Iterable

from anchord.wire.options import Option, UnknownOption

EXPERIMENTAL = 18
_MAGIC = b"anchord\0"
DIGEST_BYTES = 8


def agreement_option(digest: bytes) -> tuple[Option, ...]:
    """The option that says which domain file is in force here; nothing when there is no digest."""
    return (UnknownOption(EXPERIMENTAL, _MAGIC + digest[:DIGEST_BYTES]),) if digest else ()


def agrees(options: Iterable[Option], digest: bytes) -> bool | None:
    """Whether the sender has the same domain file; None when it does not say."""
    for option in options:
        if isinstance(option, UnknownOption) and option.kind == EXPERIMENTAL and option.data.startswith(_MAGIC):
            return option.data[len(_MAGIC) :] == digest[:DIGEST_BYTES]
    return None
