"""``anchord doctor`` and ``anchord flush``: what can be said and done about the kernel without a daemon."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from anchord.kernel import features, machine
from anchord.kernel.alone import Alone
from anchord.kernel.errors import KernelError
from anchord.kernel.features import Finding, Result
from anchord.kernel.host import flush as flush_namespace

_READY, _MISSING, _USAGE, _WARNINGS = 0, 1, 2, 4
_COLOURS = {Result.OK: "green", Result.WARN: "yellow", Result.FAIL: "red"}
_FLUSHED = {
    "rules": "rules",
    "routes": "routes",
    "links": "interfaces",
    "promiscuous": "interfaces no longer promiscuous",
    "filter": "packet filter tables",
    "tunnel_source": "tunnel sources",
}


@click.command()
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="NODE.toml", help="Check this node's interfaces too."
)
@click.option("--json", "-j", "as_json", is_flag=True, help="JSON, with the keys that docs/cli.md lists.")
def doctor(config: Path | None, as_json: bool) -> None:
    """Try what this machine's kernel can do, and say what to mend.

    Everything is tried for real, in throw-away network namespaces: nothing of the machine is changed.

    Exit codes: 0 ready, 1 something required is missing, 2 the configuration cannot be read, 4 usable with warnings.
    """
    node = _node(config) if config else {}
    findings = examine(_names(node, "access"), _names(node, "core"), node.get("state"))
    if as_json:
        click.echo(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        _print(findings)
    results = {finding.result for finding in findings}
    sys.exit(_MISSING if Result.FAIL in results else _WARNINGS if Result.WARN in results else _READY)


def examine(access: Sequence[str], core: Sequence[str], state: str | None) -> list[Finding]:
    """Everything the doctor looks at. ``access``, ``core`` and ``state`` as configured, if known."""
    findings = [machine.privileges(), *features.probe(), *machine.routing(core)]
    if access or core:
        findings += machine.interfaces(access, core)
    if state:
        findings.append(machine.state_directory(Path(state)))
    return [*findings, machine.receive_buffers(), machine.clock(), machine.attachment()]


@click.command()
@click.option("--json", "-j", "as_json", is_flag=True, help="JSON: how many of each kind were removed.")
@click.option("--force", is_flag=True, help="Even though a gateway or LMA runs here.")
def flush(as_json: bool, force: bool) -> None:
    """Remove everything of ours from the kernel of this machine (of this network namespace).

    Hosts lose their forwarding. Refused while a gateway or LMA runs here, which would put it back: stop it first.
    """
    with contextlib.nullcontext() if force else contextlib.closing(_nobody_else()):
        try:
            counts = flush_namespace()
        except KernelError as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(counts))
        return
    done = [f"{count} {_FLUSHED[kind]}" for kind, count in counts.items() if count]
    click.echo(f"removed: {', '.join(done)}" if done else "nothing of ours was there")


def _nobody_else() -> Alone:
    try:
        return Alone()
    except KernelError as error:
        raise click.ClickException(f"{error}, or flush with --force") from error


def _node(config: Path) -> dict[str, Any]:
    """The node file, for its interfaces only; ``--check-config`` of the daemon judges the rest."""
    try:
        return tomllib.loads(config.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        click.echo(f"{config}: {error}", err=True)
        sys.exit(_USAGE)


def _names(node: dict[str, Any], key: str) -> tuple[str, ...]:
    names = node.get(key, [])
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _print(findings: Sequence[Finding]) -> None:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = click.style(f"{finding.result.value:4}", fg=_COLOURS[finding.result] if colour else None)
        click.echo(f"{mark}  {finding.name:{width}}  {finding.detail}", color=colour)
        if finding.mend:
            click.echo(f"{'':4}  {'':{width}}  -> {finding.mend}")
