"""The control socket: how ``anchord show``, ``monitor`` and ``revoke`` ask a running daemon.

A Unix stream socket, one JSON object a line, mode 0660: the file's owner and group may read what the daemon knows.
Mobile nodes' locations are not for everyone (RFC 8885 section 6). To change something takes root, or the daemon's own
user, as the kernel tells of the other end (SO_PEERCRED, unix(7)).

    {"show": "bindings", "mn": "mn1@example"}  ->  {"ok": true, "data": [...]}  or  {"ok": false, "error": "..."}
    {"revoke": "mn1@example"}                  ->  {"ok": true, "data": ["mn1@example"]}
    {"monitor": true}                          ->  {"ok": true}, then one event a line until one side closes

Everything a client can make grow has a limit: how many there are, how long a request is, how long one may be silent,
how many events wait for a slow monitor. Nothing a client does stalls the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Generator, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, cast

NOUNS = ("bindings", "prefixes", "tunnels", "peers", "status")
CLIENTS = 32  # at the same time; more are refused with an error
REQUEST_BYTES = 4096
IDLE_S = 30.0  # a client that asks nothing, or does not read its answer, for so long is dropped
QUEUED_EVENTS = 1000  # waiting for one monitor; one that falls further behind is told so and dropped
FAREWELL_S = 5.0  # what a dropped monitor has to read that

Show = Callable[[str, str | None], object]
Revoke = Callable[[str], object]

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7)


class ControlError(Exception):
    """The daemon refused a request, or its socket cannot be made; ``exit_code`` 1."""

    exit_code = 1


class NotReachableError(ControlError):
    """Nobody answers at the control socket; ``exit_code`` 3."""

    exit_code = 3


def plain(value: object) -> object:
    """A value that JSON does not know as one it knows: ``default`` of ``json.dumps``. Bytes: a MAC address."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex(":")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def _line(value: object) -> bytes:
    return json.dumps(value, default=plain, separators=(",", ":")).encode() + b"\n"


