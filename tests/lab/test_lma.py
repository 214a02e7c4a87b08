"""The Local Mobility Anchor with real daemons and the real kernel: plain PMIPv6, and between operators."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from ipaddress import IPv6Address, IPv6Network

import pytest
from lab_scenes import (
    Flow,
    address_of,
    binding,
    correspondent,
    drained,
    frames_at,
    move,
    peer,
    ping,
    routers,
    show,
    topology,
    wait_for,
)

from anchord.lab.domain import Domain
from anchord.lab.topology import Topology, numbered_lma
from anchord.lab.traffic import Endpoint

MAC = "02:00:00:00:00:01"
OWNERS = {"gw1": "a", "gw2": "a", "gw3": "b", "gw4": "c"}  # c has no agreement


def mags() -> Topology:
    """Two gateways that are MAGs of an LMA for mn1, and anchor mn2 themselves."""
    plain = topology(2, {"mn1": "gw1", "mn2": "gw1"}, domain={"policy": [{"hosts": [MAC], "lma": "home"}]})
    hosts = {**plain.hosts, "mn1": dataclasses.replace(plain.hosts["mn1"], mac=MAC)}
    return dataclasses.replace(plain, hosts=hosts, lmas={"home": numbered_lma("home", 1)})


def operators() -> Topology:
    """Gateways of three operators, and the home LMA that stands between two of them."""
    plain = topology(4, {"mn1": "gw1"})
    gateways = {name: dataclasses.replace(gw, operator=OWNERS[name]) for name, gw in plain.gateways.items()}
    lma = dataclasses.replace(numbered_lma("home", 1), pools=(), operators=("a", "b"))
    return dataclasses.replace(plain, gateways=gateways, central=None, lmas={"home": lma})


def usable(domain: Domain, host: str, pool: IPv6Network) -> str:
    """A preferred address of the host out of ``pool``, once it has left DAD."""

    def found() -> str | None:
        states = domain.host_addresses(host)
        return next((state.address for state in states if state.preferred and state.prefix.subnet_of(pool)), None)

    return str(wait_for(found, f"{host} has an address from {pool}"))


def keep_apart(domain: Domain) -> None:
    """The core lets nothing pass between gateways of different operators."""
    rules = ["table ip6 apart {", "chain forward {", "type filter hook forward priority 0;"]
    for name, operator in OWNERS.items():
        for other, owner in OWNERS.items():
            if operator != owner:
                to = domain.topology.gateways[other].address
                rules.append(f"ip6 saddr {domain.topology.gateways[name].address} ip6 daddr {to} counter drop;")
    done = domain.exec("core", ["nft", "\n".join([*rules, "}", "}"])])
    assert done.returncode == 0, done.stderr


def stopped_between(domain: Domain) -> int:
    """How many packets between gateways of different operators the core has stopped."""
    listing = domain.exec("core", ["nft", "list", "table", "ip6", "apart"]).stdout.split()
    return sum(int(listing[at + 1]) for at, word in enumerate(listing) if word == "packets")


def test_plain_pmipv6_a_host_keeps_address_and_tcp_session(lab_name: str) -> None:
    with Domain.up(mags(), lab_name) as domain:
        home = domain.topology.lmas["home"]
        domain.wait_served("mn1", "gw1", 10)
        address = usable(domain, "mn1", home.pools[0])
        before = routers(domain, "mn1")
        assert len(before) == 1
        with (
            closing(Endpoint("cn1", domain.namespace("cn1"))) as server,
            closing(Endpoint("mn1", domain.namespace("mn1"))) as agent,
            Flow(domain, "mn1", address) as flow,
        ):
            server.call("serve")
            agent.call("open", connection=1, to=correspondent(domain), seed=1, deadline_s=5, bind=address)
            agent.call("exchange", connection=1, amount=65536, deadline_s=5)
            for gateway in ("gw2", "gw1"):
                move(domain, "mn1", gateway)
                flow.wait_alive()
                agent.call("exchange", connection=1, amount=65536, deadline_s=5)
                bound = binding(domain, "home", "mn1")
                assert bound is not None and bound["serving"] == str(domain.topology.gateways[gateway].address)
                assert address_of(domain, "mn1", address).preferred
        assert set(routers(domain, "mn1")) == set(before)  # the same router at both
        assert [state.address for state in domain.host_addresses("mn1")].count(address) == 1
        assert show(domain, "home", "tunnels") == [
            {
                "peer": str(domain.topology.gateways["gw1"].address),
                "name": "gw1",
                "imported": 0,
                "exported": 1,
                "transit": 0,
            }
        ]
        # The other host knows nothing of it all.
        theirs = usable(domain, "mn2", domain.topology.gateways["gw1"].pools[0])
        ping(domain, "mn2", theirs, correspondent(domain))


@pytest.mark.parametrize("local", [False, True], ids=["by default", "switched on"])
def test_row_116_hosts_of_one_mag_reach_each_other_through_the_lma_or_directly(lab_name: str, local: bool) -> None:
    everybody = {"policy": [{"hosts": ["any"], "lma": "home"}], "pmip": {"enable_mag_local_routing": local}}
    with Domain.up(dataclasses.replace(mags(), domain=everybody), lab_name) as domain:
        pool = domain.topology.lmas["home"].pools[0]
        one, other = usable(domain, "mn1", pool), usable(domain, "mn2", pool)
        with frames_at(domain, "gw1", "core0") as core:
            ping(domain, "mn1", one, other)
            ends = {IPv6Address(one).packed, IPv6Address(other).packed}
            tunnelled = [frame for frame in drained(core) if {frame[62:78], frame[78:94]} == ends]
            assert bool(tunnelled) is not local
            ping(domain, "mn1", one, correspondent(domain))  # the rest of the world stays the LMA's business
            there = IPv6Address(correspondent(domain)).packed
            assert any({frame[62:78], frame[78:94]} == {IPv6Address(one).packed, there} for frame in drained(core))


def test_a_restarted_lma_goes_on(lab_name: str) -> None:
    with Domain.up(mags(), lab_name) as domain:
        domain.wait_served("mn1", "gw1", 10)
        address = usable(domain, "mn1", domain.topology.lmas["home"].pools[0])
        with Flow(domain, "mn1", address) as flow:
            domain.kill("home")
            flow.wait_alive()  # forwarding is kernel state
            domain.start("home")
            flow.wait_alive()
            move(domain, "mn1", "gw2")
            flow.wait_alive()
        assert address_of(domain, "mn1", address).preferred


def test_p7_a_session_moves_between_operators_and_lives(lab_name: str) -> None:
    with Domain.up(operators(), lab_name) as domain:
        keep_apart(domain)
        addresses = {name: str(gateway.address) for name, gateway in domain.topology.gateways.items()}
        domain.wait_served("mn1", "gw1", 10)
        old = usable(domain, "mn1", domain.topology.gateways["gw1"].pools[0])
        with (
            closing(Endpoint("cn1", domain.namespace("cn1"))) as server,
            closing(Endpoint("mn1", domain.namespace("mn1"))) as agent,
            Flow(domain, "mn1", old) as flow,
        ):
            server.call("serve")
            agent.call("open", connection=1, to=correspondent(domain), seed=1, deadline_s=5, bind=old)
            agent.call("exchange", connection=1, amount=65536, deadline_s=5)
            move(domain, "mn1", "gw3")
            flow.wait_alive()
            agent.call("exchange", connection=1, amount=1 << 20, deadline_s=10)
            tunnels = {row["name"]: row["transit"] for row in show(domain, "home", "tunnels")}
            assert tunnels == {"gw1": 1, "gw3": 1}
            new = usable(domain, "mn1", domain.topology.gateways["gw3"].pools[0])
            ping(domain, "mn1", new, correspondent(domain))
            move(domain, "mn1", "gw2")  # another gateway of the first operator: gw1's prefix needs no LMA there
            flow.wait_alive()
            ping(domain, "mn1", new, correspondent(domain))
            tunnels = {row["name"]: row["transit"] for row in show(domain, "home", "tunnels")}
            assert tunnels == {"gw3": 1, "gw2": 1}
        assert stopped_between(domain) == 0  # nobody even tried
        for name, others in (("gw1", "gw3"), ("gw3", "gw1")):
            assert addresses[others] not in {row["peer"] for row in show(domain, name, "peers")}


def test_row_57_an_operator_without_an_agreement_is_refused(lab_name: str) -> None:
    with Domain.up(operators(), lab_name) as domain:
        keep_apart(domain)
        domain.wait_served("mn1", "gw1", 10)
        domain.move("mn1", "gw4")
        wait_for(lambda: peer(domain, "gw4", "home")["refused"], "gw4 is refused")
        assert peer(domain, "gw4", "home")["refused"] == {"mag-not-authorized-for-proxy-reg": 1}
        assert binding(domain, "gw4", "mn1") is None
        bound = binding(domain, "home", "mn1")
        assert bound is not None and bound["serving"] == str(domain.topology.gateways["gw1"].address)
