"""The verbs that run a daemon and that ask a running one."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from anchord.daemon.config import NodeConfig

RUN_DIRECTORY = Path("/run/anchord")
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}  # linux/capability.h

_DAEMON_OPTIONS = [
    click.option("--config", "-c", required=True, type=click.Path(path_type=Path), help="The node file (node.toml)."),
    click.option("--check-config", is_flag=True, help="Read the node file and its domain file, report, and exit."),
    click.option(
        "--log", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of log lines."
    ),
    click.option(
        "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True,
        help="The least important lines that are logged.",
    ),
]  # fmt: skip

_RECORD_OPTION = click.option(
    "--record", type=click.Path(path_type=Path), help="Append what the protocol is given and answers to this file."
)

_NO_NEIGHBOURS = "a host that has not yet used an address of an anchor is served with a new prefix alone until it does"
EXAMPLE_SECRET = b"replace me"  # how the secret in examples/config/domain.toml begins


def _daemon_options(command: Any) -> Any:
    for option in reversed(_DAEMON_OPTIONS):
        command = option(command)
    return command


@click.command()
@_daemon_options
@_RECORD_OPTION
def gateway(config: Path, check_config: bool, log: str, log_level: str, record: Path | None) -> None:
    """Run a gateway in the foreground.

    It needs the capabilities CAP_NET_ADMIN and CAP_NET_RAW. What it has put in the kernel outlives it: a restart takes
    it over, `anchord flush` removes it.
    """
    node = _configured(config, check_config, log, log_level, role="gateway")
    _need("CAP_NET_ADMIN", "CAP_NET_RAW")
    from anchord.daemon.gateway import run

    sys.exit(run(node, record))


@click.command()
@_daemon_options
@_RECORD_OPTION
def central(config: Path, check_config: bool, log: str, log_level: str, record: Path | None) -> None:
    """Run the central mobility database in the foreground.

    It needs the capability CAP_NET_RAW (for its Mobility Header socket).
    """
    node = _configured(config, check_config, log, log_level, role="central")
    _need("CAP_NET_RAW")
    from anchord.daemon.central import run

    sys.exit(run(node, record))


@click.command()
@_daemon_options
def directory(config: Path, check_config: bool, log: str, log_level: str) -> None:
    """Run the directory in the foreground: what gateways find a host's anchors in. It needs no capability."""
    node = _configured(config, check_config, log, log_level, role="directory")
    from anchord.daemon.directory import run

    sys.exit(run(node))


@click.command()
@_daemon_options
@_RECORD_OPTION
def lma(config: Path, check_config: bool, log: str, log_level: str, record: Path | None) -> None:
    """Run a Local Mobility Anchor in the foreground: of plain Proxy Mobile IPv6, between operators, or both.

    It needs the capabilities CAP_NET_ADMIN and CAP_NET_RAW. What it has put in the kernel outlives it: a restart takes
    it over, `anchord flush` removes it.
    """
    node = _configured(config, check_config, log, log_level, role="lma")
    _need("CAP_NET_ADMIN", "CAP_NET_RAW")
    from anchord.daemon.lma import run

    sys.exit(run(node, record))


def _configured(path: Path, check_only: bool, log: str, log_level: str, role: str) -> NodeConfig:
    """Read the configuration and set up logging; ends the process if that is all, or if something is wrong."""
    from anchord.daemon import logs
    from anchord.daemon.config import ConfigError, load_node

    try:
        node = load_node(path)
        if node.role != role:
            raise ConfigError([f"{path}: node: is {node.node!r}, expected another node, or `anchord {node.role}`"])
        if node.domain.secret.startswith(EXAMPLE_SECRET):
            raise ConfigError([f"{node.domain_file}: secret: is the example's, known to everybody, expected your own"])
    except ConfigError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    if check_only:
        click.echo(f"{path}: ok, domain {node.domain.name} {node.domain.digest[:16]}")
        if role == "gateway" and node.domain.finder == "anchor-known" and not node.neighbours:
            click.echo(f"{path}: neighbours: none: {_NO_NEIGHBOURS}")
        sys.exit(0)
    logs.set_up("json" if log == "json" else "text", getattr(logging, log_level.upper()))
    return node


