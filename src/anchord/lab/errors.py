"""What can go wrong in a lab, in words for whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterable

from anchord.spelling import nearest


class LabError(Exception):
    """Something in a lab failed; the message says what, where, and how to mend it where that is known.

    ``exit_code`` is what a command ends with because of it.
    """

    exit_code = 1


class UsageError(LabError):
    """Something was asked for that no lab, or not this one, can have: a name that is none, or that nothing has."""

    exit_code = 2


class TopologyError(LabError):
    """A topology that cannot be built. ``problems`` holds every reason, one line each."""

    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for a name that does not exist, with the nearest one that does.

    ``what`` is the kind of thing ("host", "gateway"), ``known`` the names there are.
    """
    names = list(known)
    near = nearest(name, names)
    hint = f"did you mean {near}?" if near else f"there are: {', '.join(names) or 'none'}"
    return UsageError(f"no {what} {name!r}; {hint}")
