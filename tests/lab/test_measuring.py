"""Agents, probes, captures and path counters, between namespaces with nothing in between but a router."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from anchord.lab.capture import Capture, CaptureError
from anchord.lab.paths import Hop, Paths, detours, of_connection
from anchord.lab.probes import PAYLOAD_BYTES, Probe, Way, build, parse
from anchord.lab.sightings import read_point
from anchord.lab.streams import PORT, Stream, StreamError
from anchord.lab.traffic import Endpoint, TrafficError

NEAR, FAR = "2001:db8:1::1", "2001:db8:2::1"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Network:
    """``near`` - ``router`` - ``far``; the router's interfaces are ``to-near`` and ``an-far``."""

    near: str
    router: str
    far: str


@pytest.fixture
def network() -> Iterator[Network]:
    name = f"anct-{os.getpid()}-measure{next(_numbers)}"
    made = Network(f"{name}-near", f"{name}-router", f"{name}-far")
    try:
        _ip(*(f"netns add {namespace}" for namespace in (made.near, made.router, made.far)))
        settings = ("net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.dad_transmits=0")
        _ip(f"netns exec {made.router} sysctl -qw {' '.join(settings)}")
        for namespace, there, address, subnet in (
            (made.near, "to-near", NEAR, "2001:db8:1::"),
            (made.far, "an-far", FAR, "2001:db8:2::"),
        ):
            _ip(
                f"link add name eth0 netns {namespace} type veth peer name {there} netns {made.router}",
                f"-n {namespace} link set lo up",
                f"-n {namespace} link set eth0 up",
                f"-n {made.router} link set {there} up",
                f"-n {namespace} addr add {address}/64 dev eth0 nodad",
                f"-n {made.router} addr add {subnet}ffff/64 dev {there} nodad",
                f"-n {namespace} route add default via {subnet}ffff",
            )
        yield made
    finally:
        for namespace in (made.near, made.router, made.far):
            subprocess.run(["ip", "netns", "del", namespace], check=False)


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture
def ends(network: Network) -> Iterator[tuple[Endpoint, Endpoint]]:
    """An agent at each end; the far one serves and answers."""
    with closing(Endpoint("near", network.near)) as near, closing(Endpoint("far", network.far)) as far:
        far.call("serve")
        far.call("ping", address=NEAR, deadline_s=5.0)  # the routers' link-local addresses are out of DAD
        yield near, far


def test_a_probe_is_64_bytes_and_reads_as_it_was_built() -> None:
    payload = build(Way.DOWN, 2**40, 12345)
    assert len(payload) == PAYLOAD_BYTES == 64
    assert parse(payload) == Probe(Way.DOWN, 2**40, 12345)
    assert parse(b"something else") is None
    assert parse(payload[:8]) is None


def test_every_byte_there_and_back(ends: tuple[Endpoint, Endpoint]) -> None:
    near, far = ends
    opened = near.call("open", connection=1, to=FAR, seed=7, port=40001, deadline_s=5.0)
    assert opened["local"] == [NEAR, 40001]
    exchanged = near.call("exchange", connection=1, amount=200_000, deadline_s=5.0)
    assert exchanged["verified"] == 200_000
    near.call("stream", connection=1, mbit_s=20.0)
    near.call("exchange", connection=1, amount=65_536, deadline_s=5.0)
    finished = near.call("finish", connection=1, deadline_s=5.0)
    assert finished["sent"] == finished["verified"] >= 265_536
    assert far.call("received", peer=finished["local"]) == {"bytes": finished["sent"], "digest": finished["digest"]}


def test_a_connection_that_misses_its_deadline_stays_dead(network: Network, ends: tuple[Endpoint, Endpoint]) -> None:
    near, _ = ends
    near.call("open", connection=1, to=FAR, seed=7, deadline_s=5.0)
    _ip(f"-n {network.router} link set an-far down")
    with pytest.raises(TrafficError, match=r"missing after 0\.3 s"):
        near.call("exchange", connection=1, amount=65_536, deadline_s=0.3)
    _ip(f"-n {network.router} link set an-far up")
    with pytest.raises(TrafficError, match=r"missing after 0\.3 s"):
        near.call("exchange", connection=1, amount=1, deadline_s=5.0)
    with pytest.raises(TrafficError, match="not opened"):
        near.call("open", connection=2, to="2001:db8:2::dead", seed=7, deadline_s=0.3)


def test_a_wrong_byte_is_noticed() -> None:
    async def go() -> None:
        async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            data = bytearray(await reader.readexactly(1000))
            data[500] ^= 1
            writer.write(data)

        server = await asyncio.start_server(lie, "::1", PORT)
        async with server:
            opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            stream = await Stream.open(opened, ("::1", PORT), 1, 5.0)
            with pytest.raises(StreamError, match="wrong byte"):
                await stream.exchange(1000, 5.0)
            stream.close()

    asyncio.run(go())


def test_an_agent_that_dies_says_so(ends: tuple[Endpoint, Endpoint]) -> None:
    near, _ = ends
    near.close()
    with pytest.raises(TrafficError, match="agent of near has ended"):
        near.call("addresses")


