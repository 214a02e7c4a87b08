"""The nftables table ``inet anchord``: what may not enter or cross this gateway, each dropped and counted by cause.

foreign    an IPv6-in-IPv6 packet for the tunnel endpoint from nobody we know, or from the hosts' side. RFC 2473
           section 9: without this, anybody who reaches the endpoint could send inner packets of any source.
stale      a decapsulated packet for a host that is not (or no longer) here (RFC 5213 section 6.10.5), or one in
           transit that would go back to where it came from.
unbound    a packet of a host whose source has no binding here (RFC 5213 section 6.10.5).
link_local a host's packet from a link-local source to somewhere else (RFC 5213 section 6.10.5).
congestion a decapsulated packet whose outer header met congestion while its inner one cannot say so.
released   a host's packet from a prefix that was given up; it is told so: ICMPv6 destination unreachable, source
           address failed policy (RFC 4443 section 3.1), where a host that hears nothing would try for minutes.

Of these, unbound, released and almost all stale ones reach the sink by routing (tables.py); this table only counts and
drops there.

It also notes which prefixes are in use: the set ``active`` has every /64 that went into a tunnel downwards or came
out of one upwards, for ``idle_s`` seconds after each packet. Only prefixes that are exported or in transit go
downwards, and only sources of our pools come upwards, so it is as large as they are, and never beyond its limit.

ECN (RFC 5213 section 5.6.3: full functionality, RFC 3168 section 9.1.1): the kernel copies the inner ECN field to the
outer header, but forgets the outer one when it takes it off. So a packet that comes with Congestion Experienced is
marked before, and its inner header gets it, or it is dropped, after; the packet mark lasts across decapsulation.

The ruleset is loaded by
``nft`` in one transaction, and not at all when the same one is loaded already: its counters go on over a restart.
Counters are read over netlink, without a process. Formats: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import IPv6Network
from typing import Any

from anchord.kernel.errors import KernelError
from anchord.kernel.netlink import (
    NETLINK_NETFILTER,
    NetlinkSocket,
    attribute_text,
    attributes,
    each_attribute,
    text_of,
)
from anchord.kernel.tables import AGAIN0, DOWN0, DOWN1, GIVEN_UP, SINK, UP0, UP1, PlaneSettings

TABLE = "anchord"
COUNTERS = ("foreign", "stale", "unbound", "link_local", "congestion", "released")
_CONGESTED = 0x00800000
"""The one bit of the packet mark that a gateway uses, between two hooks of one packet's way through the kernel."""

_NFT_MSG_GETTABLE = (10 << 8) | 1
_NFT_MSG_GETSETELEM = (10 << 8) | 13
_NFT_MSG_GETOBJ = (10 << 8) | 19
_NFTA_TABLE_NAME, _NFTA_TABLE_USERDATA = 1, 6
_NFTA_OBJ_TABLE, _NFTA_OBJ_NAME, _NFTA_OBJ_DATA = 1, 2, 4
_NFTA_COUNTER_PACKETS = 2
_NFTA_LIST_TABLE, _NFTA_LIST_SET, _NFTA_LIST_ELEMENTS = 1, 2, 3
_NFTA_ELEM_KEY, _NFTA_DATA_VALUE = 1, 1
_FAMILY_INET = 1
_NFT_WITHIN_S = 20
_ACTIVE_AT_MOST = 65536
"""Prefixes that are noted as active: all /64 of a /48. What does not fit is taken for idle."""
NEW = IPv6Network("::/64")
"""Is in ``active`` from when the table is loaded until ``idle_s`` later: the others are not all known yet."""


def _counted(name: str) -> str:
    """The end of a rule that drops and counts."""
    return f'counter name "{name}" drop'


def ruleset(settings: PlaneSettings, promiscuous: Iterable[str] = ()) -> str:
    """The table as nft text.

    ``promiscuous`` names the access interfaces whose promiscuous mode was our doing; the table remembers them for
    ``flush``, because it is the one thing of ours that lives exactly as long as they should.
    """
    return f'table inet {TABLE} {{\n  comment "{mark_of(settings)}"\n{_body(settings, promiscuous)}}}\n'


