"""pypcapkit as a second reader: it knows RFC 8885, RFC 5846, RFC 5847 and RFC 7077 to the last field.

It verifies no checksum. A length that an option of RFC 8885 must not have makes it raise.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from ipaddress import IPv6Network
from typing import Any

from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingError,
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
from anchord.wire.options import MnIdSubtype

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pcapkit.protocols.internet.mh import MH

P_V_G = (RevocationFlag.PROXY, RevocationFlag.IPV4_ONLY, RevocationFlag.GLOBAL)


def _same_prefix(theirs: Any, prefix: IPv6Network) -> bool:
    return bool((theirs.prefix_length, theirs.prefix) == (prefix.prefixlen, prefix.network_address))


def _same_node(theirs: Any, ours: Any) -> bool:
    """It reads a NAI as text and leaves everything else as it is."""
    name = ours.identifier.decode() if ours.subtype == MnIdSubtype.NAI else ours.identifier
    return bool(theirs.subtype == ours.subtype and theirs.identifier == name)


_VALUES: dict[int, Any] = {
    2: lambda theirs, ours: theirs.interval.total_seconds() == ours.interval_s,
    3: lambda theirs, ours: theirs.address == ours.address,
    8: _same_node,
    18: lambda theirs, ours: theirs.data == ours.data,  # ours: src/anchord/protocol/agreement.py
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


def pcapkit_reads(data: bytes, message: Message) -> None:
    """Assert that it finds in the Mobility Header ``data`` what ``message`` says, field by field and in order."""
    info: Any = MH(BytesIO(data), len(data)).info
    assert (info.length, info.reserved) == (len(data), 0)
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
        case BindingError(status, home_address, options):
            assert (info.status, info.home) == (status, home_address)
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
        assert kind in _VALUES
        assert _VALUES[kind](option, ours), (option, ours)
