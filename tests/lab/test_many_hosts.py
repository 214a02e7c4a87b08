"""Two hundred hosts on three gateways, moving at random, whoever tells of anchors; in the end nothing is left of them.
Fewer in plain PMIPv6, where an LMA anchors them all.

Lifetimes are as short as they can be. When all have settled, every address of every host answers. Then all are taken
off their links, and everything has to go by itself: kernel state, sessions, records, journals.
"""

from __future__ import annotations

import dataclasses
import os
import random
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from lab_scenes import MODES, ip, show, topology, wait_for

from anchord.lab.domain import Domain
from anchord.lab.links import Links
from anchord.lab.namespaces import inside
from anchord.lab.topology import SWITCH, Topology, numbered_lma
from anchord.store.sqlite import SqliteStore

LAB = f"anct-{os.getpid()}-many"
HOSTS = 200
PLAIN, PLAIN_HOSTS = "plain", 40
MOVES_EACH = 2
CROWDS = (*MODES, PLAIN)
AT_ONCE = 20  # moves between two pauses
GATEWAYS = ("gw1", "gw2", "gw3")
SETTLED_S = 30.0
GONE_S = 90.0
EVERYBODY = {"policy": [{"hosts": ["any"], "lma": "home"}]}
LIFETIMES = {"valid_s": 30, "preferred_s": 15, "router_s": 30, "advertise_every_s": 10, "binding_s": 12}


@pytest.fixture(scope="module", autouse=True)
def room_for_neighbours() -> Iterator[None]:
    """All namespaces of a machine share one limit of neighbours, which the first of them shows; it is put back."""
    limits = {Path(f"/proc/sys/net/ipv6/neigh/default/gc_thresh{number}"): value for number, value in
              ((3, "65536"), (2, "32768"), (1, "16384"))}  # fmt: skip
    before = {path: path.read_text() for path in limits}
    for path, value in limits.items():
        path.write_text(value)
    yield
    for path in reversed(before):
        path.write_text(before[path])


def crowd(mode: str) -> Topology:
    number_of_hosts = PLAIN_HOSTS if mode == PLAIN else HOSTS
    hosts = {f"h{number}": GATEWAYS[number % len(GATEWAYS)] for number in range(number_of_hosts)}
    settings = MODES.get(mode, {"lmas": {"home": numbered_lma("home", 1)}, "domain": EVERYBODY})
    plain = topology(3, hosts, **{key: value for key, value in settings.items() if key != "domain"})
    domain = {
        "lifetimes": LIFETIMES,
        "timers": {"probe_after_s": 1},
        "pmip": {"min_delay_before_bce_delete_ms": 500},
        "limits": {"attaches_per_s": 1000},
        **settings.get("domain", {}),
    }
    return dataclasses.replace(plain, domain=domain)


@pytest.fixture(scope="module")
def labs() -> Iterator[dict[str, Domain]]:
    """The domain of each mode, until nothing is left of its hosts: they wait for that together, it takes long."""
    up: dict[str, Domain] = {}
    yield up
    for mode in CROWDS:
        Domain.take_down(f"{LAB}-{mode}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", CROWDS)
def test_row_12_many_hosts_roam_and_every_address_of_each_answers(labs: dict[str, Domain], mode: str) -> None:
    domain = Domain.up(crowd(mode), f"{LAB}-{mode}", owner_pid=os.getpid(), timeout_s=60)
    at = roam(domain, random.Random(mode))
    wait_for(lambda: all_served(domain, at), "every host is served where it is, and nowhere else", SETTLED_S)
    wait_for(lambda: len(usable_addresses(domain)) >= len(at), "every host has an address after DAD", SETTLED_S)
    addresses = usable_addresses(domain)
    wait_for(lambda: answering(domain, addresses) == addresses, "every address answers", SETTLED_S)
    unplug(domain)
    labs[mode] = domain


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", CROWDS)
def test_row_86_nothing_is_left_of_hosts_that_have_gone(labs: dict[str, Domain], mode: str) -> None:
    domain = labs[mode]
    wait_for(lambda: not sessions(domain), "every session ends", GONE_S)
    wait_for(lambda: not leftovers(domain), "nothing is left", GONE_S)
    for node in domain.topology.daemons():
        assert not stored(domain, node), f"{node} remembers somebody"
    domain.down()


