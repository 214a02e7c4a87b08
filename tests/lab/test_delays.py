"""Links with a delay: as long as they say, and otherwise like any other link."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_scenes import correspondent, datagram_socket, drained, frames_at, ping, usable_address, wait_for

from anchord.lab import bench_modes, delays
from anchord.lab.delays import Direction
from anchord.lab.domain import Domain
from anchord.lab.held_to import held_to
from anchord.lab.links import Links
from anchord.lab.namespaces import inside
from anchord.lab.topology import Topology

# The smallest round trips are meant: whatever else runs here makes single ones longer.
WITHIN_MS = 1.0
TOPOLOGY = """
[gateways.gw1]
delay_ms = 1
[gateways.gw2]
delay_ms = 1
[central]
delay_ms = 9
[correspondents.cn1]
[correspondents.cn2]
delay_ms = 2.5
[hosts.mn1]
at = "gw1"
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Domain]:
    path: Path = tmp_path_factory.mktemp("topology") / "slow.toml"
    path.write_text(TOPOLOGY)
    name = f"anct-{os.getpid()}-slow"
    try:
        yield Domain.up(Topology.load(path), name, owner_pid=os.getpid())
    finally:
        Domain.take_down(name)


def address(domain: Domain, node: str) -> str:
    return str(domain.topology.on_core()[node].ip)


