"""Full-size packets in a domain whose links carry 1500 bytes everywhere: what a tunnel has no room for is told."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from lab_scenes import MODES, correspondent, datagram_socket, move, show, topology, usable_address, wait_for

from anchord.lab.domain import Domain
from anchord.lab.namespaces import core_port
from anchord.lab.topology import CORE, interface_towards_core
from anchord.lab.traffic import Endpoint

LAB = f"anct-{os.getpid()}-sizes"
FULL = 1500 - 40 - 8  # bytes of payload in an IPv6 UDP datagram of 1500 bytes
QUIC = 1232  # what QUIC sends in a datagram at first: 1280 - 40 - 8 (RFC 9000 section 14)
DATAGRAMS = 20
_UDP_SEGMENT = 103  # linux/udp.h
_SOL_UDP = 17


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    try:
        yield Domain.up(
            topology(3, {"udp": "gw1", "quic": "gw1", "tcp": "gw1", "narrow": "gw1"}), LAB, owner_pid=os.getpid()
        )
    finally:
        Domain.take_down(LAB)


@pytest.fixture(scope="module")
def labs(lab: Domain) -> Iterator[dict[str, Domain]]:
    """A domain for each mode, with one host. All at once: hosts take seconds for an address."""
    found = {"proxy": lab}
    names = {mode: f"{LAB}-{mode}" for mode in MODES if mode not in found}
    try:
        for mode, name in names.items():
            settings: dict[str, Any] = MODES[mode]
            found[mode] = Domain.up(topology(3, {"udp": "gw1"}, **settings), name, owner_pid=os.getpid())
        yield found
    finally:
        for name in names.values():
            Domain.take_down(name)


def arrivals(receiver: socket.socket, expected: int, within_s: float = 2.0) -> int:
    """How many datagrams come in, until they are all there or none has come for a while."""
    found, deadline = 0, time.monotonic() + within_s
    while found < expected and select.select([receiver], [], [], max(deadline - time.monotonic(), 0))[0]:
        receiver.recv(1 << 16)
        found += 1
    return found


@pytest.mark.parametrize("mode", MODES)
def test_a_sender_of_full_size_datagrams_loses_at_most_the_first_in_each_direction(
    labs: dict[str, Domain], mode: str
) -> None:
    lab = labs[mode]
    address = usable_address(lab, "udp", "gw1")
    with datagram_socket(lab, "udp", address) as host, datagram_socket(lab, "cn1", correspondent(lab)) as other:
        for gateway in ("gw1", "gw2", "gw3"):
            if gateway != "gw1":
                move(lab, "udp", gateway)
            for sender, receiver in ((host, other), (other, host)):
                came = 0
                for number in range(DATAGRAMS):
                    sender.sendto(bytes(FULL), receiver.getsockname()[:2])
                    came += arrivals(receiver, 1, within_s=0.3 if number == 0 else 2.0)
                assert came >= DATAGRAMS - (gateway != "gw1"), f"at {gateway}, to {receiver.getsockname()[0]}"


def test_quic_like_traffic_with_segmentation_offload_passes(lab: Domain) -> None:
    """One system call, ten datagrams: the kernel cuts them as late as it can (UDP_SEGMENT)."""
    address = usable_address(lab, "quic", "gw1")
    segments = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", QUIC))]
    with datagram_socket(lab, "quic", address) as host, datagram_socket(lab, "cn1", correspondent(lab)) as other:
        for gateway in ("gw1", "gw2", "gw3"):
            if gateway != "gw1":
                move(lab, "quic", gateway)
            for sender, receiver in ((host, other), (other, host)):
                for _ in range(DATAGRAMS):
                    sender.sendmsg([bytes(10 * QUIC)], segments, 0, receiver.getsockname()[:2])
                assert arrivals(receiver, 10 * DATAGRAMS) == 10 * DATAGRAMS


def test_tcp_with_offloads_passes_both_ways(lab: Domain) -> None:
    address = usable_address(lab, "tcp", "gw1")
    features = lab.exec("tcp", ["ip", "-d", "link", "show", "dev", "eth0"]).stdout
    assert "gso_max_size 65536" in features
    with closing(Endpoint("cn1", lab.namespace("cn1"))) as far, closing(Endpoint("tcp", lab.namespace("tcp"))) as near:
        far.call("serve")
        near.call("open", connection=1, to=correspondent(lab), seed=1, deadline_s=5, bind=address)
        for gateway in ("gw2", "gw3"):
            move(lab, "tcp", gateway)
            near.call("exchange", connection=1, amount=8 << 20, deadline_s=20)


def set_core_link(lab: Domain, gateway: str, mtu: int) -> None:
    """What the link between a gateway and the core router carries, set at both ends."""
    near = interface_towards_core(lab.topology.nodes()[gateway])
    for node, interface in ((CORE, core_port(gateway)), (gateway, near)):
        lab.exec(node, ["ip", "link", "set", interface, "mtu", str(mtu)], check=True)


def told_mtu(lab: Domain, host: str) -> int:
    """The MTU that the last Router Advertisement has set on a host's interface."""
    return int(lab.exec(host, ["cat", "/proc/sys/net/ipv6/conf/eth0/mtu"], check=True).stdout)


def test_row_110_a_path_that_becomes_narrow_is_noticed_and_hosts_are_told(lab: Domain) -> None:
    """gw1 and gw3 keep their wide links: gw1 learns of the narrow one behind the core router from its own packets."""
    address = usable_address(lab, "narrow", "gw1")
    with (
        closing(Endpoint("cn1", lab.namespace("cn1"))) as far,
        closing(Endpoint("narrow", lab.namespace("narrow"))) as near,
    ):
        far.call("serve")
        near.call("open", connection=1, to=correspondent(lab), seed=1, deadline_s=5, bind=address)
        move(lab, "narrow", "gw2")
        near.call("exchange", connection=1, amount=1 << 20, deadline_s=20)
        assert told_mtu(lab, "narrow") == 1460
        set_core_link(lab, "gw2", 1400)
        try:
            near.call("exchange", connection=1, amount=8 << 20, deadline_s=20)
            wait_for(lambda: told_mtu(lab, "narrow") == 1360, "a Router Advertisement of gw2 with the new MTU")
            assert show(lab, "gw1", "status")["tunnel_mtu"] == show(lab, "gw2", "status")["tunnel_mtu"] == 1360
            assert show(lab, "gw3", "status")["tunnel_mtu"] == 1460, "it has sent nothing that way"
            move(lab, "narrow", "gw3")
            near.call("exchange", connection=1, amount=8 << 20, deadline_s=20)
            wait_for(lambda: told_mtu(lab, "narrow") == 1460, "a Router Advertisement of gw3")
            move(lab, "narrow", "gw1")
            near.call("exchange", connection=1, amount=8 << 20, deadline_s=20)
            wait_for(lambda: told_mtu(lab, "narrow") == 1360, "a Router Advertisement of gw1")
        finally:
            set_core_link(lab, "gw2", 1500)
        wait_for(lambda: show(lab, "gw2", "status")["tunnel_mtu"] == 1460, "gw2's link is wide again", 45)
