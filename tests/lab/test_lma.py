"""The Local Mobility Anchor with real daemons and the real kernel: plain PMIPv6, and between operators.

Others' MAGs and LMAs are played (``strangers.py``).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from lab_scenes import (
    ANCHORD,
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
from strangers import (
    D_OF_ACK,
    D_OF_UPDATE,
    NOBODY,
    P_OF_ACK,
    PROXY_A_H,
    Stranger,
    about_node,
    acknowledgement,
    answers,
    body,
    echo,
    echo_reply,
    identity,
    is_indication,
    is_update,
    named,
    option,
    prefix_body,
    revocation,
    revoked,
    tunnelled,
    update,
)

from anchord.lab.domain import Domain
from anchord.lab.topology import Correspondent, Topology, numbered_lma
from anchord.lab.traffic import Endpoint

MAC = "02:00:00:00:00:01"
LMA, GW1, GW2 = "2001:db8:e1::1", "2001:db8:f1::1", "2001:db8:f2::1"
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


def test_two_mags_hear_a_host_at_once_and_it_stays_where_it_is(lab_name: str) -> None:
    """Somebody sends one frame with the host's MAC address on another link; the host itself sends on."""
    with Domain.up(mags(), lab_name) as domain:
        domain.wait_served("mn1", "gw1", 10)
        address = usable(domain, "mn1", domain.topology.lmas["home"].pools[0])
        usable(domain, "mn2", domain.topology.gateways["gw1"].pools[0])
        move(domain, "mn1", "gw2")
        wait_for(lambda: binding(domain, "gw1", "mn1") is None, "gw1 has forgotten it")
        before = routers(domain, "mn1")
        forged = b"\xff" * 6 + domain.host_mac("mn1") + b"\x00\x06" + bytes((0, 1, 0xAF, 0x81, 1, 0))
        with frames_at(domain, "mn2", "eth0") as wire, Flow(domain, "mn1", address) as flow:
            assert flow.down is not None
            begin = flow.down.sent
            wire.send(forged)
            refused = wait_for(lambda: peer(domain, "gw2", "home")["dropped"], "gw2 objects")
            flow.wait_alive()
            wait_for(lambda: binding(domain, "gw1", "mn1") is None, "gw1 has forgotten it again")
            lost = flow.lost()
        assert refused == {"revocation-refused.132": 1}
        assert not lost["up"] and len([number for number in lost["down"] if number >= begin]) < 500
        assert routers(domain, "mn1") == before
        bound = binding(domain, "home", "mn1")
        assert bound is not None and bound["serving"] == GW2


def test_row_148_a_session_that_is_revoked_right_after_a_handover_ends_at_both_mags(lab_name: str) -> None:
    with Domain.up(mags(), lab_name) as domain:
        domain.wait_served("mn1", "gw1", 10)
        move(domain, "mn1", "gw2")
        done = domain.exec("home", [ANCHORD, "revoke", MAC, "--socket", str(domain.control("home"))])
        assert (done.returncode, done.stdout) == (0, f"revoked: {MAC}\n"), done.stderr
        for node in ("home", "gw1", "gw2"):
            wait_for(lambda node=node: binding(domain, node, "mn1") is None, f"{node} has no session of it", 5)
        assert not local_routes(domain, "gw1")


# MAGs of somebody else

ALICE, BOB, CAROL = b"alice@example.org", b"bob@example.org", b"carol@example.org"
ONE, OTHER = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
NEW, INTERFACES, GATEWAYS, UNKNOWN, UNCHANGED = range(1, 6)  # handoff indicators, RFC 5213 section 8.4
ANY = "::/0"
MAGS = ("mag1", "mag2")


class Mag(Stranger):
    """A MAG that knows nothing of RFC 8885."""

    _sequence = 100

    def ask(
        self, node: bytes, handoff: int, interface: bytes | None, prefix: str = ANY, lifetime_s: int = 300,
        distributed: bool = False,
    ) -> Any:  # fmt: skip
        """What the LMA answers to a PBU."""
        self._sequence += 1
        options = about_node(named(node, interface), prefix, handoff=handoff)
        question = update(self._sequence, lifetime_s, options, distributed)
        self.say(LMA, question)
        answer = self.hear(LMA, answers(question))
        assert answer.flags == P_OF_ACK and answer.res2 == (D_OF_ACK if distributed else 0)
        return answer

    def register(self, node: bytes, handoff: int, interface: bytes | None, prefix: str = ANY, **more: Any) -> str:
        """The prefix that the LMA assigns."""
        answer = self.ask(node, handoff, interface, prefix, **more)
        assert answer.status == 0
        (assigned,) = body(answer, 22)
        return str(IPv6Network((assigned[2:], assigned[1])))


