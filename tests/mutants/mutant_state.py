"""What earlier runs of ``make mutants`` have found out, so that an interruption costs nothing (``--state FILE``).

One JSON object on each line. Whoever was caught stays so while the function with the fault in it is the same, whatever
has become of everything else, and so does a survivor with a reason; any other is tried again when the program or a test
has changed. A run without a state file says what holds now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

Found = tuple[str | None, str, float]  # kind of check or None, which, seconds


class State:
    """Verdicts of earlier runs, by fault. Without a file nothing is remembered."""

    def __init__(self, file: Path | None, root: Path, explained: Collection[str]) -> None:
        """``root``: the tree whose program and tests survivors survived; ``explained``: those with a reason."""
        self._file = file
        self._tree = _digest(
            *(path.read_bytes() for area in ("src", "tests") for path in sorted((root / area).rglob("*.py")))
        )
        self._known: dict[tuple[str, str], Found] = {}
        if file is not None and file.exists():
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                if entry["by"] is not None or entry["tree"] == self._tree or entry["name"] in explained:
                    self._known[entry["name"], entry["text"]] = (entry["by"], entry["which"], entry["took_s"])

    def found(self, name: str, text: str) -> Found | None:
        """What came of this fault, by which its function says ``text``, if that still holds."""
        return self._known.get((name, _digest(text.encode())))

    def keep(self, name: str, text: str, found: Found) -> None:
        """Write it down at once."""
        if self._file is not None:
            by, which, took_s = found
            entry = {"name": name, "text": _digest(text.encode()), "tree": self._tree}
            with self._file.open("a") as file:
                file.write(json.dumps({**entry, "by": by, "which": which, "took_s": round(took_s, 1)}) + "\n")


def _digest(*parts: bytes) -> str:
    sums = (hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(b"".join(sums)).hexdigest()[:16]
