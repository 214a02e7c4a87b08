"""Waiting for daemons: until they are ready, and until a gateway serves a host."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anchord.daemon.control import ControlError, query
from anchord.lab.errors import LabError
from anchord.lab.processes import Process, wait_ended

_POLL_S = 0.01  # a control socket that is not there yet announces itself to nobody
_LAST_LINES = 15


def wait_ready(name: str, process: Process, control: Path, log: Path, deadline: float) -> None:
    """Wait until the daemon of node ``name`` says that it is ready.

    ``deadline`` is of the monotonic clock. Raises LabError with the daemon's last log lines if it ends, or is late.
    """
    wait_process(name, process, log, deadline, lambda: _is_ready(control))


def wait_process(name: str, process: Process, log: Path, deadline: float, holds: Callable[[], bool]) -> None:
    """Wait until ``holds()`` of the process of node ``name``; LabError as :func:`wait_ready`."""
    while not holds():
        if not wait_ended([process], _POLL_S):
            raise LabError(f"{name} ended before it was ready; its last lines:\n{last_lines(log)}")
        if time.monotonic() > deadline:
            raise LabError(f"{name} did not become ready in time; its last lines:\n{last_lines(log)}")


def last_lines(log: Path) -> str:
    """The end of a log, indented; says so if there is nothing in it."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines or ["(nothing was logged)"])


def wait_until(control: Path, holds: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until ``holds()``, asked again after each event of the daemon at ``control``; False if it never did.

    The events are subscribed to before the first question, so nothing is missed between the two.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(timeout_s)
        try:
            monitor.connect(str(control))
            monitor.sendall(json.dumps({"monitor": True}).encode() + b"\n")
            if not monitor.recv(1 << 16):
                raise LabError(f"the daemon at {control} closed the connection")
        except OSError as error:
            raise LabError(f"no daemon answers at {control}: {error.strerror or error}") from None
        while not holds():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([monitor], [], [], left)[0]:
                return holds()
            if not monitor.recv(1 << 16):
                raise LabError(f"the daemon at {control} ended")
        return True


def show(control: Path, what: str, mn: str | None = None) -> Any:
    """What a daemon shows; LabError if it does not answer."""
    try:
        return query(control, {"show": what, **({"mn": mn} if mn else {})})
    except ControlError as error:
        raise LabError(str(error)) from None


def _is_ready(control: Path) -> bool:
    try:
        status = query(control, {"show": "status"})
    except ControlError:
        return False
    return isinstance(status, dict) and status.get("ready") is True
