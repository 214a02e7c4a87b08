"""The directory, with real daemons: it is read at each move, and nobody is stranded without it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab_scenes import Flow, binding, correspondent, move, peer, ping, show, topology, usable_address, wait_for

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside

LAB = f"anct-{os.getpid()}-dir"
HOSTS = dict.fromkeys(("tour", "killed", "hung", "kept", "back", "lost", "sudden"), "gw1")
PORT = 7085
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    """Three gateways and a directory, each test with a host of its own; every daemon runs again after each test."""
    try:
        domain = Domain.up(topology(3, HOSTS, finder="directory"), LAB, owner_pid=os.getpid())
        for host in HOSTS:
            usable_address(domain, host, "gw1")
        yield domain
    finally:
        Domain.take_down(LAB)


def recorded(domain: Domain, host: str) -> tuple[str, set[str]] | None:
    """Names of the serving gateway and of the anchors according to the directory."""
    row = binding(domain, "dir", host)
    if row is None:
        return None
    names = {str(gateway.address): name for name, gateway in domain.topology.gateways.items()}
    return names[row["serving"]], {names[anchor["gateway"]] for anchor in row["anchors"]}


def wait_recorded(domain: Domain, host: str, serving: str, anchors: set[str]) -> None:
    wait_for(lambda: recorded(domain, host) == (serving, anchors), f"{host} recorded at {serving} with {anchors}")


def wait_connected(domain: Domain) -> None:
    for gateway in domain.topology.gateways:
        wait_for(lambda name=gateway: show(domain, name, "status")["directory"]["connected"], f"{gateway} connected")


@contextmanager
def connection(domain: Domain, node: str, address: str) -> Iterator[socket.socket]:
    """To the directory, from an address of a node."""
    with inside(domain.namespace(node)):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with opened:
        opened.settimeout(PATIENCE_S)
        opened.bind((address, 0))
        assert domain.topology.directory is not None
        opened.connect((str(domain.topology.directory.address), PORT))
        yield opened


@contextmanager
def as_gateway(domain: Domain) -> Iterator[socket.socket]:
    """A connection in place of gw3's own."""
    domain.kill("gw3")
    try:
        with connection(domain, "gw3", str(domain.topology.gateways["gw3"].address)) as opened:
            yield opened
    finally:
        domain.start("gw3")
        wait_connected(domain)


def answers(opened: socket.socket, count: int) -> list[dict[str, Any]]:
    with opened.makefile("rb") as lines:
        return [json.loads(lines.readline()) for _ in range(count)]


def test_a_tour_over_three_gateways_keeps_old_connections_and_the_record_follows(lab: Domain) -> None:
    old = usable_address(lab, "tour", "gw1")
    with Flow(lab, "tour", old) as flow:
        for gateway, anchors in (("gw2", {"gw1"}), ("gw3", {"gw1", "gw2"}), ("gw1", {"gw2", "gw3"})):
            move(lab, "tour", gateway)
            flow.wait_alive()
            wait_recorded(lab, "tour", gateway, anchors)
            row = binding(lab, gateway, "tour")
            assert row is not None
            assert row["registered"]
    assert show(lab, "dir", "status")["alive"] == ["gw1", "gw2", "gw3"]
    assert all(peer(lab, "dir", name)["same_domain"] for name in HOSTS.values())


@pytest.mark.parametrize(("host", "ends", "returns"), [
    ("killed", lambda lab: lab.kill("dir"), lambda lab: lab.start("dir")),
    ("hung", lambda lab: lab.kill("dir", signal.SIGSTOP), lambda lab: lab.kill("dir", signal.SIGCONT)),
])  # fmt: skip
def test_without_the_directory_a_host_roams_on_and_the_record_is_brought_up_to_date(
    lab: Domain, host: str, ends: Any, returns: Any
) -> None:
    old = usable_address(lab, host, "gw1")
    with Flow(lab, host, old) as flow:
        ends(lab)
        try:
            for gateway in ("gw2", "gw3"):
                move(lab, host, gateway)
                flow.wait_alive()
                row = binding(lab, gateway, host)
                assert row is not None
                assert not row["registered"]
        finally:
            returns(lab)
        wait_connected(lab)
        wait_recorded(lab, host, "gw3", {"gw1", "gw2"})
        move(lab, host, "gw2")
        flow.wait_alive()
        wait_recorded(lab, host, "gw2", {"gw1", "gw3"})


