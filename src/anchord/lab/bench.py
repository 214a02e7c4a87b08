"""The benchmark ``anchord bench handover``: many handovers on links without delay, then tunnels and processes.

Each handover is that of a host to a gateway where it has never been. Two series are measured with the same hosts, one
host moving at a time:

- one old anchor: gw1 -> gw2, with 1 kHz of UDP both ways on the address from gw1 and a TCP transfer held to 20 Mbit/s;
- three old anchors: after an unmeasured move to gw3, gw3 -> gw4, with 1 kHz of UDP both ways on each of the three
  addresses and the same TCP transfer.

The tunnel is compared with plain forwarding over the same routers: a rule in the core router (no gateway knows of it)
sends the packets of the host's newest prefix through its first gateway as well, so that both ways are host, gw4, core,
gw1, core, correspondent.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from anchord.lab import streams
from anchord.lab.analysis import UNDER_WAY_NS, Analysis, Handover, analyse
from anchord.lab.capture import Capture, PointResult
from anchord.lab.domain import Domain
from anchord.lab.readiness import show
from anchord.lab.topology import CORE, Correspondent, Host, Kind, Topology, numbered, numbered_gateway
from anchord.lab.traffic import AddressEvent, Endpoint, TrafficError

GATEWAYS = ("gw1", "gw2", "gw3", "gw4")
CORRESPONDENT = "cn1"
TRANSFER_MBIT_S = 20.0
BEFORE_S = 0.12  # traffic runs for so long before the host moves
AFTER_S = 0.18  # and so long after it
PAIRS = 5
LEG_S = 10  # of a throughput pair: one leg through the tunnel, one plain
_ATTACH_TIMEOUT_S = 20.0
_ATTACH_ATTEMPTS = 3
_PATIENCE_S = 4.0  # more than link-local and global DAD take together
_FLAP_MS = 20.0
_DETOUR_TABLE = 1000
_ASKED = (Kind.CENTRAL, Kind.DIRECTORY)
_BESIDE = "beside.json"  # in the directory of captures: the rows that do not come from captures


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the result: ``n`` values of one quantity. ``p95`` is a value that occurred (nearest rank)."""

    name: str
    unit: str
    n: int
    p50: float
    p95: float
    max: float


class BenchError(Exception):
    """The measurement could not be made, or is not valid."""


def row(name: str, unit: str, values: Iterable[float]) -> Row:
    """Summarise values; raises BenchError if there are none."""
    ordered = sorted(values)
    if not ordered:
        raise BenchError(f"{name}: nothing was measured")
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return Row(name, unit, len(ordered), round(statistics.median(ordered), 3), round(p95, 3), round(ordered[-1], 3))


def handover_rows(analysis: Analysis, moves: int | None = None) -> list[Row]:
    """The rows that come from captures. ``moves``: how many handovers each series must have (None: at least one).

    Raises BenchError when one is missing, or one of them lacks a number: it would be a failure, not a slow handover.
    """
    rows = []
    for old_flows, suffix in ((1, ""), (3, ".3_anchors")):
        series = [handover for handover in analysis.handovers if handover.old_flows == old_flows]
        if moves is not None and len(series) != moves:
            raise BenchError(f"{len(series)} handovers with {old_flows} old flows in the captures, expected {moves}")
        if series:
            rows += _series_rows(series, suffix)
    refuse_faults(analysis)
    return rows


def refuse_faults(analysis: Analysis) -> None:
    """Raise BenchError if something was not as it should be: the figures beside it mean nothing."""
    if faults := [*analysis.tunnel_faults, *analysis.router_faults]:
        raise BenchError("the captures show what must not be: " + "; ".join(faults[:5]))


def every(quantity: str, series: list[Handover]) -> list[float]:
    """A number of each handover, in ms; raises BenchError if one lacks it."""
    for handover in series:
        if getattr(handover, f"{quantity}_ms") is None:
            raise BenchError(f"{quantity} never came when {handover.host} moved {handover.origin} -> {handover.target}")
    return [getattr(handover, f"{quantity}_ms") for handover in series]


def _series_rows(series: list[Handover], suffix: str) -> list[Row]:
    rows = []
    for quantity in ("old_flow_down", "old_flow_up", "ra_new", "ra_old"):
        rows.append(row(f"handover.{quantity}{suffix}", "ms", every(quantity, series)))
    rows.append(row(f"anchor.pbu_to_pba{suffix}", "ms", [ms for h in series for ms in h.anchor_ms.values()]))
    rows.append(row(f"handover.lost_down{suffix}", "packets", [handover.lost_down for handover in series]))
    rows.append(row(f"handover.lost_up{suffix}", "packets", [handover.lost_up for handover in series]))
    return rows


def from_captures(directory: Path) -> list[Row]:
    """The table of an earlier run, from its captures; raises CaptureFileError or BenchError.

    What captures cannot show (throughput, memory) was noted beside them and is repeated.
    """
    rows = handover_rows(analyse(directory))
    beside = directory / _BESIDE
    if beside.exists():
        rows += [Row(**line) for line in json.loads(beside.read_text())]
    return rows


