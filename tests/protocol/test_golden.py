"""The daemons' own messages, byte for byte: which options are sent is our choice, so it is written down.

``pytest tests/protocol/test_golden.py --rewrite-golden`` writes the files anew; read them before accepting them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from domain import CENTRAL, Domain, domain_settings
from lma_domain import Operators
from test_mag import Plain

from anchord.protocol.settings import Mode
from anchord.wire.header import decode, encode
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, Message

GOLDEN = Path(__file__).parent / "golden"
MAC = bytes.fromhex("0255aa000001")


def readable(message: Message) -> list[str]:
    lines = []
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if field.name == "options":
            lines += [f"    {option}" for option in value]
        else:
            lines.append(f"  {field.name} = {value!r}")
    return lines


def transcript(domain: Domain, other: str = "cmd") -> str:
    names = {address: f"gw{number}" for number, address in ((n, domain.address(n)) for n in domain.gw)}
    lines = []
    for sender, send in domain.sent:
        source, destination = names.get(sender, other), names.get(send.destination, other)
        data = encode(send.message, sender, send.destination)
        assert decode(data) == decode(encode(send.message))
        lines += [f"{source} -> {destination}: {type(send.message).__name__}", *readable(send.message)]
        lines += [
            f"  {len(data)} bytes",
            *(f"  {data[at : at + 32].hex(' ', 4)}" for at in range(0, len(data), 32)),
            "",
        ]
    return "\n".join(lines)


def check(name: str, text: str, rewrite: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    if rewrite:
        path.write_text(text)
    assert path.read_text() == text


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite-golden"))


def test_first_attachment(rewrite: bool) -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    check("first-attachment", transcript(domain), rewrite)


def test_handover_with_two_anchors(rewrite: bool) -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.sent.clear()
    domain.host_at(3, MAC)
    check("handover-with-two-anchors", transcript(domain), rewrite)


def test_handover_with_a_relay(rewrite: bool) -> None:
    domain = Domain(settings=domain_settings(mode=Mode.RELAY))
    domain.host_at(1, MAC)
    domain.sent.clear()
    domain.host_at(2, MAC)
    check("handover-with-a-relay", transcript(domain), rewrite)


def test_handover_between_operators(rewrite: bool) -> None:
    domain = Operators()
    domain.host_at(1, MAC)
    domain.sent.clear()
    domain.host_at(3, MAC)
    check("handover-between-operators", transcript(domain, "lma"), rewrite)


def test_plain_pmipv6(rewrite: bool) -> None:
    domain = Plain()
    for number in (1, 2):
        domain.host_at(number, MAC)
    check("plain-pmipv6", transcript(domain, "lma"), rewrite)


def test_idle_release(rewrite: bool) -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.used = lambda prefix: False
    domain.pass_time(299.0)
    domain.sent.clear()
    domain.pass_time(0.95)
    domain.pass_time(0.1)
    check("idle-release", transcript(domain), rewrite)


def test_refresh_and_end(rewrite: bool) -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(299.0)
    domain.host_at(2, MAC, solicited=True)
    domain.sent.clear()
    domain.pass_time(640.0)
    check("refresh-and-end", transcript(domain), rewrite)


def test_life_of_a_peer(rewrite: bool) -> None:
    domain = Domain(1)
    for address in domain.nodes:
        domain.restart(address)
    domain.host_at(1, MAC)
    domain.pass_time(61.0)
    _, outputs = domain.central.revoke(MAC.hex(":"), domain.now)
    domain.perform(CENTRAL, outputs)
    domain.settle()
    registration = BindingUpdate | BindingAcknowledgement
    domain.sent = [sent for sent in domain.sent if not isinstance(sent[1].message, registration)]
    check("life-of-a-peer", transcript(domain), rewrite)
