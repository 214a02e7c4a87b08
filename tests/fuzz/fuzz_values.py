"""Messages that are well formed and not true: other nodes, other prefixes, old times, wrong numbers; and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

from anchord.protocol.exchange import ticks_of
from anchord.protocol.identity import mn_id_of_mac
from anchord.wire import messages, options
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
    RevocationFlag,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import Option

LIFETIMES_S = (0, 0, 4, 40, 60, 600, 600, 262_140)
MORE_S = (0.0, 0.0, 0.001, 0.25, 0.31, 1.0, 600.0, 1e6)
REPLIES = {BindingUpdate, Heartbeat, BindingRevocationIndication, UpdateNotification}


@dataclass(frozen=True)
class Palette:
    """What messages are made of in one domain."""

    addresses: tuple[IPv6Address, ...]
    prefixes: tuple[IPv6Network, ...]
    macs: tuple[bytes, ...]
    names: tuple[options.MobileNodeIdentifier, ...]

    def other_prefix(self, rng: Random, prefix: IPv6Network) -> IPv6Network:
        """One of the domain, a neighbour of this one, a shorter or longer one, or none at all."""
        match rng.randrange(6):
            case 0:
                return IPv6Network((int(prefix.network_address) ^ 1 << 64, prefix.prefixlen), strict=False)
            case 1:
                return IPv6Network(
                    (int(prefix.network_address), rng.choice((0, 1, 48, 63, 65, 127, 128))), strict=False
                )
            case 2:
                return options.ALL_ZERO_PREFIX
        return rng.choice(self.prefixes)


def other_option(  # noqa: PLR0911 - one return for each kind of option
    rng: Random, option: Option, palette: Palette, wall_s: float
) -> Option:
    """The same kind of option with another value."""
    match option:
        case options.HomeNetworkPrefix(prefix) | options.AnchoredPrefix(prefix) | options.LocalPrefix(prefix):
            return type(option)(palette.other_prefix(rng, prefix))
        case options.PreviousMaar(maar, prefix):
            if rng.random() < 0.5:
                return options.PreviousMaar(rng.choice(palette.addresses), prefix)
            return options.PreviousMaar(maar, palette.other_prefix(rng, prefix))
        case options.Timestamp(ticks):
            off_s = rng.choice(MORE_S) * rng.choice((-1, 1))
            near = (ticks, ticks - 1, ticks + 1, ticks_of(wall_s), ticks_of(max(wall_s + off_s, 0.0)), 0, 1, 2**64 - 1)
            return options.Timestamp(rng.choice(near))
        case options.MobileNodeIdentifier():
            return rng.choice(palette.names)
        case options.MobileNodeLinkLayerIdentifier() | options.DlifLinkLayerAddress():
            return type(option)(rng.choice(palette.macs))
        case options.HandoffIndicator() | options.AccessTechnologyType():
            return type(option)(rng.choice((0, 1, 2, 3, 4, 5, 6, 255)))
        case options.RestartCounter(value):
            return options.RestartCounter(rng.choice((value, (value + 1) % 2**32, 0, 2**32 - 1)))
        case options.BindingRefreshAdvice():
            return options.BindingRefreshAdvice(rng.choice(LIFETIMES_S))
        case options.UnknownOption(kind, data):
            return options.UnknownOption(kind, rng.randbytes(len(data)))
        case options.MalformedOption():
            return option
    return type(option)(rng.choice(palette.addresses))  # those that are one address


def made_up_option(rng: Random, palette: Palette, wall_s: float) -> Option:
    """Any known option, with a value that may be true."""
    kinds: tuple[Option, ...] = (
        options.BindingRefreshAdvice(rng.choice(LIFETIMES_S)),
        options.AlternateCareOfAddress(rng.choice(palette.addresses)),
        rng.choice(palette.names),
        options.HomeNetworkPrefix(rng.choice(palette.prefixes)),
        options.HandoffIndicator(rng.randrange(7)),
        options.AccessTechnologyType(rng.randrange(6)),
        options.MobileNodeLinkLayerIdentifier(rng.choice(palette.macs)),
        options.LinkLocalAddress(rng.choice(palette.addresses)),
        options.Timestamp(ticks_of(wall_s)),
        options.RestartCounter(rng.randrange(4)),
        options.AnchoredPrefix(rng.choice(palette.prefixes)),
        options.LocalPrefix(rng.choice(palette.prefixes)),
        options.PreviousMaar(rng.choice(palette.addresses), rng.choice(palette.prefixes)),
        options.ServingMaar(rng.choice(palette.addresses)),
        options.DlifLinkLocalAddress(rng.choice(palette.addresses)),
        options.DlifLinkLayerAddress(rng.choice(palette.macs)),
        options.UnknownOption(rng.choice((4, 18, 71, 255)), rng.randbytes(rng.randrange(20))),
    )
    return rng.choice(kinds)


def vary(rng: Random, message: Message, palette: Palette, wall_s: float, sequences: Sequence[int]) -> Message:
    """One to three things of ``message`` are something else. ``sequences``: numbers that somebody may wait for."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        message = _vary_once(rng, message, palette, wall_s, sequences)
    return message


