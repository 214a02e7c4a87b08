"""The verb that replays a recording."""

from __future__ import annotations

import json
import sys
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from anchord.recording.replay import Difference, Place


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def replay(file: Path) -> None:
    """Feed a recording (`--record FILE` of a daemon) to the same protocol object, and compare what comes out.

    Exits 1 if anything comes out differently, or if FILE is no recording.
    """
    from anchord.recording import replay as player
    from anchord.recording.values import RecordError

    try:
        result = player.replay(file)
    except player.BroughtDownError as error:
        traceback.print_exception(error.__cause__)
        click.echo(f"{file}: {error}:\n{_described(error.place)}", err=True)
        sys.exit(1)
    except RecordError as error:
        click.echo(f"anchord: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"anchord: {file}: {error.strerror}", err=True)
        sys.exit(1)
    if result.cut:
        click.echo("the recording was cut off where its process ended: what is whole was replayed")
    click.echo(f"{result.inputs} inputs, {result.outputs} outputs, {result.different} inputs answered differently")
    if result.first is not None:
        recorded = f"recorded with anchord {result.software}, " if result.software else ""
        click.echo(f"{recorded}replayed with anchord {version('anchord')}")
        click.echo(_first_difference(result.first))
        sys.exit(1)


def _described(place: Place) -> str:
    at = datetime.fromtimestamp(place.at.wall_s, UTC)
    when = f"  at {at:%Y-%m-%d %H:%M:%S.%f} UTC, monotonic {place.at.monotonic_s:.6f} s"
    return f"{when}\n  {json.dumps({key: each for key, each in place.done.items() if key != 'at'})}"


def _first_difference(first: Difference) -> str:
    place = first.place
    lines = [
        f"the first difference is at line {place.line}, input {place.number}:",
        _described(place),
        f"output {first.output} of it was recorded as\n{_output(first.recorded)}",
        f"and now is\n{_output(first.now)}",
    ]
    if first.recorded is not None and first.now is not None:
        lines.append(f"which differs in {', '.join(first.fields())}")
    return "\n".join(lines)


def _output(output: Any) -> str:
    return "  no output" if output is None else "  " + json.dumps(output, indent=2).replace("\n", "\n  ")
