"""One episode: a world by a seed, a few hundred inputs that nobody should send, and what must be true all along.

- Nothing is raised.
- What is refused changes nothing. An input is refused if its bytes are no message, or if it is counted by cause as
  dropped or refused; the node's state (all but counters) is compared before and after. ``ALLOWED`` has the exceptions.
- Nothing grows beyond its limit (``fuzz_limits.py``).

An episode writes down every step it takes, so that one that fails can be run again, made shorter, and kept.
"""

from __future__ import annotations

import re
import traceback
from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from random import Random
from typing import Any

from fuzz_bytes import damage_line, damage_message, damage_value
from fuzz_frames import Ear, damaged_frame, frames_of
from fuzz_limits import exceeded
from fuzz_snapshot import differences, snapshot
from fuzz_values import REPLIES, reply, vary
from fuzz_worlds import HOSTS, STRANGER, build, deliver, palette

from anchord.daemon.directory_client import DirectoryClient
from anchord.daemon.directory_wire import decode as decode_line
from anchord.daemon.directory_wire import encode as encode_line
from anchord.daemon.transport import understand
from anchord.protocol.inputs import HostSeen, Input, MessageDropped, MessageReceived, SegmentClear, UseTold
from anchord.protocol.outputs import Output, Send
from anchord.wire.header import encode
from anchord.wire.messages import (
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    Heartbeat,
    HeartbeatFlag,
    Message,
    UpdateNotificationAcknowledgement,
)

# Only a part of a message that is counted so is refused; the rest is believed.
PARTLY = ("malformed-option", "foreign-anchor", "orphan-option", "foreign-prefix", "restart-too-soon")
# Refused, and yet something is remembered: by cause, where, and why that is right.
ALLOWED: tuple[tuple[str, str, str], ...] = (
    ("unknown-type", r"\._error_sent_s", "Binding Errors are rate limited (RFC 6275 section 9.3.3)"),
    ("binding-error", r"/Understanding\.|/PeerLife\.", "it is matched to what was sent, and asked about (RFC 5847)"),
    (
        "echo-mismatch",
        r"/Exchanges\.",
        "ignored, and what it answers is not asked again (RFC 5213 section 6.9.1.2 (6))",
    ),
    (
        "refused.timestamp-lower-than-prev-accepted",
        r"/Exchanges\.|/Session\.(ticks|asked|told_of_ours|timeline)",
        "who asks for a node that is here, and has heard it earlier, is told so by a PBU of our own",
    ),
    ("not-distributed", r"/Exchanges\.", "who does not know D is not asked again"),
    (
        "frame.before-departure",
        r"/Session\.(address|link_local|own_address|heard_s|probes)",
        "it does not say where its host is now, but it may show an address of it",
    ),
    ("frame", r"\._attach_(tokens|filled_s)", "attaches are rate limited"),
)

_HEARTBEAT = Heartbeat(1, HeartbeatFlag(0))  # where nobody has said anything yet


@dataclass
class Failure(Exception):  # noqa: N818 - it is what is looked for
    """What went wrong, after which steps."""

    target: str
    seed: int
    what: str
    steps: list[str]

    def key(self) -> str:
        """What two failures of one cause have in common."""
        return re.sub(r"\d+", "#", self.what.splitlines()[-1])[:200]


@dataclass
class Tally:
    """What an episode has done."""

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    malformed: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


