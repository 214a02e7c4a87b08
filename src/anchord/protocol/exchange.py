"""What both ends of a PBU/PBA exchange need: sequence numbers, timestamps, retransmission, rate.

Rules: RFC 6275 sections 9.5.1 and 11.7-11.8, RFC 5213 sections 5.5 and 6.9.4, RFC 8885 section 3.6. Decisions 8
(one counter per pair of nodes), 11 (timestamps of messages that the CMD originates) and 24 (rate per peer and session).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from anchord.protocol.counters import Counters
from anchord.protocol.outputs import Output, Persist, Send
from anchord.protocol.settings import Limits, Timing
from anchord.protocol.timers import Instant, Timers
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Status
from anchord.wire.options import Timestamp

# Sequence numbers are journalled in blocks: a restart skips the rest of a block instead of every message paying.
SEQUENCE_BLOCK = 256
# How much of a second's worth of PBUs may leave at once.
BURST_S = 0.1
# An answer may cross one repetition or a few, never more: a limit, because repetitions go on for ever.
REMEMBERED_SEQUENCES = 8


def ticks_of(wall_s: float) -> int:
    """A time of day as an RFC 5213 section 8.8 timestamp: units of 1/65536 s since 1970."""
    return int(wall_s * 65536)


def judge_timestamp(ticks: int, last: int, now_wall_s: float, window_s: float) -> Status | None:
    """RFC 5213 section 5.5: None when acceptable, else 157 (older than one accepted) or 156 (clocks differ).

    157 is looked at first: an old message says nothing about the sender's clock.
    """
    if ticks <= last:
        return Status.TIMESTAMP_LOWER_THAN_PREV_ACCEPTED
    if abs(ticks - ticks_of(now_wall_s)) > window_s * 65536:
        return Status.TIMESTAMP_MISMATCH
    return None


def sequence_is_newer(sequence: int, last: int | None) -> bool:
    """RFC 6275 section 9.5.1: acceptable iff not among the 32768 values up to and including ``last``.

    Without an earlier number (None) every one is.
    """
    return last is None or (sequence - last) % 65536 in range(1, 32768)


Key = tuple[IPv6Address, str]  # peer and session


@dataclass(slots=True)
class Exchange:
    """A PBU that waits for its PBA, or to leave."""

    peer: IPv6Address
    session: str
    message: BindingUpdate
    ticks: int  # of the last transmission; 0 when the message carries no Timestamp
    first_sent: Instant
    sent: Instant  # the last transmission
    timeout_s: float
    tries: int = 0  # transmissions
    past: bool = False  # it says where a node was: its timestamp stays what it is
    vouched: bool = False  # what ``due`` gives out was only waiting for its turn since ``go_on``
    hurried: bool = False
    before: tuple[int, Instant] = (0, Instant(0.0, 0.0))  # ``ticks`` and ``sent`` without the last transmission
    sequences: list[int] = field(default_factory=list)  # every number this exchange has used


class Exchanges:
    """All PBUs of one node that wait for an answer, at most one per (peer, session): the newest supersedes.

    What may not leave yet is never dropped (decision 24). More than MAX_UPDATE_RATE a second for one session wait for
    their second to be over; more than ``updates_per_s`` for all wait in a queue that is drained in order. Who waits
    there and is superseded keeps its place.
    """

    def __init__(self, timing: Timing, limits: Limits, counters: Counters) -> None:
        self._timing = timing
        self._limits = limits
        self._counters = counters
        self._waiting: dict[Key, Exchange] = {}
        self._by_sequence: dict[tuple[IPv6Address, int], Key] = {}
        self._queue: dict[Key, None] = {}  # in the order in which they leave
        self._first: dict[Key, None] = {}  # these before them
        self._recent: dict[Key, deque[float]] = {}  # transmissions of the last second, latest last
        self._sequence: dict[IPv6Address, int] = {}
        self._reserved: dict[IPv6Address, int] = {}
        self._timers: Timers[tuple[str, Key | None]] = Timers()
        self._bucket_full_s = 0.0

    def restore_sequence(self, peer: IPv6Address, reserved: int) -> None:
        """Go on after the highest number that may have been used before a restart."""
        self._sequence[peer] = reserved
        self._reserved[peer] = reserved

    def adopt_sequence(self, peer: IPv6Address, sequence: int) -> None:
        """Status 135 names the last number the peer accepted: go on after it (RFC 6275 section 11.7.3)."""
        self._sequence[peer] = sequence
        self._reserved[peer] = sequence

    def start(
        self, peer: IPv6Address, session: str, message: BindingUpdate, ticks: int, now: Instant, past: bool = False
    ) -> list[Output]:
        """Send ``message`` to ``peer`` and repeat it until answered or superseded.

        Sequence number and Timestamp are filled in here; ``ticks`` is the timestamp of the first transmission (0: the
        message carries none), if it need not wait; of all of them, if the message is about the ``past``.
        """
        key = (peer, session)
        self._drop(key)
        exchange = Exchange(peer, session, message, ticks, now, now, self._timing.initial_bindack_s, past=past)
        self._waiting[key] = exchange
        return self._offer(exchange, now)

    def cancel(self, peer: IPv6Address, session: str) -> None:
        """Stop repeating; the answer, should one come, matches nothing any more."""
        self._drop((peer, session))
        self._first.pop((peer, session), None)
        self._queue.pop((peer, session), None)

    def outstanding(self, peer: IPv6Address, session: str) -> Exchange | None:
        """What waits for an answer of ``peer`` about ``session``."""
        return self._waiting.get((peer, session))

    def __len__(self) -> int:
        return len(self._waiting)

    def match(self, peer: IPv6Address, ack: BindingAcknowledgement) -> Exchange | None:
        """The exchange that ``ack`` answers, by sequence number (RFC 6275 section 11.7.3), or None. Ends nothing.

        An answer to an earlier transmission of the same exchange counts: the content is the same. Status 135 carries
        the peer's last accepted number instead of ours, so it is matched only if one exchange with the peer waits.
        """
        key = self._by_sequence.get((peer, ack.sequence))
        if key is not None:
            return self._waiting.get(key)
        if ack.status == Status.SEQUENCE_NUMBER_OUT_OF_WINDOW:
            candidates = [exchange for (other, _), exchange in self._waiting.items() if other == peer]
            return candidates[0] if len(candidates) == 1 else None
        return None

    def hurry(self, exchange: Exchange, now: Instant) -> list[Output]:
        """The peer has said what was wrong with the order: repeat at once, with the time of now, but only once.

        If that does not help, clocks differ, and the ordinary repetitions have to do (RFC 5213 section 6.9.1.2 (8)).
        """
        if exchange.hurried:
            return []
        exchange.hurried = True
        return self._offer(exchange, now)

    def withheld(self, exchange: Exchange) -> None:
        """What ``due`` gave out just now is not sent: it has said nothing. ``go_on`` may send it later."""
        recent = self._recent.get((exchange.peer, exchange.session))
        if recent:
            recent.pop()
        exchange.ticks, exchange.sent = exchange.before

    def go_on(self, exchange: Exchange, now: Instant) -> list[Output]:
        """Send what ``due`` gave out and its caller did not send; the next repetition is as far away as it was.

        Before whatever else waits for its turn: it has had one, and what it says is true now.
        """
        return self._offer(exchange, now, self._first)

    def next_s(self) -> float | None:
        """When ``due`` has something to do (monotonic seconds)."""
        return self._timers.next_s()

    def due(self, now: Instant) -> Iterator[tuple[Exchange, list[Output]]]:
        """Everything that leaves now because its time has come, each with the exchange it belongs to."""
        while (item := self._timers.pop_due(now.monotonic_s)) is not None:
            kind, key = item
            if key is None:
                yield from self._drain(now)
                continue
            exchange = self._waiting[key]
            if kind == "repeat":
                # RFC 6275 section 11.8: double, up to MAX_BINDACK_TIMEOUT, then on and on (RFC 8885 section 3.6).
                exchange.timeout_s = min(exchange.timeout_s * 2, self._timing.max_bindack_s)
            exchange.vouched = False
            outputs = self._offer(exchange, now)
            if outputs:
                yield exchange, outputs

    def _drain(self, now: Instant) -> Iterator[tuple[Exchange, list[Output]]]:
        while (queue := self._first or self._queue) and self._room_at() <= now.monotonic_s:
            key = next(iter(queue))
            del queue[key]
            exchange = self._waiting[key]
            exchange.vouched = queue is self._first
            yield exchange, self._transmit(exchange, now)
        if self._first or self._queue:
            self._timers.set(("drain", None), self._room_at())

    def _offer(self, exchange: Exchange, now: Instant, queue: dict[Key, None] | None = None) -> list[Output]:
        """Send now, or as soon as it may. ``queue``: where it waits for that."""
        key = (exchange.peer, exchange.session)
        if key in self._queue or key in self._first:
            self._counters.count("updates.superseded")
            return []
        free_s = self._free_at(key, now)
        if free_s > now.monotonic_s:
            self._counters.count("updates.held")
            self._timers.set(("held", key), free_s)
            return []
        if self._first or self._queue or self._room_at() > now.monotonic_s:
            self._counters.count("updates.queued")
            (self._queue if queue is None else queue)[key] = None
            self._timers.set(("drain", None), self._room_at())
            return []
        return self._transmit(exchange, now)

    def _free_at(self, key: Key, now: Instant) -> float:
        """When the next PBU for ``key`` may go: MAX_UPDATE_RATE a second (RFC 6275 section 11.8). Monotonic seconds."""
        recent = self._recent.get(key)
        while recent and recent[0] <= now.monotonic_s - 1.0:
            recent.popleft()
        if not recent or len(recent) < self._limits.max_update_rate:
            return now.monotonic_s
        return recent[0] + 1.0

    def _room_at(self) -> float:
        """When the next PBU to anybody may go (RFC 8885 section 3.2: no bursts). Monotonic seconds.

        A bucket of one tenth of a second, kept as the time at which it will be full again.
        """
        return self._bucket_full_s - BURST_S

    def _transmit(self, exchange: Exchange, now: Instant) -> list[Output]:
        key = (exchange.peer, exchange.session)
        exchange.before = exchange.ticks, exchange.sent
        restamped = exchange.ticks and not exchange.past
        if restamped and exchange.tries:
            # RFC 5213 section 6.9.4 (4): a repetition carries the latest timestamp.
            exchange.ticks = max(ticks_of(now.wall_s), exchange.ticks + 1)
        elif restamped and now.monotonic_s - exchange.first_sent.monotonic_s > self._timing.timestamp_window_s / 2:
            # It was right when the message was written, and says when the node was here: whoever has heard it since is
            # right. But receivers compare it with their clock now (RFC 5213 section 5.5).
            exchange.ticks = max(ticks_of(now.wall_s), exchange.ticks)
        sequence, outputs = self.next_sequence(exchange.peer)
        old, stamp = exchange.message, Timestamp(exchange.ticks)
        options = old.options
        if exchange.ticks:
            options = tuple([stamp if type(option) is Timestamp else option for option in options])
        exchange.message = BindingUpdate(sequence, old.lifetime_s, old.flags, options)
        exchange.sequences.append(sequence)
        if len(exchange.sequences) > REMEMBERED_SEQUENCES:
            self._forget_sequence(key, exchange.sequences.pop(0))
        if not exchange.tries:
            exchange.first_sent = now
        exchange.tries += 1
        exchange.sent = now
        self._by_sequence[exchange.peer, sequence] = key
        self._remember(key, now.monotonic_s)
        self._bucket_full_s = max(self._bucket_full_s, now.monotonic_s) + 1.0 / self._limits.updates_per_s
        self._timers.set(("repeat", key), now.monotonic_s + exchange.timeout_s)
        return [*outputs, Send(exchange.peer, exchange.message)]

    def _remember(self, key: Key, now_s: float) -> None:
        """Who has sent in the last second; nobody else, so that this cannot grow beyond a second's worth of PBUs."""
        recent = self._recent.pop(key, None) or deque(maxlen=self._limits.max_update_rate)
        recent.append(now_s)
        self._recent[key] = recent
        while not (times := self._recent[first := next(iter(self._recent))]) or times[-1] <= now_s - 1.0:
            del self._recent[first]

    def _drop(self, key: Key) -> None:
        exchange = self._waiting.pop(key, None)
        if exchange is None:
            return
        self._timers.cancel(("held", key))
        self._timers.cancel(("repeat", key))
        for sequence in exchange.sequences:
            self._forget_sequence(key, sequence)

    def _forget_sequence(self, key: Key, sequence: int) -> None:
        # Numbers come round: by now another exchange may have this one.
        if self._by_sequence.get((key[0], sequence)) == key:
            del self._by_sequence[key[0], sequence]

    def next_sequence(self, peer: IPv6Address) -> tuple[int, list[Output]]:
        """The next number for a message to ``peer``, and what has to be persisted before that leaves."""
        sequence = (self._sequence.get(peer, 0) + 1) % 65536
        self._sequence[peer] = sequence
        reserved = self._reserved.get(peer)
        if reserved is None or sequence == reserved or (sequence - reserved) % 65536 < 32768:
            reserved = (sequence + SEQUENCE_BLOCK) % 65536
            self._reserved[peer] = reserved
            return sequence, [Persist("sequence", str(peer), {"reserved": reserved})]
        return sequence, []
