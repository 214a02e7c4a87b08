"""Who a mobile node is, and which faces (DLIFs) its gateways show it."""

from __future__ import annotations

import hashlib

from anchord.declared import LogicalRouter
from anchord.wire.neighbor import eui64_link_local
from anchord.wire.options import MnIdSubtype, MobileNodeIdentifier


def mac_text(mac: bytes) -> str:
    """``02:00:5e:...``"""
    return mac.hex(":")


def mn_id_of_mac(mac: bytes) -> MobileNodeIdentifier:
    """The identifier of a node of which only the MAC address is known: RFC 8371 subtype EUI-48 (decision 29).

    Never the interface identifier of one of its addresses: hosts change those at will.
    """
    return MobileNodeIdentifier(MnIdSubtype.EUI48, mac)


def mn_id_text(mn_id: MobileNodeIdentifier) -> str:
    """The identifier as people write it: a NAI as it is, an EUI-48 with colons, anything else in hex."""
    if mn_id.subtype == MnIdSubtype.NAI:
        return mn_id.identifier.decode("utf-8", "backslashreplace")
    if mn_id.subtype == MnIdSubtype.EUI48:
        return mac_text(mn_id.identifier)
    return f"{mn_id.subtype}:{mn_id.identifier.hex()}"


def session_key(mn_id: MobileNodeIdentifier, link_layer_id: bytes | None) -> str:
    """The key of a mobility session: identity and interface.

    Two devices of one user are two sessions; RFC 5213 section 5.4 wants one session per interface.
    """
    return f"{mn_id.subtype}:{mn_id.identifier.hex()}/{(link_layer_id or b'').hex()}"


def derive_router(secret: bytes, gateway: str, mn_id: MobileNodeIdentifier, attempt: int = 0) -> LogicalRouter:
    """The DLIF of ``gateway`` towards one mobile node (decision 15).

    MAC = 02 and 40 bits of a hash over domain secret, gateway and MN-ID; link-local address = its EUI-64. Never
    taken from an interface, so every gateway of the domain derives the same face if nobody tells it. ``attempt``
    counts up when the address is already in use on the link.
    """
    digest = hashlib.sha256(b"\0".join((secret, gateway.encode(), bytes([mn_id.subtype]), mn_id.identifier)))
    if attempt:
        digest.update(attempt.to_bytes(4, "big"))
    mac = b"\x02" + digest.digest()[:5]
    return LogicalRouter(mac, eui64_link_local(mac))
