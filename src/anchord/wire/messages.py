"""The messages of the Mobility Header that anchord reads and writes.

Binding Update, Acknowledgement and Error (RFC 6275 section 6.1, RFC 5213 section 8, RFC 8885 section 4), Heartbeat
(RFC 5847), Binding Revocation (RFC 5846), Update Notification (RFC 7077).

A proxy binding update is a Binding Update with the P flag, a proxy binding acknowledgement likewise: one class each.
Numbers are kept as they came where a registry may grow, so unknown flags and status values survive. The flags of the
last three have no registry: their reserved bits are 0 when sent and ignored when received, so no value holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import CONFORM, IntEnum, IntFlag
from ipaddress import IPv6Address

from anchord.wire.carrier import Carrier
from anchord.wire.options import Option

UNSPECIFIED = IPv6Address(0)


class BindingUpdateFlag(IntFlag):
    """Flags of a Binding Update, all 12 of the IANA registry.

    Bits without a name are kept. Python remembers each combination it has met: at 16 bits at most 30 MB, once.
    """

    ACKNOWLEDGE = 0x8000  # A: RFC 6275
    HOME_REGISTRATION = 0x4000  # H: RFC 6275
    LINK_LOCAL = 0x2000  # L: RFC 6275
    KEY_MANAGEMENT = 0x1000  # K: RFC 6275
    MAP = 0x0800  # M: RFC 5380
    MOBILE_ROUTER = 0x0400  # R: RFC 3963
    PROXY = 0x0200  # P: RFC 5213
    FORCE_UDP = 0x0100  # F: RFC 5844
    TLV = 0x0080  # T: RFC 5845
    BULK = 0x0040  # B: RFC 6602
    MULTICAST_SIGNALING = 0x0020  # S: RFC 7161
    DISTRIBUTED = 0x0010  # D: RFC 8885


class BindingAckFlag(IntFlag):
    """Flags of a Binding Acknowledgement, all 7 of the IANA registry; the eighth bit is kept."""

    KEY_MANAGEMENT = 0x80  # K: RFC 6275
    MOBILE_ROUTER = 0x40  # R: RFC 3963
    PROXY = 0x20  # P: RFC 5213
    TLV = 0x10  # T: RFC 5845
    BULK = 0x08  # B: RFC 6602
    MULTICAST_SIGNALING = 0x04  # S: RFC 7161
    DISTRIBUTED = 0x02  # D: RFC 8885


class Status(IntEnum):
    """Status of a Binding Acknowledgement (RFC 6275 section 6.1.8, RFC 5213 section 8.9); 128 and more reject."""

    ACCEPTED = 0
    ACCEPTED_PREFIX_DISCOVERY_NECESSARY = 1
    REASON_UNSPECIFIED = 128
    ADMINISTRATIVELY_PROHIBITED = 129
    INSUFFICIENT_RESOURCES = 130
    HOME_REGISTRATION_NOT_SUPPORTED = 131
    NOT_HOME_SUBNET = 132
    NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE = 133
    DUPLICATE_ADDRESS_DETECTION_FAILED = 134
    SEQUENCE_NUMBER_OUT_OF_WINDOW = 135
    EXPIRED_HOME_NONCE_INDEX = 136
    EXPIRED_CARE_OF_NONCE_INDEX = 137
    EXPIRED_NONCES = 138
    REGISTRATION_TYPE_CHANGE_DISALLOWED = 139
    PROXY_REG_NOT_ENABLED = 152
    NOT_LMA_FOR_THIS_MOBILE_NODE = 153
    MAG_NOT_AUTHORIZED_FOR_PROXY_REG = 154
    NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX = 155
    TIMESTAMP_MISMATCH = 156
    TIMESTAMP_LOWER_THAN_PREV_ACCEPTED = 157
    MISSING_HOME_NETWORK_PREFIX_OPTION = 158
    BCE_PBU_PREFIX_SET_DO_NOT_MATCH = 159
    MISSING_MN_IDENTIFIER_OPTION = 160
    MISSING_HANDOFF_INDICATOR_OPTION = 161
    MISSING_ACCESS_TECH_TYPE_OPTION = 162
    INVALID_CARE_OF_ADDRESS = 174


class BindingErrorStatus(IntEnum):
    """Status of a Binding Error (RFC 6275 section 6.1.9)."""

    UNKNOWN_BINDING = 1
    UNRECOGNIZED_MH_TYPE = 2


class HeartbeatFlag(IntFlag, boundary=CONFORM):
    """Flags of a Heartbeat (RFC 5847 section 3.3); without RESPONSE it is a request."""

    UNSOLICITED = 0x0002  # U: in a response that nobody asked for
    RESPONSE = 0x0001  # R


class RevocationType(IntEnum):
    """Which of the two messages a Binding Revocation Message is (RFC 5846 section 5)."""

    INDICATION = 1
    ACKNOWLEDGEMENT = 2


class RevocationFlag(IntFlag, boundary=CONFORM):
    """Flags of both Binding Revocation Messages (RFC 5846 sections 5.1 and 5.2); the answer repeats the question's."""

    PROXY = 0x8000  # P: the binding is one of Proxy Mobile IPv6
    IPV4_ONLY = 0x4000  # V: only the IPv4 home address
    GLOBAL = 0x2000  # G: every binding between the two, or all that share an identifier


