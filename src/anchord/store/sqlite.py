"""The embedded store: one SQLite file with a write-ahead log.

A commit is in the log when ``commit`` returns, so it survives ``kill -9`` of the process. ``flush`` writes the log
through to the disk, for everybody who committed meanwhile, and moves it into the database now and then; the owner has
it done in a thread a moment later, so that neither is ever on the path of an answer. A power cut may therefore lose
the last moments; the gateways' refreshes repair that. ``synchronous=True`` waits for the disk in every commit instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from anchord.store.interface import Change, StoreError, Tables

CHECKPOINT_BYTES = 4 << 20  # the log is moved into the database when it has grown this long
SCHEMA = 1


class SqliteStore:
    """A store in one file. ``commit`` may be called from one thread only; it takes about 30 us plus 5 us a change."""

    def __init__(self, path: Path, synchronous: bool = False) -> None:
        """Open or make ``path``. Raises StoreError."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            version = self._checked_version()
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(f"PRAGMA synchronous={'FULL' if synchronous else 'NORMAL'}")
            self._database.execute("PRAGMA wal_autocheckpoint=0")
            if version == 0:
                self._make_schema()
            self._log = os.open(f"{path}-wal", os.O_RDWR | os.O_CREAT, 0o600)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: cannot be used as a store: {error}; move it away to begin anew") from error
        self._checkpointer: sqlite3.Connection | None = None
        self._flushing = threading.Lock()

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
            for kind, key, value in self._database.execute("SELECT kind, key, value FROM kept"):
                tables.setdefault(kind, {})[key] = json.loads(value)
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"{self._path}: cannot be read: {error}; move it away to begin anew") from error
        return tables

    def commit(self, changes: Sequence[Change]) -> None:
        """All changes in one transaction. Raises StoreError (a full disk, say), with nothing changed."""
        put = [(kind, key, json.dumps(value)) for kind, key, value in changes if value is not None]
        gone = [(kind, key) for kind, key, value in changes if value is None]
        try:
            self._database.execute("BEGIN")
            # The last word on a key wins: within one commit a key is either put or forgotten last.
            last = {(kind, key): value is None for kind, key, value in changes}
            self._database.executemany("REPLACE INTO kept VALUES (?, ?, ?)", put)
            self._database.executemany(
                "DELETE FROM kept WHERE kind = ? AND key = ?", [entry for entry in gone if last[entry]]
            )
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise StoreError(f"{self._path}: cannot be written: {error}") from error

    def flush(self) -> None:
        """Have the disk hold everything committed so far; blocks, and may be called from any thread."""
        with self._flushing:
            os.fsync(self._log)
            if os.fstat(self._log).st_size > CHECKPOINT_BYTES:
                self._checkpoint()

    def _checkpoint(self) -> None:
        if self._checkpointer is None:
            self._checkpointer = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        with contextlib.suppress(sqlite3.OperationalError):  # busy: next time
            self._checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Write everything through to the disk and let go of the files."""
        self.flush()
        with self._flushing:
            if self._checkpointer is not None:
                self._checkpointer.close()
            self._database.close()
            os.close(self._log)
