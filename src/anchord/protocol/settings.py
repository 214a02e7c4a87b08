"""What a node has been told: the domain, which is the same on every node, and the node's own part.

Plain values; the daemons fill them from TOML, tests and simulations write them down directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, IPv6Network

NONE = IPv6Address(0)


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """One gateway as everybody in the domain knows it."""

    name: str
    address: IPv6Address  # source of its PBUs, Proxy-CoA, tunnel endpoint
    pools: tuple[IPv6Network, ...]  # exclusive to this gateway: a prefix names its anchor
    local_networks: tuple[IPv6Network, ...] = ()
    operator: str = ""  # whose it is; a home LMA stands between those of different operators

    def owns(self, prefix: IPv6Network) -> bool:
        """Whether ``prefix`` is a /64 out of this gateway's pools."""
        # No pool is longer than /64, so the first address decides; subnet_of() takes ten times as long.
        if prefix.prefixlen == 64:
            address = prefix.network_address
            for pool in self.pools:
                if address in pool:
                    return True
        return False


@dataclass(frozen=True, slots=True)
class LmaInfo:
    """A Local Mobility Anchor as everybody in the domain knows it."""

    name: str
    address: IPv6Address  # LMAA: where its MAGs register, tunnel endpoint
    pools: tuple[IPv6Network, ...] = ()  # what it assigns to nodes of plain Proxy Mobile IPv6
    stands_for: tuple[IPv6Network, ...] = ()  # pools of other operators: their prefixes are reached through it

    def owns(self, prefix: IPv6Network) -> bool:
        """Whether ``prefix`` is a /64 out of its own pools."""
        return prefix.prefixlen == 64 and any(prefix.network_address in pool for pool in self.pools)

    def reaches(self, prefix: IPv6Network) -> bool:
        """Whether ``prefix`` is a /64 of another operator's that it stands for."""
        return prefix.prefixlen == 64 and any(prefix.network_address in pool for pool in self.stands_for)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds. Short enough that a host forgets a released prefix soon (RFC 4862 section 5.5.3 e keeps 2 h)."""

    valid_s: int = 600
    preferred_s: int = 300
    router_s: int = 600
    advertise_every_s: int = 100
    binding_s: int = 600


@dataclass(frozen=True, slots=True)
class Timing:
    """Protocol timers, in seconds.

    ``initial_bindack_s`` and ``max_bindack_s`` are INITIAL_BINDACK_TIMEOUT and MAX_BINDACK_TIMEOUT of RFC 6275
    section 12; ``timestamp_window_s``, ``min_delay_before_bce_delete_s`` and ``max_delay_before_new_bce_assign_s`` are
    variables of RFC 5213 section 9.
    ``heartbeat_s`` is HEARTBEAT_INTERVAL of RFC 5847 section 5, ``revocation_s`` and ``max_revocation_s`` are
    InitMINDelayBRIs and MAX_BRACK_TIMEOUT of RFC 5846 section 11.
    """

    initial_bindack_s: float = 1.0
    max_bindack_s: float = 32.0
    gather_s: float = 0.1  # how long a relaying or locating CMD waits for anchors before it answers
    fallback_s: float = 0.25
    timestamp_window_s: float = 0.3
    min_delay_before_bce_delete_s: float = 10.0
    max_delay_before_new_bce_assign_s: float = 1.5
    refresh_share: float = 0.5  # of the granted lifetime
    probe_after_s: float = 30.0
    probe_interval_s: float = 1.0
    dead_man_lifetimes: float = 3.0
    refuse_s: float = 30.0
    advertise_guard_s: float = 0.1
    notification_replay_s: float = 1.0  # MIN_DELAY_BETWEEN_UPDATE_NOTIFICATION_REPLAY of RFC 7077 section 7
    idle_release_s: float = 300.0  # an anchored prefix that is not used for so long is given up
    heartbeat_s: float = 60.0
    revocation_s: float = 1.0
    max_revocation_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """A limit on everything that a peer or a host can make grow.

    ``max_update_rate`` is MAX_UPDATE_RATE of RFC 6275 section 12, ``missing_heartbeats`` MISSING_HEARTBEATS_ALLOWED of
    RFC 5847 section 5, ``revocation_retries`` BRIMaxRetriesNumber of RFC 5846 section 11.
    """

    hosts: int = 1000
    bindings: int = 1_000_000
    anchors_per_host: int = 7
    attaches_per_s: float = 50.0
    attach_burst: int = 200
    max_update_rate: int = 3
    updates_per_s: float = 2000.0  # PBUs to all peers together (RFC 8885 section 3.2: pacing)
    end_tries: int = 8
    missing_heartbeats: int = 3
    revocation_retries: int = 1
    notification_retransmits: int = 1  # MAX_UPDATE_NOTIFICATION_RETRANSMIT_COUNT of RFC 7077 section 7
    silent_tries: int = 3  # PBU*s that an anchor may leave unanswered before nobody counts on it any more


class Mode(Enum):
    """How the CMD has anchors told of a handover (RFC 8885 sections 3.2, 3.3 and 3.4)."""

    RELAY = "relay"
    LOCATOR = "locator"
    PROXY = "proxy"


class Finding(Enum):
    """Who tells a serving gateway a node's anchors (``finder.py``)."""

    CENTRAL = "central"  # the CMD, in one of its modes
    DIRECTORY = "directory"
    ANCHOR_KNOWN = "anchor-known"


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """The domain, equal on every node."""

    secret: bytes
    central: IPv6Address | None  # the CMD; None unless it is the finder
    gateways: Mapping[IPv6Address, GatewayInfo]  # by address
    mode: Mode = Mode.PROXY
    finding: Finding = Finding.CENTRAL
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    digest: bytes = b""  # of the domain file, to find out that nodes disagree; empty: not compared
    mobility: bool = True  # False: plain routers, each advertising its own prefixes only
    serve_unregistered: bool = True
    strict_8885: bool = False  # True: options 69, 70, 66 in PBAs only (decision 2)
    timestamps: bool = True  # TimestampBasedApproachInUse, RFC 5213 section 9.3
    lmas: Mapping[IPv6Address, LmaInfo] = field(default_factory=dict)  # by address
    fixed_anchors: Mapping[bytes, IPv6Address] = field(default_factory=dict)  # LMAs by MAC address; b"": of all others
    fixed_link_local: IPv6Address = NONE  # FixedMAGLinkLocalAddressOnAllAccessLinks; all-zero: none
    fixed_mac: bytes = bytes(6)  # FixedMAGLinkLayerAddressOnAllAccessLinks; all-zero: none
    resolvers: tuple[IPv6Address, ...] = ()  # announced to hosts (RFC 8106)

    def anchor_of(self, prefix: IPv6Network) -> GatewayInfo | None:
        """The only gateway that can have given out ``prefix``: pools are exclusive."""
        for gateway in self.gateways.values():
            if gateway.owns(prefix):
                return gateway
        return None

    def fixed_anchor_of(self, mac: bytes) -> LmaInfo | None:
        """The LMA that anchors everything of this node, by policy; None: RFC 8885 anchors it."""
        address = self.fixed_anchors.get(mac) or self.fixed_anchors.get(b"")
        return self.lmas[address] if address is not None and self.mobility else None

    def may_anchor(self, address: IPv6Address, prefix: IPv6Network) -> bool:
        """Whether ``prefix`` can be reached through ``address``: out of its pool, or one that an LMA stands for."""
        gateway, lma = self.gateways.get(address), self.lmas.get(address)
        return (gateway is not None and gateway.owns(prefix)) or (lma is not None and lma.reaches(prefix))


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway: its entry in the domain and what only it knows."""

    me: GatewayInfo
    domain: DomainSettings
    mtu: int = 1460  # advertised until ``MtuChanged``: what fits through a tunnel over links of 1500 bytes
    access_technology: int = 3  # RFC 5213 section 8.5: IEEE 802.3
    ignore: frozenset[bytes] = frozenset()  # MAC addresses never taken for a host
    listed: frozenset[bytes] | None = None  # None: any host may attach
    neighbours: tuple[IPv6Address, ...] = ()  # gateways that are asked for a node of which nothing is known


@dataclass(frozen=True, slots=True)
class LmaSettings:
    """One Local Mobility Anchor.

    ``domain.gateways`` are all that it knows, of whatever operator. Those without an operator, and those of its
    ``operators``, may register nodes here.
    """

    me: LmaInfo
    domain: DomainSettings
    mags: frozenset[IPv6Address] = frozenset()  # other nodes that may register plain nodes: MAGs of RFC 5213
    operators: tuple[str, ...] = ()  # who has agreed that it stands between them
    listed: frozenset[bytes] | None = None  # MN identifiers that may register; None: any
    denied: frozenset[bytes] = frozenset()  # MN identifiers that are known here, and not entitled to mobility


@dataclass(frozen=True, slots=True)
class CentralSettings:
    """The Central Mobility Database."""

    domain: DomainSettings
    listed: frozenset[bytes] | None = None  # MN identifiers that may register; None: any
    denied: frozenset[bytes] = frozenset()  # MN identifiers that are known here, and not entitled to mobility
    idle_release: bool = True  # an anchor may give up a prefix that nobody uses (decision 18 b)
