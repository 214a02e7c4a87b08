"""The one error that reading bytes can give."""

from __future__ import annotations


class WireError(ValueError):
    """These bytes are not a message: discard them and count ``cause``.

    ``cause`` is a short stable word, fit to be the name of a counter. ``pointer`` is set where the sender should be
    told by an ICMPv6 Parameter Problem, code 0 (RFC 6275 section 9.2): the offset of the offending field, in octets
    from the start of the Mobility Header (an ICMPv6 sender adds what precedes that header in the packet, 40 octets
    for a plain IPv6 header); None where RFC 6275 asks for silence.
    """

    def __init__(self, cause: str, explanation: str, pointer: int | None = None) -> None:
        super().__init__(f"{cause}: {explanation}")
        self.cause = cause
        self.pointer = pointer
