"""UDP probes: numbered packets at a steady rate, so that a capture tells which one was lost and when.

The payload is 64 bytes: what it is, which way it goes, its number and when it was sent. The correspondent learns a
host's address from the first packet it gets, or is told it: then the host needs to send nothing.

One thread sends and receives for all flows of a process. It wakes up at fixed instants of the clock, so a late wake-up
does not shift the ones that follow, and the rate holds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"ancp"
PORT = 7009
PAYLOAD_BYTES = 64
TICK_S = 0.001  # 1 kHz
_IDLE_S = 0.01
_PRIORITY = 20  # above the routers' (domain.py); a tick takes some 20 us a flow

_HEADER = struct.Struct("!4sB3xQQ")  # magic, way, number, time in ns


class Way(IntEnum):
    """Which way a probe goes."""

    UP = 1  # from the mobile node to the correspondent
    DOWN = 2


class Probe(NamedTuple):
    """What a probe's payload says. ``sent_ns`` is CLOCK_REALTIME."""

    way: Way
    number: int
    sent_ns: int


def build(way: Way, number: int, sent_ns: int) -> bytes:
    """The payload of a probe; ``number`` from 0 to 2**64 - 1."""
    return _HEADER.pack(MAGIC, way, number, sent_ns).ljust(PAYLOAD_BYTES, b"\0")


def parse(payload: bytes) -> Probe | None:
    """The probe in a UDP payload, or None for anything else."""
    if len(payload) < _HEADER.size or not payload.startswith(MAGIC):
        return None
    _, way, number, sent_ns = _HEADER.unpack_from(payload)
    return Probe(Way(way), number, sent_ns) if way in (Way.UP, Way.DOWN) else None


@dataclass(slots=True)
class Flow:
    """One address's probes at one end. ``refused`` counts sends that the kernel would not take.

    The first number is the time in milliseconds: a flow that is started again never repeats a number.
    """

    socket: socket.socket
    peer: tuple[str, int]
    way: Way
    sends: bool = True
    first: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    sent: int = 0
    received: int = 0
    refused: int = 0
    last_received_ns: int = 0
    ended_ns: int = 0  # a probe sent before this does not begin the flow again


@dataclass(slots=True)
class _Listener:
    """The correspondent's end: one socket, a flow for every address heard or told."""

    socket: socket.socket
    flows: dict[str, Flow] = field(default_factory=dict)


class Prober:
    """Sends and receives all probes of this process, in a thread of its own."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._lock = threading.Lock()
        self._flows: dict[str, Flow] = {}  # at the host: by its own address
        self._listeners: list[_Listener] = []
        self._late = 0
        threading.Thread(target=self._run, name="probes", daemon=True).start()

    def originate(self, opened: socket.socket, own: str, peer: tuple[str, int], sends: bool = True) -> None:
        """Exchange probes between the address ``own``, to which ``opened`` is bound, and a correspondent."""
        opened.setblocking(False)
        with self._lock:
            self._flows[own] = Flow(opened, peer, Way.UP, sends)

    def answer(self, opened: socket.socket) -> None:
        """Be a correspondent on the bound socket ``opened``."""
        opened.setblocking(False)
        with self._lock:
            self._listeners.append(_Listener(opened))

    def tell(self, host: tuple[str, int]) -> None:
        """As a correspondent: send probes to a host that has not been heard."""
        with self._lock:
            listener = self._listeners[0]
            listener.flows.setdefault(host[0], Flow(listener.socket, host, Way.DOWN))

    def end(self, address: str | None = None) -> None:
        """Stop the probes of one host address, or all of them."""
        with self._lock:
            gone = [self._flows.pop(own) for own in ([address] if address else [*self._flows]) if own in self._flows]
            for listener in self._listeners:
                for own in [address] if address else [*listener.flows]:
                    if own in listener.flows:
                        listener.flows[own].sends = False
                        listener.flows[own].ended_ns = time.time_ns()
        for flow in gone:
            flow.socket.close()

    def counts(self) -> dict[str, dict[str, int]]:
        """By host address: probes sent, received, refused by the kernel, time of the last one received."""
        with self._lock:
            flows = dict(self._flows)
            for listener in self._listeners:
                flows |= listener.flows
            return {
                own: {
                    "sent": flow.sent,
                    "received": flow.received,
                    "refused": flow.refused,
                    "last_received_ns": flow.last_received_ns,
                }
                for own, flow in flows.items()
            }

    @property
    def late(self) -> int:
        """How many instants were left out because the thread got no processor for 50 ms."""
        return self._late

    def _run(self) -> None:
        # The clock of a measurement must not wait for what it measures: the routers' daemons run in real time too.
        with contextlib.suppress(OSError):  # a container may have none to give
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
        following = time.monotonic()
        while True:
            idle = not self._flows and not any(listener.flows for listener in self._listeners)
            following += _IDLE_S if idle else self._tick_s
            wait = following - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            elif wait < -0.05:
                self._late += int(-wait / self._tick_s)
                following = time.monotonic()
            with self._lock:
                for flow in self._flows.values():
                    _send(flow)
                    _receive(flow)
                for listener in self._listeners:
                    for flow in listener.flows.values():
                        _send(flow)
                    _receive_any(listener)


def _send(flow: Flow) -> None:
    if not flow.sends:
        return
    try:
        flow.socket.sendto(build(flow.way, flow.first + flow.sent, time.time_ns()), flow.peer)
    except OSError:
        flow.refused += 1  # no route, no neighbour, address gone: the tour goes on, the capture shows the gap
    else:
        flow.sent += 1


def _receive(flow: Flow) -> None:
    try:
        while True:
            flow.socket.recv(PAYLOAD_BYTES)
            flow.received += 1
            flow.last_received_ns = time.time_ns()
    except OSError:
        return  # nothing more, or an ICMPv6 error was reported


def _receive_any(listener: _Listener) -> None:
    while True:
        try:
            payload, peer = listener.socket.recvfrom(PAYLOAD_BYTES)
        except OSError:
            return
        flow = listener.flows.get(peer[0])
        if flow is None or not flow.sends:
            probe = parse(payload)
            if probe is None:
                continue
            if flow is None:
                flow = listener.flows[peer[0]] = Flow(listener.socket, (peer[0], peer[1]), Way.DOWN)
            flow.sends = probe.sent_ns > flow.ended_ns
        flow.received += 1
        flow.last_received_ns = time.time_ns()
