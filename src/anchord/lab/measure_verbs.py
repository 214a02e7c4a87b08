"""``anchord demo`` and ``anchord bench``: show that it works, and measure how well."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from errno import ENOTDIR
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, get_args

import click

from anchord.lab.cli_types import Milliseconds
from anchord.lab.state import LABS
from anchord.lab.topology import Mode

if TYPE_CHECKING:
    from anchord.lab.bench import Row
    from anchord.lab.demo import Result


def _check_writable(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """Find out before the measurement that its result could not be written."""
    if file is not None and file.is_dir():
        raise click.BadParameter(f"{file} is a directory, expected a file", _context, _option)
    if file is None or (file.exists() and not file.is_file()):  # opening a pipe would be seen by its reader
        return file
    existed = file.exists()
    try:
        file.open("a").close()
        if not existed:
            file.unlink()
    except OSError as error:
        raise _NotWritten(file, error) from None
    return file


def _check_directory(_context: click.Context, _option: click.Parameter, directory: Path | None) -> Path | None:
    """Find out before the measurement that its captures could not be kept."""
    if directory is None:
        return None
    there = next((each for each in (directory, *directory.parents) if each.exists()), Path())
    try:
        if not there.is_dir():
            raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR))
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _NotWritten(directory, error) from None
    return directory


def _write(file: Path | None, result: object, indent: int) -> None:
    if file is None:
        return
    try:
        file.write_text(json.dumps(result, indent=indent) + "\n")
    except OSError as error:
        raise _NotWritten(file, error) from None


class _NotWritten(click.ClickException):
    exit_code = 2

    def __init__(self, file: Path, error: OSError) -> None:
        super().__init__(f"{file} cannot be written: {error.strerror}")


_json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_check_writable,
    metavar="FILE",
    help="Write the result.",
)

_HANDOVER_COLUMNS = {
    "from": "FROM",
    "to": "TO",
    "pbu_ms": "PBU",
    "pba_ms": "PBA",
    "ra_new_ms": "RA-NEW",
    "ra_old_ms": "RA-OLD",
    "old_flow_down_ms": "OLD-DOWN",
    "old_flow_up_ms": "OLD-UP",
    "addr_usable_ms": "ADDR-USABLE",
    "lost_down": "LOST-DOWN",
    "lost_up": "LOST-UP",
}


@click.command()
@_json_option
@click.option("--silent", is_flag=True, help="The access switch does not announce the host (no Layer 2 Update frame).")
@click.option("--flap", type=Milliseconds(), metavar="MS", help="The host's carrier is lost so long.")
@click.option("--control", is_flag=True, help="For comparison: the same daemons as plain routers; old sessions die.")
@click.option(
    "--keep-pcap", type=click.Path(file_okay=False, path_type=Path), callback=_check_directory, metavar="DIR",
    help="Keep the captures there.",
)  # fmt: skip
def demo(json_file: Path | None, silent: bool, flap: float | None, control: bool, keep_pcap: Path | None) -> None:
    """A host roams gw1 -> gw2 -> gw3 -> gw1 while it carries TCP and UDP; exit code 0 only if everything holds.

    Builds a domain of network namespaces for it, and leaves nothing behind. Needs root. docs/performance.md says how
    each number is defined; times are in ms from the first frame at the new gateway.
    """
    from anchord.lab.demo import run
    from anchord.lab.tour import TourOptions

    with _progress() as say:
        result = run(TourOptions(silent, flap, control), keep_pcap, say)
    for line in _demo_lines(result):
        click.echo(line)
    _write(json_file, result.as_json(), indent=2)
    sys.exit(0 if result.passed else 1)


@click.group()
def bench() -> None:
    """Measure a domain on this machine; the results mean something only if nothing else runs on it."""


@bench.command()
@click.option("--moves", type=click.IntRange(1, 200), default=50, show_default=True, help="Handovers in each series.")
@_json_option
@click.option(
    "--pcap", type=click.Path(file_okay=False, path_type=Path), callback=_check_directory, metavar="DIR",
    help="Keep the captures there.",
)  # fmt: skip
@click.option(
    "--from-pcap",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Measure nothing: the table of an earlier run, from its captures.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice([*get_args(Mode), "all"]),
    help="How anchors are found: one series with one old anchor in this mode, and nothing else. May be repeated.",
)
@click.option(
    "--delays", is_flag=True, help="Also with links of a = b = 10 ms, c = 2 ms; in mode proxy unless --mode says."
)
@click.option("--silent", is_flag=True, help="The access switch announces nobody; in mode proxy unless --mode says.")
def handover(
    moves: int,
    json_file: Path | None,
    pcap: Path | None,
    from_pcap: Path | None,
    modes: tuple[str, ...],
    delays: bool,
    silent: bool,
) -> None:
    """Handovers to gateways where the host has never been; then throughput through the tunnel, and processes.

    A series with one old anchor and one with three. Takes up to three minutes. Needs root, and iperf3.

    With --mode, --delays or --silent only series with one old anchor, one for each mode (and with --delays a second
    one), in one table; docs/lab.md says what they are held to. What was exceeded is in the table, not in the exit code.
    """
    from anchord.lab import bench_modes
    from anchord.lab.bench import BenchError, from_captures, run
    from anchord.lab.capture import CaptureError
    from anchord.lab.errors import LabError
    from anchord.lab.sightings import CaptureFileError
    from anchord.lab.traffic import TrafficError

    measured: list[Mode] = [mode for mode in get_args(Mode) if mode in modes or "all" in modes]
    if (delays or silent) and not measured:
        measured = ["proxy"]
    try:
        if from_pcap is not None:
            rows = bench_modes.from_captures(from_pcap, measured, delays) if measured else from_captures(from_pcap)
        else:
            with _progress() as say:
                if measured:
                    rows = bench_modes.run(measured, moves, pcap, say, delays=delays, silent=silent)
                else:
                    rows = run(moves, pcap, say)
    except (BenchError, CaptureError, CaptureFileError, LabError, TrafficError) as error:
        raise click.ClickException(str(error)) from None
    _tell(rows, json_file)
    if delays:
        click.echo(f"\n{bench_modes.LEGEND}")


@bench.command()
@_json_option
def central(json_file: Path | None) -> None:
    """Refreshes a second that the central database answers, by store and number of hosts.

    The database has one processor and its load another. Takes about six minutes. Needs root and two processors.
    """
    from anchord.lab.bench import BenchError
    from anchord.lab.bench_central import run
    from anchord.lab.errors import LabError

    try:
        with _progress() as say:
            rows = run(say)
    except (BenchError, LabError) as error:
        raise click.ClickException(str(error)) from None
    _tell(rows, json_file)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Say what is going on in a lab of this process; after Ctrl-C say that it is gone, and exit.

    SIGTERM ends the block as Ctrl-C does, so that everything is taken down.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        with _status() as say:
            yield say
    except KeyboardInterrupt:
        # A second Ctrl-C interrupts the removal too; the lab's guardian then ends it.
        left = any(LABS.glob(f"*-{os.getpid()}"))
        click.echo(f"interrupted; the lab {'will be' if left else 'was'} removed", err=True)
        sys.exit(128 + signal.SIGINT)


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """On a terminal a line of its own that changes, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting", refresh_per_second=4) as status:
        yield status.update


