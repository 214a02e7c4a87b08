"""The messages of the Mobility Header that anchord speaks (RFC 6275 section 6.1, RFC 5213 section 8, RFC 8885 4).

A proxy binding update is a Binding Update with the P flag, a proxy binding acknowledgement likewise: one class each.
Numbers are kept as they came where a registry may grow, so unknown flags and status values survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
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
class UnknownMessage:
    """A message of a type anchord does not read: to be answered by a Binding Error (RFC 6275 section 9.2).

    ``data`` is what follows the checksum: 2 octets more than a multiple of 8.
    """

    mh_type: int
    data: bytes


Message = BindingUpdate | BindingAcknowledgement | BindingError | UnknownMessage
