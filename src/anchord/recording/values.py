"""Inputs, outputs and settings as JSON: every dataclass with its name, addresses and bytes in their usual spelling.

Messages are their bytes, made and read by the wire layer itself; the text beside them is for people and is not read.
What is read is read strictly, against the annotations of the class that is expected.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from enum import Enum, Flag
from functools import cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.inputs import Input
from anchord.wire.errors import WireError
from anchord.wire.header import decode, encode
from anchord.wire.messages import Message

_MESSAGES = frozenset(typing.get_args(Message))
_AS_IT_IS = frozenset((types.NoneType, bool, int, float, str))


class RecordError(Exception):
    """A recording says something that this version cannot read."""


def dump(value: Any) -> Any:
    """``value`` as JSON. Raises ValueError for a message that has no bytes, TypeError for what is no such value."""
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    as_json = _AS_JSON.get(kind)
    if as_json is not None:
        return as_json(value)
    if kind in _MESSAGES:
        return {"type": kind.__name__, "hex": encode(value).hex(), "text": _text(value)}
    if issubclass(kind, Enum):
        return value.name
    if isinstance(value, Mapping):
        return _dump_mapping(value)
    return {"type": kind.__name__, **{name: dump(getattr(value, name)) for name in _names(kind)}}


def _dump_each(values: Iterable[Any]) -> list[Any]:
    return [dump(each) for each in values]


def _dump_mapping(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(dump(key)): dump(each) for key, each in values.items()}


# By the class itself: a recorder looks at fifty values for each input, and somebody may be waiting for the answer.
_AS_JSON: dict[type, Callable[[Any], Any]] = {
    bytes: bytes.hex,
    IPv6Address: str,
    IPv6Network: str,
    tuple: _dump_each,
    list: _dump_each,
    frozenset: lambda values: sorted(map(dump, values)),
    dict: _dump_mapping,
}


_FIELDS: dict[type[Any], tuple[str, ...]] = {}


def _names(kind: type[Any]) -> tuple[str, ...]:
    """The fields of a dataclass. Raises TypeError for another class."""
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(field.name for field in dataclasses.fields(kind))
    return names


def _text(message: Any) -> str:
    """The message in words: a field after the other, then each option."""
    options = (f"{type(each).__name__} {_fields(each)}" for each in getattr(message, "options", ()))
    return "; ".join((_fields(message), *options))


def _fields(value: Any) -> str:
    return " ".join(f"{name}={_word(getattr(value, name))}" for name in _names(type(value)) if name != "options")


def _word(value: Any) -> str:
    match value:
        case Flag():
            return value.name or "0"
        case bytes():
            return value.hex()
        case Enum():  # as whoever receives it sees it: a number
            return str(value.value)
    return str(value)


def load_input(value: Any) -> Input:
    """The input that ``dump`` made this of. Raises RecordError."""
    loaded: Input = load(value, Input)
    return loaded


def load(value: Any, expected: Any) -> Any:
    """What ``dump`` made ``value`` of, as ``expected`` (a class or annotation). Raises RecordError."""
    try:
        return _load(value, expected)
    except (ValueError, TypeError, KeyError, AttributeError, WireError) as error:
        raise RecordError(f"not readable: {error}") from error


def _load(value: Any, expected: Any) -> Any:
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin in (types.UnionType, typing.Union):
        return _load_one_of(value, inner)
    if origin in (tuple, frozenset):
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is no list")
        return origin(_load(each, inner[0]) for each in value)
    if origin is not None:  # Mapping or dict
        return {_load(key, inner[0]): _load(each, inner[1]) for key, each in value.items()}
    if dataclasses.is_dataclass(expected):
        return _load_fields(value, typing.cast("type[Any]", expected))
    return value if expected is Any else _load_leaf(value, expected)


def _load_leaf(value: Any, expected: Any) -> Any:
    if expected is bytes:
        return bytes.fromhex(value)
    if issubclass(expected, Enum):
        return expected[value]
    if expected in (IPv6Address, IPv6Network) and isinstance(value, str):
        return expected(value)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise TypeError(f"{value!r} is no {expected.__name__}")
    return value


def _load_one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    if value is None and types.NoneType in choices:
        return None
    rest = [choice for choice in choices if choice is not types.NoneType]
    if len(rest) == 1:
        return _load(value, rest[0])
    named = {choice.__name__: choice for choice in rest}
    if value["type"] not in named:
        raise ValueError(f"no {value['type']!r} among {', '.join(named)}")
    return _load(value, named[value["type"]])


def _load_fields(value: Any, kind: type[Any]) -> Any:
    fields = dict(value)
    if fields.pop("type") != kind.__name__:
        raise ValueError(f"{value['type']!r} where {kind.__name__} should be")
    if kind in _MESSAGES:
        message = decode(bytes.fromhex(fields["hex"]))
        if type(message) is not kind:
            raise ValueError(f"the bytes of a {type(message).__name__} where {kind.__name__} should be")
        return message
    hints = _hints(typing.cast("Hashable", kind))
    if unknown := fields.keys() - hints.keys():
        raise ValueError(f"{kind.__name__} has no {_listed(unknown)} in this version")
    if missing := hints.keys() - fields.keys():
        raise ValueError(f"{kind.__name__} has {_listed(missing)} in this version, which is not in the recording")
    return kind(**{name: _load(each, hints[name]) for name, each in fields.items()})


def _listed(names: Set[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    cls = typing.cast("type[Any]", kind)
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
