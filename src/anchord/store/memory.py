"""A store that forgets: for tests, and for measuring what durability costs."""

from __future__ import annotations

from collections.abc import Sequence

from anchord.store.interface import Change, Tables


class MemoryStore:
    """Keeps everything in this process."""

    def __init__(self) -> None:
        self._tables: Tables = {}

    def load(self) -> Tables:
        """Everything that is kept."""
        return {table: dict(rows) for table, rows in self._tables.items()}

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes."""
        for table, key, value in changes:
            rows = self._tables.setdefault(table, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value

    def flush(self) -> None:
        """Nothing survives here."""

    def close(self) -> None:
        """Nothing to let go of."""