def _body(settings: PlaneSettings, promiscuous: Iterable[str]) -> str:
    core = ", ".join(f'"{name}"' for name in settings.core)
    peers = _elements(sorted(str(peer) for peer in settings.peers))
    raised = _elements(f'"{name}"' for name in sorted(promiscuous))

    return f"""
  set peers {{ type ipv6_addr; {peers} }}
  set promiscuous {{ type ifname; {raised} }}
  set active {{ type ipv6_addr; flags dynamic, timeout; timeout {settings.idle_s}s; size {_ACTIVE_AT_MOST};
    elements = {{ {NEW.network_address} }}; }}
  {"; ".join(f"counter {name} {{ }}" for name in COUNTERS)}
  chain enter {{
    type filter hook prerouting priority raw; policy accept;
    ip6 daddr {settings.address} meta l4proto 41 iifname != {{ {core} }} {_counted("foreign")}
    ip6 daddr {settings.address} meta l4proto 41 ip6 saddr != @peers {_counted("foreign")}
    ip6 daddr {settings.address} meta l4proto 41 ip6 ecn ce meta mark set meta mark | {_CONGESTED:#x}
    ip6 saddr fe80::/10 ip6 daddr 2000::/3 iifname != {{ {core} }} fib daddr type != local {_counted("link_local")}
  }}
  chain cross {{
    type filter hook forward priority filter; policy accept;
    meta mark & {_CONGESTED:#x} != 0 ip6 ecn not-ect {_counted("congestion")}
    meta mark & {_CONGESTED:#x} != 0 ip6 ecn set ce meta mark set meta mark & {_CONGESTED ^ 0xFFFFFFFF:#x}
    oifname vmap {{ "{DOWN0}" : goto down, "{AGAIN0}" : goto up, "{UP0}" : goto up, "{SINK}" : goto sink }}
  }}
  chain down {{
    update @active {{ ip6 daddr & ffff:ffff:ffff:ffff:: }}
  }}
  chain up {{
    iifname {{ {core} }} update @active {{ ip6 saddr & ffff:ffff:ffff:ffff:: }}
  }}
  chain sink {{
    rt ip6 nexthop {GIVEN_UP} counter name "released" reject with icmpv6 type policy-fail
    iifname {{ {core} }} {_counted("stale")}
    {_counted("unbound")}
  }}
{"" if settings.access else _never_back(settings)}"""


def _never_back(settings: PlaneSettings) -> str:
    """What a machine that only stands between gateways adds: no packet goes back into the tunnel it came out of.

    Routing knows a prefix in transit, not the tunnel that its packet came out of, so two machines with stale state
    would play a packet to and fro. Its mark remembers the peer, a number each. Two nodes behind one peer may talk: a
    source in transit is one that errors would be sent to through the tunnel downwards (table LOCALOUT).
    """
    numbers = {peer: number for number, peer in enumerate(sorted(settings.peers), 1)}
    came = _elements(f"{peer} : {number}" for peer, number in numbers.items())
    back = _elements(f"{peer} . {number}" for peer, number in numbers.items())
    return f"""  map from {{ type ipv6_addr : mark; {came} }}
  set back {{ type ipv6_addr . mark; {back} }}
  chain remember {{
    type filter hook prerouting priority raw - 1; policy accept;
    ip6 daddr {settings.address} meta l4proto 41 meta mark set ip6 saddr map @from
    iifname "{SINK}" meta mark set 0
    iifname "{DOWN1}" fib saddr oifname "{DOWN0}" meta mark set 0
  }}
  chain onward {{
    type filter hook forward priority filter; policy accept;
    iifname {{ "{DOWN1}", "{UP1}" }} ip6 daddr . meta mark @back {_counted("stale")}
  }}
"""


def load(settings: PlaneSettings, promiscuous: Iterable[str] = (), newly: Iterable[str] = ()) -> bool:
    """Make the table what it should be; False when it was already.

    ``promiscuous``: see ``ruleset``; ``newly``: those of them that a loaded table does not know yet. When there are
    none and the table is as it should be, no process is started. Raises KernelError, NetlinkError.
    """
    if loaded_mark() == mark_of(settings):
        if new := ", ".join(newly):
            _nft("add", "element", "inet", TABLE, "promiscuous", f"{{ {new} }}")
        return False
    text = ruleset(settings, promiscuous)
    # One transaction: the first line makes sure that there is a table to delete.
    _nft("-f", "-", given=f"table inet {TABLE} {{ }}\ndelete table inet {TABLE}\n{text}")
    return True


