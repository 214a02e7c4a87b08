"""Which known name somebody may have meant by one that is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Of 1: two letters changed places in a word of three make 0.67, what only looks alike is below.
_ALIKE = 0.65


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` is a misspelling of; None where none is near, or several are and equally."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=_ALIKE)
    ratios = [difflib.SequenceMatcher(None, other, name).ratio() for other in near]
    return near[0] if near and ratios[0] > max(ratios[1:], default=0.0) else None
