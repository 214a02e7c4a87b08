"""Two operators and the home LMA between them; and an LMA with plain MAGs that a test plays itself."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from domain import CENTRAL, START_WALL_S, Domain, domain_settings

from anchord.declared import HostState
from anchord.protocol.exchange import ticks_of
from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import Installed, MessageReceived
from anchord.protocol.lma import Lma
from anchord.protocol.outputs import Declare, Output, Persist, Report, Send
from anchord.protocol.settings import DomainSettings, GatewaySettings, LmaInfo, LmaSettings
from anchord.protocol.timers import Instant
from anchord.wire.header import decode, encode
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, BindingUpdateFlag, Message
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    Timestamp,
)

LMA = IPv6Address("2001:db8:fd::1")
POOL = IPv6Network("2001:db8:aa::/48")
MAG1 = IPv6Address("2001:db8:e1::1")
MAG2 = IPv6Address("2001:db8:e2::1")
STRANGER = IPv6Address("2001:db8:bad::1")
PLAIN_FLAGS = BindingUpdateFlag.ACKNOWLEDGE | BindingUpdateFlag.HOME_REGISTRATION | BindingUpdateFlag.PROXY


OPERATORS = ("a", "a", "b", "b", "c")  # of gw1 to gw5


class Operators(Domain):
    """gw1 and gw2 are operator a's, gw3 and gw4 operator b's, gw5 is c's, who has agreed to nothing.

    Each operator's domain file names its own gateways, and the home LMA in the place of all others.
    """

    def __init__(self, **changes: object) -> None:
        plain = domain_settings(len(OPERATORS), **changes)
        infos = [
            replace(info, operator=operator, local_networks=(IPv6Network(f"fd00:{operator}::/48"),))
            for info, operator in zip(plain.gateways.values(), OPERATORS, strict=True)
        ]
        everybody = replace(plain, gateways={info.address: info for info in infos})
        super().__init__(settings=everybody)
        lma = LmaInfo("home", CENTRAL)
        self.lma = Lma(LmaSettings(lma, everybody, operators=("a", "b")))
        self.nodes[CENTRAL] = self.lma  # type: ignore[assignment]
        for number, info in enumerate(infos, 1):
            ours = {other.address: other for other in infos if other.operator == info.operator}
            theirs = tuple(pool for other in infos if other.operator != info.operator for pool in other.pools)
            seen = replace(
                plain, gateways=ours, lmas={CENTRAL: replace(lma, stands_for=theirs)}, digest=info.operator.encode() * 8
            )
            self.gw[number] = self.nodes[info.address] = Gateway(GatewaySettings(info, seen))

    def restart_lma(self) -> None:
        """kill -9, and a new process with the same store."""
        store = {table: dict(rows) for table, rows in self.journal[CENTRAL].items()}
        self.declared[CENTRAL] = {}
        self.lma = self.nodes[CENTRAL] = Lma(self.lma.settings)  # type: ignore[assignment]
        self.perform(CENTRAL, self.lma.restore(store, self.now))
        self.settle()


def plain_settings(**changes: object) -> DomainSettings:
    """A domain without gateways of its own."""
    return replace(domain_settings(), gateways={}, central=None, **changes)  # type: ignore[arg-type]


class PlainLma:
    """An LMA; the test is its MAGs, its kernel and its clock. Every message goes through the wire layer."""

    def __init__(self, settings: LmaSettings | None = None) -> None:
        info = LmaInfo("home", LMA, (POOL,))
        self.settings = settings or LmaSettings(info, plain_settings(), mags=frozenset((MAG1, MAG2)))
        self.lma = Lma(self.settings)
        self.now = Instant(1000.0, START_WALL_S)
        self.sequence = 0
        self.sent: list[Send] = []
        self.declared: dict[str, HostState] = {}
        self.reports: list[Report] = []
        self.store: dict[str, dict[str, dict[str, object]]] = {}
        self.pending: list[int] = []
        self.hold_kernel = False
        self.kernel_error: str | None = None

    def perform(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self.sent.append(output)
            elif isinstance(output, Declare):
                self.declared[output.state.host] = output.state
                self.pending.append(output.ticket)
            elif isinstance(output, Persist):
                rows = self.store.setdefault(output.table, {})
                if output.value is None:
                    rows.pop(output.key, None)
                else:
                    rows[output.key] = output.value
            elif isinstance(output, Report):
                self.reports.append(output)
        while self.pending and not self.hold_kernel:
            self.install()

    def install(self) -> None:
        """The kernel answers the oldest declaration."""
        self.perform(self.lma.handle(Installed(self.pending.pop(0), self.kernel_error), self.now))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with every timer on its way fired at its own moment."""
        end = self.now.monotonic_s + seconds
        while (at := self.lma.next_timer_s()) is not None and at <= end:
            self._at(max(at, self.now.monotonic_s))
            self.perform(self.lma.handle_timers(self.now))
        self._at(end)

    def _at(self, monotonic_s: float) -> None:
        self.now = Instant(monotonic_s, self.now.wall_s + monotonic_s - self.now.monotonic_s)

    def hear(self, message: Message, source: IPv6Address = MAG1) -> list[BindingAcknowledgement]:
        """What the LMA answers at once, to whoever sent it."""
        before = len(self.sent)
        self.perform(self.lma.handle(MessageReceived(source, decode(encode(message))), self.now))
        for send in self.sent[before:]:
            assert send.destination == source
        return self.acks(before)

    def acks(self, since: int = 0) -> list[BindingAcknowledgement]:
        """Every PBA sent since so many messages, as it is on the wire."""
        return [
            ack for send in self.sent[since:] if isinstance(ack := decode(encode(send.message)), BindingAcknowledgement)
        ]

    def ask(self, source: IPv6Address = MAG1, **changes: object) -> BindingAcknowledgement:
        """A registration, and the only answer to it."""
        (ack,) = self.hear(self.update(**changes), source)
        return ack

    def update(self, mn: bytes = b"mn1@example", **changes: object) -> BindingUpdate:
        """A valid first registration a millisecond later; options replaced by class name, left out (None), or added."""
        self._at(self.now.monotonic_s + 0.001)
        self.sequence += 1
        options: dict[str, Option | tuple[Option, ...] | None] = {
            "MobileNodeIdentifier": MobileNodeIdentifier(1, mn),
            "HomeNetworkPrefix": HomeNetworkPrefix(ALL_ZERO_PREFIX),
            "HandoffIndicator": HandoffIndicator(Handoff.NEW_INTERFACE),
            "AccessTechnologyType": AccessTechnologyType(4),
            "Timestamp": Timestamp(ticks_of(self.now.wall_s)),
            "MobileNodeLinkLayerIdentifier": MobileNodeLinkLayerIdentifier(b"\x02\0\0\0\0\1"),
        }
        message: dict[str, object] = {"sequence": self.sequence, "lifetime_s": 600, "flags": PLAIN_FLAGS}
        for name, value in changes.items():
            (message if name in message else options)[name] = value  # type: ignore[index,assignment]
        kept: list[Option] = []
        for option in options.values():
            kept += option if isinstance(option, tuple) else [] if option is None else [option]
        return BindingUpdate(**message, options=tuple(kept))  # type: ignore[arg-type]

    def restart(self) -> None:
        """kill -9, and a new process with the same store."""
        self.lma, self.declared, self.pending = Lma(self.settings), {}, []
        self.perform(self.lma.restore({table: dict(rows) for table, rows in self.store.items()}, self.now))


def prefixes(ack: BindingAcknowledgement) -> list[IPv6Network]:
    """The home network prefixes of a PBA."""
    return [option.prefix for option in ack.all(HomeNetworkPrefix)]
