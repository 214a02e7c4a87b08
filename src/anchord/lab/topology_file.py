"""Reading a topology from TOML; docs/lab.md documents every key. Every error of the file is reported in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BeforeValidator, Field

from anchord.daemon.configfile import (
    ConfigError,
    Conflict,
    GlobalAddress,
    Network,
    Pool,
    Table,
    flag,
    global_address,
    mac_address,
    network,
    parse_toml,
    pool,
    shown,
    text,
    tolerant,
    whole,
)
from anchord.lab.errors import TopologyError
from anchord.lab.topology import (
    HOST_INTERFACE,
    MAX_DELAY_MS,
    Central,
    Correspondent,
    Directory,
    Finder,
    Gateway,
    Host,
    Lma,
    Place,
    Topology,
    numbered,
    numbered_gateway,
    numbered_lma,
)
from anchord.lab.topology_daemons import daemon_problems
from anchord.lab.topology_problems import problems
from anchord.spelling import nearest

_Made = TypeVar("_Made")


def _settings(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"is {shown(value)}, expected a table")
    return value


def _unicast_mac(value: object) -> str:
    mac = mac_address(value)
    if mac[0] & 1:
        raise ValueError(f"is {shown(value)}, expected a unicast MAC address")
    return mac.hex(":")


def _proc_sys(key: str) -> Path:
    """Where a host's setting is, with ``default`` for an interface that only the host has."""
    full = key if "." in key else f"net.ipv6.conf.default.{key}"
    return Path("/proc/sys", *("default" if part == HOST_INTERFACE else part for part in full.split(".")))


def _sysctls(value: object) -> dict[str, str | int]:
    for key, setting in _settings(value).items():
        if isinstance(setting, bool) or not isinstance(setting, str | int):
            raise ValueError(f"{key} is {shown(setting)}, expected a whole number or a string")
        if "." in key and not key.startswith("net."):
            raise ValueError(f"{key} is not of a namespace, expected net.… or the end of net.ipv6.conf.default.…")
    return dict(_settings(value))


Settings = Annotated[dict[str, Any], BeforeValidator(_settings)]
UnicastMac = Annotated[str, BeforeValidator(_unicast_mac)]
Sysctls = Annotated[dict[str, Any], BeforeValidator(_sysctls)]

_UP_TO_GATEWAYS: tuple[Place, ...] = (("gateways",), ("domain", "gateways"))
_ADDRESS = "a global IPv6 unicast address"


def _delay() -> Any:
    return Field(
        0.0, ge=0, le=MAX_DELAY_MS, strict=True, allow_inf_nan=False, description="One-way delay of its core link",
        json_schema_extra={"expected": f"milliseconds, 0 to {MAX_DELAY_MS:g}"},
    )  # fmt: skip


class GatewayTable(Table):
    """``[gateways.NAME]``: all of it may be left out."""

    address: GlobalAddress | None = text(None, _ADDRESS, "Its address on its core link, a /64 of its own")
    pools: tuple[Pool, ...] | None = text(None, "a list of IPv6 prefixes shorter than /64", "What it anchors")
    access: tuple[str, ...] = text((), "a list of names of 1 to 3 letters or digits", "Several access links")
    local_networks: tuple[Network, ...] = text((), "a list of IPv6 prefixes", "As in domain.toml")
    operator: str | None = text(None, "a name", "Whose it is, where an LMA stands between operators")
    node: Settings = text({}, "a table", "Merged into its node.toml")
    delay_ms: float = _delay()
    program: tuple[str, ...] = text((), "a list of a command and its arguments", "Runs instead of anchord gateway")


class ServerTable(Table):
    """``[central]`` and ``[directory]``: all of it may be left out."""

    address: GlobalAddress | None = text(None, _ADDRESS, "Its address on its core link, a /64 of its own")
    node: Settings = text({}, "a table", "Merged into its node.toml")
    delay_ms: float = _delay()
    program: tuple[str, ...] = text((), "a list of a command and its arguments", "Runs instead of our daemon")


class LmaTable(ServerTable):
    """``[lmas.NAME]``: all of it may be left out."""

    pools: tuple[Pool, ...] | None = text(None, "a list of IPv6 prefixes shorter than /64", "What it anchors")
    operators: tuple[str, ...] = text((), "a list of operators", "Between whom it stands, as their central database")


class CorrespondentTable(Table):
    """``[correspondents.NAME]``."""

    address: GlobalAddress | None = text(None, _ADDRESS, "Its address on its core link, a /64 of its own")
    behind: str | None = text(None, "the name of a gateway", "It is on a local network of that gateway")
    delay_ms: float = _delay()


class HostTable(Table):
    """``[hosts.NAME]``: an unmodified host."""

    at: str = text(..., "the name of a gateway", "Where it begins")
    access: str | None = text(None, "the name of one of the gateway's access links", "Which link, if it has several")
    mac: UnicastMac | None = text(None, "a unicast MAC address", "Its MAC address; random if left out")
    sysctls: Sysctls = text({}, "a table of settings", "Its distribution's own settings")

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """Settings that this machine's kernel does not have."""
        for key in _table(raw, "sysctls"):
            path = _proc_sys(key)
            if not path.is_file():
                there = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
                near = nearest(path.name, there)
                expected = f"expected {near!r}" if near else f"expected one that is in {path.parent}"
                yield ("sysctls", key), f"the kernel has no such setting, {expected}"


