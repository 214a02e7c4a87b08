"""The asyncio shell around a protocol object: it feeds inputs and time in, and carries outputs out.

One event loop, no locks; the only other threads are the kernel layer's worker and the store's flusher. The order is
the protocol's: what it persists before a message is in the store before that message leaves.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from anchord.daemon import logs
from anchord.daemon.control import ControlServer
from anchord.daemon.transport import Transport
from anchord.protocol.inputs import Input
from anchord.protocol.outputs import Output, Persist, Report, Send
from anchord.protocol.timers import Instant
from anchord.store.interface import Change, Store, StoreError

log = logging.getLogger("anchord")

# The store is written through to the disk this long after a commit, once for everything committed meanwhile.
FLUSH_S = 0.01
# Flushes under way: while one moves what has grown into the database, another has the disk hold what is new. No more,
# or they would pile up before a slow disk.
FLUSHES = 2
# What neither peers nor hosts wait for is done this much later: answer first.
AFTERWARDS_S = 0.005
SWITCH_INTERVAL_S = 0.0002

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Node(Protocol):
    """What the shell drives: a gateway or a CMD."""

    def handle(self, event: Input, now: Instant) -> list[Output]:
        """One input."""
        ...

    def handle_timers(self, now: Instant) -> list[Output]:
        """Everything that is due."""
        ...

    def next_timer_s(self) -> float | None:
        """When the next timer is due."""
        ...


def instant() -> Instant:
    """Now, on both clocks."""
    return Instant(time.monotonic(), time.time())


class Flusher:
    """Has what was committed written through to the disk, in a thread, once for everything of the last FLUSH_S."""

    def __init__(self, store: Store) -> None:
        """To be made inside the event loop."""
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._under_way = 0

    def committed(self) -> None:
        """There is something to write through."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._under_way == FLUSHES:
            self._loop.call_later(FLUSH_S, self._flush)
            return
        self._scheduled = False
        self._under_way += 1
        self._loop.run_in_executor(None, self._store.flush).add_done_callback(self._flushed)

    def _flushed(self, flushing: asyncio.Future[None]) -> None:
        self._under_way -= 1
        error = None if flushing.cancelled() else flushing.exception()
        if error is not None:
            # Nothing is lost: what was committed is in a file, and is moved with the next flush.
            logs.say(log, logging.ERROR, "store-behind", error=str(error))


def settle_down() -> None:
    """A daemon has been set up, and is to answer quickly from now on."""
    # The worker threads compute little and wait much; the loop must not wait 5 ms for one of them.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What is loaded by now stays: the collector need not look at it again in the middle of a handover. The same
    # goes for sessions, which are no cycles: with 100,000 of them, to look at all again takes more than a second.
    gc.collect()
    gc.freeze()
    gc.callbacks.append(_freeze_survivors)


class Shell:
    """Drives one protocol object. ``perform_other`` carries out the outputs that only some nodes have."""

    def __init__(
        self,
        node: Node,
        transport: Transport,
        store: Store,
        control: ControlServer,
        perform_other: Callable[[Output], None],
    ) -> None:
        self._node = node
        self._transport = transport
        self._store = store
        self._control = control
        self._perform_other = perform_other
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._flusher = Flusher(store)
        self._reports: list[tuple[float, Report]] = []
        self._changes: list[Change] = []  # to be committed before the next message leaves
        self._afterwards_scheduled = False
        self._stopped: asyncio.Future[int] = self._loop.create_future()

    def feed(self, events: Iterable[Input]) -> None:
        """Hand inputs to the protocol object and carry out what follows: one commit for all of them."""
        outputs: list[Output] = []
        for event in events:
            outputs += self._node.handle(event, instant())
        self.perform(outputs)

    def perform(self, outputs: list[Output]) -> None:
        """Carry out outputs in order. What was persisted before a message is in the store before it leaves."""
        for output in outputs:
            if isinstance(output, Persist):
                self._changes.append((output.table, output.key, output.value))
            elif isinstance(output, Send):
                if self._changes and not self._commit():
                    return
                self._transport.send(output.destination, output.message)
            elif isinstance(output, Report):
                self._reports.append((time.time(), output))
            else:
                self._perform_other(output)
        if self._changes and not self._commit():
            return
        self._set_timer()
        if self._reports and not self._afterwards_scheduled:
            self._afterwards_scheduled = True
            self._loop.call_later(AFTERWARDS_S, self._afterwards)

    def _commit(self) -> bool:
        """Make everything that was to be persisted until now survive this process; False when it cannot be done."""
        changes, self._changes = self._changes, []
        try:
            self._store.commit(changes)
        except StoreError as error:
            # Nothing may leave that would not survive a crash: better no answer, and a clear end.
            logs.say(log, logging.CRITICAL, "store-failed", error=str(error))
            self.stop(1)
            return False
        self._flusher.committed()
        return True

    def start(self) -> None:
        """Listen for messages and signals. SIGTERM and SIGINT end the daemon."""
        self._loop.add_reader(self._transport.fileno(), self._messages)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop, 0)
        self._set_timer()
        settle_down()

    def stop(self, code: int) -> None:
        """End ``run`` with ``code``."""
        if not self._stopped.done():
            self._stopped.set_result(code)

    async def run(self) -> int:
        """Until somebody stops us; the exit code."""
        try:
            return await self._stopped
        finally:
            self._afterwards()
            logs.say(log, logging.INFO, "stopped")

    def _messages(self) -> None:
        self.feed(self._transport.drain())

    def _set_timer(self) -> None:
        at = self._node.next_timer_s()
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else self._loop.call_at(at, self._timers_due)

    def _timers_due(self) -> None:
        self._timer = self._timer_at = None
        self.perform(self._node.handle_timers(instant()))

    def _afterwards(self) -> None:
        """What nobody waits for."""
        self._afterwards_scheduled = False
        reports, self._reports = self._reports, []
        for at, report in reports:
            logs.say(log, _LEVELS[report.level], report.event, **report.fields)
            self._control.publish({"event": report.event, "level": report.level, "time": at, **report.fields})


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    """What has outlived a collection of everything is not looked at again."""
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def status(node: str, role: str, ready: bool, digest: str) -> dict[str, object]:
    """What every daemon says of itself."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {"node": node, "role": role, "ready": ready, "pid": os.getpid(), "domain": digest, "rss_bytes": resident}
