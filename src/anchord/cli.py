"""The command ``anchord``: a group of verbs, each imported only when it is used, so that ``--help`` costs nothing.

Exit codes, the same for every verb: 0 done, 1 failed, 2 usage or configuration, 3 daemon not reachable. ``doctor`` adds
4: usable, with warnings.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click


class Verb(NamedTuple):
    """Where a verb lives, and what it is for: the summary stands here so that listing verbs imports none."""

    module: str
    name: str
    summary: str


VERBS = {
    "gateway": Verb("anchord.daemon.verbs", "gateway", "Run a gateway (RFC 8885: MAAR) in the foreground."),
    "central": Verb("anchord.daemon.verbs", "central", "Run the central mobility database in the foreground."),
    "directory": Verb("anchord.daemon.verbs", "directory", "Run the directory of hosts and anchors in the foreground."),
    "lma": Verb("anchord.daemon.verbs", "lma", "Run a Local Mobility Anchor (RFC 5213) in the foreground."),
    "show": Verb("anchord.daemon.verbs", "show", "Show bindings, prefixes, tunnels or peers of a running daemon."),
    "monitor": Verb("anchord.daemon.verbs", "monitor", "Follow what happens in a running daemon, an event a line."),
    "revoke": Verb("anchord.daemon.verbs", "revoke", "End a mobile node's session everywhere (administrator)."),
    "replay": Verb("anchord.recording.verbs", "replay", "Feed a recording to the same object, and compare."),
    "doctor": Verb("anchord.kernel.verbs", "doctor", "Try what this machine's kernel can do, and say what to mend."),
    "flush": Verb("anchord.kernel.verbs", "flush", "Remove everything of ours from the kernel of this machine."),
    "sim": Verb("anchord.simulator.verbs", "sim", "Simulate domains in a hostile network, and check what must hold."),
    "lab": Verb("anchord.lab.verbs", "lab", "Domains of network namespaces on this machine."),
    "demo": Verb("anchord.lab.measure_verbs", "demo", "A host roams between three gateways; every connection lives."),
    "bench": Verb("anchord.lab.measure_verbs", "bench", "Measure handovers, tunnels and processes."),
}


class LazyGroup(click.Group):
    """A group whose verbs are looked up in VERBS and imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order in which they are explained: daemons first."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb. None if there is none of that name."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = getattr(importlib.import_module(verb.module), verb.name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Look the verb up; a mistyped one is told the nearest that exists."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(_no_such_verb(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


def _no_such_verb(name: str) -> str:
    from anchord.spelling import nearest

    near = nearest(name, VERBS)
    return f"no such verb {name!r}" + (f", did you mean {near!r}?" if near else f", expected one of {', '.join(VERBS)}")


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"anchord {version('anchord')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 daemon not reachable.
Completion: put the line for your shell into its start file:
  bash: eval "$(_ANCHORD_COMPLETE=bash_source anchord)"
  zsh:  eval "$(_ANCHORD_COMPLETE=zsh_source anchord)"
  fish: _ANCHORD_COMPLETE=fish_source anchord | source""",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
def main(**_: Any) -> None:
    """Distributed mobility anchoring on Linux routers (RFC 8885): a host that roams keeps its connections."""
