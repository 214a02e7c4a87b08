"""Imports point down: what stands below can be used without what stands above (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import anchord

ROOT = Path(anchord.__file__).parent
EVERYTHING = {
    "simulator",
    "wire",
    "declared",
    "protocol",
    "kernel",
    "attachment",
    "store",
    "recording",
    "daemon",
    "lab",
    "cli",
    "spelling",
    "__main__",
}
MAY_IMPORT = {
    "wire": {"wire"},
    "declared": {"declared"},
    "protocol": {"protocol", "wire", "declared"},
    "kernel": {"kernel", "declared"},
    "attachment": {"attachment", "wire"},
    "store": {"store"},
    "recording": {"recording", "protocol", "wire", "declared"},
    "simulator": {"simulator", "protocol", "wire", "declared", "store"},
    "daemon": EVERYTHING - {"simulator", "lab", "cli", "__main__"},
    "lab": EVERYTHING - {"simulator", "cli", "__main__"},
    "cli": EVERYTHING,
    "spelling": {"spelling"},
    "__main__": {"cli"},
}
# The protocol gets its time, its randomness and its messages handed in; so does the wire layer.
OUTSIDE_WORLD = {
    "asyncio", "multiprocessing", "random", "secrets", "select", "selectors", "signal", "socket", "subprocess",
    "threading", "time", "uuid",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def area_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The full name of everything that a module imports, wherever in it."""
    package = ("anchord", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            yield from (f"{stem}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    area = area_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "anchord" and len(parts) > 1 and parts[1] in EVERYTHING:
            assert parts[1] in MAY_IMPORT[area], f"{area} must not import {name}"


@pytest.mark.parametrize(
    "path", [p for p in modules() if area_of(p) in ("protocol", "wire")], ids=lambda path: str(path.relative_to(ROOT))
)
def test_protocol_and_wire_touch_nothing_outside(path: Path) -> None:
    assert not OUTSIDE_WORLD & {name.split(".")[0] for name in imported(path)}


def test_every_area_is_known() -> None:
    assert {area_of(path) for path in modules()} <= EVERYTHING
