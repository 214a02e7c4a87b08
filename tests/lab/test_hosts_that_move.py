"""Unmodified hosts in labs from the examples: what they can still do after they have moved."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from anchord.lab import addresses
from anchord.lab.addresses import AddressState
from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.lab.topology import Topology

EXAMPLES = Path(__file__).parents[2] / "examples" / "lab"
USABLE_S = 10.0  # duplicate address detection takes a host up to 2 s
SERVED_S = 10.0


def usable_address(domain: Domain, host: str, gateway: str) -> AddressState:
    """Wait until a host prefers an address from a gateway's pool."""
    pool = domain.topology.gateways[gateway].pools[0]
    with inside(domain.namespace(host)):
        changes = addresses.subscribe()
    deadline = time.monotonic() + USABLE_S
    with changes:
        while True:
            for address in domain.host_addresses(host):
                if address.preferred and address.prefix.subnet_of(pool):
                    return address
            readable, _, _ = select.select([changes], [], [], deadline - time.monotonic())
            assert readable, f"{host} got no address from {pool}: {domain.host_addresses(host)}"
            changes.recv(1 << 16)


def ping(domain: Domain, node: str, source: str, destination: str) -> None:
    done = domain.exec(node, ["ping", "-c3", "-i0.2", "-W5", "-I", source, destination])
    assert " 0% packet loss" in done.stdout, done.stdout + done.stderr


def test_two_moved_hosts_talk_to_each_other_at_their_old_addresses(lab_name: str) -> None:
    with Domain.up(Topology.load(EXAMPLES / "privacy.toml"), lab_name, owner_pid=os.getpid()) as domain:
        laptop = usable_address(domain, "laptop", "gw1").address
        phone = usable_address(domain, "phone", "gw2").address
        ping(domain, "laptop", laptop, phone)
        for host, gateway in (("laptop", "gw2"), ("phone", "gw1")):
            domain.move(host, gateway)
            domain.wait_served(host, gateway, SERVED_S)
        ping(domain, "laptop", laptop, phone)
        ping(domain, "phone", phone, laptop)
        new = usable_address(domain, "laptop", "gw2").address
        ping(domain, "laptop", new, phone)


def test_stable_privacy_and_temporary_addresses_roam_like_any_others(lab_name: str) -> None:
    with Domain.up(Topology.load(EXAMPLES / "privacy.toml"), lab_name, owner_pid=os.getpid()) as domain:
        usable_address(domain, "phone", "gw2")
        first = {state.address for state in domain.host_addresses("phone") if state.usable}
        assert any(state.temporary for state in domain.host_addresses("phone"))
        domain.move("phone", "gw1")
        domain.wait_served("phone", "gw1", SERVED_S)
        usable_address(domain, "phone", "gw1")
        kept = {state.address for state in domain.host_addresses("phone") if state.deprecated}
        assert first <= kept
        for address in first:
            ping(domain, "cn1", str(domain.topology.correspondents["cn1"].address), address)


def test_host_that_moves_between_links_of_one_gateway_keeps_everything(lab_name: str) -> None:
    with Domain.up(Topology.load(EXAMPLES / "links.toml"), lab_name, owner_pid=os.getpid()) as domain:
        correspondent = str(domain.topology.correspondents["cn1"].address)
        before = usable_address(domain, "mn1", "gw1").address
        for link in ("a", "b"):
            domain.move("mn1", "gw1", access=link)
            domain.wait_served("mn1", "gw1", SERVED_S, access=link)
            ping(domain, "mn1", before, correspondent)
        assert {state.address for state in domain.host_addresses("mn1")} == {before}
        domain.move("mn1", "gw2")
        domain.wait_served("mn1", "gw2", SERVED_S)
        ping(domain, "mn1", before, correspondent)


def test_row_91_119_gateway_with_a_list_serves_nobody_else(lab_name: str) -> None:
    topology = Topology.load(EXAMPLES / "links.toml")
    plain = topology.to_plain()
    plain["hosts"] = {"mn1": {"name": "mn1", "at": "gw2", "mac": "02:00:00:00:00:02"}}
    with Domain.up(Topology.from_plain(plain), lab_name, owner_pid=os.getpid()) as domain:
        domain.move("mn1", "gw2")  # announced again: the gateway has certainly heard of it
        domain.move("mn1", "gw1")
        usable_address(domain, "mn1", "gw1")
        assert len(domain.host_addresses("mn1")) == 1
