"""Log lines: for people, for the journal, for programs; no value breaks out of its line."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from anchord.daemon import logs
from anchord.declared import Role

LOGGER = logging.getLogger("anchord.test")
EVIL = 'x\n<0>forged level="error"\x1b[2J'


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; the logging of the test run is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level


def test_key_and_value(stream: io.StringIO) -> None:
    logs.set_up("text", stream=stream)
    logs.say(
        LOGGER, logging.INFO, "handover", mn_id="mn1@example", peer=IPv6Address("2001:db8::1"), mac=bytes(6),
        role=Role.IMPORTED, ms=1.23456, moved=True, prefixes=["a", "b"], note="two words", nothing=None,
    )  # fmt: skip
    time, level, rest = stream.getvalue().rstrip("\n").split(maxsplit=2)
    assert time.endswith("Z")
    assert level == "info"
    assert rest == (
        "handover mn_id=mn1@example peer=2001:db8::1 mac=00:00:00:00:00:00 role=imported ms=1.235 moved=true "
        'prefixes=a,b note="two words" nothing=null'
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_value_stays_on_its_line_and_moves_no_cursor(stream: io.StringIO, form: logs.Format) -> None:
    logs.set_up(form, stream=stream)
    logs.say(LOGGER, logging.INFO, EVIL, mn_id=EVIL)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_json_lines(stream: io.StringIO) -> None:
    logs.set_up("json", stream=stream)
    try:
        raise RuntimeError("why")
    except RuntimeError:
        LOGGER.exception("it failed", extra={"fields": {"peer": IPv6Address("::1")}})
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "anchord.test", "it failed")
    assert entry["peer"] == "::1"
    assert "RuntimeError: why" in entry["exception"]


def test_less_important_lines_are_left_out(stream: io.StringIO) -> None:
    logs.set_up("text", logging.WARNING, stream)
    logs.say(LOGGER, logging.INFO, "not this")
    logs.say(LOGGER, logging.WARNING, "but this")
    assert "not this" not in stream.getvalue()
    assert "but this" in stream.getvalue()


def test_lines_for_the_journal_carry_their_priority(tmp_path: Path) -> None:
    program = (
        "import logging; from anchord.daemon import logs; logs.set_up()\n"
        "log = logging.getLogger('x'); log.info('one'); log.warning('two')\n"
        "try: 1/0\n"
        "except ZeroDivisionError: log.exception('three')\n"
    )
    with open(tmp_path / "journal", "w+") as journal:
        status = os.fstat(journal.fileno())
        environment = os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run([sys.executable, "-c", program], stderr=journal, env=environment, check=True)
        journal.seek(0)
        lines = journal.read().splitlines()
    assert lines[:3] == ["<6>one", "<4>two", "<3>three"]
    assert len(lines) > 4
    assert all(line.startswith("<3>") for line in lines[3:])
