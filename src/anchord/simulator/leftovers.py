"""Nothing left over: what processes, stores and kernels may have when every host has been gone for long.

Everything that a protocol object is made of has to be empty. The exceptions are named below: they are about peers and
the node itself, not about hosts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from anchord.simulator.process import Process
from anchord.store.embedded import GRACE_S, TABLE, EmbeddedDirectory

_LASTING = re.compile(
    r"(.*\.)?("
    r"_timer_actions"  # what there is to do, not what is to be done
    r"|_?counters\.(peers|local)"
    r"|_?exchanges\.(_sequence|_reserved)"  # by peer
    r"|_?exchanges\._recent"  # of the last second in which something left: no more than a second's worth
    r"|_error_sent_s|mtus|understanding\.(_known|_asked)"  # by peer, and by interface
    r"|_life\.(_peers|_timers\.\w+)"  # heartbeats go on
    r")"
)
_LASTING_ROWS = ("sequence", "life")  # tables about peers and the node itself


def of_process(process: Process) -> Iterator[str]:
    """In the protocol object and in its journal; a dead one has a journal only."""
    if process.machine is not None:
        process.machine.next_timer_s()  # what was cancelled goes when somebody asks
        for way, held in process.containers.left():
            if not _LASTING.fullmatch(way) and not (way.endswith("._held_of") and not any(held.values())):
                yield f"{process.name} has {way}: {_first(held)}"
        for place in sorted(process.filtered):
            yield f"{process.name} ignores {place[1].hex(':')} on {place[0]}"
    for table, rows in process.journal.items():
        if rows and table not in _LASTING_ROWS:
            yield f"{process.name} has in its journal {table}: {_first(rows)}"
    if process.plane is not None:
        tables = {"hosts": process.plane.hosts, "uplink": process.plane.uplink, "inner": process.plane.inner}
        for host in process.plane.states:
            yield f"{process.name} has forwarding of {host}, which left"
        for name, table_of in tables.items():
            if table_of:
                yield f"{process.name} has routes in {name}: {_first(table_of)}"


def of_directory(directory: EmbeddedDirectory, store: Any, now_wall_s: float) -> Iterator[str]:
    """A record that nobody could end has run out, and goes as soon as clocks that differ allow (``GRACE_S``)."""
    for entry in list(directory.entries.values()):
        if (entry.value or {}).get("expires_wall_s", 0.0) > now_wall_s:
            yield f"the directory has {entry}, which has not run out"
    directory.purge(now_wall_s + GRACE_S)
    for key in directory.entries:
        yield f"the directory has {key} for ever"
    for key in store.load().get(TABLE, {}):
        yield f"the directory's store has {key} for ever"


def _first(held: Any) -> str:
    """One of them, and how many there are."""
    one = next(iter(held.items() if isinstance(held, dict) else held))
    return f"{one!r} ({len(held)})"
