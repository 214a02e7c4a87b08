"""A recording is fed into an object like the one that was recorded; whatever comes out differently is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.lma import Lma
from anchord.protocol.settings import CentralSettings, GatewaySettings, LmaSettings
from anchord.protocol.timers import Instant
from anchord.recording.recorder import FORMAT, Recordable
from anchord.recording.values import RecordError, dump, load, load_input

_ROLES: dict[str, tuple[Any, Any]] = {
    "Gateway": (Gateway, GatewaySettings),
    "Central": (Central, CentralSettings),
    "Lma": (Lma, LmaSettings),
}
Difference = tuple[int, str, str]  # number of the input, what was recorded, what came now


@dataclass
class Replayed:
    """What a replay came to."""

    inputs: int = 0
    outputs: int = 0
    different: int = 0  # inputs with other outputs
    first: Difference | None = None
    cut: bool = False  # a line was cut off, or outputs are missing, where the process ended
    software: str = ""


def replay(path: Path) -> Replayed:
    """Feed a recording in. Raises RecordError or OSError for a file that is none."""
    result = Replayed()
    node: Recordable | None = None
    pending: list[Any] | None = None  # what came out now, until the line that says what came out then
    for number, line in _lines(path, result):
        try:
            if "anchord-recording" in line:
                result.cut |= pending is not None
                node, pending = _node(line), None
                result.software = line["software"]
            elif node is None:
                raise RecordError("no recording of anchord: its first line is another")
            elif "out" in line:
                if pending is None:
                    raise RecordError("outputs without an input")
                _compare(result, line["out"], pending)
                pending = None
            else:
                if pending is not None:
                    raise RecordError("an input where outputs should be")
                result.inputs += 1
                pending = _do(node, line)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"{path}: line {number}: {error!r}") from error
        except RecordError as error:
            raise RecordError(f"{path}: line {number}: {error}") from error
    if node is None:
        raise RecordError(f"{path}: empty, expected a recording")
    result.cut |= pending is not None
    return result


def _lines(path: Path, result: Replayed) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line; one that was cut off may stand last, or before the header of the process that followed."""
    broken: int | None = None
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if broken is not None and not (isinstance(line, dict) and "anchord-recording" in line):
                raise RecordError(f"{path}: line {broken}: no JSON, expected a recording of anchord")
            broken = None
            if isinstance(line, dict):
                yield number, line
            elif number == 1:
                raise RecordError(f"{path}: no recording of anchord: its first line is no JSON object")
            else:
                broken, result.cut = number, True


def _node(header: dict[str, Any]) -> Recordable:
    if header["anchord-recording"] != FORMAT:
        raise RecordError(f"format {header['anchord-recording']}, expected {FORMAT}: replay it with its own version")
    if header["role"] not in _ROLES:
        raise RecordError(f"role {header['role']!r}, expected one of {', '.join(_ROLES)}")
    kind, settings = _ROLES[header["role"]]
    node: Recordable = kind(load(header["settings"], settings))
    return node


def _do(node: Recordable, line: dict[str, Any]) -> list[Any]:
    now = Instant(*line["at"])
    match line["do"]:
        case "handle":
            outputs = node.handle(load_input(line["input"]), now)
        case "timers":
            outputs = node.handle_timers(now)
        case "restore":
            outputs = node.restore(line["journal"], now)
        case "revoke" if not isinstance(node, Gateway):
            _, outputs = node.revoke(IPv6Network(line["named"]) if line["prefix"] else line["named"], now)
        case other:
            raise RecordError(f"{other!r} is nothing that can be done to this node")
    # As it would be read from a file: no difference but what differs there.
    written: list[Any] = json.loads(json.dumps(dump(outputs)))
    return written


def _compare(result: Replayed, then: list[Any], now: list[Any]) -> None:
    result.outputs += len(now)
    if then == now:
        return
    result.different += 1
    if result.first is None:
        at = next(
            (i for i, (old, new) in enumerate(zip(then, now, strict=False)) if old != new), min(len(then), len(now))
        )
        old, new = (json.dumps(some[at], indent=2) if at < len(some) else "no output" for some in (then, now))
        result.first = (result.inputs, old, new)
