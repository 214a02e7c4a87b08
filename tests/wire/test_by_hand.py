"""Messages written octet by octet from the figures of the RFCs, and what we have to find in them.

Nothing of ours computes, pads or aligns here. Every line is some octets and what the RFC calls them.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from eyes_pcapkit import pcapkit_reads

from anchord.wire import header
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
from anchord.wire.options import (
    AccessTechnologyType,
    AnchoredPrefix,
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    HandoffIndicator,
    HomeNetworkPrefix,
    LinkLocalAddress,
    LocalPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    PreviousMaar,
    RestartCounter,
    ServingMaar,
    Timestamp,
)

MAC = bytes.fromhex("0255aa000001")
NODE = MobileNodeIdentifier(5, MAC)

# Binding Update: RFC 6275 section 6.1.7, P of RFC 5213 section 8.1, D of RFC 8885 section 4.1.
UPDATE = """
3b                  Payload Proto: no next header
10                  Header Len: 17 units of 8 octets, the first one not counted
05                  MH Type: Binding Update
00                  Reserved
0000                Checksum: left to the kernel
ffff                Sequence #
c210                A 8000, H 4000, P 0200, D 0010
0096                Lifetime: 150 units of 4 s
08 07 05            12: Mobile Node Identifier, 7 octets, EUI-48 (RFC 4283 section 3, RFC 8371 section 6)
  0255aa000001
01 05 0000000000    21: PadN of 5, up to 8n+4
16 12 00 40         28: Home Network Prefix (RFC 5213 section 8.3): Reserved, Prefix Length 64
  20010db800a10001 0000000000000000
17 02 00 04         48: Handoff Indicator: Reserved, state unknown (section 8.4)
18 02 00 03         52: Access Technology Type: Reserved, Ethernet (section 8.5)
00 00               56: twice Pad1, up to 8n+2
1b 08               58: Timestamp (section 8.8)
  00006553f100 8000   seconds in 48 bits, and one half in 16
19 08 0000          68: Mobile Node Link-layer Identifier (section 8.6): Reserved, EUI-48
  0255aa000001
44 10               78: Serving MAAR (RFC 8885 section 4.6), at 8n+6
  20010db800f20000 0000000000000001
1a 10               96: Link-local Address (RFC 5213 section 8.7), at 8n+0 where nobody may send it: read all the same
  fe80000000000000 0000000000000001
01 14 0000000000000000000000000000000000000000    114: PadN of 20
"""

# Binding Acknowledgement: RFC 6275 section 6.1.8, P of RFC 5213 section 8.2, D of RFC 8885 section 4.2.
ACKNOWLEDGEMENT = """
3b                  Payload Proto
16                  Header Len: 23 units
06                  MH Type: Binding Acknowledgement
00                  Reserved
0000                Checksum
00                  Status: accepted
22                  P 20, D 02
0001                Sequence #
0001                Lifetime: one unit, 4 s
08 07 05            12: Mobile Node Identifier
  0255aa000001
01 05 0000000000    21: PadN
43 22 00 40         28: Previous MAAR (RFC 8885 section 4.5): Reserved, Prefix Length
  20010db800f10000 0000000000000001   the MAAR
  20010db800a10001 0000000000000000   its prefix
01 04 00000000      64: PadN of 4 and 2, up to 8n+6
45 10               70: DLIF Link-Local Address (section 4.7)
  fe80000000000000 00d16efffe4bbcba
46 08 0000          88: DLIF Link-Layer Address (section 4.8): Reserved, EUI-48
  02d16e4bbcba
01 00               98: PadN without a body, up to 8n+4
42 12 00 30         100: Local Prefix (section 4.4): Reserved, Prefix Length 48
  20010db800c1ffff ffffffffffffffff   bits beyond it count for nothing
01 02 0000          120: PadN, up to 8n+4
41 12 ff 40         124: Anchored Prefix (section 4.3): Reserved, which is not looked at
  20010db800a30001 0000000000000000
44 10               144: Serving MAAR, not aligned
  20010db800f20000 0000000000000001
01 14 0000000000000000000000000000000000000000    162: PadN of 20
"""

ERROR = """
3b 02 07 00 0000    Payload Proto, Header Len, MH Type: Binding Error (RFC 6275 section 6.1.9), Reserved, Checksum
02                  Status: unrecognized MH Type value
00                  Reserved
20010db800f10000 0000000000000001   Home Address
"""

# RFC 5847 section 3.3.
HEARTBEAT = """
3b 02 0d 00 0000    MH Type: Heartbeat
0001                Reserved, U 0, R 1
deadbeef            Sequence Number
00 00               12: twice Pad1, up to 4n+2
1c 04 00000007      14: Restart Counter (section 3.4)
01 02 0000          20: PadN
"""

# RFC 5846 section 5.1.
INDICATION = """
3b 03 10 00 0000    MH Type: Binding Revocation Message
01                  B.R. Type: Indication
01                  R. Trigger: administrative reason
1234                Sequence #
8000                P 8000, V 4000, G 2000
08 07 05            12: Mobile Node Identifier
  0255aa000001
