"""The configuration files of a lab's daemons, made from its topology."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anchord.lab.topology import CORE_INTERFACE, Daemon, Gateway, Topology, local_interface

DOMAIN_FILE = "domain.toml"


def write(directory: Path, topology: Topology) -> None:
    """Write ``domain.toml`` and a file for each daemon into a lab's directory."""
    _write(directory / DOMAIN_FILE, domain_settings(topology))
    for node in topology.daemon_nodes():
        _write(node_file(directory, node.name), node_settings(directory, topology, node))


def node_file(directory: Path, node: str) -> Path:
    """A daemon's own configuration file."""
    return directory / f"{node}.toml"


def domain_settings(topology: Topology) -> dict[str, Any]:
    """The domain's settings, with what the topology overrides. The secret is a new one each time it gives none."""
    return merged(generated_domain(topology), topology.domain)


def generated_domain(topology: Topology) -> dict[str, Any]:
    """The domain's settings that follow from the rest of a topology, without what its ``domain`` overrides."""
    settings: dict[str, Any] = {
        "name": topology.name,
        "secret": secrets.token_hex(16),
        "mobility": topology.mobility,
    }
    if topology.finder != "central":
        settings["finder"] = topology.finder
    if topology.central is not None:
        settings["central"] = {"address": str(topology.central.address), "mode": "proxy"}
    if topology.directory is not None:
        settings["directory"] = {"address": str(topology.directory.address)}
    return settings | {
        "gateways": {
            gateway.name: {
                "address": str(gateway.address),
                "pools": [str(pool) for pool in gateway.pools],
                "local_networks": [
                    *(str(network) for network in gateway.local_networks),
                    *(str(node.network) for node in topology.behind(gateway.name)),
                ],
            }
            for gateway in topology.gateways.values()
        },
    }


def node_settings(directory: Path, topology: Topology, node: Daemon) -> dict[str, Any]:
    """A daemon's own settings in a lab with that directory, with what the topology overrides."""
    settings: dict[str, Any] = {
        "node": node.name,
        "domain": DOMAIN_FILE,
        "state": str(directory / "state" / node.name),
        "run": str(directory / "run"),
    }
    if isinstance(node, Gateway):
        local = [local_interface(other.name) for other in topology.behind(node.name)]
        settings |= {"access": [link.interface for link in node.links], "core": [CORE_INTERFACE, *local]}
        if topology.finder == "anchor-known":
            settings["neighbours"] = [name for name in topology.gateways if name != node.name]
    return merged(settings, node.node)


def merged(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with every value of ``overrides`` in its place; tables are merged, anything else is replaced."""
    result = dict(settings)
    for key, value in overrides.items():
        old = result.get(key)
        both_tables = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both_tables else value  # type: ignore[arg-type]
    return result


def toml(table: Mapping[str, Any]) -> str:
    """A table as TOML: strings, numbers, booleans, lists and tables of them (the standard library only reads it)."""
    return "\n".join(_lines(table, ())) + "\n"


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    path.touch(mode=0o600)  # the domain's secret is inside
    path.write_text(toml(settings))


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = (*path, key)
            if not value or any(not isinstance(item, Mapping) for item in value.values()):
                yield f"\n[{'.'.join(_key(part) for part in inner)}]"
            yield from _lines(value, inner)


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)  # the same form in both languages
    return str(value)  # dates and times
