"""Finding an option in a message by its class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

OptionT = TypeVar("OptionT")


def first(options: Iterable[object], kind: type[OptionT]) -> OptionT | None:
    """Return the first option of class ``kind``, or None."""
    for option in options:
        if isinstance(option, kind):
            return option
    return None


def every(options: Iterable[object], kind: type[OptionT]) -> tuple[OptionT, ...]:
    """Return all options of class ``kind``, in the order of the message."""
    return tuple(option for option in options if isinstance(option, kind))


class Carrier:
    """A message that carries ``options``."""

    __slots__ = ()

    options: tuple[object, ...]

    def first(self, kind: type[OptionT]) -> OptionT | None:
        """Return the first option of class ``kind``, or None."""
        return first(self.options, kind)

    def all(self, kind: type[OptionT]) -> tuple[OptionT, ...]:
        """Return all options of class ``kind``, in the order of the message."""
        return every(self.options, kind)