class Run:
    """Carries out steps on a world. Steps are text: what a failure prints is what a vector holds."""

    def __init__(self, target: str, seed: int, tally: Tally | None = None) -> None:
        self.target, self.seed, self.steps = target, seed, []  # type: tuple[str, int, list[str]]
        self.tally = tally or Tally()
        self.rng = Random(f"{target}/{seed}")
        self.world = self._guarded(lambda: build(target, self.rng))
        self.node: Any = self.world.node
        self.peers = frozenset(self.world.peers())
        self.ear = Ear(self.world) if self.world.is_gateway else None
        self.told: list[Input] = []
        self.directory = DirectoryClient(IPv6Address(1), (IPv6Address(1), 1), "ab" * 8, self.told.extend)
        self._before: bytes | None = None

    def step(self, text: str) -> None:
        """One step."""
        self.steps.append(text)
        what, *rest = text.split()
        match what:
            case "message":
                self._guarded(lambda: self._message(IPv6Address(rest[0]), bytes.fromhex("".join(rest[1:]))))
            case "frame":
                self._guarded(lambda: self._frame(bytes.fromhex("".join(rest))))
            case "line":
                self._guarded(lambda: self._line(bytes.fromhex("".join(rest))))
            case _:
                self._before = None
                self._guarded(lambda: self._go_on(what, rest))

    def _guarded(self, act: Any) -> Any:
        try:
            return act()
        except Failure:
            raise
        except Exception as error:
            raise self.failure(traceback.format_exc()) from error

    def failure(self, what: str) -> Failure:
        return Failure(self.target, self.seed, what, list(self.steps))

    # What nobody should send

    def _message(self, source: IPv6Address, data: bytes) -> None:
        """As the daemon's transport reads it."""
        event: Input
        if source not in self.peers:
            event = MessageDropped(source, "unconfigured-peer")
        else:
            event = understand(source, data, lambda peer, pointer, octets: None)
        self.feed(event)

    def _frame(self, data: bytes) -> None:
        """As the daemon's access interface reads it."""
        assert self.ear is not None
        event = self.ear.hear(data, self.world.domain.now.wall_s)
        if event is None:
            self.tally.inputs += 1
            self.tally.malformed += 1
        else:
            self.feed(event)

    def _line(self, data: bytes) -> None:
        """As the daemon's connection to the directory reads it."""
        self.told.clear()
        self.directory.received([data])
        if not self.told:
            self.tally.inputs += 1
            self.tally.malformed += 1
        for event in list(self.told):
            self.feed(event)

    def feed(self, event: Input) -> None:
        """One input, and what must be true of it."""
        domain, tally = self.world.domain, self.tally
        before = snapshot(self.node) if self._before is None else self._before
        counted = self._counted(event)
        outputs = self.node.handle(event, domain.clock(self.world.address))
        after = snapshot(self.node)
        cause = self._refused(event, counted, outputs)
        tally.inputs += 1
        if cause is None:
            tally.accepted += 1
        else:
            tally.causes[cause] = tally.causes.get(cause, 0) + 1
            tally.malformed += isinstance(event, MessageDropped)
            tally.refused += 1
            if before != after:
                self._compare(event, cause, before, after)
        self._before = after
        if outputs:
            known = len(domain.pending)
            domain.perform(self.world.address, outputs)
            if len(domain.pending) != known or any(not isinstance(o, Send) for o in outputs):
                self._before = None

    def _counted(self, event: Input) -> dict[str, int]:
        counters = self.node.counters
        if isinstance(event, MessageReceived | MessageDropped):
            of = counters.of(event.source)
            return {**of.dropped, **{f"refused.{status}": n for status, n in of.refused.items()}}
        return dict(counters.local)

    def _refused(self, event: Input, before: dict[str, int], outputs: list[Output]) -> str | None:
        """Why this input was refused; None: it was not."""
        news = [cause for cause, n in self._counted(event).items() if n != before.get(cause, 0)]
        if isinstance(event, HostSeen):
            return next((c for c in news if c.startswith(("frame.", "limit."))), None)
        if not isinstance(event, MessageReceived | MessageDropped):
            return None
        news = [cause for cause in news if not cause.startswith(PARTLY)]
        if isinstance(event, MessageReceived):
            # A refusal that we are told of is news; only one that we give says that nothing was done.
            if isinstance(event.message, BindingRevocationAcknowledgement | UpdateNotificationAcknowledgement):
                news = [cause for cause in news if not cause.startswith(("revocation-refused", "notification-failed"))]
            elif not isinstance(event.message, BindingUpdate):
                news = [cause for cause in news if not cause.startswith("refused.")]
            if isinstance(event.message, BindingRevocationIndication):
                answers = [o.message for o in outputs if isinstance(o, Send)]
                news += [
                    f"revocation-refused.{answer.status}"
                    for answer in answers
                    if isinstance(answer, BindingRevocationAcknowledgement) and answer.status >= 128
                ]
        return news[0] if news else None

    def _compare(self, event: Input, cause: str, before: bytes, after: bytes) -> None:
        found = differences(before, after)
        for known, where, _ in ALLOWED:
            if cause.startswith(known) or (known == "frame" and isinstance(event, HostSeen)):
                found = [difference for difference in found if not re.search(where, difference)]
        if found:
            raise self.failure(
                f"refused ({cause}), and yet:\n  " + "\n  ".join(found[:12]) + f"\n{event}\n{cause}: {_place(found)}"
            )

    # The life that goes on meanwhile

    def _go_on(self, what: str, rest: list[str]) -> None:
        world, domain = self.world, self.world.domain
        match what:
            case "pass":
                domain.pass_time(float(rest[0]))
                deliver(world, 20)
            case "deliver":
                deliver(world, int(rest[0]))
            case "lose":
                domain.wire.clear()
            case "host":
                if int(rest[0]) in domain.gw:
                    mac = bytes.fromhex(rest[1])
                    domain.host_at(
                        int(rest[0]), mac, settle=False, reassociated="re" in rest[2:], solicited="so" in rest[2:]
                    )
                deliver(world, 40)
            case "kernel":
                error = None if rest[0] == "works" else "no"
                domain.kernel = lambda address, state: error
            case "unused":
                domain.used = lambda prefix: False
            case "quiet":
                domain.feed(world.address, SegmentClear("acc0"))
            case "use":
                for key in list(getattr(self.node, "sessions", ())):
                    domain.feed(world.address, UseTold(key, rest[0] == "yes"))
            case _:
                raise ValueError(f"{what!r} is no step")

    def grown(self) -> None:
        """Nothing is larger than it may be."""
        too_large, found = exceeded(self.node, self.world.domain.settings)
        for place, size in found.items():
            self.tally.sizes[place] = max(self.tally.sizes.get(place, 0), size)
        if too_large:
            raise self.failure(f"grown: {too_large}")


