"""The verb that replays a recording."""

from __future__ import annotations

import sys
from pathlib import Path

import click


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
    except (OSError, RecordError) as error:
        click.echo(f"anchord: {error}", err=True)
        sys.exit(1)
    if result.cut:
        click.echo("the recording was cut off where its process ended: what is whole was replayed")
    click.echo(f"{result.inputs} inputs, {result.outputs} outputs, {result.different} inputs answered differently")
    if result.first is not None:
        number, old, new = result.first
        click.echo(f"recorded with anchord {result.software}; the first difference is at input {number}")
        click.echo(f"recorded: {old}\nnow: {new}")
        sys.exit(1)
