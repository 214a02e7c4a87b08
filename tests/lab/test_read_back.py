"""What a move leaves in kernels, read back by others: at the host, at its anchor, and where it is now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network

import pytest
from eyes_kernel import HostSees, Kernel, host_by_ip, host_by_pyroute2, links_by_mac, seen_by_ip, seen_by_pyroute2
from lab_scenes import binding, move, topology, usable_address, wait_for

from anchord.lab.domain import Domain

LAB = f"anct-{os.getpid()}-back"
READERS = {"ip": seen_by_ip, "pyroute2": seen_by_pyroute2}
HOST_READERS = {"ip": host_by_ip, "pyroute2": host_by_pyroute2}
PASSED_S = 30  # since the advertisement, at most

# The forwarding plan (src/anchord/kernel/tables.py) by hand: what every gateway has, whoever is there.
RULES = """
10 to {me} proto ipv6 lookup 77
50 lookup 255
51 iif lo lookup 82
52 iif an-dn1 lookup 81
53 iif an-up1 lookup 83
54 iif an-re0 blackhole
55 iif core0 goto 57
55 iif an-re1 goto 57
55 iif an-up1 goto 57
55 iif an-dn1 goto 57
55 iif lo goto 57
56 lookup 80
57 lookup 78
"""
ROUTES = """
{me} encap End.DT6 dev an-re0 table 77
unreachable {pool} dev lo table 78
default from {pool} via fe80::2:1 dev an-re0 table 79
blackhole fe80::/10 dev lo table 79
blackhole ff00::/8 dev lo table 79
default via fe80::2:1 dev an-re1 table 79
default via fe80::2:1 dev an-re1 table 80
"""
NEIGHBOURS = """
fe80::2:1 dev an-up0 lladdr 02:ac:c9:00:00:01
fe80::2:1 dev an-dn0 lladdr 02:ac:c9:00:00:03
fe80::2:1 dev an-re0 lladdr 02:ac:c9:00:00:05
fe80::2:1 dev an-re1 lladdr 02:ac:c9:00:00:04
fe80::2:2 dev an-re1 lladdr 02:ac:c9:00:00:04
"""
# The anchor of a host that is elsewhere.
EXPORTED = """
{old} via fe80::2:1 dev an-dn0 table 78
{old} encap encap.red {other} dev an-re0 table 81
"""
# Where the host is: one prefix of this gateway, one that comes through a tunnel.
IMPORTED = """
{new} via fe80::1:1 dev {new_link} table 78
throw default from {new} dev lo table 80
{old} via fe80::1:1 dev {old_link} table 79
{old} via fe80::1:1 dev {old_link} table 82
default from {old} via fe80::2:1 dev an-up0 table 80
default from {old} encap encap.red {other} dev an-re0 table 83
"""
VISITOR = """
fe80::1:1 dev {new_link} lladdr {mac}
fe80::1:1 dev {old_link} lladdr {mac}
"""
FACES = """
{new_router}/64 dev {new_link}
{old_router}/64 dev {old_link}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    """mn1 has come from gw1 to gw2 and has asked both its routers who they are."""
    try:
        domain = Domain.up(topology(2, {"mn1": "gw1"}), LAB, owner_pid=os.getpid())
        usable_address(domain, "mn1", "gw1")
        move(domain, "mn1", "gw2")
        usable_address(domain, "mn1", "gw2")
        yield domain
    finally:
        Domain.take_down(LAB)


@pytest.fixture(scope="module")
def names(lab: Domain) -> dict[str, str]:
    """What the plan speaks of."""
    at_anchor, here = binding(lab, "gw1", "mn1"), binding(lab, "gw2", "mn1")
    assert at_anchor is not None and here is not None
    links = links_by_mac(lab, "gw2")
    return {
        "mac": lab.host_mac("mn1").hex(":"),
        "old": at_anchor["prefix"],
        "new": here["prefix"],
        "old_router": at_anchor["router"]["address"],
        "new_router": here["router"]["address"],
        "old_mac": at_anchor["router"]["mac"],
        "new_mac": here["router"]["mac"],
        "old_link": links[at_anchor["router"]["mac"]],
        "new_link": links[here["router"]["mac"]],
    }


def planned(domain: Domain, gateway: str, names: dict[str, str], *texts: str) -> frozenset[str]:
    this = domain.topology.gateways[gateway]
    (other,) = (each.address for each in domain.topology.gateways.values() if each.name != gateway)
    filled = "".join(texts).format(me=this.address, pool=this.pools[0], other=other, **names)
    return frozenset(line for line in filled.splitlines() if line)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("gateway", ["gw1", "gw2"])
def test_rows_11_and_12_a_gateway_has_the_routes_rules_neighbours_and_addresses_that_were_declared(
    lab: Domain, names: dict[str, str], gateway: str, reader: str
) -> None:
    is_anchor = gateway == "gw1"
    wanted = Kernel(
        planned(lab, gateway, names, ROUTES, EXPORTED if is_anchor else IMPORTED),
        planned(lab, gateway, names, RULES),
        planned(lab, gateway, names, NEIGHBOURS, "" if is_anchor else VISITOR),
        planned(lab, gateway, names, "" if is_anchor else FACES),
    )
    wait_for(lambda: READERS[reader](lab, gateway).addresses == wanted.addresses, "the last face has gone")
    assert READERS[reader](lab, gateway) == wanted


@pytest.mark.parametrize("reader", HOST_READERS)
def test_rows_27_29_and_30_the_host_has_understood_its_advertisements(
    lab: Domain, names: dict[str, str], reader: str
) -> None:
    """A stock Linux host: nothing of ours runs there, and no setting is touched."""
    read: Callable[[Domain, str], HostSees] = HOST_READERS[reader]
    seen = wait_for(lambda: known_routers(read(lab, "mn1"), 2), "the host has asked both routers")
    lifetimes = {str(IPv6Network((address, 64), strict=False)): times for address, times in seen.addresses.items()}
    assert set(lifetimes) == {names["old"], names["new"]}
    (old_valid, old_preferred), (new_valid, new_preferred) = lifetimes[names["old"]], lifetimes[names["new"]]
    assert old_preferred == 0
    for left, said in ((old_valid, 600), (new_valid, 600), (new_preferred, 300)):
        assert said - PASSED_S <= left <= said
    assert {router: preference for router, (_, preference) in seen.routers.items()} == {
        names["old_router"]: "low",
        names["new_router"]: "medium",
    }
    assert all(600 - PASSED_S <= left <= 600 for left, _ in seen.routers.values())
    assert seen.macs == {names["old_router"]: names["old_mac"], names["new_router"]: names["new_mac"]}


def known_routers(seen: HostSees, count: int) -> HostSees | None:
    return seen if len(seen.macs) == count else None
