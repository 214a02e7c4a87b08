"""Everything that daemons have sent in the labs of this session, as read by decoders nobody here wrote.

tshark, scapy and pypcapkit read the same packets; what each can see is told in ``eyes_tshark`` and its like. Each must
find what our own decoder finds; that this is what was meant is compared with what the lab is known to be.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import pytest
from eyes_pcapkit import pcapkit_reads
from eyes_scapy import scapy_reads
from eyes_tshark import (
    COMPLAINTS,
    DISSECTED,
    Fields,
    complaints,
    dissect,
    expected,
    expected_advertisement,
    notes,
    read_fields,
)
from lab_scenes import move, topology, usable_address
from recorder import Recorded, Recorder, Said
from said_facts import Facts, messages_of, question_of, questions, wrong_advertisement, wrong_message
from wire_walk import expected_alignment, walk

from anchord.lab.domain import Domain
from anchord.wire import frames, header, neighbor
from anchord.wire.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    Heartbeat,
    Message,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.neighbor import RouterAdvertisement
from anchord.wire.neighbor_options import (
    Mtu,
    PrefixInformation,
    RecursiveDnsServer,
    RouteInformation,
    SourceLinkLayerAddress,
)
from anchord.wire.options import MalformedOption, Timestamp
from anchord.wire.pcap import PcapWriter

ICMPV6, MOBILITY = 58, 135
# What a daemon can send, and a scenario has to show. Of options: their numbers.
MESSAGES = {
    BindingUpdate, BindingAcknowledgement, BindingError, Heartbeat, BindingRevocationIndication,
    BindingRevocationAcknowledgement, UpdateNotification, UpdateNotificationAcknowledgement,
}  # fmt: skip
OPTIONS = {8, 18, 22, 23, 24, 25, 26, 27, 28, 65, 66, 67, 68, 69, 70}


@dataclass(frozen=True)
class Sent:
    """A Mobility Header, and the lab that it was sent in."""

    facts: Facts
    said: Said
    data: bytes
    message: Message
    to_a_test: bool
    """It answers what no daemon has asked, but a test in its place; it repeats what that said."""

    @property
    def shape(self) -> tuple[object, ...]:
        """The same for messages with the same fields and options, each of the same length."""
        return type(self.message), tuple((at, kind, len(octets or b"")) for at, kind, octets in walk(self.data))


@dataclass(frozen=True)
class Advertised:
    """A router advertisement, and the lab that it was sent in."""

    facts: Facts
    said: Said
    message: RouterAdvertisement


@pytest.fixture(scope="module")
def labs(recorder: Recorder) -> list[Recorded]:
    """Every lab there was; one with a handover, if this module is run alone."""
    recorder.close()
    if not any(record.said for record in recorder.labs):
        name = f"anct-{os.getpid()}-said"
        try:
            domain = Domain.up(topology(2, {"mn1": "gw1"}), name, owner_pid=os.getpid())
            usable_address(domain, "mn1", "gw1")
            move(domain, "mn1", "gw2")
        finally:
            Domain.take_down(name)
    return [record for record in recorder.labs if record.said]


@pytest.fixture(scope="module")
def sent(labs: list[Recorded]) -> list[Sent]:
    """Every message once: one that was repeated octet for octet adds nothing."""
    found: dict[tuple[int, bytes], Sent] = {}
    for number, record in enumerate(labs):
        facts, by_hand = Facts.of(record), questions(messages_of(record.by_hand))
        for said in record.said:
            key = number, said.packet[8:]  # addresses and data
            if said.next_header == MOBILITY and key not in found:
                data = said.packet[40:]
                message = header.decode(data)
                answered = (said.source, *(question_of(message) or ()))
                found[key] = Sent(facts, said, data, message, answered in by_hand)
    return list(found.values())


@pytest.fixture(scope="module")
def advertised(labs: list[Recorded]) -> list[Advertised]:
    """Every router advertisement once."""
    found: dict[bytes, Advertised] = {}
    for record in labs:
        facts = Facts.of(record)
        for said in record.said:
            if said.next_header == ICMPV6 and said.frame[54] == 134 and said.frame not in found:
                message = neighbor.received(frames.parse_frame(said.frame))
                assert isinstance(message, RouterAdvertisement)
                found[said.frame] = Advertised(facts, said, message)
    return list(found.values())


def capture(path: Path, said: list[Said]) -> Path:
    with path.open("wb") as file:
        writer = PcapWriter(file)
        for each in said:
            writer.write(each.time_ns, each.frame)
    return path


@pytest.fixture(scope="module")
def by_tshark(
    sent: list[Sent],
    advertised: list[Advertised],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[Sent | Advertised, Fields]]:
    """One run of tshark over all of it."""
    everything = [*sent, *advertised]
    names = sorted({name for each in everything for name in wanted(each)} | {"mip6.timestamp_tmp", "frame.time_epoch"})
    path = capture(tmp_path_factory.mktemp("said") / "all.pcap", [each.said for each in everything])
    return list(zip(everything, read_fields(path, names + COMPLAINTS), strict=True))


def wanted(each: Sent | Advertised) -> Fields:
    return expected(each.message) if isinstance(each, Sent) else expected_advertisement(each.message)


def test_nothing_that_was_said_is_missing(labs: list[Recorded]) -> None:
    assert not any(record.lost for record in labs)


def test_rows_35_and_126_every_message_is_framed_and_aligned_as_the_rfcs_say(sent: list[Sent]) -> None:
    for each in sent:
        assert len(each.data) == 8 * (each.data[1] + 1) == int.from_bytes(each.said.packet[4:6], "big")
        assert each.data[0] == 59 and each.data[3] == 0
        for at, kind, octets in walk(each.data):
            modulus, remainder = expected_alignment(kind, octets or b"")
            assert at % modulus == remainder, (kind, each.message)


def test_our_decoder_reads_all_of_it_and_writes_the_same_octets(sent: list[Sent]) -> None:
    for each in sent:
        assert header.encode(each.message, each.said.source, each.said.destination) == each.data
        assert not each.message.all(MalformedOption)


def test_tshark_reads_what_we_read(by_tshark: list[tuple[Sent | Advertised, Fields]]) -> None:
    for each, seen in by_tshark:
        assert {name: seen.get(name, []) for name in wanted(each)} == wanted(each), each.message


def test_tshark_has_nothing_to_object_to(recorder: Recorder, by_tshark: list[tuple[Sent | Advertised, Fields]]) -> None:
    recorder.report += table(by_tshark)
    for each, seen in by_tshark:
        assert not complaints(seen, each.message), each.message


def test_tshark_reads_the_times_that_we_read(by_tshark: list[tuple[Sent | Advertised, Fields]]) -> None:
    for each, seen in by_tshark:
        if isinstance(each, Sent) and isinstance(each.message, DISSECTED):
            times = [stamp.ticks for stamp in each.message.all(Timestamp)]
            assert [
                round(seconds(text) * Timestamp.TICKS_PER_S) for text in seen.get("mip6.timestamp_tmp", [])
            ] == times


def seconds(text: str) -> Fraction:
    """tshark's "Nov 14, 2023 22:13:20.250000000 UTC", since 1970."""
    whole, fraction = text.removesuffix(" UTC").split(".")
    moment = datetime.strptime(whole, "%b %d, %Y %H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) + Fraction(int(fraction), 10**9)


def test_tshark_finds_options_where_they_have_to_be_and_flags_as_they_are_meant(
    sent: list[Sent], tmp_path: Path
) -> None:
    shapes = list({each.shape: each for each in sent}.values())
    for each, seen in zip(
        shapes, dissect(capture(tmp_path / "shapes.pcap", [one.said for one in shapes])), strict=True
    ):
        if isinstance(each.message, BindingUpdate | BindingAcknowledgement):
            assert int(seen.flags, 16) == each.message.flags
        if isinstance(each.message, DISSECTED):
            theirs = [(at, data) for at, data in seen.options if data[0] > 1]
            ours = [
                (at, bytes((kind, len(data or b""))) + (data or b"")) for at, kind, data in walk(each.data) if kind > 1
            ]
            assert theirs == ours


def test_scapy_row_124_reads_what_we_read_and_computes_every_checksum(sent: list[Sent]) -> None:
    on_every_processor(scapy_reads, [(each.said.packet, each.message) for each in sent])


def test_pcapkit_reads_what_we_read(sent: list[Sent]) -> None:
    on_every_processor(pcapkit_reads, [(each.data, each.message) for each in sent])


def on_every_processor(read: Callable[[bytes, Message], None], arguments: list[tuple[bytes, Message]]) -> None:
    """Both readers are in Python, and there are many thousand messages: half a millisecond each."""
    with get_context("fork").Pool() as pool:
        pool.starmap(read, arguments, chunksize=100)


def test_messages_say_what_the_lab_is(sent: list[Sent]) -> None:
    wrong = {
        f"{problem}: {each.said.node}: {each.message}"
        for each in sent
        if not each.to_a_test
        for problem in wrong_message(each.facts, each.said, each.message)
    }
    assert not wrong, "\n".join(sorted(wrong)[:20])


def test_advertisements_say_what_the_lab_is(advertised: list[Advertised]) -> None:
    wrong = {
        f"{problem}: {each.message}"
        for each in advertised
        for problem in wrong_advertisement(each.facts, each.said, each.message)
    }
    assert not wrong, "\n".join(sorted(wrong)[:20])


def test_every_answer_has_its_question(labs: list[Recorded]) -> None:
    for record in labs:
        asked = questions(messages_of([*record.said, *record.by_hand]))
        for said, message in messages_of(record.said):
            question = question_of(message)
            assert question is None or (said.source, *question) in asked, (said.node, message)


def test_neighbor_discovery_and_complaints_of_whole_nodes_are_nothing_that_tshark_objects_to(
    labs: list[Recorded], tmp_path: Path
) -> None:
    """Also what the kernels of the routers say. A Parameter Problem quotes what was wrong, and so is wrong itself."""
    others = {said.frame: said for record in labs for said in record.said if said.next_header == ICMPV6}
    path = capture(tmp_path / "others.pcap", list(others.values()))
    for said, seen in zip(
        others.values(), read_fields(path, ["icmpv6.type", "icmpv6.checksum.status", *COMPLAINTS]), strict=True
    ):
        assert seen["icmpv6.checksum.status"] == ["1"]
        assert seen["icmpv6.type"] == [str(said.frame[54])]
        assert said.frame[54] == 4 or not complaints(seen)


@pytest.mark.all_labs
def test_every_message_and_every_option_that_a_daemon_can_send_was_seen(
    sent: list[Sent], advertised: list[Advertised]
) -> None:
    assert {type(each.message) for each in sent} == MESSAGES
    assert {kind for each in sent for _, kind, _ in walk(each.data) if kind > 1} == OPTIONS
    assert {type(option) for each in advertised for option in each.message.options} == {
        SourceLinkLayerAddress, PrefixInformation, Mtu, RouteInformation, RecursiveDnsServer
    }  # fmt: skip


def table(by_tshark: list[tuple[Sent | Advertised, Fields]]) -> list[str]:
    """How many messages of each type there were, how many times an option of each number, and tshark's remarks."""
    count = Counter(type(each.message).__name__ for each, _ in by_tshark)
    remarks: dict[str, Counter[str]] = {name: Counter() for name in count}
    options: Counter[int] = Counter()
    for each, seen in by_tshark:
        remarks[type(each.message).__name__].update(set(notes(seen)))
        if isinstance(each, Sent):
            options.update(kind for _, kind, _ in walk(each.data) if kind > 1)
    lines = []
    for name in sorted(count):
        said = ", ".join(f"{text} ({number})" for text, number in remarks[name].most_common())
        lines.append(f"{name}: {count[name]}; tshark remarks: {said or 'nothing'}")
    return [*lines, "options: " + ", ".join(f"{kind}: {number}" for kind, number in sorted(options.items()))]
