"""A recording is fed into an object like the one that was recorded; whatever comes out differently is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Network
from itertools import chain
from pathlib import Path
from typing import Any

from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.lma import Lma
from anchord.protocol.outputs import Output
from anchord.protocol.settings import CentralSettings, GatewaySettings, LmaSettings
from anchord.protocol.timers import Instant
from anchord.recording.recorder import FORMAT, START, Recordable
from anchord.recording.values import RecordError, dump, load, load_input

_ROLES: dict[str, tuple[Any, Any]] = {
    "Gateway": (Gateway, GatewaySettings),
    "Central": (Central, CentralSettings),
    "Lma": (Lma, LmaSettings),
}
_HEADER = "anchord-recording"


@dataclass(frozen=True)
class Place:
    """An input of a recording."""

    line: int  # where it stands in the file, from 1
    number: int  # of the input, from 1
    at: Instant
    done: dict[str, Any]  # as it stands there


@dataclass(frozen=True)
class Difference:
    """The first output that differs. Outputs are as in the recording; None: there was none."""

    place: Place
    output: int  # its number among those of the input, from 1
    recorded: Any
    now: Any

    def fields(self) -> list[str]:
        """Where in the output the difference is: names joined by dots."""
        return list(_differing(_bare(self.recorded), _bare(self.now), ""))


@dataclass
class Replayed:
    """What a replay came to."""

    inputs: int = 0
    outputs: int = 0
    different: int = 0  # inputs with other outputs
    first: Difference | None = None
    cut: bool = False  # a line was cut off, or outputs are missing, where the process ended
    software: str = ""  # what recorded, as its last start says


class BroughtDownError(Exception):
    """The object raised an exception, which is this one's cause. None of them ever should."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"line {place.line}, input {place.number} brings the object down")
        self.place = place


@dataclass
class _Step:
    """An input whose outputs are being read."""

    place: Place
    now: list[Any]
    then: list[Any] = field(default_factory=list)
    answered: bool = False


def replay(path: Path) -> Replayed:
    """Feed a recording in, line by line. Raises RecordError or OSError for a file that is none, BroughtDownError."""
    player = _Player()
    for number, line in _lines(path, player.result):
        try:
            player.take(number, line)
        except KeyError as error:
            raise RecordError(f"{path}: line {number}: has no {error}") from error
        except (TypeError, ValueError, AttributeError, RecordError) as error:
            raise RecordError(f"{path}: line {number}: {error}") from error
    player.end()
    return player.result


class _Player:
    """Takes a recording's lines in order."""

    def __init__(self) -> None:
        self.result = Replayed()
        self._node: Recordable
        self._step: _Step | None = None

    def take(self, number: int, line: dict[str, Any]) -> None:
        """The next line. Raises RecordError, BroughtDownError, or what values of a wrong shape raise."""
        if _HEADER in line:
            self.end()
            self._node = _node(line)
            self.result.software = line.get("software", "")
        elif "out" in line:
            if self._step is None:
                raise RecordError("outputs without an input")
            self._step.then += line["out"]  # all on one line, or on several
            self._step.answered = True
        else:
            if self._step is not None and not self._step.answered:
                raise RecordError("an input where outputs should be")
            self.end()
            self.result.inputs += 1
            place = Place(number, self.result.inputs, Instant(*line["at"]), line)
            self._step = _Step(place, _do(self._node, place))

    def end(self) -> None:
        """Everything of the last input has been read."""
        step, self._step = self._step, None
        if step is None:
            return
        if not step.answered:
            self.result.cut = True
            return
        self.result.outputs += len(step.now)
        difference = _compare(step)
        if difference is not None:
            self.result.different += 1
            self.result.first = self.result.first or difference


def _lines(path: Path, result: Replayed) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line; one that was cut off may stand last, or before the header of the process that followed."""
    broken: int | None = None
    with path.open("rb") as file:
        start = file.read(len(START))  # a file of another kind may be one huge line
        if start != START:
            said = "empty" if not start else "no recording of anchord"
            raise RecordError(f"{path}: {said}, expected a file that a daemon wrote with --record")
        for number, text in enumerate(chain((start + file.readline(),), file), 1):
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if broken is not None and not (isinstance(line, dict) and _HEADER in line):
                raise RecordError(f"{path}: line {broken}: no JSON, expected a line of a recording")
            broken = None
            if isinstance(line, dict):
                yield number, line
            elif number == 1:
                raise RecordError(f"{path}: line 1: no JSON, expected the first line of a recording")
            else:
                broken, result.cut = number, True


def _node(header: dict[str, Any]) -> Recordable:
    if header[_HEADER] != FORMAT:
        raise RecordError(f"format {header[_HEADER]}, expected {FORMAT}: replay it with the version that recorded it")
    if header["role"] not in _ROLES:
        raise RecordError(f"role {header['role']!r}, expected one of {', '.join(_ROLES)}")
    kind, settings = _ROLES[header["role"]]
    try:
        node: Recordable = kind(load(header["settings"], settings))
    except RecordError as error:
        software = f", anchord {header['software']}" if "software" in header else ""
        raise RecordError(f"{error}: replay it with the version that recorded it{software}") from error
    return node


def _do(node: Recordable, place: Place) -> list[Any]:
    act = _action(node, place)
    try:
        outputs = act()
    except Exception as error:
        raise BroughtDownError(place) from error
    # As it would be read from a file: no difference but what differs there.
    written: list[Any] = json.loads(json.dumps(dump(outputs)))
    return written


def _action(node: Recordable, place: Place) -> Callable[[], list[Output]]:
    now, line = place.at, place.done
    match line["do"]:
        case "handle":
            return partial(node.handle, load_input(line["input"]), now)
        case "timers":
            return partial(node.handle_timers, now)
        case "restore":
            return partial(node.restore, line["journal"], now)
        case "revoke":
            named, revoke = IPv6Network(line["named"]) if line["prefix"] else line["named"], node.revoke
            return lambda: revoke(named, now)[1]
        case other:
            raise RecordError(f"{other!r} is nothing that can be done to a {type(node).__name__}")


def _compare(step: _Step) -> Difference | None:
    then, now = _bare(step.then), _bare(step.now)
    if then == now:
        return None
    at = next((i for i, (old, new) in enumerate(zip(then, now, strict=False)) if old != new), min(len(then), len(now)))
    old, new = (some[at] if at < len(some) else None for some in (step.then, step.now))
    return Difference(step.place, at + 1, old, new)


def _bare(value: Any) -> Any:
    """Without the words beside a message, which are for people and differ between versions."""
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items() if key != "text" or "hex" not in value}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _differing(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _differing(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differing(one, other, f"{where}.{at}")
    elif old != new:
        yield where
