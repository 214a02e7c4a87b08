"""The benchmark ``anchord bench central``: how many refreshes a second one CMD answers.

The CMD is the real daemon, in a process of its own on one processor; this process, on another, plays two gateways.
Both are in a network namespace that has nothing but a loopback interface and goes when they end. The messages are real
ones, on raw Mobility Header sockets.

Every host has one anchor. The CMD learns of the hosts as if it had lost its store: by PBUs that name what the host
retains (decision 26); the anchor confirms each. Then the serving gateway refreshes one host after the other, with a
window of PBUs under way, and counts PBAs. A PBA that is not "accepted", not the next in order, or does not come ends
the measurement.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from anchord.lab import config_files
from anchord.lab.bench import BenchError, Row, row
from anchord.lab.namespaces import private
from anchord.lab.processes import Process, end
from anchord.lab.readiness import last_lines, show, wait_ready
from anchord.protocol.anchoring import PBA_FLAGS
from anchord.protocol.identity import mn_id_of_mac
from anchord.protocol.updates import PBU_FLAGS
from anchord.wire.header import MHType, decode, encode
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Heartbeat, HeartbeatFlag, Message, Status
from anchord.wire.options import (
    AccessTechnology,
    AccessTechnologyType,
    AnchoredPrefix,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeLinkLayerIdentifier,
    Option,
    PreviousMaar,
    RestartCounter,
    Timestamp,
)

STORES = ("memory", "sqlite")
HOSTS = (1_000, 10_000, 100_000)
RUNS = 9
RUN_S = 4.0

_CENTRAL, _SERVING, _ANCHOR = (IPv6Address(f"2001:db8:fc::{number}") for number in (1, 2, 3))
_SERVING_POOL, _ANCHOR_POOL = IPv6Network("2001:db8:a00::/40"), IPv6Network("2001:db8:b00::/40")
_MOBILITY_HEADER = 135
_LIFETIME_S = 600  # more than a row takes: no anchor has to be told again meanwhile
# PBUs under way: the CMD is never idle, and what the kernel lets a socket hold by default is enough for them.
_WINDOW = 256
# This process looks for answers so often, and the CMD's sending does not have to wake it up each time.
_LOOK_S = 0.001
_PATIENCE_S = 5.0
_READY_S = 30.0
_ON_DISK = "/var/tmp"  # /tmp may be in memory, and a store's price is that of a disk
# Places in a Mobility Header (RFC 6275 sections 6.1.1, 6.1.7 and 6.1.8).
_TYPE_AT, _SEQUENCE_AT, _STATUS_AT, _ACK_SEQUENCE_AT = 2, 6, 6, 8
_TICKS_AT = 20  # in our PBUs: 12 octets, the Timestamp's padding to 8n + 2, type and length (RFC 5213 section 8.8)
_SEQUENCE, _TICKS = struct.Struct("!H"), struct.Struct("!Q")


def run(say: Callable[[str], None]) -> list[Row]:
    """Both stores with every number of hosts; raises BenchError or LabError."""
    if os.geteuid() != 0:
        raise BenchError("needs root: it makes a network namespace and raw sockets")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise BenchError("needs two processors: one for the central database and one for its load")
    rows = []
    os.sched_setaffinity(0, allowed[:1])
    try:
        for store, hosts in itertools.product(STORES, HOSTS):
            say(f"{hosts} hosts, store: {store}")
            rows.append(measure(store, hosts, RUNS, RUN_S, allowed[1]))
    finally:
        os.sched_setaffinity(0, allowed)
    return rows


def measure(store: str, hosts: int, runs: int, run_s: float, processor: int) -> Row:
    """One row: a new CMD on ``processor`` with ``hosts`` hosts, refreshed in ``runs`` runs of ``run_s`` seconds."""
    with (
        private((_CENTRAL, _SERVING, _ANCHOR)),
        tempfile.TemporaryDirectory(prefix="anchord-bench-", dir=_ON_DISK) as directory,
        _Central(Path(directory), store, processor) as central,
        contextlib.closing(_Gateways(hosts)) as gateways,
    ):
        try:
            gateways.register()
            rates = [gateways.refresh(run_s) for _ in range(runs)]
            central.check()
        except BenchError as error:
            what = f"{hosts} hosts, store {store}: {error}"
            raise BenchError(f"{what}; last lines of the CMD:\n{central.log()}") from None
    return row(f"central.{store}.{hosts}", "1/s", rates)


class _Central:
    """The daemon under load, from entering the context to leaving it."""

    def __init__(self, directory: Path, store: str, processor: int) -> None:
        self._log = directory / "central.log"
        self._control = directory / "central.sock"
        gateways = {"serving": (_SERVING, _SERVING_POOL), "anchor": (_ANCHOR, _ANCHOR_POOL)}
        domain = {
            "name": "bench",
            "secret": secrets.token_hex(16),
            "central": {"address": str(_CENTRAL)},
            "gateways": {name: {"address": str(a), "pools": [str(pool)]} for name, (a, pool) in gateways.items()},
            "lifetimes": {"binding_s": _LIFETIME_S},
            # On a busy machine a PBU may wait longer than the default; it is late then, but not refused.
            "pmip": {"timestamp_validity_window_ms": int(_PATIENCE_S * 1000)},
            # The hosts are registered as fast as possible, and each registration has an anchor told.
            "limits": {"sessions": max(HOSTS), "updates_per_s": 1_000_000},
        }
        node = {"node": "central", "domain": "domain.toml", "store": store, "state": "state", "run": "."}
        for file, settings in (("domain.toml", domain), ("central.toml", node)):
            (directory / file).write_text(config_files.toml(settings))
        # However this process ends, the CMD does as well.
        self._argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "anchord", "central"]
        self._argv += ["--config", str(directory / "central.toml")]
        self._processor = processor

    def __enter__(self) -> _Central:
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._process = Process.of(self._popen.pid)
        try:
            os.sched_setaffinity(self._popen.pid, {self._processor})  # it has no other thread yet: those inherit it
            wait_ready("central", self._process, self._control, self._log, time.monotonic() + _READY_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end([self._process], _PATIENCE_S)
        self._popen.wait()

    def log(self) -> str:
        """Its last words."""
        return last_lines(self._log)

    def check(self) -> None:
        """Raise BenchError if it has refused, dropped or repeated anything: then other work was measured as well."""
        peers: list[dict[str, Any]] = show(self._control, "peers")
        for peer in peers:
            if peer["refused"] or peer["dropped"] or peer["repeated"]:
                raise BenchError(f"not everything went well between the CMD and {peer['peer']}: {peer}")


class _Gateways:
    """The gateway that serves all hosts, and the one that anchors a prefix of each."""

    def __init__(self, hosts: int) -> None:
        self._hosts = hosts
        refreshes = [_refresh(host) for host in range(hosts)]
        random.Random(hosts).shuffle(refreshes)  # hosts do not come back in the order in which a store keeps them
        self._refreshes = itertools.cycle(refreshes)
        self._sequence = 0
        self._serving, self._anchor = _raw_socket(_SERVING), _raw_socket(_ANCHOR)

    def close(self) -> None:
        """Let go of the sockets."""
        self._serving.close()
        self._anchor.close()

    def register(self) -> None:
        """Make every host known, and have the anchor confirm each."""
        self._exchange(map(_registration, range(self._hosts)))

    def refresh(self, run_s: float) -> float:
        """Refresh host after host for ``run_s`` seconds, and tell how many a second it were."""
        began = time.monotonic()
        ends = began + run_s
        count = self._exchange(itertools.takewhile(lambda _: time.monotonic() < ends, self._refreshes))
        return count / (time.monotonic() - began)

    def _exchange(self, updates: Iterable[bytearray]) -> int:
        """Send all ``updates`` and take their answers: how many. Sequence numbers and timestamps are filled in."""
        updates = iter(updates)
        waiting: deque[int] = deque()
        answer = bytearray(2048)
        sequence_of, put_sequence, put_ticks = _SEQUENCE.unpack_from, _SEQUENCE.pack_into, _TICKS.pack_into
        count, heard = 0, time.monotonic()
        while True:
            for update in itertools.islice(updates, _WINDOW - len(waiting)):
                self._sequence = (self._sequence + 1) & 0xFFFF
                put_sequence(update, _SEQUENCE_AT, self._sequence)
                put_ticks(update, _TICKS_AT, (time.time_ns() << 16) // 1_000_000_000)
                self._serving.send(update)
                waiting.append(self._sequence)
            if not waiting:
                return count
            self._confirm()
            before = count
            while True:
                try:
                    self._serving.recv_into(answer)
                except BlockingIOError:
                    break
                if answer[_TYPE_AT] == MHType.HEARTBEAT:
                    self._serving.send(encode(_reply(decode(bytes(answer)))))
                    continue
                due = answer[_STATUS_AT] == Status.ACCEPTED and sequence_of(answer, _ACK_SEQUENCE_AT)[0] == waiting[0]
                if not due:
                    raise BenchError(f"not the answer that was due: {decode(bytes(answer))}")
                waiting.popleft()
                count += 1
            now = time.monotonic()
            if count > before:
                heard = now
                if answer[_TYPE_AT] == MHType.BINDING_ACKNOWLEDGEMENT:
                    _check_anchor(decode(bytes(answer)))
            elif now - heard > _PATIENCE_S:
                raise BenchError(f"no answer to {len(waiting)} PBUs within {_PATIENCE_S} s")
            time.sleep(_LOOK_S)

    def _confirm(self) -> None:
        """The anchor answers whatever it has been told."""
        while True:
            try:
                told = self._anchor.recv(2048)
            except BlockingIOError:
                return
            self._anchor.send(encode(_reply(decode(told))))


def _reply(told: Message) -> Message:
    """What a gateway says to the CMD's own messages: PBU* (RFC 8885 section 3.4) and heartbeats (RFC 5847)."""
    if isinstance(told, BindingUpdate):
        return BindingAcknowledgement(Status.ACCEPTED, told.sequence, told.lifetime_s, PBA_FLAGS, told.options)
    if isinstance(told, Heartbeat):
        return Heartbeat(told.sequence, HeartbeatFlag.RESPONSE, (RestartCounter(1),))
    raise BenchError(f"a gateway was told {told}")


