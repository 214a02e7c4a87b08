"""The network of a lab and its access switch, without daemons."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anchord.lab import namespaces, switch
from anchord.lab.links import Links
from anchord.lab.namespaces import host_port, inside, namespace_name
from anchord.lab.topology import SWITCH, Host, Topology
from anchord.wire.frames import is_layer2_update, parse_frame

MAC = "02:00:00:00:99:01"
MARK = 0x88B5  # an EtherType for experiments (IEEE 802)
ETH_P_ALL = 3


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    """The default network, but that mn1's MAC address is known."""
    name = f"anct-{os.getpid()}-net"
    topology = Topology.default()
    topology = Topology.from_plain({**topology.to_plain(), "hosts": {"mn1": {"name": "mn1", "at": "gw1", "mac": MAC}}})
    try:
        namespaces.build(name, topology)
        yield name
    finally:
        namespaces.remove(name, topology.nodes())


@pytest.fixture(autouse=True)
def _host_at_gw1(lab: str) -> None:
    move(lab, "gw1", silent=True)


def move(lab: str, gateway: str, silent: bool = False, flap_ms: float | None = None) -> int:
    link = Topology.default().link(gateway)
    return switch.move(namespace_name(lab, SWITCH), "mn1", mac_bytes(), link, silent, flap_ms)


def mac_bytes() -> bytes:
    return bytes.fromhex(MAC.replace(":", ""))


