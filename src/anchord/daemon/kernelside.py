"""What daemons that forward packets share: answers of the kernel layer, brought to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from anchord.daemon import logs
from anchord.daemon.shell import log
from anchord.kernel.forwarding import Forwarding


def on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[str | None], None], error: str | None) -> None:
    """Call on the event loop, from whatever thread; never before the caller is done."""
    if threading.current_thread() is threading.main_thread():
        loop.call_soon(call, error)  # the loop runs in the main thread: it need not be woken
    else:
        loop.call_soon_threadsafe(call, error)


async def sweep(forwarding: Forwarding) -> None:
    """Everything of an earlier life that nobody has declared again is removed from the kernel."""
    loop = asyncio.get_running_loop()
    swept: asyncio.Future[str | None] = loop.create_future()
    forwarding.sweep(lambda error: on_loop(loop, swept.set_result, error))
    error = await swept
    if error is not None:
        logs.say(log, logging.ERROR, "sweep-failed", error=error)


def tunnel_status(forwarding: Forwarding) -> dict[str, object]:
    """What fits into tunnels, and the peers to which not even what every host may send does."""
    return {"tunnel_mtu": forwarding.tunnel_mtu, "too_narrow": [str(peer) for peer in forwarding.too_narrow]}
