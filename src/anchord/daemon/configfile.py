"""Reading a TOML file into a pydantic model, with every error of the file reported in one pass.

An operator who has mistyped four keys wants to hear of all four. So everything here collects: a key that nobody knows
(with the nearest one that exists), a missing key, a value out of range and a conflict between two keys are all
reported together, each as ``file: path: what is wrong, expected what``.

``Table`` is the base of every model; ``whole``, ``text``, ``flag`` declare its fields, and ``GlobalAddress``, ``Pool``,
``Network``, ``LinkLocal``, ``Mac`` and ``InterfaceName`` are the types in which people write network things.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from anchord.spelling import nearest

Place = tuple[int | str, ...]
Conflict = tuple[Place, str]  # where, and what is wrong with it

_OURS = "anchord"  # the type of an error whose text is already in our words
_SHOWN = 60  # characters of a wrong value that are repeated in its error


class ConfigError(Exception):
    """A configuration that cannot be used. ``errors`` holds one line for each thing wrong, in the order of the file."""

    exit_code = 2

    def __init__(self, errors: Iterable[str]) -> None:
        """Take the complete list; ``str()`` of the error is the list, one a line."""
        self.errors = list(errors)
        super().__init__("\n".join(self.errors))


class Table(BaseModel):
    """A table of a configuration file: unchangeable once read, and every key must be a known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """What is wrong between the keys of this table, each as (path inside the table, text).

        ``raw`` is the table as it stands in the file: single values may be missing or of any type, because these
        rules are tried even when a value is wrong on its own (``number`` and ``tolerant`` help to read it).
        """
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate, then add the conflicts and put all errors of this table into words."""
        problems: list[InitErrorDetails] = []
        value = None
        try:
            value = handler(raw)
        except ValidationError as error:
            problems = [_translated(cls, details) for details in error.errors()]
        if isinstance(raw, Mapping):
            problems += [_problem(where, what) for where, what in cls.conflicts(raw)]
        if problems or value is None:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return value

    @classmethod
    def number(cls, raw: Mapping[str, Any], key: str) -> int:
        """The whole number that ``key`` will have: as in the file, else its default."""
        value = raw.get(key)
        return value if type(value) is int else cast(int, cls.model_fields[key].default)


Model = TypeVar("Model", bound=Table)


def parse_toml(path: Path | str, model: type[Model]) -> Model:
    """Read ``path`` as a ``model``. Raises ConfigError with every error of the file."""
    return validate(path, read_toml(path), model)


def read_toml(path: Path | str) -> dict[str, Any]:
    """The content of a TOML file. Raises ConfigError: not readable, not UTF-8, not TOML (with line and column)."""
    try:
        return tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}, expected a TOML file"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: byte {error.start}: not UTF-8, expected a TOML file"]) from error
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at ")
        place = where.rstrip(")") or "somewhere"
        raise ConfigError([f"{path}: {place}: {what}, expected TOML"]) from error
    except ValueError as error:  # a path with a NUL in it
        raise ConfigError([f"{str(path)!r}: cannot be read: {error}, expected a TOML file"]) from error


def validate(path: Path | str, raw: Mapping[str, Any], model: type[Model]) -> Model:
    """Make a ``model`` of what was read from ``path``. Raises ConfigError with every error."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {dotted(e['loc'])}: {e['msg']}" for e in error.errors()) from None


def dotted(where: Place) -> str:
    """A place in a file as people write it: ``gateways.gw1.pools[0]``."""
    text = ""
    for part in where:
        if part == "[key]":  # pydantic's way to say: the key itself, not what is under it
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(file)"


def whole(default: int, low: int, high: int, unit: str, meaning: str) -> Any:
    """A field that is a whole number of ``unit`` from ``low`` to ``high``."""
    expected = f"{unit}, {low} to {high}"
    return Field(default, ge=low, le=high, strict=True, description=meaning, json_schema_extra={"expected": expected})


def flag(default: bool, meaning: str) -> Any:
    """A field that is true or false."""
    return Field(default, strict=True, description=meaning, json_schema_extra={"expected": "true or false"})


def text(default: Any, expected: str, meaning: str) -> Any:
    """Any other field: ``expected`` says what it may be (``...`` as default: it must be given)."""
    return Field(default, description=meaning, json_schema_extra={"expected": expected})


def expected_of(field: FieldInfo) -> str:
    """What a field may be, in words."""
    extra = field.json_schema_extra
    return str(extra["expected"]) if isinstance(extra, dict) and "expected" in extra else "a table"


def _translated(model: type[Table], details: ErrorDetails) -> InitErrorDetails:
    """An error of pydantic in our words; those of tables further in are in our words already."""
    where, kind = details["loc"], details["type"]
    key = str(where[0]) if where else ""
    field = next((f for name, f in model.model_fields.items() if key == (f.alias or name)), None)
    if kind == _OURS:
        what = details["msg"]
    elif kind == "extra_forbidden":
        what = unknown_key(key, known_keys(model))
    elif kind == "missing" and field is not None:
        what = f"missing, expected {expected_of(field)}"
    elif kind == "value_error":
        what = details["msg"].removeprefix("Value error, ")
    else:
        expected = expected_of(field) if field is not None else "a table"
        what = f"is {shown(details['input'])}, expected {expected}"
    return _problem(where, what)


