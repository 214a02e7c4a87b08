"""A pytest plugin for ``make mutants``: which functions each test calls, and properties that are tried without delay.

With MUTANT_RECORD set to a file name, it writes there, as JSON, by test: seconds, and every function of protocol/ and
wire/ that was called. Examples are the same in each run, and what fails is not made smaller: one failure is enough.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

RECORD = os.environ.get("MUTANT_RECORD")
_called: dict[str, dict[str, Any]] = {}


def pytest_configure() -> None:
    """After this no conftest changes how properties are tried."""
    settings.register_profile(
        "mutants", deadline=None, database=None, derandomize=True, phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    settings.load_profile("mutants")
    # Past the metaclass of settings, which lets nobody do this.
    type.__setattr__(settings, "load_profile", staticmethod(lambda name: None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """One test, with its fixtures."""
    if RECORD is None:
        return (yield)
    functions: set[str] = set()

    def called(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            name = frame.f_code.co_filename
            if "/src/anchord/protocol/" in name or "/src/anchord/wire/" in name:
                functions.add(f"{name.partition('/src/anchord/')[2]}:{frame.f_code.co_firstlineno}")

    began = time.perf_counter()
    sys.setprofile(called)
    try:
        return (yield)
    finally:
        sys.setprofile(None)
        _called[item.nodeid] = {"seconds": time.perf_counter() - began, "functions": sorted(functions)}


def pytest_sessionfinish() -> None:
    """Write down what was called."""
    if RECORD is not None:
        Path(RECORD).write_text(json.dumps(_called))
