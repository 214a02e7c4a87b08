"""Whole messages: vectors both ways, round trips, any bytes, and the rules for a Mobility Header."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import example, given
from wire_strategies import addresses, any_message, any_mobility_bytes, with_options
from wire_vectors import A_H_P_D, MN, P_D, VECTORS, Vector

from anchord.wire import header
from anchord.wire.header import MHType, WireError
from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingUpdate,
    BindingUpdateFlag,
    Status,
    UnknownMessage,
)
from anchord.wire.options import HandoffIndicator, MalformedOption, MobileNodeIdentifier, UnknownOption

each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
SOURCE, DESTINATION = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")


def error(data: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        header.decode(data)
    return caught.value


# Vectors


@each_vector
def test_vector_is_read(vector: Vector) -> None:
    assert header.decode(vector.data) == vector.message


@each_vector
def test_vector_is_written_byte_for_byte(vector: Vector) -> None:
    assert header.encode(vector.message, vector.source, vector.destination) == vector.data


@each_vector
def test_vector_without_addresses_has_checksum_zero(vector: Vector) -> None:
    assert header.encode(vector.message) == vector.data[:4] + b"\0\0" + vector.data[6:]


@each_vector
def test_row_124_129_checksum_of_vector(vector: Vector) -> None:
    assert header.checksum(vector.source, vector.destination, vector.data) == int.from_bytes(vector.data[4:6], "big")
    assert header.verify(vector.source, vector.destination, vector.data)


@each_vector
def test_row_129_any_single_changed_bit_fails_verification(vector: Vector) -> None:
    # One's complement arithmetic notices every single bit; bits of Header Len change what is summed as well.
    for bit in range(8 * len(vector.data)):
        damaged = bytearray(vector.data)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        if bit // 8 != 1:
            assert not header.verify(vector.source, vector.destination, bytes(damaged)), bit


# Round trips and totality


@given(any_message)
def test_what_is_written_is_read_back(message: header.Message) -> None:
    assert header.decode(header.encode(message)) == message


@given(any_message, addresses, addresses)
def test_row_124_what_is_written_verifies(
    message: header.Message, source: IPv6Address, destination: IPv6Address
) -> None:
    data = header.encode(message, source, destination)
    assert header.verify(source, destination, data)
    assert header.checksum(source, destination, data) == int.from_bytes(data[4:6], "big")


@given(with_options)
def test_row_35_123_length_is_a_multiple_of_8_and_reserved_is_zero(message: header.Message) -> None:
    data = header.encode(message)
    assert len(data) % 8 == 0
    assert data[0] == 59
    assert data[1] == len(data) // 8 - 1
    assert data[3] == 0


@given(any_mobility_bytes)
@example(b"")
@example(bytes(8))
def test_any_bytes_give_a_message_or_one_wire_error(data: bytes) -> None:
    header.verify(SOURCE, DESTINATION, data)
    try:
        message = header.decode(data)
    except WireError as problem:
        assert problem.cause in {"truncated", "payload-proto", "header-length", "option-overrun"}
        return
    try:
        again = header.encode(message)
    except ValueError as problem:
        assert "octets: at most 2048" in str(
            problem
        )  # options put at their alignment can take more room than they took
        return
    assert header.decode(again) == message


# Rules


def test_row_32_36_the_d_flags() -> None:
    assert int(BindingUpdateFlag.DISTRIBUTED) == 0x0010
    assert int(BindingAckFlag.DISTRIBUTED) == 0x02
    assert header.encode(BindingUpdate(0, 0, BindingUpdateFlag.DISTRIBUTED))[8:10] == b"\x00\x10"
    assert header.encode(BindingAcknowledgement(0, 0, 0, BindingAckFlag.DISTRIBUTED))[7] == 0x02


def test_decision_30_flags_of_a_proxy_binding_update() -> None:
    flags = (
        BindingUpdateFlag.ACKNOWLEDGE
        | BindingUpdateFlag.HOME_REGISTRATION
        | BindingUpdateFlag.PROXY
        | BindingUpdateFlag.DISTRIBUTED
    )
    assert flags == A_H_P_D == 0xC210


def test_unknown_flags_and_status_values_survive() -> None:
    update = BindingUpdate(1, 4, BindingUpdateFlag(0xFFFF))
    acknowledgement = BindingAcknowledgement(99, 1, 4, BindingAckFlag(0xFF))
    assert header.decode(header.encode(update)) == update
    assert header.decode(header.encode(acknowledgement)) == acknowledgement


def test_row_125_status_values_of_the_two_rfcs() -> None:
    assert {int(status) for status in Status} == {0, 1, *range(128, 140), *range(152, 163), 174}
    assert all(("ACCEPTED" in status.name.split("_")[0]) == (status < 128) for status in Status)


@pytest.mark.parametrize(("lifetime_s", "units"), [(0, 0), (3, 0), (4, 1), (7, 1), (600, 150), (262_143, 65_535)])
def test_row_125_lifetime_in_units_of_4_seconds_rounded_down(lifetime_s: int, units: int) -> None:
    for data in (
        header.encode(BindingUpdate(0, lifetime_s, A_H_P_D))[10:12],
        header.encode(BindingAcknowledgement(0, 0, lifetime_s, P_D))[10:12],
    ):
        assert int.from_bytes(data, "big") == units


@pytest.mark.parametrize(
    "message",
    [
        BindingUpdate(-1, 0, A_H_P_D),
        BindingUpdate(65_536, 0, A_H_P_D),
        BindingUpdate(0, -1, A_H_P_D),
        BindingUpdate(0, 262_144, A_H_P_D),
        BindingUpdate(0, 0, BindingUpdateFlag(0x1_0000)),
        BindingAcknowledgement(256, 0, 0, P_D),
        BindingAcknowledgement(0, 0, 0, BindingAckFlag(0x100)),
        BindingAcknowledgement(0, 0, 262_144, P_D),
        BindingError(-1),
        UnknownMessage(256, bytes(2)),
        UnknownMessage(19, bytes(8)),
        UnknownMessage(19, b""),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused(message: header.Message) -> None:
    with pytest.raises(ValueError, match=r"fit|range|octets"):
        header.encode(message)


def test_decision_33_a_message_over_2048_octets_is_refused() -> None:
    filler = UnknownOption(200, bytes(252))  # 254 octets with its header
    fits = BindingUpdate(0, 0, A_H_P_D, (*[filler] * 8, UnknownOption(200, b"\0\0")))  # 12 + 8 * 254 + 4
    assert len(header.encode(fits)) == 2048
    with pytest.raises(ValueError, match="2056 octets: at most 2048"):
        header.encode(BindingUpdate(0, 0, A_H_P_D, (*fits.options, HandoffIndicator(1))))


def test_row_123_payload_proto_and_header_len_of_the_shortest_messages() -> None:
    # RFC 6275 sections 6.1.7 to 6.1.9: Header Len 1, 1 and 2 without options, with 4, 4 and 0 octets of padding.
    assert header.encode(BindingUpdate(0, 0, A_H_P_D)) == bytes.fromhex("3b010500 0000 0000 c210 0000 01020000")
    assert header.encode(BindingAcknowledgement(0, 0, 0, P_D)) == bytes.fromhex("3b010600 0000 0022 0000 0000 01020000")
    error_data = header.encode(BindingError(BindingErrorStatus.UNRECOGNIZED_MH_TYPE))
    assert error_data == bytes.fromhex("3b020700 0000 0200") + bytes(16)


def test_row_123_reserved_is_ignored() -> None:
    data = bytearray(VECTORS[0].data)
    data[3] = 0xFF
    assert header.decode(bytes(data)) == VECTORS[0].message
    binding_error = bytearray(header.encode(BindingError(1, SOURCE)))
    binding_error[7] = 0xFF
    assert header.decode(bytes(binding_error)) == BindingError(1, SOURCE)


@pytest.mark.parametrize("mh_type", [kind for kind in range(256) if kind not in (5, 6, 7)])
def test_row_130_an_unknown_type_is_told_as_such(mh_type: int) -> None:
    data = bytes((59, 1, mh_type, 0, 0, 0)) + bytes(range(10))
    assert header.decode(data) == UnknownMessage(mh_type, bytes(range(10)))


def test_row_130_the_type_is_looked_at_before_payload_proto() -> None:
    # RFC 6275 section 9.2 lists MH Type first: a Binding Error, not a Parameter Problem.
    assert header.decode(bytes((6, 0, MHType.HEARTBEAT, 0)) + bytes(4)) == UnknownMessage(13, bytes(2))


@pytest.mark.parametrize("payload_proto", [0, 6, 17, 58, 60, 255])
@pytest.mark.parametrize("mh_type", [5, 6, 7])
def test_row_131_another_payload_proto_is_an_error_pointing_at_it(mh_type: int, payload_proto: int) -> None:
    problem = error(bytes((payload_proto, 2, mh_type, 0)) + bytes(20))
    assert (problem.cause, problem.pointer) == ("payload-proto", 0)


@pytest.mark.parametrize(("mh_type", "header_len"), [(5, 0), (6, 0), (7, 0), (7, 1)])
def test_row_132_a_header_len_too_small_is_an_error_pointing_at_it(mh_type: int, header_len: int) -> None:
    problem = error(bytes((59, header_len, mh_type, 0)) + bytes(60))
    assert (problem.cause, problem.pointer) == ("header-length", 1)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 104, 111])
def test_decision_35_a_header_longer_than_the_packet_is_discarded(kept: int) -> None:
    problem = error(VECTORS[0].data[:kept])
    assert (problem.cause, problem.pointer) == ("truncated", None)


def test_octets_behind_the_header_are_ignored() -> None:
    # RFC 8200 section 4.7: whatever follows next header 59.
    vector = VECTORS[0]
    assert header.decode(vector.data + b"\xff" * 13) == vector.message
    assert header.verify(vector.source, vector.destination, vector.data + b"\xff" * 13)


@pytest.mark.parametrize(
    "options",
    [b"\x16\xff\0\0", b"\x01\x03\0\0", b"\xc8\x03\0\0", b"\0\0\0\x08", b"\0\0\0\x01"],
    ids=["known", "padn", "unknown", "no-length", "padn-no-length"],
)
def test_decision_35_an_option_past_the_header_discards_the_message(options: bytes) -> None:
    problem = error(bytes.fromhex("3b010500 0000 0000 c210 0000") + options)
    assert (problem.cause, problem.pointer) == ("option-overrun", None)


def test_options_are_found_by_their_class() -> None:
    other = MobileNodeIdentifier(5, bytes(6))
    message = BindingUpdate(0, 0, A_H_P_D, (MN, HandoffIndicator(3), other))
    assert message.first(MobileNodeIdentifier) == MN
    assert message.all(MobileNodeIdentifier) == (MN, other)
    assert message.first(MalformedOption) is None
    assert message.all(MalformedOption) == ()
