"""docs/conformance.md and the tests: `make conformance` runs the tests that the page names and renews it.

A test claims rows and decisions by its name: ``test_row_12_...``, ``test_rows_22_to_25_...``,
``test_row_16_decision_9_...``.
In the page, what a row requires and the code that does it are written by hand, and so is a status other than *met*. The
rest is made here: *met* is said of a row when every test that claims it has run and passed; the column of tests gets
their names, the first few of them; the table at the end of the page is counted. A name is put into the column but never
taken out: a test that is named there and is gone, or did not run, is an error until somebody decides what that means.
"""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGE = ROOT / "docs/conformance.md"
SOURCE = ROOT / "src/anchord"

ROWS = tuple(str(number) for number in range(1, 152))
DECISIONS = tuple(f"D{number}" for number in range(1, 38))
MET, UNSHOWN, IN_PART = "met", "not shown", ", in part"
# What may be said of a row by hand, with a reason behind a colon. "In part": the rest of the row is met, and shown.
EXCEPTIONS = ("not applicable", "deliberately not")
NAMED = 3  # tests that a row names at most by itself; how many more there are is said behind them
_CLAIM = re.compile(r"(?<![^_])(row|decision)s?((?:_(?:and_|to_)?\d+)+)(?![^_])")


def claims(name: str) -> frozenset[str]:
    """The rows ("12") and decisions ("D12") that a test of this name claims to show."""
    found: set[str] = set()
    for kind, numbers in _CLAIM.findall(name):
        last = 0
        for joint, digits in re.findall(r"_(and_|to_)?(\d+)", numbers):
            number = int(digits)
            first = last + 1 if joint == "to_" else number
            found |= {f"{'D' if kind == 'decision' else ''}{n}" for n in range(first, number + 1)}
            last = number
    return frozenset(found)


