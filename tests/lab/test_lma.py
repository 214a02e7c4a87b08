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


def tunnels_of(domain: Domain, node: str) -> list[str]:
    """The routes into tunnels in a node's kernel."""
    listing = domain.exec(node, ["ip", "-6", "route", "show", "table", "all"]).stdout
    return [line for line in listing.splitlines() if "encap seg6 " in line]


def local_routes(domain: Domain, gateway: str) -> list[str]:
    """The prefixes of hosts that are at a gateway and anchored elsewhere."""
    listing = domain.exec(gateway, ["ip", "-6", "route", "show", "table", "82"]).stdout
    return [line for line in listing.splitlines() if line]


def stopped_between(domain: Domain) -> int:
    """How many packets between gateways of different operators the core has stopped."""
    listing = domain.exec("core", ["nft", "list", "table", "ip6", "apart"]).stdout.split()
    return sum(int(listing[at + 1]) for at, word in enumerate(listing) if word == "packets")


def test_rows_86_87_104_plain_pmipv6_a_host_keeps_address_and_tcp_session(lab_name: str) -> None:
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
        # One that has left is not looked for here any more, as soon as the LMA has said so.
        move(domain, "mn1", "gw2")
        wait_for(lambda: len(local_routes(domain, "gw1")) == 1, "gw1 has forgotten mn1, and mn2 is there")
        ping(domain, "mn2", other, one)


def test_a_restarted_lma_goes_on(lab_name: str) -> None:
    with Domain.up(mags(), lab_name) as domain:
        domain.wait_served("mn1", "gw1", 10)
        address = usable(domain, "mn1", domain.topology.lmas["home"].pools[0])
        with Flow(domain, "mn1", address) as flow:
            domain.kill("home")
            flow.wait_alive()  # forwarding is kernel state
            domain.restart("home")
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


def test_p7_a_killed_lma_forwards_on_and_a_new_one_takes_over(lab_name: str) -> None:
    with Domain.up(operators(), lab_name) as domain:
        keep_apart(domain)
        domain.wait_served("mn1", "gw1", 10)
        old = usable(domain, "mn1", domain.topology.gateways["gw1"].pools[0])
        with Flow(domain, "mn1", old) as flow:
            move(domain, "mn1", "gw3")
            flow.wait_alive()
            domain.kill("home")
            flow.wait_alive()
            domain.restart("home")
            flow.wait_alive()
            move(domain, "mn1", "gw1")
            move(domain, "mn1", "gw3")
            flow.wait_alive()
        assert stopped_between(domain) == 0


def test_the_end_of_all_sessions_leaves_nothing_at_the_lma(lab_name: str) -> None:
    """A host that is gone ends by lifetime, with a plain LMA and between operators."""
    short = {"lifetimes": {"binding_s": 12, "valid_s": 30, "preferred_s": 20, "router_s": 30, "advertise_every_s": 5}}
    pmip = {"min_delay_before_bce_delete_ms": 500}
    domain_table = {**short, "pmip": pmip, "timers": {"probe_after_s": 1}}
    plain = operators()
    lma = dataclasses.replace(numbered_lma("home", 1), operators=("a", "b"))
    hosts = {**plain.hosts, "mn2": dataclasses.replace(plain.hosts["mn1"], name="mn2", mac=MAC)}
    everything = dataclasses.replace(
        plain,
        hosts=hosts,
        lmas={"home": lma},
        domain={**domain_table, "policy": [{"hosts": [MAC], "lma": "home"}]},
    )
    with Domain.up(everything, lab_name) as domain:
        for host in ("mn1", "mn2"):
            domain.wait_served(host, "gw1", 10)
            move(domain, host, "gw3")
        roles = {row["role"] for row in show(domain, "home", "prefixes")}
        assert roles == {"exported", "serving", "anchored"}
        assert tunnels_of(domain, "home")
        for host in ("mn1", "mn2"):
            done = domain.exec(host, ["ip", "link", "set", "eth0", "down"])
            assert done.returncode == 0, done.stderr
        wait_for(lambda: not show(domain, "home", "bindings"), "every session has ended", 45)
        wait_for(lambda: not tunnels_of(domain, "home"), "nothing is left in the kernel")
        for gateway in ("gw1", "gw3"):
            wait_for(lambda gateway=gateway: not show(domain, gateway, "bindings"), f"{gateway} has forgotten", 45)


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
