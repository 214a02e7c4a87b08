"""The embedded store: what was committed is there, whatever happens to the process, the file or the disk."""

from __future__ import annotations

import os
import random
import select
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchord.store import sqlite as embedded
from anchord.store.interface import StoreError
from anchord.store.memory import MemoryStore
from anchord.store.sqlite import SqliteStore

KILLS = 100
PATIENCE_S = 10.0

json_value = st.dictionaries(
    st.text(max_size=8), st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text()), max_size=4
)
change = st.tuples(st.sampled_from(["session", "resting"]), st.text(max_size=3), st.one_of(st.none(), json_value))


def rows(tables: dict[str, dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """What is kept, whether or not empty tables are shown."""
    return {(table, key): value for table, kept in tables.items() for key, value in kept.items()}


@given(commits=st.lists(st.lists(change, max_size=6), max_size=5))
def test_what_was_committed_is_loaded_and_the_last_word_on_a_key_wins(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[tuple[str, str, Any]]]
) -> None:
    path = tmp_path_factory.mktemp("store") / "node.db"
    model: dict[tuple[str, str], Any] = {}
    with closing(SqliteStore(path)) as store, closing(MemoryStore()) as memory:
        for changes in commits:
            store.commit(changes)
            memory.commit(changes)
            for table, key, value in changes:
                model.pop((table, key), None)
                if value is not None:
                    model[table, key] = value
        assert rows(store.load()) == rows(memory.load()) == model
    with closing(SqliteStore(path)) as store:
        assert rows(store.load()) == model


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_store_is_made_where_there_is_none(tmp_path: Path, synchronous: bool) -> None:
    path = tmp_path / "not" / "there" / "gw1.db"
    with closing(SqliteStore(path, synchronous=synchronous)) as store:
        assert store.load() == {}
        store.commit([("session", "a", {"prefix": "2001:db8:a1::/64"}), ("session", "b", {"at": 1.5})])
        store.commit([("session", "a", None), ("session", "never there", None)])
        store.flush()
    with closing(SqliteStore(path)) as store:
        assert store.load() == {"session": {"b": {"at": 1.5}}}


def test_what_is_not_flushed_yet_is_loaded_too(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "a.db")) as store:
        store.commit([("session", "a", {"n": 1}), ("session", "b", {"n": 1})])
        store.flush()
        store.commit([("session", "a", {"n": 2}), ("session", "b", None)])
        assert rows(store.load()) == {("session", "a"): {"n": 2}}


def test_a_store_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(SqliteStore(path)) as store:
        store.commit([("session", "a", {"n": 1})])
        with pytest.raises(StoreError, match=rf"{path}: is in use by another process"):
            SqliteStore(path)
        store.commit([("session", "b", {"n": 2})])
    with closing(SqliteStore(path)) as store:
        assert rows(store.load()) == {("session", "a"): {"n": 1}, ("session", "b"): {"n": 2}}


def test_put_and_forgotten_in_one_commit(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "a.db")) as store:
        store.commit([("t", "k", {"n": 1}), ("t", "k", None)])
        assert rows(store.load()) == {}
        store.commit([("t", "k", {"n": 1}), ("t", "k", None), ("t", "k", {"n": 2})])
        assert rows(store.load()) == {("t", "k"): {"n": 2}}