class ControlServer:
    """The daemon's end.

    ``show(what, mn)`` answers ``what`` (one of NOUNS), restricted to the mobile node ``mn`` unless that is None, with
    anything ``json.dumps(default=plain)`` takes; its ValueError or LookupError becomes the client's error. It is called
    on the event loop. ``revoke``, where there is one, takes what a client that may change something wants revoked, in
    the same way. ``publish`` sends an event to every monitor.
    """

    def __init__(self, path: Path | str, show: Show, revoke: Revoke | None = None) -> None:
        """Nothing happens before ``start``."""
        self._path = Path(path)
        self._show = show
        self._revoke = revoke
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._clients: set[asyncio.Task[None]] = set()
        self._monitors: set[_Monitor] = set()
        self.refused = 0  # clients turned away because there were CLIENTS already
        self.dropped_monitors = 0  # monitors that did not keep up

    @property
    def clients(self) -> int:
        """How many are connected, monitors included."""
        return len(self._clients)

    @property
    def monitors(self) -> int:
        """How many of them follow what happens."""
        return len(self._monitors)

    async def start(self) -> None:
        """Listen. A socket file that a dead daemon left is replaced. Raises ControlError if a daemon answers there."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self._path)
            listener = _listen(self._path)
        except OSError as error:
            raise ControlError(f"{self._path}: control socket cannot be made: {error.strerror or error}") from error
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=REQUEST_BYTES)

    async def close(self) -> None:
        """Say goodbye to every client and remove the socket file (unless a new daemon has made it its own)."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def publish(self, event: Mapping[str, object]) -> None:
        """Give ``event`` to every monitor; returns at once, whatever they do."""
        if not self._monitors:
            return
        line = _line(event)
        for monitor in list(self._monitors):
            if not monitor.offer(line):
                self._monitors.discard(monitor)
                self.dropped_monitors += 1

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            if len(self._clients) >= CLIENTS:
                self.refused += 1
                writer.write(_line({"ok": False, "error": f"{CLIENTS} clients already, try again later"}))
                return
            self._clients.add(task)
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client is gone, or the daemon ends
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), IDLE_S)
            except ValueError:
                writer.write(_line({"ok": False, "error": f"request longer than {REQUEST_BYTES} bytes"}))
                return
            if not line.endswith(b"\n"):
                return
            reply, monitor = self._answer(line, _may_change(writer))
            writer.write(_line(reply))
            if monitor:
                await self._monitor(reader, writer)
                return
            await asyncio.wait_for(writer.drain(), IDLE_S)

    def _answer(self, line: bytes, may_change: bool) -> tuple[Mapping[str, object], bool]:
        """The reply to one request, and whether the client becomes a monitor."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"ok": False, "error": "not JSON"}, False
        match request:
            case {"monitor": True}:
                return {"ok": True}, True
            case {"show": str(what), **rest} if what in NOUNS and isinstance(mn := rest.get("mn"), str | None):
                return self._done(lambda: self._show(what, mn)), False
            case {"revoke": str(named)}:
                return self._done(lambda: self._revoked(named, may_change)), False
        known = f'{{"show": {"|".join(NOUNS)}}}, {{"revoke": ...}} or {{"monitor": true}}'
        return {"ok": False, "error": f"unknown request, expected {known}"}, False

    @staticmethod
    def _done(act: Callable[[], object]) -> Mapping[str, object]:
        try:
            return {"ok": True, "data": act()}
        except (ValueError, LookupError) as error:
            return {"ok": False, "error": str(error)}

    def _revoked(self, named: str, may_change: bool) -> object:
        if self._revoke is None:
            raise LookupError("nothing to revoke here: ask the daemon of the central database, or of the LMA")
        if not may_change:
            raise ValueError("not permitted: only root and the daemon's own user may change something")
        return self._revoke(named)

    async def _monitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write events until the client closes its end or is dropped."""
        monitor = _Monitor(writer)
        self._monitors.add(monitor)
        writing = asyncio.ensure_future(monitor.write())
        closed = asyncio.ensure_future(reader.read())  # a monitor sends nothing more: this ends when it hangs up
        try:
            await asyncio.wait((writing, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._monitors.discard(monitor)
            for task in (writing, closed):
                task.cancel()
            await asyncio.gather(writing, closed, return_exceptions=True)


class _Monitor:
    """The events that wait for one monitor."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED_EVENTS)

    def offer(self, line: bytes) -> bool:
        """Queue ``line``; False if the monitor has fallen too far behind and has been told so."""
        if not self._queue.full():
            self._queue.put_nowait(line)
            return True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(_line({"event": "dropped", "reason": "too slow", "events_lost": QUEUED_EVENTS + 1}))
        self._queue.put_nowait(None)
        asyncio.get_running_loop().call_later(FAREWELL_S, self._writer.transport.abort)
        return False

    async def write(self) -> None:
        """Write what is queued until the farewell has been written."""
        while (line := await self._queue.get()) is not None:
            self._writer.write(line)
            await self._writer.drain()


def _may_change(writer: asyncio.StreamWriter) -> bool:
    """Whether the client is root or who the daemon runs as; the file's group may read only."""
    connection = writer.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid in (0, os.geteuid())


def _remove_stale(path: Path) -> None:
    """Remove a socket at which nobody answers. Raises ControlError if somebody does, or if it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError(f"{path}: exists and is no socket, expected a control socket or nothing")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(str(path))
    if result != errno.ECONNREFUSED:
        raise ControlError(f"{path}: a daemon answers here already, expected this node to be stopped")
    path.unlink()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)  # from the first instant on no more than 0660
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(CLIENTS)
    listener.setblocking(False)
    return listener


def query(path: Path | str, request: Mapping[str, object], timeout_s: float = 10.0) -> Any:
    """Ask the daemon at ``path`` once and return ``data``. Raises NotReachableError, or ControlError if it refuses."""
    with contextlib.closing(_ask(path, request, timeout_s)) as lines:
        return next(lines).get("data")


def follow(path: Path | str, timeout_s: float = 10.0) -> Iterator[dict[str, Any]]:
    """The events of the daemon at ``path`` as they happen. Ends only by NotReachableError (the daemon ended) or
    ControlError (this client was too slow); ``timeout_s`` holds for the first answer only."""
    lines = _ask(path, {"monitor": True}, timeout_s)
    next(lines)
    for event in lines:
        yield event
        if event.get("event") == "dropped":
            raise ControlError("dropped by the daemon: events came faster than they were read")


def _ask(path: Path | str, request: Mapping[str, object], timeout_s: float) -> Generator[dict[str, Any], None, None]:
    """Send ``request``; yield the reply, then whatever follows it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            connection.sendall(_line(request))
            with connection.makefile("rb") as stream:
                for line in stream:
                    answer = json.loads(line)
                    if answer.get("ok") is False:
                        raise ControlError(str(answer.get("error")))
                    connection.settimeout(None)
                    yield answer
        except (OSError, ValueError) as error:
            raise NotReachableError(
                f"daemon not reachable at {path}: {getattr(error, 'strerror', None) or error}"
            ) from error
        raise NotReachableError(f"daemon not reachable at {path}: it closed the connection")
