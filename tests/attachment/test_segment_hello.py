"""Gateways on one layer-2 segment recognise each other, and nobody else can make them believe it."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from access_wire import SECRET, Wire, data_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from anchord.attachment.access import AccessInterface, Hello, Notice
from anchord.attachment.segment import ETHERTYPE, hello, read_hello
from anchord.lab.namespaces import inside

OTHER = bytes.fromhex("0200000000bb")
NOW = 1_700_000_000.0


def test_a_hello_of_the_domain_is_recognised(wire: Wire) -> None:
    assert wire.send([hello(SECRET, OTHER, "gw2/acc0", time.time())])[1] == [Hello("acc0", "gw2/acc0", OTHER)]


def test_a_gateway_that_was_taken_for_a_host_is_recognised_all_the_same(wire: Wire) -> None:
    """Its kernel may have sent a frame of its own before its first hello."""
    wire.access.ignore(OTHER)
    assert wire.send([hello(SECRET, OTHER, "gw2/acc0", time.time())])[1] == [Hello("acc0", "gw2/acc0", OTHER)]


def test_another_interface_of_the_same_gateway_is_another(wire: Wire) -> None:
    assert wire.send([hello(SECRET, OTHER, "gw1/acc1", time.time())])[1] == [Hello("acc0", "gw1/acc1", OTHER)]


def test_a_hello_of_another_domain_is_nothing_not_even_a_host(wire: Wire) -> None:
    assert wire.send([hello(b"another secret than ours", OTHER, "gw2/acc0", time.time())]) == (1, [])


def test_our_own_hello_is_nothing_whoever_sends_it_back(wire: Wire) -> None:
    own = hello(SECRET, wire.access.mac, "gw1/acc0", time.time())
    assert wire.send([own, own[:6] + OTHER + own[12:]])[1] == []


def test_what_is_said_is_what_is_recognised(wire: Wire) -> None:
    with closing(wire.listen()) as outside:
        wire.access.say_hello()
        frame = outside.recv(2000)
    assert frame[:12] == b"\xff" * 6 + wire.access.mac
    assert read_hello(SECRET, frame, time.time()) == "gw1/acc0"


def test_two_access_interfaces_hear_each_other(segment: str, wire: Wire) -> None:
    with inside(segment):
        other = AccessInterface("host0", SECRET, "gw9")
    with closing(other):
        other.say_hello()
        assert wire.send([])[1] == [Hello("acc0", "gw9/host0", other.mac)]


def test_without_a_secret_no_hello_is_said_and_none_believed(segment: str) -> None:
    with closing(Wire(segment, secret=None)) as wire, closing(wire.listen()) as outside:
        assert wire.send([hello(SECRET, OTHER, "gw2/acc0", time.time())]) == (1, [])
        wire.access.say_hello()
        wire.access.send(data_frame(OTHER))
        assert outside.recv(2000)[6:12] == OTHER


@given(st.text(max_size=60), st.data())
def test_changed_or_cut_it_is_no_hello(name: str, data: st.DataObject) -> None:
    whole = hello(SECRET, OTHER, name, NOW)
    assert read_hello(SECRET, whole, NOW) == name
    assert read_hello(SECRET, whole + bytes(30), NOW) == name  # padding to 60 octets
    assert read_hello(SECRET, whole[: data.draw(st.integers(0, len(whole) - 1))], NOW) is None
    at = data.draw(st.integers(6, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = whole[:at] + bytes((whole[at] ^ 1 << bit,)) + whole[at + 1 :]
    assert read_hello(SECRET, changed, NOW) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_no_hello(data: bytes) -> None:
    assert read_hello(SECRET, data, NOW) is None
    assert read_hello(SECRET, b"\xff" * 6 + OTHER + ETHERTYPE.to_bytes(2, "big") + data, NOW) is None


@given(st.binary(max_size=300))
@settings(max_examples=25)
def test_any_bytes_behind_its_ethertype_are_taken(segment: str, body: bytes) -> None:
    with closing(Wire(segment)) as wire:
        frame = b"\xff" * 6 + OTHER + ETHERTYPE.to_bytes(2, "big") + body
        assert not any(isinstance(event, Hello | Notice) for event in wire.send([frame])[1])


def test_a_name_has_at_most_255_bytes() -> None:
    assert read_hello(SECRET, hello(SECRET, OTHER, "n" * 255, NOW), NOW) == "n" * 255
    with pytest.raises(ValueError, match="too long"):
        hello(SECRET, OTHER, "n" * 256, time.time())


def test_one_that_was_overheard_is_soon_worth_nothing() -> None:
    frame = hello(SECRET, OTHER, "gw2/acc0", NOW)
    assert read_hello(SECRET, frame, NOW + 9.0) == "gw2/acc0"
    assert read_hello(SECRET, frame, NOW + 11.0) is None
    assert read_hello(SECRET, frame, NOW - 11.0) is None
