"""For all tests: as root a skipped test is a failure, because as root this machine can run every one of them."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# Other decoders' helpers assert, and are no test modules.
pytest.register_assert_rewrite("eyes_pcapkit", "eyes_scapy")

# A slow or busy machine is no failure.
settings.register_profile("anchord", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anchord")

AS_ROOT = os.geteuid() == 0


def pytest_addoption(parser: pytest.Parser) -> None:
    """One flag writes all golden files anew."""
    parser.addoption("--rewrite-golden", action="store_true", help="write golden files anew instead of comparing")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself fails; one that is expected to fail (xfail) is none of these."""
    report = yield
    if AS_ROOT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, although this is root: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself (importorskip) fails as well."""
    report = yield
    if AS_ROOT and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"skipped, although this is root: {report.longrepr}"
    return report
