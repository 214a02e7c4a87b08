"""Anchors as they travel in options: which DLIF and local networks belong to which anchor (decision 1).

RFC 8885 does not say how the options 69 (DLIF link-local address), 70 (DLIF link-layer address) and 66 (local
prefix) are matched to 67 (Previous MAAR). We send contiguous groups ``67 [67 of the same MAAR ...] 69 70 66*``.
On receipt 69, 70 and 66 belong to the nearest 67 before them, and before any 67 to the sender itself. A peer that
lists all 67 first and all 69 (70) after them, equally many, is understood by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import LogicalRouter
from anchord.protocol.journal import address_text, prefix_text
from anchord.wire.options import (
    DlifLinkLayerAddress,
    DlifLinkLocalAddress,
    LocalPrefix,
    Option,
    PreviousMaar,
)

# Decision 33: a message stays below the IPv6 minimum MTU of 1280 with its IPv6 header.
MESSAGE_BYTES = 1240
# RFC 4191 section 4: no more than 17 route information options in an advertisement.
LOCAL_NETWORKS = 17


@dataclass(frozen=True, slots=True)
class Anchor:
    """One anchoring gateway of a mobile node and what it anchors.

    A home LMA stands for the gateways of other operators: several anchors then have its address, and their own faces.
    """

    maar: IPv6Address
    prefixes: tuple[IPv6Network, ...]
    router: LogicalRouter | None = None  # None: the peer did not say; derive it
    local_networks: tuple[IPv6Network, ...] = ()

    def is_same_as(self, other: Anchor) -> bool:
        """Whether both are about one anchor, as far as they say which."""
        unsaid = self.router is None or other.router is None
        return self.maar == other.maar and (unsaid or self.router == other.router)

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "maar": address_text(self.maar),
            "prefixes": [prefix_text(p) for p in self.prefixes],
            "router": router_to_json(self.router),
            "local_networks": [prefix_text(p) for p in self.local_networks],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Anchor:
        """From the journal."""
        return cls(
            IPv6Address(value["maar"]),
            tuple(IPv6Network(p) for p in value["prefixes"]),
            router_from_json(value["router"]),
            tuple(IPv6Network(p) for p in value["local_networks"]),
        )


def router_to_json(router: LogicalRouter | None) -> dict[str, str] | None:
    """For the journal."""
    return None if router is None else {"mac": router.mac.hex(), "address": address_text(router.address)}


def router_from_json(value: dict[str, str] | None) -> LogicalRouter | None:
    """From the journal."""
    return None if value is None else LogicalRouter(bytes.fromhex(value["mac"]), IPv6Address(value["address"]))


def face_options(router: LogicalRouter | None, local_networks: Iterable[IPv6Network]) -> tuple[Option, ...]:
    """Options 69, 70 and 66 of one gateway."""
    face: tuple[Option, ...] = ()
    if router is not None:
        face = (DlifLinkLocalAddress(router.address), DlifLinkLayerAddress(router.mac))
    return face + tuple(LocalPrefix(network) for network in local_networks)


def write_group(anchor: Anchor) -> tuple[Option, ...]:
    """One contiguous group."""
    previous: tuple[Option, ...] = tuple(PreviousMaar(anchor.maar, prefix) for prefix in anchor.prefixes)
    return previous + face_options(anchor.router, anchor.local_networks)


def group_bytes(anchor: Anchor) -> int:
    """An upper bound of what a group takes on the wire, padding included."""
    face = 18 + 10 + 4 if anchor.router is not None else 0
    return len(anchor.prefixes) * (36 + 4) + face + len(anchor.local_networks) * (20 + 4)


def split_groups(anchors: Sequence[Anchor], fixed_bytes: int) -> list[tuple[Anchor, ...]]:
    """Distribute groups over as many messages as needed, each below MESSAGE_BYTES (decision 33); at least one."""
    parts: list[list[Anchor]] = [[]]
    room = MESSAGE_BYTES - fixed_bytes
    for anchor in anchors:
        size = group_bytes(anchor)
        if parts[-1] and size > room:
            parts.append([])
            room = MESSAGE_BYTES - fixed_bytes
        parts[-1].append(anchor)
        room -= size
    return [tuple(part) for part in parts]


@dataclass(slots=True)
class _Draft:
    maar: IPv6Address
    prefixes: list[IPv6Network]
    addresses: list[IPv6Address]
    macs: list[bytes]
    local_networks: list[IPv6Network]

    @property
    def has_face(self) -> bool:
        return bool(self.addresses or self.macs)

    def anchor(self) -> Anchor:
        router = None
        if self.addresses and self.macs and _can_be_shown(self.addresses[0], self.macs[0]):
            router = LogicalRouter(self.macs[0], self.addresses[0])
        networks = tuple(dict.fromkeys(self.local_networks))[:LOCAL_NETWORKS]
        return Anchor(self.maar, tuple(self.prefixes), router, networks)


def _can_be_shown(address: IPv6Address, mac: bytes) -> bool:
    """Whether a host would take a router with these addresses (RFC 4861 section 6.1.2), whoever told us of it."""
    return address.is_link_local and len(mac) == 6 and any(mac) and not mac[0] & 1


@dataclass(frozen=True, slots=True)
class ReadGroups:
    """What a message says of anchors. ``own`` is the sender's face (no prefixes); ``orphans`` options fit nowhere."""

    own: Anchor
    anchors: tuple[Anchor, ...]
    orphans: int