def round_trip_ms(domain: Domain, node: str, other: str) -> float:
    """The shortest of twenty."""
    done = domain.exec(node, ["ping", "-c20", "-i0.02", "-W5", address(domain, other)])
    found = re.search(r"rtt min/avg/max/mdev = ([\d.]+)/", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.mark.parametrize(
    ("node", "other", "one_way_ms"),
    [("gw1", "gw2", 2), ("gw2", "cmd", 10), ("cmd", "gw1", 10), ("cn1", "gw1", 1), ("cn1", "cn2", 2.5)],
)
def test_a_pair_of_nodes_is_as_far_apart_as_their_links_say(
    slow: Domain, node: str, other: str, one_way_ms: float
) -> None:
    assert 2 * one_way_ms - 0.5 < round_trip_ms(slow, node, other) < 2 * one_way_ms + WITHIN_MS


def test_a_link_with_a_delay_has_the_mtu_of_the_others(slow: Domain) -> None:
    largest = slow.exec("gw1", ["ping", "-c1", "-W5", "-M", "do", "-s", "1452", address(slow, "gw2")])
    assert "1 received" in largest.stdout, largest.stdout + largest.stderr
    larger = slow.exec("gw1", ["ping", "-c1", "-W5", "-M", "do", "-s", "1453", address(slow, "gw2")])
    assert "mtu: 1500" in larger.stdout + larger.stderr


@pytest.mark.parametrize(("sender", "receiver"), [("gw2", "gw1"), ("cn1", "gw1"), ("gw1", "cn1")])
def test_what_is_sent_in_one_piece_is_cut_before_the_link(slow: Domain, sender: str, receiver: str) -> None:
    """TCP hands its interface up to 64 KiB at once where there are offloads; on this wire no frame may be like that."""
    content = os.urandom(4_000_000)
    received = hashlib.sha256()
    with inside(slow.namespace(receiver)):
        listening = socket.create_server((address(slow, receiver), 0), family=socket.AF_INET6)
    with inside(slow.namespace(sender)):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with listening, opened, frames_at(slow, "gw1", "core0") as wire:
        opened.settimeout(10)
        opened.connect(listening.getsockname()[:2])
        connection, _ = listening.accept()
        sending = threading.Thread(target=_send_all, args=(opened, content))
        sending.start()
        with connection:
            connection.settimeout(10)
            while data := connection.recv(1 << 16):
                received.update(data)
        sending.join()
        frames = [frame for frame in drained(wire) if frame[12:14] == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP]
    assert received.digest() == hashlib.sha256(content).digest()
    assert len(frames) > 2000 and max(len(frame) for frame in frames) == 1514
    # An end that is not held up by offloads fills in every checksum (RFC 9293 section 3.1).
    arriving = [frame for frame in frames if frame[38:54] == socket.inet_pton(socket.AF_INET6, address(slow, "gw1"))]
    assert arriving and all(_checksum_holds(frame[14:]) for frame in arriving)


def _send_all(opened: socket.socket, content: bytes) -> None:
    opened.sendall(content)
    opened.shutdown(socket.SHUT_WR)


def _checksum_holds(packet: bytes) -> bool:
    """Of an IPv6 packet without extension headers (RFC 8200 section 8.1)."""
    covered = packet[8:40] + len(packet[40:]).to_bytes(4, "big") + bytes((0, 0, 0, packet[6])) + packet[40:]
    covered += bytes(len(covered) % 2)
    total = sum(int.from_bytes(covered[at : at + 2], "big") for at in range(0, len(covered), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


def test_the_order_is_kept(slow: Domain) -> None:
    with (
        datagram_socket(slow, "cmd", address(slow, "cmd")) as sender,
        datagram_socket(slow, "gw1", address(slow, "gw1")) as receiver,
    ):
        receiver.settimeout(5)
        there = receiver.getsockname()[:2]
        sender.sendto(b"first", there)
        assert receiver.recv(64) == b"first"
        for number in range(500):  # fewer than a device's queue holds
            sender.sendto(number.to_bytes(2, "big"), there)
        assert [int.from_bytes(receiver.recv(64), "big") for _ in range(500)] == list(range(500))


def test_a_host_behind_such_links_roams(slow: Domain) -> None:
    own = usable_address(slow, "mn1", "gw1")
    slow.move("mn1", "gw2")
    slow.wait_served("mn1", "gw2", timeout_s=5)
    ping(slow, "mn1", own, correspondent(slow))
    slow.move("mn1", "gw1")
    slow.wait_served("mn1", "gw1", timeout_s=5)


def test_without_its_process_a_link_is_a_cut_cable(slow: Domain) -> None:
    def carrier() -> bool:
        with Links(slow.namespace("gw2")) as links:
            return links.get("core0").carrier

    assert carrier()
    slow.kill("core")
    wait_for(lambda: not carrier(), "the loss of the carrier")
    slow.restart("core")
    assert carrier()
    assert round_trip_ms(slow, "gw1", "gw2") > 3.5
    assert all(row["alive"] for row in slow.ps())


def test_a_link_that_is_full_drops_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delays, "HELD_FRAMES", 3)
    near, source = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sink, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, source, sink, far:
        for opened in (source, sink, far):
            opened.setblocking(False)
        direction = Direction("gw1 to core", source.fileno(), sink.fileno(), 0)
        for number in range(5):
            near.send(bytes((number,)))
        direction.take()
        assert direction.dropped == 2 and "gw1 to core: 3 frames are held" in capsys.readouterr().out
        direction.deliver()
        assert drained(far) == [b"\0", b"\1", b"\2"]
        near.send(b"more")
        direction.take()
        direction.deliver()
        assert drained(far) == [b"more"] and direction.dropped == 2


def test_the_benchmark_of_the_proxy_mode_with_delays() -> None:
    """No handover can be faster than its messages."""
    rows = {row.name: row for row in bench_modes.run(["proxy"], 2, None, lambda _: None, delays=True, silent=True)}
    assert rows["handover.proxy.old_flow_down.delays"].n == rows["handover.proxy.old_flow_down"].n == 2
    assert rows["handover.proxy.old_flow_down.delays"].p50 > 22 > rows["handover.proxy.old_flow_down"].p50
    assert rows["handover.proxy.old_flow_up.delays"].p50 > 23
    assert rows["handover.proxy.pba.delays"].p50 > 20
    held = held_to(list(rows.values()))
    assert {name for name, each in held.items() if each.verdict} == {
        "handover.proxy.old_flow_down", "handover.proxy.old_flow_down.delays", "handover.proxy.old_flow_up.delays",
    }  # fmt: skip
