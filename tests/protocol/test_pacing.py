"""Row 15: PBUs leave at a capped rate and without bursts; row 26: and seldom about one host. Nothing is lost by it."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from domain import CENTRAL, START_WALL_S, Domain, domain_settings
from hypothesis import given
from hypothesis import strategies as st
from test_roaming import updates

from anchord.protocol.counters import Counters
from anchord.protocol.exchange import BURST_S, Exchanges, ticks_of
from anchord.protocol.inputs import HostSeen
from anchord.protocol.outputs import Output, Send
from anchord.protocol.session import Phase
from anchord.protocol.settings import Limits, Timing
from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingAckFlag, BindingAcknowledgement, BindingUpdate, BindingUpdateFlag
from anchord.wire.options import Timestamp

PEERS = [IPv6Address(f"2001:db8:f{number}::1") for number in (1, 2, 3)]


class Sender:
    """A node that has only exchanges, and a clock."""

    def __init__(self, **limits: float) -> None:
        self.counters = Counters(tuple(PEERS))
        self.exchanges = Exchanges(Timing(), Limits(**limits), self.counters)  # type: ignore[arg-type]
        self.now_s = 1000.0
        self.sent: list[tuple[float, IPv6Address, BindingUpdate]] = []

    @property
    def now(self) -> Instant:
        return Instant(self.now_s, START_WALL_S + self.now_s)

    def start(self, peer: IPv6Address, session: str, lifetime_s: int = 600) -> None:
        ticks = ticks_of(self.now.wall_s)
        message = BindingUpdate(0, lifetime_s, BindingUpdateFlag.PROXY, (Timestamp(ticks),))
        self._take(self.exchanges.start(peer, session, message, ticks, self.now))

    def pass_time(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while (at_s := self.exchanges.next_s()) is not None and at_s <= end_s:
            self.now_s = max(at_s, self.now_s)
            for _, outputs in self.exchanges.due(self.now):
                self._take(outputs)
        self.now_s = end_s

    def answer_all(self) -> None:
        for _, peer, update in self.sent:
            ack = BindingAcknowledgement(0, update.sequence, 600, BindingAckFlag.PROXY)
            exchange = self.exchanges.match(peer, ack)
            if exchange is not None:
                self.exchanges.cancel(peer, exchange.session)

    def _take(self, outputs: list[Output]) -> None:
        self.sent += [(self.now_s, o.destination, o.message) for o in outputs if isinstance(o, Send)]  # type: ignore[misc]


def most_within(times: list[float], seconds: float) -> int:
    """The greatest number of events in any window."""
    return max((sum(1 for t in times if start <= t < start + seconds) for start in times), default=0)


def test_row_15_a_thousand_updates_at_once_leave_in_order_at_the_cap() -> None:
    sender = Sender(updates_per_s=100.0)
    for number in range(1000):
        sender.start(PEERS[number % 3], f"host{number}", lifetime_s=4 * number + 4)
    assert len(sender.sent) <= 100 * BURST_S + 1
    sender.pass_time(0.999)
    assert [update.lifetime_s for *_, update in sender.sent] == [4 * number + 4 for number in range(len(sender.sent))]
    times = [at for at, *_ in sender.sent]
    assert most_within(times, 1.0) <= 100 * (1 + BURST_S) + 1 and len(times) >= 100
    assert sender.counters.local["updates.queued"] >= 980


def test_row_15_repetitions_keep_to_the_cap_as_well() -> None:
    sender = Sender(updates_per_s=100.0)
    for number in range(300):
        sender.start(PEERS[0], f"host{number}")
    sender.pass_time(60.0)
    times = [at for at, *_ in sender.sent]
    assert most_within(times, 1.0) <= 100 * (1 + BURST_S) + 1
    assert len(times) > 1000


def test_row_15_after_a_pause_there_is_no_burst_beyond_a_tenth_of_a_second() -> None:
    sender = Sender(updates_per_s=1000.0)
    sender.start(PEERS[0], "first")
    sender.pass_time(0.5)
    before = len(sender.sent)
    for number in range(500):
        sender.start(PEERS[0], f"host{number}")
    assert len(sender.sent) - before <= 1000 * BURST_S + 1


def test_decision_24_nothing_that_waits_is_dropped_and_only_the_newest_about_a_host_leaves() -> None:
    sender = Sender(updates_per_s=10.0)
    for lifetime_s in (400, 500, 600):
        for number in range(20):
            sender.start(PEERS[0], f"host{number}", lifetime_s)
    sender.pass_time(1.0)
    early = len(sender.sent)
    sender.pass_time(1.8)
    assert sender.counters.local["updates.superseded"] > 0
    last = {update.sequence: update.lifetime_s for *_, update in sender.sent[early:]}
    assert set(last.values()) == {600}
    sender.answer_all()
    assert not len(sender.exchanges)


def test_row_142_each_session_and_each_peer_has_a_back_off_of_its_own() -> None:
    sender = Sender()
    sender.start(PEERS[0], "early")
    sender.pass_time(3.5)
    sender.start(PEERS[0], "late")
    sender.start(PEERS[1], "late")
    sender.pass_time(4.0)
    times = [(round(at - 1000.0, 3), peer) for at, peer, _ in sender.sent]
    assert times[:3] == [(0.0, PEERS[0]), (1.0, PEERS[0]), (3.0, PEERS[0])]
    late = [(3.5, PEERS[0]), (3.5, PEERS[1]), (4.5, PEERS[0]), (4.5, PEERS[1]), (6.5, PEERS[0]), (6.5, PEERS[1])]
    assert sorted(times[3:]) == sorted([*late, (7.0, PEERS[0])])


def test_what_has_waited_carries_the_time_at_which_it_leaves() -> None:
    sender = Sender(updates_per_s=1.0)
    for number in range(3):
        sender.start(PEERS[0], f"host{number}")
    sender.pass_time(3.0)
    for at_s, _, update in sender.sent:
        assert update.options == (Timestamp(ticks_of(START_WALL_S + at_s)),)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([0.0, 0.01, 0.2, 1.1])),
        max_size=80,
    )
)
def test_row_26_decision_24_never_more_than_three_a_second_about_one_host_to_one_peer_and_the_last_word_arrives(
    steps: list[tuple[int, int, float]],
) -> None:
    sender = Sender(updates_per_s=20.0)
    newest: dict[tuple[IPv6Address, str], int] = {}
    for number, (peer, host, pause_s) in enumerate(steps):
        lifetime_s = 4 * (number + 1)
        sender.start(PEERS[peer], f"host{host}", lifetime_s)
        newest[PEERS[peer], f"host{host}"] = lifetime_s
        sender.pass_time(pause_s)
    sender.pass_time(10.0)
    said = {lifetime_s: key for key, lifetime_s in newest.items()}
    assert {update.lifetime_s for *_, update in sender.sent} >= set(said)
    by_host: dict[tuple[IPv6Address, int], list[float]] = {}
    for at_s, peer_address, update in sender.sent:
        host = steps[update.lifetime_s // 4 - 1][1]
        by_host.setdefault((peer_address, host), []).append(at_s)
    assert all(most_within(times, 0.999) <= 3 for times in by_host.values())


def test_a_gateway_full_of_hosts_that_all_move_at_once_is_told_of_every_one() -> None:
    domain = Domain(settings=domain_settings(2, limits=Limits(updates_per_s=100.0, attach_burst=1000)))
    macs = [bytes([2, 0x55, 0, 0, number // 256, number % 256]) for number in range(150)]
    for mac in macs:
        domain.host_at(1, mac)
    domain.pass_time(5.0)
    domain.sent.clear()
    for mac in macs:
        domain.feed(domain.address(2), HostSeen("acc0", mac))
    domain.settle()
    domain.pass_time(30.0)
    assert {str(s.serving) for s in domain.gw[1].sessions.values()} == {str(domain.address(2))}
    told = updates(domain, CENTRAL, domain.address(1))
    assert len(told) >= 150
    assert domain.gw[2].counters.local["updates.queued"] > 100


@pytest.mark.parametrize(("updates_per_s", "hosts"), [(10.0, 20), (1.0, 5)])
def test_row_111_what_waits_at_the_old_gateway_does_not_draw_hosts_back(updates_per_s: float, hosts: int) -> None:
    """Their first PBU has not left when they do: the CMD cannot tell that gateway, which has to ask them."""
    domain = Domain(settings=domain_settings(2, limits=Limits(updates_per_s=updates_per_s, attach_burst=1000)))
    macs = [bytes([2, 0x55, 0, 0, 0, number]) for number in range(hosts)]
    for mac in macs:
        domain.host_at(1, mac, address=IPv6Address("fe80::1234"))
    for mac in macs:
        domain.host_at(2, mac, address=IPv6Address("fe80::1234"))
    asked = len(domain.probes)
    moved: set[str] = set()
    for _ in range(6000):
        domain.pass_time(0.01)
        for at, probe in domain.probes[asked:]:
            if at == domain.address(2):  # where they are
                domain.host_at(2, probe.mac, address=IPv6Address("fe80::1234"))
        asked = len(domain.probes)
        for key, binding in domain.central.bindings.items():
            if binding.serving.maar == domain.address(2):
                moved.add(key)
            assert key not in moved or binding.serving.maar == domain.address(2)
    assert len(moved) == len(macs)
    assert [str(s.serving) for s in domain.gw[1].sessions.values()] == [str(domain.address(2))] * len(macs)
    assert all(s.phase is Phase.SERVING and s.registered for s in domain.gw[2].sessions.values())
    times = [at_s for at_s, (who, _) in zip(domain.times, domain.sent, strict=True) if who == domain.address(2)]
    assert most_within(times, 1.0) <= 2 * (updates_per_s * (1 + BURST_S) + 1)  # and as many answers


def test_row_82_what_waits_for_a_moment_says_when_the_host_was_there_and_what_waits_longer_when_it_leaves() -> None:
    """Another gateway may have heard the host meanwhile; but receivers take no stamp that is older than the window."""
    sender = Sender(updates_per_s=20.0)
    began_s = sender.now_s
    for number in range(12):
        sender.start(PEERS[0], f"{number}")
    sender.pass_time(0.9)
    stamps = [(at_s, update.first(Timestamp)) for at_s, _, update in sender.sent]
    half_s = Timing().timestamp_window_s / 2
    for at_s, stamp in stamps:
        written_s = at_s if at_s - began_s > half_s else began_s
        assert stamp == Timestamp(ticks_of(START_WALL_S + written_s))
    waits = [at_s - began_s for at_s, _ in stamps]
    assert any(0 < wait <= half_s for wait in waits) and max(waits) > half_s
