"""docs/conformance.md agrees with code, tests, vectors and README; `make conformance` says whether the tests pass."""

from __future__ import annotations

import re

import conformance
import pytest

PAGE = conformance.PAGE.read_text()
TESTS = conformance.collected()
SHOWN = "protocol/test_a.py::test_row_7_8_it_does"
LINE = f"| 7 | 3.2(2) | D | C | forward it | met | `protocol.central.Central.restore` | `{SHOWN}` |"


def test_the_page_says_nothing_that_is_not_so() -> None:
    assert conformance.problems(PAGE, TESTS) == []


def test_the_page_is_what_would_be_generated() -> None:
    assert conformance.renewed(PAGE, TESTS) == PAGE, "run `make conformance`"


def test_every_row_is_shown_or_an_exception() -> None:
    assert [row.number for row in conformance.rows_of(PAGE) if row.kind == conformance.UNSHOWN] == []


def test_the_readme_lists_every_must_that_is_deliberately_not_met() -> None:
    readme = (conformance.ROOT / "README.md").read_text()
    section = readme.partition("\n## What it deliberately does not do\n")[2].partition("\n## ")[0]
    named = {n for names in re.findall(r"rows? ((?:\d+(?:, | and )?)+)", section) for n in re.findall(r"\d+", names)}
    musts = [
        row.number for row in conformance.rows_of(PAGE) if "M" in row.level and row.kind.startswith("deliberately")
    ]
    assert sorted(named, key=int) == musts


def test_the_vectors_of_the_page_are_those_of_the_tests() -> None:
    shown = re.findall(r"\(`([\w-]+\.hex)`\):\n\n```\n([0-9a-f]+)\n```", PAGE)
    assert len(shown) == 5
    for name, octets in shown:
        lines = (conformance.TESTS / "vectors" / name).read_text().splitlines()
        assert "".join("".join(line.partition("#")[0].split()) for line in lines) == octets


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("test_row_12_it_does", {"12"}),
        ("test_rows_22_to_25_111_they_do", {"22", "23", "24", "25", "111"}),
        ("test_rows_131_and_132_a_peer", {"131", "132"}),
        ("test_row_16_decision_9_10_both", {"16", "D9", "D10"}),
        ("test_borrow_3_of_them", set()),
        ("test_nothing", set()),
    ],
)
def test_a_test_claims_rows_by_its_name(name: str, rows: set[str]) -> None:
    assert conformance.claims(name) == rows


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Central.restore", "Central.nothing", "no such code: protocol.central.Central.nothing"),
        ("protocol.central.Central.restore", "protocol.nothing", "no such code: protocol.nothing"),
        ("it_does", "it_did", "claims protocol/test_a.py::test_row_7_8_it_did, and no test of that name"),
        ("`protocol.central.Central.restore`", "", "no code or no test is named"),
        (f"`{SHOWN}`", "", "no code or no test is named"),
        (" met ", " deliberately not ", "for what reason?"),
        (" met ", " done ", "no such status: done"),
    ],
)
def test_what_is_not_so_is_named(old: str, new: str, said: str) -> None:
    tests = {SHOWN: frozenset({"7", "8"})}
    assert not [line for line in conformance.problems(LINE, tests) if "row 7" in line]
    (found,) = [line for line in conformance.problems(LINE.replace(old, new), tests) if "row 7" in line]
    assert said in found


@pytest.mark.parametrize(
    ("passed", "status"), [({SHOWN: True}, "met"), ({SHOWN: False}, "not shown"), ({}, "not shown")]
)
def test_a_row_is_met_only_if_its_tests_ran_and_passed(passed: dict[str, bool], status: str) -> None:
    for before in ("met", "not shown"):
        line = LINE.replace(" met ", f" {before}; with a remark ")
        (row,) = conformance.rows_of(conformance.renewed(line, {SHOWN: frozenset({"7"})}, passed))
        assert row.status == f"{status}; with a remark"
