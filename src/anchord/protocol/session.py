"""One mobile node as one gateway knows it, and the forwarding that follows from it.

::

            frame                    PBA 0                     PBU* (it is elsewhere now)
    (none) ------> REGISTERING --------------> SERVING -------------------------------> AWAY
                     ^   |  refused: gone          |  lifetime over: gone                 |
                     |   +--> (none)               +--> (none)                            |
                     +--------------------------------------------------------------------+
                                           frame (it came back)

RFC 8885 calls a gateway S-MAAR for a node that is SERVING and P-MAAR for one that is AWAY.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import HostState, LogicalRouter, PrefixEntry, Role
from anchord.protocol.groups import Anchor, router_from_json, router_to_json
from anchord.protocol.journal import address_text, prefix_text
from anchord.wire.messages import BindingRevocationIndication
from anchord.wire.options import MobileNodeIdentifier


class Phase(Enum):
    """Where a mobile node stands with this gateway."""

    REGISTERING = "registering"
    SERVING = "serving"
    AWAY = "away"


@dataclass(slots=True)
class Session:
    """State of one mobile node at one gateway. Wall-clock times in seconds since 1970, UTC."""

    key: str
    mn_id: MobileNodeIdentifier
    mac: bytes
    prefix: IPv6Network  # of our own pool, leased to this node; all-zero: none, an LMA gives it all it has
    router: LogicalRouter  # our face towards this node
    phase: Phase = Phase.REGISTERING
    interface: str | None = None  # access interface, when attached
    anchors: tuple[Anchor, ...] = ()  # the node's other anchors, when SERVING
    withdrawn: tuple[Anchor, ...] = ()  # anchors whose routers the host has still to be told to forget
    serving: IPv6Address | None = None  # who serves it, when AWAY
    others: tuple[IPv6Network, ...] = ()  # what else the node holds, as we were told when AWAY
    released: dict[IPv6Network, float] = field(default_factory=dict)  # given up: wall time at which the host forgets it
    shown: bool = False  # our own prefix has been advertised to the node
    withheld: bool = False  # our own prefix is not shown to the node: it holds too many already
    before: IPv6Address | None = None  # who served it before ``serving``, when AWAY
    older: int = 0  # how many of ``others`` the node got before ours
    ages: tuple[IPv6Network, ...] = ()  # what the node holds, oldest first, as far as we were told
    fading: tuple[IPv6Address, float] | None = None  # the anchor whose addresses run out, since when (monotonic s)
    ticks: int = 0  # newest timestamp accepted, from us or about us
    registered: bool = False  # the CMD has acknowledged what we serve
    expires_wall_s: float = 0.0
    answered_s: float = -1e9  # monotonic; when the CMD last acknowledged
    answered_sequence: int = -1  # of the PBU whose PBAs are still additive (decision 12)
    address: IPv6Address | None = None  # the last that the node has used, but for link-local ones
    link_local: IPv6Address | None = None  # the last of these that it has used
    own_address: IPv6Address | None = None  # the last of our own prefix that it has used
    asked: dict[IPv6Address, tuple[IPv6Network, ...]] = field(default_factory=dict)  # directly, since it came
    hearsay: dict[IPv6Network, bool] = field(default_factory=dict)  # what it holds of others, as gateways have said
    settled: dict[IPv6Address, tuple[IPv6Network, ...]] = field(default_factory=dict)  # what each has said of its own
    told_of_ours: tuple[IPv6Address, ...] = ()  # anchors that think, since it came, that it has our prefix
    unsettled: dict[IPv6Address, tuple[IPv6Network, ...]] = field(default_factory=dict)  # refused, to be asked again
    confirmed_s: dict[IPv6Address, float] = field(default_factory=dict)  # monotonic; last PBA of who was asked directly
    told_sequence: int | None = None  # of the CMD's last update about it, when no timestamps are in use
    # The rest is not journalled: it is about this moment.
    faces: tuple[bytes, ...] = ()  # MAC addresses of the routers that it was shown last besides ours
    heard_s: float = 0.0  # monotonic; last frame of the node
    attached_s: float = -1e9  # monotonic; when it was first heard on its interface
    outrun: bool = False  # the CMD has said, since it came, that another gateway heard it later
    verified_s: float = -1e9  # monotonic; when it was last found to be there, for a refresh
    probes: int = 0  # unanswered ones
    held: tuple[IPv6Address, ...] = ()  # who is told again that it is here as soon as it answers a probe
    said_gone: dict[IPv6Address, BindingRevocationIndication] = field(default_factory=dict)  # by peer; not answered yet
    said_gone_s: float = -1e9  # monotonic; when the first of these came
    ignored: bool = False  # its data is kept from us
    glances: int = 0  # so many more of its frames are looked at
    sends_to: bytes | None = None  # the MAC address that it has sent to last, as far as its frames were looked at
    looked_up_s: float = -1e9  # monotonic; when one that is none of our routers' was looked up last
    advertised_s: float = -1.0  # monotonic; last advertisement
    left_s: float = -1.0  # monotonic; when it was reported elsewhere
    timeline: dict[str, float] = field(default_factory=dict)  # monotonic seconds by phase of this handover

    @property
    def is_fixed(self) -> bool:
        """Whether all its prefixes are anchored at one LMA, whose MAG we are (RFC 5213)."""
        return not self.prefix.prefixlen

    def has_anchor(self, maar: IPv6Address) -> bool:
        """Whether that gateway or LMA anchors something of the node, when it is served here."""
        return any(anchor.maar == maar for anchor in self.anchors)

    def prefixes(self) -> tuple[IPv6Network, ...]:
        """Every prefix that it has here, its own first."""
        own = () if self.is_fixed else (self.prefix,)
        return (*own, *(prefix for anchor in self.anchors for prefix in anchor.prefixes))

    def note(self, address: IPv6Address) -> bool:
        """The node has used ``address``; False: as last time."""
        if address.is_link_local:
            known, self.link_local = self.link_local, address
            return known != address
        if address in self.prefix:
            self.own_address = address
        known = self.address
        if known is None or self._holds(address) or not self._holds(known):
            self.address = address  # one that the node cannot have forgotten is worth more than a later one that it may
        return known != address

    def askable(self) -> tuple[IPv6Address, ...]:
        """Addresses at which the node answers whether it is here: those it has shown and cannot have forgotten yet."""
        found = [address for address in (self.link_local, self.own_address) if address is not None]
        if self.address is not None and self._holds(self.address):
            found.append(self.address)
        return tuple(found)

    def _holds(self, address: IPv6Address) -> bool:
        """Whether ``address`` is of a prefix that is anchored elsewhere, or was given up and is not forgotten yet."""
        anchored = [*self.asked.values(), *(anchor.prefixes for anchor in self.anchors)]
        held = (*self.released, *(prefix for prefixes in anchored for prefix in prefixes))
        return any(address in prefix for prefix in held)

    def forwarding(self, local_networks: tuple[IPv6Network, ...] = ()) -> HostState:
        """What should be true of this node in the kernel now; ``local_networks`` are those behind this gateway."""
        here = self.interface is not None
        if here and self.phase is Phase.SERVING:
            entries = self._here(local_networks)
        else:
            entries = []
            if self.serving is not None:
                exported = PrefixEntry(self.prefix, Role.EXPORTED, None, self.serving)
                if local_networks:
                    exported = replace(exported, local_networks=local_networks, others=self.others)
                entries.append(exported)
            if here and self.phase is Phase.REGISTERING and not self.is_fixed:
                entries.append(PrefixEntry(self.prefix, Role.PREPARED, self.router))
        return HostState(self.key, self.mac if here else None, self.interface, tuple(entries))

    def _here(self, local_networks: tuple[IPv6Network, ...]) -> list[PrefixEntry]:
        """Imported prefixes first: the flows that are waiting for this run through them."""
        entries = [
            PrefixEntry(prefix, Role.IMPORTED, anchor.router, anchor.maar, local_networks=anchor.local_networks)
            for anchor in self.anchors
            for prefix in anchor.prefixes
        ]
        if not self.is_fixed:
            entries.append(PrefixEntry(self.prefix, Role.ANCHORED, self.router, local_networks=local_networks))
        return entries + [PrefixEntry(prefix, Role.RELEASED) for prefix in self.released]

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "subtype": int(self.mn_id.subtype),
            "identifier": self.mn_id.identifier.hex(),
            "mac": self.mac.hex(),
            "prefix": prefix_text(self.prefix),
            "router": router_to_json(self.router),
            "phase": self.phase.value,
            "interface": self.interface,
            "anchors": [anchor.to_json() for anchor in self.anchors],
            "others": [prefix_text(prefix) for prefix in self.others],
            "older": self.older,
            "released": {prefix_text(prefix): until for prefix, until in self.released.items()},
            "shown": self.shown or not self.withheld,  # it may be, a moment after this
            "withheld": self.withheld,
            "serving": None if self.serving is None else address_text(self.serving),
            "ticks": self.ticks,
            "registered": self.registered,
            "expires_wall_s": self.expires_wall_s,
            "address": None if self.address is None else address_text(self.address),
            "link_local": None if self.link_local is None else address_text(self.link_local),
            "own_address": None if self.own_address is None else address_text(self.own_address),
        }

    @classmethod
    def from_json(cls, key: str, value: dict[str, Any]) -> Session:
        """From the journal; raises KeyError or ValueError when it is not a session."""
        router = router_from_json(value["router"])
        if router is None:
            raise ValueError("a session without a logical router")
        anchors = tuple(Anchor.from_json(anchor) for anchor in value["anchors"])
        return cls(
            key=key,
            mn_id=MobileNodeIdentifier(value["subtype"], bytes.fromhex(value["identifier"])),
            mac=bytes.fromhex(value["mac"]),
            prefix=IPv6Network(value["prefix"]),
            router=router,
            phase=Phase(value["phase"]),
            interface=value["interface"],
            anchors=anchors,
            ages=tuple(prefix for anchor in anchors for prefix in anchor.prefixes),
            serving=None if value["serving"] is None else IPv6Address(value["serving"]),
            others=tuple(IPv6Network(prefix) for prefix in value.get("others", ())),
            older=value.get("older", 0),
            released={IPv6Network(prefix): until for prefix, until in value.get("released", {}).items()},
            shown=value.get("shown", True),
            withheld=value.get("withheld", False),
            ticks=value["ticks"],
            registered=value["registered"],
            expires_wall_s=value["expires_wall_s"],
            address=None if value["address"] is None else IPv6Address(value["address"]),
            link_local=None if value.get("link_local") is None else IPv6Address(value["link_local"]),
            own_address=None if value.get("own_address") is None else IPv6Address(value["own_address"]),
        )
