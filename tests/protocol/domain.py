"""A domain of protocol objects without a network: messages are carried by hand, in order, or lost on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

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
from anchord.protocol.settings import (
    CentralSettings,
    DomainSettings,
    GatewayInfo,
    GatewaySettings,
)
from anchord.protocol.timers import Instant
from anchord.store.directory import Outcome
from anchord.store.embedded import EmbeddedDirectory
from anchord.store.memory import MemoryStore
from anchord.wire.header import decode, encode

CENTRAL = IPv6Address("2001:db8:fc::1")
START_WALL_S = 1_700_000_000.0


def gateway_info(number: int) -> GatewayInfo:
    return GatewayInfo(f"gw{number}", IPv6Address(f"2001:db8:f{number}::1"), (IPv6Network(f"2001:db8:a{number}::/48"),))


def domain_settings(gateways: int = 3, **changes: object) -> DomainSettings:
    infos = [gateway_info(number) for number in range(1, gateways + 1)]
    settings = DomainSettings(b"s" * 32, CENTRAL, {info.address: info for info in infos}, digest=b"d" * 8)
    return replace(settings, **changes)  # type: ignore[arg-type]


class Domain:
    """Gateways ``gw[1]`` ... and a CMD. Every message goes through the wire layer on its way."""

    def __init__(
        self,
        gateways: int = 3,
        settings: DomainSettings | None = None,
        neighbours: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        """``neighbours``: who each gateway asks for a host of which nothing is known."""
        self.settings = settings or domain_settings(gateways)
        self.now = Instant(1000.0, START_WALL_S)
        self.central = Central(CentralSettings(self.settings))
        self.gw = {
            number: Gateway(GatewaySettings(info, self.settings, neighbours=self._neighbours(number, neighbours)))
            for number, info in enumerate(self.settings.gateways.values(), 1)
        }
        self.nodes: dict[IPv6Address, Gateway | Central] = {}
        if self.settings.central is not None:
            self.nodes[CENTRAL] = self.central
        for gateway in self.gw.values():
            self.nodes[gateway.settings.me.address] = gateway
        self.directory = self.new_directory()
        self.questions: list[tuple[IPv6Address, DirectoryGet | DirectoryPut]] = []  # in flight
        self.lose_question: Callable[[IPv6Address, DirectoryGet | DirectoryPut], bool] = lambda sender, question: False
        self.lose_answer: Callable[[IPv6Address, DirectoryAnswered], bool] = lambda to, answer: False
        self.wire: list[tuple[IPv6Address, Send]] = []  # in flight
        self.sent: list[tuple[IPv6Address, Send]] = []  # everything ever sent, with its sender
        self.times: list[float] = []  # when each left, monotonic seconds
        self.declared: dict[IPv6Address, dict[str, HostState]] = {address: {} for address in self.nodes}
        self.shown: list[tuple[IPv6Address, Advertise]] = []
        self.probes: list[tuple[IPv6Address, Probe]] = []
        self.ignored: dict[IPv6Address, set[tuple[str, bytes]]] = {address: set() for address in self.nodes}
        self.journal: dict[IPv6Address, dict[str, dict[str, dict[str, object]]]] = {a: {} for a in self.nodes}
        self.reports: list[tuple[IPv6Address, Report]] = []
        self.kernel: Callable[[IPv6Address, HostState], str | None] = lambda address, state: None
        self.pending: list[tuple[IPv6Address, int]] = []
        self.hold_kernel = False
        self.skew: dict[IPv6Address, float] = {}  # how far a node's clock is ahead, seconds
        self.used: Callable[[IPv6Network], bool] = lambda prefix: True  # what tunnels were used lately
        self.lose: Callable[[IPv6Address, Send], bool] = lambda sender, send: False

    def _neighbours(self, number: int, neighbours: Mapping[int, tuple[int, ...]] | None) -> tuple[IPv6Address, ...]:
        addresses = list(self.settings.gateways)
        return tuple(addresses[other - 1] for other in (neighbours or {}).get(number, ()))

    def address(self, number: int) -> IPv6Address:
        return self.gw[number].settings.me.address

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with every timer on its way fired at its own moment."""
        end = self.now.monotonic_s + seconds
        while True:
            times = [(t, str(a), a) for a, node in self.nodes.items() if (t := node.next_timer_s()) is not None]
            if not times or min(times)[0] > end:
                break
            at, _, address = min(times)
            self._at(max(at, self.now.monotonic_s))
            self.perform(address, self.nodes[address].handle_timers(self.clock(address)))
            self.settle()
        self._at(end)

    def _at(self, monotonic_s: float) -> None:
        self.now = Instant(monotonic_s, self.now.wall_s + monotonic_s - self.now.monotonic_s)

    def clock(self, address: IPv6Address) -> Instant:
        """What time a node thinks it is."""
        return Instant(self.now.monotonic_s, self.now.wall_s + self.skew.get(address, 0.0))

    def feed(self, address: IPv6Address, event: Input) -> None:
        self.perform(address, self.nodes[address].handle(event, self.clock(address)))

    def host_at(self, number: int, mac: bytes, interface: str = "acc0", settle: bool = True, **seen: object) -> None:
        """A frame of the host is heard at a gateway (unless that gateway keeps its frames from user space)."""
        address = self.address(number)
        if (interface, mac) not in self.ignored[address] or seen.get("solicited"):
            self._at(self.now.monotonic_s + 0.001)
            self.feed(address, HostSeen(interface, mac, **seen))  # type: ignore[arg-type]
        if settle:
            self.settle()

    def perform(self, address: IPv6Address, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self.sent.append((address, output))
                self.times.append(self.now.monotonic_s)
                if not self.lose(address, output):
                    self.wire.append((address, output))
            elif isinstance(output, Declare):
                self.declared[address][output.state.host] = output.state
                self.pending.append((address, output.ticket))
            elif isinstance(output, Advertise):
                self.shown.append((address, output))
            elif isinstance(output, Probe):
                self.probes.append((address, output))
            elif isinstance(output, AskUse):
                self.feed(address, UseTold(output.session, any(map(self.used, output.prefixes))))
            elif isinstance(output, Ignore):
                self.ignored[address].add((output.interface, output.mac))
            elif isinstance(output, Heed):
                self.ignored[address].discard((output.interface, output.mac))
            elif isinstance(output, Persist):
                self._persist(address, output)
            elif isinstance(output, DirectoryGet | DirectoryPut) and not self.lose_question(address, output):
                self.questions.append((address, output))
            elif isinstance(output, Report):
                self.reports.append((address, output))

    def _persist(self, address: IPv6Address, output: Persist) -> None:
        rows = self.journal[address].setdefault(output.table, {})
        if output.value is None:
            rows.pop(output.key, None)
        else:
            rows[output.key] = output.value

    def install(self) -> None:
        """The kernels answer what was declared."""
        while self.pending:
            address, ticket = self.pending.pop(0)
            states = list(self.declared[address].values())
            error = next((e for state in states if (e := self.kernel(address, state)) is not None), None)
            self.feed(address, Installed(ticket, error))

    def settle(self) -> None:
        """Until nothing is in flight and no kernel owes an answer."""
        while self.wire or self.questions or (self.pending and not self.hold_kernel):
            if not self.hold_kernel:
                self.install()
            if self.questions:
                self.ask()
            if self.wire:
                self.deliver()

    def deliver(self, index: int = 0) -> None:
        sender, send = self.wire.pop(index)
        self._at(self.now.monotonic_s + 0.0005)
        if send.destination in self.nodes:
            self.feed(send.destination, MessageReceived(sender, decode(encode(send.message))))

    def ask(self) -> None:
        """The directory answers the oldest question."""
        sender, question = self.questions.pop(0)
        self._at(self.now.monotonic_s + 0.0005)

        def told(outcome: Outcome) -> None:
            answer = DirectoryAnswered(*outcome.entry, outcome.done)
            if outcome.error is None and not self.lose_answer(sender, answer):
                self.feed(sender, answer)

        if isinstance(question, DirectoryGet):
            self.directory.get(question.key, told)
        else:
            self.directory.compare_and_set(question.key, question.revision, question.value, told)

    def new_directory(self) -> EmbeddedDirectory:
        """One that holds nothing."""
        return EmbeddedDirectory(
            MemoryStore(), 1000, lambda call: call(), lambda: 0.0, self._store_failed, self.now.wall_s
        )

    def meet_directory(self) -> None:
        """Every gateway's connection to the directory comes up."""
        for gateway in self.gw.values():
            self.feed(gateway.settings.me.address, DirectoryMet(self.directory.began_wall_s))
        self.settle()

    @staticmethod
    def _store_failed(error: Exception) -> None:
        raise error

    def restart(self, address: IPv6Address) -> None:
        """kill -9, and a new process with the same journal."""
        old = self.nodes[address]
        journal = {table: dict(rows) for table, rows in self.journal[address].items()}
        self.ignored[address] = set()
        self.declared[address] = {}
        new: Gateway | Central
        if isinstance(old, Central):
            new = self.central = Central(old.settings)
        else:
            new = Gateway(old.settings)
            self.gw[next(n for n, g in self.gw.items() if g is old)] = new
        self.nodes[address] = new
        self.perform(address, new.restore(journal, self.now))
        self.settle()