def topology(moves: int) -> Topology:
    """The domain of the benchmark: four gateways and a host for each handover, all beginning at gw1."""
    return Topology(
        name="bench",
        gateways={name: numbered_gateway(name, number) for number, name in enumerate(GATEWAYS, 1)},
        correspondents={CORRESPONDENT: Correspondent(CORRESPONDENT, numbered("c", 1))},
        hosts={name: Host(name, at=GATEWAYS[0]) for name in (f"mn{number}" for number in range(1, moves + 1))},
    )


def run(moves: int, keep: Path | None, say: Callable[[str], None]) -> list[Row]:
    """Run the whole benchmark in a lab made for it; ``keep``: a directory for the captures."""
    if not shutil.which("iperf3"):
        raise BenchError("iperf3 is missing: install the package iperf3")
    say(f"building a domain with {moves} hosts")
    with Domain.up(topology(moves), f"bench-{os.getpid()}", owner_pid=os.getpid()) as domain:
        bench = Bench(domain, keep or domain.directory / "captures", say)
        return bench.run()


class Bench:
    """A benchmark in a running domain."""

    def __init__(self, domain: Domain, captures: Path, say: Callable[[str], None], silent: bool = False) -> None:
        """``silent``: the access switch does not announce hosts, so that a handover begins with a packet of theirs."""
        self._domain = domain
        self._silent = silent
        self._captures = captures
        self._say = say
        self._hosts = list(domain.topology.hosts)
        self._to = str(domain.topology.correspondents[CORRESPONDENT].address)

    def run(self) -> list[Row]:
        """Everything, in order; raises BenchError, TrafficError, CaptureError, CaptureFileError or LabError."""
        self._record(self._both_series)
        beside = self._throughput() + self._memory()
        (self._captures / _BESIDE).write_text(json.dumps([asdict(line) for line in beside], indent=1))
        self._say("reading the captures")
        return handover_rows(analyse(self._captures), len(self._hosts)) + beside

    def run_one_series(self) -> Analysis:
        """The handovers with one old anchor and nothing else; raises what :meth:`run` raises."""
        self._record(lambda: self._series("gw2"))
        self._say("reading the captures")
        return analyse(self._captures)

    # Handovers

    def _record(self, handovers: Callable[[], None]) -> None:
        """Capture handovers, with traffic agents at both ends."""
        started: list[Endpoint] = []
        try:
            for name, namespace in (("hosts", None), (CORRESPONDENT, self._domain.namespace(CORRESPONDENT))):
                started.append(Endpoint(name, namespace))
            self._agent, self._cn = started
            captured = self._captured(handovers)
        finally:
            for endpoint in started:
                endpoint.close()
        if missed := {name: seen.dropped for name, seen in captured.items() if seen.dropped}:
            raise BenchError(f"the measurement is invalid: captures missed frames at {missed}")

    def _captured(self, handovers: Callable[[], None]) -> dict[str, PointResult]:
        self._cn.call("serve")
        for host in self._hosts:
            self._agent.call("watch", namespace=self._domain.namespace(host))
        self._say("waiting for the first addresses")
        self._addresses: dict[str, list[IPv6Address]] = {host: [self._first_address(host)] for host in self._hosts}
        # Whom the gateways ask is seen at their own links.
        asked = {f"core-{name}" for name, kind in self._domain.topology.nodes().items() if kind in _ASKED}
        points = {name: where for name, where in self._domain.points().items() if name not in asked}
        capture = Capture(self._captures, points, blocks=16)
        try:
            handovers()
            self._say("writing the captures")
            return capture.stop()
        finally:
            capture.abandon()

    def _both_series(self) -> None:
        self._series("gw2")
        time.sleep(2 * UNDER_WAY_NS / 1e9)  # the last host moves on without traffic
        for host in self._hosts:
            self._domain.move(host, "gw3")
            self._domain.wait_served(host, "gw3", _ATTACH_TIMEOUT_S)
        for host in self._hosts:
            self._addresses[host] += [self._address(host, "gw2"), self._address(host, "gw3")]
        self._series("gw4")
        # While the agent listens: duplicate address detection may go on if there were few handovers.
        self._newest = self._address(self._hosts[0], "gw4")

    def _series(self, target: str) -> None:
        for number, host in enumerate(self._hosts, 1):
            self._say(f"handover {number} of {len(self._hosts)} to {target}")
            self._handover(number, host, target)

    def _handover(self, number: int, host: str, target: str) -> None:
        namespace = self._domain.namespace(host)
        own = self._addresses[host]
        for address in own:
            self._agent.call("probe", own=str(address), to=self._to, namespace=namespace)
        arguments = {"bind": str(own[0]), "namespace": namespace, "to": self._to, "deadline_s": 5.0}
        self._agent.call("open", connection=number, seed=number, **arguments)
        self._agent.call("stream", connection=number, mbit_s=TRANSFER_MBIT_S)
        time.sleep(BEFORE_S)
        self._domain.move(host, target, silent=self._silent)
        time.sleep(AFTER_S)
        self._agent.call("end_probes")
        self._cn.call("end_probes")
        sent = self._agent.call("finish", connection=number, deadline_s=5.0)
        received = self._cn.call("received", peer=sent["local"])
        if received["digest"] != sent["digest"]:
            raise BenchError(f"{host}: the bytes that arrived are not those that were sent")
        self._agent.call("close", connection=number)

    def _first_address(self, host: str) -> IPv6Address:
        """The host's address from gw1.

        The kernel has one neighbour table for all namespaces (1,024 entries by default). When 50 hosts appear at once
        it can overflow, and a host then gives up an advertisement in the middle, its router known and no address
        made. Such a host is told anew, by a short loss of its carrier.
        """
        for _ in range(_ATTACH_ATTEMPTS):
            address = self._find_address(host, "gw1", _PATIENCE_S)
            if address is not None:
                return address
            self._domain.move(host, "gw1", flap_ms=_FLAP_MS)
        return self._address(host, "gw1")

    def _address(self, host: str, gateway: str) -> IPv6Address:
        address = self._find_address(host, gateway, _ATTACH_TIMEOUT_S)
        if address is None:
            raise TrafficError(f"{host} got no address from {gateway} within {_ATTACH_TIMEOUT_S:g} s")
        return address

    def _find_address(self, host: str, gateway: str, timeout_s: float) -> IPv6Address | None:
        """The host's address out of the gateway's pool, out of DAD (preferred or not)."""
        namespace, pools = self._domain.namespace(host), self._domain.topology.gateways[gateway].pools

        def wanted(event: AddressEvent) -> bool:
            here = event.namespace == namespace and any(event.address in pool for pool in pools)
            return here and not event.tentative

        event = self._agent.await_address(wanted, timeout_s)
        return None if event is None else event.address

    # Tunnel against plain forwarding

    def _throughput(self) -> list[Row]:
        """TCP downlink to one host at gw4: to its address from gw1, through the tunnel, and to that from gw4."""
        host = self._hosts[0]
        through = self._addresses[host][0]
        plain = self._newest
        self._detour(plain, "gw4", "gw1")
        server = self._iperf3_server(host)
        ratios, rates = [], []
        try:
            for pair in range(1, PAIRS + 1):
                self._say(f"throughput pair {pair} of {PAIRS}")
                speeds = []
                for address in (through, plain) if pair % 2 else (plain, through):
                    before, began = self._frames_to_userspace(), time.monotonic()
                    speeds.append(self._measure(address))
                    rates.append((self._frames_to_userspace() - before) / (time.monotonic() - began))
                tunnel, direct = speeds if pair % 2 else reversed(speeds)
                ratios.append(tunnel / direct)
        finally:
            server.terminate()
            server.wait()
        return [
            row("tunnel.throughput_ratio", "ratio", ratios),
            row("gateway.frames_to_userspace", "1/s", rates),
        ]

    def _iperf3_server(self, host: str) -> subprocess.Popen[str]:
        argv = ["iperf3", "-s", "-p", str(streams.PORT), "--forceflush"]
        server = self._domain.popen(host, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert server.stdout is not None
        said = ""
        for line in server.stdout:
            said += line
            if "listening" in line:
                threading.Thread(target=server.stdout.read, daemon=True).start()  # or it would block on a full pipe
                return server
        raise BenchError(f"iperf3 -s ended: {said.strip()}")

    def _detour(self, address: IPv6Address, here: str, through: str) -> None:
        """Let the core send the packets of an address through one more gateway, both ways."""
        prefix = IPv6Network((address, 64), strict=False)
        gateway = self._domain.topology.gateways[through].address
        for command in (
            f"route add default via {gateway} dev core-{through} table {_DETOUR_TABLE}",
            f"rule add to {prefix} iif core-{CORRESPONDENT} lookup {_DETOUR_TABLE}",
            f"rule add from {prefix} iif core-{here} lookup {_DETOUR_TABLE}",
        ):
            done = self._domain.exec(CORE, ["ip", "-6", *command.split()])
            if done.returncode:
                raise BenchError(f"ip -6 {command}: {done.stderr.strip()}")

    def _measure(self, address: IPv6Address) -> float:
        """Bits a second that arrive at the host."""
        argv = ["iperf3", "-c", str(address), "-p", str(streams.PORT), "-t", str(LEG_S), "-J"]
        done = self._domain.exec(CORRESPONDENT, argv)
        report: dict[str, Any] = json.loads(done.stdout or "{}")
        if done.returncode or "error" in report:
            raise BenchError(f"iperf3 to {address}: {report.get('error') or done.stderr.strip()}")
        return float(report["end"]["sum_received"]["bits_per_second"])

    def _frames_to_userspace(self) -> int:
        """Data frames of attached hosts that have reached a gateway's process, at all gateways together."""
        return sum(int(show(self._domain.control(name), "status")["frames_to_userspace"]) for name in GATEWAYS)

    def _memory(self) -> list[Row]:
        pids = {entry["node"]: entry["pid"] for entry in self._domain.ps()}
        return [row("gateway.rss", "MiB", [_resident_mib(pids[name]) for name in GATEWAYS])]


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BenchError(f"process {pid} has ended")
