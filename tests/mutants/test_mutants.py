"""``make mutants`` itself: its faults can be made, are always the same, are noticed, and a survivor is no success."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutant_make import chosen, mutants_of
from mutant_run import AREAS, ROOT, Fault, Tree, Verdict, deliberate, reasons, summary
from mutant_state import State

SOURCE = ROOT / "src" / "anchord"
REFUSALS, GROUPS = "tests/protocol/test_refusals.py", "tests/protocol/test_groups.py"
NOTICED = {
    "skip-the-timestamp-check": (f"{REFUSALS}::test_row_52_60_the_order_of_checks_identity_before_time_before_content"),
    "face-before-its-anchor": f"{GROUPS}::test_decision_1_a_group_is_sent_in_one_piece",
}


def verdict(name: str, by: str | None, deliberately: bool = False) -> Verdict:
    return Verdict(Fault(name, "wire/x.py", b"", "x", "wire/x.py:1", "", deliberately), by, "somebody", 0.1)


def test_every_deliberate_fault_can_still_be_made() -> None:
    faults = deliberate()  # exits, and says which, where the code has moved on
    assert len({fault.name for fault in faults}) == len(faults) >= 25
    for fault in faults:
        assert fault.contents != (SOURCE / fault.file).read_bytes()


def test_a_seed_always_means_the_same_slips_and_each_of_them_is_one() -> None:
    first, again, others = (chosen(SOURCE, AREAS, 200, seed) for seed in (1, 1, 2))
    assert first == again
    assert len({mutant.name for mutant in first}) == 200
    assert len({mutant.name for mutant in first} & {mutant.name for mutant in others}) < 50
    for mutant in first[::8]:
        source = (SOURCE / mutant.file).read_bytes()
        assert ast.dump(ast.parse(mutant.applied(source))) != ast.dump(ast.parse(source)), mutant.name


def test_a_name_outlives_what_is_written_above_it() -> None:
    before = b"def f(a, b):\n    return a < b\n"
    one, other = mutants_of("x.py", before), mutants_of("x.py", b"# more\n\n" + before)
    assert [mutant.name for mutant in one] == [mutant.name for mutant in other]
    assert "x.py:f:compare:1" in [mutant.name for mutant in one]


def test_a_fault_in_a_copy_is_noticed_there_and_the_tree_itself_stays_as_it_is(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tests = list(NOTICED.values())
    assert tree.tests(tests)[0] == 0
    for fault in deliberate():
        if fault.name in NOTICED:
            whole = (SOURCE / fault.file).read_bytes()
            tree.put(fault.file, fault.contents)
            assert tree.tests([NOTICED[fault.name]])[0] == 1
            tree.put(fault.file, whole)
            assert (SOURCE / fault.file).read_bytes() == whole


@pytest.mark.parametrize(
    ("verdicts", "known", "status"),
    [
        ([verdict("a", "test")] * 9 + [verdict("b", None)], {"b": "equivalent"}, 0),
        ([verdict("a", "test")] * 9 + [verdict("b", None)], {}, 1),
        ([verdict("a", "test")] * 8 + [verdict("b", None)] * 2, {"b": "equivalent"}, 1),
        ([verdict("a", None, True)] + [verdict("b", "test")] * 9, {"a": "no excuse"}, 1),
        ([verdict("a", "test")], {"a": "equivalent"}, 1),
    ],
    ids=["a-reason", "no-reason", "too-few-caught", "a-deliberate-one", "caught-after-all"],
)
def test_what_fails(verdicts: list[Verdict], known: dict[str, str], status: int) -> None:
    assert summary(verdicts, known) == status


def test_a_survivor_has_a_reason_that_says_something() -> None:
    assert all(len(reason) > 15 for reason in reasons().values())


def test_a_run_goes_on_where_another_has_stopped(tmp_path: Path) -> None:
    root, file = tmp_path / "tree", tmp_path / "state"
    (root / "tests").mkdir(parents=True)
    first = State(file, root, ())
    first.keep("caught", "x", ("test", "somebody", 1.0))
    first.keep("survivor", "y", (None, "", 1.0))
    again = State(file, root, ())
    assert again.found("caught", "x") == ("test", "somebody", 1.0)
    assert again.found("survivor", "y") == (None, "", 1.0)
    assert again.found("caught", "the function has changed") is None
    (root / "tests" / "test_more.py").write_text("a test that may notice the survivor")
    more = State(file, root, ())
    assert more.found("caught", "x") is not None and more.found("survivor", "y") is None
    assert State(None, root, ()).found("caught", "x") is None
    assert State(file, root, ("survivor",)).found("survivor", "y") is not None, "it has a reason"
