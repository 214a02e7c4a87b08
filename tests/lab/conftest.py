"""Labs for tests: names of their own, taken down whatever happens."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from anchord.lab.domain import Domain

_numbers = itertools.count(1)


@pytest.fixture
def new_lab_name() -> Iterator[Callable[[], str]]:
    """Makes names for labs that are gone after the test."""
    names: list[str] = []

    def make() -> str:
        names.append(f"anct-{os.getpid()}-{next(_numbers)}")
        return names[-1]

    yield make
    for name in names:
        Domain.take_down(name)


@pytest.fixture
def lab_name(new_lab_name: Callable[[], str]) -> str:
    """The name of one lab that is gone after the test."""
    return new_lab_name()