def _vary_once(rng: Random, message: Any, palette: Palette, wall_s: float, sequences: Sequence[int]) -> Any:
    if isinstance(message, messages.UnknownMessage):
        return replace(message, mh_type=rng.choice((0, 8, 21, 255)))
    choice = rng.random()
    found = list(message.options)
    if choice < 0.08:
        return replace(message, options=tuple(_another_node(found, rng.choice(palette.macs), rng, palette)))
    if choice < 0.35 and found:
        at = rng.randrange(len(found))
        found[at] = other_option(rng, found[at], palette, wall_s)
    elif choice < 0.45 and found:
        del found[rng.randrange(len(found))]
    elif choice < 0.60:
        found.insert(rng.randrange(len(found) + 1), made_up_option(rng, palette, wall_s))
    elif choice < 0.62:
        found += [made_up_option(rng, palette, wall_s) for _ in range(rng.randrange(40))]
    else:
        return _other_field(rng, message, palette, sequences)
    return replace(message, options=tuple(found))


def _another_node(found: list[Option], mac: bytes, rng: Random, palette: Palette) -> list[Option]:
    """The same about another node: identifier and MAC address agree, and most often the prefix is one of the domain."""
    other: list[Option] = []
    for option in found:
        match option:
            case options.MobileNodeIdentifier() if len(mac) == 6:
                other.append(mn_id_of_mac(mac))
            case options.MobileNodeLinkLayerIdentifier():
                other.append(options.MobileNodeLinkLayerIdentifier(mac))
            case options.HomeNetworkPrefix() if rng.random() < 0.7:
                other.append(options.HomeNetworkPrefix(rng.choice(palette.prefixes)))
            case _:
                other.append(option)
    return other


def _other_field(rng: Random, message: Any, palette: Palette, sequences: Sequence[int]) -> Any:
    sequence = getattr(message, "sequence", 0)
    near = ((sequence + 1) % 65536, (sequence - 1) % 65536, (sequence + 32768) % 65536, 0, 65535, *sequences)
    changes: list[dict[str, Any]] = []
    if hasattr(message, "sequence"):
        changes.append({"sequence": rng.choice(near)})
    if hasattr(message, "lifetime_s"):
        changes.append({"lifetime_s": rng.choice(LIFETIMES_S)})
    if hasattr(message, "status"):
        changes.append({"status": rng.choice((0, 1, 2, 128, 129, 130, 135, 152, 153, 154, 155, 156, 157, 159, 255))})
    if hasattr(message, "trigger"):
        changes.append({"trigger": rng.choice((0, 1, 2, 6, 7, 128, 129, 255))})
    if hasattr(message, "reason"):
        changes.append({"reason": rng.choice((0, 1, 2, 3, 65535))})
    match message:
        case BindingUpdate(flags=flags):
            changes.append({"flags": flags ^ rng.choice(list(BindingUpdateFlag))})
        case BindingAcknowledgement(flags=flags):
            changes.append({"flags": flags ^ rng.choice(list(BindingAckFlag))})
        case Heartbeat():
            changes.append({"flags": HeartbeatFlag(rng.randrange(4))})
        case BindingRevocationIndication() | BindingRevocationAcknowledgement():
            changes.append({"flags": RevocationFlag(rng.randrange(8) << 13)})
        case BindingError():
            changes.append({"home_address": rng.choice(palette.addresses)})
    return replace(message, **rng.choice(changes))


def reply(rng: Random, asked: Message, palette: Palette) -> Message:
    """What may be answered to ``asked``: most often what the sender hopes for."""
    if rng.random() < 0.05:
        return BindingError(rng.choice((1, 2, 2)))
    match asked:
        case BindingUpdate(sequence, lifetime_s, flags, said):
            distributed = BindingAckFlag.DISTRIBUTED if flags & BindingUpdateFlag.DISTRIBUTED else BindingAckFlag(0)
            groups: list[Option] = []
            for _ in range(rng.randrange(3)):
                groups += (
                    options.PreviousMaar(rng.choice(palette.addresses), rng.choice(palette.prefixes)),
                    options.DlifLinkLocalAddress(rng.choice(palette.addresses)),
                    options.DlifLinkLayerAddress(rng.choice(palette.macs)),
                )
            status = 0 if rng.random() < 0.6 else rng.choice((1, 128, 129, 130, 135, 152, 153, 154, 155, 156, 157, 159))
            kept = tuple(o for o in said if not isinstance(o, options.AnchoredPrefix))
            return BindingAcknowledgement(
                status, sequence, lifetime_s, BindingAckFlag.PROXY | distributed, (*kept, *groups)
            )
        case Heartbeat(sequence):
            return Heartbeat(sequence, HeartbeatFlag.RESPONSE, (options.RestartCounter(rng.choice((7, 7, 8))),))
        case BindingRevocationIndication(_, sequence, revoking, said):
            return BindingRevocationAcknowledgement(rng.choice((0, 0, 1, 128, 132)), sequence, revoking, said)
        case UpdateNotification(sequence, _, _, said):
            return UpdateNotificationAcknowledgement(sequence, rng.choice((0, 0, 128)), said)
    return asked
