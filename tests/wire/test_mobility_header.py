"""Whole messages: vectors both ways, round trips, any bytes, and the rules for a Mobility Header."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import example, given
from wire_strategies import KNOWN_TYPES, addresses, any_message, any_mobility_bytes, with_options
from wire_vectors import A_H_P_D, MN, P_D, VECTORS, Vector

from anchord.wire import header
from anchord.wire.header import MHType, WireError
from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Heartbeat,
    HeartbeatFlag,
    NotificationFlag,
    NotificationReason,
    NotificationStatus,
    RevocationFlag,
    RevocationStatus,
    RevocationTrigger,
    Status,
    UnknownMessage,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
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
        assert problem.cause in {"truncated", "payload-proto", "header-length", "option-overrun", "revocation-type"}
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


def test_row_32_36_decision_4_the_d_flags() -> None:
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
        Heartbeat(-1, HeartbeatFlag.RESPONSE),
        Heartbeat(1 << 32, HeartbeatFlag.RESPONSE),
        BindingRevocationIndication(256, 0, RevocationFlag.PROXY),
        BindingRevocationIndication(0, 65_536, RevocationFlag.PROXY),
        BindingRevocationAcknowledgement(-1, 0, RevocationFlag.PROXY),
        BindingRevocationAcknowledgement(0, -1, RevocationFlag.PROXY),
        UpdateNotification(65_536, 1, NotificationFlag.ACKNOWLEDGE),
        UpdateNotification(0, 65_536, NotificationFlag.ACKNOWLEDGE),
        UpdateNotificationAcknowledgement(65_536, 0),
        UpdateNotificationAcknowledgement(0, 256),
        UnknownMessage(256, bytes(2)),
        UnknownMessage(21, bytes(8)),
        UnknownMessage(21, b""),
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


@pytest.mark.parametrize(
    ("message", "octets"),
    [
        pytest.param(Heartbeat(0x01020304, HeartbeatFlag(0)), "0d00 0000 0000 01020304", id="row_144_request"),
        pytest.param(Heartbeat(2**32 - 1, HeartbeatFlag.RESPONSE), "0d00 0000 0001 ffffffff", id="row_144_response"),
        pytest.param(
            BindingRevocationIndication(7, 0x0102, RevocationFlag.PROXY), "1000 0000 0107 0102 8000", id="row_148_bri_p"
        ),
        pytest.param(
            BindingRevocationIndication(128, 1, RevocationFlag.PROXY | RevocationFlag.GLOBAL),
            "1000 0000 0180 0001 a000",
            id="row_148_bri_p_g",
        ),
        pytest.param(
            BindingRevocationAcknowledgement(133, 0x0102, RevocationFlag.IPV4_ONLY),
            "1000 0000 0285 0102 4000",
            id="row_148_bra_v",
        ),
        pytest.param(
            UpdateNotification(0x0102, 0x0304, NotificationFlag(0)), "1300 0000 0102 0304 0000", id="decision_14_upn"
        ),
        pytest.param(
            UpdateNotification(0x0102, 4, NotificationFlag.ACKNOWLEDGE),
            "1300 0000 0102 0004 8000",
            id="decision_14_upn_a",
        ),
        pytest.param(
            UpdateNotification(0x0102, 4, NotificationFlag.RETRANSMITTED),
            "1300 0000 0102 0004 4000",
            id="decision_14_upn_d",
        ),
        pytest.param(UpdateNotificationAcknowledgement(0x0102, 129), "1400 0000 0102 81 000000", id="decision_14_upa"),
    ],
)
def test_the_messages_of_a_peers_life_without_options(message: header.Message, octets: str) -> None:
    # RFC 5847 section 3.3, RFC 5846 sections 5.1 and 5.2 ("4 octets of padding", Header Len 1), RFC 7077 section 4.
    data = bytes.fromhex("3b01" + octets + "01020000")
    assert header.encode(message) == data
    assert header.decode(data) == message


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        ("3b010dff 0000 fffd 00000001 01020000", "3b010d00 0000 0001 00000001 01020000"),
        ("3b0110ff 0000 0101 0001 1fff 01020000", "3b011000 0000 0101 0001 0000 01020000"),
        ("3b0110ff 0000 0201 0001 bfff 01020000", "3b011000 0000 0201 0001 a000 01020000"),
        ("3b0113ff 0000 0001 0001 7fff 01020000", "3b011300 0000 0001 0001 4000 01020000"),
        ("3b0114ff 0000 0001 00 ffffff 01020000", "3b011400 0000 0001 00 000000 01020000"),
    ],
    ids=["heartbeat", "bri", "bra", "upn", "upa"],
)
def test_row_123_reserved_bits_are_ignored_and_never_sent(received: str, sent: str) -> None:
    message = header.decode(bytes.fromhex(received))
    assert message == header.decode(bytes.fromhex(sent))
    assert header.encode(message) == bytes.fromhex(sent)


@pytest.mark.parametrize("kind", [kind for kind in range(256) if kind not in (1, 2)])
def test_row_148_a_revocation_of_another_type_is_discarded(kind: int) -> None:
    problem = error(bytes.fromhex(f"3b011000 0000 {kind:02x}00 0001 8000 01020000"))
    assert (problem.cause, problem.pointer) == ("revocation-type", None)


def test_row_148_numbers_of_rfc_5846() -> None:
    assert {int(trigger) for trigger in RevocationTrigger} == {*range(8), 128, 129}
    assert {int(status) for status in RevocationStatus} == {0, 1, *range(128, 136)}
    assert all((("SUCCESS" in status.name) == (status < 128)) for status in RevocationStatus)


def test_decision_14_numbers_of_rfc_7077() -> None:
    assert NotificationReason.FORCE_REREGISTRATION == 1
    assert {int(reason) for reason in NotificationReason} == {1, 2, 3, 4}
    assert {int(status) for status in NotificationStatus} == {0, 128, 129}


def test_numbers_that_a_registry_may_add_survive() -> None:
    messages = (
        BindingRevocationIndication(249, 1, RevocationFlag.GLOBAL),
        BindingRevocationAcknowledgement(200, 1, RevocationFlag.PROXY),
        UpdateNotification(1, 65_535, NotificationFlag.ACKNOWLEDGE),
        UpdateNotificationAcknowledgement(1, 255),
    )
    assert [header.decode(header.encode(message)) for message in messages] == list(messages)


def test_row_123_reserved_is_ignored() -> None:
    data = bytearray(VECTORS[0].data)
    data[3] = 0xFF
    assert header.decode(bytes(data)) == VECTORS[0].message
    binding_error = bytearray(header.encode(BindingError(1, SOURCE)))
    binding_error[7] = 0xFF
    assert header.decode(bytes(binding_error)) == BindingError(1, SOURCE)


@pytest.mark.parametrize("mh_type", [kind for kind in range(256) if kind not in KNOWN_TYPES])
def test_row_130_an_unknown_type_is_told_as_such(mh_type: int) -> None:
    data = bytes((59, 1, mh_type, 0, 0, 0)) + bytes(range(10))
    assert header.decode(data) == UnknownMessage(mh_type, bytes(range(10)))


def test_row_130_the_type_is_looked_at_before_payload_proto() -> None:
    # RFC 6275 section 9.2 lists MH Type first: a Binding Error, not a Parameter Problem.
    assert header.decode(bytes((6, 0, MHType.FLOW_BINDING, 0)) + bytes(4)) == UnknownMessage(21, bytes(2))


@pytest.mark.parametrize("payload_proto", [0, 6, 17, 58, 60, 255])
@pytest.mark.parametrize("mh_type", KNOWN_TYPES)
def test_row_131_another_payload_proto_is_an_error_pointing_at_it(mh_type: int, payload_proto: int) -> None:
    problem = error(bytes((payload_proto, 2, mh_type, 0)) + bytes(20))
    assert (problem.cause, problem.pointer) == ("payload-proto", 0)


@pytest.mark.parametrize(("mh_type", "header_len"), [*((kind, 0) for kind in KNOWN_TYPES), (7, 1)])
def test_row_132_a_header_len_too_small_is_an_error_pointing_at_it(mh_type: int, header_len: int) -> None:
    problem = error(bytes((59, header_len, mh_type, 0)) + bytes(60))
    assert (problem.cause, problem.pointer) == ("header-length", 1)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 104, 111])
def test_decision_35_a_header_longer_than_the_packet_is_discarded(kept: int) -> None:
    problem = error(VECTORS[0].data[:kept])
    assert (problem.cause, problem.pointer) == ("truncated", None)


@each_vector
def test_decision_35_a_packet_shorter_than_its_header_is_discarded_wherever_it_ends(vector: Vector) -> None:
    for kept in range(len(vector.data)):
        assert error(vector.data[:kept]).cause == "truncated"


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
@pytest.mark.parametrize("mh_type", [kind for kind in KNOWN_TYPES if kind != MHType.BINDING_ERROR])
def test_decision_35_an_option_past_the_header_discards_the_message(mh_type: int, options: bytes) -> None:
    # The fixed part has 6 octets in all of these; 0100 is a sequence number, a status or a Binding Revocation Type.
    problem = error(bytes((59, 1, mh_type, 0)) + bytes.fromhex("0000 0100 c210 0000") + options)
    assert (problem.cause, problem.pointer) == ("option-overrun", None)


def test_options_are_found_by_their_class() -> None:
    other = MobileNodeIdentifier(5, bytes(6))
    message = BindingUpdate(0, 0, A_H_P_D, (MN, HandoffIndicator(3), other))
    assert message.first(MobileNodeIdentifier) == MN
    assert message.all(MobileNodeIdentifier) == (MN, other)
    assert message.first(MalformedOption) is None
    assert message.all(MalformedOption) == ()
