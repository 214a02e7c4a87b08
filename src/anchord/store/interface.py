"""What a store offers, whatever is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Tables = dict[str, dict[str, dict[str, Any]]]
Change = tuple[str, str, dict[str, Any] | None]  # table, key, value (None: forget the key)


class StoreError(Exception):
    """The store cannot be read or written; the message says where and what to do."""


class Store(Protocol):
    """A durable map of maps."""

    def load(self) -> Tables:
        """Everything that is kept. Raises StoreError."""
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, or none, survive the death of this process. Raises StoreError."""
        ...

    def flush(self) -> None:
        """Make everything committed survive a power cut too; may block, may be called from another thread."""
        ...

    def close(self) -> None:
        """Make everything survive a power cut, and let go of the files."""
        ...
