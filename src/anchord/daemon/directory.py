"""The daemon of a directory: a TCP server for gateways around ``store.embedded``."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, cast

from anchord.daemon import logs, views
from anchord.daemon.config import NodeConfig
from anchord.daemon.control import ControlError, ControlServer
from anchord.daemon.directory_wire import (
    DIGEST_DIGITS,
    LINE_BYTES,
    MAX_TTL_S,
    TTL_S,
    Lines,
    LineTooLongError,
    decode,
    encode,
    prompt,
)
from anchord.daemon.shell import Flusher, instant, log, settle_down, status
from anchord.protocol.counters import Counters
from anchord.store.directory import Entry, Outcome
from anchord.store.embedded import EmbeddedDirectory
from anchord.store.interface import StoreError
from anchord.store.sqlite import SqliteStore

PURGE_S = 1.0
READ_BYTES = 1 << 14
WAITING_BYTES = 1 << 18  # answers that wait for one gateway to read them; nothing more is read from it meanwhile


class ListenError(Exception):
    """The address cannot be listened at; the message says why and what to do."""


def run(config: NodeConfig) -> int:
    """Run until stopped; the exit code."""
    try:
        return asyncio.run(_run(config))
    except (StoreError, ControlError, ListenError) as error:
        logs.say(log, logging.CRITICAL, "cannot-start", error=str(error))
        return 1


async def _run(config: NodeConfig) -> int:
    return await DirectoryDaemon(config).run()


class DirectoryDaemon:
    """Everything of a directory that does I/O."""

    def __init__(self, config: NodeConfig) -> None:
        """To be made inside the event loop. Raises StoreError."""
        loop = asyncio.get_running_loop()
        self._config = config
        self._names = {gateway.address: name for name, gateway in config.domain.gateways.items()}
        self._counters = Counters(tuple(self._names))
        self._store = SqliteStore(config.state / f"{config.node}.db", config.store_sync == "always")
        self._flusher = Flusher(self._store)
        limit = config.domain.limits.sessions
        self._directory = EmbeddedDirectory(self._store, limit, loop.call_soon, loop.time, self._failed, time.time())
        self._directory.watch(self._directory.revision + 1, self._changed)
        self._control = ControlServer(config.socket, self._show)
        self._connections: dict[IPv6Address, _Connection] = {}
        self._ready = False
        self._stopped: asyncio.Future[int] = loop.create_future()

    async def run(self) -> int:
        """Until stopped; the exit code."""
        await self._control.start()
        server = None
        try:
            server = await self._listen()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._stop, 0)
            self._purge()
            settle_down()
            self._ready = True
            logs.say(
                log, logging.INFO, "ready",
                node=self._config.node, address=str(self._config.address), records=len(self._directory.entries),
            )  # fmt: skip
            return await self._stopped
        finally:
            if server is not None:
                server.close()
            for connection in list(self._connections.values()):
                connection.abort()
            await self._control.close()
            self._store.close()
            logs.say(log, logging.INFO, "stopped")

    async def _listen(self) -> asyncio.Server:
        directory = self._config.domain.directory
        assert directory is not None, "the configuration of a directory has one"
        where = str(directory.address), directory.port
        try:
            return await asyncio.get_running_loop().create_server(lambda: _Connection(self), *where, reuse_address=True)
        except OSError as error:
            raise ListenError(
                f"[{where[0]}]:{where[1]}: cannot be listened at: {error.strerror or error}; is the address configured "
                "on an interface, and nobody else at this port?"
            ) from error

    def _stop(self, code: int) -> None:
        if not self._stopped.done():
            self._stopped.set_result(code)

    def _failed(self, error: StoreError) -> None:
        """What could not be kept is not acknowledged: better no answer, and a clear end."""
        logs.say(log, logging.CRITICAL, "store-failed", error=str(error))
        self._stop(1)

    def _purge(self) -> None:
        self._directory.purge(time.time())
        asyncio.get_running_loop().call_later(PURGE_S, self._purge)

    def _changed(self, entry: Entry) -> None:
        self._flusher.committed()
        event: dict[str, object] = {"event": "changed", "level": "debug", "time": time.time(), "key": entry.key}
        self._control.publish({**event, "revision": entry.revision, "held": entry.value is not None})

    # Connections

    def admitted(self, connection: _Connection, peer: IPv6Address) -> bool:
        """Whether ``peer`` is a gateway; a new connection of one replaces its earlier one, which it has given up."""
        if peer not in self._names:
            self._counters.of(peer).drop("unconfigured-peer")
            return False
        earlier = self._connections.get(peer)
        self._connections[peer] = connection
        if earlier is not None:
            earlier.abort()
        self._say("connected", gateway=self._names[peer])
        return True

    def left(self, connection: _Connection, peer: IPv6Address) -> None:
        """A connection is over."""
        if self._connections.get(peer) is connection:
            del self._connections[peer]
            self._say("disconnected", gateway=self._names[peer])

    def request(self, peer: IPv6Address, line: bytes, answer: Callable[[dict[str, Any]], None]) -> None:
        """One line of a gateway; never raises on what it says."""
        self._counters.heard(peer, instant())
        try:
            self._carry_out(peer, decode(line), answer)
        except (ValueError, RecursionError) as error:
            self._counters.of(peer).drop("malformed")
            answer({"error": str(error)[:200]})

    def too_long(self, peer: IPv6Address) -> None:
        """A line has no end."""
        self._counters.of(peer).drop("line-too-long")

    def sent(self, peer: IPv6Address) -> None:
        """An answer went out."""
        self._counters.of(peer).messages_out += 1

    def _carry_out(self, peer: IPv6Address, request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        def told(outcome: Outcome) -> None:
            answer(_answer(outcome))

        match request:
            case {"get": str(key)} if key.isascii():
                self._directory.get(key, told)
            case {"put": str(key), "revision": int(revision), "value": dict() | None as value} if key.isascii():
                self._directory.compare_and_set(key, revision, value, told)
            case {"grant": int() | float() as ttl_s, "domain": str(domain)} if 0 < ttl_s <= MAX_TTL_S:
                own = self._config.domain.digest[:DIGEST_DIGITS]
                if self._counters.agreement(peer, domain == own):
                    self._say("domain-differs", logging.ERROR, peer=str(peer))
                owner, began = self._directory.grant(self._names[peer], ttl_s).owner, self._directory.began_wall_s
                answer({"granted": owner, "domain": own, "began": began})
            case _:
                raise ValueError('unknown request, expected "get", "put" or "grant"')

    def _say(self, event: str, level: int = logging.INFO, **fields: object) -> None:
        logs.say(log, level, event, **fields)
        name = logging.getLevelName(level).lower()
        self._control.publish({"event": event, "level": name, "time": time.time(), **fields})

    # Questions

    def _show(self, what: str, mn: str | None) -> object:
        if what == "status":
            return {
                **status(self._config.node, "directory", self._ready, self._config.domain.digest),
                "records": len(self._directory.entries),
                "revision": self._directory.revision,
                "began": self._directory.began_wall_s,
                "alive": self._directory.alive(),
                "counters": dict(self._directory.counters),
            }
        if what == "peers":
            return views.peer_rows(self._counters, self._names)
        if what == "bindings":
            return views.of_directory(self._directory.entries.values(), mn, instant())
        return []


class _Connection(asyncio.BufferedProtocol):
    """One gateway's connection. It is read in small pieces: each question can have an answer of 4 KB."""

    def __init__(self, daemon: DirectoryDaemon) -> None:
        self._daemon = daemon
        self._lines = Lines()
        self._buffer = bytearray(READ_BYTES)
        self._transport: asyncio.Transport
        self._peer: IPv6Address
        self._admitted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Strangers are let go at once: what they say is not even read."""
        self._transport = cast("asyncio.Transport", transport)
        self._peer = IPv6Address(transport.get_extra_info("peername")[0])
        self._admitted = self._daemon.admitted(self, self._peer)
        if not self._admitted:
            self._transport.abort()
            return
        prompt(transport.get_extra_info("socket"), TTL_S)
        self._transport.set_write_buffer_limits(high=WAITING_BYTES)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the next piece goes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Any number of lines, the last of them perhaps incomplete."""
        if self._transport.is_closing():
            return
        try:
            lines = self._lines.feed(bytes(self._buffer[:nbytes]))
        except LineTooLongError:
            self._daemon.too_long(self._peer)
            self._answer({"error": f"line longer than {LINE_BYTES} bytes"})
            self._transport.close()
            return
        for line in lines:
            self._daemon.request(self._peer, line, self._answer)

    def _answer(self, message: dict[str, Any]) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode(message))
            self._daemon.sent(self._peer)

    def pause_writing(self) -> None:
        """It does not read its answers: then it is not asked for questions."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever it asked is carried out; the answers go nowhere."""
        if self._admitted:
            self._daemon.left(self, self._peer)

    def abort(self) -> None:
        """Now, whatever waits to be sent."""
        self._transport.abort()


def _answer(outcome: Outcome) -> dict[str, Any]:
    key, revision, value = outcome.entry
    if outcome.error is not None:
        return {"error": outcome.error, "key": key}
    done = {} if outcome.done is None else {"done": outcome.done}
    return {"key": key, **done, "revision": revision, "value": value}
