"""The demo: the tour in a lab of its own, what has to hold afterwards, and how it is told.

``run`` returns a :class:`Result`; its ``as_json`` is what ``anchord demo --json`` writes, described in
docs/performance.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from anchord.lab.analysis import Analysis, Handover, analyse
from anchord.lab.capture import CaptureError, PointResult
from anchord.lab.domain import Domain
from anchord.lab.errors import LabError
from anchord.lab.paths import PathsError
from anchord.lab.sightings import CaptureFileError
from anchord.lab.topology import Topology
from anchord.lab.tour import MOVES, NodeDiedError, Session, Stop, Tour, TourOptions, TourReport
from anchord.lab.traffic import TrafficError

_TIMES = ("pbu_ms", "pba_ms", "ra_new_ms", "ra_old_ms", "old_flow_down_ms", "old_flow_up_ms", "addr_usable_ms")
_FAILURES = (LabError, TrafficError, CaptureError, CaptureFileError, PathsError, NodeDiedError)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to hold, and what was seen."""

    name: str
    holds: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a demo. ``passed`` decides the exit code.

    ``ok`` says that every session lived and everything else held that the mobility domain promises. In the comparison
    with plain routers it is False by its nature, and ``passed`` says that the sessions died as expected.
    """

    control: bool
    handovers: list[dict[str, Any]]
    sessions: list[Session]
    checks: list[Check]
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the run showed what it is meant to show."""
        return self.error is None and bool(self.checks) and all(check.holds for check in self.checks)

    @property
    def ok(self) -> bool:
        """Whether everything holds that a mobility domain promises."""
        return self.passed and not self.control

    def as_json(self) -> dict[str, Any]:
        """The result as ``anchord demo --json`` writes it."""
        return {
            "ok": self.ok,
            "passed": self.passed,
            "control": self.control,
            "error": self.error,
            "handovers": self.handovers,
            "sessions_opened": sum(session.opened for session in self.sessions),
            "sessions_alive": sum(session.alive for session in self.sessions),
            "bytes_verified": sum(session.verified for session in self.sessions),
            "checks": [asdict(check) for check in self.checks],
        }


