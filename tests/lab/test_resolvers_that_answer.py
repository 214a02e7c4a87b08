"""Resolvers that a host was told of (RFC 8106) go on answering, wherever it moves. Its kernel does not read the option,
which is for a program of its distribution: the test reads it, and asks."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, IPv6Network

import pytest
from lab_scenes import PATIENCE_S, correspondent, drained, frames_at, move, topology, usable_address, wait_for

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.wire.errors import WireError
from anchord.wire.frames import parse_frame
from anchord.wire.neighbor import PrefixInformation, RecursiveDnsServer, RouterAdvertisement, received

LOCAL = IPv6Network("fd00:1::/64")  # only behind gw1
BEHIND_GW1 = LOCAL.network_address + 0x53
TRIES, TRY_S = 3, 3.0
DNS = 53


@pytest.fixture
def lab(lab_name: str) -> Iterator[Domain]:
    plain = topology(3, {"mn1": "gw1"})
    gateways = {**plain.gateways, "gw1": dataclasses.replace(plain.gateways["gw1"], local_networks=(LOCAL,))}
    resolvers = [str(plain.correspondents["cn1"].address), str(BEHIND_GW1)]
    built = dataclasses.replace(plain, gateways=gateways, domain={"resolvers": resolvers})
    with Domain.up(built, lab_name, owner_pid=os.getpid()) as domain:
        yield domain


@contextmanager
def resolver(domain: Domain, node: str, address: str) -> Iterator[None]:
    """Answers every query with itself, marked as an answer (QR, RFC 1035 section 4.1.1)."""
    with inside(domain.namespace(node)):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    opened.bind((address, DNS))

    def serve() -> None:
        while True:
            query, asker = opened.recvfrom(512)
            if not query:
                return
            opened.sendto(query[:2] + bytes((query[2] | 0x80,)) + query[3:], asker)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with inside(domain.namespace(node)), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as end:
            end.sendto(b"", (address, DNS))
        thread.join(PATIENCE_S)
        opened.close()


def answers(domain: Domain, source: str, address: IPv6Address) -> bool:
    """Whether a resolver answers a query of the host from one of its addresses."""
    query = os.urandom(2) + bytes.fromhex("0100 0001 0000 0000 0000") + b"\x04test\0" + bytes.fromhex("001c 0001")
    with inside(domain.namespace("mn1")):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with opened:
        opened.bind((source, 0))
        opened.connect((str(address), DNS))
        # As a resolver library does it: a datagram may be lost.
        opened.settimeout(TRY_S)
        answer = b""
        for _ in range(TRIES):
            opened.send(query)
            with suppress(TimeoutError):
                answer, sender = opened.recvfrom(512)
                break
    return bool(answer) and answer[:2] == query[:2] and answer[2] & 0x80 != 0 and sender[0] == str(address)


class Heard:
    """What advertisements tell a host of resolvers, from now on."""

    def __init__(self, seen: socket.socket) -> None:
        self._seen = seen
        self.lifetimes: dict[IPv6Address, int] = {}
        self.routers: dict[IPv6Address, IPv6Network] = {}  # by the prefix of the router that said so last
        self.prefixes: set[IPv6Network] = set()

    def prefixes_shown(self) -> int:
        """Take in what has come meanwhile; how many prefixes have been advertised."""
        for frame in drained(self._seen):
            try:
                message = received(parse_frame(frame))
            except WireError:
                continue
            if not isinstance(message, RouterAdvertisement):
                continue
            prefix = message.first(PrefixInformation)
            assert prefix is not None
            self.prefixes.add(prefix.prefix)
            for option in message.all(RecursiveDnsServer):
                for server in option.servers:
                    self.lifetimes[server], self.routers[server] = option.lifetime_s, prefix.prefix
        return len(self.prefixes)


def test_resolvers_stay_reachable_after_moves(lab: Domain) -> None:
    everywhere = IPv6Address(correspondent(lab))
    lab.exec("gw1", ["ip", "-6", "addr", "add", f"{BEHIND_GW1}/64", "dev", "lo"]).check_returncode()
    with (
        resolver(lab, "cn1", str(everywhere)),
        resolver(lab, "gw1", str(BEHIND_GW1)),
        frames_at(lab, "mn1", "eth0") as seen,
    ):
        lab.wait_served("mn1", "gw1", PATIENCE_S)
        first = usable_address(lab, "mn1", "gw1")
        visited = 1
        for gateway in ("gw2", "gw3", "gw2", "gw1"):
            drained(seen)
            move(lab, "mn1", gateway)
            visited = max(visited, int(gateway[2:]))
            heard = Heard(seen)
            wait_for(lambda heard=heard, visited=visited: heard.prefixes_shown() == visited, "all routers were shown")
            current = usable_address(lab, "mn1", gateway)
            assert heard.lifetimes == {everywhere: 300, BEHIND_GW1: 300}
            # The router that leads there: this gateway's to the first, gw1's to the other.
            assert IPv6Address(current) in heard.routers[everywhere]
            assert IPv6Address(first) in heard.routers[BEHIND_GW1]
            assert answers(lab, current, everywhere) and answers(lab, first, everywhere)
            assert answers(lab, first, BEHIND_GW1)
