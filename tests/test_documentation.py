"""What docs/ say is what the program does."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from pathlib import Path

import click
import pytest
from protocol.domain import Domain, domain_settings

from anchord.cli import VERBS, main
from anchord.daemon import tables, views
from anchord.daemon.config import (
    Central,
    Directory,
    DomainConfig,
    Gateway,
    Lifetimes,
    Limits,
    Lma,
    NodeConfig,
    Pmip,
    Policy,
    Timers,
)
from anchord.daemon.configfile import Table, expected_of
from anchord.protocol.settings import Finding

DOCS = Path(__file__).parents[1] / "docs"
# The heading of each table in docs/configuration.md and the model it describes.
DESCRIBED = {
    "domain.toml": DomainConfig,
    "[central]": Central,
    "[directory]": Directory,
    "[gateways.NAME]": Gateway,
    "[lmas.NAME]": Lma,
    "[[policy]]": Policy,
    "[lifetimes]": Lifetimes,
    "[timers]": Timers,
    "[limits]": Limits,
    "[pmip]": Pmip,
    "node.toml": NodeConfig,
}


def as_written(value: object) -> str:
    """A default as one would write it in the file."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case bytes():
            return f'"{value.hex(":")}"'
        case None:
            return ""
        case IPv6Address() | Path() | str():
            return f'"{value}"'
    assert value in ((), {})
    return "[]"


def rows(model: type[Table]) -> list[str]:
    """The table of docs/configuration.md for ``model``; tables inside it have headings of their own."""
    lines = ["| key | what it may be | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if field.description:
            value = field.get_default(call_default_factory=True) if not field.is_required() else None
            default = "required" if field.is_required() else f"`{as_written(value)}`"
            default = "none" if value in (None, {}) and not field.is_required() else default
            lines.append(f"| `{field.alias or name}` | {expected_of(field)} | {default} | {field.description} |")
    return lines


def sections(page: str) -> dict[str, list[str]]:
    """The table lines under each heading of a page."""
    parts = re.split(r"^#+ (.*)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    return {
        title.strip("`"): [line for line in text.splitlines() if line.startswith("|")]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.mark.parametrize("title", DESCRIBED)
def test_every_key_of_the_configuration_is_documented(title: str) -> None:
    assert sections("configuration.md")[title] == rows(DESCRIBED[title])


def test_every_table_of_a_domain_has_a_heading() -> None:
    for name, field in DomainConfig.model_fields.items():
        assert field.description or f"[{name}]" in DESCRIBED


def test_every_verb_is_documented() -> None:
    titles = sections("cli.md")
    assert all(any(title.split()[0] == verb for title in titles) for verb in VERBS)


def test_every_key_of_show_is_documented() -> None:
    domain = Domain()
    for gateway in (1, 2):
        domain.host_at(gateway, b"\x02\0\0\0\0\x0a")
    recorded = Domain(settings=domain_settings(finding=Finding.DIRECTORY, central=None))
    recorded.host_at(1, b"\x02\0\0\0\0\x0a")
    names = {address: "x" for address in domain.nodes}
    for noun in tables.COLUMNS:
        shown = [row for n in (1, 2) for row in views.of_gateway(domain.gw[n], noun, None, names, domain.now)]
        assert shown
        shown += views.of_central(domain.central, noun, None, names, domain.now)
        if noun == "bindings":
            (row,) = views.of_directory(recorded.directory.entries.values(), None, recorded.now)
            shown.append(row)
        documented = [line.split("|")[1].strip(" `") for line in sections("cli.md")[f"show {noun}"][2:]]
        assert {key for row in shown for key in row} == set(documented)
        assert set(tables.COLUMNS[noun]) <= set(documented)
        assert list(tables.aligned(shown, tables.COLUMNS[noun], colour=False))


def test_what_the_readme_says_shows_a_feature_is_there() -> None:
    root = DOCS.parent
    table = (root / "README.md").read_text().partition("| feature | shown by |\n")[2].partition("\n\n")[0]
    shown_by = [re.findall(r"`([^`]*)`", line.split("|")[2]) for line in table.splitlines()[1:]]
    assert len(shown_by) > 10 and all(shown_by)
    command = None
    for name in (name for names in shown_by for name in names):
        first, *more = name.split()
        if first == "make":
            target, files = more[0], more[1].removeprefix("ARGS=").split()
            assert re.search(rf"^{target}:", (root / "Makefile").read_text(), re.MULTILINE), name
            assert all((root / file).is_file() for file in files), name
        elif first == "anchord":
            command = main.get_command(click.Context(main), more[0])
            assert command is not None, name
        elif first.startswith("--"):  # of the command before it
            assert command is not None and any(first in option.opts for option in command.params), name
        else:
            assert (root / first).exists(), name
