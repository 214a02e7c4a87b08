"""``make fuzz``: inputs that nobody should send, by the million, into every kind of node (fuzz_episode.py).

    make fuzz ARGS="--count 5000000 --seed 1 --jobs 2"
    make fuzz ARGS="--target gateway-proxy --seed 17 --count 1"     one episode again

A failure prints the line that plays its episode again, and what is left of it when all that does not matter has been
taken away: that goes into a file under tests/vectors/fuzz, where a test replays it for good.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "protocol"), str(HERE.parent / "wire")]

from fuzz_directory import TARGET as DIRECTORY  # noqa: E402
from fuzz_directory import lines_into_a_directory  # noqa: E402
from fuzz_episode import Episode, Failure, Tally, minimised  # noqa: E402
from fuzz_worlds import WORLDS  # noqa: E402

TARGETS = (*WORLDS, DIRECTORY)
EPISODE, LONG_EPISODE = 250, 5000  # inputs; one in LONG_EVERY is long, so that what grows has time to
LONG_EVERY = 50
REPORT_S = 10.0
RSS_GROWTH_BYTES = 96 << 20  # the interpreter's own caches of flag combinations: at most 30 MB (wire/messages.py)


def length_of(seed: int) -> int:
    """How many inputs an episode has: the same whenever it is played."""
    return LONG_EPISODE if seed % LONG_EVERY == LONG_EVERY - 1 else EPISODE


def play(target: str, seed: int) -> tuple[Tally, Failure | None, int]:
    """One episode, its failure if there is one, and how much memory this process has (bytes)."""
    tally, failure = Tally(), None
    try:
        if target == DIRECTORY:
            lines_into_a_directory(seed, length_of(seed), tally)
        else:
            Episode(target, seed, length_of(seed), tally).play()
    except Failure as found:
        failure = found
    return tally, failure, resident_bytes()


def resident_bytes() -> int:
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(memory: dict[int, list[int]]) -> int:
    """How many bytes the process that has grown most has gained, once a fifth of its episodes had warmed it up."""
    return max((max(all_of) - all_of[len(all_of) // 5] for all_of in memory.values()), default=0)


def _play(job: tuple[str, int]) -> tuple[str, int, int, Tally, Failure | None, int]:
    logging.disable(logging.CRITICAL)
    return (*job, os.getpid(), *play(*job))


def jobs(targets: list[str], first: int) -> Iterator[tuple[str, int]]:
    """Episodes, without end: each target in turn."""
    seed = first
    while True:
        yield from ((target, seed) for target in targets)
        seed += 1


def report(failure: Failure) -> None:
    """The line that plays it again, and the shortest story that fails in the same way."""
    print(f"\nFAILED {failure.target} seed {failure.seed}: {failure.what}")
    print(f'again: make fuzz ARGS="--target {failure.target} --seed {failure.seed} --count 1"')
    if failure.target != DIRECTORY:
        failure = minimised(failure)
    print(f"minimised to {len(failure.steps)} steps, fit for tests/vectors/fuzz:")
    print("\n".join((f"world {failure.target} {failure.seed}", *failure.steps)), flush=True)


def main() -> int:
    """Exit code 1: something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many inputs, about")
    parser.add_argument("--seed", type=int, default=1, help="of the first episode of each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this kind of node (may be repeated)")
    chosen = parser.parse_args()
    began = told = time.monotonic()
    inputs = refused = malformed = episodes = 0
    causes: Counter[str] = Counter()
    failures: dict[str, Failure] = {}
    memory: dict[int, list[int]] = {}
    pool = multiprocessing.get_context("fork").Pool(chosen.jobs)
    stories = pool.imap_unordered(_play, _until(chosen, lambda: inputs))
    for _, _, process, tally, failure, resident in stories:
        episodes += 1
        inputs, refused, malformed = inputs + tally.inputs, refused + tally.refused, malformed + tally.malformed
        causes.update(tally.causes)
        memory.setdefault(process, []).append(resident)
        if failure is not None and failure.key() not in failures:
            failures[failure.key()] = failure
            report(failure)
        if time.monotonic() - told >= REPORT_S:
            told = time.monotonic()
            print(f"{inputs:,} inputs, {inputs / (told - began):,.0f} a second, {len(failures)} failures", flush=True)
    pool.terminate()
    grown = growth(memory)
    took_s = time.monotonic() - began
    print(
        f"{inputs:,} inputs in {episodes:,} episodes, {took_s:.0f} s, {inputs / took_s:,.0f} a second; "
        f"{refused:,} refused by {len(causes)} causes ({malformed:,} not even read); "
        f"memory grown by {grown / 2**20:.1f} MB; {len(failures)} failures"
    )
    return 1 if failures or grown > RSS_GROWTH_BYTES else 0


def _until(chosen: argparse.Namespace, inputs: object) -> Iterator[tuple[str, int]]:
    planned = 0
    for job in jobs(chosen.target or list(TARGETS), chosen.seed):
        if planned >= chosen.count:
            return
        planned += length_of(job[1])
        yield job


if __name__ == "__main__":
    sys.exit(main())
