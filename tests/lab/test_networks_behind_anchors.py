"""Networks behind an old anchor stay reachable after moves, also for connections that are opened then."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from lab_scenes import move, ping, topology, usable_address

from anchord.lab.domain import Domain
from anchord.lab.topology import Correspondent

LAB = f"anct-{os.getpid()}-local"
PRINTER = "fd00:db8:1::1"
# "asks" believes route information options (RFC 4191), which a Linux host as it comes does not.
HOSTS = {"plain": "gw1", "asks": "gw1"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    plain = topology(3, HOSTS)
    printer = Correspondent("printer", IPv6Address(PRINTER), behind="gw1")
    believes = dataclasses.replace(plain.hosts["asks"], sysctls={"net.ipv6.conf.eth0.accept_ra_rt_info_max_plen": 64})
    changed = dataclasses.replace(
        plain,
        hosts={**plain.hosts, "asks": believes},
        correspondents={**plain.correspondents, "printer": printer},
    )
    try:
        domain = Domain.up(changed, LAB, owner_pid=os.getpid())
        yield domain
    finally:
        Domain.take_down(LAB)


@pytest.mark.parametrize("host", HOSTS)
def test_row_31_a_connection_to_it_that_is_opened_after_the_move_works_whatever_source_the_host_picks(
    lab: Domain, host: str
) -> None:
    addresses = [usable_address(lab, host, "gw1")]
    ping(lab, host, addresses[0], PRINTER)
    for gateway in ("gw2", "gw3", "gw1"):
        move(lab, host, gateway)
        current = usable_address(lab, host, gateway)
        addresses = list(dict.fromkeys([*addresses, current]))
        done = lab.exec(host, ["ping", "-c3", "-i0.05", "-W5", PRINTER])
        assert " 0% packet loss" in done.stdout, done.stdout
        for source in addresses:
            ping(lab, host, source, PRINTER)
