"""One gateway under a control plane that is a JSON file. See README.md.

The program watches the table, declares to anchord's forwarding layer what the table says of each host, and tells the
hosts that are here of their routers. It decides nothing: whoever writes the table does.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from table import Held, Host, TableError, face, load

from anchord.attachment.access import AccessInterface, Notice
from anchord.declared import HostState
from anchord.kernel.errors import KernelError
from anchord.kernel.forwarding import Forwarding, PlaneSettings
from anchord.wire.host_frames import advertisement, offered_prefix
from anchord.wire.neighbor import Preference

log = logging.getLogger("gateway")

VALID_S, PREFERRED_S, ROUTER_S = 600, 300, 600
RENEW_S = 100.0
RETRY_S = 1.0
ANSWER_EVERY_S = 0.1  # a host that solicits more often than this is not answered


class Gateway:
    """One gateway of the table."""

    def __init__(self, path: Path, name: str, access: str, core: str) -> None:
        """Raises TableError, OSError."""
        self._path, self._name = path, name
        self._version = _version(path)
        self._table = load(path)
        if name not in self._table.gateways:
            raise TableError(f"{path}: no gateway {name!r}, expected one of {', '.join(self._table.gateways)}")
        mine = self._table.gateways[name]
        peers = tuple(other.address for other in self._table.gateways.values() if other != mine)
        self._access = AccessInterface(access)
        self._forwarding = Forwarding(PlaneSettings(mine.address, mine.pools, (access,), (core,), peers))
        self._shown_at: dict[str, float] = {}

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. What was put into the kernel stays: a restart takes it over."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        self._forwarding.start()
        watched = _watch(self._path.parent, self._read)
        try:
            self._read()  # it may have changed before it was watched
            for host in self._table.hosts:
                self._declare(host)
            # What an earlier run left of hosts that are no longer in the table.
            self._forwarding.sweep(lambda error: log.info("ready") if error is None else log.error("sweep %s", error))
            loop.add_reader(self._access, self._frames)
            loop.call_later(RENEW_S, self._renew)
            await stopped.wait()
        finally:
            os.close(watched)
            self._forwarding.stop()
            self._access.close()

    # The table

    def _read(self) -> None:
        """Something happened where the table is. A table with errors changes nothing."""
        try:
            version = _version(self._path)
            if version == self._version:
                return
            self._version = version
            new = load(self._path)
        except (OSError, TableError) as error:
            log.error("the table in force stays:\n%s", error)
            return
        if new.gateways != self._table.gateways:
            log.error("the table in force stays: its gateways have changed, restart this program to take them over")
            return
        old, self._table = self._table, new
        for name in {**old.hosts, **new.hosts}:
            if old.hosts.get(name) != new.hosts.get(name):
                self._leave(name, old.hosts.get(name))
                self._declare(name)

    def _leave(self, name: str, before: Host | None) -> None:
        """What a host at this gateway no longer holds, it is told to forget. One that moved on keeps everything."""
        if before is None:
            return
        now = self._table.hosts.get(name)
        if now is None or now.mac != before.mac:
            self._access.heed(before.mac)
        if before.at == self._name and (now is None or now.at in (None, self._name)):
            left = now.prefixes if now is not None and now.at else ()
            self._show(name, before, [held for held in before.prefixes if held not in left], left)

    # The kernel

    def _declare(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        state = self._table.state(name, self._name, self._access.name)
        if (host := self._table.hosts.get(name)) is not None:
            self._access.ignore(host.mac)  # its data is the kernel's business; its solicitations still come

        def done(error: str | None) -> None:
            loop.call_soon_threadsafe(self._declared, state, error)  # the answer may come from another thread

        self._forwarding.declare(state, done)

    def _declared(self, state: HostState, error: str | None) -> None:
        name = state.host
        if state != self._table.state(name, self._name, self._access.name):
            return  # the table says something else meanwhile, and that has been declared
        if error is not None:
            log.error("host=%s error=%s; tried again", name, error)
            asyncio.get_running_loop().call_later(RETRY_S, self._again, state)
            return
        log.info("host=%s %s", name, " ".join(f"{each.role.value}={each.prefix}" for each in state.entries) or "gone")
        self._advertise(name)

    def _again(self, state: HostState) -> None:
        if state == self._table.state(state.host, self._name, self._access.name):
            self._declare(state.host)

    # The hosts

    def _frames(self) -> None:
        for seen in self._access.drain():
            if isinstance(seen, Notice) and seen.solicited:
                self._answer(seen.mac)

    def _answer(self, mac: bytes) -> None:
        for name, host in self._table.hosts.items():
            if host.mac == mac and time.monotonic() - self._shown_at.get(name, 0.0) >= ANSWER_EVERY_S:
                self._advertise(name)

    def _renew(self) -> None:
        asyncio.get_running_loop().call_later(RENEW_S, self._renew)
        for name in self._table.hosts:
            self._advertise(name)

    def _advertise(self, name: str) -> None:
        """Show a host that is here all its routers, that of this gateway first."""
        host = self._table.hosts.get(name)
        if host is not None and host.at == self._name:
            self._shown_at[name] = time.monotonic()
            self._show(name, host, sorted(host.prefixes, key=lambda held: held.anchor != self._name), host.prefixes)

    def _show(self, name: str, host: Host, which: Iterable[Held], left: Iterable[Held]) -> None:
        """Advertise some of a host's prefixes; those that are not among ``left`` are withdrawn, and with its last
        prefix its router. Only the prefix of this gateway is preferred: new connections take the short way."""
        anchors = {held.anchor for held in left}
        for held in which:
            router, ours, stays = face(name, held.anchor), held.anchor == self._name, held in left
            frame = advertisement(
                host.mac,
                router.mac,
                router.address,
                lifetime_s=ROUTER_S if held.anchor in anchors else 0,
                preference=Preference.MEDIUM if ours else Preference.LOW,
                mtu=self._forwarding.tunnel_mtu,
                offers=[offered_prefix(held.prefix, VALID_S if stays else 0, PREFERRED_S if stays and ours else 0)],
            )
            self._access.send(frame)


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _watch(directory: Path, changed: Callable[[], None]) -> int:
    """Call ``changed`` on the event loop when a file in ``directory`` has changed. Close what is returned to end it.

    The kernel sends SIGIO (F_NOTIFY in fcntl(2)); it does not see what other machines do in a network file system.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGIO, changed)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.fcntl(opened, fcntl.F_NOTIFY, fcntl.DN_RENAME | fcntl.DN_CREATE | fcntl.DN_MODIFY | fcntl.DN_MULTISHOT)
    return opened


def main() -> int:
    """The exit code: 1 when the machine is not as needed, 2 when the table is not."""
    parser = argparse.ArgumentParser(description="A gateway under the control of a JSON table.")
    parser.add_argument("--table", type=Path, required=True, help="the table, the same at every gateway")
    parser.add_argument("--gateway", required=True, help="which gateway of the table this is")
    parser.add_argument("--access", default="acc0", help="the interface where hosts are")
    parser.add_argument("--core", default="core0", help="the interface towards the other gateways")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(Gateway(given.table.absolute(), given.gateway, given.access, given.core).run())
    except TableError as error:
        print(error, file=sys.stderr)
        return 2
    except (KernelError, OSError) as error:
        print(f"{given.gateway}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
