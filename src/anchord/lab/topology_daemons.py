"""What the daemons of a lab would say of a topology: its tables ``domain`` and ``node`` end up in their files.

They are tried against the daemons' own models before anything is built, so that an error there is reported with all
others of the topology file, at the place where it stands in that file rather than in one the lab generates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anchord.daemon.config import DomainConfig, NodeConfig
from anchord.daemon.configfile import Table
from anchord.daemon.consistency import misfits
from anchord.lab import config_files
from anchord.lab.topology import Daemon, Gateway, Place, Problem, Topology
from anchord.lab.topology_problems import place

_OF_THE_LAB = ("node", "domain", "run")  # with others the lab would not find its own daemons again


def daemon_problems(topology: Topology, known: Iterable[Place]) -> Iterator[Problem]:
    """What is wrong with the configuration that a topology makes; not at or below ``known`` places again."""
    settled = set(known)
    for where, what in _domain_problems(topology):
        if not any(where[:length] in settled for length in range(1, len(where) + 1)):
            yield where, what
    for node in topology.daemon_nodes():
        yield from _node_problems((*place(topology, node.name), "node"), topology, node)


def _domain_problems(topology: Topology) -> Iterator[Problem]:
    generated = config_files.generated_domain(topology)
    for where, what in _errors(DomainConfig, config_files.merged(generated, topology.domain)):
        # Whoever says more of the place has caused it: [domain], or the topology's own table of the same name.
        is_override = _depth(where, topology.domain) >= _depth(where, generated)
        yield ("domain", *where) if is_override else where, what


def _node_problems(where: Place, topology: Topology, node: Daemon) -> Iterator[Problem]:
    for key in _OF_THE_LAB:
        if key in node.node:
            yield (*where, key), "is the lab's own choice, expected it to be left out"
    settings = config_files.node_settings(Path("/"), topology, node)
    for inner, what in _errors(NodeConfig, settings):
        if inner[0] not in _OF_THE_LAB:
            yield (*where, *inner), what
    operator = node.operator if isinstance(node, Gateway) else None
    domain = config_files.domain_settings(topology, operator)
    for inner, what in misfits(settings, domain, settings["run"]):
        if inner[0] not in _OF_THE_LAB:
            yield (*where, *inner), what


def _errors(model: type[Table], settings: Mapping[str, Any]) -> list[Problem]:
    try:
        model.model_validate(settings)
    except ValidationError as error:
        return [(details["loc"], details["msg"]) for details in error.errors()]
    return []


def _depth(where: Place, table: Mapping[str, Any]) -> int:
    """How many parts of a place there are in a table of tables."""
    inner: Any = table
    for depth, part in enumerate(where):
        if not isinstance(inner, Mapping) or part not in inner:
            return depth
        inner = inner[part]
    return len(where)
