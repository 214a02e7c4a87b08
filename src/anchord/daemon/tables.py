"""What ``anchord show`` and ``anchord monitor`` print for people: aligned columns, no borders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

Row = Mapping[str, Any]

# The keys of each noun in the order in which they are shown; docs/cli.md says what they mean.
COLUMNS: dict[str, tuple[str, ...]] = {
    "bindings": ("mn_id", "mac", "state", "serving", "prefix", "anchors", "lifetime_left_s", "registered"),
    "prefixes": ("prefix", "mn_id", "role", "peer", "state", "until"),
    "tunnels": ("peer", "imported", "exported"),
    "peers": ("peer", "name", "messages_in", "messages_out", "last_heard_s", "dropped"),
}


def aligned(rows: Sequence[Row], columns: Sequence[str] | None, colour: bool) -> Iterator[str]:
    """A heading and a line for each row. ``columns`` come first; keys that only the rows know come after them."""
    keys = list(columns or ())
    keys += [key for key in dict.fromkeys(key for row in rows for key in row) if key not in keys]
    cells = [[key.upper() for key in keys]] + [[cell(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    for number, line in enumerate(cells):
        text = "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip()
        yield click.style(text, bold=True) if colour and number == 0 else text


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
