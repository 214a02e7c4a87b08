"""``python -m anchord.lab.guardian LAB PID STARTED``: takes a lab down when the process that owns it has ended.

A demo or a test that dies from SIGKILL cannot clean up behind itself. This process waits for the owner's end (on a
pidfd: it costs nothing meanwhile) in a session of its own, where no Ctrl-C reaches it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from anchord.lab.processes import Process, wait_ended

_FOREVER_S = 1_000_000.0  # what poll(2) takes in milliseconds is an int


def start(lab: str, owner: Process, log: Path) -> subprocess.Popen[bytes]:
    """Start the guardian of a lab."""
    argv = [sys.executable, "-m", "anchord.lab.guardian", lab, str(owner.pid), str(owner.started)]
    with log.open("ab") as output:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
        )


def main(lab: str, pid: str, started: str) -> None:
    """Wait for the owner's end, then take the lab down."""
    owner = Process(int(pid), int(started))
    while wait_ended([owner], _FOREVER_S):
        pass
    from anchord.lab.domain import Domain  # noqa: PLC0415  not in memory while there is nothing to do

    Domain.take_down(lab, owner)


if __name__ == "__main__":
    main(*sys.argv[1:])
