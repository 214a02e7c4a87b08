"""A daemon's protocol object, recorded if its operator wants that."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar, cast

from anchord.daemon import logs
from anchord.daemon.shell import log
from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.lma import Lma
from anchord.recording.recorder import Recorder

NodeT = TypeVar("NodeT", Gateway, Central, Lma)


def recorded(node: NodeT, path: Path | None) -> NodeT:
    """What the shell drives: ``node`` itself, or what stands before it and appends to ``path``.

    Raises OSError, whose text says what to do.
    """
    if path is None:
        return node

    def ended(error: str) -> None:
        logs.say(log, logging.WARNING, "recording-ended", file=str(path), error=error)

    try:
        # It does what a node does for whoever feeds it, and that is all that is asked of it here.
        return cast("NodeT", Recorder(node, path, ended))
    except OSError as error:
        if error.filename is None:
            raise  # it says what is wrong with the file
        raise OSError(f"--record {path}: {error.strerror}, expected a file that can be made and written") from error
