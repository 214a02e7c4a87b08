"""IPv6-in-IPv6 tunnels without a tunnel device: SRv6 with one segment and no routing header.

A route with ``encap seg6 mode encap.red`` and one segment puts exactly RFC 2473's packet on the wire: an outer IPv6
header whose destination is the segment and whose next header is 41, nothing else (RFC 8986 section 5.2: with one
segment the reduced encapsulation needs no Segment Routing Header). A route with ``encap seg6local action End.DT6`` on
the far end's address takes the outer header off and looks the inner packet up in a table of our choice (RFC 8986
section 4.6). The peer may therefore be any router that speaks RFC 2473.

The outer source address is one for the whole network namespace (``set_tunnel_source``); the per-route attribute is
accepted and ignored by the kernels tried. The traffic class, ECN bits included, is copied to the outer header; the
way back, from outer to inner, is in ``firewall.py``.
Formats: linux/seg6_iptunnel.h, linux/seg6_local.h, linux/seg6_genl.h.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from anchord.kernel.netlink import (
    NETLINK_GENERIC,
    NLM_F_ACK,
    NetlinkSocket,
    Request,
    attribute,
    attribute_u32,
    attributes,
    generic_family,
)

LWTUNNEL_ENCAP_SEG6 = 5
LWTUNNEL_ENCAP_SEG6_LOCAL = 7

_SEG6_IPTUNNEL_SRH = 1
_MODE_ENCAP_RED = 3
_SEG6_LOCAL_ACTION = 1
_SEG6_LOCAL_TABLE = 3
_ACTION_END_DT6 = 7
_GENL_SET_TUNSRC = 3
_GENL_GET_TUNSRC = 4
_ATTR_DST = 1

# struct seg6_iptunnel_encap {int mode; ipv6_sr_hdr}: next header, length (8-byte units), type 4, segments left,
# first segment, flags, tag, then one segment.
_SRH = struct.Struct("=iBBBBBBH16s")


def encap_red(segment: IPv6Address) -> bytes:
    """Contents of RTA_ENCAP: put the packet into IPv6 towards ``segment``."""
    return attribute(_SEG6_IPTUNNEL_SRH, _SRH.pack(_MODE_ENCAP_RED, 0, 2, 4, 0, 0, 0, 0, segment.packed))


def end_dt6(table: int) -> bytes:
    """Contents of RTA_ENCAP: take the outer header off and look the inner packet up in ``table``."""
    return attribute_u32(_SEG6_LOCAL_ACTION, _ACTION_END_DT6) + attribute_u32(_SEG6_LOCAL_TABLE, table)


def segment_of(encapsulation: bytes) -> IPv6Address | None:
    """The segment of an ``encap.red`` route read back from the kernel; None when it is anything else."""
    srh = attributes(encapsulation).get(_SEG6_IPTUNNEL_SRH, b"")
    if len(srh) != _SRH.size:
        return None
    mode, *_, segment = _SRH.unpack(srh)
    return IPv6Address(segment) if mode == _MODE_ENCAP_RED else None


def table_of(encapsulation: bytes) -> int | None:
    """The table of an End.DT6 route read back from the kernel; None when it is anything else."""
    found = attributes(encapsulation)
    action, table = found.get(_SEG6_LOCAL_ACTION, b""), found.get(_SEG6_LOCAL_TABLE, b"")
    if len(action) != 4 or len(table) != 4 or struct.unpack("=I", action)[0] != _ACTION_END_DT6:
        return None
    return int(struct.unpack("=I", table)[0])


def set_tunnel_source(address: IPv6Address) -> None:
    """Outer source address of everything this namespace encapsulates; ``::`` goes back to the kernel's choice.

    Raises NetlinkError: ENOENT when the kernel lacks SRv6, EPERM without CAP_NET_ADMIN.
    """
    with NetlinkSocket(NETLINK_GENERIC) as sock:
        body = struct.pack("=BBH", _GENL_SET_TUNSRC, 1, 0) + attribute(_ATTR_DST, address.packed)
        sock.execute(Request(generic_family(sock, "SEG6"), 0, body, f"set the tunnel source to {address}"))


def tunnel_source() -> IPv6Address:
    """The present outer source address, ``::`` when none is set. Raises NetlinkError."""
    with NetlinkSocket(NETLINK_GENERIC) as sock:
        body = struct.pack("=BBH", _GENL_GET_TUNSRC, 1, 0)
        for _, payload in sock.dump(generic_family(sock, "SEG6"), body, "read the tunnel source", NLM_F_ACK):
            found = attributes(payload, 4).get(_ATTR_DST, b"")
            if len(found) == 16:
                return IPv6Address(found)
    return IPv6Address(0)
