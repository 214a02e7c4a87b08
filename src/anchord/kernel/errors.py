"""The error that reaches an operator: what failed, where, and what to do about it."""

from __future__ import annotations


class KernelError(Exception):
    """The data plane cannot be brought up or taken down."""

    def __init__(self, what: str, where: str, mend: str) -> None:
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(f"{what} ({where}): {mend}")