def run(options: TourOptions, keep: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Result:
    """Run the demo in a lab made for it, which is gone afterwards; ``keep``: a directory for the captures.

    Whatever goes wrong is in the result; KeyboardInterrupt and SystemExit pass through, after the lab was taken down.
    """
    try:
        say("building the domain")
        topology = Topology.default(mobility=not options.control)
        with Domain.up(topology, f"demo-{os.getpid()}", owner_pid=os.getpid()) as domain:
            captures = keep or domain.directory / "captures"
            tour = Tour(domain, captures, options, say)
            try:
                report = tour.run()
            except _FAILURES as error:
                return unfinished(tour.report, captures, options, error)
            say("reading the captures")
            return judge(topology, report, analyse(captures), options)
    except _FAILURES as error:
        return Result(options.control, [], [], [], str(error))


def unfinished(report: TourReport, captures: Path, options: TourOptions, error: Exception) -> Result:
    """The result of a tour that ended early: its finished moves, as far as the captures show them."""
    handovers = []
    if report.captured and len(report.stops) > 1:
        with suppress(CaptureFileError):
            handovers = _rows(report, analyse(captures))
    if handovers:
        # Probes are counted with the nearest handover, so the last one has those that the failure cost, too.
        handovers[-1] |= {"lost_down": None, "lost_up": None}
    return Result(options.control, handovers, report.sessions, [], str(error))


def judge(topology: Topology, report: TourReport, analysis: Analysis, options: TourOptions) -> Result:
    """Compare what was seen with what has to hold."""
    handovers = _rows(report, analysis)
    checks = list((_control_checks if options.control else _checks)(topology, report, analysis, handovers))
    return Result(options.control, handovers, report.sessions, checks)


def _rows(report: TourReport, analysis: Analysis) -> list[dict[str, Any]]:
    """One row for each move, in order; a move that the captures do not show has no numbers."""
    rows = []
    for number, (before, stop) in enumerate(zip(report.stops, report.stops[1:], strict=False)):
        moves = [h for h in analysis.handovers if h.number == number]
        seen = moves[0] if moves and (moves[0].origin, moves[0].target) == (before.gateway, stop.gateway) else None
        rows.append(_row(before.gateway, stop, seen))
    return rows


def _row(origin: str, stop: Stop, seen: Handover | None) -> dict[str, Any]:
    row: dict[str, Any] = {"from": origin, "to": stop.gateway}
    for key in _TIMES[:-1]:
        row[key] = None if seen is None else _rounded(getattr(seen, key))
    usable = None if seen is None or stop.usable_ns is None else (stop.usable_ns - seen.t0_ns) / 1e6
    row["addr_usable_ms"] = _rounded(usable)
    row["lost_down"] = None if seen is None else seen.lost_down
    row["lost_up"] = None if seen is None else seen.lost_up
    row["anchor_ms"] = {} if seen is None else {name: _rounded(value) for name, value in seen.anchor_ms.items()}
    return row


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# What has to hold


def _checks(
    topology: Topology, report: TourReport, analysis: Analysis, handovers: list[dict[str, Any]]
) -> Iterator[Check]:
    yield _every_connection_lives(report)
    yield _every_byte_arrives(report)
    yield _reachable(report)
    yield _prefers_the_new_prefix(topology, report)
    yield _early_takes_an_old_address(topology, report)
    yield _late_runs_plainly(report)
    yield _one_tunnel(analysis)
    yield _routers_stay(report, analysis)
    yield _first_prefix_again(report)
    yield _measured(report, handovers)


def _control_checks(
    topology: Topology, report: TourReport, analysis: Analysis, handovers: list[dict[str, Any]]
) -> Iterator[Check]:
    for before, stop in zip(report.stops, report.stops[1:], strict=False):
        yield Check(
            f"every connection opened before the move to {stop.gateway} died",
            bool(stop.carried) and stop.died == stop.carried,
            f"{len(stop.died)} of {len(stop.carried)} opened at {before.gateway} or earlier",
        )
    late = [session for session in report.sessions if session.name == "late"]
    worked = [session for session in late if session.opened and session.verified > 0]
    yield Check(
        "new connections work at every stop",
        len(worked) == len(late) == len(MOVES) + 1,
        f"{len(worked)} of {len(late)}" + "".join(f"; {_told(session)}" for session in late if session not in worked),
    )
    yield _no_frame_missed(report.captured)


def _told(session: Session) -> str:
    return f"{session.name} of stop {session.opened_at}: {session.error}"


def _every_connection_lives(report: TourReport) -> Check:
    dead = [session for session in report.sessions if not session.alive]
    expected = 1 + 2 * (1 + len(MOVES))
    slowest = max((session.slowest_s for session in report.sessions), default=0.0)
    seen = f"{len(report.sessions) - len(dead)} of {expected}, slowest 64 KiB each way {slowest:.2f} s"
    return Check(
        "every connection lives",
        not dead and len(report.sessions) == expected,
        "; ".join([seen, *map(_told, dead)]),
    )


def _every_byte_arrives(report: TourReport) -> Check:
    verified = sum(session.verified for session in report.sessions)
    wrong = [session for session in report.sessions if session.error]
    return Check(
        "every byte arrives", verified > 0 and not wrong, f"{verified} bytes compared both ways, SHA-256 equal"
    )


def _reachable(report: TourReport) -> Check:
    silent = [f"{what} at {stop.gateway}" for stop in report.stops for what in stop.unreachable]
    return Check("each address stays reachable from cn1 and cn2", not silent, "; ".join(silent) or "all answer")


def _prefers_the_new_prefix(topology: Topology, report: TourReport) -> Check:
    wrong = []
    for stop in report.stops:
        pools = topology.gateways[stop.gateway].pools
        here = [address for address in stop.preferred if any(address in pool for pool in pools)]
        if not here or len(here) != len(stop.preferred):
            wrong.append(f"{stop.gateway}: prefers {', '.join(map(str, stop.preferred)) or 'none'}")
    told = " -> ".join(f"{stop.gateway} +{len(stop.deprecated)} deprecated" for stop in report.stops)
    return Check("the host prefers the new prefix, old ones are deprecated", not wrong, "; ".join(wrong) or told)


def _early_takes_an_old_address(topology: Topology, report: TourReport) -> Check:
    """Only where the host has not been: back at an earlier gateway its address is out of DAD already."""
    wrong, old, expected = [], 0, 0
    for number, stop in enumerate(report.stops):
        if stop.gateway in [earlier.gateway for earlier in report.stops[:number]] or number == 0:
            continue
        expected += 1
        pools = topology.gateways[stop.gateway].pools
        for session in report.sessions:
            if session.name == "early" and session.opened_at == number and session.source is not None:
                new = any(session.source in pool for pool in pools)
                old += not new
                wrong += [f"at {stop.gateway} it took {session.source}"] if new else []
    holds = not wrong and old == expected > 0
    seen = "; ".join([f"{old} of {expected}", *wrong])
    return Check("connections opened before DAD has ended take an old address", holds, seen)


def _late_runs_plainly(report: TourReport) -> Check:
    late = [session for session in report.sessions if session.name == "late"]
    wrong = [f"stop {session.opened_at}: {'; '.join(session.detours)}" for session in late if session.detours]
    return Check(
        "connections opened after DAD cross no tunnel and no earlier gateway",
        not wrong and len(late) == len(MOVES) + 1,
        "; ".join(wrong) or f"{len(late)} of {len(late)}, counted in the gateways",
    )


def _one_tunnel(analysis: Analysis) -> Check:
    return Check(
        "old prefixes use one plain IPv6-in-IPv6 tunnel, anchor <-> current gateway",
        analysis.tunnel_packets > 0 and not analysis.tunnel_faults,
        "; ".join(analysis.tunnel_faults) or f"{analysis.tunnel_packets} packets",
    )


def _routers_stay(report: TourReport, analysis: Analysis) -> Check:
    faces: dict[str, str] = {}
    faults = list(analysis.router_faults)
    for stop in report.stops:
        for router, mac in stop.routers.items():
            if faces.setdefault(router, mac) != mac:
                faults.append(f"{router} was {faces[router]}, and {mac} at {stop.gateway}")
        if gone := set(faces) - set(stop.routers):
            faults.append(f"the host lost {', '.join(sorted(gone))} at {stop.gateway}")
    return Check(
        "the host's routers keep MAC and link-local address",
        not faults and len(faces) == len(set(MOVES)),
        "; ".join(faults) or f"{len(faces)} routers, the same everywhere",
    )


def _first_prefix_again(report: TourReport) -> Check:
    first, last = report.stops[0].preferred, report.stops[-1].preferred
    return Check("back at gw1 its first prefix is preferred again", bool(first) and first == last, _addresses(last))


def _addresses(addresses: tuple[IPv6Address, ...]) -> str:
    return ", ".join(map(str, addresses)) or "none"


def _measured(report: TourReport, handovers: list[dict[str, Any]]) -> Check:
    missing = [
        f"{row['from']} -> {row['to']}: no {key}" for row in handovers for key, value in row.items() if value is None
    ]
    lossless = _no_frame_missed(report.captured)
    gaps = [f"{report.processor_gaps} probes not sent for want of a processor"] if report.processor_gaps else []
    return Check(
        "every handover was measured, and no capture missed a frame",
        not missing and lossless.holds and len(handovers) == len(MOVES),
        "; ".join([*missing, lossless.seen, *gaps]),
    )


def _no_frame_missed(captured: dict[str, PointResult]) -> Check:
    frames = sum(result.frames for result in captured.values())
    dropped = {name: result.dropped for name, result in captured.items() if result.dropped}
    told = "; ".join(f"{count} frames missed at {name}: the measurement is invalid" for name, count in dropped.items())
    return Check("no capture missed a frame", bool(captured) and not dropped, told or f"{frames} frames")
