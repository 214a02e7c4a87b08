"""The tour of the demo: one host, gw1 -> gw2 -> gw3 -> gw1, with everything it carries.

At gw1 the host opens a TCP transfer that streams for the whole tour, and 1 kHz of UDP each way. At each stop it opens
two more TCP connections: one at once, while the new address is still in duplicate address detection, so that it takes
an old address; one when the kernel has announced that the new address may be used. After every move each connection
has to bring 64 KiB each way within 5 s. A connection that cannot is dead, and stays dead.

This module drives and collects; :mod:`anchord.lab.demo` judges.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from anchord.lab.capture import Capture, CaptureError, PointResult
from anchord.lab.domain import Domain
from anchord.lab.paths import Paths, detours, of_connection
from anchord.lab.readiness import last_lines
from anchord.lab.traffic import AddressEvent, Endpoint, TrafficError

HOST = "mn1"
FIRST_GATEWAY = "gw1"
MOVES = ("gw2", "gw3", "gw1")
EXCHANGE_BYTES = 64 * 1024
DEADLINE_S = 5.0
TRANSFER_MBIT_S = 20.0
FIRST_PORT = 40001  # of the host's connections; each has a port of its own, by which the gateways count it
# The handover itself is measured under the load of the probes, the streaming transfer and one connection being opened.
# The exchanges begin when it is over: seven bursts at once would keep both processors of a small machine from its
# routers, which in a real domain have their own.
UNDISTURBED_S = 0.1
_USABLE_TIMEOUT_S = 15.0


class NodeDiedError(Exception):
    """A node's process ended during the tour; the message names it and ends with its last log lines."""


@dataclass(frozen=True, slots=True)
class TourOptions:
    """How to move: without the switch's announcement, with the carrier lost for ``flap_ms``; ``control`` for a domain
    of plain routers, where the host's old sessions are expected to die."""

    silent: bool = False
    flap_ms: float | None = None
    control: bool = False


@dataclass(slots=True)
class Session:
    """One TCP connection. ``opened_at`` is the number of the stop, 0 at the first gateway."""

    number: int
    name: str
    opened_at: int
    source: IPv6Address | None = None
    error: str | None = None
    verified: int = 0
    slowest_s: float = 0.0
    detours: list[str] = field(default_factory=list)

    @property
    def opened(self) -> bool:
        """Whether the connection was ever established."""
        return self.source is not None

    @property
    def alive(self) -> bool:
        """Whether it was established and has kept every deadline so far."""
        return self.opened and self.error is None

    @property
    def port(self) -> int:
        """The connection's port at the host."""
        return FIRST_PORT + self.number


@dataclass(frozen=True, slots=True)
class Stop:
    """What was seen at one stop. ``died``: sessions opened before that missed their deadline after this move."""

    gateway: str
    moved_ns: int
    usable_ns: int | None
    preferred: tuple[IPv6Address, ...]
    deprecated: tuple[IPv6Address, ...]
    routers: dict[str, str]  # link-local address -> MAC address, as the host knows them
    unreachable: tuple[str, ...]
    carried: tuple[int, ...]  # sessions opened at earlier stops that were alive when the move began
    died: tuple[int, ...]


@dataclass(slots=True)
class TourReport:
    """Everything the tour brought to light."""

    sessions: list[Session] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    captured: dict[str, PointResult] = field(default_factory=dict)
    processor_gaps: int = 0  # probes not sent because this machine gave no processor


