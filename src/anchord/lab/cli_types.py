"""Types of arguments that the lab's verbs share."""

from __future__ import annotations

import math
from typing import Any

import click


class Milliseconds(click.FloatRange):
    """A time in ms, 0 to 60,000. "nan" is a number to Python, and within any range."""

    def __init__(self) -> None:
        super().__init__(0, 60_000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; a usage error where there is none."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number
