"""``make mutants``: does anybody notice when the program is wrong?

    make mutants                                              all deliberate faults, 200 at random
    make mutants ARGS="--random 60 --seed 1 --jobs 2"
    make mutants ARGS="--only skip-the-timestamp-check"       faults whose name begins so, of either kind
    make mutants ARGS="--state /tmp/mutants"                  go on where an interrupted run has stopped

The deliberate faults are in ``deliberate.toml``; those at random are small slips in protocol/ and wire/
(mutant_make.py). Each is put into a copy of the tree, alone, and everything that may notice it is run there, quickest
first: the tests of protocol/ and wire/ that call the function in question, then all others of theirs with the fuzzer's
share, then the simulation. A run that takes HANGS times as long as all tests take without a fault counts as noticed.

Nobody noticed: that is a survivor. Each has a reason in ``survivors.toml``, why it makes no difference or none that is
worth a test. The exit code is 1 if a deliberate fault survives, or a random one without a reason, or if fewer than
CAUGHT_SHARE of those at random are noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

from mutant_make import Mutant, chosen, function_line_at, text_around  # noqa: E402
from mutant_state import State  # noqa: E402

AREAS = ("protocol", "wire")
TESTS = ("tests/protocol", "tests/wire", "tests/golden", "tests/fuzz")
COPIED = ("src", "tests", "pyproject.toml", "README.md", "docs", "examples", "scripts", "Makefile")
DECODERS = ("test_other_decoders", "test_pcapkit", "test_kernel_checksum")  # slow to load, and so not among the first
HANGS = 5  # after so many times as long as without a fault a run is given up
RUN_S = 120.0  # but not before this
FIRST_RUN_S = 1200.0
FIRST = 120  # tests that call the function in question and are run before all others
CAUGHT_SHARE = 0.85
# A fault may make memory grow without end; and nothing of it outlives this process.
_CONFINED = ("prlimit", f"--as={4 << 30}", "setpriv", "--pdeathsig", "KILL")
SIMULATION = ("-m", "anchord", "sim", "check", "--seeds", "60", "--first", "1")


@dataclass(frozen=True)
class Fault:
    """Something to be noticed: the contents of ``file`` (below src/anchord) are to be ``contents``."""

    name: str
    file: str
    contents: bytes
    what: str
    place: str  # the function it is in, as ``file:line``
    text: str  # and what that function says with the fault
    deliberate: bool


@dataclass(frozen=True)
class Verdict:
    """Who noticed a fault; None: nobody. ``by``: the kind of check."""

    fault: Fault
    by: str | None
    which: str
    took_s: float


class Tree:
    """A copy of the tree, where one fault at a time is put in."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.limit_s = FIRST_RUN_S
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, where / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            elif source.exists():
                shutil.copy2(source, where / name)

    def environment(self, **more: str) -> dict[str, str]:
        """The copy's code, and this tool's plugin, before anything that is installed."""
        path = os.pathsep.join((str(self.where / "src"), str(self.where / "tests" / "mutants")))
        return {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", **more}

    def run(self, *arguments: str, **more: str) -> tuple[int | None, str]:
        """Python with ``arguments``; the exit code (None: it took too long) and what it said."""
        process = subprocess.Popen(
            [*_CONFINED, sys.executable, *arguments], cwd=self.where, env=self.environment(**more), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=self.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
        return process.returncode, said

    def tests(self, selected: list[str], **more: str) -> tuple[int | None, str]:
        """pytest, until one fails."""
        file = self.where / "selected.txt"
        file.write_text("\n".join(selected))
        options = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "mutant_plugin")
        return self.run("-m", "pytest", *options, f"@{file}", **more)

    def put(self, file: str, contents: bytes) -> None:
        """Have a file say something else. What Python had compiled of it goes: times of files are too coarse."""
        path = self.where / "src" / "anchord" / file
        path.write_bytes(contents)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()


class Suite:
    """Everything that may notice a fault, and which tests call which function."""

    def __init__(self, tree: Tree) -> None:
        record = tree.where / "called.json"
        _, said = tree.run("-c", "import anchord; print(anchord.__file__)")
        if not said.strip().startswith(str(tree.where)):
            raise SystemExit(f"the copy in {tree.where} is not what is tested: {said}")
        print("without a fault: ", end="", flush=True)
        began = time.monotonic()
        code, said = tree.tests(list(TESTS), MUTANT_RECORD=str(record))
        self.limit_s = max(RUN_S, HANGS * (time.monotonic() - began))
        if code != 0:
            raise SystemExit(f"the tests fail without any fault:\n{said[-3000:]}")
        self.called = json.loads(record.read_text())
        print(f"{len(self.called)} tests pass", flush=True)
        # What fails without a fault says nothing about one.
        self.simulated = tree.run(*SIMULATION[:-4], "--help")[0] == 0 and tree.run(*SIMULATION)[0] == 0
        print(f"the simulation is {'asked as well' if self.simulated else 'left out: not there, or failing by itself'}")

    def first(self, fault: Fault) -> list[str]:
        """The tests to begin with: those that call the function with the fault, the quickest before the others."""
        concerned = [
            (said["seconds"], test)
            for test, said in self.called.items()
            if fault.place in said["functions"]
            and not any(name in test for name in DECODERS)
            and "tests/fuzz" not in test
        ]
        return [test for _, test in sorted(concerned)[:FIRST]]

    def judge(self, tree: Tree, fault: Fault) -> Verdict:
        """Who notices it?"""
        began = time.monotonic()
        whole = (tree.where / "src" / "anchord" / fault.file).read_bytes()
        tree.put(fault.file, fault.contents)
        tree.limit_s = self.limit_s
        try:
            by, which = self._noticed(tree, fault)
        finally:
            tree.put(fault.file, whole)
        return Verdict(fault, by, which, time.monotonic() - began)

    def _noticed(self, tree: Tree, fault: Fault) -> tuple[str | None, str]:
        first = self.first(fault)
        everything = list(TESTS)
        for selected in (first, everything):
            if selected:
                code, said = tree.tests(selected, PYTHONDONTWRITEBYTECODE="1")
                if code is None:
                    return "time", f"a run of the tests did not end within {tree.limit_s:.0f} s"
                if code == pytest.ExitCode.USAGE_ERROR and selected is first:
                    continue  # a parameter in a test's name comes from what the fault has changed: nobody has tested
                if code != 0:
                    return _who(said)
                everything += [f"--deselect={test}" for test in first]
        if self.simulated:
            code, said = tree.run(*SIMULATION, PYTHONDONTWRITEBYTECODE="1")
            if code != 0:
                failed = [line for line in said.splitlines() if "seed" in line]
                return "simulation", failed[0].strip() if failed else said[-200:]
        return None, ""


def _who(said: str) -> tuple[str, str]:
    """What kind of check it was, and which."""
    lines = [line for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not lines:
        return "import", said.strip().splitlines()[-1][:160] if said.strip() else "nothing was said"
    which = lines[0].split(" ", 1)[1].split(" - ")[0]
    if any(name in which for name in DECODERS):
        return "decoder", which
    if "tests/fuzz" in which:
        return "fuzzer", which
    return ("conformance" if "_row_" in which or "decision_" in which else "test"), which


def deliberate() -> list[Fault]:
    """The faults of ``deliberate.toml``. Raises SystemExit where the code has moved on."""
    faults: list[Fault] = []
    for entry in tomllib.loads((HERE / "deliberate.toml").read_text())["fault"]:
        path = ROOT / "src" / "anchord" / entry["file"]
        source = path.read_text()
        if source.count(entry["old"]) != 1:
            raise SystemExit(
                f"{entry['name']}: its text is {source.count(entry['old'])} times in {entry['file']}, expected once: "
                "the code has changed, and deliberate.toml has to follow"
            )
        contents = source.replace(entry["old"], entry["new"]).encode()
        compile(contents, str(path), "exec")
        at = source[: source.index(entry["old"])].count("\n") + 1
        place = f"{entry['file']}:{function_line_at(source, at)}"
        text = text_around(contents.decode(), at)
        faults.append(Fault(entry["name"], entry["file"], contents, entry["breaks"], place, text, True))
    return faults


def at_random(count: int, seed: int) -> list[Fault]:
    """``count`` slips in protocol/ and wire/."""
    return [_fault(mutant) for mutant in chosen(ROOT / "src" / "anchord", AREAS, count, seed)]


def _fault(mutant: Mutant) -> Fault:
    contents = mutant.applied((ROOT / "src" / "anchord" / mutant.file).read_bytes())
    what = f"line {mutant.line}: {_short(mutant.old)} -> {_short(mutant.new)}"
    place, text = f"{mutant.file}:{mutant.function_line}", text_around(contents.decode(), mutant.line)
    return Fault(mutant.name, mutant.file, contents, what, place, text, False)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 90 else flat[:87] + "..."


def reasons() -> dict[str, str]:
    """Why each known survivor may survive."""
    entries = tomllib.loads((HERE / "survivors.toml").read_text()).get("survivor", [])
    return {entry["name"]: entry["reason"] for entry in entries}


def judged(faults: list[Fault], suite: Suite, trees: list[Tree], state: State) -> list[Verdict]:
    """All verdicts, told as they come."""
    free: Queue[Tree] = Queue()
    for tree in trees:
        free.put(tree)

    def judge(fault: Fault) -> Verdict:
        earlier = state.found(fault.name, fault.text)
        if earlier is not None:
            return Verdict(fault, *earlier)
        tree = free.get()
        try:
            verdict = suite.judge(tree, fault)
        finally:
            free.put(tree)
        state.keep(fault.name, fault.text, (verdict.by, verdict.which, verdict.took_s))
        return verdict

    def tell(verdict: Verdict) -> Verdict:
        fault = verdict.fault
        caught = f"caught by {verdict.by}: {verdict.which}" if verdict.by else "SURVIVED"
        print(f"{fault.name}\n    {fault.what}\n    {caught} ({verdict.took_s:.1f} s)", flush=True)
        return verdict

    with ThreadPoolExecutor(len(trees)) as pool:
        return [tell(verdict) for verdict in pool.map(judge, faults)]


def summary(verdicts: list[Verdict], known: dict[str, str]) -> int:
    """What is said last, and the exit code."""
    status = 0
    print()
    for kind, chosen_ones in (("deliberate", [v for v in verdicts if v.fault.deliberate]),
                              ("at random", [v for v in verdicts if not v.fault.deliberate])):  # fmt: skip
        if not chosen_ones:
            continue
        by = Counter(verdict.by for verdict in chosen_ones)
        survivors = [verdict.fault for verdict in chosen_ones if verdict.by is None]
        share = 1 - len(survivors) / len(chosen_ones)
        counted = ", ".join(f"{n} by {name}" for name, n in by.most_common() if name is not None)
        print(f"{kind}: {len(chosen_ones) - len(survivors)} of {len(chosen_ones)} caught ({share:.1%}): {counted}")
        for fault in survivors:
            reason = known.get(fault.name) if kind == "at random" else None
            print(f"    survived: {fault.name}\n        {fault.what}\n        {reason or 'WITHOUT A REASON'}")
            status |= reason is None
        if kind == "at random" and share < CAUGHT_SHARE:
            print(f"fewer than {CAUGHT_SHARE:.0%} are caught")
            status = 1
    unused = set(known) & {verdict.fault.name for verdict in verdicts if verdict.by is not None}
    if unused:
        print(f"caught, and yet in survivors.toml: {', '.join(sorted(unused))}")
        status = 1
    return status


def main() -> int:
    """Exit code 1: somebody should have noticed something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=200, help="how many slips to make")
    parser.add_argument("--skip", type=int, default=0, help="of these, how many at the beginning are left out")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at the same time")
    parser.add_argument("--only", default="", help="faults whose name begins so")
    parser.add_argument("--state", type=Path, help="a file of verdicts: what is there is not tried again")
    parser.add_argument("--list", action="store_true", help="say what would be tried")
    options = parser.parse_args()
    faults = [*deliberate(), *at_random(options.random, options.seed)[options.skip :]]
    faults = [fault for fault in faults if fault.name.startswith(options.only)]
    if options.list:
        print("\n".join(f"{fault.name}\n    {fault.what}" for fault in faults))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as where:
        trees = [Tree(Path(where, str(number))) for number in range(options.jobs)]
        suite = Suite(trees[0])
        for tree in trees[1:]:
            tree.tests(["--collect-only", *TESTS])  # compiles everything, once
        state = State(options.state, trees[0].where, reasons())
        return summary(judged(faults, suite, trees, state), reasons())


if __name__ == "__main__":
    sys.exit(main())