class Episode:
    """Makes up the steps of one run."""

    def __init__(self, target: str, seed: int, inputs: int, tally: Tally | None = None) -> None:
        self.run = Run(target, seed, tally)
        self.rng = Random(f"{target}/{seed}/steps")
        self.inputs = inputs
        self._heard: deque[tuple[IPv6Address, Message]] = deque(maxlen=48)  # what others said to it
        self._said: deque[tuple[IPv6Address, Message]] = deque(maxlen=16)  # what it said itself
        self._read = 0
        self._palette = palette(self.rng, self.run.world)
        self._frames = frames_of(self.rng, self.run.world) if self.run.ear else []
        self._lines = self._answers()

    def play(self) -> Tally:
        """Until there have been enough inputs, or one fails."""
        run, rng = self.run, self.rng
        enough = run.tally.inputs + self.inputs
        while run.tally.inputs < enough:
            self._listen()
            for _ in range(rng.randrange(1, 12)):
                run.step(self._input())
            run.step(self._life())
        run.grown()
        return run.tally

    def _listen(self) -> None:
        domain, address = self.run.world.domain, self.run.world.address
        for sender, send in domain.sent[self._read :]:
            if send.destination == address:
                self._heard.append((sender, send.message))
            elif sender == address:
                self._said.append((send.destination, send.message))
        self._read = len(domain.sent)
        if self._read > 2000:
            # A long episode must not remember everything; what is tested is not the harness.
            del domain.sent[:], domain.times[:], domain.shown[:], domain.probes[:], domain.reports[:]
            self._read = 0

    def _input(self) -> str:
        rng = self.rng
        if self.run.ear is not None and rng.random() < 0.22:
            return f"frame {damaged_frame(rng, self._frames, self.run.world.domain.now.wall_s).hex()}"
        if self.run.target == "gateway-directory" and rng.random() < 0.2:
            line = rng.choice(self._lines)
            if rng.random() < 0.6:
                return f"line {encode_line(damage_value(rng, decode_line(line))).rstrip().hex()}"
            return f"line {damage_line(rng, line, self._lines).hex()}"
        source, message = self._original()
        return f"message {self._source(source)} {self._bytes(message).hex()}"

    def _original(self) -> tuple[IPv6Address, Message]:
        rng = self.rng
        if self._said and rng.random() < 0.4:
            source, asked = rng.choice(self._said)
            if type(asked) in REPLIES:
                return source, reply(rng, asked, self._palette)
        return rng.choice(self._heard) if self._heard else (rng.choice(self.run.world.peers()), _HEARTBEAT)

    def _source(self, natural: IPv6Address) -> IPv6Address:
        choice = self.rng.random()
        if choice < 0.85:
            return natural
        return STRANGER if choice > 0.98 else self.rng.choice(self.run.world.peers())

    def _bytes(self, message: Message) -> bytes:
        rng, choice = self.rng, self.rng.random()
        if choice < 0.5:
            sequences = [getattr(said, "sequence", 0) for _, said in self._said]
            wall_s = self.run.world.domain.now.wall_s
            message = vary(rng, message, self._palette, wall_s, sequences)
        try:
            data = encode(message)
        except ValueError:
            return b""  # more than a header can be
        if choice < 0.45 or choice > 0.97:
            return data
        return damage_message(rng, data, [encode(rng.choice(self._heard)[1]) if self._heard else data])

    def _life(self) -> str:
        rng = self.rng
        choice = rng.random()
        if choice < 0.40:
            return f"deliver {rng.choice((1, 3, 20))}"
        if choice < 0.62:
            return f"pass {rng.choice((0.001, 0.02, 0.26, 1.05, 1.05, 3.0, 11.0, 31.0))}"
        if choice < 0.88:
            number = rng.choice((1, *self.run.world.gateways))
            return f"host {number} {rng.choice(HOSTS).hex()} {rng.choice(('', 're', 'so', 're so'))}".rstrip()
        return rng.choice(
            ("lose", "kernel fails", "kernel works", "kernel works", "quiet", "unused", "use no", "use yes")
        )

    def _answers(self) -> list[bytes]:
        """What a directory may say."""
        domain = self.run.world.domain
        found = [encode_line({"granted": "gw1", "domain": "ab" * 8}), encode_line({"error": "limit"})]
        for entry in domain.directory.entries.values():
            answer = {"key": entry.key, "revision": entry.revision, "value": entry.value}
            found += [
                encode_line(answer),
                encode_line({**answer, "done": True}),
                encode_line({**answer, "done": False}),
            ]
        for session in getattr(self.run.node, "sessions", {}).values():
            found.append(encode_line({"key": session.key, "revision": 0, "value": None}))
        return [line.rstrip(b"\n") for line in found]


