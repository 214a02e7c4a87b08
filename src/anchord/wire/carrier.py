"""Finding an option in a message by its class."""

from __future__ import annotations

from typing import TypeVar, cast

OptionT = TypeVar("OptionT")


class Carrier:
    """A message that carries ``options``.

    A receiver asks for a dozen classes: the options are sorted by class when it asks for the first.
    """

    __slots__ = ("_by_class",)

    options: tuple[object, ...]
    _by_class: dict[type, tuple[object, ...]]

    def first(self, kind: type[OptionT]) -> OptionT | None:
        """Return the first option of class ``kind``, or None."""
        try:
            options = self._by_class.get(kind)
        except AttributeError:
            options = self._sort().get(kind)
        return cast("OptionT", options[0]) if options else None

    def all(self, kind: type[OptionT]) -> tuple[OptionT, ...]:
        """Return all options of class ``kind``, in the order of the message."""
        try:
            options = self._by_class.get(kind, ())
        except AttributeError:
            options = self._sort().get(kind, ())
        return cast("tuple[OptionT, ...]", options)

    def _sort(self) -> dict[type, tuple[object, ...]]:
        by_class: dict[type, tuple[object, ...]] = {}
        for option in self.options:
            kind = type(option)
            by_class[kind] = (*by_class[kind], option) if kind in by_class else (option,)
        object.__setattr__(self, "_by_class", by_class)  # messages are frozen; this is no part of their value
        return by_class
