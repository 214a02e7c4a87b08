"""What was committed a moment ago: files that are only ever appended to, a line for each commit.

Appending a line is one system call and hardly any code, so it takes 10 us where a transaction of a database takes 60,
and 100 instead of 270 where nothing of it is in the processor's caches, as after a quiet moment. A registration waits
for three of them: at the gateway, at the CMD and at the anchor.

Each file is a generation. A new one is begun when the older ones are about to be moved into the database; those are
removed when they are there. To move a generation again does no harm: its lines say what is kept, not what changes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anchord.store.interface import Change

Written = dict[tuple[str, str], str | None]
"""By table and key: the value as JSON; None: forget the key."""

_json = json.JSONEncoder(separators=(",", ":")).encode


def write(changes: Sequence[Change]) -> tuple[bytes, Written]:
    """The line of a commit, and what it comes to: the last word on a key wins. Raises TypeError for what is no JSON."""
    parts = []
    written: Written = {}
    for kind, key, value in changes:
        text = None if value is None else _json(value)
        parts.append(f"[{_json(kind)},{_json(key)},{text or 'null'}]")
        written[kind, key] = text
    return f"[{','.join(parts)}]\n".encode(), written


class Generation:
    """One file. It is locked as long as it is written to, so that no second process can take it for abandoned."""

    def __init__(self, store: Path, number: int, synchronous: bool) -> None:
        """Begin a generation of ``store``. ``synchronous``: every commit waits for the disk. Raises OSError."""
        self.number = number
        self.path = Path(f"{store}-recent.{number}")
        self.size = 0  # octets
        self._synchronous = synchronous
        self._in_directory = False  # on the disk
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if synchronous:
            self.sync()

    def append(self, line: bytes) -> None:
        """Add a commit. Raises OSError (a full disk, say); nothing is changed then."""
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._synchronous:
                os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self.size += len(line)

    def sync(self) -> None:
        """Have the disk hold every commit; may be called while another thread appends. Raises OSError."""
        os.fdatasync(self._file)
        if not self._in_directory:
            _sync_directory(self.path.parent)
            self._in_directory = True

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def remove(self) -> None:
        """Forget the generation: the database has it."""
        self.close()
        self.path.unlink(missing_ok=True)


def left_behind(store: Path) -> list[tuple[Path, int, Written]]:
    """The generations that an earlier process left: file, number and what their commits come to, oldest first.

    A line that was not written to its end was never acknowledged; neither it nor anything behind it counts. Raises
    OSError; BlockingIOError when another process is writing to one of them.
    """
    found = []
    for path in store.parent.glob(f"{store.name}-recent.*"):
        suffix = path.suffix[1:]
        if suffix.isdecimal():
            found.append((path, int(suffix), _read(path)))
    return sorted(found, key=lambda generation: generation[1])


def _read(path: Path) -> Written:
    written: Written = {}
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        for line in file:
            try:
                commit: Any = json.loads(line) if line.endswith(b"\n") else None
                written |= write([(kind, key, value) for kind, key, value in commit])[1]
            except (ValueError, TypeError):
                break
    return written


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