def collected(root: Path = TESTS) -> dict[str, frozenset[str]]:
    """Every test that claims something, as ``protocol/test_relay.py::test_row_...``, with what it claims."""
    tests = {}
    for path in sorted(root.rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and (rows := claims(node.name)):
                tests[f"{path.relative_to(root)}::{node.name}"] = rows
    return tests


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the page; the last three columns are status, code and tests."""

    cells: tuple[str, ...]

    @property
    def number(self) -> str:
        """As it is claimed: "12", "D12"."""
        return self.cells[0]

    @property
    def level(self) -> str:
        """M, S, m, D and combinations; nothing for a decision."""
        return "" if self.number.startswith("D") else self.cells[2]

    @property
    def status(self) -> str:
        """*met* perhaps with a remark behind a semicolon, *not shown*, or an exception with its reason."""
        return self.cells[-3]

    @property
    def code(self) -> list[str]:
        """``protocol.central.Central.restore`` for each place."""
        return re.findall(r"`([^`]+)`", self.cells[-2])

    @property
    def tests(self) -> list[str]:
        """The tests that the page names."""
        return re.findall(r"`([^`]+)`", self.cells[-1])

    @property
    def needs_tests(self) -> bool:
        """Whether there is something to show: what is not done at all cannot be."""
        return not self.status.startswith(EXCEPTIONS) or IN_PART in self.status.partition(":")[0]

    @property
    def kind(self) -> str:
        """What is counted: the status without reason or remark."""
        return re.split("[:;]", self.status)[0]

    def __str__(self) -> str:
        return f"| {' | '.join(self.cells)} |"


def rows_of(page: str) -> list[Row]:
    """All rows of the page that have a number and a status."""
    return [row for line in page.splitlines() if (row := _row(line)) is not None]


def _row(line: str) -> Row | None:
    if re.match(r"\| D?\d+ \|", line) is None or line.count(" | ") < 5:
        return None
    return Row(tuple(cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split(" | ")))


def problems(page: str, tests: Mapping[str, frozenset[str]], source: Path = SOURCE) -> list[str]:
    """What the page says that is not so, without running anything."""
    rows = rows_of(page)
    wrong = []
    if [row.number for row in rows] != [*ROWS, *DECISIONS]:
        wrong.append("the rows of the page are not 1 to 151 and D1 to D37, each once and in order")
    for row in rows:
        if row.kind.removesuffix(IN_PART) not in (MET, UNSHOWN, *EXCEPTIONS):
            wrong.append(f"row {row.number}: no such status: {row.kind}")
        elif row.kind not in (MET, UNSHOWN) and not row.status.partition(":")[2].strip():
            wrong.append(f"row {row.number}: {row.kind}, but for what reason?")
        if row.needs_tests and not (row.code and row.tests):
            wrong.append(f"row {row.number}: {row.kind}, but no code or no test is named")
        wrong += [f"row {row.number}: no such code: {place}" for place in row.code if not _exists(source, place)]
        for test in row.tests:
            if row.number not in tests.get(test, frozenset()):
                wrong.append(f"row {row.number}: claims {test}, and no test of that name claims the row")
    return wrong


def _exists(source: Path, place: str) -> bool:
    """Whether ``place`` is a module below ``source`` or something that a module there defines."""
    parts = place.split(".")
    for length in range(len(parts), 0, -1):
        path = source.joinpath(*parts[:length]).with_suffix(".py")
        if path.is_file():
            return length == len(parts) or ".".join(parts[length:]) in _names(path)
    return False


@cache
def _names(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes, their methods, and constants."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            inside = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{each.name}" for each in inside if isinstance(each, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


def renewed(page: str, tests: Mapping[str, frozenset[str]], passed: Mapping[str, bool] | None = None) -> str:
    """The page with its tests and counts made anew; with ``passed``, by test, also what is met."""
    lines = []
    for line in page.splitlines():
        row = _row(line)
        lines.append(line if row is None else str(_renewed_row(row, tests, passed)))
    text = "\n".join(lines) + "\n"
    counts = _counts(rows_of(text))
    return re.sub(r"(?<=<!-- counted -->\n).*?(?=<!-- end -->)", lambda _: counts, text, flags=re.DOTALL)


def _renewed_row(row: Row, tests: Mapping[str, frozenset[str]], passed: Mapping[str, bool] | None) -> Row:
    found = [test for test, claimed in tests.items() if row.number in claimed]
    named = [*row.tests, *(test for test in found if test not in row.tests)][: max(NAMED, len(row.tests))]
    cell = "<br>".join(f"`{test}`" for test in named)
    if more := len([test for test in found if test not in named]):
        cell += f"<br>and {more} more"
    status = row.status
    if passed is not None and row.kind in (MET, UNSHOWN):
        shown = bool(row.tests) and all(passed.get(test, False) for test in (*row.tests, *found))
        status = (MET if shown else UNSHOWN) + status.removeprefix(row.kind)
    return Row((*row.cells[:-3], status, row.cells[-2], cell))


def _counts(rows: Iterable[Row]) -> str:
    kinds: dict[str, list[int]] = {kind: [0, 0] for kind in (MET, UNSHOWN)}
    for row in rows:
        kinds.setdefault(row.kind, [0, 0])[row.number.startswith("D")] += 1
    lines = [f"| {kind} | {requirements} | {decisions} |" for kind, (requirements, decisions) in kinds.items()]
    return "\n".join(["| status | rows | decisions |", "|---|---|---|", *lines, ""])


class Outcomes:
    """A pytest plugin: whether each test function ran and passed, with every set of parameters."""

    def __init__(self) -> None:
        self.passed: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for set-up, call and tear-down of each test."""
        test = report.nodeid.partition("[")[0].removeprefix("tests/")
        # Skipped is not passed; one that passes although it is expected to fail is not either.
        fine = report.passed and not hasattr(report, "wasxfail")
        if report.when == "call" or not fine:
            self.passed[test] = self.passed.get(test, True) and fine


def main() -> int:
    """Renew the page; 1 if something that it says was not shown."""
    started = time.monotonic()
    page, tests = PAGE.read_text(), collected()
    wrong = problems(renewed(page, tests), tests)
    outcomes = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", *(f"{TESTS}/{test}" for test in tests), *sys.argv[1:]], [outcomes])
    wrong += [f"did not run or did not pass: {test}" for test in tests if not outcomes.passed.get(test, False)]
    PAGE.write_text(renewed(page, tests, outcomes.passed))
    for line in wrong:
        print(f"conformance: {line}")
    took = time.monotonic() - started
    print(f"conformance: {len(tests)} tests, {len(wrong)} problems, {took:.0f} s; see docs/conformance.md")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