@pytest.fixture(scope="module")
def others() -> Iterator[tuple[Domain, Mag, Mag]]:
    """An LMA of ours, and two MAGs that its domain file names; there is a gateway, but it has no host."""
    lab = f"anct-{os.getpid()}-mags"
    plain = topology(1, {}, finder="anchor-known", central=None)
    played = {name: Correspondent(name, IPv6Address(f"2001:db8:d{number}::1")) for number, name in enumerate(MAGS, 1)}
    made = dataclasses.replace(
        plain,
        correspondents={**plain.correspondents, **played},
        lmas={"home": numbered_lma("home", 1)},
        domain={
            "lmas": {"home": {"mags": [str(node.address) for node in played.values()]}},
            "pmip": {"min_delay_before_bce_delete_ms": 1000, "max_delay_before_new_bce_assign_ms": 500},
        },
    )
    with (
        Domain.up(made, lab, owner_pid=os.getpid()) as domain,
        closing(Mag(domain, "mag1")) as one,
        closing(Mag(domain, "mag2")) as other,
    ):
        yield domain, one, other


def sessions(domain: Domain) -> list[str]:
    return [row["prefix"] for row in show(domain, "home", "bindings")]


def test_rows_65_68_69_74_86_and_148_a_node_of_others_mags_is_given_a_prefix_and_keeps_it(
    others: tuple[Domain, Mag, Mag],
) -> None:
    domain, mag1, mag2 = others
    prefix = mag1.register(ALICE, NEW, ONE)
    pool = domain.topology.lmas["home"].pools[0]
    assert IPv6Network(prefix).prefixlen == 64 and IPv6Network(prefix).subnet_of(pool)
    host, far = str(IPv6Network(prefix)[1]), correspondent(domain)
    for mag, former in ((mag1, None), (mag2, mag1)):
        if former is not None:
            assert mag.register(ALICE, GATEWAYS, ONE) == prefix
            told = former.hear(LMA, is_indication)
            assert told.msg[1] == 4  # Inter-MAG Handover - Unknown
            former.say(LMA, revoked(told))
        mag.say(LMA, echo(host, far))  # through the tunnel, and its answer comes back through it
        tunnelled(mag.tunnel, far, host)
    # Section 5.3.5 (1): it is not mag1's to end. Nothing is answered.
    mag1.say(LMA, update(900, 0, about_node(named(ALICE, ONE), prefix), distributed=False))
    assert mag2.register(ALICE, UNCHANGED, ONE, prefix) == prefix
    row = peer(domain, "home", str(domain.topology.correspondents["mag1"].address))
    assert row["dropped"] == {"deregistration-not-serving": 1}


def test_rows_76_to_78_what_handoff_indicators_mean(others: tuple[Domain, Mag, Mag]) -> None:
    _, mag1, mag2 = others
    first = mag1.register(BOB, NEW, ONE)
    assert mag1.register(BOB, INTERFACES, OTHER) == first  # its only session goes on with another interface
    assert mag2.register(BOB, GATEWAYS, OTHER) == first
    assert mag2.register(BOB, UNCHANGED, OTHER, first) == first
    second = mag2.register(BOB, NEW, ONE)
    assert second != first  # each interface a session of its own
    assert mag1.ask(BOB, GATEWAYS, OTHER, second).status == 155  # nor does one have what is another's
    assert mag1.ask(CAROL, UNKNOWN, ONE, second).status == 155


def test_rows_78_and_122_whether_a_node_has_moved_its_old_mag_says_in_time_or_not_at_all(
    others: tuple[Domain, Mag, Mag],
) -> None:
    _, mag1, mag2 = others
    first = mag1.register(CAROL, NEW, ONE)
    begin = time.monotonic()
    second = mag2.register(CAROL, UNKNOWN, OTHER)
    assert second != first and time.monotonic() - begin >= 0.5  # MaxDelayBeforeNewBCEAssign
    for mag, interface, prefix in ((mag1, ONE, first), (mag2, OTHER, second)):
        assert mag.ask(CAROL, UNKNOWN, interface, prefix, lifetime_s=0).status == 0


