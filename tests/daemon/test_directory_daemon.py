"""A directory that cannot start says why. What it does when it runs is in tests/lab/test_with_a_directory.py."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

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