def run(lab: str, node: str, *argv: str) -> str:
    command = ["ip", "netns", "exec", namespace_name(lab, node), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def listen(lab: str, node: str, interface: str) -> socket.socket:
    with inside(namespace_name(lab, node)):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.bind((interface, ETH_P_ALL))
    opened.settimeout(5)
    return opened


def mark(lab: str, node: str, interface: str) -> None:
    """Send a broadcast frame that ends a capture."""
    with inside(namespace_name(lab, node)):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with closing(opened):
        opened.sendto(b"\xff" * 6 + mac_bytes() + MARK.to_bytes(2, "big") + bytes(46), (interface, 0))


def frames_until_mark(opened: socket.socket) -> list[bytes]:
    frames = []
    while True:
        frame = opened.recv(2048)
        if int.from_bytes(frame[12:14], "big") == MARK:
            return frames
        frames.append(frame)


def layer2_updates(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if is_layer2_update(parse_frame(frame))]


def carrier_changes(lab: str) -> int:
    return int(run(lab, "mn1", "cat", "/sys/class/net/eth0/carrier_changes"))


def test_core_routes_pools_to_their_gateways_and_nodes_reach_each_other(lab: str) -> None:
    routes = run(lab, "core", "ip", "-6", "route", "show")
    for number in (1, 2, 3):
        assert f"2001:db8:a{number}::/48 via 2001:db8:f{number}::1 dev core-gw{number}" in routes
    assert "1 received" in run(lab, "gw1", "ping", "-c1", "-W5", "2001:db8:c2::1")
    assert "1 received" in run(lab, "cmd", "ping", "-c1", "-W5", "2001:db8:f3::1")


def test_switch_says_nothing_of_its_own(lab: str) -> None:
    assert run(lab, SWITCH, "ip", "-6", "addr", "show") == ""


def test_nothing_of_a_lab_is_visible_outside(lab: str) -> None:
    outside = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert not any(name in outside for name in ("p-mn1", "core-gw1", "br-gw1", "acc0"))


def test_move_takes_the_host_to_the_other_link_with_its_carrier_kept(lab: str) -> None:
    before = carrier_changes(lab)
    began_ns = time.time_ns()
    with closing(listen(lab, "gw1", "acc0")) as old, closing(listen(lab, "gw2", "acc0")) as new:
        moved_ns = move(lab, "gw2")
        mark(lab, "mn1", "eth0")
        frames_until_mark(new)
        mark(lab, SWITCH, "p-gw1")  # towards gw1
        assert not layer2_updates(frames_until_mark(old))
    assert began_ns < moved_ns < time.time_ns()
    assert carrier_changes(lab) == before


def test_move_is_announced_by_one_layer_2_update_frame_with_the_hosts_mac(lab: str) -> None:
    with closing(listen(lab, "gw3", "acc0")) as new, closing(listen(lab, "mn1", "eth0")) as host:
        move(lab, "gw3")
        mark(lab, "mn1", "eth0")
        (update,) = layer2_updates(frames_until_mark(new))
        assert update[:6] == b"\xff" * 6 and update[6:12] == mac_bytes()
        # 802.2: an XID response from the null SAP to the null SAP, class 1 (IEEE 802.11F Layer 2 Update)
        assert update[12:20] == bytes.fromhex("0006 0001 af 81 01 00")
        assert not layer2_updates(frames_until_mark(host))


def test_bridge_has_learnt_the_station_from_the_announcement(lab: str) -> None:
    move(lab, "gw2")
    assert f"{MAC} dev {host_port('mn1')} master br-gw2" in run(lab, SWITCH, "bridge", "fdb", "show", "br", "br-gw2")
    assert MAC not in run(lab, SWITCH, "bridge", "fdb", "show", "br", "br-gw1")


def test_silent_move_announces_nothing(lab: str) -> None:
    with closing(listen(lab, "gw2", "acc0")) as new:
        move(lab, "gw2", silent=True)
        mark(lab, "mn1", "eth0")
        assert not layer2_updates(frames_until_mark(new))


def test_flap_drops_the_carrier_for_as_long_as_asked(lab: str) -> None:
    before, began_s = carrier_changes(lab), time.monotonic()
    with closing(listen(lab, "gw2", "acc0")) as new:
        move(lab, "gw2", flap_ms=120)
        mark(lab, "mn1", "eth0")
        assert layer2_updates(frames_until_mark(new))
    assert carrier_changes(lab) == before + 2
    assert time.monotonic() - began_s >= 0.12
    with Links(namespace_name(lab, "mn1")) as links:
        assert links.get("eth0").carrier


def test_host_namespace_is_that_of_a_fresh_one_with_a_link(lab: str) -> None:
    fresh = f"anct-{os.getpid()}-fresh"
    try:
        commands = [
            f"netns add {fresh}-a", f"netns add {fresh}-b",
            f"link add name eth0 netns {fresh}-a type veth peer name eth0 netns {fresh}-b",
        ]  # fmt: skip
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
        for end in ("a", "b"):
            subprocess.run(["ip", "-n", f"{fresh}-{end}", "link", "set", "eth0", "up"], check=True)
        assert sysctls(namespace_name(lab, "mn1")) == sysctls(f"{fresh}-a")
        assert links_of(namespace_name(lab, "mn1")) == links_of(f"{fresh}-a") - {("lo", False)} | {("lo", True)}
    finally:
        for end in ("a", "b"):
            subprocess.run(["ip", "netns", "del", f"{fresh}-{end}"], check=False)
    assert run(lab, "mn1", "nft", "list", "ruleset") == ""
    assert "2001:" not in run(lab, "mn1", "ip", "-6", "addr") + run(
        lab, "mn1", "ip", "-6", "route", "show", "table", "0"
    )


def sysctls(namespace: str) -> dict[str, str]:
    """Every network setting of a namespace."""
    values = {}
    with inside(namespace):
        for path in Path("/proc/sys/net").rglob("*"):
            if path.is_file() and os.access(path, os.R_OK) and path.stat().st_mode & 0o444:
                try:
                    values[str(path)] = path.read_text()
                except OSError:
                    values[str(path)] = "unreadable"  # stable_secret that was never set
    assert any("ipv6/conf/eth0/accept_ra" in path for path in values)
    assert any("ipv6/neigh/eth0" in path for path in values)
    return values


def links_of(namespace: str) -> set[tuple[str, bool]]:
    with Links(namespace) as links:
        return {(link.name, link.up) for link in links.all()}


def test_a_distributions_settings_are_there_before_the_link(lab: str) -> None:
    name = f"anct-{os.getpid()}-set"
    settings = {"use_tempaddr": 2, "addr_gen_mode": 3, "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen": 64}
    plain = Topology.default()
    topology = Topology(plain.gateways, {"mn1": Host("mn1", "gw1", sysctls=settings)})
    try:
        namespaces.build(name, topology)
        eth0 = "/proc/sys/net/ipv6/conf/eth0"
        assert run(name, "mn1", "cat", f"{eth0}/use_tempaddr", f"{eth0}/addr_gen_mode").split() == ["2", "3"]
        assert run(name, "mn1", "cat", f"{eth0}/accept_ra_rt_info_max_plen").split() == ["64"]
    finally:
        namespaces.remove(name, topology.nodes())


def test_several_access_links_of_one_gateway(tmp_path: Path) -> None:
    name = f"anct-{os.getpid()}-two"
    (tmp_path / "lab.toml").write_text('[gateways.gw1]\naccess = ["a", "b"]\n[hosts.mn1]\nat = "gw1"\naccess = "b"\n')
    topology = Topology.load(tmp_path / "lab.toml")
    try:
        namespaces.build(name, topology)
        assert "br-gw1-b" in run(name, SWITCH, "ip", "link", "show", "p-mn1")
        with closing(listen(name, "gw1", "acc0")) as first:
            switch.move(namespace_name(name, SWITCH), "mn1", mac_bytes(), topology.link("gw1", "a"), False, None)
            mark(name, "mn1", "eth0")
            assert layer2_updates(frames_until_mark(first))
    finally:
        namespaces.remove(name, topology.nodes())
