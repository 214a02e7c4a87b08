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
from anchord.protocol.inputs import DirectoryAnswered, HostSeen, Input, Installed, MessageReceived, UseTold
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
from anchord.simulator.checks import Checks
from anchord.simulator.forwarding import Core, Plane, upper
from anchord.simulator.hosts import Host, population
from anchord.simulator.network import Links
from anchord.simulator.process import Machine, Process
from anchord.simulator.scenario import CENTRAL, Scenario
from anchord.simulator.trace import Trace
from anchord.store.directory import Outcome
from anchord.store.embedded import EmbeddedDirectory
from anchord.store.interface import StoreError
from anchord.store.memory import MemoryStore
from anchord.wire.header import decode, encode

FRAME_S = 0.0001  # from a host to its gateway's process
FILTER_S = 0.005
WATCH_S = 1.0  # between looks at all tunnels
AUDIT_S = 5.0  # the kernel layer tries again what was refused
DIRECTORY = IPv6Address("2001:db8:fd::1")


class World:
    """One run. ``gateway`` and ``central`` make the objects: tests put others in their place."""

    def __init__(
        self,
        scenario: Scenario,
        trace: Trace,
        as_bytes: bool,
        gateway: Callable[..., Machine] = Gateway,
        central: Callable[..., Machine] = Central,
    ) -> None:
        self.scenario, self.trace, self.as_bytes = scenario, trace, as_bytes
        self.random = Random(f"world {scenario.seed}")
        self.now_s = 0.0
        self.inputs = 0
        self.faults: Counter[str] = Counter()
        self.links = Links(scenario.network, self.random, self.faults)
        self.hosts = population(scenario.hosts, self.random)
        self.radio_loss = scenario.radio_loss
        self.store = MemoryStore()
        self.directory: EmbeddedDirectory | None = self._new_directory()
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._last_arrival_s: dict[tuple[IPv6Address, IPv6Address], float] = {}
        planes: list[Plane] = []
        self.nodes: dict[IPv6Address, Process] = {}
        if scenario.domain.central is not None:
            self.nodes[CENTRAL] = Process("cmd", lambda: central(scenario.central_settings()), None)
        for settings in scenario.gateway_settings():
            plane = Plane(settings.me.name, settings.me.address, settings.me.pools)
            planes.append(plane)
            self.nodes[settings.me.address] = Process(settings.me.name, partial(gateway, settings), plane)
        self.core = Core(planes)
        self.by_mac = {host.mac: host for host in self.hosts}
        self.checks = Checks(self)
        self._perform: dict[type, Callable[[IPv6Address, Process, Any], None]] = {
            Send: self._send,
            Declare: self._declare,
            Advertise: self._advertise,
            Probe: self._probe,
            AskUse: self._ask_use,
            Ignore: self._filter,
            Heed: self._filter,
            Persist: self._persist,
            DirectoryGet: self._ask_directory,
            DirectoryPut: self._ask_directory,
            Report: self._report,
        }
        for address in self.nodes:
            self.start(address)
        self.at(WATCH_S, self._watch)

    # The clock

    def at(self, at_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something happen."""
        self._serial += 1
        heapq.heappush(self._queue, (at_s, self._serial, call, arguments))

    def run_until(self, end_s: float) -> None:
        """Let everything happen that is due until then."""
        queue = self._queue
        while queue and queue[0][0] <= end_s:
            self.now_s, _, call, arguments = heapq.heappop(queue)
            call(*arguments)
        self.now_s = end_s

    def _watch(self) -> None:
        self.checks.watch()
        self.at(self.now_s + WATCH_S, self._watch)

    # Processes

    def start(self, address: IPv6Address) -> None:
        """A node begins, or begins again."""
        process = self.nodes[address]
        if process.machine is not None:
            return
        journal = process.begin()
        assert process.machine is not None
        self.perform(address, process, process.machine.restore(journal, process.instant(self.now_s)))
        if process.plane is not None:
            process.kernel_free_s = max(process.kernel_free_s, self.now_s) + 0.0005
            self.at(process.kernel_free_s, self._sweep, process, process.life)
        self._wake_up(address, process)

    def kill(self, address: IPv6Address, keep_journal: bool) -> None:
        """kill -9."""
        process = self.nodes[address]
        if process.machine is not None:
            process.die(keep_journal)
            if self.trace.wanted:
                self.trace.note(self.now_s, process.name, f"killed, journal {'kept' if keep_journal else 'lost'}")

    def feed(self, address: IPv6Address, event: Input) -> None:
        """One input, and what follows from it."""
        process = self.nodes[address]
        machine = process.machine
        if machine is None:
            return
        self.inputs += 1
        if self.trace.wanted:
            self.trace.note(self.now_s, process.name, f"< {event}")
        outputs = machine.handle(event, process.instant(self.now_s))
        if outputs:
            self.perform(address, process, outputs)
        self._wake_up(address, process)

    def perform(self, address: IPv6Address, process: Process, outputs: list[Output]) -> None:
        """Carry outputs out, in order; a process may die on the way."""
        cut = process.cut_after
        perform = self._perform
        for number, output in enumerate(outputs):
            if cut is not None and number >= cut:
                break
            if self.trace.wanted:
                self.trace.note(self.now_s, process.name, f"> {output}")
            perform[type(output)](address, process, output)
        if cut is not None and outputs:
            self.kill(address, True)

    def _wake_up(self, address: IPv6Address, process: Process) -> None:
        if process.machine is None:
            return
        next_s = process.machine.next_timer_s()
        if next_s is not None and (process.wake_s is None or next_s < process.wake_s):
            process.wake_s = at_s = max(next_s, self.now_s)
            self.at(at_s, self._timers, address, process.life, at_s)

    def _timers(self, address: IPv6Address, life: int, at_s: float) -> None:
        process = self.nodes[address]
        if process.machine is None or process.life != life or process.wake_s != at_s:
            return
        process.wake_s = None
        next_s = process.machine.next_timer_s()
        if next_s is not None and next_s <= self.now_s:
            self.inputs += 1
            if self.trace.wanted:
                self.trace.note(self.now_s, process.name, "< timers")
            outputs = process.machine.handle_timers(process.instant(self.now_s))
            if outputs:
                self.perform(address, process, outputs)
        self._wake_up(address, process)

    # Messages

    def _send(self, address: IPv6Address, process: Process, output: Send) -> None:
        destination, message = output.destination, output.message
        carried: Any = message
        if self.as_bytes:
            carried = encode(message)
            self.checks.size(process, carried)
        if destination not in self.nodes:
            return
        for delay_s in self.links.arrivals_s(address, destination):
            at_s = self.now_s + delay_s
            last_s = self._last_arrival_s.get((address, destination), 0.0)
            if at_s < last_s:
                self.fault("reordering")
            else:
                self._last_arrival_s[address, destination] = at_s
            self.at(at_s, self._arrive, address, destination, carried)

    def _arrive(self, source: IPv6Address, destination: IPv6Address, carried: Any) -> None:
        self.feed(destination, MessageReceived(source, decode(carried) if self.as_bytes else carried))

    # Kernels

    def _declare(self, address: IPv6Address, process: Process, output: Declare) -> None:
        assert process.plane is not None
        process.wanted[output.state.host] = output.state
        took_s = self.random.random() * self.scenario.kernel_s
        process.kernel_free_s = max(process.kernel_free_s, self.now_s) + took_s
        self.at(process.kernel_free_s, self._install, address, process.life, output)

    def _install(self, address: IPv6Address, life: int, output: Declare) -> None:
        process = self.nodes[address]
        if not process.lives(life):
            return
        error = None
        if process.refuses and output.state.entries:
            self.fault("refusal")
            error = "No space left on device"
            self.at(self.now_s + AUDIT_S, self._audit, address, life, output.state.host)
        else:
            self.installed(address, process, output.state)
        self.feed(address, Installed(output.ticket, error))

    def _audit(self, address: IPv6Address, life: int, host: str) -> None:
        process = self.nodes[address]
        if not process.lives(life):
            return
        if process.refuses:
            self.at(self.now_s + AUDIT_S, self._audit, address, life, host)
        else:
            self.installed(address, process, process.wanted[host])

    def _sweep(self, process: Process, life: int) -> None:
        """What an earlier process left and this one has not mentioned goes."""
        assert process.plane is not None
        if process.lives(life):
            for host in [host for host in process.plane.states if host not in process.wanted]:
                self.installed(process.plane.address, process, HostState(host))

    def installed(self, address: IPv6Address, process: Process, state: HostState) -> None:
        """The kernel does this now."""
        assert process.plane is not None
        taken = process.plane.install(state)
        self.checks.installed(process, state, taken)

    def _ask_use(self, address: IPv6Address, process: Process, output: AskUse) -> None:
        plane = process.plane
        assert plane is not None
        idle_s = self.scenario.domain.timing.idle_release_s
        watching = self.now_s - plane.since_s >= idle_s
        times = [plane.used_s.get(upper(prefix), plane.since_s) for prefix in output.prefixes]
        used = not watching or any(self.now_s - at_s <= idle_s for at_s in times)
        self.at(self.now_s, self.feed, address, UseTold(output.session, used))

    # Stores

    def _persist(self, address: IPv6Address, process: Process, output: Persist) -> None:
        process.persist(output.table, output.key, output.value)

    def _new_directory(self) -> EmbeddedDirectory:
        return EmbeddedDirectory(self.store, 1000, lambda call: call(), lambda: self.now_s, _store_failed)

    def directory_away(self, keep_store: bool) -> None:
        """It is killed."""
        self.directory = None
        if not keep_store:
            self.store = MemoryStore()

    def directory_back(self) -> None:
        """It is started."""
        self.directory = self._new_directory()

    def _ask_directory(self, address: IPv6Address, process: Process, output: DirectoryGet | DirectoryPut) -> None:
        self._over_tcp(address, DIRECTORY, self._asked, address, process.life, output)

    def _over_tcp(self, source: IPv6Address, to: IPv6Address, call: Callable[..., None], *arguments: Any) -> None:
        """A connection keeps the order; what is under way when it is cut is lost."""
        if (source, to) in self.links.cut or (to, source) in self.links.cut:
            self.fault("partition")
            return
        at_s = max(self.now_s + self.links.network.delay_s, self._last_arrival_s.get((source, to), 0.0))
        self._last_arrival_s[source, to] = at_s
        self.at(at_s, call, *arguments)

    def _asked(self, address: IPv6Address, life: int, output: DirectoryGet | DirectoryPut) -> None:
        if self.directory is None:
            return

        def told(outcome: Outcome) -> None:
            if outcome.error is None:
                answer = DirectoryAnswered(*outcome.entry, outcome.done)
                self._over_tcp(DIRECTORY, address, self._told, address, life, answer)

        if isinstance(output, DirectoryGet):
            self.directory.get(output.key, told)
        else:
            self.directory.compare_and_set(output.key, output.revision, output.value, told)

    def _told(self, address: IPv6Address, life: int, answer: DirectoryAnswered) -> None:
        if self.nodes[address].life == life:
            self.feed(address, answer)

    # Hosts

    def frame(self, host: Host, solicited: bool = False, reassociated: bool = False, prefix: int | None = None) -> None:
        """A host sends something; signs of life pass the filter, data may not. Without a ``prefix``: no data."""
        if host.place is None or self._fades():
            return
        gateway, interface = host.place
        # What an access point says of a host shows no address; solicitations and reports are link-local.
        address = None if reassociated else host.link_local if prefix is None else host.address(prefix)
        seen = HostSeen(interface, host.mac, address, solicited, reassociated)
        self.at(self.now_s + FRAME_S, self._seen, gateway, host, seen)

    def _seen(self, gateway: IPv6Address, host: Host, seen: HostSeen) -> None:
        process = self.nodes[gateway]
        if process.machine is None:
            return
        special = seen.solicited or seen.reassociated
        if special or (seen.interface, seen.mac) not in process.filtered:
            self.feed(gateway, seen)

    def solicit_neighbours(self, host: Host, address: IPv6Address) -> None:
        """A Neighbour Solicitation or Advertisement for ``address``: whatever the filter says, it is heard."""
        if host.place is None or self._fades():
            return
        gateway, interface = host.place
        seen = HostSeen(interface, host.mac, address)
        self.at(self.now_s + FRAME_S, self.feed, gateway, seen)

    def _on_link(self, address: IPv6Address, interface: str, mac: bytes) -> Host | None:
        """The host that a frame of this gateway reaches."""
        host = self.by_mac[mac]
        return None if host.place != (address, interface) or self._fades() else host

    def _fades(self) -> bool:
        """Whether a frame between a host and its gateway is lost."""
        lost = bool(self.radio_loss) and self.random.random() < self.radio_loss
        if lost:
            self.fault("frame-loss")
        return lost

    def _advertise(self, address: IPv6Address, process: Process, output: Advertise) -> None:
        host = self._on_link(address, output.interface, output.mac)
        if host is None:
            return
        host.forget(self.now_s)
        for prefix in host.advertised(output, self.now_s):
            self.at(self.now_s + self.random.random(), self.solicit_neighbours, host, host.address(prefix))

    def _probe(self, address: IPv6Address, process: Process, output: Probe) -> None:
        host = self._on_link(address, output.interface, output.mac)
        if host is not None:
            host.forget(self.now_s)
            if output.target in (host.link_local, *map(host.address, host.addresses)):
                self.solicit_neighbours(host, output.target)

    def _filter(self, address: IPv6Address, process: Process, output: Ignore | Heed) -> None:
        place = (output.interface, output.mac)
        pending = place in process.filtering
        process.filtering[place] = isinstance(output, Ignore)
        if not pending:
            self.at(self.now_s + FILTER_S, self._filter_now, process, process.life, place)

    def _filter_now(self, process: Process, life: int, place: tuple[str, bytes]) -> None:
        if process.life != life or place not in process.filtering:
            return
        if process.filtering.pop(place):
            process.filtered.add(place)
        else:
            process.filtered.discard(place)

    # Small things

    def _report(self, address: IPv6Address, process: Process, output: Report) -> None:
        """The operator reads the trace."""

    def fault(self, kind: str) -> None:
        """Count one."""
        self.faults[kind] += 1


def _store_failed(error: StoreError) -> None:
    raise error
