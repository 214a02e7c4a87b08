"""An ordinary application with sockets, run inside a host or a correspondent of the lab; it knows nothing of mobility.

``python -m anchord.lab.agent`` takes orders as JSON lines on standard input (``{"id": 1, "do": "open", ...}``) and
answers each with one line of the same id, ``{"id": 1, "ok": true, "result": ...}`` or ``{"id": 1, "ok": false,
"error": "..."}``. Lines without an id are events: changes of the host's addresses, with the time at which the kernel's
notification arrived. The orders are the methods ``do_...`` of :class:`Agent`. It ends when its input ends.

One process can serve many hosts: an order that opens a socket may name the namespace to open it in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from anchord.lab import addresses, probes, streams
from anchord.lab.namespaces import inside

Json = dict[str, Any]

_ECHO_REQUEST = 128
_ECHO_REPLY = 129
_PING_EVERY_S = 0.05


@contextmanager
def _inside(namespace: str | None) -> Iterator[None]:
    if namespace is None:
        yield
    else:
        with inside(namespace):
            yield


class Agent:
    """Carries out orders. Every ``do_`` method is one order; its arguments are the order's keys."""

    def __init__(self) -> None:
        self._prober: probes.Prober | None = None
        self._streams: dict[int, streams.Stream] = {}
        self._server: streams.EchoServer | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take orders until the input ends."""
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        _say({"event": "ready", "pid": os.getpid()})
        while line := await reader.readline():
            self._start(self._obey(json.loads(line)))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _obey(self, order: Json) -> None:
        number, verb = order.pop("id"), order.pop("do")
        try:
            result = await getattr(self, f"do_{verb}")(**order)
        except (streams.StreamError, OSError) as error:
            _say({"id": number, "ok": False, "error": str(error)})
        else:
            _say({"id": number, "ok": True, "result": result})

    # A host's orders

    async def do_watch(self, namespace: str | None = None) -> None:
        """Report the host's global addresses as they are, and every change of them from now on."""
        with _inside(namespace):
            opened = addresses.subscribe()
            there = addresses.dump()
        opened.setblocking(False)
        _report(there, time.time_ns(), namespace)
        asyncio.get_running_loop().add_reader(opened, _report_changes, opened, namespace)

    async def do_addresses(self, namespace: str | None = None) -> list[Json]:
        """The host's global addresses."""
        with _inside(namespace):
            return [_describe(state) for state in addresses.dump()]

    async def do_open(
        self,
        connection: int,
        to: str,
        seed: int,
        deadline_s: float,
        port: int = 0,
        bind: str = "::",
        namespace: str | None = None,
    ) -> Json:
        """Open a TCP connection, from our own choice of address unless ``bind`` says otherwise."""
        with _inside(namespace):
            opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            opened.bind((bind, port))
        except OSError:
            opened.close()
            raise
        started = time.monotonic()
        stream = await streams.Stream.open(opened, (to, streams.PORT), seed, deadline_s)
        self._streams[connection] = stream
        return {"local": stream.local, "seconds": time.monotonic() - started}

    async def do_exchange(self, connection: int, amount: int, deadline_s: float) -> Json:
        """Move ``amount`` bytes each way on a connection and verify them."""
        stream = self._streams[connection]
        seconds = await stream.exchange(amount, deadline_s)
        return {"seconds": seconds, **asdict(stream.tally)}

    async def do_stream(self, connection: int, mbit_s: float) -> None:
        """Send continuously on a connection."""
        self._streams[connection].stream(mbit_s)

    async def do_finish(self, connection: int, deadline_s: float) -> Json:
        """Wait for the last echo of a connection; what was sent, verified, and its SHA-256."""
        stream = self._streams[connection]
        tally = await stream.finish(deadline_s)
        return {**asdict(tally), "digest": stream.digest, "local": stream.local}

    async def do_tally(self, connection: int) -> Json:
        """Bytes sent and verified on a connection so far."""
        return asdict(self._streams[connection].tally)

    async def do_close(self, connection: int) -> None:
        """Close a connection."""
        self._streams.pop(connection).close()

    async def do_probe(self, own: str, to: str, sends: bool = True, namespace: str | None = None) -> None:
        """Exchange 1 kHz of UDP between our address ``own`` and a correspondent; only receive if not ``sends``."""
        with _inside(namespace):
            opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        opened.bind((own, probes.PORT))
        self._probes().originate(opened, own, (to, probes.PORT), sends)

    # A correspondent's orders

    async def do_serve(self) -> None:
        """Echo TCP, answer probes."""
        listening = socket.create_server(("::", streams.PORT), family=socket.AF_INET6, backlog=64)
        self._server = streams.EchoServer(listening)
        self._start(self._server.serve())
        opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        opened.bind(("::", probes.PORT))
        self._probes().answer(opened)

    async def do_received(self, peer: list[Any]) -> Json:
        """What came in on the TCP connection from ``peer`` (address and port): bytes and SHA-256."""
        assert self._server is not None
        count, digest = self._server.received((peer[0], peer[1]))
        return {"bytes": count, "digest": digest}

    async def do_tell(self, host: str) -> None:
        """Send probes to a host that has sent none."""
        self._probes().tell((host, probes.PORT))

    async def do_ping(self, address: str, deadline_s: float) -> Json:
        """Send ICMPv6 echo requests until one is answered."""
        started = time.monotonic()
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as opened:
            opened.setblocking(False)
            opened.connect((address, 0))
            try:
                async with asyncio.timeout(deadline_s):
                    await _ping(opened)
            except TimeoutError:
                raise OSError(f"{address} does not answer within {deadline_s:g} s") from None
        return {"seconds": time.monotonic() - started}

    # Everybody's orders

    async def do_end_probes(self, own: str | None = None) -> None:
        """Stop the probes of one host address, or all."""
        self._probes().end(own)

    async def do_probe_counts(self) -> Json:
        """Probes by host address, and the instants left out for want of a processor."""
        return {"flows": self._probes().counts(), "late": self._probes().late}

    def _probes(self) -> probes.Prober:
        if self._prober is None:
            self._prober = probes.Prober()
        return self._prober


async def _ping(opened: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    number = 0
    identifier = os.getpid() & 0xFFFF
    while True:
        number = (number + 1) & 0xFFFF
        try:
            opened.send(struct.pack("!BBHHH8x", _ECHO_REQUEST, 0, 0, identifier, number))
            async with asyncio.timeout(_PING_EVERY_S):
                while True:
                    reply = await loop.sock_recv(opened, 2048)
                    if reply[0] == _ECHO_REPLY and struct.unpack_from("!H", reply, 4)[0] == identifier:
                        return
        except TimeoutError:
            continue
        except OSError:
            await asyncio.sleep(_PING_EVERY_S)  # unreachable for now: the deadline decides


def _describe(state: addresses.AddressState) -> Json:
    return {**asdict(state), "preferred": state.preferred}


def _report_changes(opened: socket.socket, namespace: str | None) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            data = opened.recv(65536)
            _report(addresses.parse(data), time.time_ns(), namespace)


def _report(states: Iterable[addresses.AddressState], time_ns: int, namespace: str | None) -> None:
    for state in states:
        _say({"event": "address", "namespace": namespace, "time_ns": time_ns, **_describe(state)})


def _say(line: Json) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Be an agent until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the controller, which ends us by closing our input
    sys.setswitchinterval(0.0005)  # the probes' thread must not wait 5 ms for the interpreter
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(Agent().run())


if __name__ == "__main__":
    main()