def test_rows_70_and_71_a_session_outlives_its_end_for_a_moment(others: tuple[Domain, Mag, Mag]) -> None:
    domain, mag1, mag2 = others
    node = b"dave@example.org"
    prefix = mag1.register(node, NEW, ONE)
    assert mag1.ask(node, UNKNOWN, ONE, prefix, lifetime_s=0).status == 0
    assert mag2.register(node, UNKNOWN, ONE) == prefix  # within MinDelayBeforeBCEDelete
    assert mag2.ask(node, UNKNOWN, ONE, prefix, lifetime_s=0).status == 0
    assert prefix in sessions(domain)
    wait_for(lambda: prefix not in sessions(domain), "it is deleted", 3)
    assert mag1.register(node, NEW, ONE) != prefix  # which rests


def test_row_33_a_mag_that_sets_d_is_refused(others: tuple[Domain, Mag, Mag]) -> None:
    domain, mag1, _ = others
    before = sessions(domain)
    assert mag1.ask(b"erin@example.org", NEW, ONE, distributed=True).status == 129
    assert sessions(domain) == before


# An LMA of somebody else


def test_rows_91_92_93_96_104_105_and_148_gateways_are_mags_of_an_lma_of_somebody_else(lab_name: str) -> None:
    plain = mags()
    strange = dataclasses.replace(plain.lmas["home"], program=NOBODY)
    given, router = "2001:db8:b1:77::/64", IPv6Address("fe80::77")

    def answered(lma: Stranger, mag: str, prefix: str, handoff: int = UNKNOWN) -> None:
        """The MAG registers mn1, as it has to, and is told yes."""
        asked = lma.hear(mag, lambda message: is_update(message) and prefix_body(prefix) in body(message, 22))
        assert (int(asked.flags), asked.reserved & D_OF_UPDATE) == (PROXY_A_H, 0)
        assert body(asked, 23) == [bytes((0, handoff))] and not {65, 66, 67, 68, 69, 70} & set(kinds(asked))
        (stamp,) = body(asked, 27)
        who = identity(bytes.fromhex(MAC.replace(":", "")))
        options = [
            *about_node(who, given, int.from_bytes(stamp, "big") / 65536, handoff),
            option(26, (8, 6), router.packed),
        ]
        lma.say(mag, acknowledgement(asked.seq, 300, options, distributed=False))

    with (
        Domain.up(dataclasses.replace(plain, lmas={"home": strange}), lab_name) as domain,
        closing(Stranger(domain, "home")) as lma,
    ):
        who = [*identity(domain.host_mac("mn1")), option(22, (8, 4), prefix_body(given))]
        answered(lma, GW1, ANY)
        address = usable(domain, "mn1", IPv6Network(given))
        assert list(routers(domain, "mn1")) == [str(router)]
        far = correspondent(domain)
        for gateway in (GW1, GW2):
            if gateway == GW2:
                domain.move("mn1", "gw2")
                answered(lma, GW2, ANY)
                domain.wait_served("mn1", "gw2", 10)
                lma.say(GW1, revocation(1, 4, who))
                assert lma.hear(GW1, lambda message: message.mhtype == 16).msg[1] == 0  # it asked the host, in vain
                assert binding(domain, "gw1", "mn1") is None
            asking = domain.popen("mn1", ["ping", "-c1", "-W5", "-I", address, far])
            lma.say(gateway, echo_reply(tunnelled(lma.tunnel, address, far)))
            assert asking.wait(10) == 0
        # A mistake: the host has not moved. It says so, and is registered again with what it has.
        lma.say(GW2, revocation(2, 4, who))
        assert lma.hear(GW2, lambda message: message.mhtype == 16).msg[1] == 132
        answered(lma, GW2, given)
        lma.say(GW2, revocation(3, 1, who))
        assert lma.hear(GW2, lambda message: message.mhtype == 16).msg[1] == 0
        wait_for(lambda: not routers(domain, "mn1"), "the host has no router any more")


def kinds(message: Any) -> list[int]:
    return [each.otype for each in message.options]
