"""The embedded store: one SQLite file, and beside it what was committed a moment ago.

A commit is in a file (``recent.py``) when ``commit`` returns, so it survives ``kill -9`` of the process. ``flush``
writes that file through to the disk, and once there is much in it, moves that into the database; the owner has it done
in a thread a moment later, so that neither is ever on the path of an answer. To move much at once is cheap: what was
said of a key meanwhile is moved once, and neighbours in the database are written together. A power cut may lose the
last moments; the gateways' refreshes repair that. ``synchronous=True`` waits for the disk in every commit instead.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from anchord.store.interface import Change, StoreError, Tables
from anchord.store.recent import Generation, Written, left_behind, write

MOVE_BYTES = 4 << 20  # so much beside the database is moved into it; a restart reads it in a twentieth of a second
CHECKPOINT_BYTES = 4 << 20  # SQLite's own log is moved into the database when it has grown this long
SCHEMA = 1
_MEND = "expected a directory that can be made and written, correct state in node.toml"
_DENIED = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")


class SqliteStore:
    """A store for one process at a time. ``commit`` may be called from one thread only; a change takes about 10 us."""

    def __init__(self, path: Path, synchronous: bool = False) -> None:
        """Open or make ``path``. Raises StoreError."""
        self._path = path
        self._synchronous = synchronous
        self._moving = threading.Lock()  # the database, and what is to be moved into it
        self._syncing = threading.Lock()  # a generation is not closed while it is written through
        self._switching = threading.Lock()  # the current generation, and what is in it
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            version = self._checked_version()
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute("PRAGMA wal_autocheckpoint=0")
            if version == 0:
                self._make_schema()
            # What is not in the database yet: in files of an earlier process, and committed since the last flush.
            left = left_behind(path)
            self._backlog: Written = {}
            for _, _, written in left:
                self._backlog |= written
            self._old = [file for file, _, _ in left]
            self._pending: Written = {}
            self._current = Generation(path, 1 + max([0, *(number for _, number, _ in left)]), synchronous)
        except BlockingIOError as error:
            raise StoreError(f"{path}: is in use by another process; stop that one first") from error
        except OSError as error:
            raise StoreError(f"{error.filename or path}: {error.strerror or error}; {_MEND}") from error
        except sqlite3.Error as error:
            # What SQLite cannot open or write is no damaged file: to move it away would mend nothing.
            denied = getattr(error, "sqlite_errorname", "").startswith(_DENIED)
            mend = _MEND if denied else "move it away to begin anew"
            raise StoreError(f"{path}: cannot be used as a store: {error}; {mend}") from error

    def _checked_version(self) -> int:
        """The schema of the file, 0 for a new one. Nothing is written before it is known to be ours."""
        version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, SCHEMA):
            raise StoreError(f"{self._path}: written by a newer version (schema {version}, this one knows {SCHEMA})")
        if version == 0 and self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise StoreError(f"{self._path}: is a database of something else; move it away to begin anew")
        return version

    def _make_schema(self) -> None:
        """In one transaction: a file with the table and without the version would be taken for somebody else's."""
        self._database.executescript(
            "BEGIN; CREATE TABLE kept (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID;"
            f"PRAGMA user_version={SCHEMA}; COMMIT"
        )

    def load(self) -> Tables:
        """Everything that is kept. Raises StoreError."""
        tables: Tables = {}
        try:
            with self._moving:
                for kind, key, value in self._database.execute("SELECT kind, key, value FROM kept"):
                    tables.setdefault(kind, {})[key] = json.loads(value)
                for (kind, key), text in {**self._backlog, **self._pending}.items():
                    if text is None:
                        tables.get(kind, {}).pop(key, None)
                    else:
                        tables.setdefault(kind, {})[key] = json.loads(text)
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"{self._path}: cannot be read: {error}; move it away to begin anew") from error
        return tables

    def commit(self, changes: Sequence[Change]) -> None:
        """All changes at once. Raises StoreError (a full disk, say), with nothing changed."""
        line, written = write(changes)
        with self._switching:
            try:
                self._current.append(line)
            except OSError as error:
                raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error
            self._pending |= written

    def flush(self) -> None:
        """Have the disk hold everything committed so far; blocks, and may be called from any thread.

        Raises StoreError; what could not be moved into the database stays where it is, for the next time.
        """
        try:
            with self._syncing:
                self._current.sync()
            # While another thread moves, this one need not: the disk has everything already.
            if (self._old or self._current.size >= MOVE_BYTES) and self._moving.acquire(blocking=False):
                try:
                    self._move()
                finally:
                    self._moving.release()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: cannot be written: {error}") from error

    def close(self) -> None:
        """Write everything through to the disk and let go of the files."""
        with self._moving:
            with contextlib.suppress(sqlite3.Error, OSError):  # what was committed is in files, for the next process
                self._move()
            self._database.close()
            with self._syncing:
                if self._pending or self._backlog:
                    self._current.close()
                else:
                    self._current.remove()

    def _move(self) -> None:
        """Move what is beside the database into it."""
        if self._pending:
            self._begin_generation()
        self._put(self._backlog)
        self._backlog = {}
        for file in self._old:
            file.unlink(missing_ok=True)
        self._old.clear()
        log = Path(f"{self._path}-wal")
        if log.exists() and log.stat().st_size > CHECKPOINT_BYTES:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _begin_generation(self) -> None:
        """What was committed so far is now to be moved; what comes meanwhile goes to a new file."""
        following = Generation(self._path, self._current.number + 1, self._synchronous)
        with self._switching:
            full, self._current = self._current, following
            pending, self._pending = self._pending, {}
        self._backlog |= pending
        self._old.append(full.path)
        with self._syncing:
            try:
                full.sync()
            finally:
                full.close()

    def _put(self, written: Written) -> None:
        """Move changes into the database in one transaction."""
        if not written:
            return
        put = sorted((kind, key, text) for (kind, key), text in written.items() if text is not None)
        self._database.execute("BEGIN")
        try:
            self._database.executemany("REPLACE INTO kept VALUES (?, ?, ?)", put)
            self._database.executemany(
                "DELETE FROM kept WHERE kind = ? AND key = ?", [key for key, text in written.items() if text is None]
            )
            self._database.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
