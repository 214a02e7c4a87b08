"""Logs: one line for each thing that happened, with fields.

On a terminal or in a file a line is ``time level message key=value ...``; under systemd the time is left to the journal
and the line begins with its priority (``<6>``, sd-daemon(3)); JSON on request. What stands in a field may have been
chosen by a mobile node or a peer, so a value never breaks out of its line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import IO, Any, Literal

from anchord.daemon.control import plain

Format = Literal["text", "json"]

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII without blank, quote, equals sign and backslash


def say(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log ``message`` with ``fields``, in this order. Fields may be anything that ``control.plain`` can make plain."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"fields": fields}, stacklevel=2)


def set_up(form: Format = "text", level: int = logging.INFO, stream: IO[str] | None = None) -> None:
    """Send every log line to ``stream`` (default: standard error) in ``form``; replaces an earlier setting."""
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else KeyValue(journal=_is_journal(stream)))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


class KeyValue(logging.Formatter):
    """``time level message key=value ...``, or with ``journal`` ``<priority>message key=value ...``."""

    def __init__(self, journal: bool) -> None:
        """``journal``: the reader is systemd's journal, which stamps lines itself."""
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        fields = "".join(f" {key}={_value(value)}" for key, value in _fields(record).items())
        line = _one_line(record.getMessage()) + fields
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        if self._journal:
            prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
            return "\n".join(prefix + part for part in line.split("\n"))
        return f"{_time(record)} {record.levelname.lower():7} {line}"


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, the fields, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": _time(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **_fields(record),
        }  # fmt: skip
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=plain)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = _text(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ",".join(_text(part) for part in value)
    return json.dumps(value, default=plain, separators=(",", ":")).strip('"')


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _is_journal(stream: IO[str]) -> bool:
    """Whether ``stream`` is the one systemd connected to the journal: JOURNAL_STREAM names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
