"""Inputs, outputs and settings as JSON: every dataclass with its name, addresses and bytes in their usual spelling.

Messages are their bytes, made and read by the wire layer itself; the text beside them is for people and is not read.
What is read is read strictly, against the annotations of the class that is expected.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Mapping
from enum import Enum
from functools import cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.inputs import Input
from anchord.wire.errors import WireError
from anchord.wire.header import decode, encode
from anchord.wire.messages import Message

_MESSAGES = typing.get_args(Message)
_AS_IT_IS = (types.NoneType, bool, int, float, str)


class RecordError(Exception):
    """A recording says something that this version cannot read."""


def dump(value: Any) -> Any:
    """``value`` as JSON. Raises ValueError for a message that has no bytes, TypeError for what is no such value."""
    if isinstance(value, Enum):  # first: some are numbers too
        return value.name
    if isinstance(value, _AS_IT_IS):
        return value
    if isinstance(value, _MESSAGES):
        return {"type": type(value).__name__, "hex": encode(value).hex(), "text": _text(value)}
    if dataclasses.is_dataclass(value):
        fields = {field.name: dump(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    return _dump_other(value)


def _dump_other(value: Any) -> Any:
    match value:
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
    fields = (field for field in dataclasses.fields(message) if field.name != "options")
    head = " ".join(f"{field.name}={getattr(message, field.name)}" for field in fields)
    return "; ".join((head, *map(str, getattr(message, "options", ()))))


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
    if fields.keys() != hints.keys():
        raise ValueError(f"{kind.__name__}: fields {', '.join(sorted(fields.keys() ^ hints.keys()))} not in both")
    return kind(**{name: _load(each, hints[name]) for name, each in fields.items()})


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    cls = typing.cast("type[Any]", kind)
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