class TopologyTable(Table):
    """A whole topology file."""

    name: str = text("lab", "a name", "The domain's name")
    mobility: bool = flag(True, "false: the gateways are plain routers, for comparison")
    core_mtu: int = whole(1500, 1, 65535, "bytes", "MTU of the core links")
    gateways: dict[str, GatewayTable] = text(..., "a table for each gateway", "The gateways")
    finder: Finder = text(
        "central", "'central', 'directory' or 'anchor-known'", "How gateways find the anchors of a host"
    )
    central: ServerTable | None = text(None, "a table", "The central database")
    directory: ServerTable | None = text(None, "a table", "The directory")
    lmas: dict[str, LmaTable] = text({}, "a table for each", "Local Mobility Anchors")
    correspondents: dict[str, CorrespondentTable] = text({}, "a table for each", "Nodes that hosts talk to")
    hosts: dict[str, HostTable] = text({}, "a table for each host", "The mobile nodes")
    domain: Settings = text({}, "a table", "Merged into domain.toml")

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """What is wrong between tables; values that are wrong on their own are left out of this."""
        topology = _made(raw)
        has_gateways = isinstance(raw.get("gateways"), Mapping)  # if not, that is the error: none follows from it
        found = list(problems(topology)) if has_gateways else []
        places = [where for where, _ in found] if has_gateways else [*_UP_TO_GATEWAYS, *_operators(raw)]
        return [*found, *daemon_problems(topology, places)]


def load(path: Path) -> Topology:
    """Read a topology file; raises TopologyError with every error."""
    try:
        table = parse_toml(path, TopologyTable)
    except ConfigError as error:
        raise TopologyError(error.errors) from None
    return _made(table.model_dump(exclude_unset=True)).checked()


def _operators(raw: Mapping[str, Any]) -> list[Place]:
    return [("lmas", name, "operators") for name in _table(raw, "lmas")]


def _made(raw: Mapping[str, Any]) -> Topology:
    """The topology of a file's content. What is not of its type is taken as not given, and reported elsewhere."""
    return Topology(
        gateways=_each(raw, "gateways", _gateway),
        hosts=_each(raw, "hosts", _host),
        correspondents=_each(raw, "correspondents", _correspondent),
        central=_central(raw["central"]) if "central" in raw else None,
        directory=_directory(raw["directory"]) if "directory" in raw else None,
        lmas=_each(raw, "lmas", _lma),
        finder=raw["finder"] if raw.get("finder") in get_args(Finder) else "central",
        **{
            key: raw[key]
            for key, kind in (("name", str), ("mobility", bool), ("core_mtu", int), ("domain", dict))
            if isinstance(raw.get(key), kind)
        },
    )


def _each(raw: Mapping[str, Any], key: str, make: Callable[[str, int, Mapping[str, Any]], _Made]) -> dict[str, _Made]:
    tables = raw.get(key)
    named = tables.items() if isinstance(tables, Mapping) else ()
    return {
        name: make(name, number, table if isinstance(table, Mapping) else {})
        for number, (name, table) in enumerate(named, 1)
    }


def _gateway(name: str, number: int, table: Mapping[str, Any]) -> Gateway:
    plain = numbered_gateway(name, number)
    return Gateway(
        name=name,
        address=_read(global_address, table, "address", plain.address),
        pools=() if table.get("pools") == [] else _read_list(pool, table, "pools") or plain.pools,
        access=tuple(name for name in _list(table, "access") if isinstance(name, str)),
        local_networks=_read_list(network, table, "local_networks"),
        operator=_read(_text, table, "operator", None),
        node=_table(table, "node"),
        delay_ms=_milliseconds(table),
        program=_program(table),
    )


def _lma(name: str, number: int, table: Mapping[str, Any]) -> Lma:
    plain = numbered_lma(name, number)
    return Lma(
        name=name,
        pools=_read_list(pool, table, "pools") if "pools" in table else plain.pools,
        operators=tuple(name for name in _list(table, "operators") if isinstance(name, str)),
        **_server(table, plain.address),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {shown(value)}, expected text")
    return value


def _central(value: object) -> Central:
    return Central(**_server(value, Central().address))


def _directory(value: object) -> Directory:
    return Directory(**_server(value, Directory().address))


def _server(value: object, address: IPv6Address) -> dict[str, Any]:
    table = value if isinstance(value, Mapping) else {}
    return {
        "address": _read(global_address, table, "address", address),
        "node": _table(table, "node"),
        "delay_ms": _milliseconds(table),
        "program": _program(table),
    }


def _correspondent(name: str, number: int, table: Mapping[str, Any]) -> Correspondent:
    address = _read(global_address, table, "address", numbered("c", number))
    behind = table.get("behind")
    return Correspondent(name, address, _milliseconds(table), behind if isinstance(behind, str) else None)


def _host(name: str, _number: int, table: Mapping[str, Any]) -> Host:
    access = table.get("access")
    return Host(
        name=name,
        at=str(table.get("at", "")),
        access=access if isinstance(access, str) else None,
        mac=_read(_unicast_mac, table, "mac", None),
        sysctls=_table(table, "sysctls"),
    )


def _milliseconds(table: Mapping[str, Any]) -> float:
    """A delay. One that is out of its range is reported where the file is read."""
    value = table.get("delay_ms")
    valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_DELAY_MS
    return float(value) if valid else 0.0  # type: ignore[arg-type]


def _read(read: Callable[[object], Any], table: Mapping[str, Any], key: str, default: Any) -> Any:
    value = None if table.get(key) is None else tolerant(read, table[key])
    return default if value is None else value


def _read_list(read: Callable[[object], IPv6Network], table: Mapping[str, Any], key: str) -> tuple[IPv6Network, ...]:
    return tuple(value for item in _list(table, key) if (value := tolerant(read, item)) is not None)


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key)
    return list(value) if isinstance(value, list | tuple) else []


def _program(table: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(word for word in _list(table, "program") if isinstance(word, str))


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return dict(value) if isinstance(value, Mapping) else {}
