"""Lines that no gateway would send, into the directory's daemon: its parser, its store, its answers.

- Nothing is raised, and every line has one answer.
- What is answered with an error changes nothing.
- No more records than the limit, and none larger than it may be.
"""

from __future__ import annotations

import asyncio
import tempfile
import traceback
from ipaddress import IPv6Address
from pathlib import Path
from random import Random
from typing import Any

from fuzz_bytes import damage_line, damage_value
from fuzz_episode import Failure, Tally

from anchord.daemon.config import load_node
from anchord.daemon.directory import DirectoryDaemon
from anchord.daemon.directory_wire import Lines, LineTooLongError, encode
from anchord.store.embedded import VALUE_BYTES

TARGET = "directory"
PEER = IPv6Address("2001:db8:f1::1")
RECORDS = 20
DOMAIN = f"""
name = "x"
secret = "0123456789abcdef0123456789abcdef"
finder = "directory"
directory = {{ address = "2001:db8:fd::1" }}
gateways = {{ gw1 = {{ address = "{PEER}", pools = ["2001:db8:a1::/48"] }} }}
limits = {{ sessions = {RECORDS} }}
"""
NODE = 'node = "dir"\ndomain = "domain.toml"\nstate = "state"\nrun = "run"\n'


def lines_into_a_directory(seed: int, inputs: int, tally: Tally) -> None:
    """One episode. Raises Failure."""
    said: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as where:
            Path(where, "domain.toml").write_text(DOMAIN)
            Path(where, "dir.toml").write_text(NODE)
            asyncio.run(_Play(seed, inputs, tally, said).play(Path(where, "dir.toml")))
    except Exception as error:
        raise Failure(TARGET, seed, traceback.format_exc(), said) from error


class _Play:
    def __init__(self, seed: int, inputs: int, tally: Tally, said: list[str]) -> None:
        self._rng = Random(f"{TARGET}/{seed}")
        self._inputs, self._tally, self._said = inputs, tally, said
        self._answers: list[dict[str, Any]] = []
        self._lines: list[bytes] = []
        self._revisions: dict[str, int] = {}
        self._raised: list[dict[str, Any]] = []

    async def play(self, config: Path) -> None:
        """Several lines a turn, cut anywhere, as TCP brings them."""
        rng = self._rng
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self._raised.append(context))
        daemon = DirectoryDaemon(load_node(config))
        lines, enough = Lines(), self._tally.inputs + self._inputs
        try:
            while self._tally.inputs < enough:
                stream = b"".join(self._line() + b"\n" for _ in range(rng.randrange(1, 8)))
                self._said.append(stream.hex())
                cut = rng.randrange(len(stream) + 1)
                for piece in (stream[:cut], stream[cut:]):
                    try:
                        found = lines.feed(piece)
                    except LineTooLongError:
                        lines = Lines()  # the connection is over, and another one begins
                        self._tally.inputs += 1
                        continue
                    for line in found:
                        await self._ask(daemon, line)
                if rng.random() < 0.05:
                    daemon._directory.purge(rng.choice((1.7e9, 1.8e9)))
        finally:
            daemon._store.close()

    async def _ask(self, daemon: DirectoryDaemon, line: bytes) -> None:
        directory, tally = daemon._directory, self._tally
        before = (dict(directory.entries), directory.revision)
        self._answers.clear()
        daemon.request(PEER, line, self._answers.append)
        await asyncio.sleep(0)  # one turn of the loop: answers come when what was written is in the store
        await asyncio.sleep(0)
        tally.inputs += 1
        assert not self._raised, self._raised
        (answer,) = self._answers
        encode(answer)
        if "error" in answer:
            tally.refused += 1
            cause = f"line.{answer['error'][:12]}"
            tally.causes[cause] = tally.causes.get(cause, 0) + 1
            assert before == (directory.entries, directory.revision), f"refused ({answer}), and yet it has changed"
        else:
            tally.accepted += 1
        if "revision" in answer:
            self._revisions[answer["key"]] = answer["revision"]
        assert len(directory.entries) <= RECORDS + 1, "more records than the limit"
        assert len(self._revisions) < 10_000
        assert all(len(encode(entry.value or {})) <= VALUE_BYTES + 2 for entry in directory.entries.values())

    def _line(self) -> bytes:
        rng = self._rng
        key = rng.choice(("5:020000000001/020000000001", "a", "x" * 600, f"k{rng.randrange(40)}"))
        value: Any = rng.choice(
            (
                {},
                None,
                {"serving": "2001:db8::1", "expires_wall_s": 1.7e9},
                {"expires_wall_s": 0},
                {"x": "y" * 4090},
                [1],
                7,
            )
        )
        revision = rng.choice((self._revisions.get(key, 0), 0, -1, True, 2**70))
        request: dict[str, Any] = rng.choice(
            (
                {"get": key},
                {"put": key, "revision": revision, "value": value},
                {"put": key, "revision": self._revisions.get(key, 0), "value": value},
                {"grant": rng.choice((6.0, 0, -1, 1e9, True)), "domain": "ab" * 8},
            )
        )
        if rng.random() < 0.4:
            request = damage_value(rng, request)
        line = encode(request).rstrip(b"\n")
        self._lines = [*self._lines[-20:], line]
        damaged = damage_line(rng, line, self._lines) if rng.random() < 0.6 else line
        return damaged.replace(b"\n", b" ")
