"""What a lab's domain consists of: values only, with the addresses and interface names that follow from them.

Addresses that a topology leaves out are numbered in the order of the tables, all from the documentation range
2001:db8::/32 (RFC 3849): the i-th gateway has the pool 2001:db8:aI::/48 and the address 2001:db8:fI::1, the i-th
correspondent 2001:db8:cI::1, the i-th LMA the pool 2001:db8:bI::/48 and the address 2001:db8:eI::1, the central
database 2001:db8:fc::1, the directory 2001:db8:fd::1. Every link of the core router is the /64 of the node's address,
and the router is ::ffff on it.

Interface names are the same in every lab, so that a capture reads the same everywhere: ``core0`` towards the core,
``acc0``, ``acc1`` ... towards the access links of a gateway, ``eth0`` in a host or correspondent; in the access
switch ``p-NODE`` ports and ``br-GATEWAY`` bridges; in the core router ``core-NODE``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, Literal

from anchord.lab.errors import TopologyError, unknown

CORE = "core"  # the core router's node name
SWITCH = "sw"  # the access switch's node name

CORE_INTERFACE = "core0"  # in everything that runs a daemon
HOST_INTERFACE = "eth0"  # in hosts and correspondents

# An interface name has at most 15 characters (IFNAMSIZ), and "br-" + node + "-" + link has to fit. No hyphen in a node
# name: the last hyphen of a namespace's name then separates lab and node whatever the lab is called.
NODE_NAME = re.compile(r"[a-z][a-z0-9]{0,7}")
LINK_NAME = re.compile(r"[a-z0-9]{1,3}")


MAX_DELAY_MS = 1000.0
MAX_DELAYED_MTU = 65_521  # of a tap device: 65,535 with the Ethernet header

Finder = Literal["central", "directory", "anchor-known"]
"""How a gateway finds the anchors of a host: it asks the central database, or a directory, or it knows."""

Mode = Literal["proxy", "relay", "locator", "directory", "anchor-known"]
"""The same with the three ways in which a central database answers (RFC 8885 sections 3.4, 3.2 and 3.3)."""

Place = tuple[int | str, ...]  # where in a topology file
Problem = tuple[Place, str]  # where, and what is wrong, expected what


class Kind(Enum):
    """What a node is, and so which process it runs."""

    GATEWAY = "gateway"
    CENTRAL = "central"
    DIRECTORY = "directory"
    LMA = "lma"
    CORE = "core"
    CORRESPONDENT = "correspondent"
    HOST = "host"
    SWITCH = "switch"

    @property
    def is_daemon(self) -> bool:
        """Whether a node of this kind runs an anchord daemon unless the topology gives it another program; the others
        have nothing of ours inside."""
        return self in VERBS


VERBS = {Kind.GATEWAY: "gateway", Kind.CENTRAL: "central", Kind.DIRECTORY: "directory", Kind.LMA: "lma"}
"""Which daemon a node of a kind runs: ``anchord VERB --config FILE``."""


@dataclass(frozen=True, slots=True)
class AccessLink:
    """One access link: a layer-2 segment of its own, a bridge in the access switch with one gateway on it."""

    gateway: str
    name: str  # "" for the only link of a gateway
    interface: str  # in the gateway

    @property
    def label(self) -> str:
        """How the link is written: ``gw1``, or ``gw1-a`` where the gateway has several."""
        return f"{self.gateway}-{self.name}" if self.name else self.gateway

    @property
    def bridge(self) -> str:
        """The bridge in the access switch."""
        return f"br-{self.label}"

    @property
    def port(self) -> str:
        """The access switch's port towards the gateway."""
        return f"p-{self.label}"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway: its tunnel endpoint ``address``, the ``pools`` it anchors, its access links.

    ``access`` holds the names of several links; empty for the usual single one. ``operator``: whose it is, if an LMA
    stands between several; each has a domain file of its own. ``node`` is merged into the gateway's own configuration
    file. ``delay_ms`` is that of its core link, one way, as of every node on the core. ``program`` is
    a command that runs there instead of ``anchord gateway``; the lab knows nothing of what it does, so it does not wait
    for it either.
    """

    name: str
    address: IPv6Address
    pools: tuple[IPv6Network, ...]
    access: tuple[str, ...] = ()
    local_networks: tuple[IPv6Network, ...] = ()
    node: Mapping[str, Any] = field(default_factory=dict)
    delay_ms: float = 0.0
    program: tuple[str, ...] = ()
    operator: str | None = None

    @property
    def links(self) -> tuple[AccessLink, ...]:
        """The access links, the first of them where a host is put that names only the gateway."""
        return tuple(AccessLink(self.name, name, f"acc{number}") for number, name in enumerate(self.access or ("",)))


@dataclass(frozen=True, slots=True)
class Central:
    """The central mobility database (CMD, RFC 8885 section 3). ``node`` is merged into its own configuration file,
    ``program`` runs instead of ``anchord central``."""

    name: str = "cmd"
    address: IPv6Address = field(default_factory=lambda: IPv6Address("2001:db8:fc::1"))
    node: Mapping[str, Any] = field(default_factory=dict)
    delay_ms: float = 0.0
    program: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Directory:
    """The directory that gateways read a host's anchors from. ``node`` is merged into its own configuration file."""

    name: str = "dir"
    address: IPv6Address = field(default_factory=lambda: IPv6Address("2001:db8:fd::1"))
    node: Mapping[str, Any] = field(default_factory=dict)
    delay_ms: float = 0.0
    program: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lma:
    """A Local Mobility Anchor. With ``operators`` it stands between those, as their gateways' central database.

    ``pools`` are what it gives hosts of plain PMIPv6. ``node`` is merged into its own configuration file, ``program``
    runs instead of ``anchord lma``.
    """

    name: str
    address: IPv6Address
    pools: tuple[IPv6Network, ...] = ()
    operators: tuple[str, ...] = ()
    node: Mapping[str, Any] = field(default_factory=dict)
    delay_ms: float = 0.0
    program: tuple[str, ...] = ()