def test_a_directory_killed_and_started_again_has_kept_its_records(lab: Domain) -> None:
    move(lab, "kept", "gw2")
    wait_recorded(lab, "kept", "gw2", {"gw1"})
    before = {row["mac"]: row["revision"] for row in show(lab, "dir", "bindings")}
    revision = show(lab, "dir", "status")["revision"]
    for end in (lab.kill, lab.restart):  # SIGKILL, SIGTERM
        end("dir")
        if end == lab.kill:
            lab.start("dir")
        assert {row["mac"]: row["revision"] for row in show(lab, "dir", "bindings")} == before
        assert show(lab, "dir", "status")["revision"] == revision
        wait_connected(lab)
    move(lab, "kept", "gw3")
    wait_recorded(lab, "kept", "gw3", {"gw1", "gw2"})


def lose_store(domain: Domain) -> None:
    domain.kill("dir")
    shutil.rmtree(domain.directory / "state" / "dir")
    domain.start("dir")


def test_a_directory_that_lost_its_store_is_told_again_before_anything_moves(lab: Domain) -> None:
    oldest = usable_address(lab, "lost", "gw1")
    move(lab, "lost", "gw2")
    old = usable_address(lab, "lost", "gw2")
    lose_store(lab)
    wait_recorded(lab, "lost", "gw2", {"gw1"})
    with Flow(lab, "lost", oldest) as first, Flow(lab, "lost", old, up=False) as download:
        move(lab, "lost", "gw3")
        for flow in (first, download):
            flow.wait_alive()
    wait_recorded(lab, "lost", "gw3", {"gw1", "gw2"})
    ping(lab, "lost", usable_address(lab, "lost", "gw3"), correspondent(lab))


def test_a_host_that_moves_while_the_directory_loses_its_store_takes_its_connections_along(lab: Domain) -> None:
    """Its new gateway asks before anybody has told the new store: what the host sends from names its anchors."""
    old = usable_address(lab, "sudden", "gw1")
    with Flow(lab, "sudden", old) as flow:
        lab.kill("gw1", signal.SIGSTOP)  # so that nobody tells it
        lose_store(lab)
        wait_for(lambda: show(lab, "gw2", "status")["directory"]["connected"], "gw2 connected")
        move(lab, "sudden", "gw2")
        lab.kill("gw1", signal.SIGCONT)
        flow.wait_alive()
    wait_recorded(lab, "sudden", "gw2", {"gw1"})
    wait_connected(lab)


def test_a_gateway_killed_and_started_again_goes_on_with_the_directory(lab: Domain) -> None:
    old = usable_address(lab, "back", "gw1")
    with Flow(lab, "back", old) as flow:
        move(lab, "back", "gw2")
        wait_recorded(lab, "back", "gw2", {"gw1"})
        first = binding(lab, "dir", "back")
        assert first is not None
        lab.kill("gw2")
        lab.start("gw2")
        wait_for(
            lambda: (row := binding(lab, "dir", "back")) is not None and row["revision"] > first["revision"],
            "the record written anew",
        )
        assert recorded(lab, "back") == ("gw2", {"gw1"})
        flow.wait_alive()
        move(lab, "back", "gw3")
        flow.wait_alive()
        wait_recorded(lab, "back", "gw3", {"gw1", "gw2"})


def test_strangers_are_refused_and_counted(lab: Domain) -> None:
    refused = peer(lab, "dir", "others")["dropped"].get("unconfigured-peer", 0)
    with connection(lab, "cn1", correspondent(lab)) as opened:
        try:
            opened.sendall(b'{"get": "1:61/"}\n')
            assert opened.recv(100) == b""
        except ConnectionError:
            pass  # refused before it was read
    assert peer(lab, "dir", "others")["dropped"]["unconfigured-peer"] == refused + 1