class RevocationTrigger(IntEnum):
    """Why bindings are revoked (RFC 5846 section 5.1): below 128 for one node, 128 to 249 with GLOBAL."""

    UNSPECIFIED = 0
    ADMINISTRATIVE_REASON = 1
    HANDOVER_SAME_ACCESS_TYPE = 2
    HANDOVER_DIFFERENT_ACCESS_TYPE = 3
    HANDOVER_UNKNOWN = 4
    USER_INITIATED_TERMINATION = 5
    ACCESS_NETWORK_TERMINATION = 6
    POSSIBLE_OUT_OF_SYNC_BCE_STATE = 7
    PER_PEER_POLICY = 128
    REVOKING_MOBILITY_NODE_LOCAL_POLICY = 129


class RevocationStatus(IntEnum):
    """Status of a Binding Revocation Acknowledgement (RFC 5846 section 5.2); 128 and more reject."""

    SUCCESS = 0
    PARTIAL_SUCCESS = 1
    BINDING_DOES_NOT_EXIST = 128
    IPV4_HOME_ADDRESS_OPTION_REQUIRED = 129
    GLOBAL_REVOCATION_NOT_AUTHORIZED = 130
    REVOKED_MOBILE_NODES_IDENTITY_REQUIRED = 131
    REVOCATION_FAILED_MN_IS_ATTACHED = 132
    REVOCATION_TRIGGER_NOT_SUPPORTED = 133
    REVOCATION_FUNCTION_NOT_SUPPORTED = 134
    PROXY_BINDING_REVOCATION_NOT_SUPPORTED = 135


class NotificationFlag(IntFlag, boundary=CONFORM):
    """Flags of an Update Notification (RFC 7077 section 4.1)."""

    ACKNOWLEDGE = 0x8000  # A: an acknowledgement is wanted
    RETRANSMITTED = 0x4000  # D: sent before with this sequence number and these contents


class NotificationReason(IntEnum):
    """What an Update Notification asks for (RFC 7077 section 4.1)."""

    FORCE_REREGISTRATION = 1
    UPDATE_SESSION_PARAMETERS = 2
    VENDOR_SPECIFIC_REASON = 3
    ANI_PARAMS_REQUESTED = 4


class NotificationStatus(IntEnum):
    """Status of an Update Notification Acknowledgement (RFC 7077 section 4.2); 128 and more are errors."""

    SUCCESS = 0
    FAILED_TO_UPDATE_SESSION_PARAMETERS = 128
    MISSING_VENDOR_SPECIFIC_OPTION = 129


@dataclass(frozen=True, slots=True)
class BindingUpdate(Carrier):
    """A Binding Update (RFC 6275 section 6.1.7).

    ``sequence`` 0 to 65535. ``lifetime_s`` 0 to 262,143, sent in units of 4 s rounded down; what arrives as 0, so
    anything below 4 s, deletes the binding.
    """

    sequence: int
    lifetime_s: int
    flags: BindingUpdateFlag
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class BindingAcknowledgement(Carrier):
    """A Binding Acknowledgement (RFC 6275 section 6.1.8).

    ``status`` 0 to 255, see :class:`Status`. ``sequence`` is that of the update. ``lifetime_s`` as in the update.
    """

    status: int
    sequence: int
    lifetime_s: int
    flags: BindingAckFlag
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class BindingError(Carrier):
    """A Binding Error (RFC 6275 section 6.1.9): ``status`` 0 to 255, see :class:`BindingErrorStatus`."""

    status: int
    home_address: IPv6Address = UNSPECIFIED
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat(Carrier):
    """A Heartbeat (RFC 5847 section 3.3), request or response: ``sequence`` 0 to 2**32 - 1.

    A response has the request's sequence number, unless it is unsolicited: then that number means nothing.
    """

    sequence: int
    flags: HeartbeatFlag
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class BindingRevocationIndication(Carrier):
    """A Binding Revocation Indication (RFC 5846 section 5.1).

    ``trigger`` 0 to 255, see :class:`RevocationTrigger`. ``sequence`` 0 to 65535.
    """

    trigger: int
    sequence: int
    flags: RevocationFlag
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class BindingRevocationAcknowledgement(Carrier):
    """A Binding Revocation Acknowledgement (RFC 5846 section 5.2).

    ``status`` 0 to 255, see :class:`RevocationStatus`. ``sequence`` and ``flags`` are those of the indication.
    """

    status: int
    sequence: int
    flags: RevocationFlag
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateNotification(Carrier):
    """An Update Notification (RFC 7077 section 4.1).

    ``sequence`` 0 to 65535. ``reason`` 0 to 65535, see :class:`NotificationReason`.
    """

    sequence: int
    reason: int
    flags: NotificationFlag
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateNotificationAcknowledgement(Carrier):
    """An Update Notification Acknowledgement (RFC 7077 section 4.2).

    ``sequence`` is that of the notification. ``status`` 0 to 255, see :class:`NotificationStatus`.
    """

    sequence: int
    status: int
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class UnknownMessage:
    """A message of a type anchord does not read: to be answered by a Binding Error (RFC 6275 section 9.2).

    ``data`` is what follows the checksum: 2 octets more than a multiple of 8.
    """

    mh_type: int
    data: bytes


Message = (
    BindingUpdate
    | BindingAcknowledgement
    | BindingError
    | Heartbeat
    | BindingRevocationIndication
    | BindingRevocationAcknowledgement
    | UpdateNotification
    | UpdateNotificationAcknowledgement
    | UnknownMessage
)