def _demo_lines(result: Result) -> Iterator[str]:
    if result.handovers:
        yield "Handovers, in ms from the first frame at the new gateway; packets lost of 1 kHz each way and address"
        table = [list(_HANDOVER_COLUMNS.values())]
        table += [[_cell(key, row[key]) for key in _HANDOVER_COLUMNS] for row in result.handovers]
        yield from _aligned(table, left=2)
        yield ""
    for check in result.checks:
        yield f"{'ok  ' if check.holds else 'FAIL'}  {check.name}: {check.seen}"
    if result.error is not None:
        yield f"FAIL  {result.error}"
    yield ""
    yield _verdict(result)


def _verdict(result: Result) -> str:
    if result.control:
        return "as expected of plain routers: old sessions die" if result.passed else "not as expected of plain routers"
    return "everything holds" if result.passed else "not everything holds"


def _tell(rows: Sequence[Row], json_file: Path | None) -> None:
    """The table of a benchmark: what was measured, what it is held to, and whether it is within that."""
    from anchord.lab.held_to import Held, held_to

    held, free = held_to(rows), Held("", None)
    table = [["NAME", "UNIT", "N", "P50", "P95", "MAX", "HELD TO", "VERDICT"]]
    for row in rows:
        values = [f"{value:.2f}" for value in (row.p50, row.p95, row.max)]
        limit = held.get(row.name, free)
        table.append([row.name, row.unit, str(row.n), *values, limit.text, limit.verdict or ""])
    for line in _aligned(table, left=2, right=2):
        click.echo(line)
    judged = [(row, held.get(row.name, free)) for row in rows]
    result = [{**asdict(row), "held_to": limit.text or None, "verdict": limit.verdict} for row, limit in judged]
    _write(json_file, result, indent=1)


def _aligned(table: Sequence[Sequence[str]], left: int, right: int = 0) -> Iterator[str]:
    """Columns without borders: words, which the first ``left`` and the last ``right`` are, to the left, numbers to the
    right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = [
            text.ljust(width) if at < left or at >= len(line) - right else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "never" if key.endswith("_ms") else "unknown"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
