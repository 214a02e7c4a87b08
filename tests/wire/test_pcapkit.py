"""What we build, as read by pypcapkit: it knows RFC 8885, RFC 5846, RFC 5847 and RFC 7077 to the last field."""

from __future__ import annotations

import warnings
from io import BytesIO
from ipaddress import IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import KNOWN_OPTIONS, notification_flags, octets, revocation_flags, sequences, whole_units
from wire_vectors import VECTORS

from anchord.wire import header
from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    BindingUpdateFlag,
    Heartbeat,
    HeartbeatFlag,
    Message,
    NotificationFlag,
    RevocationFlag,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import MobileNodeIdentifier, Timestamp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pcapkit.protocols.internet.mh import MH

P_V_G = (RevocationFlag.PROXY, RevocationFlag.IPV4_ONLY, RevocationFlag.GLOBAL)
PCAPKIT_VALUES: dict[int, Any] = {
    2: lambda theirs, ours: theirs.interval.total_seconds() == ours.interval_s,
    3: lambda theirs, ours: theirs.address == ours.address,
    8: lambda theirs, ours: theirs.subtype == ours.subtype and theirs.identifier == ours.identifier.decode(),
    22: lambda theirs, ours: _same_prefix(theirs, ours.prefix),
    23: lambda theirs, ours: theirs.hi == ours.value,
    24: lambda theirs, ours: theirs.att == ours.value,
    25: lambda theirs, ours: theirs.lli == ours.identifier,
    26: lambda theirs, ours: theirs.address == ours.address,
    27: lambda theirs, ours: (theirs.pmip_timestamp.seconds << 16) + theirs.pmip_timestamp.fraction == ours.ticks,
    28: lambda theirs, ours: theirs.counter == ours.value,
    65: lambda theirs, ours: _same_prefix(theirs, ours.prefix),
    66: lambda theirs, ours: _same_prefix(theirs, ours.prefix),
    67: lambda theirs, ours: theirs.maar == ours.maar and _same_prefix(theirs, ours.prefix),
    68: lambda theirs, ours: theirs.address == ours.address,
    69: lambda theirs, ours: theirs.address == ours.address,
    70: lambda theirs, ours: theirs.lla == ours.address,
}


def _same_prefix(theirs: Any, prefix: IPv6Network) -> bool:
    return bool((theirs.prefix_length, theirs.prefix) == (prefix.prefixlen, prefix.network_address))


def pcapkit_reads(message: Message) -> None:
    data = header.encode(message)
    info: Any = MH(BytesIO(data), len(data)).info
    assert info.length == len(data)
    match message:
        case BindingUpdate(sequence, lifetime_s, flags, options):
            assert (info.seq, info.lifetime.total_seconds()) == (sequence, lifetime_s)
            assert info.ack == (BindingUpdateFlag.ACKNOWLEDGE in flags)
            assert info.home == (BindingUpdateFlag.HOME_REGISTRATION in flags)
            assert info.proxy_reg == (BindingUpdateFlag.PROXY in flags)
            assert info.dmm == (BindingUpdateFlag.DISTRIBUTED in flags)
        case BindingAcknowledgement(status, sequence, lifetime_s, flags, options):
            assert (info.status, info.seq, info.lifetime.total_seconds()) == (status, sequence, lifetime_s)
            assert info.proxy_reg == (BindingAckFlag.PROXY in flags)
            assert info.dmm == (BindingAckFlag.DISTRIBUTED in flags)
        case Heartbeat(sequence, flags, options):
            assert (info.seq, info.flags_reserved) == (sequence, 0)
            assert info.unsolicited == (HeartbeatFlag.UNSOLICITED in flags)
            assert info.response == (HeartbeatFlag.RESPONSE in flags)
        case BindingRevocationIndication(code, sequence, flags, options) | BindingRevocationAcknowledgement(
            code, sequence, flags, options
        ):
            assert info.br_type == (1 if isinstance(message, BindingRevocationIndication) else 2)
            assert (info.code, info.seq, info.flags_reserved) == (code, sequence, 0)
            assert (info.proxy, info.ipv4_hoa, info.global_revocation) == tuple(each in flags for each in P_V_G)
        case UpdateNotification(sequence, reason, flags, options):
            assert (info.seq, info.reason, info.flags_reserved) == (sequence, reason, 0)
            assert info.ack == (NotificationFlag.ACKNOWLEDGE in flags)
            assert info.retransmit == (NotificationFlag.RETRANSMITTED in flags)
        case UpdateNotificationAcknowledgement(sequence, status, options):
            assert (info.seq, info.status, int.from_bytes(info.msg_reserved, "big")) == (sequence, status, 0)
        case _:
            raise AssertionError(f"nothing to compare {message!r} with")
    theirs = [(int(kind), option) for kind, option in info.options.items(multi=True) if kind > 1]
    for (kind, option), ours in zip(theirs, options, strict=True):
        assert kind in PCAPKIT_VALUES
        assert PCAPKIT_VALUES[kind](option, ours), (option, ours)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_pcapkit_row_32_36_38_to_44_144_146_148_reads_the_vectors(vector: Any) -> None:
    pcapkit_reads(vector.message)


pcapkit_identifiers = st.builds(
    MobileNodeIdentifier, st.just(1), st.from_regex(rb"[a-z]{1,20}@[a-z.]{1,20}", fullmatch=True)
)
pcapkit_timestamps = st.builds(Timestamp, st.integers(0, (1 << 31) * 65536))  # it makes a datetime of them
pcapkit_options = st.one_of(
    pcapkit_identifiers, pcapkit_timestamps, *(KNOWN_OPTIONS[kind] for kind in KNOWN_OPTIONS if kind not in (8, 27))
)
pcapkit_option_lists = st.lists(pcapkit_options, max_size=6).map(tuple)
pcapkit_messages = st.one_of(
    st.builds(
        BindingUpdate,
        sequences,
        whole_units,
        st.integers(0, 0xFFF).map(lambda flags: BindingUpdateFlag(flags << 4)),
        pcapkit_option_lists,
    ),
    st.builds(
        BindingAcknowledgement,
        octets,
        sequences,
        whole_units,
        st.integers(0, 0x7F).map(lambda flags: BindingAckFlag(flags << 1)),
        pcapkit_option_lists,
    ),
    st.builds(Heartbeat, st.integers(0, 2**32 - 1), st.integers(0, 3).map(HeartbeatFlag), pcapkit_option_lists),
    st.builds(BindingRevocationIndication, octets, sequences, revocation_flags, pcapkit_option_lists),
    st.builds(BindingRevocationAcknowledgement, octets, sequences, revocation_flags, pcapkit_option_lists),
    st.builds(UpdateNotification, sequences, sequences, notification_flags, pcapkit_option_lists),
    st.builds(UpdateNotificationAcknowledgement, sequences, octets, pcapkit_option_lists),
)


@given(pcapkit_messages)
def test_pcapkit_row_32_36_38_to_44_121_144_146_148_reads_what_we_write(message: Message) -> None:
    pcapkit_reads(message)