def mark_of(settings: PlaneSettings) -> str:
    """What a loaded table of these settings has as its comment."""
    return blake2b(_body(settings, ()).encode(), digest_size=8).hexdigest()


def loaded_mark() -> str | None:
    """The comment of the loaded table; None when there is none. Raises NetlinkError."""
    with open_counters() as sock:
        for _, payload in sock.dump(_NFT_MSG_GETTABLE, _of_family(), "list the packet filter's tables"):
            found = attributes(payload, 4)
            if text_of(found.get(_NFTA_TABLE_NAME, b"")) == TABLE:
                # User data is a list of type, length, value, a byte each; nft writes a comment as type 0.
                return text_of(found.get(_NFTA_TABLE_USERDATA, b"\0\0")[2:])
    return None


def remove() -> bool:
    """Remove the table; False when there was none. Raises KernelError."""
    if _listed() is None:
        return False
    _nft("delete", "table", "inet", TABLE)
    return True


def raised_promiscuous() -> tuple[str, ...]:
    """Interfaces that were made promiscuous by us, as the loaded table remembers them."""
    for each in _listed() or ():
        if each.get("set", {}).get("name") == "promiscuous":
            return tuple(str(name) for name in each["set"].get("elem", ()))
    return ()


def read_counters(sock: NetlinkSocket) -> dict[str, int]:
    """Packets dropped since the table was loaded, by cause. ``sock``: see ``open_counters``. Raises NetlinkError."""
    body = _of_family() + attribute_text(_NFTA_OBJ_TABLE, TABLE)
    packets: dict[str, int] = {}
    for _, payload in sock.dump(_NFT_MSG_GETOBJ, body, "read the packet counters"):
        found = attributes(payload, 4)
        count = attributes(found.get(_NFTA_OBJ_DATA, b"")).get(_NFTA_COUNTER_PACKETS, b"")
        if text_of(found.get(_NFTA_OBJ_TABLE, b"")) == TABLE:
            packets[text_of(found[_NFTA_OBJ_NAME])] = int.from_bytes(count, "big")
    return {name: packets.get(name, 0) for name in COUNTERS}


def read_active(sock: NetlinkSocket) -> frozenset[IPv6Network]:
    """The /64 prefixes that are noted as active, and perhaps ``NEW``. Raises NetlinkError."""
    named = attribute_text(_NFTA_LIST_TABLE, TABLE) + attribute_text(_NFTA_LIST_SET, "active")
    active: set[IPv6Network] = set()
    for _, payload in sock.dump(_NFT_MSG_GETSETELEM, _of_family() + named, "read the active prefixes"):
        for _, each in each_attribute(attributes(payload, 4).get(_NFTA_LIST_ELEMENTS, b"")):
            key = attributes(attributes(each).get(_NFTA_ELEM_KEY, b"")).get(_NFTA_DATA_VALUE, b"")
            active.add(IPv6Network((key, 64)))
    return frozenset(active)


def open_counters() -> NetlinkSocket:
    """A socket for ``read_counters`` and ``read_active`` in the namespace of this thread."""
    return NetlinkSocket(NETLINK_NETFILTER)


def _of_family() -> bytes:
    return struct.pack("=BBH", _FAMILY_INET, 0, 0)


def _elements(items: Iterable[str]) -> str:
    listed = ", ".join(items)
    return f"elements = {{ {listed} }}" if listed else ""


def _listed() -> list[dict[str, dict[str, Any]]] | None:
    """The loaded table as nft describes it; None when there is none."""
    found = _run("-j", "list", "table", "inet", TABLE)
    if found.returncode:
        if "No such file" in found.stderr:
            return None
        raise KernelError("cannot read the packet filter", f"nft: {found.stderr.strip()}", "run anchord doctor")
    listed: list[dict[str, dict[str, Any]]] = json.loads(found.stdout)["nftables"]
    return listed


def _nft(*arguments: str, given: str = "") -> None:
    found = _run(*arguments, given=given)
    if found.returncode:
        raise KernelError("cannot load the packet filter", f"nft: {found.stderr.strip()}", "run anchord doctor")


def _run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") or shutil.which("nft")
    if program is None:
        raise KernelError("nft is not installed", "looked in PATH and /usr/sbin", "install the package nftables")
    try:
        return subprocess.run(
            [program, *arguments], input=given, capture_output=True, text=True, timeout=_NFT_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError("nft does not answer", str(error), "look for another nft that hangs") from error