# Moving into the database


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flush moves, unless a test says when."""
    monkeypatch.setattr(embedded, "MOVE_BYTES", 0)


def test_what_is_beside_the_database_is_moved_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MOVE_BYTES", 5_000)
    path = tmp_path / "a.db"

    def moved() -> int:
        with closing(sqlite3.connect(path)) as database:
            return int(database.execute("SELECT count(*) FROM kept").fetchone()[0])

    with closing(SqliteStore(path)) as store:
        for number in range(3):
            store.commit([("t", str(number), {"text": "x" * 1000})])
            store.flush()
            assert moved() == 0 and len(rows(store.load())) == number + 1
        store.commit([("t", "large", {"text": "x" * 2000}), ("t", "0", None)])
        store.flush()
        assert moved() == 3
        store.commit([("t", "large", None)])
        store.flush()
        assert moved() == 3 and len(rows(store.load())) == 2
    assert moved() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_the_log_is_moved_into_the_database_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CHECKPOINT_BYTES", 100_000)
    path = tmp_path / "a.db"
    log = Path(f"{path}-wal")
    with closing(SqliteStore(path)) as store:
        store.commit([("t", "small", {})])
        store.flush()
        assert log.stat().st_size > 0
        before = path.stat().st_size
        store.commit([("t", str(key), {"text": "x" * 1000}) for key in range(200)])
        store.flush()
        assert log.stat().st_size == 0 and path.stat().st_size > before
        store.commit([("t", "after", {"n": 1})])
        assert len(rows(store.load())) == 202
    assert not log.exists()
    with closing(SqliteStore(path)) as store:
        assert len(rows(store.load())) == 202


def test_flushed_by_another_thread_while_commits_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CHECKPOINT_BYTES", 20_000)
    with closing(SqliteStore(tmp_path / "a.db")) as store:
        ended = threading.Event()

        def flush() -> None:
            while not ended.is_set():
                store.flush()

        flusher = threading.Thread(target=flush)
        flusher.start()
        try:
            for number in range(500):
                store.commit([("t", "same", {"n": number}), ("t", str(number), {"text": "x" * 200})])
        finally:
            ended.set()
            flusher.join()
        kept = rows(store.load())
        assert len(kept) == 501 and kept["t", "same"] == {"n": 499}


def test_what_the_database_has_is_no_longer_kept_beside_it(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "a.db")) as store:
        for number in range(5):
            store.commit([("t", "a", {"n": number})])
            store.flush()
        (recent,) = tmp_path.glob("a.db-recent.*")
        assert recent.read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


# Trouble


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "anct-tiny", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_said_and_changes_nothing(tiny: Path) -> None:
    path = tiny / "gw1.db"
    with closing(SqliteStore(path)) as store:
        store.commit([("session", "a", {"n": 1}), ("session", "b", {"n": 1})])
        with (tiny / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(StoreError, match=rf"{path}: cannot be written: No space left on device"):
            for number in range(100):
                store.commit([("session", "a", {"n": number, "text": "x" * 5000}), ("session", "b", None)])
        kept = rows(store.load())
        assert set(kept) == {("session", "a"), ("session", "b")} or set(kept) == {("session", "a")}
        (tiny / "ballast").unlink()
        store.commit([("session", "c", {"n": 3})])
        assert rows(store.load()) == {**kept, ("session", "c"): {"n": 3}}
    with closing(SqliteStore(path)) as store:
        assert rows(store.load()) == {**kept, ("session", "c"): {"n": 3}}


def test_a_commit_of_several_changes_that_fails_changes_none(tiny: Path) -> None:
    with closing(SqliteStore(tiny / "a.db")) as store:
        store.commit([("t", "a", {"n": 1}), ("t", "b", {"n": 1})])
        with pytest.raises(StoreError):
            store.commit([("t", "a", {"n": 2}), ("t", "b", None), ("t", "large", {"text": "x" * 500_000})])
        assert rows(store.load()) == {("t", "a"): {"n": 1}, ("t", "b"): {"n": 1}}


def test_a_value_that_is_no_json_changes_nothing(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "a.db")) as store:
        store.commit([("t", "a", {"n": 1})])
        with pytest.raises(TypeError):
            store.commit([("t", "a", {"n": 2}), ("t", "b", {"n": b"bytes"})])
        store.commit([("t", "c", {})])
        assert rows(store.load()) == {("t", "a"): {"n": 1}, ("t", "c"): {}}


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is somebody's letter\n" * 100)
    with pytest.raises(StoreError, match=rf"{path}: cannot be used as a store: .*move it away to begin anew"):
        SqliteStore(path)
    assert path.read_bytes() == b"this is somebody's letter\n" * 100


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE kept (something TEXT)")
        theirs.execute("INSERT INTO kept VALUES ('else')")
        theirs.commit()
    with pytest.raises(StoreError, match=rf"{path}: is a database of something else; move it away"):
        SqliteStore(path)
    with closing(sqlite3.connect(path)) as theirs:
        assert theirs.execute("SELECT * FROM kept").fetchall() == [("else",)]
        assert theirs.execute("PRAGMA user_version").fetchone() == (0,)


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(SqliteStore(path)) as store:
        store.commit([("t", "a", {"n": 1})])
    with closing(sqlite3.connect(path)) as later:
        later.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match=rf"{path}: written by a newer version \(schema 99, this one knows 1\)"):
        SqliteStore(path)
    with closing(sqlite3.connect(path)) as later:
        assert later.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_corrupt_store_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(SqliteStore(path)) as store:
        store.commit([("t", str(key), {"text": "x" * 100}) for key in range(500)])
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + random.Random(1).randbytes(len(whole) - 4096))
    with pytest.raises(StoreError, match=rf"{path}: cannot be .*move it away to begin anew"):
        SqliteStore(path).load()


def test_a_value_that_was_damaged_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(SqliteStore(path)) as store:
        store.commit([("t", "a", {"n": 1})])
    with closing(sqlite3.connect(path)) as damaged:
        damaged.execute("UPDATE kept SET value = '{'")
        damaged.commit()
    with (
        closing(SqliteStore(path)) as store,
        pytest.raises(StoreError, match=rf"{path}: cannot be read: .*move it away to begin anew"),
    ):
        store.load()


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=rf"^{tmp_path}/file: File exists; .*correct state in node.toml$"):
        SqliteStore(tmp_path / "file" / "a.db")
    with pytest.raises(StoreError, match=r"^/proc/nix: No such file or directory; .*correct state in node.toml$"):
        SqliteStore(Path("/proc/nix/a.db"))
    with pytest.raises(StoreError, match=r"cannot be used as a store: unable to open .*correct state in node.toml$"):
        SqliteStore(Path("/proc/a.db"))  # there is such a directory, and nothing can be made in it


@pytest.mark.parametrize("torn", [b'[["t", "b", {"n"', b"\0" * 100 + b"\n", b"17\n", b"[[1, 2]]\n", b'{"n": 1}\n'])
def test_a_commit_that_was_not_written_to_its_end_is_none(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "a.db"
    (tmp_path / "a.db-recent.7").write_bytes(b'[["t", "a", {"n": 1}]]\n' + torn + b'\n[["t", "c", {"n": 3}]]\n')
    for _ in range(2):
        with closing(SqliteStore(path)) as store:
            assert rows(store.load()) == {("t", "a"): {"n": 1}}
            store.flush()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_generations_count_in_the_order_in_which_they_were_begun(tmp_path: Path) -> None:
    for number in (9, 10, 11):
        (tmp_path / f"a.db-recent.{number}").write_text(f'[["t", "a", {{"n": {number}}}]]\n')
    with closing(SqliteStore(tmp_path / "a.db")) as store:
        assert rows(store.load()) == {("t", "a"): {"n": 11}}


# Crashes


def write_for_ever(path: Path, acknowledge: int) -> None:
    """Commit counters, two keys at once, and write each to ``acknowledge`` when it is committed."""
    store = SqliteStore(path)
    kept = store.load().get("t", {})
    number = kept["one"]["n"] if kept else 0
    ended = threading.Event()

    def flush() -> None:
        while not ended.wait(0.001):
            store.flush()

    threading.Thread(target=flush, daemon=True).start()
    while True:
        number += 1
        text = "x" * (number % 700)
        store.commit(
            [("t", "one", {"n": number, "text": text}), ("t", "two", {"n": number}), ("t", str(number % 50), {})]
        )
        os.write(acknowledge, number.to_bytes(8, "big"))


def start_writer(path: Path) -> tuple[int, int]:
    """A process that writes for ever: its number, and where its acknowledgements come from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        write_for_ever(path, writing)
    finally:
        os._exit(1)


