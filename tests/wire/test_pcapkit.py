"""What we build, as read by pypcapkit."""

from __future__ import annotations

from typing import Any

import pytest
from eyes_pcapkit import pcapkit_reads
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
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import MobileNodeIdentifier, Timestamp


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_pcapkit_row_32_36_38_to_44_144_146_148_reads_the_vectors(vector: Any) -> None:
    pcapkit_reads(vector.data, vector.message)


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
    pcapkit_reads(header.encode(message), message)