def _raw_socket(address: IPv6Address) -> socket.socket:
    """The socket of a gateway, with the CMD at its other end."""
    gateway = socket.socket(socket.AF_INET6, socket.SOCK_RAW, _MOBILITY_HEADER)
    gateway.setblocking(False)
    gateway.bind((str(address), 0))
    gateway.connect((str(_CENTRAL), 0))
    return gateway


def _check_anchor(ack: object) -> None:
    """Raise BenchError unless the answer tells of the host's one anchor (RFC 8885 section 3.4)."""
    anchors = ack.all(PreviousMaar) if isinstance(ack, BindingAcknowledgement) else ()
    if [option.maar for option in anchors] != [_ANCHOR]:
        raise BenchError(f"the answer should tell of one anchor, {_ANCHOR}: {ack}")


def _registration(host: int) -> bytearray:
    """A first PBU for a host; the CMD will know its anchor by the prefix that the host retains (decision 26)."""
    return _update(host, Handoff.UNKNOWN, (AnchoredPrefix(_prefix(_ANCHOR_POOL, host)),))


def _refresh(host: int) -> bytearray:
    """What RFC 5213 section 6.9.1.3 has in a refresh: six options."""
    return _update(host, Handoff.UNCHANGED)


def _update(host: int, handoff: Handoff, more: tuple[Option, ...] = ()) -> bytearray:
    mac = b"\x02\x00" + host.to_bytes(4, "big")
    options: tuple[Option, ...] = (
        Timestamp(0),
        mn_id_of_mac(mac),
        HomeNetworkPrefix(_prefix(_SERVING_POOL, host)),
        HandoffIndicator(handoff),
        AccessTechnologyType(AccessTechnology.ETHERNET),
        MobileNodeLinkLayerIdentifier(mac),
        *more,
    )
    return bytearray(encode(BindingUpdate(0, _LIFETIME_S, PBU_FLAGS, options)))


def _prefix(pool: IPv6Network, host: int) -> IPv6Network:
    return IPv6Network((int(pool.network_address) + (host << 64), 64))