_OF_GROUPS = frozenset((PreviousMaar, DlifLinkLocalAddress, DlifLinkLayerAddress, LocalPrefix))


def read_groups(sender: IPv6Address, options: Iterable[Option]) -> ReadGroups:
    """Collect the groups of a message that came from ``sender``; never raises."""
    own = _Draft(sender, [], [], [], [])
    drafts: list[_Draft] = []
    current = own
    for option in options:
        if type(option) not in _OF_GROUPS:
            continue
        if isinstance(option, PreviousMaar):
            if current is own or current.maar != option.maar or current.has_face:
                faceless = (d for d in drafts if d.maar == option.maar and not d.has_face)
                current = next(faceless, _Draft(option.maar, [], [], [], []))
                if not any(current is draft for draft in drafts):
                    drafts.append(current)
            if option.prefix not in current.prefixes:
                current.prefixes.append(option.prefix)
        elif isinstance(option, DlifLinkLocalAddress):
            current.addresses.append(option.address)
        elif isinstance(option, DlifLinkLayerAddress):
            current.macs.append(option.address)
        elif isinstance(option, LocalPrefix):
            current.local_networks.append(option.prefix)
    _pair_by_position(drafts)
    drafts = _merged(drafts)
    everyone = [own, *drafts]
    orphans = sum(max(0, len(d.addresses) - 1) + max(0, len(d.macs) - 1) for d in everyone)
    return ReadGroups(own.anchor(), tuple(d.anchor() for d in drafts), orphans)


def _pair_by_position(drafts: list[_Draft]) -> None:
    """All 67 first and as many 69 (and 70) after them: the n-th 69 belongs to the n-th 67 (decision 1)."""
    if len(drafts) < 2 or any(d.addresses or d.macs for d in drafts[:-1]):
        return
    last = drafts[-1]
    if len(last.addresses) == len(last.macs) == len(drafts):
        for draft, address, mac in zip(drafts, list(last.addresses), list(last.macs), strict=True):
            draft.addresses, draft.macs = [address], [mac]


def _merged(drafts: list[_Draft]) -> list[_Draft]:
    """Groups of one gateway with the same face, or with none, are one anchor."""
    kept: list[_Draft] = []
    for draft in drafts:
        faces = (draft.addresses, draft.macs)
        same = (d for d in kept if d.maar == draft.maar and (not draft.has_face or faces == (d.addresses, d.macs)))
        first = next(same, None)
        if first is None:
            kept.append(draft)
        else:
            first.prefixes += [prefix for prefix in draft.prefixes if prefix not in first.prefixes]
            first.local_networks += draft.local_networks
    return kept


def merge_anchors(known: tuple[Anchor, ...], more: tuple[Anchor, ...]) -> tuple[Anchor, ...]:
    """Both lists as one; PBAs with the same sequence number are additive (decision 12)."""
    merged = list(known)
    for new in more:
        at = next((at for at, old in enumerate(merged) if old.is_same_as(new)), None)
        if at is None:
            merged.append(new)
            continue
        prefixes = tuple(dict.fromkeys((*merged[at].prefixes, *new.prefixes)))
        merged[at] = replace(new, prefixes=prefixes, router=new.router or merged[at].router)
    return tuple(merged)


def at_most(anchors: Iterable[Anchor], prefixes: int) -> tuple[Anchor, ...]:
    """The first of ``anchors``, with no more than so many prefixes between them."""
    kept: list[Anchor] = []
    for anchor in anchors:
        if prefixes <= 0:
            break
        surplus = len(anchor.prefixes) > prefixes
        kept.append(replace(anchor, prefixes=anchor.prefixes[:prefixes]) if surplus else anchor)
        prefixes -= len(anchor.prefixes)
    return tuple(kept)
