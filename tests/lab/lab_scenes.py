"""What scenario tests are told with: flows whose every packet is numbered, and what nodes say of themselves."""

from __future__ import annotations

import dataclasses
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from anchord.lab import addresses, readiness
from anchord.lab.addresses import AddressState
from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.lab.topology import Gateway, Host, Topology, numbered_gateway

ANCHORD = str(Path(sys.prefix, "bin", "anchord"))
SERVED_S = 10.0
USABLE_S = 10.0  # duplicate address detection takes a host up to 2 s
PATIENCE_S = 10.0
# A topology's settings that make each mode.
MODES: dict[str, dict[str, Any]] = {
    "proxy": {},
    "relay": {"domain": {"central": {"mode": "relay"}}},
    "locator": {"domain": {"central": {"mode": "locator"}}},
    "directory": {"finder": "directory", "central": None},
    "anchor-known": {"finder": "anchor-known", "central": None},
}
_POLL_S = 0.01
_RECEIVE_BYTES = 32 << 20
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ETH_P_ALL = 3
BY_HAND = 0x04
"""Traffic class of messages that a test sends in a daemon's place; see :mod:`recorder`."""


def topology(gateways: int, hosts: Mapping[str, str], **more: Any) -> Topology:
    """The default domain with so many gateways, and hosts where ``hosts`` (name to gateway) says."""
    plain = Topology.default()
    return Topology(
        gateways={f"gw{number}": numbered_gateway(f"gw{number}", number) for number in range(1, gateways + 1)},
        hosts={name: Host(name, at) for name, at in hosts.items()},
        correspondents=plain.correspondents,
        **more,
    )


def with_node(gateway: Gateway, **node: Any) -> Gateway:
    """A gateway with settings in its own configuration file."""
    return dataclasses.replace(gateway, node=node)


def show(domain: Domain, node: str, what: str) -> Any:
    """What a daemon shows."""
    return readiness.show(domain.control(node), what)


def binding(domain: Domain, node: str, host: str) -> dict[str, Any] | None:
    """What a daemon knows of a host."""
    mac = domain.host_mac(host).hex(":")
    return next((row for row in show(domain, node, "bindings") if row["mac"] == mac), None)


def peer(domain: Domain, node: str, name: str) -> dict[str, Any]:
    """A daemon's counters of a peer; ``others``: of everybody who is none."""
    rows: list[dict[str, Any]] = show(domain, node, "peers")
    return next(row for row in rows if name in (row["name"], row["peer"]))


def wait_for(holds: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Ask again and again for what nothing announces; the first answer that is true."""
    deadline = time.monotonic() + timeout_s
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(_POLL_S)
    return answer


def wait_event(domain: Domain, node: str, holds: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait until something holds that an event of a daemon goes with."""
    assert readiness.wait_until(domain.control(node), holds, timeout_s), (
        f"{node} never said so; its last lines:\n{readiness.last_lines(domain.log(node))}"
    )


def usable_address(domain: Domain, host: str, gateway: str) -> str:
    """Wait until a host prefers an address from a gateway's pool."""
    pool = domain.topology.gateways[gateway].pools[0]
    with inside(domain.namespace(host)):
        changes = addresses.subscribe()
    deadline = time.monotonic() + USABLE_S
    with changes:
        while True:
            for state in domain.host_addresses(host):
                if state.preferred and state.prefix.subnet_of(pool):
                    return state.address
            readable, _, _ = select.select([changes], [], [], max(deadline - time.monotonic(), 0))
            assert readable, f"{host} got no address from {pool}: {domain.host_addresses(host)}"
            changes.recv(1 << 16)


def address_of(domain: Domain, host: str, address: str) -> AddressState:
    """How a host's kernel regards one of its addresses now."""
    return next(state for state in domain.host_addresses(host) if state.address == address)


def move(domain: Domain, host: str, gateway: str, **how: Any) -> None:
    """Move a host and wait until it is served."""
    domain.move(host, gateway, **how)
    domain.wait_served(host, gateway, SERVED_S, access=how.get("access"))


def ping(domain: Domain, node: str, source: str, destination: str) -> None:
    """Three packets there and back, none lost."""
    done = domain.exec(node, ["ping", "-c3", "-i0.05", "-W5", "-I", source, destination])
    assert " 0% packet loss" in done.stdout, done.stdout + done.stderr


def ip(domain: Domain, node: str, *words: str) -> Any:
    """``ip -6 -j ...`` in a node."""
    done = domain.exec(node, ["ip", "-6", "-j", *words])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "[]")


def routers(domain: Domain, host: str) -> dict[str, tuple[str | None, str]]:
    """A host's default routers by link-local address: MAC address (None: not asked for yet) and preference."""
    macs = {row["dst"]: row.get("lladdr") for row in ip(domain, host, "neigh")}
    found = {}
    for route in ip(domain, host, "route", "show", "default"):
        for hop in route.get("nexthops", [route]):
            found[hop["gateway"]] = (macs.get(hop["gateway"]), route["pref"])
    return found


