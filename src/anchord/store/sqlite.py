"""The embedded store: one SQLite file, and beside it what was committed a moment ago.

A commit is in a file (``recent.py``) when ``commit`` returns, so it survives ``kill -9`` of the process. ``flush``
moves what was committed meanwhile into the database and writes that through to the disk; the owner has it done in a
thread a moment later, so that neither is ever on the path of an answer. A power cut may therefore lose the last
moments; the gateways' refreshes repair that. ``synchronous=True`` waits for the disk in every commit instead.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from anchord.store.interface import Change, StoreError, Tables
from anchord.store.recent import Generation, left_behind

CHECKPOINT_BYTES = 4 << 20  # SQLite's own log is moved into the database when it has grown this long
SCHEMA = 1


class SqliteStore:
    """A store for one process at a time. ``commit`` may be called from one thread only; it takes about 10 us."""

    def __init__(self, path: Path, synchronous: bool = False) -> None:
        """Open or make ``path``. Raises StoreError."""
        self._path = path
        self._synchronous = synchronous
        self._flushing = threading.Lock()
        self._switching = threading.Lock()
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
            self._backlog = [change for _, _, changes in left for change in changes]
            self._old = [file for file, _, _ in left]
            self._pending: list[Change] = []
            self._current = Generation(path, 1 + max([0, *(number for _, number, _ in left)]), synchronous)
        except BlockingIOError as error:
            raise StoreError(f"{path}: is in use by another process; stop that one first") from error
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: cannot be used as a store: {error}; move it away to begin anew") from error

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
            with self._flushing:
                for kind, key, value in self._database.execute("SELECT kind, key, value FROM kept"):
                    tables.setdefault(kind, {})[key] = json.loads(value)
                for kind, key, value in (*self._backlog, *self._pending):
                    if value is None:
                        tables.get(kind, {}).pop(key, None)
                    else:
                        tables.setdefault(kind, {})[key] = value
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"{self._path}: cannot be read: {error}; move it away to begin anew") from error
        return tables

    def commit(self, changes: Sequence[Change]) -> None:
        """All changes at once. Raises StoreError (a full disk, say), with nothing changed."""
        with self._switching:
            try:
                self._current.append(changes)
            except OSError as error:
                raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error
            self._pending += changes

    def flush(self) -> None:
        """Have the disk hold everything committed so far; blocks, and may be called from any thread.

        Raises StoreError; what could not be moved into the database stays where it is, for the next time.
        """
        with self._flushing:
            try:
                self._begin_generation()
                self._put(self._backlog)
                self._backlog.clear()
                for file in self._old:
                    file.unlink(missing_ok=True)
                self._old.clear()
                log = Path(f"{self._path}-wal")
                if log.exists() and log.stat().st_size > CHECKPOINT_BYTES:
                    self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"{self._path}: cannot be written: {error}") from error

    def close(self) -> None:
        """Write everything through to the disk and let go of the files."""
        with contextlib.suppress(StoreError):  # what was committed is in files, and the next process moves it
            self.flush()
        with self._flushing:
            self._database.close()
            if self._pending or self._backlog:
                self._current.close()
            else:
                self._current.remove()

    def _begin_generation(self) -> None:
        """What was committed so far is now to be moved; what comes meanwhile goes to a new file."""
        if not self._pending:
            return
        following = Generation(self._path, self._current.number + 1, self._synchronous)
        with self._switching:
            full, self._current = self._current, following
            self._backlog += self._pending
            self._pending.clear()
        full.close()
        self._old.append(full.path)

    def _put(self, changes: Iterable[Change]) -> None:
        """Move changes into the database in one transaction."""
        last = {(kind, key): value for kind, key, value in changes}  # the last word on a key wins
        if not last:
            return
        put = [(kind, key, json.dumps(value)) for (kind, key), value in last.items() if value is not None]
        self._database.execute("BEGIN")
        try:
            self._database.executemany("REPLACE INTO kept VALUES (?, ?, ?)", put)
            self._database.executemany(
                "DELETE FROM kept WHERE kind = ? AND key = ?", [key for key, value in last.items() if value is None]
            )
            self._database.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
