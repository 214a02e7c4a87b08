"""What is in a golden case: a recording of each node, and the story that they tell together, for whoever reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from domain import CENTRAL, Domain
from lma_domain import LMA, MAG1, MAG2, Operators, PlainLma

from anchord.recording.recorder import Recordable, Recorder
from anchord.wire.header import decode, encode

STORY = "story.txt"
_BEGIN_S = 1000.0  # monotonic, of every domain
_INDENT = " " * 15


class Case:
    """Has the nodes of a domain write down what they do, into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names: dict[IPv6Address, str] = {}
        self._recorders: dict[str, Recorder] = {}

    def begin(self, domain: Domain) -> None:
        """From now on."""
        central = "lma" if isinstance(domain, Operators) else "cmd"
        numbers = {domain.address(number): f"gw{number}" for number in domain.gw}
        self._names = {**numbers, CENTRAL: central, LMA: "lma"}
        for address, node in domain.nodes.items():
            domain.nodes[address] = self._recorded(node, self._names[address])  # type: ignore[assignment]

    def begin_lma(self, played: PlainLma) -> None:
        """From now on, of an LMA alone."""
        self._names = {LMA: "lma", MAG1: "mag1", MAG2: "mag2"}
        played.lma = self._recorded(played.lma, "lma")  # type: ignore[assignment]

    def start(self, domain: Domain, address: IPv6Address) -> None:
        """A new process, after ``kill -9`` if there was one, with what the journal has by now."""
        before: Recordable = domain.nodes[address].node  # type: ignore[union-attr]
        domain.declared[address] = {}
        node = self._recorded(type(before)(before.settings), self._names[address])  # type: ignore[arg-type]
        domain.nodes[address] = node  # type: ignore[assignment]
        domain.perform(address, node.restore(dict(domain.journal[address]), domain.now))
        domain.settle()

    def _recorded(self, node: Recordable, name: str) -> Recorder:
        self._finish(name)
        recorder = self._recorders[name] = Recorder(node, self._directory / f"{name}.raw", pytest.fail)
        return recorder

    def _finish(self, name: str) -> None:
        if name in self._recorders:
            self._recorders[name].next_timer_s()  # has it write what came last

    def end(self) -> None:
        """Make golden files of the recordings: without the version, an output a line, and the story beside them."""
        for name in self._recorders:
            self._finish(name)
        for raw in sorted(self._directory.glob("*.raw")):
            lines = [json.loads(line) for line in raw.read_text().splitlines()]
            raw.unlink()
            if any("do" in line for line in lines):
                written = "".join(f"{json.dumps(line)}\n" for line in _one_by_one(lines))
                raw.with_suffix(".jsonl").write_text(written)
        (self._directory / STORY).write_text("\n".join(self._story()) + "\n")

    def _story(self) -> Iterator[str]:
        told = []
        for path in sorted(self._directory.glob("*.jsonl")):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            told += list(_happenings(path.stem, lines))
        # A node's own order stays; a message needs half a millisecond, so what it causes is later than its cause.
        told.sort(key=lambda each: each[0])
        played = {str(each): name for each, name in self._names.items() if not self._recording_of(name).exists()}
        for _, node, line, outputs in told:
            yield from self._told(node, line, outputs, played)

    def _recording_of(self, name: str) -> Path:
        return self._directory / f"{name}.jsonl"

    def _told(
        self, node: str, line: dict[str, Any], outputs: list[dict[str, Any]], played: Mapping[str, str]
    ) -> Iterator[str]:
        yield f"{line['at'][0] - _BEGIN_S:9.4f} {node:4} {self._happened(line)}"
        happened = line.get("input", {})
        if happened.get("type") == "MessageReceived" and happened["source"] in played:
            yield from self._message(happened["message"], happened["source"], node)
        for output in outputs:
            if output["type"] == "Send":
                message, to = output["message"], output["destination"]
                yield f"{_INDENT}-> {self._named(to)}: {message['type']}"
                yield from self._message(message, node, to)
            elif output["type"] == "Persist":
                what = "forget" if output["value"] is None else "remember"
                yield f"{_INDENT}{what} {output['table']} {output['key']}"
            elif output["type"] == "Declare":
                yield from self._declared(output)
            else:
                yield f"{_INDENT}{self._short(output)}"
        yield ""

    def _happened(self, line: dict[str, Any]) -> str:
        match line["do"]:
            case "timers":
                return "a timer is due"
            case "restore":
                rows = sum(map(len, line["journal"].values()))
                return f"starts, with {rows} rows of its journal"
            case "revoke":
                return f"the operator revokes {line['named']}"
        happened = line["input"]
        if happened["type"] == "MessageReceived":
            return f"hears from {self._named(happened['source'])}: {happened['message']['type']}"
        return self._short(happened)

    def _message(self, message: dict[str, Any], source: str, destination: str) -> Iterator[str]:
        """Its fields and options, then its octets as they are on the wire between these two."""
        ends = (IPv6Address(self._address(each)) for each in (source, destination))
        data = encode(decode(bytes.fromhex(message["hex"])), *ends)
        yield from (f"{_INDENT}     {part}" for part in message["text"].split("; "))
        yield f"{_INDENT}     {len(data)} octets"
        yield from (f"{_INDENT}     {data[at : at + 32].hex(' ', 4)}" for at in range(0, len(data), 32))

    def _declared(self, output: dict[str, Any]) -> Iterator[str]:
        state = output["state"]
        where = f" {state['mac']} on {state['interface']}" if state["interface"] else " not here"
        yield f"{_INDENT}declare, ticket {output['ticket']}: host {state['host']}{where}"
        for entry in state["entries"]:
            rest = {key: each for key, each in entry.items() if key not in ("type", "prefix", "role")}
            yield f"{_INDENT}     {entry['prefix']} {entry['role']} {self._pairs(rest)}".rstrip()
        if not state["entries"]:
            yield f"{_INDENT}     holds nothing"

    def _short(self, value: Any) -> str:
        if isinstance(value, dict):
            rest = {key: each for key, each in value.items() if key != "type"}
            return " ".join(part for part in (value.get("type", ""), self._pairs(rest)) if part)
        if isinstance(value, list):
            return ", ".join(map(self._short, value))
        return self._named(str(value))

    def _pairs(self, fields: Mapping[str, Any]) -> str:
        """Every field that says something."""
        said = ((key, each) for key, each in fields.items() if each is not False and each not in (None, "", [], {}))
        return " ".join(
            f"{key}=({self._short(each)})" if isinstance(each, dict | list) else f"{key}={self._short(each)}"
            for key, each in said
        )

    def _named(self, address: str) -> str:
        try:
            return self._names.get(IPv6Address(address), address)
        except ValueError:
            return address

    def _address(self, node: str) -> str:
        return next((str(address) for address, name in self._names.items() if name == node), node)


def _one_by_one(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for line in lines:
        line.pop("software", None)
        if outputs := line.get("out"):
            yield from ({"out": [output]} for output in outputs)
        else:
            yield line


def _happenings(node: str, lines: list[dict[str, Any]]) -> Iterator[tuple[float, str, dict[str, Any], list[Any]]]:
    """Each input of a recording: when, at which node, the input, what it answers once all lines are read."""
    outputs: list[Any] = []
    for line in lines:
        if "out" in line:
            outputs += line["out"]
        elif "do" in line:
            outputs = []
            yield line["at"][0], node, line, outputs
