"""What a directory offers, whatever is behind it: one process with a store, or a cluster.

A map from keys to small JSON values, where a write names the revision it replaces. Revisions count all writes of the
directory, so that they order what happened and a watch can resume. Answers are given by a call, later or at once, in
the order of the questions: what many of them cost (a commit, a round trip to a cluster) is shared by all that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

Value = dict[str, Any]


class Entry(NamedTuple):
    """What is held under a key since a revision; ``value`` None: nothing, and then ``revision`` is 0 in an answer."""

    key: str
    revision: int
    value: Value | None


class Outcome(NamedTuple):
    """The answer to a question. ``done``: whether a compare-and-set was carried out; None answers ``get``.

    ``error``: why there is no answer (a limit, say); ``entry`` is void then.
    """

    entry: Entry
    done: bool | None = None
    error: str | None = None


class Lease(NamedTuple):
    """Until when an owner counts as alive (monotonic seconds), unless it is granted more."""

    owner: str
    until_s: float


class CompactedError(Exception):
    """What happened since the revision asked for is not known any more: read everything, then watch from there."""


class Directory(Protocol):
    """A directory.

    Gateways ask it with ``get`` and ``compare_and_set`` alone: that a host has left is told by the gateway that it came
    to, not by a watch, and what a dead owner holds expires by its own lifetime, not with a lease. ``watch``, ``grant``
    and ``alive`` are for whoever runs it: ``anchord monitor`` shows every write, ``anchord show status`` who is there.
    They belong to the interface because a cluster has to offer them across its members, which cannot be added later.
    """

    began_wall_s: float
    """When the store began (seconds since 1970): another value than before means that all it held is lost."""

    def get(self, key: str, answer: Callable[[Outcome], None]) -> None:
        """What is held under ``key``."""

    def compare_and_set(self, key: str, revision: int, value: Value | None, answer: Callable[[Outcome], None]) -> None:
        """Hold ``value`` (None: nothing) if ``key`` is still at ``revision`` (0: nothing is held).

        It is answered when it survives a crash; if it was not done, with what is held instead.
        """

    def watch(self, from_revision: int, changed: Callable[[Entry], None]) -> Callable[[], None]:
        """Call ``changed`` with every write from ``from_revision`` on, in order; resume with the last one + 1.

        Returns what ends it. Raises CompactedError.
        """
        ...

    def grant(self, owner: str, ttl_s: float) -> Lease:
        """``owner`` is alive for another ``ttl_s`` seconds."""
        ...

    def alive(self) -> list[str]:
        """The owners whose lease has not run out, sorted."""
        ...
