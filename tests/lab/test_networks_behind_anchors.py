"""Networks behind an old anchor stay reachable after moves, also for connections opened then, in every mode."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest
from lab_scenes import MODES, move, ping, topology, usable_address

from anchord.lab.domain import Domain
from anchord.lab.topology import Correspondent

LAB = f"anct-{os.getpid()}-local"
PRINTER = "fd00:db8:1::1"
# "asks" believes route information options (RFC 4191), which a Linux host as it comes does not.
HOSTS = {"plain": "gw1", "asks": "gw1"}


def up(mode: str) -> Domain:
    settings: dict[str, Any] = MODES[mode]
    plain = topology(3 if mode == "proxy" else 2, HOSTS, **settings)
    printer = Correspondent("printer", IPv6Address(PRINTER), behind="gw1")
    believes = dataclasses.replace(plain.hosts["asks"], sysctls={"net.ipv6.conf.eth0.accept_ra_rt_info_max_plen": 64})
    changed = dataclasses.replace(
        plain,
        hosts={**plain.hosts, "asks": believes},
        correspondents={**plain.correspondents, "printer": printer},
    )
    return Domain.up(changed, f"{LAB}-{mode}", owner_pid=os.getpid())


Lab = tuple[Domain, dict[str, list[str]]]
"""A domain, and the addresses that each host has."""


@pytest.fixture(scope="module")
def labs() -> Iterator[dict[str, Lab]]:
    """One for each mode, with its hosts at their second gateway. All at once: hosts take seconds for an address."""
    try:
        domains = {mode: up(mode) for mode in MODES}
        found: dict[str, Lab] = {}
        for mode, domain in domains.items():
            found[mode] = domain, {host: [usable_address(domain, host, "gw1")] for host in HOSTS}
        for domain in domains.values():
            for host in HOSTS:
                move(domain, host, "gw2")
        yield found
    finally:
        for mode in MODES:
            Domain.take_down(f"{LAB}-{mode}")


def check(domain: Domain, host: str, gateway: str, addresses: list[str]) -> None:
    """At ``gateway`` the host opens connections from every address, and from the one of its choice."""
    addresses[:] = dict.fromkeys([*addresses, usable_address(domain, host, gateway)])
    done = domain.exec(host, ["ping", "-c3", "-i0.05", "-W5", PRINTER])
    assert " 0% packet loss" in done.stdout, done.stdout
    for source in addresses:
        ping(domain, host, source, PRINTER)


@pytest.mark.parametrize("mode", MODES)
def test_row_31_a_connection_to_it_that_is_opened_after_the_move_works_whatever_source_the_host_picks(
    labs: dict[str, Lab], mode: str
) -> None:
    domain, addresses = labs[mode]
    for host in HOSTS:
        check(domain, host, "gw2", addresses[host])


def test_row_31_so_it_does_at_a_third_gateway_and_back_at_the_first(labs: dict[str, Lab]) -> None:
    domain, addresses = labs["proxy"]
    for gateway in ("gw3", "gw1"):
        for host in HOSTS:
            move(domain, host, gateway)
        for host in HOSTS:
            check(domain, host, gateway, addresses[host])