def last_acknowledged(acknowledged: int, until: int) -> int:
    """Read acknowledgements up to the ``until``-th, at least; the last number read."""
    last = 0
    while until > 0:
        assert select.select([acknowledged], [], [], PATIENCE_S)[0], "the writer stopped"
        data = os.read(acknowledged, 8 * 64)
        assert data, "the writer died"
        last, until = int.from_bytes(data[-8:], "big"), until - len(data) // 8
    return last


@pytest.mark.parametrize("move_bytes", [0, 10_000])
def test_every_acknowledged_commit_survives_being_killed_at_any_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move_bytes: int
) -> None:
    monkeypatch.setattr(embedded, "MOVE_BYTES", move_bytes)
    monkeypatch.setattr(embedded, "CHECKPOINT_BYTES", 50_000)  # so that many are killed while the log is moved
    path = tmp_path / "gw1.db"
    draw = random.Random(8885)
    for _ in range(KILLS):
        pid, acknowledged = start_writer(path)
        last = 0
        try:
            last = last_acknowledged(acknowledged, draw.randrange(1, 60))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        rest = b"".join(iter(lambda: os.read(acknowledged, 1 << 16), b""))  # noqa: B023
        os.close(acknowledged)
        with closing(SqliteStore(path)) as store:
            kept = store.load()["t"]
        assert kept["one"]["n"] == kept["two"]["n"], "half a commit"
        last = int.from_bytes(rest[-8:], "big") if rest else last
        # One more may have been committed whose acknowledgement was not written any more.
        assert last <= kept["one"]["n"] <= last + 1


def test_killed_while_it_is_made_a_store_can_be_made_again(tmp_path: Path) -> None:
    draw = random.Random(22)
    for number in range(KILLS // 2):
        path = tmp_path / f"{number}.db"
        pid, acknowledged = start_writer(path)
        select.select([acknowledged], [], [], draw.uniform(0, 0.004))  # it takes about 3 ms
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(acknowledged)
        with closing(SqliteStore(path)) as store:
            store.commit([("t", "after", {})])
