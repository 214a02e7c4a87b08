"""Everything together under a virtual clock: messages, kernels, stores, hosts and their packets."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Address
from random import Random
from typing import Any

from anchord.declared import HostState
from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import (
    DirectoryAnswered,
    DirectoryMet,
    HostSeen,
    Input,
    Installed,
    MessageReceived,
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
    Persist,
    Probe,
    Report,
    Send,
)
from anchord.protocol.session import Phase
from anchord.protocol.settings import Finding
from anchord.simulator.air import Air
from anchord.simulator.checks import Checks
from anchord.simulator.forwarding import Core, Plane, upper
from anchord.simulator.hosts import population
from anchord.simulator.network import Links
from anchord.simulator.process import START_WALL_S, Machine, Process
from anchord.simulator.scenario import CENTRAL, Scenario
from anchord.simulator.trace import Trace
from anchord.store.directory import Outcome
from anchord.store.embedded import EmbeddedDirectory
from anchord.store.interface import StoreError
from anchord.store.memory import MemoryStore
from anchord.wire.header import decode, encode

WATCH_S = 1.0  # between looks at all tunnels
AUDIT_S = 5.0  # the kernel layer tries again what was refused
LOOK_EVERY = 32  # inputs of a process between looks at all it holds
DIRECTORY = IPv6Address("2001:db8:fd::1")
Pair = tuple[IPv6Address, IPv6Address]


class World:
    """One run. ``gateway``, ``central`` and ``plane`` make its parts: tests put faulty ones in their place."""

    def __init__(
        self,
        scenario: Scenario,
        trace: Trace,
        as_bytes: bool,
        gateway: Callable[..., Machine] = Gateway,
        central: Callable[..., Machine] = Central,
        plane: Callable[..., Plane] = Plane,
    ) -> None:
        self.scenario, self.trace, self.as_bytes = scenario, trace, as_bytes
        self.random = Random(f"world {scenario.seed}")
        self.now_s = 0.0
        self.inputs = 0
        self.faults: Counter[str] = Counter()
        self.links = Links(scenario.network, self.random, self.faults)
        self.hosts = population(scenario.hosts, self.random)
        self.air = Air(self, scenario.radio_loss)
        self.store = MemoryStore()
        self.directory: EmbeddedDirectory | None = self._new_directory()
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._last_arrival_s: dict[tuple[str, str], float] = {}  # by the names of both ends
        domain = scenario.domain
        planes: list[Plane] = []
        self.nodes: dict[IPv6Address, Process] = {}
        if domain.central is not None:
            settings = scenario.central_settings()
            self.nodes[CENTRAL] = Process("cmd", CENTRAL, domain, lambda: central(settings), None)
        for each in scenario.gateway_settings():
            made = plane(each.me.name, each.me.address, each.me.pools)
            planes.append(made)
            self.nodes[each.me.address] = Process(each.me.name, each.me.address, domain, partial(gateway, each), made)
        self.core = Core(planes)
        self.by_mac = {host.mac: host for host in self.hosts}
        self.checks = Checks(self)
        self._perform: dict[type, Callable[[Process, Any], None]] = {
            Send: self._send,
            Declare: self._declare,
            Advertise: self.air.advertise,
            Probe: self.air.probe,
            AskUse: self._ask_use,
            Ignore: self.air.filter,
            Heed: self.air.filter,
            Persist: self._persist,
            DirectoryGet: self._ask_directory,
            DirectoryPut: self._ask_directory,
            Report: self._report,
        }
        trace.names = {address: process.name for address, process in self.nodes.items()}
        for process in self.nodes.values():
            self.start(process)
        self.at(WATCH_S, self._watch)

    # The clock

    def at(self, at_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something happen."""
        self._serial += 1
        heapq.heappush(self._queue, (at_s, self._serial, call, arguments))

    def run_until(self, end_s: float) -> None:
        """Let everything happen that is due until then."""
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] <= end_s:
            self.now_s, _, call, arguments = pop(queue)
            call(*arguments)
        self.now_s = end_s

    def _watch(self) -> None:
        self.checks.watch()
        self.at(self.now_s + WATCH_S, self._watch)

    # Processes

    def start(self, process: Process) -> None:
        """A node begins, or begins again."""
        if process.machine is not None:
            return
        journal = process.begin()
        assert process.machine is not None
        self.perform(process, process.machine.restore(journal, process.instant(self.now_s)))
        if process.plane is not None:
            process.kernel_free_s = max(process.kernel_free_s, self.now_s) + 0.0005
            self.at(process.kernel_free_s, self._sweep, process, process.life)
            self._meet_directory(process)
        self._wake_up(process)

    def kill(self, process: Process, keep_journal: bool) -> None:
        """kill -9; without the journal, the machine was replaced by another, whose kernel is empty."""
        if process.machine is None:
            return
        process.die(keep_journal)
        if self.trace.wanted:
            self.trace.note(self.now_s, process.name, f"killed, journal {'kept' if keep_journal else 'lost'}")
        if process.plane is not None and not keep_journal:
            for host in list(process.plane.states):
                self.installed(process, HostState(host))
            process.plane.used_s, process.plane.since_s = {}, self.now_s

    def feed(self, process: Process, event: Input) -> None:
        """One input, and what follows from it."""
        machine = process.machine
        if machine is None:
            return
        self._count(process)
        if self.trace.wanted:
            self.trace.event(self.now_s, process.name, "<", event)
        seen = type(event) is HostSeen
        was_here = seen and self._has_here(process, event)
        outputs = machine.handle(event, process.instant(self.now_s))
        if seen and not was_here and self._has_here(process, event):
            self.checks.found(process, process.pace.attached(self.now_s))
        if outputs:
            self.perform(process, outputs)
        self._wake_up(process)

    def _has_here(self, process: Process, seen: Any) -> bool:
        session = process.sessions.get(self.by_mac[seen.mac].key)
        return session is not None and session.phase is not Phase.AWAY

    def _count(self, process: Process) -> None:
        self.inputs += 1
        process.inputs += 1
        if process.inputs % LOOK_EVERY == 0:
            self.checks.limits(process)

    def perform(self, process: Process, outputs: list[Output]) -> None:
        """Carry outputs out, in order; a process may die on the way."""
        cut = process.cut_after
        perform = self._perform
        for number, output in enumerate(outputs):
            if cut is not None and number >= cut:
                break
            if self.trace.wanted:
                self.trace.event(self.now_s, process.name, ">", output)
            perform[type(output)](process, output)
        if cut is not None and outputs:
            self.kill(process, True)

    def _wake_up(self, process: Process) -> None:
        if process.machine is None:
            return
        next_s = process.machine.next_timer_s()
        if next_s is not None and (process.wake_s is None or next_s < process.wake_s):
            process.wake_s = at_s = max(next_s, self.now_s)
            self.at(at_s, self._timers, process, process.life, at_s)

    def _timers(self, process: Process, life: int, at_s: float) -> None:
        if process.machine is None or process.life != life or process.wake_s != at_s:
            return
        process.wake_s = None
        next_s = process.machine.next_timer_s()
        if next_s is not None and next_s <= self.now_s:
            self._count(process)
            if self.trace.wanted:
                self.trace.note(self.now_s, process.name, "< timers")
            outputs = process.machine.handle_timers(process.instant(self.now_s))
            if outputs:
                self.perform(process, outputs)
        self._wake_up(process)

    # Messages

    def _send(self, process: Process, output: Send) -> None:
        message = output.message
        self.checks.found(process, process.pace.sent(output.destination, message, self.now_s))
        carried: Any = message
        if self.as_bytes:
            carried = encode(message)
            self.checks.size(process, carried)
        to = self.nodes.get(output.destination)
        if to is None:
            return
        way = (process.name, to.name)
        for delay_s in self.links.arrivals_s(process.address, to.address):
            at_s = self.now_s + delay_s
            if at_s < self._last_arrival_s.get(way, 0.0):
                self.fault("reordering")
            else:
                self._last_arrival_s[way] = at_s
            self.at(at_s, self._arrive, process.address, to, carried)

    def _arrive(self, source: IPv6Address, to: Process, carried: Any) -> None:
        self.feed(to, MessageReceived(source, decode(carried) if self.as_bytes else carried))

    # Kernels

    def _declare(self, process: Process, output: Declare) -> None:
        process.wanted[output.state.host] = output.state
        took_s = self.random.random() * self.scenario.kernel_s
        process.kernel_free_s = max(process.kernel_free_s, self.now_s) + took_s
        self.at(process.kernel_free_s, self._install, process, process.life, output)

    def _install(self, process: Process, life: int, output: Declare) -> None:
        if not process.lives(life):
            return
        error = None
        if process.refuses and output.state.entries:
            self.fault("refusal")
            error = "No space left on device"
            self.at(self.now_s + AUDIT_S, self._audit, process, life, output.state.host)
        else:
            self.installed(process, output.state)
        self.feed(process, Installed(output.ticket, error))

    def _audit(self, process: Process, life: int, host: str) -> None:
        if not process.lives(life):
            return
        if process.refuses:
            self.at(self.now_s + AUDIT_S, self._audit, process, life, host)
        else:
            self.installed(process, process.wanted[host])

    def _sweep(self, process: Process, life: int) -> None:
        """What an earlier process left and this one has not mentioned goes."""
        assert process.plane is not None
        if process.lives(life):
            for host in [host for host in process.plane.states if host not in process.wanted]:
                self.installed(process, HostState(host))

    def installed(self, process: Process, state: HostState) -> None:
        """The kernel does this now."""
        assert process.plane is not None
        taken = process.plane.install(state)
        self.checks.installed(process.plane, state, taken)

    def _ask_use(self, process: Process, output: AskUse) -> None:
        plane = process.plane
        assert plane is not None
        idle_s = self.scenario.domain.timing.idle_release_s
        watching = self.now_s - plane.since_s >= idle_s
        times = [plane.used_s.get(upper(prefix), plane.since_s) for prefix in output.prefixes]
        used = not watching or any(self.now_s - at_s <= idle_s for at_s in times)
        self.at(self.now_s, self.feed, process, UseTold(output.session, used))

    # Stores

    def _persist(self, process: Process, output: Persist) -> None:
        process.persist(output.table, output.key, output.value)

    def _new_directory(self) -> EmbeddedDirectory:
        now_wall_s = START_WALL_S + self.now_s
        return EmbeddedDirectory(self.store, 1000, lambda call: call(), lambda: self.now_s, _store_failed, now_wall_s)

    def directory_away(self, keep_store: bool) -> None:
        """It is killed."""
        self.directory = None
        if not keep_store:
            self.store = MemoryStore()

    def directory_back(self) -> None:
        """It is started."""
        self.directory = self._new_directory()
        for process in self.nodes.values():
            self._meet_directory(process)

    def _meet_directory(self, process: Process) -> None:
        """A connection comes up, and the first thing said is how old the store is."""
        if self.directory is not None and self.scenario.domain.finding is Finding.DIRECTORY:
            met = DirectoryMet(self.directory.began_wall_s)
            self._over_tcp((DIRECTORY, process.address), self._told, process, process.life, met)

    def _ask_directory(self, process: Process, output: DirectoryGet | DirectoryPut) -> None:
        self._over_tcp((process.address, DIRECTORY), self._asked, process, process.life, output)

    def _over_tcp(self, way: Pair, call: Callable[..., None], *arguments: Any) -> None:
        """A connection keeps the order; what is under way when it is cut is lost."""
        if way in self.links.cut or (way[1], way[0]) in self.links.cut:
            self.fault("partition")
            return
        ends = (str(way[0]), str(way[1]))
        at_s = max(self.now_s + self.links.network.delay_s, self._last_arrival_s.get(ends, 0.0))
        self._last_arrival_s[ends] = at_s
        self.at(at_s, call, *arguments)

    def _asked(self, process: Process, life: int, output: DirectoryGet | DirectoryPut) -> None:
        if self.directory is None:
            return

        def told(outcome: Outcome) -> None:
            if outcome.error is None:
                answer = DirectoryAnswered(*outcome.entry, outcome.done)
                self._over_tcp((DIRECTORY, process.address), self._told, process, life, answer)

        if isinstance(output, DirectoryGet):
            self.directory.get(output.key, told)
        else:
            self.directory.compare_and_set(output.key, output.revision, output.value, told)

    def _told(self, process: Process, life: int, answer: DirectoryAnswered | DirectoryMet) -> None:
        if process.life == life:
            self.feed(process, answer)

    # Small things

    def _report(self, process: Process, output: Report) -> None:
        """The operator reads the trace."""

    def fault(self, kind: str) -> None:
        """Count one."""
        self.faults[kind] += 1


def _store_failed(error: StoreError) -> None:
    raise error
