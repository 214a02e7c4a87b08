"""Forwarding as a service: declare what should be true of a host, be told when the kernel has made it so.

Work on the kernel is done by one thread at a time. A declaration that meets nobody at work is carried out by its caller
at once: it takes less than a millisecond, and two changes of thread would take half of one. Everything that takes long,
because rtnetlink runs inside sendmsg() and waits for a lock that is shared by the whole machine, is left to a worker
thread, and so are declarations that come meanwhile. The worker's day, most urgent first:

1. declarations: all that are waiting are merged into one batch, and each is answered as soon as the kernel has
   acknowledged its objects;
2. sweep and audit on request;
3. what declarations left behind (``Engine.tidy``), after 5 ms without one;
4. links made beforehand, one at a time, after 50 ms;
5. the buried links, at a quiet moment: 3 s after the first burial and half a second after the last declaration;
6. a look at what the paths to the peers carry, 10 s after the last one, or at once when a packet was too big;
7. an audit by itself, 30 s after the last one.

Nothing of this needs the process afterwards: when it is killed, packets go on, and the next ``start`` takes over.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, IPv6Network
from types import MappingProxyType
from typing import NamedTuple

from anchord.declared import HostState, Role
from anchord.kernel import dump, firewall, host
from anchord.kernel.alone import Alone
from anchord.kernel.engine import Engine
from anchord.kernel.errors import KernelError
from anchord.kernel.netlink import NetlinkError, NetlinkSocket
from anchord.kernel.paths import Paths
from anchord.kernel.tables import ENCAPSULATION_OVERHEAD, MIN_MTU, PlaneSettings, leases

__all__ = ["Forwarding", "KernelError", "PlaneSettings", "flush"]

log = logging.getLogger(__name__)
flush = host.flush

Done = Callable[[str | None], object]
"""Called with None or an error text, from whichever thread did the work. Must not block or declare anything."""

_MERGE_AT_MOST = 16
"""Declarations in one batch: bounds how long the first of them waits for its answer."""
_TIDY_AFTER_S = 0.005
_SPARE_AFTER_S = 0.05
_BURY_FOR_S = 3.0
_QUIET_FOR_S = 0.5
_BURIED_AT_MOST = 256
"""More buried links than this are deleted without waiting for a quiet moment."""
_MEASURE_EVERY_S = 10.0
"""Only what grows is noticed this late: what the kernel knew of a path has expired, or a route is another."""
_AUDIT_EVERY_S = 30.0
_AUDIT_SHARE = 100
"""An audit of a large gateway takes long; it is not begun before this many times its duration has passed."""
_PAUSE_AFTER_FAILURE_S = 5.0
_STOP_WITHIN_S = 5.0


class _Declare(NamedTuple):
    state: HostState
    done: Done


class _Sweep(NamedTuple):
    done: Done


class _Audit(NamedTuple):
    done: Done


class _Stop(NamedTuple):
    pass


class _LookAround(NamedTuple):
    """A caller has carried out a declaration itself: there may be something to tidy up."""


_Work = _Declare | _Sweep | _Audit | _Stop | _LookAround


class Forwarding:
    """The data plane of one gateway, in the network namespace of the thread that calls ``start``.

    ``declare``, ``sweep``, ``audit``, ``counters`` and ``active_prefixes`` may be called from
    any thread.
    """

    def __init__(self, settings: PlaneSettings) -> None:
        self.settings = settings
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._alone: Alone | None = None
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._counter_socket: NetlinkSocket | None = None
        self._counter_lock = threading.Lock()
        self._paths: Paths | None = None
        self._links = host.LinkMtus(0, {})
        self._left: dict[IPv6Network, bytes | None] = {}
        self._tunnel_mtu = 0
        self._too_narrow: tuple[IPv6Address, ...] = ()
        self._offer: tuple[int, ...] = ()
        self._mtu_changed: Callable[[], object] = lambda: None
        self._raised: set[str] = set()
        self._buried_at = self._declared_at = self._audited_at = self._measured_at = 0.0
        self._audit_pause_s = _AUDIT_EVERY_S
        self._aside: list[_Work] = []
        self._merged = 0
        self._at_work = threading.Lock()

    @property
    def links(self) -> Mapping[bytes, str]:
        """MACs of the DLIFs in service here, with the access interfaces they are on; live, for look-ups.

        It changes under the reader: to iterate, take ``dict(forwarding.links)`` first.
        """
        return MappingProxyType(self._engine.links if self._engine else {})

    @property
    def left(self) -> Mapping[IPv6Network, bytes | None]:
        """Which /64s of our pools hosts had when ``start`` looked, with the MAC addresses of those that were here."""
        return MappingProxyType(self._left)

    @property
    def tunnel_mtu(self) -> int:
        """Bytes an inner packet may have in a tunnel, 1280 or more: the least path to a peer, less the outer header.

        One value for all tunnels (RFC 5213 section 6.9.5): the links where packets are measured serve them all, and a
        host that roams is told a value that holds at every anchor of its.
        """
        return self._tunnel_mtu

    @property
    def too_narrow(self) -> tuple[IPv6Address, ...]:
        """Peers whose path carries no packet of 1280 bytes in a tunnel: some of what hosts send there is lost."""
        return self._too_narrow

    def host_mtu(self, interface: str) -> int:
        """What Router Advertisements on this access interface should carry (RFC 5213 sections 6.9.2 and 6.9.5)."""
        return max(min(self._tunnel_mtu, self._links.access.get(interface, self._tunnel_mtu)), MIN_MTU)

    def start(self, mtu_changed: Callable[[], object] = lambda: None) -> None:
        """Prepare the machine, take over what an earlier process left, and start the worker.

        Returns when forwarding is in order; hosts of an earlier process go on being served until ``sweep``.
        ``mtu_changed`` is called from the worker thread, and must not block, when ``tunnel_mtu`` or ``host_mtu`` is no
        longer what it was. Raises KernelError, also where another process forwards already, with nothing changed; a
        second call after ``stop`` is allowed.
        """
        with contextlib.ExitStack() as undo:
            self._alone = Alone()
            undo.callback(self._alone.close)
            sock = undo.enter_context(NetlinkSocket())
            try:
                self._raised = set(firewall.raised_promiscuous())
                self._links = host.prepare(self.settings, sock, self._raised)
                for name in host.unnamed(self.settings, sock):
                    log.warning("interface=%s is neither access nor core: its packets are unbound hosts' for us", name)
                self._paths = self._open_paths()
                undo.callback(self._paths.close)
                self._measured_at = time.monotonic()
                self._offer = self._fit_tunnels()
                self._engine = Engine(self.settings, sock)
                self._engine.take_over(self._tunnel_mtu)
                self._left = leases(self._engine.installed.values(), self.settings.pools)
                self._counter_socket = firewall.open_counters()
            except NetlinkError as error:
                raise host.explained(error) from error
            undo.pop_all()
        self._mtu_changed = mtu_changed
        self._audited_at = time.monotonic()
        self._buried_at = self._audited_at if self._engine.buried else 0.0
        self._thread = threading.Thread(target=self._work, name="anchord-kernel", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the worker after what is queued already. Kernel state stays as it is. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(_Stop())
            thread.join(_STOP_WITHIN_S)
        if self._paths is not None:
            self._paths.close()
        with self._counter_lock:
            if self._counter_socket is not None:
                self._counter_socket.close()
                self._counter_socket = None
        if self._alone is not None:
            self._alone.close()

    def declare(self, state: HostState, done: Done) -> None:
        """Make this true of the host, replacing what was declared of it before.

        ``done(None)`` when the kernel has acknowledged every object; ``done(text)`` when something failed: other
        hosts are not affected, and declaring again repairs. What is no longer wanted goes afterwards.

        ``done`` is called before this returns if nobody else was at work, and from the worker thread otherwise.
        """
        work = _Declare(state, done)
        if self._engine is None or not self._at_work.acquire(blocking=False):
            self._queue.put(work)
            return
        try:
            # What is waiting came earlier; only the worker keeps the order.
            mine = self._queue.empty() and not self._aside
            if mine:
                self._declare(self._engine, [work])
        finally:
            self._at_work.release()
        self._queue.put(_LookAround() if mine else work)

    def sweep(self, done: Done) -> None:
        """Remove what an earlier process left and no declaration since ``start`` has mentioned."""
        self._queue.put(_Sweep(done))

    def audit(self, done: Done) -> None:
        """Compare the kernel with everything declared, repair what differs."""
        self._queue.put(_Audit(done))

    def counters(self) -> dict[str, int]:
        """Packets dropped by cause (firewall.py), and what the worker did. Some 0.1 ms; zeroes before ``start``."""
        dropped = dict.fromkeys(firewall.COUNTERS, 0)
        with self._counter_lock:
            if self._counter_socket is not None:
                try:
                    dropped = firewall.read_counters(self._counter_socket)
                except NetlinkError as error:
                    log.warning("counters cannot be read error=%r", str(error))
        engine = self._engine
        if engine is None:
            return dropped
        totals = engine.totals
        return dropped | {
            "netlink_batches": totals.batches,
            "netlink_requests": totals.requests,
            "netlink_errors": totals.errors,
            "declarations_merged": self._merged,
            "audits": totals.readings,
            "repairs": totals.repairs,
            "links": len(engine.links),
            "links_deleted": totals.links_deleted,
        }

    def active_prefixes(self) -> frozenset[IPv6Network]:
        """The /64 prefixes of which a packet, in either direction, used a tunnel within the last ``idle_s`` seconds.

        Of this gateway's own prefixes (EXPORTED, with the ``others`` that used their local networks) and of those in
        TRANSIT. Until the packet filter has been watching for that long, all that are declared so count as active.
        Costs some 0.1 ms and a microsecond for each; raises KernelError.
        """
        with self._counter_lock:
            if self._counter_socket is None:
                return frozenset()
            try:
                active = firewall.read_active(self._counter_socket)
            except NetlinkError as error:
                raise host.explained(error) from error
        if firewall.NEW not in active or self._engine is None:
            return active
        entries = (entry for state in list(self._engine.states.values()) for entry in state.entries)
        unknown = {entry.prefix for entry in entries if entry.role in (Role.EXPORTED, Role.TRANSIT)}
        return (active | unknown) - {firewall.NEW}

    # The worker thread.

    def _work(self) -> None:
        assert self._engine is not None
        engine = self._engine
        try:
            while self._turn(engine):
                pass
        finally:
            engine.socket.close()

    def _turn(self, engine: Engine) -> bool:
        """One piece of work; False when it was the last."""
        work = self._next(engine)
        if isinstance(work, _LookAround):
            return True
        with self._at_work:
            self._do(engine, work)
        return not isinstance(work, _Stop)

    def _do(self, engine: Engine, work: _Declare | _Sweep | _Audit | _Stop | None) -> None:
        match work:
            case None:
                self._idle(engine)
            case _Declare():
                self._declare(engine, self._waiting(work))
            case _Sweep(done):
                forgotten = engine.forget_inherited()
                self._tidy(engine)
                log.info("swept objects=%d", forgotten)
                _answer(done, None)
            case _Audit(done):
                _answer(done, self._audit(engine, lambda: False))
            case _Stop():
                engine.tidy()

    def _next(self, engine: Engine) -> _Work | None:
        if self._aside:
            return self._aside.pop(0)
        wait_s = min(when for when, _ in self._chores(engine)) - time.monotonic()
        try:
            return self._queue.get(timeout=wait_s) if wait_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _chores(self, engine: Engine) -> list[tuple[float, Callable[[Engine], None]]]:
        """What there is to do without being asked, and when (time.monotonic)."""
        chores: list[tuple[float, Callable[[Engine], None]]] = []
        if engine.unwanted:
            chores.append((self._declared_at + _TIDY_AFTER_S, self._tidy))
        if engine.lacks_spares():
            chores.append((self._declared_at + _SPARE_AFTER_S, Engine.make_spare))
        if self._buried_at:
            quiet = max(self._buried_at + _BURY_FOR_S, self._declared_at + _QUIET_FOR_S)
            chores.append((quiet, self._delete_buried))
        chores.append((self._measured_at + _MEASURE_EVERY_S, self._measure_unasked))
        chores.append((self._audited_at + self._audit_pause_s, self._audit_unasked))
        return chores

    def _waiting(self, first: _Declare) -> list[_Declare]:
        """This declaration and those waiting behind it; other work found on the way is set aside."""
        found = [first]
        while len(found) < _MERGE_AT_MOST and not self._aside:
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(work, _Declare):
                found.append(work)
            elif not isinstance(work, _LookAround):
                self._aside.append(work)
        return found

    def _declare(self, engine: Engine, declared: list[_Declare]) -> None:
        newest = {work.state.host: work.state for work in declared}
        self._merged += len(declared) - 1
        try:
            outcome = engine.apply(list(newest.values()))
        except Exception as error:  # a value that no object can be made of must not end forwarding for all
            log.exception("a declaration failed")
            engine.doubtful.update(newest)
            outcome = dict.fromkeys(newest, f"{type(error).__name__}: {error}")
        for work in declared:
            _answer(work.done, outcome[work.state.host])
        self._declared_at = time.monotonic()
        if len(engine.unwanted) > _BURIED_AT_MOST:
            self._tidy(engine)

    def _idle(self, engine: Engine) -> None:
        due, chore = min(self._chores(engine), key=lambda chore: chore[0])
        if due > time.monotonic():
            return
        try:
            chore(engine)
        except Exception:
            log.exception("a chore failed")
            again_at = time.monotonic() + _PAUSE_AFTER_FAILURE_S
            self._declared_at = self._audited_at = self._measured_at = again_at

    def _tidy(self, engine: Engine) -> None:
        engine.tidy()
        if len(engine.buried) > _BURIED_AT_MOST:
            self._delete_buried(engine)
        elif engine.buried and not self._buried_at:
            self._buried_at = time.monotonic()

    def _delete_buried(self, engine: Engine) -> None:
        engine.delete_buried()
        self._buried_at = 0.0

    def _audit_unasked(self, engine: Engine) -> None:
        error = self._audit(engine, lambda: not self._queue.empty())
        if error:
            log.warning("audit could not repair everything error=%r", error)

    def _audit(self, engine: Engine, urgent: Callable[[], bool]) -> str | None:
        began = time.monotonic()
        errors: list[str] = []
        try:
            self._links = host.prepare(self.settings, engine.socket, self._raised)
        except KernelError as error:  # an interface is gone, perhaps: what is on the others is looked after
            errors.append(str(error))
        errors += self._measure(engine)
        before = engine.totals.repairs
        try:
            errors += engine.audit(self._tunnel_mtu, urgent)
            self._tidy(engine)
            if engine.totals.repairs > before:
                log.warning("somebody changed what is ours: repaired objects=%d", engine.totals.repairs - before)
        except dump.InterruptedReadError:
            return None
        except NetlinkError as error:
            errors.append(str(error))
        self._audited_at = time.monotonic()
        self._audit_pause_s = max(_AUDIT_EVERY_S, _AUDIT_SHARE * (self._audited_at - began))
        return "; ".join(errors) or None

    # What fits into tunnels.

    def _open_paths(self) -> Paths:
        try:
            return Paths(self.settings.address, self._path_told)
        except OSError as error:
            where = f"raw socket on {self.settings.address}: {error.strerror}"
            mend = "run as root or with CAP_NET_ADMIN and CAP_NET_RAW"
            raise KernelError("what the paths to other gateways carry cannot be learnt", where, mend) from error

    def _path_told(self) -> None:
        """From the thread that watches: a packet was too big for its path."""
        self._measured_at = -_MEASURE_EVERY_S
        self._queue.put(_LookAround())

    def _measure_unasked(self, engine: Engine) -> None:
        for error in self._measure(engine):
            log.warning("internal links could not be given their MTU error=%r", error)

    def _measure(self, engine: Engine) -> list[str]:
        """Look what links and paths carry; the internal links first and then the hosts are told of a change."""
        self._measured_at = time.monotonic()
        offer = self._fit_tunnels()
        if offer == self._offer:
            return []
        self._offer = offer
        errors = engine.resize(self._tunnel_mtu)
        log.info("packets in tunnels may have bytes=%d", self._tunnel_mtu)
        _answer(lambda _: self._mtu_changed(), None)
        return errors

    def _fit_tunnels(self) -> tuple[int, ...]:
        """Make up the MTUs that we offer from those of links and paths."""
        assert self._paths is not None
        mtus = self._paths.mtus(self.settings.peers)
        least = min([self._links.core, *mtus.values()])
        # RFC 8200 section 5: hosts may send 1280 bytes whatever we say, so a narrower path loses some of it.
        self._tunnel_mtu = max(least - ENCAPSULATION_OVERHEAD, MIN_MTU)
        too_narrow = tuple(peer for peer, mtu in mtus.items() if mtu - ENCAPSULATION_OVERHEAD < MIN_MTU)
        for peer in set(too_narrow).difference(self._too_narrow):
            log.error(
                "the path is too narrow for tunnels: hosts' packets of %d bytes and more are lost on it, "
                "widen it to %d or more peer=%s mtu=%d",
                mtus[peer] - ENCAPSULATION_OVERHEAD + 1,
                MIN_MTU + ENCAPSULATION_OVERHEAD,
                peer,
                mtus[peer],
            )
        self._too_narrow = too_narrow
        return self._tunnel_mtu, *map(self.host_mtu, self.settings.access)


def _answer(done: Done, error: str | None) -> None:
    """Tell the control plane. Whatever its callback does wrong must not end forwarding."""
    try:
        done(error)
    except Exception:
        log.exception("a forwarding callback failed")