Daemon = Gateway | Central | Directory | Lma


@dataclass(frozen=True, slots=True)
class Correspondent:
    """A node that mobile nodes talk to: on the far side of the core, or on a local network ``behind`` a gateway."""

    name: str
    address: IPv6Address
    delay_ms: float = 0.0
    behind: str | None = None

    @property
    def network(self) -> IPv6Network:
        """The /64 of its link."""
        return IPv6Interface((self.address, 64)).network


@dataclass(frozen=True, slots=True)
class Host:
    """A mobile node: an unmodified Linux host.

    ``at`` and ``access`` say where it begins. ``sysctls`` are its distribution's own settings, written as its boot
    would: before the interface exists, or before it is up. Empty, as usual: nothing is written into the host's
    namespace but link up. ``mac`` is random if None.
    """

    name: str
    at: str
    access: str | None = None
    mac: str | None = None
    sysctls: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole domain. ``domain`` is merged into the domain's configuration file; ``core_mtu`` is in bytes.

    There is a central database if that is the ``finder`` and no LMA takes its place between operators, a directory if
    that is, else neither: what is there is None only where it is not to be, and made with its defaults if not given.
    """

    gateways: Mapping[str, Gateway]
    hosts: Mapping[str, Host] = field(default_factory=dict)
    correspondents: Mapping[str, Correspondent] = field(default_factory=dict)
    central: Central | None = None
    name: str = "lab"
    mobility: bool = True
    core_mtu: int = 1500
    domain: Mapping[str, Any] = field(default_factory=dict)
    finder: Finder = "central"
    directory: Directory | None = None
    lmas: Mapping[str, Lma] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the node that the finder needs."""
        if self.finder == "central" and self.central is None and self.between is None:
            object.__setattr__(self, "central", Central())
        if self.finder == "directory" and self.directory is None:
            object.__setattr__(self, "directory", Directory())

    @property
    def between(self) -> Lma | None:
        """The LMA that stands between the operators of the gateways."""
        return next((lma for lma in self.lmas.values() if lma.operators), None)

    def checked(self) -> Topology:
        """The topology itself; raises TopologyError with every reason why it cannot be built."""
        from anchord.lab.topology_problems import dotted, problems  # noqa: PLC0415  they look at topologies

        if found := [f"{dotted(where)}: {what}" for where, what in problems(self)]:
            raise TopologyError(found)
        return self

    @classmethod
    def default(cls, mobility: bool = True) -> Topology:
        """The demo's domain: three gateways, the central database, two correspondents, one mobile node at gw1."""
        return cls(
            name="demo",
            gateways={name: numbered_gateway(name, number) for number, name in enumerate(("gw1", "gw2", "gw3"), 1)},
            correspondents={
                name: Correspondent(name, numbered("c", number)) for number, name in enumerate(("cn1", "cn2"), 1)
            },
            hosts={"mn1": Host("mn1", at="gw1")},
            mobility=mobility,
        )

    @classmethod
    def load(cls, path: Path | str) -> Topology:
        """Read a topology file (docs/lab.md); raises TopologyError with every error in it, OSError if unreadable."""
        from anchord.lab.topology_file import load  # noqa: PLC0415  pydantic: only where a file is read

        return load(Path(path))

    def to_plain(self) -> dict[str, Any]:
        """The topology in the types of JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Topology:
        """The topology that :meth:`to_plain` was called on."""
        return cls(
            **{
                **plain,
                "gateways": {name: _gateway_from_plain(gateway) for name, gateway in plain["gateways"].items()},
                "hosts": {name: Host(**host) for name, host in plain["hosts"].items()},
                "correspondents": {
                    name: Correspondent(**_with_address(correspondent))
                    for name, correspondent in plain["correspondents"].items()
                },
                "central": None if plain["central"] is None else Central(**_server(plain["central"])),
                "directory": None if plain["directory"] is None else Directory(**_server(plain["directory"])),
                "lmas": {name: _lma_from_plain(lma) for name, lma in plain["lmas"].items()},
            }
        )

    def nodes(self) -> dict[str, Kind]:
        """Every node with its kind, in the order in which they are started and listed."""
        return {
            **dict.fromkeys(self.gateways, Kind.GATEWAY),
            **({self.central.name: Kind.CENTRAL} if self.central else {}),
            **({self.directory.name: Kind.DIRECTORY} if self.directory else {}),
            **dict.fromkeys(self.lmas, Kind.LMA),
            CORE: Kind.CORE,
            SWITCH: Kind.SWITCH,
            **dict.fromkeys(self.correspondents, Kind.CORRESPONDENT),
            **dict.fromkeys(self.hosts, Kind.HOST),
        }

    def daemons(self) -> list[str]:
        """The nodes that run an anchord daemon."""
        return [name for name, kind in self.nodes().items() if kind.is_daemon and not self.program(name)]

    def program(self, node: str) -> tuple[str, ...]:
        """What runs in a node instead of its daemon; empty for the daemon itself, and for nodes that have none."""
        own = {daemon.name: daemon for daemon in self.daemon_nodes()}.get(node)
        return own.program if own is not None else ()

    def daemon_nodes(self) -> list[Daemon]:
        """The same as what they are."""
        single = (node for node in (self.central, self.directory) if node is not None)
        return [*self.gateways.values(), *single, *self.lmas.values()]

    def anchors(self) -> list[Gateway | Lma]:
        """The nodes that pools are routed to."""
        return [*self.gateways.values(), *self.lmas.values()]

    def on_core(self) -> dict[str, IPv6Interface]:
        """Every node with a link to the core router, and its address and prefix length there."""
        return {node.name: IPv6Interface((node.address, 64)) for node in self._core_nodes()}

    def behind(self, gateway: str) -> list[Correspondent]:
        """Who is on a local network of that gateway; each has a link of its own, called as ``local_interface`` says."""
        return [node for node in self.correspondents.values() if node.behind == gateway]

    def delays(self) -> dict[str, float]:
        """The one-way delay of each core link that has one, in ms, by the node at its end."""
        return {node.name: node.delay_ms for node in self._core_nodes() if node.delay_ms}

    def links(self) -> list[AccessLink]:
        """Every access link of the domain."""
        return [link for gateway in self.gateways.values() for link in gateway.links]

    def link(self, gateway: str, access: str | None = None) -> AccessLink:
        """The access link ``access`` of a gateway, or its first; LabError names the nearest one that exists."""
        if gateway not in self.gateways:
            raise unknown("gateway", gateway, self.gateways)
        links = self.gateways[gateway].links
        if access is None:
            return links[0]
        for link in links:
            if link.name == access:
                return link
        raise unknown(f"access link of {gateway}", access, [link.name for link in links if link.name])

    def host(self, name: str) -> Host:
        """The host of that name; LabError names the nearest one that exists."""
        if name not in self.hosts:
            raise unknown("host", name, self.hosts)
        return self.hosts[name]

    def _core_nodes(self) -> list[Daemon | Correspondent]:
        return [*self.daemon_nodes(), *(node for node in self.correspondents.values() if node.behind is None)]


def numbered(letter: str, number: int) -> IPv6Address:
    """The address of the ``number``-th node (from 1) of a kind. The digits are decimal, so "fc" is never reached."""
    return IPv6Address(f"2001:db8:{letter}{number}::1")


def numbered_gateway(name: str, number: int) -> Gateway:
    """The ``number``-th gateway (from 1) as it is when a topology says nothing but its name."""
    return Gateway(name, numbered("f", number), (IPv6Network(f"2001:db8:a{number}::/48"),))


def numbered_lma(name: str, number: int) -> Lma:
    """The ``number``-th LMA (from 1) as it is when a topology says nothing but its name."""
    return Lma(name, numbered("e", number), (IPv6Network(f"2001:db8:b{number}::/48"),))


def router_on(link: IPv6Network) -> IPv6Address:
    """The core router's address on one of its links."""
    return link.network_address + 0xFFFF


def interface_towards_core(kind: Kind) -> str:
    """The interface with which a node of that kind is connected to the core router."""
    return HOST_INTERFACE if kind is Kind.CORRESPONDENT else CORE_INTERFACE


def _server(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a central database or a directory."""
    return {**_with_address(plain), "program": tuple(plain["program"])}


def _with_address(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {**plain, "address": IPv6Address(plain["address"])}


def local_interface(correspondent: str) -> str:
    """A gateway's interface towards a correspondent that is behind it."""
    return f"lan-{correspondent}"


def _gateway_from_plain(plain: Mapping[str, Any]) -> Gateway:
    return Gateway(
        **{
            **_with_address(plain),
            "pools": tuple(IPv6Network(pool) for pool in plain["pools"]),
            "access": tuple(plain["access"]),
            "local_networks": tuple(IPv6Network(network) for network in plain["local_networks"]),
            "program": tuple(plain["program"]),
        }
    )


def _lma_from_plain(plain: Mapping[str, Any]) -> Lma:
    pools = tuple(IPv6Network(pool) for pool in plain["pools"])
    return Lma(**{**_server(plain), "pools": pools, "operators": tuple(plain["operators"])})
