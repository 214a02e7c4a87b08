"""A gateway's connection to the directory, against servers that do as they like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from typing import Any

import pytest

from anchord.daemon import directory_client
from anchord.daemon.directory_client import DirectoryClient
from anchord.protocol.inputs import DirectoryAnswered, DirectoryMet, Input
from anchord.protocol.outputs import DirectoryGet, DirectoryPut

LOOPBACK = IPv6Address("::1")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 30)

    asyncio.run(bounded())


class Scene:
    """A client, and what it has been told."""

    def __init__(self, port: int) -> None:
        self.told: asyncio.Queue[Input] = asyncio.Queue()
        self.client = DirectoryClient(LOOPBACK, (LOOPBACK, port), "ab" * 8, self._feed)

    def _feed(self, answers: list[Input]) -> None:
        for answer in answers:
            self.told.put_nowait(answer)


@asynccontextmanager
async def scene(serve: Serve, port: int = 0) -> AsyncIterator[Scene]:
    server = await asyncio.start_server(serve, str(LOOPBACK), port)
    made = Scene(server.sockets[0].getsockname()[1])
    made.client.start()
    try:
        yield made
    finally:
        made.client.close()
        server.close()


async def question(reader: asyncio.StreamReader) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(await reader.readline())
    return asked


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def answer(writer: asyncio.StreamWriter, *messages: object) -> None:
    writer.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


def test_questions_go_out_and_answers_come_in() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await question(reader) == {"grant": 6.0, "domain": "ab" * 8}
        answer(writer, {"granted": "gw1", "domain": "ab" * 8})
        assert await question(reader) == {"get": "1:61/"}
        assert await question(reader) == {"put": "1:61/", "revision": 7, "value": {"n": 1}}
        answer(writer, {"key": "1:61/", "revision": 7, "value": None})
        answer(writer, {"key": "1:61/", "done": False, "revision": 9, "value": {"n": 2}})

    async def scenario() -> None:
        async with scene(serve) as here:
            await until(lambda: here.client.status()["connected"] is True)
            here.client.request(DirectoryGet("1:61/"))
            here.client.request(DirectoryPut("1:61/", 7, {"n": 1}))
            assert await here.told.get() == DirectoryAnswered("1:61/", 7, None)
            assert await here.told.get() == DirectoryAnswered("1:61/", 9, {"n": 2}, False)
            status = here.client.status()
            assert status["same_domain"] is True
            assert (status["asked"], status["answered"], status["errors"]) == (2, 2, 0)

    run(scenario)


def test_what_is_asked_while_there_is_no_connection_is_dropped_and_counted() -> None:
    async def scenario() -> None:
        here = Scene(1)
        here.client.start()
        here.client.request(DirectoryGet("1:61/"))
        status = here.client.status()
        assert (status["connected"], status["asked"], status["dropped"]) == (False, 0, 1)
        here.client.close()

    run(scenario)


def test_a_directory_that_is_back_is_found_within_a_second() -> None:
    hung_up = asyncio.Event()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        answer(writer, {"granted": "gw1", "domain": "ab" * 8})
        await hung_up.wait()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        answer(writer, {"granted": "gw1", "domain": "00" * 8})

    async def scenario() -> None:
        server = await asyncio.start_server(hang_up, str(LOOPBACK), 0)
        port = server.sockets[0].getsockname()[1]
        here = Scene(port)
        here.client.start()
        await until(lambda: here.client.status()["connected"] is True)
        server.close()
        hung_up.set()
        await until(lambda: here.client.status()["connected"] is False)
        await asyncio.sleep(2.0)  # gone for so long
        async with await asyncio.start_server(serve, str(LOOPBACK), port, reuse_address=True):
            await asyncio.wait_for(until(lambda: here.client.status()["connections"] == 2), 1.0)
            assert here.client.status()["same_domain"] is False
            here.client.close()

    run(scenario)


def test_a_directory_that_hangs_up_at_once_is_not_besieged() -> None:
    accepted = []

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(1)
        writer.transport.abort()

    async def scenario() -> None:
        async with scene(refuse) as here:
            await asyncio.sleep(2.0)
            assert here.client.status()["connections"] == 0
        assert 3 <= len(accepted) <= 10

    run(scenario)


def test_a_directory_that_has_fallen_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_client, "RENEW_S", 0.1)
    accepted = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(1)
        await question(reader)
        if len(accepted) == 1:
            answer(writer, {"granted": "gw1", "domain": "ab" * 8})
        await reader.read()
        writer.close()

    async def scenario() -> None:
        async with scene(silent) as here:
            await until(lambda: here.client.status()["connected"] is True)
            await until(lambda: here.client.status()["connected"] is False)
            await until(lambda: len(accepted) >= 2)

    run(scenario)


def test_what_makes_no_sense_is_counted_and_what_follows_is_read() -> None:
    nonsense = (
        {"error": "limit.records", "key": "a"}, [], 7, {}, {"key": 1, "revision": 1, "value": None},
        {"key": "a", "revision": "1", "value": None}, {"key": "a", "revision": 1, "value": []},
    )  # fmt: skip

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(b"\xff{\n")
        answer(writer, *nonsense, {"key": "a", "revision": 1, "value": {}})

    async def scenario() -> None:
        async with scene(serve) as here:
            assert await here.told.get() == DirectoryAnswered("a", 1, {})
            assert here.client.status()["errors"] == 1 + len(nonsense)

    run(scenario)


def test_a_line_without_an_end_ends_the_connection() -> None:
    accepted = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(1)
        await question(reader)
        writer.write(b"x" * 20_000)
        await reader.read()
        writer.close()

    async def scenario() -> None:
        async with scene(serve):
            await until(lambda: len(accepted) >= 2)

    run(scenario)


def test_how_old_the_store_is_is_told_once_and_again_when_it_is_another() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        for began in (1000.5, 1000.5, "yesterday", None, -1, 10**400, 2000):
            answer(writer, {"granted": "gw1", "domain": "ab" * 8, "began": began})

    async def scenario() -> None:
        async with scene(serve) as here:
            assert [await here.told.get(), await here.told.get()] == [DirectoryMet(1000.5), DirectoryMet(2000.0)]
            assert here.told.empty()
            assert here.client.status()["errors"] == 0

    run(scenario)
