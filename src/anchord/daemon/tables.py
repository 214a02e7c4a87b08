"""What ``anchord show`` and ``anchord monitor`` print for people: aligned columns, no borders."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

Row = Mapping[str, Any]

# What people are shown of each noun, in this order; JSON has more (docs/cli.md).
COLUMNS: dict[str, tuple[str, ...]] = {
    "bindings": ("mn_id", "state", "serving", "prefix", "anchors", "lifetime_left_s", "registered"),
    "prefixes": ("prefix", "mn_id", "role", "peer", "state", "until"),
    "tunnels": ("peer", "name", "imported", "exported", "transit"),
    "peers": (
        "peer", "name", "reachable", "messages_in", "messages_out", "repeated", "last_heard_s", "refused", "dropped",
    ),
}  # fmt: skip


def aligned(rows: Sequence[Row], columns: Sequence[str], colour: bool) -> Iterator[str]:
    """A heading and a line for each row."""
    cells = [[key.upper() for key in columns]]
    cells += [[FORMS.get(key, cell)(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for number, line in enumerate(cells):
        text = "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip()
        yield click.style(text, bold=True) if colour and number == 0 else text


def listed(row: Row, colour: bool) -> Iterator[str]:
    """A line for each key of one object."""
    width = max((len(key) for key in row), default=0)
    for key, value in row.items():
        yield (click.style(key, bold=True) if colour else key) + (width + 2 - len(key)) * " " + cell(value)


def cell(value: Any) -> str:
    """One value as people read it; what a mobile node chose cannot move the cursor."""
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        return ",".join(cell(v) for v in value)
    if isinstance(value, dict):
        return ",".join(f"{key}={cell(v)}" for key, v in value.items())
    text = str(value)
    return text if text.isprintable() else json.dumps(text)


def event(happened: Row, colour: bool) -> str:
    """An event on one line: its time of day, its name, its fields."""
    rest = dict(happened)
    when, name = rest.pop("time", None), cell(rest.pop("event", "event"))
    clock = datetime.fromtimestamp(when).strftime("%H:%M:%S.%f")[:-3] + " " if isinstance(when, int | float) else ""
    fields = "".join(f" {key}={cell(value)}" for key, value in rest.items())
    return clock + (click.style(name, bold=True) if colour else name) + fields


def _moment(value: Any) -> str:
    """A time in seconds since 1970 as how far away it is: nobody reads ten digits."""
    if not isinstance(value, int | float):
        return cell(value)
    ahead = value - time.time()
    return f"in {ahead:.0f} s" if ahead >= 0 else f"{-ahead:.0f} s ago"


def _anchors(value: Any) -> str:
    """Each prefix of each anchor as ``PREFIX@GATEWAY``."""
    return cell([f"{prefix}@{anchor['gateway']}" for anchor in value or () for prefix in anchor["prefixes"]])


FORMS: dict[str, Callable[[Any], str]] = {"until": _moment, "last_heard_s": _moment, "anchors": _anchors}
