"""The configuration files of a lab's daemons, made from its topology."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from anchord.daemon.consistency import NEIGHBOURS
from anchord.lab.topology import CORE_INTERFACE, Daemon, Gateway, Lma, Topology, local_interface

DOMAIN_FILE = "domain.toml"


def write(directory: Path, topology: Topology) -> None:
    """Write ``domain.toml``, one for each operator, and a file for each daemon into a lab's directory."""
    _write(directory / DOMAIN_FILE, domain_settings(topology))
    for operator in dict.fromkeys(gateway.operator for gateway in topology.gateways.values() if gateway.operator):
        _write(directory / _domain_file(operator), domain_settings(topology, operator))
    for node in topology.daemon_nodes():
        _write(node_file(directory, node.name), node_settings(directory, topology, node))


def node_file(directory: Path, node: str) -> Path:
    """A daemon's own configuration file."""
    return directory / f"{node}.toml"


def _domain_file(operator: str | None) -> str:
    return DOMAIN_FILE if operator is None else f"domain-{operator}.toml"


def domain_settings(topology: Topology, operator: str | None = None) -> dict[str, Any]:
    """The domain's settings, with what the topology overrides. The secret is a new one each time it gives none."""
    return merged(generated_domain(topology, operator), topology.domain)


def generated_domain(topology: Topology, operator: str | None = None) -> dict[str, Any]:
    """The domain's settings that follow from the rest of a topology, without what its ``domain`` overrides.

    ``operator``: as that one sees it. It knows its own gateways, and the LMA that stands for those of all others.
    """
    gateways = [g for g in topology.gateways.values() if operator in (None, g.operator)]
    others = [gateway for gateway in topology.gateways.values() if gateway not in gateways]
    settings: dict[str, Any] = {
        "name": topology.name,
        "secret": secrets.token_hex(16),
        "mobility": topology.mobility,
    }
    if topology.finder != "central":
        settings["finder"] = topology.finder
    if topology.central is not None:
        settings["central"] = {"address": str(topology.central.address), "mode": "proxy"}
    if topology.between is not None:
        settings["central"] = {"address": str(topology.between.address), "mode": "proxy"}
    if topology.directory is not None:
        settings["directory"] = {"address": str(topology.directory.address)}
    return (
        settings
        | {
            "gateways": {
                gateway.name: {
                    "address": str(gateway.address),
                    "pools": [str(pool) for pool in gateway.pools],
                    "local_networks": [
                        *(str(network) for network in gateway.local_networks),
                        *(str(node.network) for node in topology.behind(gateway.name)),
                    ],
                    **({"operator": gateway.operator} if gateway.operator and operator is None else {}),
                }
                for gateway in gateways
            },
        }
        | _lmas(topology, others, operator)
    )


def _lmas(topology: Topology, hidden: Iterable[Gateway], operator: str | None) -> dict[str, Any]:
    """The table of LMAs, if there are any; ``hidden`` are the gateways that one between operators stands for."""
    if not topology.lmas:
        return {}
    return {
        "lmas": {
            lma.name: {
                "address": str(lma.address),
                "pools": [str(pool) for pool in lma.pools],
                "operators": list(lma.operators) if operator is None else [],
                "stands_for": [str(pool) for gateway in hidden for pool in gateway.pools] if lma.operators else [],
            }
            for lma in topology.lmas.values()
        },
    }


def node_settings(directory: Path, topology: Topology, node: Daemon) -> dict[str, Any]:
    """A daemon's own settings in a lab with that directory, with what the topology overrides."""
    settings: dict[str, Any] = {
        "node": node.name,
        "domain": _domain_file(node.operator if isinstance(node, Gateway) else None),
        "state": str(directory / "state" / node.name),
        "run": str(directory / "run"),
    }
    if isinstance(node, Gateway):
        local = [local_interface(other.name) for other in topology.behind(node.name)]
        settings |= {"access": [link.interface for link in node.links], "core": [CORE_INTERFACE, *local]}
        if topology.finder == "anchor-known":
            settings["neighbours"] = _neighbours(list(topology.gateways), node.name)
    if isinstance(node, Lma):
        settings |= {"core": [CORE_INTERFACE]}
    return merged(settings, node.node)


def _neighbours(names: list[str], name: str) -> list[str]:
    """The other gateways, as many as a gateway may ask: those that stand nearest to it in the topology file."""
    at = names.index(name)
    nearest = sorted((other for other in names if other != name), key=lambda other: abs(names.index(other) - at))
    return sorted(nearest[:NEIGHBOURS], key=names.index)


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
