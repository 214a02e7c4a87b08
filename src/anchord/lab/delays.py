"""Links with a delay: ``python -m anchord.lab.delays LAB`` holds every frame of a lab's slow links for its time.

Both ends of such a link are tap devices (:mod:`anchord.lab.namespaces`), ``core0`` in the node and ``core-NODE`` in the
core router, and this process is the cable: what it reads from one end it writes to the other when its time has come,
in the order in which it came. A tap device without IFF_VNET_HDR has no offloads (linux/if_tun.h): the kernel cuts what
it sends into frames of the link's MTU and fills in their checksums, so that what is on the wire is what is held here.

It runs as the process of the core router's node. When it ends the cable is cut: both ends lose their carrier.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import select
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from anchord.lab import state
from anchord.lab.errors import LabError
from anchord.lab.links import Links
from anchord.lab.namespaces import core_port, inside, namespace_name
from anchord.lab.topology import CORE, Topology, interface_towards_core

HELD_FRAMES = 50_000
"""How many frames of one direction are held at the most, 25,000 a second for two seconds; more are dropped."""

FRAME_BYTES = 65_536  # more than the longest frame of a tap device (MTU 65,521)
_LEAD_NS = 40_000  # of the time it takes to wake up: when a frame comes, and again when it is due
_BATCH = 64  # frames read from one end before what is due elsewhere is looked at

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_IFREQ = struct.Struct("=16sH22x")

_PR_SET_TIMERSLACK = 29  # linux/prctl.h
_TIMER_SLACK_NS = 1  # a wake-up is 50 us late by default where real time is not to be had
_NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class Direction:
    """One direction of a link: read at ``source``, written to ``sink`` ``delay_ns`` later. Both do not block.

    ``dropped``: frames that found the link full. ``lost``: those that the far end did not take because it was down.
    """

    name: str
    source: int
    sink: int
    delay_ns: int
    held: deque[tuple[int, bytes]] = field(default_factory=deque)  # (when it is due, frame)
    dropped: int = 0
    lost: int = 0

    def take(self) -> None:
        """Read what has come; raises OSError if the device was deleted."""
        for _ in range(_BATCH):
            try:
                frame = os.read(self.source, FRAME_BYTES)
            except BlockingIOError:
                return
            if len(self.held) < HELD_FRAMES:
                self.held.append((time.monotonic_ns() + self.delay_ns, frame))
            else:
                self._drop()

    def deliver(self) -> None:
        """Write what is due."""
        while self.held and self.held[0][0] <= time.monotonic_ns():
            try:
                os.write(self.sink, self.held.popleft()[1])
            except OSError:
                self.lost += 1

    def _drop(self) -> None:
        if not self.dropped:
            print(f"{self.name}: {HELD_FRAMES} frames are held, no more are taken", flush=True)
        self.dropped += 1


def attached(namespace: str, interface: str) -> int:
    """A descriptor at which the frames of a tap device come and go; LabError if there is no such device."""
    with inside(namespace):
        opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(opened, _TUNSETIFF, _IFREQ.pack(interface.encode(), _IFF_TAP | _IFF_NO_PI))
        except OSError as error:
            os.close(opened)
            raise LabError(f"{namespace}: cannot attach to {interface}: {error.strerror}") from None
    return opened


def directions(lab: str, topology: Topology) -> Iterator[Direction]:
    """Attach to both ends of every link with a delay."""
    for node, delay_ms in topology.delays().items():
        interface = interface_towards_core(topology.nodes()[node])
        near = attached(namespace_name(lab, node), interface)
        far = attached(namespace_name(lab, CORE), core_port(node))
        delay_ns = max(round(delay_ms * 1e6) - _LEAD_NS, 0)
        yield Direction(f"{node} to core", near, far, delay_ns)
        yield Direction(f"core to {node}", far, near, delay_ns)


def carry(cables: Iterable[Direction]) -> None:
    """Hold and hand on frames until a signal ends this process."""
    by_source = {direction.source: direction for direction in cables}
    while True:
        following = min((direction.held[0][0] for direction in by_source.values() if direction.held), default=None)
        # select() takes microseconds, where poll() and epoll rounded up to the next millisecond.
        timeout_s = None if following is None else max(following - time.monotonic_ns(), 0) / _NS_PER_S
        for source in select.select(by_source, (), (), timeout_s)[0]:
            by_source[source].take()
        for direction in by_source.values():
            direction.deliver()


def in_force(lab: str, topology: Topology) -> bool:
    """Whether every link with a delay has its carrier."""
    with Links(namespace_name(lab, CORE)) as links:
        up = {link.name for link in links.all() if link.carrier and link.operational}
    return all(core_port(node) in up for node in topology.delays())


def main(lab: str) -> None:
    """Be the cables of a lab until SIGTERM, which tells what was dropped."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0)
    cables = list(directions(lab, state.load(lab).topology))
    gc.disable()  # nothing here refers to itself, and a collection would keep frames waiting
    try:
        carry(cables)
    finally:
        for direction in cables:
            if direction.dropped or direction.lost:
                print(f"{direction.name}: {direction.dropped} found it full, {direction.lost} the far end down")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (LabError, OSError) as error:
        sys.exit(f"the delays have ended: {error}")