def correspondent(domain: Domain, name: str = "cn1") -> str:
    """A correspondent's address."""
    return str(domain.topology.correspondents[name].address)


def datagram_socket(domain: Domain, node: str, address: str) -> socket.socket:
    """A UDP socket in a node that holds all that comes in during a test."""
    with inside(domain.namespace(node)):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
    opened.bind((address, 0))
    return opened


@contextmanager
def frames_at(domain: Domain, node: str, interface: str) -> Iterator[socket.socket]:
    """A socket that every frame of an interface arrives at, in both directions; frames can be sent with it too."""
    with inside(domain.namespace(node)):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with opened:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        opened.bind((interface, _ETH_P_ALL))
        opened.setblocking(False)
        yield opened


def drained(opened: socket.socket) -> list[bytes]:
    """Everything that has come in."""
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(opened.recv(1 << 16))
    return found


class Way:
    """One direction of a flow: 1 kHz of numbered datagrams from one socket to another."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self.sent = self.refused = 0
        self.arrived: set[int] = set()
        self._sender, self._receiver = sender, receiver
        self._to = receiver.getsockname()[:2]

    def send(self) -> None:
        """The next datagram. One that the kernel does not take is none."""
        try:
            self._sender.sendto(self.sent.to_bytes(8, "big").ljust(64, b"\0"), self._to)
        except OSError:
            self.refused += 1
        else:
            self.sent += 1

    def wait_arrivals(self, beyond: int, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Read until ``count`` datagrams have come whose numbers are ``beyond`` or more."""
        deadline, found = time.monotonic() + timeout_s, 0
        while found < count:
            ready = select.select([self._receiver], [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"only {found} of {count} datagrams to {self._to[0]} arrived within {timeout_s:g} s"
            number = int.from_bytes(self._receiver.recv(64)[:8], "big")
            self.arrived.add(number)
            found += number >= beyond

    def lost(self) -> list[int]:
        """The numbers of those that did not arrive. Sends one more, again and again, until it does."""
        last = self.sent
        deadline = time.monotonic() + PATIENCE_S
        while last not in self.arrived:
            assert time.monotonic() < deadline, f"nothing arrives at {self._to[0]} any more"
            self._sender.sendto(last.to_bytes(8, "big").ljust(64, b"\0"), self._to)
            while select.select([self._receiver], [], [], 0.1)[0]:
                self.arrived.add(number := int.from_bytes(self._receiver.recv(64)[:8], "big"))
                if number == last:
                    break
        return sorted(set(range(last)) - self.arrived)


class Flow:
    """1 kHz of UDP between a host's address and a correspondent, both ways or one, while the ``with`` block runs."""

    def __init__(
        self, domain: Domain, host: str, address: str, up: bool = True, down: bool = True, to: str = "cn1"
    ) -> None:
        self._host = datagram_socket(domain, host, address)
        self._other = datagram_socket(domain, to, correspondent(domain, to))
        self.up = Way(self._host, self._other) if up else None
        self.down = Way(self._other, self._host) if down else None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    @property
    def ways(self) -> list[Way]:
        """Those that are in use."""
        return [way for way in (self.up, self.down) if way is not None]

    def __enter__(self) -> Flow:
        self._thread.start()
        self.wait_alive()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._host.close()
        self._other.close()

    def wait_alive(self, count: int = 20, timeout_s: float = PATIENCE_S) -> None:
        """Wait until datagrams that are sent from now on arrive, in each direction."""
        begins = [(way, way.sent) for way in self.ways]
        for way, begin in begins:
            way.wait_arrivals(begin, count, timeout_s)

    def stop(self) -> None:
        """Send no more."""
        self._ended.set()
        self._thread.join()

    def lost(self) -> dict[str, list[int]]:
        """Stop; which datagrams did not arrive, by direction. Those that the kernel did not take do not count."""
        self.stop()
        named = {"up": self.up, "down": self.down}
        return {name: way.lost() for name, way in named.items() if way is not None}

    def _send(self) -> None:
        following = time.monotonic()
        while not self._ended.is_set():
            for way in self.ways:
                way.send()
            following += 0.001
            self._ended.wait(max(following - time.monotonic(), 0))


def advertised_prefixes(frames: list[bytes]) -> Iterator[tuple[bytes, IPv6Network]]:
    """Every prefix that a Router Advertisement among ``frames`` carries, with the MAC address of the host it is for."""
    for frame in frames:
        if frame[12:14] != b"\x86\xdd" or frame[20] != 58 or frame[54] != 134:
            continue
        at = 54 + 16
        while at + 2 <= len(frame) and frame[at + 1]:
            if frame[at] == 3:  # Prefix Information, RFC 4861 section 4.6.2
                yield frame[:6], IPv6Network((IPv6Address(frame[at + 16 : at + 32]), frame[at + 2]))
            at += 8 * frame[at + 1]