class Tour:
    """Carries the traffic through a running domain; ``say`` is told what happens, for people to read.

    ``report`` is what came to light so far. After a tour that could not be finished, too, the captures are complete
    up to its end, unless ``report.captured`` is empty.
    """

    def __init__(
        self, domain: Domain, captures: Path, options: TourOptions, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._domain = domain
        self._captures = captures
        self._options = options
        self._say = say
        self.report = TourReport()
        self._probed: set[IPv6Address] = set()

    def run(self) -> TourReport:
        """Make the tour; raises NodeDiedError, TrafficError, CaptureError or LabError when it cannot be finished."""
        self._paths = Paths({gateway: self._domain.namespace(gateway) for gateway in self._domain.topology.gateways})
        capture = Capture(self._captures, self._domain.points())
        started: list[Endpoint] = []
        try:
            self._cn1, self._cn2, self._mn = (self._endpoint(node, started) for node in ("cn1", "cn2", HOST))
            self._cn1.call("serve")
            self._mn.call("watch")
            self._start()
            for number, gateway in enumerate(MOVES, 1):
                self._move(number, gateway)
            self._finish()
            self.report.captured = capture.stop()
        except Exception:
            with suppress(CaptureError, OSError):  # what it was is raised below
                self.report.captured = capture.stop()
            self._check_nodes()  # the death of a node explains whatever else went wrong
            raise
        finally:
            for endpoint in started:
                endpoint.close()
            capture.abandon()
        return self.report

    # Steps

    def _start(self) -> None:
        """At the first stop there is no old address: everything is opened when the first one is usable."""
        self._say(f"waiting for the first address at {FIRST_GATEWAY}")
        usable = self._await_usable(FIRST_GATEWAY, since_ns=0)
        if usable is None:
            raise TrafficError(f"{HOST} got no usable address at {FIRST_GATEWAY} within {_USABLE_TIMEOUT_S:g} s")
        opened = [self._open(name, 0) for name in ("transfer", "early", "late")]
        transfer = opened[0][0]
        for session, opening in opened:
            self._opened(session, opening)
        if transfer.alive:
            self._mn.call("stream", connection=transfer.number, mbit_s=TRANSFER_MBIT_S)
        self._probe(usable.address)
        self._exchange([session for session, _ in opened])
        self._record(0, FIRST_GATEWAY, 0, usable, [], [session for session, _ in opened])

    def _move(self, number: int, gateway: str) -> None:
        carried = [session for session in self.report.sessions if session.alive]
        self._say(f"moving to {gateway} with {len(carried)} connections")
        moved_ns = self._domain.move(HOST, gateway, silent=self._options.silent, flap_ms=self._options.flap_ms)
        early, opening = self._open("early", number)
        time.sleep(UNDISTURBED_S)
        exchanges = self._begin_exchange(carried)
        usable = self._await_usable(gateway, since_ns=moved_ns)
        fresh = [early]
        if usable is not None:
            self._say(f"new address usable at {gateway} after {(usable.time_ns - moved_ns) / 1e9:.2f} s")
            # A plain router leaves all the host's addresses preferred: there the application has to choose.
            late, late_opening = self._open("late", number, usable.address if self._options.control else None)
            self._opened(late, late_opening)
            self._probe(usable.address)
            fresh.append(late)
        self._opened(early, opening)
        self._end_exchange(exchanges)
        self._exchange([session for session in fresh if session.alive])
        self._record(number, gateway, moved_ns, usable, carried, fresh)

    def _record(
        self,
        number: int,
        gateway: str,
        moved_ns: int,
        usable: AddressEvent | None,
        carried: list[Session],
        fresh: list[Session],
    ) -> None:
        counts = self._paths.read()
        for session in fresh:
            if session.name == "late":
                session.detours = detours(of_connection(counts, session.port), gateway)
        addresses = self._mn.call("addresses")
        self.report.stops.append(
            Stop(
                gateway,
                moved_ns,
                None if usable is None else usable.time_ns,
                tuple(IPv6Address(state["address"]) for state in addresses if state["preferred"]),
                tuple(IPv6Address(state["address"]) for state in addresses if state["deprecated"]),
                self._routers(),
                self._unreachable(usable),
                tuple(session.number for session in carried),
                tuple(session.number for session in carried if not session.alive),
            )
        )
        self._check_nodes()
        alive = sum(session.alive for session in self.report.sessions)
        self._say(f"at {gateway}: {alive} of {len(self.report.sessions)} connections alive")

    def _finish(self) -> None:
        """Both ends compare what went over each connection, then everything is closed."""
        self._say("comparing checksums")
        for endpoint in (self._mn, self._cn1):
            endpoint.call("end_probes")
        for session in self.report.sessions:
            if session.alive:
                try:
                    self._compare(session)
                except TrafficError as error:
                    session.error = str(error)
        self.report.processor_gaps = sum(e.call("probe_counts")["late"] for e in (self._mn, self._cn1))
        for session in self.report.sessions:
            if session.alive:
                self._mn.call("close", connection=session.number)

    def _compare(self, session: Session) -> None:
        sent = self._mn.call("finish", connection=session.number, deadline_s=DEADLINE_S)
        session.verified = sent["verified"]
        received = self._cn1.call("received", peer=[str(session.source), session.port])
        if (received["bytes"], received["digest"]) != (sent["sent"], sent["digest"]):
            raise TrafficError(f"SHA-256 differs: {sent['sent']} bytes sent, {received['bytes']} received")

    # Connections

    def _open(self, name: str, stop: int, source: IPv6Address | None = None) -> tuple[Session, Future[Any]]:
        number = len(self.report.sessions)
        session = Session(number, name, stop)
        self.report.sessions.append(session)
        opening = self._mn.submit(
            "open",
            connection=number,
            to=str(self._domain.topology.correspondents["cn1"].address),
            seed=number,
            port=session.port,
            deadline_s=DEADLINE_S,
            **({} if source is None else {"bind": str(source)}),
        )
        return session, opening

    def _opened(self, session: Session, opening: Future[Any]) -> None:
        try:
            result = self._await(self._mn, opening)
        except TrafficError as error:
            session.error = str(error)
        else:
            session.source = IPv6Address(result["local"][0])

    def _exchange(self, sessions: list[Session]) -> None:
        self._end_exchange(self._begin_exchange(sessions))

    def _begin_exchange(self, sessions: list[Session]) -> list[tuple[Session, Future[Any]]]:
        return [
            (
                session,
                self._mn.submit("exchange", connection=session.number, amount=EXCHANGE_BYTES, deadline_s=DEADLINE_S),
            )
            for session in sessions
            if session.alive
        ]

    def _end_exchange(self, exchanges: list[tuple[Session, Future[Any]]]) -> None:
        for session, future in exchanges:
            try:
                result = self._await(self._mn, future)
            except TrafficError as error:
                session.error = str(error)
            else:
                session.verified = result["verified"]
                session.slowest_s = max(session.slowest_s, result["seconds"])

    def _await(self, endpoint: Endpoint, future: Future[Any]) -> Any:
        return endpoint.result(future, 2 * DEADLINE_S, self._check_nodes)

    # Looking around

    def _endpoint(self, node: str, started: list[Endpoint]) -> Endpoint:
        endpoint = Endpoint(node, self._domain.namespace(node))
        started.append(endpoint)
        return endpoint

    def _await_usable(self, gateway: str, since_ns: int) -> AddressEvent | None:
        """When an address out of the gateway's pools may be used: out of DAD, and preferred."""
        pools = self._domain.topology.gateways[gateway].pools

        def wanted(event: AddressEvent) -> bool:
            return event.preferred and event.time_ns >= since_ns and _in(event.address, pools)

        return self._mn.await_address(wanted, _USABLE_TIMEOUT_S, self._check_nodes)

    def _probe(self, address: IPv6Address) -> None:
        if address not in self._probed:
            self._probed.add(address)
            to = str(self._domain.topology.correspondents["cn1"].address)
            self._mn.call("probe", own=str(address), to=to)

    def _unreachable(self, usable: AddressEvent | None) -> tuple[str, ...]:
        """Which addresses do not answer a correspondent. Of a plain router's host only the newest is expected to."""
        addresses = self._probed
        if self._options.control:
            addresses = set() if usable is None else {usable.address}
        asked = [
            (endpoint, address, endpoint.submit("ping", address=str(address), deadline_s=DEADLINE_S))
            for endpoint in (self._cn1, self._cn2)
            for address in sorted(addresses)
        ]
        silent = []
        for endpoint, address, future in asked:
            try:
                self._await(endpoint, future)
            except TrafficError:
                silent.append(f"{address} from {endpoint.name}")
        return tuple(silent)

    def _routers(self) -> dict[str, str]:
        """The routers in the host's own neighbour cache."""
        listing = self._domain.exec(HOST, ["ip", "-json", "-6", "neigh", "show"]).stdout
        return {row["dst"]: row["lladdr"] for row in json.loads(listing) if "router" in row and "lladdr" in row}

    def _check_nodes(self) -> None:
        for row in self._domain.ps():
            if not row["alive"]:
                log = last_lines(Path(row["log"]))
                raise NodeDiedError(f"{row['node']} ended during the tour; its last lines:\n{log}")


def _in(address: IPv6Address, pools: tuple[IPv6Network, ...]) -> bool:
    return any(address in pool for pool in pools)
