"""A directory that cannot start says why. What it does when it runs is in tests/lab/test_with_a_directory.py."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchord.daemon.directory_wire import LINE_BYTES, Lines, LineTooLongError, decode, encode
from anchord.store.sqlite import SqliteStore

DOMAIN = """
name = "x"
secret = "0123456789abcdef0123456789abcdef"
finder = "directory"
directory = { address = "2001:db8:fd::1" }
gateways = { gw1 = { address = "2001:db8:f1::1", pools = ["2001:db8:a1::/48"] } }
"""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "domain.toml").write_text(DOMAIN)
    file = tmp_path / "dir.toml"
    file.write_text('node = "dir"\ndomain = "domain.toml"\nstate = "state"\nrun = "run"\n')
    return file


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.prefix, "bin", "anchord"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_address_that_no_interface_has_is_named(node: Path) -> None:
    done = run("directory", "--config", str(node))
    assert done.returncode == 1
    assert "[2001:db8:fd::1]:7085: cannot be listened at" in done.stderr
    assert not (node.parent / "run/dir.sock").exists()


def test_a_store_in_use_is_named(node: Path) -> None:
    with closing(SqliteStore(node.parent / "state/dir.db")):
        done = run("directory", "--config", str(node))
    assert done.returncode == 1
    assert "state/dir.db: is in use by another process" in done.stderr


def test_each_role_has_its_verb(node: Path) -> None:
    assert run("directory", "--config", str(node), "--check-config").returncode == 0
    done = run("central", "--config", str(node), "--check-config")
    assert done.returncode == 2
    assert "`anchord directory`" in done.stderr


def test_lines_are_cut_wherever_the_stream_is() -> None:
    stream = b"".join(encode({"n": n, "text": "x" * n}) for n in range(50))
    for size in (1, 7, len(stream)):
        lines = Lines()
        found = [line for at in range(0, len(stream), size) for line in lines.feed(stream[at : at + size])]
        assert [decode(line)["n"] for line in found] == list(range(50))


def test_a_line_may_have_its_length_and_no_more() -> None:
    assert Lines().feed(b"x" * LINE_BYTES + b"\n") == [b"x" * LINE_BYTES]
    for data in (b"x" * (LINE_BYTES + 1), b"x" * (LINE_BYTES + 1) + b"\n"):
        with pytest.raises(LineTooLongError):
            Lines().feed(data)


NUMBERS = st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_an_object_is_read_as_written_and_stays_one_line(message: dict[str, object]) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line) == message


@given(st.binary(max_size=100) | VALUES.map(lambda value: encode({"x": value})[3:]))
def test_any_line_is_an_object_or_one_error(line: bytes) -> None:
    try:
        assert isinstance(decode(line), dict)
    except ValueError as error:
        assert str(error)


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=10), st.data())
def test_a_stream_is_cut_into_the_same_lines_however_it_comes(written: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in written)
    lines, found = Lines(), list[bytes]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += lines.feed(stream[:size])
        stream = stream[size:]
    assert found == written
