"""The daemon of a Local Mobility Anchor: socket, store, kernel and control socket around ``protocol.lma``."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

from anchord.daemon import logs, views
from anchord.daemon.config import NodeConfig
from anchord.daemon.control import ControlError, ControlServer
from anchord.daemon.kernelside import on_loop, sweep, tunnel_status
from anchord.daemon.recorded import recorded
from anchord.daemon.settings import lma_peers, lma_settings, plane_settings
from anchord.daemon.shell import Shell, instant, log, revoke_named, status
from anchord.daemon.transport import Transport, TransportError
from anchord.kernel.errors import KernelError
from anchord.kernel.forwarding import Forwarding
from anchord.protocol.inputs import Installed
from anchord.protocol.lma import Lma
from anchord.protocol.outputs import Declare, Output
from anchord.store.interface import StoreError
from anchord.store.sqlite import SqliteStore


def run(config: NodeConfig, record: Path | None = None) -> int:
    """Run until stopped; the exit code. What was put into the kernel stays: a restart takes it over."""
    try:
        return asyncio.run(_run(config, record))
    except (StoreError, TransportError, ControlError, KernelError, OSError) as error:
        logs.say(log, logging.CRITICAL, "cannot-start", error=str(error))
        return 1


async def _run(config: NodeConfig, record: Path | None) -> int:
    loop = asyncio.get_running_loop()
    lma, peers = Lma(lma_settings(config)), lma_peers(config)
    node = recorded(lma, record)
    forwarding = Forwarding(plane_settings(config))
    store = SqliteStore(config.state / f"{config.node}.db", config.store_sync == "always")
    transport = Transport(config.address, peers)
    ready = False

    def show(what: str, mn: str | None) -> object:
        if what == "status":
            return {
                **status(config.node, "lma", ready, config.domain.digest),
                "send_failures": transport.send_failures,
                "counters": dict(lma.counters.local),
                **tunnel_status(forwarding),
                "kernel": forwarding.counters(),
            }
        return views.of_lma(lma, what, mn, peers, instant())

    def perform(output: Output) -> None:
        assert isinstance(output, Declare), f"an LMA has no use for {output}"
        answer = partial(installed, output.ticket)
        forwarding.declare(output.state, lambda error: on_loop(loop, answer, error))

    def installed(ticket: int, error: str | None) -> None:
        shell.feed([Installed(ticket, error)])

    def revoke(named: str) -> object:
        return revoke_named(node.revoke, shell, named)

    control = ControlServer(config.socket, show, revoke)
    await control.start()
    shell = Shell(node, transport, store, control, perform)
    forwarding.start()
    try:
        shell.perform(node.restore(store.load(), instant()))
        await sweep(forwarding)
        shell.start()
        ready = True
        bindings = len(lma.plain_bindings) + len(lma.bindings)
        logs.say(log, logging.INFO, "ready", node=config.node, address=str(config.address), bindings=bindings)
        return await shell.run()
    finally:
        await control.close()
        forwarding.stop()
        transport.close()
        store.close()
