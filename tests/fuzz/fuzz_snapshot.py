"""What a protocol object knows, as bytes that can be compared, and as sizes that can be limited.

Counters are no state here: that something is counted is all that an invalid message may do. Settings never change.
"""

from __future__ import annotations

import copyreg
import importlib
import io
import pickle
import pkgutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any

import anchord.protocol
import anchord.wire
from anchord import declared
from anchord.protocol.counters import Counters
from anchord.protocol.settings import CentralSettings, DomainSettings, GatewaySettings, LmaSettings

SETTINGS = (CentralSettings, DomainSettings, GatewaySettings, LmaSettings)
LEARNT = ("clock_skew_ms", "reachable", "restart_counter")  # of a peer; the rest of PeerCounters are counts
CALLABLE = (FunctionType, MethodType, partial)
UNWRITABLE = ("_timer_actions",)  # functions by name


class Part:
    """Something of a snapshot, taken apart: a class by name, and what it held."""

    def __init__(self, name: str, names: tuple[str, ...] = (), values: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.of: dict[str, Any] = dict(zip(names, values, strict=True))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.of = state

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.of.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def held_by(value: Any) -> dict[str, Any]:
    """Name and value of what ``value`` holds: not what it can call, nor what a message remembers of being read."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {
        name: held
        for name, held in getattr(value, "__dict__", {}).items()
        if not isinstance(held, CALLABLE) and name not in UNWRITABLE
    }


def _reduce_object(value: Any) -> tuple[Any, ...]:
    return Part, (type(value).__name__,), held_by(value)


def _reduce_value(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """For a dataclass: its fields, without looking for them each time."""
    names = tuple(field.name for field in fields(kind))
    if not names:
        return lambda value: (Part, (kind.__name__,))
    if len(names) == 1:
        get_one = attrgetter(names[0])
        return lambda value: (Part, (kind.__name__, names, (get_one(value),)))
    get = attrgetter(*names)
    return lambda value: (Part, (kind.__name__, names, get(value)))


def _reduce_counters(value: Counters) -> tuple[Any, ...]:
    learnt = {peer: [getattr(counters, name) for name in LEARNT] for peer, counters in value.peers.items()}
    return Part, ("Counters",), {str(peer): list(values) for peer, values in learnt.items()}


def _table() -> dict[type, Callable[[Any], tuple[Any, ...]]]:
    table: dict[type, Callable[[Any], tuple[Any, ...]]] = dict(copyreg.dispatch_table)
    modules = [declared]
    for package in (anchord.protocol, anchord.wire):
        modules += [
            importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)
        ]
    for kind in (held for module in modules for held in vars(module).values()):
        if isinstance(kind, type) and kind.__module__.startswith("anchord.") and kind not in table:
            if is_dataclass(kind):
                table[kind] = _reduce_value(kind)
            elif (
                hasattr(kind, "__init__") and not issubclass(kind, tuple | int | str | Exception) and not _is_enum(kind)
            ):
                table[kind] = _reduce_object
    table[Counters] = _reduce_counters
    table[IPv6Address] = lambda value: (IPv6Address, (int(value),))
    table[IPv6Network] = lambda value: (IPv6Network, ((int(value.network_address), value.prefixlen),))
    for kind in SETTINGS:
        table[kind] = lambda value: (Part, (type(value).__name__,))
    return table


def _is_enum(kind: type) -> bool:
    return hasattr(kind, "__members__")


_TABLE = _table()


def snapshot(root: Any) -> bytes:
    """Everything that ``root`` knows. Equal bytes: the same; different bytes: ask ``differences``."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 5)
    pickler.dispatch_table = _TABLE
    pickler.dump(root)
    return out.getvalue()


def differences(before: bytes, after: bytes) -> list[str]:
    """Where two snapshots differ, as paths; none if the same values are only shared differently."""
    return list(_differences(pickle.loads(before), pickle.loads(after), "", set()))


def _differences(a: Any, b: Any, path: str, seen: set[int]) -> Iterator[str]:
    if isinstance(a, Part | dict | list | deque):
        if id(a) in seen:
            return
        seen.add(id(a))
    if type(a) is not type(b):
        yield f"{path}: {a!r} -> {b!r}"
    elif isinstance(a, Part):
        yield from _differences(a.of, b.of, f"{path}/{a.name}", seen)
    elif isinstance(a, dict):
        for key in a.keys() - b.keys():
            yield f"{path}.{key} gone"
        for key in b.keys() - a.keys():
            yield f"{path}.{key} new"
        for key in a.keys() & b.keys():
            yield from _differences(a[key], b[key], f"{path}.{key}", seen)
    elif isinstance(a, list | tuple | deque):
        if len(a) != len(b):
            yield f"{path}: {len(a)} -> {len(b)} elements"
        for number, (one, other) in enumerate(zip(a, b, strict=False)):
            yield from _differences(one, other, f"{path}[{number}]", seen)
    elif a != b and repr(a) != repr(b):
        yield f"{path}: {a!r} -> {b!r}"


def places(root: Any) -> Iterator[tuple[str, Any]]:
    """Every value that can be reached from ``root``, each once, as ``Class.attribute`` (``[]``: inside of it)."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [(type(root).__name__, root)]
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen or isinstance(value, (*SETTINGS, *CALLABLE, type, str, bytes, int, float)):
            continue
        seen.add(id(value))
        yield path, value
        if isinstance(value, dict):
            waiting += [(f"{path}[]", held) for held in value.values()]
        elif isinstance(value, list | tuple | deque | set | frozenset):
            waiting += [(f"{path}[]", held) for held in value]
        elif type(value).__module__.startswith("anchord."):
            name = type(value).__name__
            waiting += [(f"{name}.{attribute}", held) for attribute, held in held_by(value).items()]


def sizes(root: Any) -> dict[str, int]:
    """The size of the largest container of each kind in ``root``, by ``Class.attribute``."""
    found: dict[str, int] = {}
    for path, value in places(root):
        if isinstance(value, dict | list | tuple | deque | set):
            found[path] = max(found.get(path, 0), len(value))
    return found
