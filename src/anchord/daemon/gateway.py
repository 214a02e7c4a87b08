"""The daemon of a gateway: interfaces, socket, journal, kernel and control socket around ``protocol.gateway``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from anchord.attachment.access import AccessInterface, Hello, Notice
from anchord.attachment.segment import EVERY_S, QUIET_S
from anchord.daemon import logs, views
from anchord.daemon.advertiser import advertisement, probe
from anchord.daemon.config import NodeConfig
from anchord.daemon.control import ControlError, ControlServer
from anchord.daemon.directory_client import DirectoryClient
from anchord.daemon.directory_wire import DIGEST_DIGITS
from anchord.daemon.kernelside import on_loop, sweep, tunnel_status
from anchord.daemon.recorded import recorded
from anchord.daemon.settings import gateway_settings, plane_settings
from anchord.daemon.shell import Shell, instant, log, revoke_named, status
from anchord.daemon.transport import Transport, TransportError
from anchord.kernel.errors import KernelError
from anchord.kernel.forwarding import Forwarding
from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import (
    HostSeen,
    Input,
    Installed,
    LeaseLeft,
    MtuChanged,
    SegmentClear,
    SegmentConflict,
    UseTold,
)
from anchord.protocol.outputs import (
    Advertise,
    AskUse,
    Declare,
    DirectoryGet,
    DirectoryPut,
    Heed,
    Ignore,
    Output,
    Probe,
)
from anchord.store.interface import StoreError
from anchord.store.sqlite import SqliteStore

FILTER_S = 0.005  # a change of the filter waits so long: answer first
GREET_S = 0.5  # after a new host, and at most once in this time, an access interface says who it is


def run(config: NodeConfig, record: Path | None = None) -> int:
    """Run until stopped; the exit code. What was put into the kernel stays: a restart takes it over."""
    try:
        return asyncio.run(GatewayDaemon(config, record).run())
    except (StoreError, TransportError, ControlError, KernelError, OSError) as error:
        logs.say(log, logging.CRITICAL, "cannot-start", error=str(error))
        return 1


class GatewayDaemon:
    """Everything of a gateway that does I/O."""

    def __init__(self, config: NodeConfig, record: Path | None) -> None:
        """Raises StoreError, TransportError, KernelError or OSError when something needed is not there."""
        self._config = config
        self._gateway = Gateway(gateway_settings(config))
        self._node = recorded(self._gateway, record)
        self._forwarding = Forwarding(plane_settings(config))
        self._store = SqliteStore(config.state / f"{config.node}.db", config.store_sync == "always")
        self._transport = Transport(config.address, config.domain.peers)
        self._access = {name: AccessInterface(name, config.domain.secret, config.node) for name in config.access}
        self._heard_hello: dict[str, asyncio.TimerHandle] = {}
        self._filtering: dict[tuple[str, bytes], asyncio.TimerHandle] = {}
        self._gateway_macs: set[bytes] = set()
        self._greeting: set[str] = set()  # access interfaces where a hello is due because of a new host
        self._asked_use: list[AskUse] = []
        self._gone: set[str] = set()  # access interfaces that do not exist at present
        self._ready = False
        self._directory = self._directory_client()
        self._shell: Shell
        self._control: ControlServer

    async def run(self) -> int:
        """Until stopped; the exit code."""
        loop = asyncio.get_running_loop()
        # Where there is a central database, that ends sessions: it knows all of them, and whom to tell.
        revoke = self._revoke if self._config.domain.central is None else None
        control = self._control = ControlServer(self._config.socket, self._show, revoke)
        await control.start()
        self._shell = Shell(self._node, self._transport, self._store, control, self._perform)
        self._forwarding.start(partial(loop.call_soon_threadsafe, self._tell_mtus))
        try:
            self._tell_mtus()
            self._shell.perform(self._node.restore(self._store.load(), instant()))
            self._shell.feed([LeaseLeft(prefix, mac) for prefix, mac in self._forwarding.left.items()])
            await sweep(self._forwarding)
            for access in self._access.values():
                loop.add_reader(access.fileno(), self._frames, access)
            self._say_hello()
            self._shell.start()
            if self._directory is not None:
                self._directory.start()
            self._ready = True
            logs.say(
                log,
                logging.INFO,
                "ready",
                node=self._config.node,
                address=str(self._config.address),
                hosts=len(self._gateway.sessions),
            )
            return await self._shell.run()
        finally:
            await control.close()
            if self._directory is not None:
                self._directory.close()
            self._forwarding.stop()
            for access in self._access.values():
                access.close()
            self._transport.close()
            self._store.close()

    def _directory_client(self) -> DirectoryClient | None:
        """The connection to the directory, where there is one."""
        domain = self._config.domain
        if domain.directory is None:
            return None
        where = domain.directory.address, domain.directory.port
        return DirectoryClient(self._config.address, where, domain.digest[:DIGEST_DIGITS], self._directory_told)

    # Outputs

    def _perform(self, output: Output) -> None:
        if isinstance(output, Declare):
            loop = asyncio.get_running_loop()
            # The kernel layer answers from whichever thread did the work; the answer is fed in on the loop.
            answer = partial(self._installed, output.ticket)
            self._forwarding.declare(output.state, lambda error: on_loop(loop, answer, error))
        elif isinstance(output, Advertise):
            self._access[output.interface].send(advertisement(output))
        elif isinstance(output, Probe):
            self._access[output.interface].send(probe(output))
        elif isinstance(output, AskUse):
            if not self._asked_use:
                asyncio.get_running_loop().call_soon(self._tell_use)
            self._asked_use.append(output)
        elif isinstance(output, DirectoryGet | DirectoryPut) and self._directory is not None:
            self._directory.request(output)
        elif isinstance(output, Ignore | Heed) and output.interface in self._access:
            self._filter(output)

    def _tell_use(self) -> None:
        """One look at the kernel for all that were asked about together."""
        asked, self._asked_use = self._asked_use, []
        try:
            active = self._forwarding.active_prefixes()
        except KernelError as error:
            # What cannot be seen is taken to be in use: nothing is given up by mistake.
            self._tell("use-unknown", logging.WARNING, error=str(error))
            active = frozenset(prefix for question in asked for prefix in question.prefixes)
        self._shell.feed([UseTold(each.session, not active.isdisjoint(each.prefixes)) for each in asked])

    def _directory_told(self, answers: list[Input]) -> None:
        self._shell.feed(answers)

    def _filter(self, output: Ignore | Heed) -> None:
        """A new filter takes the kernel 0.2 ms, and no answer waits for it; of several orders the last one counts."""
        host, access = (output.interface, output.mac), self._access[output.interface]
        change = access.ignore if isinstance(output, Ignore) else access.heed
        if host in self._filtering:
            self._filtering.pop(host).cancel()
        self._filtering[host] = asyncio.get_running_loop().call_later(FILTER_S, self._filter_now, host, change)
        if isinstance(output, Ignore) and output.interface not in self._greeting:
            # It may be no host but a router of another gateway, if our segments have become one: each says who it is.
            self._greeting.add(output.interface)
            asyncio.get_running_loop().call_later(GREET_S, self._greet, output.interface)

    def _greet(self, interface: str) -> None:
        self._greeting.discard(interface)
        self._access[interface].say_hello()

    def _filter_now(self, host: tuple[str, bytes], change: Callable[[bytes], None]) -> None:
        del self._filtering[host]
        change(host[1])

    def _installed(self, ticket: int, error: str | None) -> None:
        self._shell.feed([Installed(ticket, error)])

    # Inputs

    def _tell_mtus(self) -> None:
        self._shell.feed([MtuChanged(name, self._forwarding.host_mtu(name)) for name in self._access])

    def _frames(self, access: AccessInterface) -> None:
        events: list[Input] = []
        for seen in access.drain():
            if isinstance(seen, Hello):
                events.append(self._hello(seen))
            elif seen.mac not in self._gateway_macs:
                events.append(_host_seen(seen))
        if events:
            self._shell.feed(events)

    def _hello(self, seen: Hello) -> Input:
        """Somebody of this domain is on our segment: no place to attach hosts until it is quiet again."""
        loop = asyncio.get_running_loop()
        self._gateway_macs.add(seen.mac)
        timer = self._heard_hello.pop(seen.interface, None)
        if timer is not None:
            timer.cancel()
        else:
            self._access[seen.interface].say_hello()
        self._heard_hello[seen.interface] = loop.call_later(QUIET_S, self._quiet, seen.interface)
        return SegmentConflict(seen.interface, seen.name, seen.mac)

    def _quiet(self, interface: str) -> None:
        del self._heard_hello[interface]
        self._shell.feed([SegmentClear(interface)])

    def _say_hello(self) -> None:
        for access in self._access.values():
            self._look_after(access)
            access.say_hello()
        asyncio.get_running_loop().call_later(EVERY_S, self._say_hello)

    def _look_after(self, access: AccessInterface) -> None:
        """An access interface may be taken away, and come back as another under the same name."""
        if access.is_there():
            return
        loop = asyncio.get_running_loop()
        if access.name not in self._gone:
            self._gone.add(access.name)
            loop.remove_reader(access.fileno())
            self._tell("interface-gone", logging.ERROR, interface=access.name)
        try:
            access.reopen()
        except OSError:
            return  # still gone
        self._gone.discard(access.name)
        loop.add_reader(access.fileno(), self._frames, access)
        self._tell("interface-back", logging.INFO, interface=access.name)
        # Its DLIFs went with it.
        self._forwarding.audit(lambda error: None)

    def _tell(self, event: str, level: int, **fields: object) -> None:
        logs.say(log, level, event, **fields)
        self._control.publish(
            {"event": event, "level": logging.getLevelName(level).lower(), "time": time.time(), **fields}
        )

    # Questions

    def _revoke(self, named: str) -> object:
        return revoke_named(self._node.revoke, self._shell, named)

    def _show(self, what: str, mn: str | None) -> object:
        if what == "status":
            return {
                **status(self._config.node, "gateway", self._ready and not self._gone, self._config.domain.digest),
                "frames_to_userspace": sum(access.frames for access in self._access.values()),
                "frames_late": sum(access.late for access in self._access.values()),
                "interfaces_gone": sorted(self._gone),
                "filter_full": sum(access.filter_full for access in self._access.values()),
                "send_failures": self._transport.send_failures,
                "segment_conflicts": self._gateway.conflicts(),
                "counters": dict(self._gateway.counters.local),
                "directory": None if self._directory is None else self._directory.status(),
                **tunnel_status(self._forwarding),
                "kernel": self._forwarding.counters(),
            }
        return views.of_gateway(self._gateway, what, mn, self._config.domain.peers, instant())


def _host_seen(seen: Notice) -> HostSeen:
    return HostSeen(seen.interface, seen.mac, seen.address, seen.solicited, seen.reassociated, seen.age_s, seen.router)
