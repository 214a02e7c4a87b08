"""The vectors in ``tests/vectors``, each with the addresses of its packet and the message it has to give."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

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
    NotificationReason,
    NotificationStatus,
    RevocationFlag,
    RevocationStatus,
    RevocationTrigger,
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

MN = MobileNodeIdentifier(1, b"mn1@dmm.example")
UNKNOWN_HANDOFF_ON_WLAN = (HandoffIndicator(4), AccessTechnologyType(4), Timestamp((1_700_000_000 << 16) + 0x4000))
A_H_P_D = BindingUpdateFlag(0xC210)
P_D = BindingAckFlag(0x22)
GATEWAY_1, GATEWAY_2, GATEWAY_3 = (IPv6Address(f"2001:db8:a::{n}") for n in (1, 2, 3))
CENTRAL = IPv6Address("2001:db8:c::1")
PREFIX_1 = IPv6Network("2001:db8:a:1::/64")
PREFIX_2 = IPv6Network("2001:db8:b:1::/64")
PREFIX_3 = IPv6Network("2001:db8:d:1::/64")
ROUTER_1 = (DlifLinkLocalAddress(IPv6Address("fe80::a1")), DlifLinkLayerAddress(bytes.fromhex("0200000000a1")))
ROUTER_3 = (DlifLinkLocalAddress(IPv6Address("fe80::a3")), DlifLinkLayerAddress(bytes.fromhex("0200000000a3")))

MESSAGES: dict[str, Message] = {
    "pbu-registration": BindingUpdate(
        sequence=1,
        lifetime_s=60,
        flags=A_H_P_D,
        options=(
            MN,
            HomeNetworkPrefix(PREFIX_2),
            *UNKNOWN_HANDOFF_ON_WLAN,
            LinkLocalAddress(IPv6Address("fe80::1")),
            MobileNodeLinkLayerIdentifier(bytes.fromhex("021122334455")),
        ),
    ),
    "pba-two-anchors": BindingAcknowledgement(
        status=0,
        sequence=1,
        lifetime_s=60,
        flags=P_D,
        options=(
            MN,
            HomeNetworkPrefix(PREFIX_2),
            *UNKNOWN_HANDOFF_ON_WLAN,
            PreviousMaar(GATEWAY_1, PREFIX_1),
            *ROUTER_1,
            PreviousMaar(GATEWAY_3, PREFIX_3),
            *ROUTER_3,
        ),
    ),
    "pbu-to-previous-gateway": BindingUpdate(
        sequence=7,
        lifetime_s=60,
        flags=A_H_P_D,
        options=(MN, HomeNetworkPrefix(PREFIX_1), *UNKNOWN_HANDOFF_ON_WLAN, ServingMaar(GATEWAY_2)),
    ),
    "pba-from-previous-gateway": BindingAcknowledgement(
        status=0,
        sequence=7,
        lifetime_s=60,
        flags=P_D,
        options=(
            MN,
            HomeNetworkPrefix(PREFIX_1),
            *UNKNOWN_HANDOFF_ON_WLAN,
            ServingMaar(GATEWAY_2),
            AnchoredPrefix(PREFIX_1),
            LocalPrefix(IPv6Network("2001:db8:f::/48")),
            *ROUTER_1,
        ),
    ),
    "heartbeat-request": Heartbeat(sequence=5, flags=HeartbeatFlag(0)),
    "heartbeat-response": Heartbeat(sequence=5, flags=HeartbeatFlag.RESPONSE, options=(RestartCounter(3),)),
    "heartbeat-unsolicited": Heartbeat(
        sequence=0, flags=HeartbeatFlag.RESPONSE | HeartbeatFlag.UNSOLICITED, options=(RestartCounter(4),)
    ),
    "revocation-indication": BindingRevocationIndication(
        trigger=RevocationTrigger.ADMINISTRATIVE_REASON,
        sequence=0x0102,
        flags=RevocationFlag.PROXY,
        options=(MN, HomeNetworkPrefix(PREFIX_2)),
    ),
    "revocation-acknowledgement": BindingRevocationAcknowledgement(
        status=RevocationStatus.BINDING_DOES_NOT_EXIST,
        sequence=0x0102,
        flags=RevocationFlag.PROXY,
        options=(MN, HomeNetworkPrefix(PREFIX_2)),
    ),
    "update-notification": UpdateNotification(
        sequence=0x7FFF,
        reason=NotificationReason.FORCE_REREGISTRATION,
        flags=NotificationFlag.ACKNOWLEDGE | NotificationFlag.RETRANSMITTED,
        options=(MN,),
    ),
    "update-notification-acknowledgement": UpdateNotificationAcknowledgement(
        sequence=0x7FFF, status=NotificationStatus.SUCCESS, options=(MN,)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Vector:
    name: str
    source: IPv6Address
    destination: IPv6Address
    data: bytes
    message: Message


def _load(name: str) -> Vector:
    text = (Path(__file__).parent.parent / "vectors" / f"{name}.hex").read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    data = "".join(line for line in text.splitlines() if not line.startswith("#"))
    source, _, destination = comments[-1].split(",")[0].split()[1:]
    return Vector(name, IPv6Address(source), IPv6Address(destination), bytes.fromhex(data), MESSAGES[name])


VECTORS = [_load(name) for name in MESSAGES]
