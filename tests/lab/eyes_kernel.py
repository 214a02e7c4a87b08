"""A node's kernel as two others see it: ``ip -j``, and pyroute2 by netlink. Both give the same text for the same thing.

Neither shares a line with our own netlink code. Of a gateway only what is marked as a daemon's is listed: protocol 201
of routes and rules, and what is on links of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab_scenes import ip
from pyroute2 import IPRoute

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside

PROTOCOL, RA, MAIN = 201, 9, 254
DLIFS, INTERNAL = "dlf", "an-"
_TYPES = {1: "", 6: "blackhole ", 7: "unreachable ", 9: "throw "}  # linux/rtnetlink.h
_PERMANENT = 0x80  # linux/neighbour.h
_INET6 = 10
_PREFERENCES = {0: "medium", 1: "high", 3: "low"}  # RFC 4191 section 2.1


@dataclass(frozen=True)
class Kernel:
    """Routes, rules, permanent neighbours and addresses of a daemon's."""

    routes: frozenset[str]
    rules: frozenset[str]
    neighbours: frozenset[str]
    addresses: frozenset[str]


def _mine(device: str) -> bool:
    return device.startswith((DLIFS, INTERNAL))


def _words(*pairs: tuple[str, object]) -> str:
    return " ".join(f"{name} {value}".strip() for name, value in pairs if value not in (None, ""))


def seen_by_ip(domain: Domain, node: str) -> Kernel:
    """By iproute2."""
    routes = set()
    for row in ip(domain, node, "-d", "route", "show", "table", "all", "proto", str(PROTOCOL)):
        kind = row.get("type", "unicast").replace("unicast", "")
        encap = ""
        if row.get("encap") == "seg6":
            encap = f"{row['mode']} {','.join(row['segs'])}"
        elif row.get("encap") == "seg6local":
            encap = row["action"]
        routes.add(
            f"{kind} {row['dst']} ".lstrip()
            + _words(
                ("from", row.get("from")), ("via", row.get("gateway")), ("encap", encap),
                ("dev", row["dev"]), ("table", row.get("table")),
            )
        )  # fmt: skip
    rules = set()
    for row in ip(domain, node, "-d", "rule", "show"):
        if row.get("protocol") == str(PROTOCOL):
            table, what = row.get("table", ""), "blackhole" if row.get("action") == "blackhole" else ""
            rules.add(
                _words(
                    ("", row["priority"]), ("to", row.get("dst")), ("iif", row.get("iif")),
                    ("proto", row.get("ipproto")), ("lookup", {"local": "255"}.get(table, table)),
                    ("goto", row.get("goto")), ("", what),
                ).strip()
            )  # fmt: skip
    neighbours = {
        f"{row['dst']} dev {row['dev']} lladdr {row['lladdr']}"
        for row in ip(domain, node, "neigh", "show", "nud", "permanent")
        if _mine(row["dev"])
    }
    addresses = {
        f"{address['local']}/{address['prefixlen']} dev {row['ifname']}"
        for row in ip(domain, node, "addr", "show")
        for address in row.get("addr_info", [])
        if _mine(row["ifname"])
    }
    return Kernel(*map(frozenset, (routes, rules, neighbours, addresses)))


def _prefix(message: Any, attribute: str, length: str) -> str | None:
    address, bits = message.get_attr(attribute), message[length]
    if address is None:
        return None
    return str(address) if bits == 128 else f"{address}/{bits}"


def _encapsulation(message: Any) -> str:
    """linux/seg6_iptunnel.h and linux/seg6_local.h: mode 3 is encap.red, action 7 End.DT6."""
    encap = message.get_attr("RTA_ENCAP")
    if encap is None:
        return ""
    header = encap.get_attr("SEG6_IPTUNNEL_SRH")
    if header is None:
        return {7: "End.DT6"}[encap.get_attr("SEG6_LOCAL_ACTION")]
    return f"{ {3: 'encap.red'}[header['encapmode']] } {','.join(header['segs'])}"


