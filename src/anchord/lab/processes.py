"""The processes of a lab: started inside a namespace, found again by another command, ended without leaving any.

A process is remembered by its number and the time it was started at, so that a number that has come to belong to
somebody else is never signalled.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchord.lab.errors import LabError
from anchord.lab.namespaces import namespace_path

# Fields of /proc/PID/stat behind the command's name: proc_pid_stat(5), 3, 20 and 22.
_STATE, _THREADS, _STARTED = 0, 17, 19


@dataclass(frozen=True, slots=True)
class Process:
    """A process that may have ended meanwhile. ``started`` is in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this number now; LabError if none has."""
        fields = _stat(pid)
        if fields is None:
            raise LabError(f"no process {pid}")
        return cls(pid, int(fields[_STARTED]))

    @property
    def alive(self) -> bool:
        """Whether it runs. One that has ended and was not waited for yet does not.

        One whose first thread has ended and whose others have not still holds its files.
        """
        fields = _stat(self.pid)
        if fields is None or int(fields[_STARTED]) != self.started:
            return False
        return fields[_STATE] not in "ZX" or int(fields[_THREADS]) > 1

    def open(self) -> int | None:
        """A pidfd, readable once the process has ended; None if it has ended. The caller closes it."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive:  # asked after opening, so that it is this process that the descriptor stands for
            return pidfd
        os.close(pidfd)
        return None

    def send(self, number: int) -> bool:
        """Send a signal; False if the process has ended."""
        pidfd = self.open()
        if pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True


def command(namespace: str, argv: Sequence[str]) -> list[str]:
    """What runs ``argv`` in a namespace. It also shows it the namespace's /sys, and then becomes the command."""
    return ["ip", "netns", "exec", namespace, *argv]


def start(namespace: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command in a namespace, in a session of its own unless told otherwise; ``options`` as for Popen."""
    options.setdefault("start_new_session", True)
    return subprocess.Popen(command(namespace, argv), **options)


def start_logged(namespace: str, argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command that stays: no input, output appended to ``log``, working directory /."""
    with log.open("ab") as output:
        return start(namespace, argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/")


def wait_ended(processes: Iterable[Process], timeout_s: float) -> list[Process]:
    """Wait until all have ended, and return those that have not."""
    opened = {pidfd: process for process in processes if (pidfd := process.open()) is not None}
    poll = select.poll()
    for pidfd in opened:
        poll.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    try:
        waiting = dict(opened)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pidfd, _event in poll.poll(left * 1000):
                poll.unregister(pidfd)
                del waiting[pidfd]
        return list(waiting.values())
    finally:
        for pidfd in opened:
            os.close(pidfd)


def end(processes: Iterable[Process], patience_s: float) -> None:
    """Ask processes to end (SIGTERM), and end those that have not within ``patience_s``."""
    asked = [process for process in processes if process.send(signal.SIGTERM)]
    for process in wait_ended(asked, patience_s):
        process.send(signal.SIGKILL)
    wait_ended(asked, patience_s)


def in_namespaces(namespaces: Iterable[str]) -> list[Process]:
    """Every process, but this one, that lives in one of these namespaces.

    A process of somebody else may look in for an instant (:func:`anchord.lab.namespaces.inside`): only those that are
    there twice in a row are meant.
    """
    wanted = set()
    for namespace in namespaces:
        with suppress(FileNotFoundError):
            there = namespace_path(namespace).stat()
            wanted.add((there.st_dev, there.st_ino))
    found = _dwellers(wanted)
    if found:
        time.sleep(0.005)
        found &= _dwellers(wanted)
    return sorted(found, key=lambda process: process.pid)


def _dwellers(namespaces: set[tuple[int, int]]) -> set[Process]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with suppress(OSError, LabError):  # ended while we looked
                there = os.stat(f"/proc/{entry}/ns/net")
                if (there.st_dev, there.st_ino) in namespaces:
                    found.add(Process.of(int(entry)))
    return found


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(") ")[2].split()
