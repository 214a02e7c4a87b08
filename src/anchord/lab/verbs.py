"""``anchord lab``: domains of network namespaces on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from anchord.lab.cli_types import Milliseconds
from anchord.lab.errors import LabError, TopologyError

_SERVED_TIMEOUT_S = 10.0
_name_option = click.option("--name", default="lab", show_default=True, metavar="NAME", help="Which lab.")
_json_option = click.option("--json", "-j", "as_json", is_flag=True, help="JSON, with the keys that docs/lab.md lists.")


def _signal(_context: click.Context, _parameter: click.Parameter, value: str) -> signal.Signals:
    """A signal by its name, with or without SIG."""
    try:
        return signal.Signals[f"SIG{value.upper().removeprefix('SIG')}"]
    except KeyError:
        raise click.BadParameter(f"no signal {value!r}, expected a name such as KILL, TERM, STOP or CONT") from None


@click.group()
def lab() -> None:
    """Domains of network namespaces: real daemons, the real kernel, unmodified hosts.

    Needs root. docs/lab.md describes topology files and what can be done in a lab.
    """


@lab.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Every daemon records into a file in DIR (docs/recording.md).",
)
@_name_option
@_json_option
def up(file: Path | None, record: Path | None, name: str, as_json: bool) -> None:
    """Build a domain and return when every daemon is ready.

    FILE is a topology (TOML); without it: three gateways, the central database, two correspondents and a host at gw1.
    """
    from anchord.lab.domain import Domain
    from anchord.lab.topology import Topology

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        with _reported():
            topology = Topology.default() if file is None else Topology.load(file)
            began = time.monotonic()
            domain = Domain.up(topology, name, recordings=record)
            took_s = time.monotonic() - began
    except KeyboardInterrupt:
        click.echo(f"interrupted; what there was of lab {name} by then is removed", err=True)
        sys.exit(128 + signal.SIGINT)
    if as_json:
        points = {point: list(where) for point, where in domain.points().items()}
        made = {"name": name, "directory": str(domain.directory), "nodes": domain.ps(), "points": points}
        click.echo(json.dumps(made, indent=2))
    else:
        click.echo(f"lab {name} is up after {took_s:.1f} s: {' '.join(domain.topology.nodes())}")


@lab.command()
@click.argument("host")
@click.argument("gateway")
@click.option("--access", metavar="LINK", help="Which access link, if the gateway has several.")
@click.option("--silent", is_flag=True, help="The access switch does not announce the host (no Layer 2 Update frame).")
@click.option("--flap", type=Milliseconds(), metavar="MS", help="The carrier at the host is lost so long.")
@click.option(
    "--wait", is_flag=True, help=f"Return when the gateway serves the host; fails after {_SERVED_TIMEOUT_S:g} s."
)
@_name_option
@_json_option
def move(
    host: str,
    gateway: str,
    access: str | None,
    silent: bool,
    flap: float | None,
    wait: bool,
    name: str,
    as_json: bool,
) -> None:
    """Move HOST to the access link of GATEWAY."""
    from anchord.lab.domain import Domain

    with _reported():
        domain = Domain.attach(name)
        moved_ns = domain.move(host, gateway, silent=silent, flap_ms=flap, access=access)
        if wait:
            domain.wait_served(host, gateway, _SERVED_TIMEOUT_S, access=access)
    if as_json:
        click.echo(
            json.dumps({"host": host, "gateway": gateway, "moved_ns": moved_ns, "served": True if wait else None})
        )
    else:
        click.echo(f"{host} is at {gateway}" + (" and served" if wait else ""))


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_name_option
def exec(node: str, command: tuple[str, ...], name: str) -> None:
    """Run COMMAND in the namespace of NODE, and exit with its exit code.

    For example: anchord lab exec mn1 -- ping -c1 2001:db8:c1::1
    """
    from anchord.lab.domain import Domain

    with _reported():
        domain = Domain.attach(name)
        domain.namespace(node)
        if shutil.which(command[0]) is None:
            # As a shell has it: 126 is there and cannot be run, 127 is not there.
            there = "/" in command[0] and os.path.exists(command[0])
            click.echo(f"anchord: {command[0]}: {'cannot be executed' if there else 'command not found'}", err=True)
            sys.exit(126 if there else 127)
        # In our session and process group: the terminal, and Ctrl-C, are the command's.
        child = domain.popen(node, command, start_new_session=False)
    sys.exit(_exit_code(child))


@lab.command()
@click.argument("node")
@click.option(
    "--signal", "number", default="KILL", show_default=True, metavar="NAME", callback=_signal, help="Which signal."
)
@_name_option
def kill(node: str, number: signal.Signals, name: str) -> None:
    """Send a signal to the process of NODE: what survives that?"""
    from anchord.lab.domain import Domain

    with _reported():
        Domain.attach(name).kill(node, number)
    click.echo(f"{node}: {number.name} sent")


@lab.command()
@click.argument("node")
@_name_option
def restart(node: str, name: str) -> None:
    """Start the process of NODE again, and return when its daemon is ready.

    If it is still running it is ended first, with SIGTERM.
    """
    from anchord.lab.domain import Domain

    with _reported():
        domain = Domain.attach(name)
        domain.restart(node)
    click.echo(f"{node} is running again")


@lab.command()
@_name_option
@_json_option
def ps(name: str, as_json: bool) -> None:
    """List the nodes of a lab and their processes."""
    from anchord.lab.domain import Domain

    with _reported():
        rows = Domain.attach(name).ps()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        row["alive"] = "yes" if row["alive"] else "no"
    _table(rows, ("node", "kind", "pid", "alive", "namespace", "log"))


@lab.command()
@_name_option
@click.option("--stale", is_flag=True, help="Instead: every lab whose owner has died.")
def down(name: str, stale: bool) -> None:
    """Take a lab down: end its processes, remove its namespaces and files. No error if there is none."""
    from anchord.lab.domain import Domain

    with _reported():
        gone = Domain.sweep_stale() if stale else [name] if Domain.take_down(name) else []
    for lab_name in gone:
        click.echo(f"lab {lab_name} is down")


@lab.command(name="list")
@_json_option
def list_labs(as_json: bool) -> None:
    """List the labs there are."""
    from anchord.lab import state

    rows = []
    with _reported():
        for name in state.names():
            try:
                record = state.load(name)
            except LabError as error:  # taken down a moment ago, or made by another version: the others are listed
                click.echo(f"anchord: {error}", err=True)
                continue
            rows.append(
                {
                    "name": name,
                    "ready": record.ready,
                    "owner": None if record.owner is None else record.owner.pid,
                    "stale": record.stale,
                    "directory": str(record.directory),
                }
            )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _table(rows, ("name", "ready", "owner", "stale", "directory"))


def _exit_code(child: subprocess.Popen[Any]) -> int:
    """Wait for a command; its exit code as a shell would give it."""
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            continue  # the command got it too, and decides
        return 128 - code if code < 0 else code


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from anchord.daemon.tables import aligned

    if rows:
        for line in aligned(rows, columns, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")):
            click.echo(line)


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what went wrong into a message and an exit code."""
    try:
        yield
    except TopologyError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    except LabError as error:
        click.echo(f"anchord: {error}", err=True)
        sys.exit(error.exit_code)
    except PermissionError as error:
        click.echo(f"anchord: {error}: a lab needs root", err=True)
        sys.exit(1)
