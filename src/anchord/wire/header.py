"""The Mobility Header (RFC 6275 section 6.1): whole messages to and from bytes.

::

    Payload Proto (59) | Header Len | MH Type | Reserved | Checksum (2) | Message Data ...

``decode`` checks what RFC 6275 section 9.2 demands of any Mobility Header except the checksum, which needs the
addresses of the packet: see ``verify``. (On a raw socket the Linux kernel has verified it already, and fills in that
of what we send.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv6Address

from anchord.wire.checksum import MOBILITY_HEADER, internet_checksum
from anchord.wire.errors import WireError
from anchord.wire.integers import unsigned
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
    RevocationType,
    UnknownMessage,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import TIME_UNIT_S, decode_options, encode_options, lifetime_units

__all__ = ["MHType", "Message", "WireError", "checksum", "decode", "encode", "verify"]

NO_NEXT_HEADER = 59  # IPPROTO_NONE
LONGEST = 8 * 256  # octets: Header Len is one octet and counts units of 8 after the first (RFC 6275 section 6.1.1)

_FIXED = 6  # octets before the message data
_PAYLOAD_PROTO_AT = 0
_HEADER_LEN_AT = 1
_CHECKSUM_AT = 4


class MHType(IntEnum):
    """Mobility Header types (IANA registry); anchord reads 5 to 7, 13, 16, 19 and 20."""

    BINDING_REFRESH_REQUEST = 0
    HOME_TEST_INIT = 1
    CARE_OF_TEST_INIT = 2
    HOME_TEST = 3
    CARE_OF_TEST = 4
    BINDING_UPDATE = 5
    BINDING_ACKNOWLEDGEMENT = 6
    BINDING_ERROR = 7
    FAST_BINDING_UPDATE = 8
    FAST_BINDING_ACKNOWLEDGEMENT = 9
    FAST_NEIGHBOR_ADVERTISEMENT = 10
    EXPERIMENTAL = 11
    HOME_AGENT_SWITCH = 12
    HEARTBEAT = 13
    HANDOVER_INITIATE = 14
    HANDOVER_ACKNOWLEDGE = 15
    BINDING_REVOCATION = 16
    LOCALIZED_ROUTING_INITIATION = 17
    LOCALIZED_ROUTING_ACKNOWLEDGEMENT = 18
    UPDATE_NOTIFICATION = 19
    UPDATE_NOTIFICATION_ACKNOWLEDGEMENT = 20
    FLOW_BINDING = 21
    SUBSCRIPTION_QUERY = 22
    SUBSCRIPTION_RESPONSE = 23


def decode(data: bytes) -> Message:
    """Return the message that the Mobility Header ``data`` carries; raise WireError if it carries none.

    Octets beyond the length the header gives are ignored: nothing can follow next header 59 (RFC 8200 section 4.7).
    """
    if len(data) < 8:
        raise WireError("truncated", f"{len(data)} octets cannot hold a Mobility Header")
    length = 8 * (data[_HEADER_LEN_AT] + 1)
    if len(data) < length:
        raise WireError("truncated", f"Header Len announces {length} octets, there are {len(data)}")
    mh_type = data[2]
    reader = _READERS.get(mh_type)
    # The checks of RFC 6275 section 9.2 in its order: MH Type, Payload Proto, Header Len.
    if reader is None:
        return UnknownMessage(mh_type, data[_FIXED:length])
    if data[_PAYLOAD_PROTO_AT] != NO_NEXT_HEADER:
        raise WireError("payload-proto", f"Payload Proto is {data[0]}, not {NO_NEXT_HEADER}", _PAYLOAD_PROTO_AT)
    layout, read = reader
    if length < _FIXED + layout.size:
        raise WireError("header-length", f"{length} octets are too few for MH type {mh_type}", _HEADER_LEN_AT)
    return read(data[:length])


def encode(message: Message, source: IPv6Address | None = None, destination: IPv6Address | None = None) -> bytes:
    """Return ``message`` as a Mobility Header.

    The checksum is that for a packet from ``source`` to ``destination``, or 0 without them: a Linux raw socket fills
    it in. Raises ValueError for a value that its field cannot hold and for more than 2048 octets.
    """
    mh_type, data = _message_data(message)
    length = _FIXED + len(data)
    if length > LONGEST:
        raise ValueError(f"a Mobility Header of {length} octets: at most {LONGEST}")
    header = bytes((NO_NEXT_HEADER, length // 8 - 1, mh_type, 0))
    unsummed = header + b"\0\0" + data
    if source is None or destination is None:
        return unsummed
    return header + checksum(source, destination, unsummed).to_bytes(2, "big") + data


def checksum(source: IPv6Address, destination: IPv6Address, data: bytes) -> int:
    """Return the checksum of the Mobility Header ``data`` as if its checksum field were 0 (RFC 6275 section 6.1.1)."""
    unsummed = data[:_CHECKSUM_AT] + b"\0\0" + data[_FIXED:]
    return internet_checksum(source, destination, MOBILITY_HEADER, unsummed)


def verify(source: IPv6Address, destination: IPv6Address, data: bytes) -> bool:
    """Tell whether ``data`` carries the right checksum; if not, discard it in silence (RFC 6275 section 9.2)."""
    mobility_header = data[: 8 * (data[_HEADER_LEN_AT] + 1)] if len(data) > _HEADER_LEN_AT else data
    return internet_checksum(source, destination, MOBILITY_HEADER, mobility_header) == 0


# The message data between the checksum and the options.
_BINDING_UPDATE = struct.Struct("!HHH")  # Sequence #, flags, Lifetime: RFC 6275 section 6.1.7, RFC 8885 section 4.1
_BINDING_ACKNOWLEDGEMENT = struct.Struct("!BBHH")  # Status, flags, Sequence #, Lifetime: 6.1.8, RFC 8885 section 4.2
_BINDING_ERROR = struct.Struct("!BB16s")  # Status, Reserved, Home Address: RFC 6275 section 6.1.9
_HEARTBEAT = struct.Struct("!HI")  # Reserved and flags, Sequence Number: RFC 5847 section 3.3
_BINDING_REVOCATION = struct.Struct("!BBHH")  # B.R. Type, R. Trigger or Status, Sequence #, flags: RFC 5846 section 5
_UPDATE_NOTIFICATION = struct.Struct("!HHH")  # Sequence #, Notification Reason, flags: RFC 7077 section 4.1
_UPDATE_NOTIFICATION_ACKNOWLEDGEMENT = struct.Struct("!HB3x")  # Sequence #, Status Code, Reserved: section 4.2


def _read_binding_update(data: bytes) -> BindingUpdate:
    sequence, flags, units = _BINDING_UPDATE.unpack_from(data, _FIXED)
    options = decode_options(data, _FIXED + _BINDING_UPDATE.size)
    return BindingUpdate(sequence, units * TIME_UNIT_S, BindingUpdateFlag(flags), options)


def _read_binding_acknowledgement(data: bytes) -> BindingAcknowledgement:
    status, flags, sequence, units = _BINDING_ACKNOWLEDGEMENT.unpack_from(data, _FIXED)
    options = decode_options(data, _FIXED + _BINDING_ACKNOWLEDGEMENT.size)
    return BindingAcknowledgement(status, sequence, units * TIME_UNIT_S, BindingAckFlag(flags), options)


def _read_binding_error(data: bytes) -> BindingError:
    status, _reserved, home_address = _BINDING_ERROR.unpack_from(data, _FIXED)
    return BindingError(status, IPv6Address(home_address), decode_options(data, _FIXED + _BINDING_ERROR.size))


def _read_heartbeat(data: bytes) -> Heartbeat:
    flags, sequence = _HEARTBEAT.unpack_from(data, _FIXED)
    return Heartbeat(sequence, HeartbeatFlag(flags), decode_options(data, _FIXED + _HEARTBEAT.size))


def _read_binding_revocation(data: bytes) -> BindingRevocationIndication | BindingRevocationAcknowledgement:
    kind, value, sequence, flags = _BINDING_REVOCATION.unpack_from(data, _FIXED)
    if kind not in (RevocationType.INDICATION, RevocationType.ACKNOWLEDGEMENT):
        # RFC 5846 section 5 names no answer, and a Binding Error would say that MH Type 16 is not known at all.
        raise WireError("revocation-type", f"Binding Revocation Type {kind} is neither indication nor acknowledgement")
    options = decode_options(data, _FIXED + _BINDING_REVOCATION.size)
    if kind == RevocationType.INDICATION:
        return BindingRevocationIndication(value, sequence, RevocationFlag(flags), options)
    return BindingRevocationAcknowledgement(value, sequence, RevocationFlag(flags), options)


def _read_update_notification(data: bytes) -> UpdateNotification:
    sequence, reason, flags = _UPDATE_NOTIFICATION.unpack_from(data, _FIXED)
    options = decode_options(data, _FIXED + _UPDATE_NOTIFICATION.size)
    return UpdateNotification(sequence, reason, NotificationFlag(flags), options)


def _read_update_notification_acknowledgement(data: bytes) -> UpdateNotificationAcknowledgement:
    sequence, status = _UPDATE_NOTIFICATION_ACKNOWLEDGEMENT.unpack_from(data, _FIXED)
    options = decode_options(data, _FIXED + _UPDATE_NOTIFICATION_ACKNOWLEDGEMENT.size)
    return UpdateNotificationAcknowledgement(sequence, status, options)


_READERS: dict[int, tuple[struct.Struct, Callable[[bytes], Message]]] = {
    MHType.BINDING_UPDATE: (_BINDING_UPDATE, _read_binding_update),
    MHType.BINDING_ACKNOWLEDGEMENT: (_BINDING_ACKNOWLEDGEMENT, _read_binding_acknowledgement),
    MHType.BINDING_ERROR: (_BINDING_ERROR, _read_binding_error),
    MHType.HEARTBEAT: (_HEARTBEAT, _read_heartbeat),
    MHType.BINDING_REVOCATION: (_BINDING_REVOCATION, _read_binding_revocation),
    MHType.UPDATE_NOTIFICATION: (_UPDATE_NOTIFICATION, _read_update_notification),
    MHType.UPDATE_NOTIFICATION_ACKNOWLEDGEMENT: (
        _UPDATE_NOTIFICATION_ACKNOWLEDGEMENT,
        _read_update_notification_acknowledgement,
    ),
}


def _message_data(message: Message) -> tuple[int, bytes]:
    """Return the MH Type and everything after the checksum."""
    match message:
        case BindingUpdate():
            mh_type = MHType.BINDING_UPDATE
            fixed = (
                unsigned(message.sequence, 2, "sequence number")
                + unsigned(message.flags, 2, "flags")
                + lifetime_units(message.lifetime_s, "lifetime")
            )
        case BindingAcknowledgement():
            mh_type = MHType.BINDING_ACKNOWLEDGEMENT
            fixed = (
                unsigned(message.status, 1, "status")
                + unsigned(message.flags, 1, "flags")
                + unsigned(message.sequence, 2, "sequence number")
                + lifetime_units(message.lifetime_s, "lifetime")
            )
        case BindingError():
            mh_type = MHType.BINDING_ERROR
            fixed = unsigned(message.status, 1, "status") + b"\0" + message.home_address.packed
        case Heartbeat():
            mh_type = MHType.HEARTBEAT
            fixed = unsigned(message.flags, 2, "flags") + unsigned(message.sequence, 4, "sequence number")
        case BindingRevocationIndication():
            mh_type = MHType.BINDING_REVOCATION
            fixed = (
                bytes((RevocationType.INDICATION,))
                + unsigned(message.trigger, 1, "trigger")
                + unsigned(message.sequence, 2, "sequence number")
                + unsigned(message.flags, 2, "flags")
            )
        case BindingRevocationAcknowledgement():
            mh_type = MHType.BINDING_REVOCATION
            fixed = (
                bytes((RevocationType.ACKNOWLEDGEMENT,))
                + unsigned(message.status, 1, "status")
                + unsigned(message.sequence, 2, "sequence number")
                + unsigned(message.flags, 2, "flags")
            )
        case UpdateNotification():
            mh_type = MHType.UPDATE_NOTIFICATION
            fixed = (
                unsigned(message.sequence, 2, "sequence number")
                + unsigned(message.reason, 2, "reason")
                + unsigned(message.flags, 2, "flags")
            )
        case UpdateNotificationAcknowledgement():
            mh_type = MHType.UPDATE_NOTIFICATION_ACKNOWLEDGEMENT
            fixed = unsigned(message.sequence, 2, "sequence number") + unsigned(message.status, 1, "status") + bytes(3)
        case UnknownMessage():
            if len(message.data) % 8 != 2:
                raise ValueError(f"{len(message.data)} octets after the checksum: not 2 more than a multiple of 8")
            return message.mh_type, message.data
    return mh_type, fixed + encode_options(message.options, _FIXED + len(fixed))
