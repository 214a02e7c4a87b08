"""The control socket: one JSON object a line, limits on everything a client can make grow."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchord.daemon import control
from anchord.daemon.control import NOUNS, ControlError, ControlServer, NotReachableError, follow, query
from anchord.declared import Role


def show(what: str, mn: str | None) -> object:
    """What the daemon under test knows."""
    if mn == "nobody":
        raise LookupError("no mobile node 'nobody'")
    return [{"peer": IPv6Address("2001:db8::1"), "role": Role.ANCHORED, "mac": bytes(6), "what": what, "mn": mn}]


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, show)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 30)

    asyncio.run(bounded())


async def ask(path: Path, *lines: bytes) -> list[dict[str, object]]:
    """Send raw lines, close our sending end, and return every answer."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"".join(lines))
    writer.write_eof()
    answers = [json.loads(line) for line in (await reader.read()).splitlines()]
    writer.close()
    return answers


async def monitor(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has been told that it is a monitor."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b'{"monitor": true}\n')
    assert json.loads(await reader.readline()) == {"ok": True}
    return reader, writer


def test_a_query_gets_plain_values(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "gw1.sock"):
            data = await asyncio.to_thread(query, tmp_path / "gw1.sock", {"show": "peers", "mn": "mn1"})
            mac = "00:00:00:00:00:00"
            assert data == [{"peer": "2001:db8::1", "role": "anchored", "mac": mac, "what": "peers", "mn": "mn1"}]

    run(scenario)


def test_an_error_of_the_daemon_reaches_the_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "gw1.sock"):
            with pytest.raises(ControlError, match="no mobile node 'nobody'") as error:
                await asyncio.to_thread(query, tmp_path / "gw1.sock", {"show": "peers", "mn": "nobody"})
            assert error.value.exit_code == 1

    run(scenario)


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"[]\n", b"\xff\n", b"[" * 4000 + b"\n", b'{"show": "secrets"}\n', b'{"show": "peers", "mn": 5}\n',
     b'{"monitor": 1}\n', b"x" * 10_000 + b"\n"],
)  # fmt: skip
def test_nonsense_is_refused_and_the_daemon_goes_on(tmp_path: Path, line: bytes) -> None:
    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path):
            (answer,) = await ask(path, line)
            assert answer["ok"] is False
            assert answer["error"]
            (answer,) = await ask(path, b'{"show": "status"}\n')
            assert answer["ok"] is True

    run(scenario)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(NOUNS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("show", "mn", "revoke", "monitor")) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
).filter(lambda value: not (isinstance(value, dict) and value.get("monitor") is True))
LINES = st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())).filter(
    lambda line: b"\n" not in line
)


@settings(max_examples=60)
@given(st.lists(LINES, min_size=1, max_size=20))
def test_any_line_has_one_answer(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    async def scenario() -> None:
        path = tmp_path_factory.getbasetemp() / "any.sock"
        async with serving(path):
            answers = await ask(path, *(line + b"\n" for line in lines))
            assert len(answers) == len(lines)
            for answer in answers:
                assert ("data" in answer) if answer["ok"] is True else answer["error"]

    run(scenario)


def test_a_gateway_has_nothing_to_revoke(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "gw1.sock"):
            (answer,) = await ask(tmp_path / "gw1.sock", b'{"revoke": "mn1"}\n')
            assert not answer["ok"] and "ask the daemon of the central database" in str(answer["error"])

    run(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_row_48_only_root_and_the_daemons_user_may_change_something(tmp_path: Path) -> None:
    revoked: list[str] = []
    program = (
        "import os, socket, sys; link = socket.socket(socket.AF_UNIX); os.setgid(0); os.setuid(65534);"
        'link.connect(sys.argv[1]); link.sendall(b\'{"revoke": "mn1"}\\n\'); print(link.recv(4096).decode())'
    )

    async def scenario() -> None:
        path = tmp_path / "cmd.sock"
        server = ControlServer(path, show, revoked.append)
        await server.start()
        for folder in (tmp_path, *tmp_path.parents[:-2]):
            folder.chmod(folder.stat().st_mode | 0o011)  # a stranger of the socket's group gets as far as the socket
        command = (sys.executable, "-c", program, str(path))
        stranger = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said = json.loads((await stranger.communicate())[0])
        assert not said["ok"] and "not permitted" in said["error"] and revoked == []
        assert (await ask(path, b'{"revoke": "mn1"}\n'))[0]["ok"] and revoked == ["mn1"]
        await server.close()

    run(scenario)


def test_several_requests_on_one_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path):
            answers = await ask(path, b'{"show": "peers"}\n', b"nonsense\n", b'{"show": "tunnels"}\n')
            assert [answer["ok"] for answer in answers] == [True, False, True]

    run(scenario)


def test_nobody_there(tmp_path: Path) -> None:
    for attempt in (lambda: query(tmp_path / "x.sock", {"show": "peers"}), lambda: next(follow(tmp_path / "x.sock"))):
        with pytest.raises(NotReachableError, match="daemon not reachable") as error:
            attempt()
        assert error.value.exit_code == 3


def test_monitors_get_every_event_in_order_until_the_daemon_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path) as server:
            one, other = await monitor(path), await monitor(path)
            for number in range(100):
                server.publish({"event": "handover", "number": number, "peer": IPv6Address("::1")})
            for reader, _ in (one, other):
                events = [json.loads(await reader.readline()) for _ in range(100)]
                assert [event["number"] for event in events] == list(range(100))
                assert events[0] == {"event": "handover", "number": 0, "peer": "::1"}
        for reader, writer in (one, other):
            assert await reader.read() == b""
            writer.close()

    run(scenario)


