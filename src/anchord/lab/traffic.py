"""The controller's side of the traffic in a lab: agents as objects, and what they report.

An :class:`Endpoint` is a process of :mod:`anchord.lab.agent` inside one namespace. Orders are calls; an order that
takes long is a future, so that several can run at once. Ending an endpoint closes its input, at which it ends itself.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

from anchord.lab.namespaces import inside

_CHECK_S = 0.2
_ORDER_S = 10.0  # an order without a deadline of its own is answered at once


class TrafficError(Exception):
    """An agent could not carry out an order, or died."""


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """A notification about one of a host's addresses; ``time_ns`` is CLOCK_REALTIME when it reached the application."""

    time_ns: int
    namespace: str | None
    address: IPv6Address
    preferred: bool  # and out of DAD: what a new connection takes (RFC 6724 rule 3)
    deprecated: bool
    tentative: bool


class Endpoint:
    """A running agent in a namespace (None: ours, for an agent that serves many hosts)."""

    def __init__(self, name: str, namespace: str | None = None) -> None:
        self.name = name
        argv = [sys.executable, "-m", "anchord.lab.agent"]
        if namespace is None:
            self._process = _start(argv)
        else:
            with inside(namespace):
                self._process = _start(argv)
        self._changed = threading.Condition()
        self._waiting: dict[int, Future[Any]] = {}
        self._number = 0
        self._events: list[AddressEvent] = []
        self._ready: Future[Any] = Future()
        self._reader = threading.Thread(target=self._read, name=f"agent {name}", daemon=True)
        self._reader.start()
        self._ready.result(_ORDER_S)

    def submit(self, do: str, **arguments: Any) -> Future[Any]:
        """Give an order; the future brings its result, or TrafficError."""
        future: Future[Any] = Future()
        with self._changed:
            if self._process.poll() is not None:
                raise TrafficError(f"the agent of {self.name} has ended (exit status {self._process.returncode})")
            self._number += 1
            number = self._number
            self._waiting[number] = future
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}) + "\n")
                self._process.stdin.flush()
            except OSError as error:
                raise TrafficError(f"the agent of {self.name} has ended: {error}") from None
        return future

    def call(self, do: str, **arguments: Any) -> Any:
        """Give an order and wait for its result; raises TrafficError."""
        patience = float(arguments.get("deadline_s", 0)) + _ORDER_S
        return self.result(self.submit(do, **arguments), patience)

    def result(self, future: Future[Any], patience_s: float, alive: Callable[[], None] = lambda: None) -> Any:
        """The result of an order given before; raises TrafficError, also when the agent does not answer.

        ``alive`` is called a few times a second and may raise, to end the wait when something else has failed.
        """
        end = time.monotonic() + patience_s
        while True:
            try:
                return future.result(min(max(end - time.monotonic(), 0.0), _CHECK_S))
            except FutureTimeoutError:
                if time.monotonic() >= end:
                    raise TrafficError(f"the agent of {self.name} does not answer") from None
            alive()

    def await_address(
        self, wanted: Callable[[AddressEvent], bool], timeout_s: float, alive: Callable[[], None] = lambda: None
    ) -> AddressEvent | None:
        """The first notification that ``wanted`` accepts, past ones included; None after ``timeout_s``.

        ``alive`` is called a few times a second and may raise, to end the wait when something else has failed.
        """
        end = time.monotonic() + timeout_s
        seen = 0
        with self._changed:
            while True:
                for event in self._events[seen:]:
                    if wanted(event):
                        return event
                seen = len(self._events)
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, _CHECK_S))
                alive()

    def close(self) -> None:
        """End the agent; harmless when it has ended."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # it died with an order of ours unread
                self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(2)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._take(json.loads(line))
        with self._changed:
            waiting, self._waiting = self._waiting, {}
        error = TrafficError(f"the agent of {self.name} has ended")
        for future in [*waiting.values(), self._ready]:
            if not future.done():
                future.set_exception(error)

    def _take(self, line: Mapping[str, Any]) -> None:
        if line.get("event") == "ready":
            self._ready.set_result(line["pid"])
        elif line.get("event") == "address":
            with self._changed:
                self._events.append(_address_event(line))
                self._changed.notify_all()
        else:
            with self._changed:
                future = self._waiting.pop(line["id"])
            if line["ok"]:
                future.set_result(line.get("result"))
            else:
                future.set_exception(TrafficError(line["error"]))


def _start(argv: list[str]) -> subprocess.Popen[str]:
    # A session of its own: Ctrl-C at the terminal reaches only the controller, which then ends everything in order.
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _address_event(line: Mapping[str, Any]) -> AddressEvent:
    return AddressEvent(
        time_ns=line["time_ns"],
        namespace=line["namespace"],
        address=IPv6Address(line["address"]),
        preferred=line["preferred"],
        deprecated=line["deprecated"],
        tentative=line["tentative"],
    )
