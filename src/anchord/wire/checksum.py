"""The Internet checksum of an upper-layer protocol over IPv6 (RFC 8200 section 8.1, RFC 1071)."""

from __future__ import annotations

from ipaddress import IPv6Address

ICMPV6 = 58
MOBILITY_HEADER = 135


def internet_checksum(source: IPv6Address, destination: IPv6Address, next_header: int, data: bytes) -> int:
    """Return the checksum to put into ``data``, whose own checksum field has to be zero.

    If that field holds the right checksum already, the result is 0: the way a receiver verifies it.
    """
    words = data + b"\0" if len(data) % 2 else data  # RFC 1071 section 4.1: an odd last octet is half a word
    # Because 2**16 = 1 (mod 65535), a number of 16-bit digits leaves the remainder of the sum of its digits: the
    # one's complement sum of RFC 1071, in one division instead of a loop. (Carries end around the same way.)
    # The pseudo-header: both addresses, the length as 32 bits, three zero octets and the next header.
    total = int(source) + int(destination) + len(data) + next_header + int.from_bytes(words, "big")
    # A remainder of 0 stands for the sum 0xFFFF: that of 0 is impossible, as the next header is never 0.
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)
