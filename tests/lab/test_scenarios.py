"""Hosts that roam: every kind of move and of host, in one domain with real daemons. Each test has hosts of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from lab_scenes import (
    ANCHORD,
    Flow,
    address_of,
    binding,
    correspondent,
    ip,
    move,
    ping,
    routers,
    show,
    topology,
    usable_address,
    wait_for,
)

from anchord.lab.domain import Domain
from anchord.lab.traffic import Endpoint

LAB = f"anct-{os.getpid()}-roam"
DOCS = Path(__file__).parents[2] / "docs"
# Where each host begins.
HOSTS = {"tour": "gw1", "private": "gw1", "quiet": "gw1", "flaps": "gw1", "silent": "gw1", "ann": "gw1", "bob": "gw1",
         "cy": "gw2", "wide": "gw1", "seen": "gw1", "scanned": "gw1"}  # fmt: skip
SETTINGS = {
    "private": {"use_tempaddr": 2, "addr_gen_mode": 3},
    # One that does not believe the MTU in advertisements: its packets are too big for a tunnel.
    "wide": {"net.ipv6.conf.eth0.accept_ra_mtu": 0},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    """Three gateways; the hosts find their addresses at the same time."""
    plain = topology(3, HOSTS)
    hosts = {name: dataclasses.replace(host, sysctls=SETTINGS.get(name, {})) for name, host in plain.hosts.items()}
    try:
        domain = Domain.up(dataclasses.replace(plain, hosts=hosts), LAB, owner_pid=os.getpid())
        for host, gateway in HOSTS.items():
            usable_address(domain, host, gateway)
        yield domain
    finally:
        Domain.take_down(LAB)


@pytest.fixture(scope="module")
def echo(lab: Domain) -> Iterator[str]:
    """An echo server at cn1; its address."""
    with closing(Endpoint("cn1", lab.namespace("cn1"))) as agent:
        agent.call("serve")
        yield correspondent(lab)


def test_rows_4_11_12_18_27_29_30_a_tour_keeps_addresses_routers_and_flows(lab: Domain) -> None:
    flows: dict[str, Flow] = {}
    known: dict[str, str | None] = {}
    first = usable_address(lab, "tour", "gw1")
    with ExitStack() as stack:
        for gateway in ("gw1", "gw2", "gw3", "gw1"):
            move(lab, "tour", gateway)
            current = usable_address(lab, "tour", gateway)
            for flow in flows.values():
                flow.wait_alive()
            if current not in flows:
                flows[current] = stack.enter_context(Flow(lab, "tour", current))
            # Preferred is the prefix of this gateway, and no other.
            states = {address: address_of(lab, "tour", address) for address in flows}
            assert {address for address, state in states.items() if state.preferred} == {current}
            assert all(0 < (state.valid_s or 0) <= 600 for state in states.values())
            # Every router it ever had is still there, with the MAC address that it had first.
            seen = wait_for(lambda: resolved_routers(lab, "tour", len(flows)), "the host asked all its routers")
            assert {router: seen[router][0] for router in known} == known
            known = {router: mac for router, (mac, _) in seen.items()}
            row = binding(lab, gateway, "tour")
            assert row is not None
            preferences = {router: preference for router, (_, preference) in seen.items()}
            assert preferences == {**dict.fromkeys(known, "low"), row["router"]["address"]: "medium"}
            assert known[row["router"]["address"]] == row["router"]["mac"]
        assert current == first, "back at the first gateway the first prefix is preferred again"
        assert len(lab.host_addresses("tour")) == 3


def resolved_routers(domain: Domain, host: str, count: int) -> dict[str, tuple[str | None, str]] | None:
    found = routers(domain, host)
    return found if len(found) == count and all(mac for mac, _ in found.values()) else None


def test_private_and_temporary_addresses_keep_their_connections(lab: Domain, echo: str) -> None:
    usable_address(lab, "private", "gw1")
    states = [state for state in lab.host_addresses("private") if state.usable]
    assert {state.temporary for state in states} == {False, True}
    with closing(Endpoint("private", lab.namespace("private"))) as agent:
        for number, state in enumerate(states):
            agent.call("open", connection=number, to=echo, seed=number, deadline_s=5, bind=state.address)
        for gateway in ("gw2", "gw3"):
            move(lab, "private", gateway)
            for number in range(len(states)):
                agent.call("exchange", connection=number, amount=65536, deadline_s=5)
        usable_address(lab, "private", "gw3")
        assert {state.address for state in states} < {state.address for state in lab.host_addresses("private")}


def test_a_host_that_only_receives_lives_through_a_move(lab: Domain) -> None:
    address = usable_address(lab, "quiet", "gw1")
    with Flow(lab, "quiet", address, up=False) as flow:
        for gateway in ("gw2", "gw3"):
            move(lab, "quiet", gateway)
            flow.wait_alive()
        assert len(flow.lost()["down"]) < 100


def test_a_host_that_loses_its_carrier_lives_through_a_move(lab: Domain) -> None:
    address = usable_address(lab, "flaps", "gw1")
    with Flow(lab, "flaps", address, up=False) as flow:
        lab.move("flaps", "gw2", flap_ms=300)
        lab.wait_served("flaps", "gw2", timeout_s=5)
        flow.wait_alive(timeout_s=5)
        assert len(flow.lost()["down"]) < 2500


def test_an_unannounced_host_is_noticed_by_what_it_sends(lab: Domain) -> None:
    address = usable_address(lab, "silent", "gw1")
    with Flow(lab, "silent", address) as flow:
        for gateway in ("gw2", "gw3", "gw2"):
            move(lab, "silent", gateway, silent=True)
            flow.wait_alive()
        lost = flow.lost()
        assert len(lost["up"]) < 150 and len(lost["down"]) < 150


def test_moved_hosts_talk_to_each_other_at_their_old_addresses(lab: Domain) -> None:
    old = {host: usable_address(lab, host, HOSTS[host]) for host in ("ann", "bob", "cy")}

    def all_talk() -> None:
        for one, other in (("ann", "bob"), ("bob", "cy"), ("cy", "ann")):
            ping(lab, one, old[one], old[other])

    all_talk()
    move(lab, "ann", "gw2")  # where cy is at home
    all_talk()
    move(lab, "bob", "gw3")  # one anchor, two gateways
    all_talk()
    move(lab, "ann", "gw3")  # one anchor, one gateway
    move(lab, "cy", "gw3")  # all at one gateway that anchors none of these
    all_talk()
    move(lab, "bob", "gw1")  # back at its anchor, the others not
    all_talk()


def test_full_sized_segments_go_through_the_tunnel_both_ways(lab: Domain, echo: str) -> None:
    address = usable_address(lab, "wide", "gw1")
    assert "mtu 1500" in lab.exec("wide", ["ip", "link", "show", "dev", "eth0"]).stdout
    with closing(Endpoint("wide", lab.namespace("wide"))) as agent:
        agent.call("open", connection=1, to=echo, seed=1, deadline_s=5, bind=address)
        agent.call("exchange", connection=1, amount=65536, deadline_s=5)
        move(lab, "wide", "gw2")
        took = agent.call("exchange", connection=1, amount=1 << 20, deadline_s=5)["seconds"]
        assert took < 3
    # Both ends were told what fits into the tunnel, each for the other's address only.
    for node, other in (("wide", echo), ("cn1", address)):
        assert "mtu 1460" in lab.exec(node, ["ip", "-6", "route", "get", other]).stdout
    # A datagram that fits exactly is not fragmented; one byte more is, at its source.
    for payload, received in ((1412, 1), (1413, 0)):
        done = lab.exec("cn1", ["ping", "-c1", "-W1", "-Mdo", f"-s{payload}", address])
        assert f"{received} received" in done.stdout
    ping(lab, "cn1", echo, address)


def test_a_scan_of_a_hosts_prefix_grows_no_table(lab: Domain) -> None:
    address = usable_address(lab, "scanned", "gw1")
    prefix = IPv6Network((address, 64), strict=False)
    scan = "import socket, sys\ns = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)\nfor to in sys.argv[1:]:\n" \
           "    s.sendto(bytes((128, 0, 0, 0, 0, 1, 0, 1)), (to, 0))\n"  # fmt: skip
    targets = [str(prefix[number << 20 | 0xBEEF]) for number in range(1, 501)]
    for gateway in ("gw1", "gw2"):
        if gateway != "gw1":
            move(lab, "scanned", gateway)
        before = {node: neighbours(lab, node) for node in ("gw1", "gw2", "core")}
        lab.exec("cn1", [sys.executable, "-c", scan, *targets]).check_returncode()
        ping(lab, "cn1", correspondent(lab), address)  # behind all of them
        for node, entries in before.items():
            assert neighbours(lab, node) < entries + 50, f"{node} after a scan at {gateway}"
    # Nor does one of prefixes that nobody has.
    before_pool = neighbours(lab, "gw1")
    pool = lab.topology.gateways["gw1"].pools[0]
    unused = [str(pool[(number << 64) + 1]) for number in range(1, 501)]
    lab.exec("cn1", [sys.executable, "-c", scan, *unused]).check_returncode()
    ping(lab, "cn1", correspondent(lab), address)
    assert neighbours(lab, "gw1") < before_pool + 50


def neighbours(domain: Domain, node: str) -> int:
    """How many entries there are, of any kind. A few may come at any time, with new links for one."""
    return len(ip(domain, node, "neigh", "show", "nud", "all"))


# What people and programs are shown


def documented(heading: str) -> dict[str, str]:
    """The keys of one section of docs/cli.md, with what is said of each."""
    section = re.split(r"^#+ ", (DOCS / "cli.md").read_text(), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(f"{heading}\n")]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, flags=re.MULTILINE))


def shown(domain: Domain, node: str, what: str) -> object:
    done = domain.exec(node, [ANCHORD, "show", what, "-j", "--socket", str(domain.control(node))])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["bindings", "prefixes", "tunnels", "peers"])
def test_keys_shown_are_the_keys_documented(lab: Domain, what: str) -> None:
    move(lab, "seen", "gw2")
    keys = documented(f"show {what}")
    for node, role in (("gw1", "gateway"), ("gw2", "gateway"), ("cmd", "central database")):
        rows = shown(lab, node, what)
        assert isinstance(rows, list) and (rows or (node, what) == ("cmd", "tunnels"))
        of_role = {key for key, meaning in keys.items() if " only)" not in meaning or f"({role} only)" in meaning}
        for row in rows:
            assert set(row) == of_role, (node, what)


def test_status_has_the_keys_documented(lab: Domain) -> None:
    """A table for every daemon, one for gateways, one for directories, in this order."""
    names = list(documented("show status"))
    of_gateways, of_directories = names.index("frames_to_userspace"), names.index("records")
    common, gateway = names[:of_gateways], names[of_gateways:of_directories]
    for node, expected in (("gw1", [*common, *gateway]), ("cmd", common)):
        status = shown(lab, node, "status")
        assert isinstance(status, dict) and set(status) == set(expected)


def test_monitor_prints_a_line_for_every_handover(lab: Domain) -> None:
    argv = [ANCHORD, "monitor", "-j", "--socket", str(lab.control("gw3"))]
    before = connections(lab, "gw3")
    with lab.popen("gw3", argv, stdout=subprocess.PIPE, text=True) as monitor:
        try:
            wait_for(lambda: connections(lab, "gw3") > before, "the monitor connected")
            mac = lab.host_mac("seen").hex(":")
            for _ in range(2):
                move(lab, "seen", "gw3")
                assert monitor.stdout is not None
                line = {"mac": None}
                while line.get("mac") != mac:
                    line = json.loads(monitor.stdout.readline())
                assert line["event"] == "served" and line["interface"] == "acc0"
                assert set(line["phases_ms"]) == {"pbu", "pba", "installed"}
                move(lab, "seen", "gw1")
                exported = json.loads(monitor.stdout.readline())
                assert exported["event"] == "exported" and exported["mn"] == line["mn"]
        finally:
            monitor.terminate()
    row = binding(lab, "gw3", "seen")
    assert row is not None and row["state"] == "away"
    assert row["serving"] == str(lab.topology.gateways["gw1"].address)


def connections(domain: Domain, node: str) -> int:
    """Connections to a daemon's control socket, beside the one that listens."""
    return domain.exec(node, ["cat", "/proc/net/unix"]).stdout.count(str(domain.control(node)))


def test_everybody_is_registered_where_it_is(lab: Domain) -> None:
    """The central database's view, last of all: who was moved around is where it was moved to last."""
    rows = {row["mac"]: row for row in show(lab, "cmd", "bindings")}
    for host in HOSTS:
        row = rows[lab.host_mac(host).hex(":")]
        assert row["serving"] == str(lab.topology.gateways[lab.at(host)].address)
        addresses = {IPv6Network((state.address, 64), strict=False) for state in lab.host_addresses(host)}
        held = {row["prefix"], *(prefix for anchor in row["anchors"] for prefix in anchor["prefixes"])}
        assert {str(prefix) for prefix in addresses} == held
