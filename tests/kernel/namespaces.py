"""Small networks of real kernels: namespaces, veth links and the switch that hosts are moved on.

Everything is set and read with iproute2, not with the code under test: independent eyes on what was installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class Namespace:
    """A network namespace ``anct-<pid>-<number>-<label>``; removed by ``close``."""

    def __init__(self, label: str) -> None:
        self.name = f"anct-{os.getpid()}-{next(_numbers)}-{label}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        # Link-local addresses usable at once: nothing is lost in the first second of a network.
        self.run("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.accept_ra=0")
        self.run("ip link set lo up")

    def run(self, command: str, check: bool = True) -> str:
        """Run a command line inside; its output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command.split()], capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {command}: {done.stdout}{done.stderr}")
        return done.stdout

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command inside."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], text=True, **options)

    def json(self, command: str) -> Any:
        """Run ``ip -j ...`` inside and read what it says."""
        return [each for each in json.loads(self.run(f"ip -j {command}") or "[]") if each]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread inside; threads and sockets made meanwhile belong to the namespace."""
        with open(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net") as home:
            with open(f"/run/netns/{self.name}") as there:
                _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function with this thread inside."""
        with self.entered():
            return function()

    def mac(self, interface: str) -> bytes:
        """MAC of an interface."""
        return bytes.fromhex(self.json(f"link show {interface}")[0]["address"].replace(":", ""))

    def close(self) -> None:
        """Remove it."""
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def veth(left: Namespace, left_name: str, right: Namespace, right_name: str, mtu: int = 1500) -> None:
    """A link between two namespaces, both ends up."""
    subprocess.run(
        f"ip link add {left_name} netns {left.name} mtu {mtu} type veth"
        f" peer name {right_name} netns {right.name} mtu {mtu}".split(),
        check=True,
    )
    left.run(f"ip link set {left_name} up")
    right.run(f"ip link set {right_name} up")


class Domain:
    """Gateways ``gw1..n`` around a core router with a correspondent ``cn``, and a switch that hosts hang on.

    Gateway n: pool 2001:db8:aN::/48, address 2001:db8:fN::1 on core0, access interface acc0.
    """

    CN = "2001:db8:c1::1"

    def __init__(self, gateways: int = 2) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self.core = self.namespace("core")
            self.cn = self.namespace("cn")
            self.switch = self.namespace("sw")
            self.core.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
            veth(self.core, "cn0", self.cn, "eth0")
            self.core.run("ip addr add 2001:db8:c1::ffff/64 dev cn0 nodad")
            self.cn.run(f"ip addr add {self.CN}/64 dev eth0 nodad")
            self.cn.run("ip -6 route add default via 2001:db8:c1::ffff")
            self.gateways = {n: self._gateway(n) for n in range(1, gateways + 1)}
        except BaseException:
            self.close()
            raise

    def namespace(self, label: str) -> Namespace:
        """One more namespace that goes with the domain."""
        made = Namespace(label)
        self._stack.callback(made.close)
        return made

    def _gateway(self, n: int) -> Namespace:
        gateway = self.namespace(f"gw{n}")
        veth(gateway, "core0", self.core, f"gw{n}")
        self.core.run(f"ip addr add 2001:db8:f{n}::ffff/64 dev gw{n} nodad")
        self.core.run(f"ip -6 route add 2001:db8:a{n}::/48 via 2001:db8:f{n}::1")
        gateway.run(f"ip addr add 2001:db8:f{n}::1/64 dev core0 nodad")
        gateway.run(f"ip -6 route add default via 2001:db8:f{n}::ffff")
        self.add_access(gateway, "acc0", f"br-gw{n}")
        return gateway

    def add_access(self, gateway: Namespace, interface: str, bridge: str) -> None:
        """An access interface of a gateway on a bridge of its own in the switch."""
        self.switch.run(f"ip link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        self.switch.run(f"ip link set {bridge} up")
        veth(gateway, interface, self.switch, f"p{bridge}")
        self.switch.run(f"ip link set p{bridge} master {bridge}")

    def host(self, label: str, bridge: str) -> Namespace:
        """A host with eth0 on a bridge."""
        host = self.namespace(label)
        veth(host, "eth0", self.switch, f"p-{label}")
        self.move(label, bridge)
        return host

    def move(self, label: str, bridge: str) -> None:
        """Move a host to another bridge, carrier kept."""
        self.switch.run(f"ip link set p-{label} master {bridge}")

    def close(self) -> None:
        """Remove everything."""
        self._stack.close()


class Capture:
    """Frames that pass an interface, from the moment it is made."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind((interface, 3))
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        """Frames since the last call."""
        found: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(1 << 16))
        return found

    def tunnelled(self) -> list[bytes]:
        """Of the frames since the last call, those with IPv6 directly in IPv6."""
        return [frame for frame in self.frames() if frame[12:14] == b"\x86\xdd" and frame[20] == 41]

    def close(self) -> None:
        """Stop."""
        self._socket.close()


def udp(namespace: Namespace, address: str, port: int = 0) -> socket.socket:
    """A UDP socket inside, bound."""
    with namespace.entered():
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.bind((address, port))
    return made


class Flow:
    """A numbered UDP flow between two bound sockets, one packet each millisecond, from ``start`` to ``stop``."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._sender, self._receiver = sender, receiver
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._to = receiver.getsockname()[:2]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self.sent = 0

    def _send(self) -> None:
        next_at = time.monotonic()
        while not self._ended.is_set():
            self._sender.sendto(self.sent.to_bytes(4, "big"), self._to)
            self.sent += 1
            next_at += 0.001
            self._ended.wait(max(next_at - time.monotonic(), 0))

    def start(self) -> Flow:
        """Begin; returns when the first packet has arrived."""
        self._thread.start()
        self._receiver.settimeout(5)
        self._first = self._receiver.recv(64)
        return self

    def stop(self) -> list[int]:
        """End; numbers of the packets that did not arrive."""
        self._ended.set()
        self._thread.join()
        last = self.sent.to_bytes(4, "big")
        self._sender.sendto(last, self._to)
        arrived = {int.from_bytes(self._first, "big")}
        while (got := self._receiver.recv(64)) != last:
            arrived.add(int.from_bytes(got, "big"))
        return sorted(set(range(self.sent)) - arrived)