def test_addresses_are_reported_as_the_kernel_announces_them(network: Network, ends: tuple[Endpoint, Endpoint]) -> None:
    near, _ = ends
    near.call("watch")
    there = near.await_address(lambda event: str(event.address) == NEAR, 5.0)
    assert there is not None and there.preferred
    before = time.time_ns()
    _ip(f"-n {network.near} addr add 2001:db8:1::2/64 dev eth0 nodad")
    new = near.await_address(lambda event: str(event.address) == "2001:db8:1::2" and event.preferred, 5.0)
    assert new is not None and before < new.time_ns < time.time_ns()
    _ip(f"-n {network.near} addr change 2001:db8:1::2/64 dev eth0 preferred_lft 0")
    assert near.await_address(lambda event: event.address == new.address and event.deprecated, 5.0) is not None
    assert near.await_address(lambda event: event.address == IPv6Address("::1"), 0.1) is None


def test_captures_hold_every_probe_with_the_kernels_stamps(
    network: Network, ends: tuple[Endpoint, Endpoint], tmp_path: Path
) -> None:
    near, far = ends
    began = time.time_ns()
    capture = Capture(tmp_path, {"access-x": (network.router, "to-near"), "core-x": (network.router, "an-far")})
    near.call("probe", own=NEAR, to=FAR)
    _until_received(far, 200)
    near.call("end_probes")
    far.call("end_probes")
    received = far.call("probe_counts")["flows"][NEAR]["received"]
    results = capture.stop()
    assert {name: result.dropped for name, result in results.items()} == {"access-x": 0, "core-x": 0}
    views = {name: read_point(tmp_path / f"{name}.pcap", access=True) for name in results}
    assert {name: view.frames for name, view in views.items()} == {name: r.frames for name, r in results.items()}
    near_address = IPv6Address(NEAR).packed
    counts = set()
    for view in views.values():
        (track,) = [
            track for (address, way, _), track in view.probes.items() if (address, way) == (near_address, Way.UP)
        ]
        # The last ones may still have been on their way to the far end's counter.
        assert len(track.numbers) >= received >= 200
        assert list(track.numbers) == list(range(track.numbers[0], track.numbers[0] + len(track.numbers)))
        assert list(track.times) == sorted(track.times)
        assert began < track.times[0] < track.times[-1] < time.time_ns()
        counts.add(len(track.numbers))
    assert len(counts) == 1  # nothing is lost between two points of one router


def test_a_host_that_only_receives_is_told_to_the_correspondent(ends: tuple[Endpoint, Endpoint]) -> None:
    near, far = ends
    near.call("probe", own=NEAR, to=FAR, sends=False)
    far.call("tell", host=NEAR)
    end = time.monotonic() + 5
    while not (counts := near.call("probe_counts")["flows"][NEAR])["received"]:
        assert time.monotonic() < end
    assert counts["sent"] == 0


def test_probes_that_have_ended_begin_again_when_the_host_sends_again(ends: tuple[Endpoint, Endpoint]) -> None:
    near, far = ends
    for _ in range(2):
        near.call("probe", own=NEAR, to=FAR)
        end = time.monotonic() + 5
        while not near.call("probe_counts")["flows"][NEAR]["received"]:
            assert time.monotonic() < end
        near.call("end_probes")
        far.call("end_probes")
    assert far.call("probe_counts")["flows"][NEAR]["received"] > 0


def _until_received(endpoint: Endpoint, wanted: int) -> None:
    end = time.monotonic() + 10
    while endpoint.call("probe_counts")["flows"].get(NEAR, {"received": 0})["received"] < wanted:
        assert time.monotonic() < end


def test_a_capture_where_there_is_no_interface(network: Network, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such device"):
        Capture(tmp_path, {"core-x": (network.router, "eth9")})


@pytest.mark.parametrize("ordered", [True, False])
def test_a_capture_whose_controller_is_gone_ends_quietly(network: Network, tmp_path: Path, ordered: bool) -> None:
    order = {"directory": str(tmp_path), "points": {"near": [network.near, "eth0"]}, "blocks": 2}
    argv = [sys.executable, "-m", "anchord.lab.capture"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin and process.stdout and process.stderr
        if ordered:
            print(json.dumps(order), file=process.stdin, flush=True)
            assert json.loads(process.stdout.readline()) == {"ready": True}
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""


def test_a_capture_does_not_mix_with_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "core-x.pcap").touch()
    with pytest.raises(CaptureError, match="earlier run"):
        Capture(tmp_path, {})


def test_a_connections_path_is_counted_where_it_is_forwarded(network: Network, ends: tuple[Endpoint, Endpoint]) -> None:
    near, _ = ends
    paths = Paths({"gw1": network.router})
    near.call("open", connection=1, to=FAR, seed=7, port=40001, deadline_s=5.0)
    near.call("exchange", connection=1, amount=65_536, deadline_s=5.0)
    near.call("open", connection=2, to=FAR, seed=7, port=40002, deadline_s=5.0)
    counts = paths.read()
    up, down = Hop("gw1", "to-near", "an-far", 40001, PORT), Hop("gw1", "an-far", "to-near", PORT, 40001)
    assert set(of_connection(counts, 40001)) == {up, down}
    assert counts[up] > counts[Hop("gw1", "to-near", "an-far", 40002, PORT)] > 0


def test_what_is_no_plain_path() -> None:
    plain = [Hop("gw2", "dl0011", "core0", 40001, PORT), Hop("gw2", "core0", "dl0011", PORT, 40001)]
    assert detours(plain, "gw2") == []
    assert detours(plain, "gw1") == ["through gw2 (dl0011 to core0)", "through gw2 (core0 to dl0011)"]
    tunnel = [Hop("gw2", "dl0011", "an-up0", 40001, PORT)]
    assert detours(tunnel, "gw2") == ["through a tunnel at gw2 (dl0011 to an-up0)"]
