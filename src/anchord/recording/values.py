"""Inputs, outputs and settings as JSON: every dataclass with its name, addresses and bytes in their usual spelling.

Messages are their bytes, made and read by the wire layer itself; the text beside them is for people and is not read.
What is read is read strictly, against the annotations of the class that is expected.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Mapping, Set
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
    if kind in _MESSAGES:
        return {"type": kind.__name__, "hex": encode(value).hex(), "text": _text(value)}
    if dataclasses.is_dataclass(kind):
        return {
            "type": kind.__name__,
            **{name: dump(getattr(value, name)) for name in _names(typing.cast("Hashable", kind))},
        }
    return _dump_other(value)


@cache
def _names(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(typing.cast("type[Any]", kind)))


def _dump_other(value: Any) -> Any:
    match value:
        case Enum():
            return value.name
        case bytes():
            return value.hex()
        case IPv6Address() | IPv6Network():
            return str(value)
        case tuple() | list():
            return [dump(each) for each in value]
        case frozenset():
            return sorted(map(dump, value))
        case Mapping():
            return {_key(key): dump(each) for key, each in value.items()}
    raise TypeError(f"{type(value).__name__} cannot be recorded")


def _key(key: Any) -> str:
    return str(dump(key))


def _text(message: Any) -> str:
    """The message in words: a field after the other, then each option."""
    options = (f"{type(each).__name__} {_fields(each)}" for each in getattr(message, "options", ()))
    return "; ".join((_fields(message), *options))


def _fields(value: Any) -> str:
    return " ".join(
        f"{name}={_word(getattr(value, name))}"
        for name in _names(typing.cast("Hashable", type(value)))
        if name != "options"
    )


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
