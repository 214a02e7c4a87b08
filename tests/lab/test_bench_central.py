"""`anchord bench central` with few hosts and little time: real messages, a real daemon."""

from __future__ import annotations

import os

import pytest

from anchord.lab import bench_central
from anchord.lab.bench import BenchError

PROCESSOR = max(os.sched_getaffinity(0))


@pytest.mark.parametrize("store", bench_central.STORES)
def test_a_row_of_the_benchmark(store: str) -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    row = bench_central.measure(store, hosts=300, runs=2, run_s=0.3, processor=PROCESSOR)
    assert (row.name, row.unit, row.n) == (f"central.{store}.300", "1/s", 2)
    assert 0 < row.p50 <= row.p95 == row.max
    assert os.readlink("/proc/thread-self/ns/net") == home


def test_an_answer_that_is_not_accepted_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_central, "HOSTS", (10,))  # what the CMD has room for
    with pytest.raises(BenchError, match=r"11 hosts, store memory: not the answer that was due: .*status=130"):
        bench_central.measure("memory", hosts=11, runs=1, run_s=0.1, processor=PROCESSOR)