def _need(*names: str) -> None:
    """End the process with a message unless it has these capabilities."""
    missing = missing_capabilities(names)
    if missing:
        click.echo(
            f"anchord: missing {' and '.join(missing)}: run as root, or give the capability with "
            "AmbientCapabilities= in the systemd unit",
            err=True,
        )
        sys.exit(1)


def missing_capabilities(names: Iterable[str]) -> list[str]:
    """Which of ``names`` are not in the effective set of this process (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return [name for name in names if not effective >> CAPABILITIES[name] & 1]


_CLIENT_OPTIONS = [
    click.option("--json", "-j", "as_json", is_flag=True, help="JSON, with the keys that docs/cli.md lists."),
    click.option("--socket", type=click.Path(path_type=Path), help="The daemon's control socket."),
    click.option("--node", metavar="NAME", help="The daemon of this node: its socket is RUN/NAME.sock."),
    click.option(
        "--run", type=click.Path(path_type=Path), default=RUN_DIRECTORY, show_default=True, help="Where sockets are."
    ),
]


def _client_options(command: Any) -> Any:
    for option in reversed(_CLIENT_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("what", type=click.Choice(["bindings", "prefixes", "tunnels", "peers", "status"]))
@click.argument("mn", required=False)
@_client_options
def show(what: str, mn: str | None, as_json: bool, socket: Path | None, node: str | None, run: Path) -> None:
    """Show what a running daemon knows, of one mobile node if MN (identifier or MAC address) is given.

    Without --socket and --node the one daemon that runs on this machine is asked.
    """
    from anchord.daemon import control, tables

    try:
        data = control.query(_socket(socket, node, run), {"show": what} | ({"mn": mn} if mn is not None else {}))
    except control.ControlError as error:
        click.echo(f"anchord: {error}", err=True)
        sys.exit(error.exit_code)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        columns, colour = tables.COLUMNS.get(what), _colour()
        for line in tables.aligned(data, columns, colour) if columns else tables.listed(data, colour):
            click.echo(line, color=colour)


@click.command()
@click.argument("mn_or_prefix")
@_client_options
def revoke(mn_or_prefix: str, as_json: bool, socket: Path | None, node: str | None, run: Path) -> None:
    """End the sessions of a mobile node (identifier or MAC address), or the one that holds a prefix, everywhere.

    For the administrator (root, or the daemon's own user) at the central database or an LMA; in a domain without
    a central database, at the gateway where the node is. That gateway lets it alone for 30 s; to keep it out, take it
    off the list of hosts.
    """
    from anchord.daemon import control

    try:
        names = control.query(_socket(socket, node, run), {"revoke": mn_or_prefix})
    except control.ControlError as error:
        click.echo(f"anchord: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(json.dumps(names) if as_json else "\n".join(f"revoked: {name}" for name in names))


@click.command()
@_client_options
def monitor(as_json: bool, socket: Path | None, node: str | None, run: Path) -> None:
    """Follow what happens in a running daemon, an event a line, until interrupted."""
    from anchord.daemon import control, tables

    try:
        for event in control.follow(_socket(socket, node, run)):
            click.echo(json.dumps(event) if as_json else tables.event(event, _colour()), color=_colour())
    except control.ControlError as error:
        click.echo(f"anchord: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(0)


def _socket(path: Path | None, node: str | None, run: Path) -> Path:
    """The socket to ask: as given, that of the node given, or the only one there is."""
    from anchord.daemon.control import NotReachableError

    if path is not None and node is not None:
        raise click.UsageError("--socket and --node both name a daemon, expected one of them")
    if path is not None:
        return path
    found = sorted(run.glob("*.sock")) if run.is_dir() else []
    if node is not None:
        there = [each.stem for each in found]
        if there and node not in there:
            raise NotReachableError(f"daemon not reachable: no {node}.sock in {run}, which has: {', '.join(there)}")
        return run / f"{node}.sock"
    if not found:
        raise NotReachableError(f"daemon not reachable: no socket in {run}")
    if len(found) > 1:
        raise click.UsageError(f"several daemons run here, choose one: --node {'|'.join(p.stem for p in found)}")
    return found[0]


def _colour() -> bool:
    """Only on a terminal, and not if the user has asked for none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
