"""A protocol object that writes down everything it is given, before it works on it, and everything it answers.

A line for each input and one for the outputs that followed: an input that brought the object down is in the file.
Outputs are written when nobody waits for them any more: when the next timer is asked for, or the next input comes.
Every line goes to the kernel as it is made, so that a crash of this process loses none but the outputs it was at.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import Input
from anchord.protocol.lma import Lma
from anchord.protocol.outputs import Output
from anchord.protocol.timers import Instant
from anchord.recording.values import dump

FORMAT = 1
START = b'{"anchord-recording": '  # so begins every recording
LIMIT_BYTES = 1 << 30  # a recording ends here; the daemon goes on

Recordable = Gateway | Central | Lma


class Recorder:
    """Stands before a protocol object, and does what that does."""

    def __init__(
        self, node: Recordable, path: Path, ended: Callable[[str], None], limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """Appends to ``path``, which only its owner may read. ``ended`` is told why nothing more is.

        Raises OSError, also for a file that is no recording, or that another process records into.
        """
        self.node = node
        self._ended = ended
        self._limit = limit_bytes
        self._outputs: list[Output] | None = None  # still to be written
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._left = limit_bytes - _continue(self._fd, path)
        except OSError:
            os.close(self._fd)
            raise
        header = {"anchord-recording": FORMAT, "software": version("anchord")}
        self._write(lambda: {**header, "role": type(node).__name__, "settings": dump(node.settings)})

    def restore(self, journal: dict[str, dict[str, dict[str, Any]]], now: Instant) -> list[Output]:
        """As the object's."""
        self._begin(lambda: {"do": "restore", "at": now, "journal": journal})
        return self._answer(self.node.restore(journal, now))

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """As the object's."""
        self._begin(lambda: {"do": "handle", "at": now, "input": dump(event)})
        return self._answer(self.node.handle(event, now))

    def handle_timers(self, now: Instant) -> list[Output]:
        """As the object's."""
        self._begin(lambda: {"do": "timers", "at": now})
        return self._answer(self.node.handle_timers(now))

    def revoke(self, named: str | IPv6Network, now: Instant) -> tuple[list[str], list[Output]]:
        """As the object's."""
        self._begin(lambda: {"do": "revoke", "at": now, "named": str(named), "prefix": not isinstance(named, str)})
        names, outputs = self.node.revoke(named, now)
        return names, self._answer(outputs)

    def next_timer_s(self) -> float | None:
        """As the object's. Whoever drives it has carried out the outputs by now."""
        self._end()
        return self.node.next_timer_s()

    def _begin(self, make: Callable[[], dict[str, Any]]) -> None:
        self._end()
        self._write(make)

    def _answer(self, outputs: list[Output]) -> list[Output]:
        self._outputs = outputs
        return outputs

    def _end(self) -> None:
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            self._write(lambda: {"out": dump(outputs)})

    def _write(self, make: Callable[[], dict[str, Any]]) -> None:
        if self._fd is None:
            return
        try:
            line = json.dumps(make()).encode() + b"\n"
            if len(line) > self._left:
                raise OSError(f"the limit of {self._limit} bytes is reached")
            self._left -= len(line)
            if os.write(self._fd, line) < len(line):
                raise OSError("the disk is full")  # what is cut off is the last line: replay says so
        except (OSError, ValueError, TypeError) as error:
            # A recording helps to find errors; it must not be one.
            os.close(self._fd)
            self._fd = None
            self._ended(str(error))


def _continue(fd: int, path: Path) -> int:
    """How long a recording is that is to be continued (bytes). Raises OSError for what must not be appended to."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends, however it does
    except OSError as error:
        raise OSError(f"{path}: another process records into it, expected a file of this daemon's own") from error
    size = os.fstat(fd).st_size
    if size and os.pread(fd, len(START), 0) != START:
        raise OSError(f"{path}: is no recording, and was left as it is: expected one, or no file")
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")  # the process before this one was cut off within a line
    return size
