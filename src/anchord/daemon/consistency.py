"""What has to hold between the tables of a domain file, and between a node file and its domain file.

Everything here looks at the tables as they stand in the file: single values may be missing or of any type, because
these rules are tried even where a value is wrong on its own. ``config.py`` has the tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.daemon.configfile import (
    Conflict,
    Place,
    dotted,
    global_address,
    mac_address,
    shown,
    tolerant,
)

# What the node file of a central database or a directory may call it; no gateway may have these names.
CENTRAL_NAMES = ("central", "cmd")
DIRECTORY_NAMES = ("directory", "dir")
NEIGHBOURS = 8  # gateways that are asked for a host of which nothing is known
_CENTRAL_NODES = {"central": CENTRAL_NAMES, "directory": DIRECTORY_NAMES}  # by finder
_SPOKEN = {**dict.fromkeys(CENTRAL_NAMES, "central database"), "dir": "directory"}
SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without the closing zero


def policy_host(value: object) -> bytes:
    """A MAC address; empty: any."""
    return b"" if value == "any" else mac_address(value)


def misfits(node: Mapping[str, Any], domain: Mapping[str, Any], default_run: str) -> Iterator[Conflict]:
    """What is wrong between a node file and its domain file."""
    name, known, lmas = node.get("node"), tables(domain, "gateways"), tables(domain, "lmas")
    if not isinstance(name, str):
        return
    central = {finder: names for finder, names in _CENTRAL_NODES.items() if domain.get("finder", "central") == finder}
    others = [one for names in central.values() for one in names]
    if name not in (*known, *lmas, *others):
        expected = ", ".join([*known, *lmas, *central])
        yield ("node",), f"{name!r} is no node of the domain, expected one of {expected}"
    role = "gateway" if name in known else "lma" if name in lmas else _SPOKEN.get(name, name) if name in others else ""
    if role:
        yield from wrong_interfaces(role, node)
    for key in ("ignore", "neighbours"):
        if node.get(key) and role not in ("", "gateway"):
            yield (key,), "has an effect at a gateway only, expected none"
    if node.get("denied") and name not in (*lmas, *CENTRAL_NAMES):
        yield ("denied",), "has an effect at an LMA or the central database only, expected none"
    if node.get("store") == "memory" and name not in CENTRAL_NAMES:
        yield ("store",), "is 'memory', which only the central database can have, expected 'sqlite'"
    if name in known:
        yield from _strange_neighbours(node.get("neighbours"), name, known)
    run = node.get("run", default_run)
    if isinstance(run, str) and len(f"{run}/{name}.sock".encode()) > SOCKET_PATH_BYTES:
        yield ("run",), f"is too long, expected at most {SOCKET_PATH_BYTES} bytes with the socket's name"


def wrong_interfaces(role: str, node: Mapping[str, Any]) -> Iterator[Conflict]:
    """Interfaces that a node of that ``role`` lacks or has no use for: a gateway has both kinds, an LMA no access."""
    for key in ("access", "core"):
        needed = role == "gateway" or (role == "lma" and key == "core")
        if needed and not node.get(key):
            yield (key,), f"is empty, expected at least one interface for {_article(role)}"
        if not needed and node.get(key):
            yield (key,), f"is not for {_article(role)}, expected none"


def _article(role: str) -> str:
    return {"gateway": "a gateway", "lma": "an LMA"}.get(role, f"the {role}")


def _strange_neighbours(neighbours: object, name: str, known: Mapping[str, Any]) -> Iterator[Conflict]:
    """Neighbours are other gateways of the domain, and few."""
    named = neighbours if isinstance(neighbours, list) else []
    if len(named) > NEIGHBOURS:
        yield ("neighbours",), f"has {len(named)} entries, expected at most {NEIGHBOURS}"
    for index, neighbour in enumerate(named):
        if neighbour in named[:index]:
            yield ("neighbours", index), f"is {shown(neighbour)} again, expected each gateway once"
        if neighbour == name or neighbour not in known:
            others = ", ".join(other for other in known if other != name)
            yield ("neighbours", index), f"is {shown(neighbour)}, expected another gateway of the domain: {others}"


def strange_names(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """Gateways and LMAs that are called what only another node may be called."""
    for key in ("gateways", "lmas"):
        for name in tables(raw, key):
            for finder, names in _CENTRAL_NODES.items():
                if name in names:
                    yield (key, name), f"{name!r} means the {_SPOKEN.get(finder, finder)}, expected another name"
    for name in tables(raw, "lmas"):
        if name in tables(raw, "gateways"):
            yield ("lmas", name), f"{name!r} is a gateway already, expected another name"


def strange_operators(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """An LMA stands between operators that gateways of the file belong to."""
    known = sorted({str(table["operator"]) for table in tables(raw, "gateways").values() if "operator" in table})
    for name, table in tables(raw, "lmas").items():
        operators = table.get("operators")
        for index, operator in enumerate(operators if isinstance(operators, list) else []):
            if operator not in known:
                expected = f"one of {', '.join(known)}" if known else "gateways with an operator"
                yield ("lmas", name, "operators", index), f"is {shown(operator)}, expected {expected}"
    whose = [(name, table.get("operator")) for name, table in tables(raw, "gateways").items()]
    if not any(table.get("operators") for table in tables(raw, "lmas").values()):
        for name, operator in whose:
            if operator != whose[0][1]:
                what = "is missing" if operator is None else f"is {shown(operator)}"
                expected = f"that of {whose[0][0]}, or an LMA between them: [lmas.NAME] with operators = {known}"
                yield ("gateways", name, "operator"), f"{what}, expected {expected}"


def strange_policies(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """Each host has one policy, whose LMA is one of the domain."""
    policies = raw.get("policy")
    seen: dict[bytes, Place] = {}
    for index, table in enumerate(policies if isinstance(policies, list) else []):
        if not isinstance(table, Mapping):
            continue
        lma, hosts = table.get("lma"), table.get("hosts")
        if isinstance(lma, str) and lma not in tables(raw, "lmas"):
            expected = ", ".join(tables(raw, "lmas")) or "a table [lmas.NAME]"
            yield ("policy", index, "lma"), f"{lma!r} is no LMA of the domain, expected {expected}"
        elif isinstance(lma, str) and tables(raw, "lmas")[lma].get("pools", []) == []:
            # It would have nothing to give them: each would be refused (RFC 5213 section 5.3.1, status 130).
            yield ("policy", index, "lma"), f"{lma!r} has no pools for these hosts, expected lmas.{lma}.pools"
        for place, host in enumerate(hosts if isinstance(hosts, list) else []):
            where: Place = ("policy", index, "hosts", place)
            known = tolerant(policy_host, host)
            first = where if known is None else seen.setdefault(known, where)
            if first != where:
                yield where, f"{host!r} is in {dotted(first)} already, expected each host once"


def finder_table(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """The table of whoever tells of anchors is there, and no other."""
    finder = raw.get("finder", "central")
    for table in _CENTRAL_NODES:
        if finder == table and table not in raw:
            yield (table,), f"is missing, expected a table with finder = {finder!r}"
        if finder != table and table in raw and finder in (*_CENTRAL_NODES, "anchor-known"):
            yield (table,), f"has no effect with finder = {finder!r}, expected none"


def tables(raw: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    """The tables under ``key``, as far as they are tables."""
    found = raw.get(key)
    return {k: v for k, v in found.items() if isinstance(v, Mapping)} if isinstance(found, Mapping) else {}


def addresses(raw: Mapping[str, Any]) -> Iterator[tuple[Place, IPv6Address]]:
    """The address of every node that has a good one."""
    found: list[tuple[Place, Mapping[str, Any]]] = [
        ((name,), raw[name]) for name in _CENTRAL_NODES if isinstance(raw.get(name), Mapping)
    ]
    found += [((key, name), table) for key in ("gateways", "lmas") for name, table in tables(raw, key).items()]
    for where, table in found:
        address = tolerant(global_address, table.get("address"))
        if address is not None:
            yield (*where, "address"), address


def prefixes(
    raw: Mapping[str, Any], key: str, read: Any, nodes: str = "gateways"
) -> Iterator[tuple[Place, IPv6Network]]:
    """The prefixes under ``key`` of every gateway, or LMA, that are good ones."""
    for name, table in tables(raw, nodes).items():
        values = table.get(key)
        for index, value in enumerate(values if isinstance(values, list | tuple) else []):
            prefix = tolerant(read, value)
            if prefix is not None:
                yield (nodes, name, key, index), prefix


def same_address(addresses: list[tuple[Place, IPv6Address]]) -> Iterator[Conflict]:
    owners: dict[IPv6Address, Place] = {}
    for where, address in addresses:
        first = owners.setdefault(address, where)
        is_its_cmd = first == ("central", "address") and where[0] == "lmas"  # an LMA between operators is their CMD
        if first != where and not is_its_cmd:
            yield where, f"{address} is {dotted(first)} already, expected an address for each node"


def overlaps(pools: list[tuple[Place, IPv6Network]]) -> Iterator[Conflict]:
    for (first, one), (second, other) in itertools.combinations(pools, 2):
        if one.overlaps(other):
            yield second, f"{other} overlaps {dotted(first)} ({one}), expected pools that share no address"


def unusable_resolvers(raw: Mapping[str, Any], pools: list[tuple[Place, IPv6Network]]) -> Iterator[Conflict]:
    resolvers: dict[IPv6Address, Place] = {}
    values = raw.get("resolvers")
    for index, value in enumerate(values if isinstance(values, list | tuple) else []):
        address, where = tolerant(global_address, value), ("resolvers", index)
        if address is None:
            continue
        if (first := resolvers.setdefault(address, where)) != where:
            yield where, f"{address} is {dotted(first)} already, expected each resolver once"
        for other, prefix in pools:
            if address in prefix:
                yield where, f"{address} lies in {dotted(other)} ({prefix}), which is for hosts, expected another one"