def _problem(where: Place, what: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError(_OURS, "{what}", {"what": what}), loc=where, input=None)


def known_keys(model: type[Table]) -> list[str]:
    """The keys of a table, as they are written in the file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def unknown_key(key: str, known: list[str]) -> str:
    """What to say of a key that nobody knows: the nearest known one, or all of them."""
    near = nearest(key, known)
    return f"unknown key, expected {near!r}" if near else f"unknown key, expected one of {', '.join(known)}"


def shown(value: object) -> str:
    """A wrong value as it is repeated in an error: short, and on one line."""
    line = repr(value)
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def tolerant(read: Any, value: object) -> Any:
    """``read(value)``, or None if that is an error: for rules between values that may be wrong on their own."""
    try:
        return read(value)
    except ValueError:
        return None


def global_address(value: object) -> IPv6Address:
    """A unicast address of global scope: what a peer is reached at (RFC 4291 section 2.5.4, RFC 4193 included)."""
    expected = "expected a global IPv6 unicast address"
    address = _address(value, expected)
    if not _global_unicast(address):
        raise ValueError(f"{address} is no global unicast address, {expected}")
    return address


def link_local(value: object) -> IPv6Address:
    """A link-local address, or ``::`` for none."""
    expected = "expected a link-local IPv6 address, or '::' for none"
    address = _address(value, expected)
    if not address.is_link_local and int(address):
        raise ValueError(f"{address} is not link-local, {expected}")
    return address


def network(value: object) -> IPv6Network:
    """An IPv6 prefix of global scope without bits behind its length."""
    expected = "expected an IPv6 prefix such as '2001:db8:a1::/48'"
    if isinstance(value, IPv6Network):
        return value
    if not isinstance(value, str) or "/" not in value:
        raise ValueError(f"is {shown(value)}, {expected}")
    try:
        loose = IPv6Network(value, strict=False)
    except ValueError:
        raise ValueError(f"is {shown(value)}, {expected}") from None
    if IPv6Address(value.partition("/")[0]) != loose.network_address:
        raise ValueError(f"{value} has bits beyond /{loose.prefixlen}, expected {loose}")
    if not _global_unicast(loose.network_address):
        raise ValueError(f"{value} is no global unicast prefix, {expected}")
    return loose


def pool(value: object) -> IPv6Network:
    """A prefix out of which /64s are given to mobile nodes (RFC 4862 needs 64 bits), and so shorter than that.

    A /64 would be one host's: the kernel layer could not tell the pool's own routes from those of its host.
    """
    prefix = network(value)
    if prefix.prefixlen >= 64:
        raise ValueError(f"{prefix} has no room, expected a prefix shorter than /64: each mobile node gets a /64 of it")
    return prefix


def mac_address(value: object) -> bytes:
    """A 48-bit link-layer address, six bytes."""
    if isinstance(value, bytes) and len(value) == 6:
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", value):
        raise ValueError(f"is {shown(value)}, expected a MAC address such as '02:00:00:00:00:01'")
    return bytes.fromhex(re.sub("[:-]", "", value))


def interface_name(value: object) -> str:
    """A name the kernel takes for a network interface (at most 15 bytes), and none of ours (an-..., dl...)."""
    expected = "expected an interface name of 1 to 15 characters"
    if not isinstance(value, str) or not re.fullmatch(r"[!-.0-9;-~]{1,15}", value) or value in (".", ".."):
        raise ValueError(f"is {shown(value)}, {expected}")
    if value == "lo":
        raise ValueError("is 'lo', which leads nowhere, expected an interface with other nodes behind it")
    if re.match(r"an-|dl[0-9a-f]{10}$", value):
        raise ValueError(f"{value!r} is a name anchord gives to interfaces of its own, {expected}")
    return value


def _address(value: object, expected: str) -> IPv6Address:
    if isinstance(value, IPv6Address):
        return value
    address = tolerant(IPv6Address, value) if isinstance(value, str) else None
    if address is None or address.scope_id:
        raise ValueError(f"is {shown(value)}, {expected}")
    return cast(IPv6Address, address)


_NOT_GLOBAL = [ipaddress.IPv6Network(n) for n in ("::/8", "fe80::/10", "fec0::/10", "ff00::/8")]


def _global_unicast(address: IPv6Address) -> bool:
    return not any(address in n for n in _NOT_GLOBAL)


GlobalAddress = Annotated[IPv6Address, BeforeValidator(global_address)]
LinkLocal = Annotated[IPv6Address, BeforeValidator(link_local)]
Network = Annotated[IPv6Network, BeforeValidator(network)]
Pool = Annotated[IPv6Network, BeforeValidator(pool)]
Mac = Annotated[bytes, BeforeValidator(mac_address)]
InterfaceName = Annotated[str, BeforeValidator(interface_name)]