def test_follow_yields_events_and_says_when_the_daemon_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path) as server:
            events = follow(path)
            first = asyncio.ensure_future(asyncio.to_thread(next, events))
            while not first.done():  # until it has become a monitor nothing reaches it
                server.publish({"event": "tick"})
                await asyncio.wait([first], timeout=0.01)
            assert first.result() == {"event": "tick"}

        def rest() -> None:
            for _ in events:
                pass

        with pytest.raises(NotReachableError, match="closed the connection"):
            await asyncio.to_thread(rest)

    run(scenario)


def test_a_slow_monitor_is_told_and_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "QUEUED_EVENTS", 10)

    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path) as server:
            reader, writer = await monitor(path)
            quick, quick_writer = await monitor(path)
            for number in range(11):  # one event loop turn: not one of them is written before the queue is full
                server.publish({"event": "x", "number": number})
            assert server.dropped_monitors == 2
            for stream in (reader, quick):
                last = json.loads((await stream.read()).splitlines()[-1])
                assert last == {"event": "dropped", "reason": "too slow", "events_lost": 11}
            server.publish({"event": "nobody listens"})
            writer.close()
            quick_writer.close()

    run(scenario)


def test_a_monitor_that_reads_nothing_at_all_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "QUEUED_EVENTS", 10)
    monkeypatch.setattr(control, "FAREWELL_S", 0.1)

    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path) as server:
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(str(path))
                deaf.sendall(b'{"monitor": true}\n')
                while not server.dropped_monitors:
                    server.publish({"event": "x", "filler": 100_000 * "x"})
                    await asyncio.sleep(0)
                while server.clients:
                    await asyncio.sleep(0.01)

    run(scenario)


def test_no_more_clients_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLIENTS", 3)

    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path) as server:
            connections = [await monitor(path) for _ in range(3)]
            (answer,) = await ask(path)
            assert answer == {"ok": False, "error": "3 clients already, try again later"}
            assert server.refused == 1
            connections[0][1].close()
            while server.clients == 3:
                await asyncio.sleep(0.01)
            (answer,) = await ask(path, b'{"show": "status"}\n')
            assert answer["ok"] is True
            for _, writer in connections:
                writer.close()

    run(scenario)


def test_a_client_that_asks_nothing_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_S", 0.05)

    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert await reader.read() == b""
            writer.close()

    run(scenario)


def test_row_48_the_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = os.umask(0)
        try:
            async with serving(tmp_path / "run" / "gw1.sock"):
                assert stat.S_IMODE((tmp_path / "run" / "gw1.sock").stat().st_mode) == 0o660
        finally:
            os.umask(before)
        assert not (tmp_path / "run" / "gw1.sock").exists()

    run(scenario)


def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "gw1.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def scenario() -> None:
        async with serving(path):
            assert await ask(path, b'{"show": "status"}\n')

    run(scenario)


def test_the_socket_of_a_living_daemon_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path):
            with pytest.raises(ControlError, match="a daemon answers here already"):
                await ControlServer(path, show).start()
            assert await ask(path, b'{"show": "status"}\n')

    run(scenario)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gw1.sock"
    path.write_text("precious")
    with pytest.raises(ControlError, match="is no socket"):
        asyncio.run(ControlServer(path, show).start())
    assert path.read_text() == "precious"


def test_a_newer_daemons_socket_survives_the_end_of_the_older_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "gw1.sock"
        async with serving(path):
            path.unlink()
            newer = ControlServer(path, show)
            await newer.start()
        assert await ask(path, b'{"show": "status"}\n')
        await newer.close()

    run(scenario)
