"""A gateway's connection to the directory: one, kept up, and never waited for.

What is asked while there is none is dropped and counted: the protocol asks again. A lease is renewed all the time; that
is how the directory knows who is alive, and how a directory that has fallen silent is noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, cast

from anchord.daemon import logs
from anchord.daemon.directory_wire import RENEW_S, TTL_S, Lines, LineTooLongError, decode, encode, prompt
from anchord.daemon.shell import log
from anchord.protocol.inputs import DirectoryAnswered, DirectoryMet, Input
from anchord.protocol.outputs import DirectoryGet, DirectoryPut

CONNECT_S = 1.0  # so long an attempt may take
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 0.5  # between attempts: short, because a handover waits 250 ms at the most
LATEST_WALL_S = 1e12  # no clock is that far ahead, and no arithmetic with it goes wrong
WAITING_BYTES = 1 << 20  # questions that wait to be sent; more are dropped


class DirectoryClient:
    """``request`` takes the protocol's questions; ``feed`` is called with the answers as they come."""

    def __init__(
        self, own: IPv6Address, directory: tuple[IPv6Address, int], domain: str, feed: Callable[[list[Input]], None]
    ) -> None:
        """``domain``: the digest of the domain file, as far as it is told. Nothing happens before ``start``."""
        self._own, self._directory, self._domain, self._feed = str(own), directory, domain, feed
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connected = False  # and it has answered
        self._complained = False
        self._pause_s = FIRST_PAUSE_S  # before the next attempt to connect
        self._refused: str | None = None
        self._same_domain: bool | None = None
        self._began_wall_s: float | None = None  # the directory's store, as the protocol was told last
        self.counters = {"asked": 0, "answered": 0, "dropped": 0, "errors": 0, "connections": 0}

    def status(self) -> dict[str, object]:
        """For ``anchord show status``."""
        return {"connected": self._connected, "same_domain": self._same_domain, **self.counters}

    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect(first=True))

    def close(self) -> None:
        """Hang up."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.abort()

    def request(self, question: DirectoryGet | DirectoryPut) -> None:
        """Ask at once, or not at all."""
        if isinstance(question, DirectoryGet):
            message: dict[str, Any] = {"get": question.key}
        else:
            message = {"put": question.key, "revision": question.revision, "value": question.value}
        sent = self._connection is not None and self._connection.send(message)
        self.counters["asked" if sent else "dropped"] += 1

    async def _connect(self, first: bool) -> None:
        loop = asyncio.get_running_loop()
        where = str(self._directory[0]), self._directory[1]
        if not first:
            await self._pause()
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await loop.create_connection(lambda: _Connection(self), *where, local_addr=(self._own, 0))
                return
            except (OSError, TimeoutError) as error:
                self._complain(f"{type(error).__name__}: {error}" if str(error) else "no answer")
                await self._pause()

    async def _pause(self) -> None:
        """Before another attempt; longer each time, until one is answered."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LAST_PAUSE_S)
        await asyncio.sleep(pause_s)

    def _complain(self, error: str) -> None:
        """Once for each time that it is away."""
        if not self._complained:
            self._complained = True
            where = f"[{self._directory[0]}]:{self._directory[1]}"
            logs.say(log, logging.WARNING, "directory-unreachable", directory=where, error=error)

    # What the connection tells

    def made(self, connection: _Connection) -> None:
        """There is a connection."""
        self._connection = connection
        self.renew(connection)

    def renew(self, connection: _Connection) -> None:
        """It is time to say that we are alive."""
        connection.send({"grant": TTL_S, "domain": self._domain})

    def lost(self, connection: _Connection) -> None:
        """There is none any more."""
        if self._connection is connection:
            self._connection = None
            if self._connected:
                self._connected = False
                logs.say(log, logging.WARNING, "directory-lost")
            self._connecting = asyncio.get_running_loop().create_task(self._connect(first=False))

    def received(self, lines: list[bytes]) -> None:
        """Answers. Only with the first of them is it certain that there is a directory which knows us."""
        if lines and not self._connected:
            self._connected, self._complained, self._pause_s = True, False, FIRST_PAUSE_S
            self.counters["connections"] += 1
            logs.say(log, logging.INFO, "directory-connected")
        answers: list[DirectoryAnswered | DirectoryMet] = []
        for line in lines:
            try:
                answer = self._read(decode(line))
            except (ValueError, RecursionError):
                self.counters["errors"] += 1
                continue
            if answer is not None:
                answers.append(answer)
        self.counters["answered"] += sum(isinstance(answer, DirectoryAnswered) for answer in answers)
        if answers:
            self._feed(list(answers))

    def _read(self, message: dict[str, Any]) -> DirectoryAnswered | DirectoryMet | None:
        match message:
            case {"key": str(key), "revision": int(revision), "value": dict() | None as value}:
                done = message.get("done")
                return DirectoryAnswered(key, revision, value, done if isinstance(done, bool) else None)
            case {"granted": str(), "domain": str(domain)}:
                same = domain == self._domain
                if not same and self._same_domain is not False:
                    logs.say(log, logging.ERROR, "domain-differs", peer=str(self._directory[0]))
                self._same_domain = same
                return self._met(message.get("began"))
        error = str(message.get("error"))[:200]
        if error != self._refused:  # once, not for every host
            self._refused = error
            logs.say(log, logging.WARNING, "directory-refused", error=error)
        raise ValueError("no answer")

    def _met(self, began_wall_s: object) -> DirectoryMet | None:
        """How old the directory's store is, when that is news."""
        if not isinstance(began_wall_s, int | float) or not 0 <= began_wall_s <= LATEST_WALL_S:
            return None
        if began_wall_s == self._began_wall_s:
            return None
        self._began_wall_s = float(began_wall_s)
        return DirectoryMet(self._began_wall_s)


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, client: DirectoryClient) -> None:
        self._client = client
        self._lines = Lines()
        self._transport: asyncio.Transport
        self._renewing: asyncio.TimerHandle
        self._heard = True  # since the last renewal

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to ask."""
        self._transport = cast("asyncio.Transport", transport)
        prompt(transport.get_extra_info("socket"), TTL_S)
        self._renewing = asyncio.get_running_loop().call_later(RENEW_S, self._renew)
        self._client.made(self)

    def send(self, message: dict[str, Any]) -> bool:
        """Write now; False if too much waits to be sent already."""
        if self._transport.is_closing() or self._transport.get_write_buffer_size() > WAITING_BYTES:
            return False
        self._transport.write(encode(message))
        return True

    def _renew(self) -> None:
        if not self._heard:
            self._transport.abort()  # the last renewal was not answered
            return
        self._heard = False
        self._client.renew(self)
        self._renewing = asyncio.get_running_loop().call_later(RENEW_S, self._renew)

    def data_received(self, data: bytes) -> None:
        """Answers, the last of them perhaps incomplete."""
        self._heard = True
        try:
            lines = self._lines.feed(data)
        except LineTooLongError:
            self._transport.abort()
            return
        self._client.received(lines)

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        self._renewing.cancel()
        self._client.lost(self)

    def abort(self) -> None:
        """Now."""
        self._transport.abort()
