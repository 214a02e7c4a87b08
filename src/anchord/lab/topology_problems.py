"""What makes a topology impossible to build: every reason at once, each with the place where it stands in its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv6Interface, IPv6Network
from itertools import combinations
from typing import Any

from anchord.kernel.tables import ENCAPSULATION_OVERHEAD, MIN_MTU
from anchord.lab.errors import LabError, unknown
from anchord.lab.topology import (
    CORE,
    LINK_NAME,
    MAX_DELAY_MS,
    MAX_DELAYED_MTU,
    NODE_NAME,
    SWITCH,
    Place,
    Problem,
    Topology,
    router_on,
)


def problems(topology: Topology) -> Iterator[Problem]:
    """Everything that makes a topology impossible to build."""
    yield from _name_problems(topology)
    yield from _pool_problems(topology)
    yield from _address_problems(topology)
    yield from _host_problems(topology)
    yield from _finder_problems(topology)
    yield from _mtu_problems(topology)
    yield from _delay_problems(topology)
    yield from _program_problems(topology)


def _program_problems(topology: Topology) -> Iterator[Problem]:
    for node in topology.nodes():
        for number, word in enumerate(topology.program(node)):
            if "\0" in word:
                yield (*place(topology, node), "program", number), f"is {word!r}, expected no NUL"
            elif not number and not word:
                yield (*place(topology, node), "program", 0), "is empty, expected a command"


def _finder_problems(topology: Topology) -> Iterator[Problem]:
    for finder, node in (("central", topology.central), ("directory", topology.directory)):
        if node is not None and topology.finder != finder:
            yield (finder,), f"has no place in a domain whose finder is {topology.finder!r}, expected it to be left out"
    if topology.central is not None and topology.between is not None:
        yield ("central",), f"has no place beside {topology.between.name}, which takes it, expected it to be left out"


def _mtu_problems(topology: Topology) -> Iterator[Problem]:
    least = ENCAPSULATION_OVERHEAD + MIN_MTU
    if 0 < topology.core_mtu < least:
        why = f"tunnels take {ENCAPSULATION_OVERHEAD} bytes and IPv6 needs {MIN_MTU}"
        yield ("core_mtu",), f"is {topology.core_mtu}, {why}: expected {least} or more; 1540 carries full-size packets"


def _delay_problems(topology: Topology) -> Iterator[Problem]:
    delays = topology.delays()
    for node, delay_ms in delays.items():
        if not 0 <= delay_ms <= MAX_DELAY_MS:
            yield (*place(topology, node), "delay_ms"), f"is {delay_ms:g}, expected milliseconds, 0 to {MAX_DELAY_MS:g}"
    if delays and topology.core_mtu > MAX_DELAYED_MTU:
        yield ("core_mtu",), f"is {topology.core_mtu}, expected at most {MAX_DELAYED_MTU} where links have a delay"


def _host_problems(topology: Topology) -> Iterator[Problem]:
    macs: dict[str, str] = {}
    for host in topology.hosts.values():
        if host.mac and (other := macs.setdefault(host.mac.lower(), host.name)) != host.name:
            yield ("hosts", host.name, "mac"), f"{host.mac} is the address of {other} already, expected another one"
    for host in topology.hosts.values():
        if not host.at or not topology.gateways:
            continue  # not given, or no gateway is: reported already
        try:
            topology.link(host.at, host.access)
        except LabError as error:
            key = "access" if host.access is not None and host.at in topology.gateways else "at"
            yield ("hosts", host.name, key), str(error)


def _name_problems(topology: Topology) -> Iterator[Problem]:
    if not topology.gateways:
        yield ("gateways",), "is empty, expected at least one gateway"
    tables: dict[str, Mapping[str, Any]] = {
        "gateways": topology.gateways,
        "lmas": topology.lmas,
        "correspondents": topology.correspondents,
        "hosts": topology.hosts,
    }
    taken = {CORE: "the core router", SWITCH: "the access switch"}
    taken |= {topology.central.name: "the central database"} if topology.central else {}
    taken |= {topology.directory.name: "the directory"} if topology.directory else {}
    for table, nodes in tables.items():
        for name in nodes:
            if name in taken:
                yield (table, name), f"{name} is the name of {taken[name]} already, expected another one"
            elif not NODE_NAME.fullmatch(name):
                yield (
                    (table, name),
                    f"{name!r} is no node name, expected [a-z] and up to 7 more [a-z0-9]",
                )
            taken.setdefault(name, f"one of the {table}")
    for node in topology.correspondents.values():
        if node.behind is not None and topology.gateways and node.behind not in topology.gateways:
            yield ("correspondents", node.name, "behind"), str(unknown("gateway", node.behind, topology.gateways))
        if node.behind is not None and node.delay_ms:
            yield ("correspondents", node.name, "delay_ms"), "is not for a link behind a gateway, expected none"
    for gateway in topology.gateways.values():
        where = ("gateways", gateway.name, "access")
        for access in gateway.access:
            if not LINK_NAME.fullmatch(access):
                yield where, f"is {access!r}, expected 1 to 3 lower-case letters or digits"
        if len(set(gateway.access)) < len(gateway.access):
            yield where, "has a name twice, expected different ones"


def _pool_problems(topology: Topology) -> Iterator[Problem]:
    pools = [(node.name, pool) for node in topology.anchors() for pool in node.pools]
    for (one, first), (other, second) in combinations(pools, 2):
        if first.overlaps(second):
            yield (*place(topology, other), "pools"), f"{second} overlaps {first} of {one}, expected pools apart"
    for gateway in topology.gateways.values():
        if not gateway.pools:
            yield ("gateways", gateway.name, "pools"), "is empty, expected at least one prefix"


def _address_problems(topology: Topology) -> Iterator[Problem]:
    links: dict[IPv6Network, str] = {}
    pools = [(node.name, pool) for node in topology.anchors() for pool in node.pools]
    local = {node.name: IPv6Interface((node.address, 64)) for node in topology.correspondents.values() if node.behind}
    for name, interface in {**topology.on_core(), **local}.items():
        link = interface.network
        where = (*place(topology, name), "address")
        if link in links:
            yield where, f"{interface.ip} is on the link of {links[link]} ({link}), expected a /64 of its own"
        links.setdefault(link, name)
        if interface.ip in {router_on(link), link.network_address}:
            yield where, f"{interface.ip} is the core router's, expected another one"
        for owner, pool in pools:
            if pool.overlaps(link):
                yield where, f"{interface.ip} lies in the pool {pool} of {owner}, expected an address outside"


def place(topology: Topology, node: str) -> Place:
    """Where a node on the core is described in a topology file."""
    if node in topology.gateways:
        return ("gateways", node)
    if node in topology.lmas:
        return ("lmas", node)
    for single in (topology.central, topology.directory):
        if single is not None and node == single.name:
            return ("central",) if single is topology.central else ("directory",)
    return ("correspondents", node)


def dotted(where: Place) -> str:
    return ".".join(str(part) for part in where)