def _place(found: list[str]) -> str:
    """Which attributes differ, without what is in them."""
    return " ".join(sorted({re.findall(r"/\w+\.\w+", difference)[-1] for difference in found}))


def replay(target: str, seed: int, steps: list[str]) -> Failure | None:
    """Run again what an episode has written down."""
    try:
        run = Run(target, seed)
        for step in steps:
            run.step(step)
        run.grown()
    except Failure as failure:
        return failure
    return None


def minimised(failure: Failure, tries: int = 4000) -> Failure:
    """The same failure after as few steps, and as few octets in the last one, as can be found."""
    steps, key = failure.steps, failure.key()
    best = failure

    def fails(candidate: list[str]) -> bool:
        nonlocal best, tries
        tries -= 1
        found = replay(failure.target, failure.seed, candidate) if tries > 0 else None
        if found is None or found.key() != key:
            return False
        best = found
        return True

    size = max(len(steps) // 2, 1)
    while size:
        at = 0
        while at < len(steps) and tries > 0:
            shorter = steps[:at] + steps[at + size :]
            if shorter != steps and fails(shorter):
                steps = shorter
            else:
                at += size
        size //= 2
    return best


def parse(text: str) -> tuple[str, int, list[str]]:
    """A vector: ``world NAME SEED``, then steps, one a line; what follows ``#`` is for the reader."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    (_, target, seed), *steps = [line.split() for line in lines if line]
    return target, int(seed), [" ".join(step) for step in steps]
