"""What is known of a lab outside the processes that use it: one directory, /run/anchord-lab/NAME/.

    lab.json                  who made the lab, its topology, its processes
    domain.toml, NODE.toml    what the daemons read
    log/NODE.log              what they say
    run/NODE.sock             their control sockets
    state/NODE/               their journals and stores

The directory appears whole (it is renamed into place), so of two labs of one name one is made and the other refused,
and everything that was ever begun can be found and taken down.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchord.lab.errors import LabError, unknown
from anchord.lab.processes import Process
from anchord.lab.topology import Topology

LABS = Path("/run/anchord-lab")
_RECORD = "lab.json"


@dataclass(slots=True)
class State:
    """A lab as it is recorded.

    ``owner`` is the process whose end is the lab's end, None for a lab that stays. ``maker`` builds it; a lab that is
    not ``ready`` and whose maker is gone is a ruin. ``nodes`` has each node's process, ``guardian`` the process that
    watches the owner. Daemons record into ``recordings``, if they do.
    """

    name: str
    topology: Topology
    maker: Process
    owner: Process | None = None
    guardian: Process | None = None
    ready: bool = False
    nodes: dict[str, Process] = field(default_factory=dict)
    recordings: Path | None = None

    @property
    def directory(self) -> Path:
        """Where the lab's files are."""
        return LABS / self.name

    @property
    def stale(self) -> bool:
        """Whether whoever would take this lab down is gone."""
        if self.owner is not None:
            return not self.owner.alive
        return not self.ready and not self.maker.alive

    def create(self) -> None:
        """Make the directory; LabError if there is a lab of this name."""
        staging = LABS / f".{self.name}.{os.getpid()}"
        for part in ("log", "run", "state"):
            _make(staging / part)
        self._write(staging)
        try:
            staging.rename(self.directory)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            raise LabError(
                f"there is a lab {self.name!r} already: take it down (anchord lab down --name {self.name}), "
                "or give this one another name"
            ) from None

    def save(self) -> None:
        """Record the lab as it is now."""
        self._write(self.directory)

    def remove(self) -> None:
        """Delete the directory, and the common one if this was the last."""
        doomed = LABS / f".{self.name}.{os.getpid()}"
        with suppress(FileNotFoundError):
            self.directory.rename(doomed)  # gone at once: what remains if this is interrupted is swept up later
        shutil.rmtree(doomed, ignore_errors=True)
        with suppress(OSError):
            LABS.rmdir()

    def _write(self, directory: Path) -> None:
        record = {
            "name": self.name,
            "topology": self.topology.to_plain(),
            "ready": self.ready,
            **{key: _process_to_plain(getattr(self, key)) for key in ("maker", "owner", "guardian")},
            "nodes": {node: _process_to_plain(process) for node, process in self.nodes.items()},
            "recordings": None if self.recordings is None else str(self.recordings),
        }
        new = directory / f"{_RECORD}.{os.getpid()}"
        new.write_text(json.dumps(record, indent=1))
        new.replace(directory / _RECORD)


def load(name: str) -> State:
    """The lab of that name; LabError names the nearest one there is."""
    try:
        record = json.loads((LABS / name / _RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        # No mistake of the caller's, as an unknown host is: the lab may have been taken down a moment ago.
        raise LabError(str(unknown("lab", name, names()))) from None
    try:
        return _from_plain(name, record)
    except (KeyError, TypeError, ValueError):
        # It is somebody's all the same: another lab must not fail because of it.
        raise LabError(
            f"{LABS / name / _RECORD} is of another version of anchord: take the lab down with the one that made it"
        ) from None


def _from_plain(name: str, record: dict[str, Any]) -> State:
    maker = _process_from_plain(record["maker"])
    if maker is None:
        raise ValueError("no maker")
    return State(
        name=name,
        topology=Topology.from_plain(record["topology"]),
        maker=maker,
        owner=_process_from_plain(record["owner"]),
        guardian=_process_from_plain(record["guardian"]),
        ready=record["ready"],
        nodes={
            node: process
            for node, plain in record["nodes"].items()
            if (process := _process_from_plain(plain)) is not None
        },
        recordings=None if record["recordings"] is None else Path(record["recordings"]),
    )


def names() -> list[str]:
    """Every lab there is, half-built ones included."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in LABS.iterdir() if (path / _RECORD).exists() and path.name[0] != ".")
    return []


def sweep_staging() -> None:
    """Delete what processes left that died while they made or deleted a directory."""
    with suppress(FileNotFoundError):
        for path in LABS.iterdir():
            pid = path.name.rpartition(".")[2]
            if path.name[0] == "." and not (pid.isdigit() and Path("/proc", pid).exists()):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def locked(name: str) -> Iterator[State | None]:
    """Hold the lab of that name: nobody else changes it meanwhile. None if there is none, or no longer any."""
    directory = LABS / name
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        still_there = directory.exists() and os.path.samestat(os.fstat(handle), directory.stat())
        yield load(name) if still_there else None
    finally:
        os.close(handle)


def _make(directory: Path) -> None:
    """Make a directory and its parents, although somebody may just be deleting LABS because it is empty."""
    while not directory.is_dir():
        with suppress(FileNotFoundError):
            directory.mkdir(parents=True, exist_ok=True)


def _process_to_plain(process: Process | None) -> dict[str, int] | None:
    return None if process is None else dataclasses.asdict(process)


def _process_from_plain(plain: dict[str, int] | None) -> Process | None:
    return None if plain is None else Process(**plain)