01 09 000000000000000000    21: PadN
"""

# RFC 5846 section 5.2.
REVOKED = """
3b 03 10 00 0000    MH Type: Binding Revocation Message
02                  B.R. Type: Acknowledgement
80                  Status: binding does not exist
1234                Sequence #
8000                P
08 07 05            12: Mobile Node Identifier
  0255aa000001
01 09 000000000000000000    21: PadN
"""

# RFC 7077 section 4.1.
NOTIFICATION = """
3b 02 13 00 0000    MH Type: Update Notification
0102                Sequence #
0001                Notification Reason: FORCE-REREGISTRATION
8000                A 8000, D 4000
08 07 05            12: Mobile Node Identifier
  0255aa000001
01 01 00            21: PadN
"""

# RFC 7077 section 4.2.
NOTED = """
3b 02 14 00 0000    MH Type: Update Notification Acknowledgement
0102                Sequence #
00                  Status Code: success
000000              Reserved
08 07 05            12: Mobile Node Identifier
  0255aa000001
01 01 00            21: PadN
"""

CASES: dict[str, tuple[str, Message]] = {
    "update": (
        UPDATE,
        BindingUpdate(
            0xFFFF,
            600,
            BindingUpdateFlag.ACKNOWLEDGE
            | BindingUpdateFlag.HOME_REGISTRATION
            | BindingUpdateFlag.PROXY
            | BindingUpdateFlag.DISTRIBUTED,
            (
                NODE,
                HomeNetworkPrefix(IPv6Network("2001:db8:a1:1::/64")),
                HandoffIndicator(4),
                AccessTechnologyType(3),
                Timestamp((1_700_000_000 << 16) + 0x8000),
                MobileNodeLinkLayerIdentifier(MAC),
                ServingMaar(IPv6Address("2001:db8:f2::1")),
                LinkLocalAddress(IPv6Address("fe80::1")),
            ),
        ),
    ),
    "acknowledgement": (
        ACKNOWLEDGEMENT,
        BindingAcknowledgement(
            0,
            1,
            4,
            BindingAckFlag.PROXY | BindingAckFlag.DISTRIBUTED,
            (
                NODE,
                PreviousMaar(IPv6Address("2001:db8:f1::1"), IPv6Network("2001:db8:a1:1::/64")),
                DlifLinkLocalAddress(IPv6Address("fe80::d1:6eff:fe4b:bcba")),
                DlifLinkLayerAddress(bytes.fromhex("02d16e4bbcba")),
                LocalPrefix(IPv6Network("2001:db8:c1::/48")),
                AnchoredPrefix(IPv6Network("2001:db8:a3:1::/64")),
                ServingMaar(IPv6Address("2001:db8:f2::1")),
            ),
        ),
    ),
    "error": (ERROR, BindingError(2, IPv6Address("2001:db8:f1::1"))),
    "heartbeat": (HEARTBEAT, Heartbeat(0xDEADBEEF, HeartbeatFlag.RESPONSE, (RestartCounter(7),))),
    "revocation indication": (INDICATION, BindingRevocationIndication(1, 0x1234, RevocationFlag.PROXY, (NODE,))),
    "revocation acknowledgement": (
        REVOKED,
        BindingRevocationAcknowledgement(128, 0x1234, RevocationFlag.PROXY, (NODE,)),
    ),
    "update notification": (NOTIFICATION, UpdateNotification(0x0102, 1, NotificationFlag.ACKNOWLEDGE, (NODE,))),
    "its acknowledgement": (NOTED, UpdateNotificationAcknowledgement(0x0102, 0, (NODE,))),
}


def octets(text: str) -> bytes:
    """Of each line what stands before the first word that is no octets."""
    found = b""
    for line in text.strip().splitlines():
        for word in line.split():
            try:
                found += bytes.fromhex(word)
            except ValueError:
                break
    return found


@pytest.mark.parametrize("name", CASES)
def test_row_32_34_36_38_to_44_123_144_146_148_what_is_written_by_hand_is_understood(name: str) -> None:
    text, message = CASES[name]
    data = octets(text)
    assert len(data) == 8 * (data[1] + 1), "the case itself"
    assert header.decode(data) == message


@pytest.mark.parametrize("name", [name for name in CASES if name != "acknowledgement"])
def test_pcapkit_understands_the_same(name: str) -> None:
    """Not the acknowledgement: pypcapkit does not cut off the bits beyond a prefix length, as RFC 8885 section 4.4
    has it."""
    text, message = CASES[name]
    pcapkit_reads(octets(text), message)