def test_many_questions_at_once_are_answered_in_their_order(lab: Domain) -> None:
    with as_gateway(lab) as opened:
        records = [{"n": n, "expires_wall_s": 4e9} for n in range(500)]
        puts = [{"put": f"1:{n:04x}/", "revision": 0, "value": record} for n, record in enumerate(records)]
        conflicting = [{**put, "value": {"late": True}} for put in puts]
        gets = [{"get": put["put"]} for put in puts]
        opened.sendall(b"".join(json.dumps(question).encode() + b"\n" for question in (*puts, *conflicting, *gets)))
        told = answers(opened, 1500)
        assert [answer["key"] for answer in told] == [put["put"] for put in puts] * 3
        assert [answer.get("done") for answer in told] == [True] * 500 + [False] * 500 + [None] * 500
        assert [answer["value"] for answer in told] == records * 3
        revisions = [answer["revision"] for answer in told[:500]]
        assert revisions == list(range(revisions[0], revisions[0] + 500))
        ends = [{"put": answer["key"], "revision": answer["revision"], "value": None} for answer in told[:500]]
        opened.sendall(b"".join(json.dumps(end).encode() + b"\n" for end in ends))
        assert {(end["done"], end["value"]) for end in answers(opened, 500)} == {(True, None)}


HOSTILE = [
    b"", b"{", b"[]", b"7", b"\xff\xfe", b'{"get": 1}', b'{"put": "1:61/"}',
    b'{"put": "1:61/", "revision": "0", "value": {}}',
    b'{"put": "1:61/", "revision": 0, "value": {"x": NaN}}', b'{"put": "1:61/", "revision": 0, "value": []}',
    b"[" * 8000, b'{"a":' * 1500, b'{"grant": -1, "domain": ""}', b'{"grant": 1e308, "domain": ""}', b'{"watch": 1}',
    b'{"get": "\\ud800"}',
    b'{"put": "\\ud800", "revision": 0, "value": {}}', b'{"put": "1:61/", "revision": 0, "value": {"x": 1e400}}',
    b'{"put": "1:61/", "revision": 1' + b"0" * 5000 + b', "value": {}}',
]  # fmt: skip


def test_malformed_lines_are_answered_with_an_error_and_counted(lab: Domain) -> None:
    before = peer(lab, "dir", "gw3")["dropped"].get("malformed", 0)
    with as_gateway(lab) as opened:
        opened.sendall(b"".join(line + b"\n" for line in HOSTILE) + b'{"get": "1:61/"}\n')
        told = answers(opened, len(HOSTILE) + 1)
        assert all("error" in answer for answer in told[:-1])
        assert told[-1] == {"key": "1:61/", "revision": 0, "value": None}
    assert peer(lab, "dir", "gw3")["dropped"]["malformed"] == before + len(HOSTILE)


def test_a_value_or_key_that_is_too_long_is_refused_and_counted(lab: Domain) -> None:
    with as_gateway(lab) as opened:
        opened.sendall(json.dumps({"put": "1:61/", "revision": 0, "value": {"x": "y" * 5000}}).encode() + b"\n")
        opened.sendall(json.dumps({"put": "1:61" * 200, "revision": 0, "value": {}}).encode() + b"\n")
        assert [answer["error"] for answer in answers(opened, 2)] == ["limit.value-bytes", "limit.key-bytes"]
    assert {"limit.value-bytes", "limit.key-bytes"} <= set(show(lab, "dir", "status")["counters"])


def test_a_line_without_an_end_ends_the_connection_and_nothing_else(lab: Domain) -> None:
    with as_gateway(lab) as opened:
        try:
            opened.sendall(b"x" * 100_000)
            with opened.makefile("rb") as stream:
                assert json.loads(stream.readline()) == {"error": "line longer than 8192 bytes"}
        except ConnectionError:
            pass  # it was let go before all was sent
    assert peer(lab, "dir", "gw3")["dropped"]["line-too-long"] >= 1


def test_a_gateway_that_does_not_read_its_answers_is_not_waited_for(lab: Domain) -> None:
    with as_gateway(lab) as opened:
        record = {"x": "y" * 3000, "expires_wall_s": 4e9}
        opened.sendall(json.dumps({"put": "1:ffff/", "revision": 0, "value": record}).encode() + b"\n")
        questions = b'{"get": "1:ffff/"}\n' * 10_000
        opened.settimeout(1.0)
        with pytest.raises(TimeoutError):
            for _ in range(100):
                opened.sendall(questions)
        assert show(lab, "dir", "status")["rss_bytes"] < 100 << 20
        move(lab, "tour", "gw2")  # the others are served meanwhile
        row = binding(lab, "gw2", "tour")
        assert row is not None
        assert row["registered"]
