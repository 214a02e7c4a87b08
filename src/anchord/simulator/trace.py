"""What happened in a run, a line each, and a digest of it: the same seed gives the same digest anywhere."""

from __future__ import annotations

import hashlib


class Trace:
    """Lines are made only when somebody will read them: making them costs more than what they tell of."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.lines: list[str] = []

    def note(self, now_s: float, who: str, what: str) -> None:
        """``who`` did or met ``what`` at ``now_s`` (virtual seconds). Call only if ``wanted``."""
        self.lines.append(f"{now_s:10.4f} {who:8} {what}")

    def digest(self) -> str:
        """SHA-256 of all lines."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()
