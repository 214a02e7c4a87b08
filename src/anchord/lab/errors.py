"""What can go wrong in a lab, in words for whoever asked for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """Something in a lab failed; the message says what, where, and how to mend it where that is known."""


class TopologyError(LabError):
    """A topology that cannot be built. ``problems`` holds every reason, one line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def unknown(what: str, name: str, known: Iterable[str]) -> LabError:
    """An error for a name that does not exist, with the nearest one that does.

    ``what`` is the kind of thing ("host", "gateway"), ``known`` the names there are.
    """
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are: {', '.join(names) or 'none'}"
    return LabError(f"no {what} {name!r}; {hint}")
