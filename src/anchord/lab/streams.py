"""TCP connections whose every byte is verified: seeded pseudo-random bytes out, the correspondent echoes them.

The opener compares each echoed byte with the one it sent, so both directions are checked. On closing, both ends also
compare a running SHA-256 of the direction towards the correspondent. A connection that misses a deadline is dead: it
is reset, as an application does that has waited long enough, and does not come back to life.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import time
from dataclasses import dataclass, field

PORT = 7007
CHUNK_BYTES = 32 * 1024
RECEIVE_BYTES = 64 * 1024  # larger ones make the allocator ask the kernel for pages, each time


class StreamError(Exception):
    """The connection broke, missed its deadline, or brought a wrong byte."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a connection has come; bytes of one direction, ``verified`` having made the way there and back."""

    sent: int
    verified: int


class Stream:
    """The opener's end of one connection."""

    def __init__(self, opened: socket.socket, seed: int) -> None:
        self._socket = opened
        self._random = random.Random(seed)
        self._digest = hashlib.sha256()
        self._outstanding = bytearray()
        self._verified = 0
        self._sent = 0
        self._progress = asyncio.Condition()
        self._error: str | None = None
        self._verifier: asyncio.Task[None] | None = None
        self._streamer: asyncio.Task[None] | None = None
        self._streaming = False

    @classmethod
    async def open(cls, opened: socket.socket, peer: tuple[str, int], seed: int, deadline_s: float) -> Stream:
        """Connect; raises StreamError when that takes longer than ``deadline_s`` seconds or is refused."""
        opened.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.sock_connect(opened, peer), deadline_s)
        except (OSError, TimeoutError) as error:
            opened.close()
            raise StreamError(f"not opened: {error or 'no answer'}") from None
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = cls(opened, seed)
        stream._verifier = asyncio.create_task(stream._verify())
        return stream

    @property
    def local(self) -> tuple[str, int]:
        """Our own address and port."""
        name = self._socket.getsockname()
        return name[0], name[1]

    @property
    def tally(self) -> Tally:
        """Bytes sent and bytes verified."""
        return Tally(self._sent, self._verified)

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes sent so far, in hex."""
        return self._digest.hexdigest()

    async def exchange(self, amount: int, deadline_s: float) -> float:
        """Move ``amount`` bytes each way and verify them; the seconds it took.

        Raises StreamError, and kills the connection, when that takes longer than ``deadline_s``. While the connection
        streams, the bytes of the stream count.
        """
        started = time.monotonic()
        goal = self._sent + amount
        try:
            async with asyncio.timeout(deadline_s):
                while not self._streaming and self._sent < goal:
                    await self._send(min(CHUNK_BYTES, goal - self._sent))
                async with self._progress:
                    await self._progress.wait_for(lambda: self._verified >= goal or self._error is not None)
        except TimeoutError:
            missing = goal - self._verified
            self.abort(f"{missing} of {amount} bytes missing after {deadline_s:g} s")
        if self._error is not None:
            raise StreamError(self._error)
        return time.monotonic() - started

    def stream(self, mbit_s: float) -> None:
        """Send continuously at a steady rate until :meth:`finish`."""
        self._streaming = True
        self._streamer = asyncio.create_task(self._stream(mbit_s))

    async def finish(self, deadline_s: float) -> Tally:
        """Stop streaming and wait until every byte sent has come back; raises StreamError when that takes too long."""
        self._streaming = False
        try:
            async with asyncio.timeout(deadline_s):
                if self._streamer is not None:
                    await self._streamer
                async with self._progress:
                    await self._progress.wait_for(lambda: self._verified >= self._sent or self._error is not None)
        except TimeoutError:
            self.abort(f"{self._sent - self._verified} bytes missing after {deadline_s:g} s")
        if self._error is not None:
            raise StreamError(self._error)
        return self.tally

    def close(self) -> None:
        """Close the connection."""
        for task in (self._verifier, self._streamer):
            if task is not None:
                task.cancel()
        # Not before the event loop has taken note of the cancellations: it still watches the descriptor.
        asyncio.get_running_loop().call_soon(self._socket.close)

    def abort(self, why: str) -> None:
        """Give the connection up: nobody waits for it any longer."""
        self._error = self._error or why
        # SO_LINGER 0: the kernel forgets the connection at once instead of repeating what it has not got rid of.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    async def _send(self, amount: int) -> None:
        data = self._random.randbytes(amount)
        self._digest.update(data)
        self._outstanding += data
        self._sent += amount
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            await self._broken(f"broken while sending: {error}")

    async def _stream(self, mbit_s: float) -> None:
        interval = CHUNK_BYTES * 8 / (mbit_s * 1_000_000)
        following = time.monotonic()
        while self._streaming and self._error is None:
            await self._send(CHUNK_BYTES)
            following = max(following + interval, time.monotonic() - 0.1)
            await asyncio.sleep(max(0.0, following - time.monotonic()))

    async def _verify(self) -> None:
        loop = asyncio.get_running_loop()
        while self._error is None:
            try:
                data = await loop.sock_recv(self._socket, RECEIVE_BYTES)
            except OSError as error:
                await self._broken(f"broken while receiving: {error}")
                return
            if not data:
                await self._broken("closed by the correspondent")
            elif not self._outstanding.startswith(data):
                await self._broken(f"wrong byte after {self._verified} bytes")
            else:
                del self._outstanding[: len(data)]
                async with self._progress:
                    self._verified += len(data)
                    self._progress.notify_all()

    async def _broken(self, why: str) -> None:
        async with self._progress:
            self._error = self._error or why
            self._progress.notify_all()


@dataclass(slots=True)
class _Received:
    """What has come in on one connection."""

    count: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


class EchoServer:
    """The correspondent's end of all connections."""

    def __init__(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._received: dict[tuple[str, int], _Received] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept and echo, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            accepted, peer = await loop.sock_accept(self._listening)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._echo(accepted, (peer[0], peer[1])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def received(self, peer: tuple[str, int]) -> tuple[int, str]:
        """Bytes received from ``peer`` and their SHA-256 in hex."""
        got = self._received.get(peer, _Received())
        return got.count, got.digest.hexdigest()

    async def _echo(self, accepted: socket.socket, peer: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        got = self._received[peer] = _Received()
        with accepted, contextlib.suppress(OSError):
            while data := await loop.sock_recv(accepted, RECEIVE_BYTES):
                got.digest.update(data)
                got.count += len(data)
                await loop.sock_sendall(accepted, data)