def seen_by_pyroute2(domain: Domain, node: str) -> Kernel:
    """By netlink, in somebody else's hands."""
    with inside(domain.namespace(node)):
        asked = IPRoute()
    with asked:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in asked.get_links()}
        routes = {
            f"{_TYPES[row['type']]}{_prefix(row, 'RTA_DST', 'dst_len') or 'default'} "
            + _words(
                ("from", _prefix(row, "RTA_SRC", "src_len")), ("via", row.get_attr("RTA_GATEWAY")),
                ("encap", _encapsulation(row)), ("dev", names[row.get_attr("RTA_OIF")]),
                ("table", row.get_attr("RTA_TABLE")),
            )
            for row in asked.get_routes(family=_INET6)
            if row["proto"] == PROTOCOL
        }  # fmt: skip
        rules = set()
        for row in asked.get_rules(family=_INET6):
            if row.get_attr("FRA_PROTOCOL") == PROTOCOL:
                rules.add(
                    _words(
                        ("", row.get_attr("FRA_PRIORITY")), ("to", _prefix(row, "FRA_DST", "dst_len")),
                        ("iif", row.get_attr("FRA_IIFNAME")),
                        ("proto", {41: "ipv6"}.get(row.get_attr("FRA_IP_PROTO"))),
                        ("lookup", row.get_attr("FRA_TABLE") or None), ("goto", row.get_attr("FRA_GOTO")),
                        ("", "blackhole" if row["action"] == 6 else ""),
                    ).strip()
                )  # fmt: skip
        neighbours = {
            f"{row.get_attr('NDA_DST')} dev {names[row['ifindex']]} lladdr {row.get_attr('NDA_LLADDR')}"
            for row in asked.get_neighbours(family=_INET6)
            if row["state"] & _PERMANENT and _mine(names[row["ifindex"]])
        }
        addresses = {
            f"{row.get_attr('IFA_ADDRESS')}/{row['prefixlen']} dev {names[row['index']]}"
            for row in asked.get_addr(family=_INET6)
            if _mine(names[row["index"]])
        }
    return Kernel(*map(frozenset, (routes, rules, neighbours, addresses)))


def links_by_mac(domain: Domain, node: str) -> dict[str, str]:
    """Every interface of a node, by pyroute2."""
    with inside(domain.namespace(node)):
        asked = IPRoute()
    with asked:
        return {link.get_attr("IFLA_ADDRESS"): link.get_attr("IFLA_IFNAME") for link in asked.get_links()}


@dataclass(frozen=True)
class HostSees:
    """What a host has made of advertisements: addresses with (valid, preferred), routers with (lifetime, preference),
    the latter's MAC addresses; all times in seconds."""

    addresses: dict[str, tuple[int, int]]
    routers: dict[str, tuple[int, str]]
    macs: dict[str, str]


def host_by_ip(domain: Domain, host: str) -> HostSees:
    """By iproute2."""
    (link,) = ip(domain, host, "addr", "show", "dev", "eth0")
    return HostSees(
        {
            each["local"]: (each["valid_life_time"], each["preferred_life_time"])
            for each in link["addr_info"]
            if each["scope"] == "global"
        },
        {row["gateway"]: (row["expires"], row["pref"]) for row in ip(domain, host, "route", "show", "default")},
        {row["dst"]: row["lladdr"] for row in ip(domain, host, "neigh") if "router" in row and "lladdr" in row},
    )


def host_by_pyroute2(domain: Domain, host: str) -> HostSees:
    """By netlink. The kernel counts a route's time in hundredths of a second (USER_HZ)."""
    with inside(domain.namespace(host)):
        asked = IPRoute()
    with asked:
        addresses = {
            row.get_attr("IFA_ADDRESS"): (
                row.get_attr("IFA_CACHEINFO")["ifa_valid"],
                row.get_attr("IFA_CACHEINFO")["ifa_preferred"],
            )
            for row in asked.get_addr(family=_INET6, scope=0)
        }
        routers = {
            row.get_attr("RTA_GATEWAY"): (
                row.get_attr("RTA_CACHEINFO")["rta_expires"] // 100,
                _PREFERENCES[row.get_attr("RTA_PREF")],
            )
            for row in asked.get_routes(family=_INET6, table=MAIN)
            if row["proto"] == RA and row["dst_len"] == 0
        }
        macs = {
            row.get_attr("NDA_DST"): row.get_attr("NDA_LLADDR")
            for row in asked.get_neighbours(family=_INET6)
            if row["flags"] & 0x80 and row.get_attr("NDA_LLADDR")  # NTF_ROUTER
        }
    return HostSees(addresses, routers, macs)
