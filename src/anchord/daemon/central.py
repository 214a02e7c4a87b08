"""The daemon of the Central Mobility Database: socket, store and control socket around ``protocol.central``."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from anchord.daemon import logs, views
from anchord.daemon.config import NodeConfig
from anchord.daemon.control import ControlError, ControlServer
from anchord.daemon.recorded import recorded
from anchord.daemon.settings import central_settings
from anchord.daemon.shell import Shell, instant, log, revoke_named, status
from anchord.daemon.transport import Transport, TransportError
from anchord.protocol.central import Central
from anchord.protocol.outputs import Output
from anchord.store.interface import Store, StoreError
from anchord.store.memory import MemoryStore
from anchord.store.sqlite import SqliteStore


def run(config: NodeConfig, record: Path | None = None) -> int:
    """Run until stopped; the exit code."""
    try:
        return asyncio.run(_run(config, record))
    except (StoreError, TransportError, ControlError, OSError) as error:
        logs.say(log, logging.CRITICAL, "cannot-start", error=str(error))
        return 1


def _store(config: NodeConfig) -> Store:
    if config.store == "memory":
        return MemoryStore()
    return SqliteStore(config.state / f"{config.node}.db", config.store_sync == "always")


async def _run(config: NodeConfig, record: Path | None) -> int:
    store = _store(config)
    transport = Transport(config.address, config.domain.peers)
    central = Central(central_settings(config))
    node = recorded(central, record)
    ready = False

    def show(what: str, mn: str | None) -> object:
        if what == "status":
            return {
                **status(config.node, "central", ready, config.domain.digest),
                "send_failures": transport.send_failures,
                "counters": dict(central.counters.local),
            }
        return views.of_central(central, what, mn, config.domain.peers, instant())

    def revoke(named: str) -> object:
        return revoke_named(node.revoke, shell, named)

    control = ControlServer(config.socket, show, revoke)
    await control.start()

    def nothing_else(output: Output) -> None:
        raise AssertionError(f"a CMD has no use for {output}")

    shell = Shell(node, transport, store, control, nothing_else)
    shell.perform(node.restore(store.load(), instant()))
    shell.start()
    ready = True
    logs.say(log, logging.INFO, "ready", node=config.node, address=str(config.address), bindings=len(central.bindings))
    try:
        return await shell.run()
    finally:
        await control.close()
        transport.close()
        store.close()
