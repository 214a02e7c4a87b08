"""What happened in a run, a line each: the same seed gives the same lines anywhere."""

from __future__ import annotations


class Trace:
    """Lines are made only when somebody will read them: making them costs more than what they tell of."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.lines: list[str] = []

    def note(self, now_s: float, who: str, what: str) -> None:
        """``who`` did or met ``what`` at ``now_s`` (virtual seconds). Call only if ``wanted``."""
        self.lines.append(f"{now_s:10.4f} {who:8} {what}")