def roam(domain: Domain, chance: random.Random) -> dict[str, str]:
    """Move hosts at random, some several times; where each is in the end."""
    at = {name: host.at for name, host in domain.topology.hosts.items()}
    wait_for(lambda: all_served(domain, at), "every host is served where it begins", SETTLED_S)
    for number in range(MOVES_EACH * len(at)):
        host = chance.choice(sorted(at))
        at[host] = chance.choice([gateway for gateway in GATEWAYS if gateway != at[host]])
        domain.move(host, at[host])
        if number % AT_ONCE == 0:
            domain.wait_served(host, at[host], SETTLED_S)
    return at


def served_at(domain: Domain) -> dict[str, str]:
    """Where hosts are served, by MAC address; none that is served at two gateways at once."""
    found: dict[str, str] = {}
    twice = set()
    for gateway in GATEWAYS:
        for row in show(domain, gateway, "bindings"):
            if row["state"] == "serving":
                twice |= {row["mac"]} & set(found)
                found[row["mac"]] = gateway
    return {mac: gateway for mac, gateway in found.items() if mac not in twice}


def all_served(domain: Domain, at: dict[str, str]) -> bool:
    found = served_at(domain)
    return all(found.get(domain.host_mac(host).hex(":")) == gateway for host, gateway in at.items())


def usable_addresses(domain: Domain) -> set[str]:
    """Every address that a host may use, of those that are out of duplicate address detection."""
    return {state.address for host in domain.topology.hosts for state in domain.host_addresses(host) if state.usable}


def answering(domain: Domain, addresses: set[str]) -> set[str]:
    """Which of ``addresses`` answer an echo request from a correspondent."""
    with inside(domain.namespace("cn1")):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    found: set[str] = set()
    with closing(opened):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        for number, address in enumerate(sorted(addresses)):
            opened.sendto(struct.pack("!BBHHH", 128, 0, 0, 1, number), (address, 0))
        deadline = time.monotonic() + 3.0
        while found != addresses and select.select([opened], [], [], max(deadline - time.monotonic(), 0))[0]:
            data, sender = opened.recvfrom(1 << 12)
            if data[0] == 129:
                found.add(sender[0])
    return found & addresses


def unplug(domain: Domain) -> None:
    """Every host goes away without a word."""
    with Links(domain.namespace(SWITCH)) as links:
        for host in domain.topology.hosts:
            links.set_up(links.get(domain.port(host)), up=False)


def sessions(domain: Domain) -> list[Any]:
    return [row for node in domain.topology.daemons() for row in show(domain, node, "bindings")]


def leftovers(domain: Domain) -> list[Any]:
    """What a gateway has of any host: links, routes, leases, prefixes that rest."""
    found: list[Any] = []
    pools = [pool for gateway in domain.topology.gateways.values() for pool in gateway.pools]
    pools += [pool for lma in domain.topology.lmas.values() for pool in lma.pools]
    for gateway in (*GATEWAYS, *domain.topology.lmas):
        found += show(domain, gateway, "prefixes")
        links = ip(domain, gateway, "-d", "link", "show", "type", "macvlan")
        found += [link["ifname"] for link in links if link.get("group") == str(0xAC01)]
        for route in ip(domain, gateway, "route", "show", "table", "all"):
            prefix = route.get("dst", "default")
            source = route.get("from")
            found += [text for text in (prefix, source) if text and is_of_a_host(text, pools)]
    return found


def is_of_a_host(text: str, pools: list[IPv6Network]) -> bool:
    try:
        prefix = IPv6Network(text)
    except ValueError:  # "default"
        return False
    return prefix.prefixlen >= 64 and any(prefix.subnet_of(pool) for pool in pools)


def stored(domain: Domain, node: str) -> list[str]:
    """Keys of sessions, bindings or records that a node has written down."""
    domain.kill(node)
    store = SqliteStore(domain.directory / "state" / node / f"{node}.db")
    try:
        tables = store.load()
    finally:
        store.close()
    kinds = ("session", "binding", "plain", "directory", "resting")
    return [key for kind in kinds for key in tables.get(kind, {})]
