"""What an operator configures: one ``domain.toml``, the same on every node, and one ``node.toml`` for each node.

The domain file holds what all have to agree on: the secret, who is who, the pools, lifetimes, timers, limits and the
configuration variables of RFC 5213 section 9. ``DomainConfig.digest`` lets nodes find out that they do not agree. The
node file says which of them this node is and how it is wired up. docs/configuration.md lists every key.

Units are last in names: ``_s`` seconds, ``_ms`` milliseconds. Addresses come out as ``ipaddress`` objects, link-layer
addresses and the secret as bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr

from anchord.daemon.configfile import (
    ConfigError,
    Conflict,
    GlobalAddress,
    InterfaceName,
    LinkLocal,
    Mac,
    Network,
    Place,
    Pool,
    Table,
    dotted,
    flag,
    global_address,
    mac_address,
    network,
    parse_toml,
    pool,
    read_toml,
    shown,
    text,
    tolerant,
    validate,
    whole,
)

__all__ = [
    "Central", "ConfigError", "Directory", "DomainConfig", "Gateway", "Lifetimes", "Limits", "Lma", "NodeConfig",
    "Pmip", "Policy", "Table", "Timers", "load_domain", "load_node", "parse_toml",
]  # fmt: skip

# What the node file of a central database or a directory may call it; no gateway may have these names.
CENTRAL_NAMES = ("central", "cmd")
DIRECTORY_NAMES = ("directory", "dir")
NEIGHBOURS = 8  # gateways that are asked for a host of which nothing is known
_CENTRAL_NODES = {"central": CENTRAL_NAMES, "directory": DIRECTORY_NAMES}  # by finder
_SPOKEN = {**dict.fromkeys(CENTRAL_NAMES, "central database"), "dir": "directory"}
SECRET_BYTES = 16  # the least that is worth calling a secret: 128 bits
GATHER_MARGIN_MS = 50  # a fallback must leave the central database's partial answer this long to arrive
MOST_RESOLVERS = 3  # as many as hosts are known to use (RFC 8106 section 5.3.1)
SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without the closing zero


def _secret(value: object) -> bytes:
    """Hexadecimal digits mean those bytes; anything else means its own UTF-8. Never repeated in an error."""
    if isinstance(value, bytes):
        return value
    expected = f"expected at least {SECRET_BYTES} bytes: {2 * SECRET_BYTES} hexadecimal digits, or that much text"
    if not isinstance(value, str):
        raise ValueError(f"no text, {expected}")
    digits = re.fullmatch(r"([0-9A-Fa-f]{2})+", value)
    secret = bytes.fromhex(value) if digits else value.encode()
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"only {len(secret)} bytes long, {expected}")
    return secret


def _node_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,30}[A-Za-z0-9])?", value):
        raise ValueError(f"is {shown(value)}, expected a name of 1 to 32 letters, digits, '-' and '_'")
    return value


def _listed(value: object) -> str:
    """A MAC address in its usual spelling, or an identifier as it is."""
    mac = tolerant(mac_address, value)
    if mac is not None:
        return str(mac.hex(":"))
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= 253 or not value.isprintable():
        raise ValueError(f"is {shown(value)}, expected a MAC address or a mobile node identifier (RFC 4283)")
    return value


def _policy_host(value: object) -> bytes:
    """A MAC address; empty: any."""
    return b"" if value == "any" else mac_address(value)


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("is empty, expected at least one")
    return value


def _few_resolvers(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(value) > MOST_RESOLVERS:
        raise ValueError(f"has {len(value)} entries, expected at most {MOST_RESOLVERS} (RFC 8106 section 5.3.1)")
    return value


NodeName = Annotated[str, BeforeValidator(_node_name)]
Secret = Annotated[bytes, BeforeValidator(_secret)]
Listed = Annotated[str, BeforeValidator(_listed)]
PolicyHost = Annotated[bytes, BeforeValidator(_policy_host)]


class Central(Table):
    """The central database (CMD) of RFC 8885."""

    address: GlobalAddress = text(..., "a global IPv6 unicast address", "Where the gateways register")
    mode: Literal["proxy", "relay", "locator"] = text(
        "proxy", "'proxy', 'relay' or 'locator'",
        "How anchors are told of a handover (RFC 8885): proxy answers first (3.4), relay gathers their answers (3.2), "
        "locator also has them answer the new gateway (3.3)",
    )  # fmt: skip
    idle_release: Literal["accept", "refuse"] = text(
        "accept", "'accept' or 'refuse'",
        "Whether an anchor may give up a prefix that nobody uses; refuse is RFC 8885 section 3.5 to the letter",
    )  # fmt: skip


class Directory(Table):
    """The directory that gateways read a host's anchors from, if it is the finder."""

    address: GlobalAddress = text(..., "a global IPv6 unicast address", "Where it is reached")
    port: int = whole(7085, 1, 65_535, "a TCP port", "The TCP port it is reached at")


class Gateway(Table):
    """One gateway (MAAR): every node knows every gateway, because it tunnels to it and believes its messages."""

    address: GlobalAddress = text(
        ..., "a global IPv6 unicast address", "Its own address: source of its messages (Proxy-CoA) and tunnel endpoint"
    )
    pools: Annotated[tuple[Pool, ...], AfterValidator(_not_empty)] = text(
        ..., "a list of IPv6 prefixes of /64 or shorter", "What it gives each of its hosts a /64 of; nobody else's"
    )
    local_networks: tuple[Network, ...] = text(
        (), "a list of IPv6 prefixes", "Networks reachable only behind it, announced to its hosts (RFC 4191)"
    )
    operator: NodeName | None = text(
        None, "a name of 1 to 32 letters, digits, '-' and '_'", "Whose it is, in the file of an LMA between operators"
    )


class Lma(Table):
    """A Local Mobility Anchor: of plain Proxy Mobile IPv6 (RFC 5213), between operators, or both."""

    address: GlobalAddress = text(..., "a global IPv6 unicast address", "Where its MAGs and gateways register (LMAA)")
    pools: tuple[Pool, ...] = text(
        (), "a list of IPv6 prefixes of /64 or shorter", "What it gives each host of plain PMIPv6 a /64 of"
    )
    mags: tuple[GlobalAddress, ...] = text(
        (), "a list of IPv6 addresses", "MAGs that may register hosts with it, besides the gateways of this file"
    )
    operators: tuple[NodeName, ...] = text(
        (), "a list of operators", "Between whose gateways it stands, as their central database"
    )
    stands_for: tuple[Pool, ...] = text(
        (), "a list of IPv6 prefixes of /64 or shorter", "Pools of other operators, whose gateways it hides"
    )


class Policy(Table):
    """Hosts that one LMA anchors, by plain Proxy Mobile IPv6: the gateway they are at is their MAG."""

    hosts: Annotated[tuple[PolicyHost, ...], AfterValidator(_not_empty)] = text(
        ..., "a list of MAC addresses, or ['any']", "Whom it is for; 'any': all that no other policy names"
    )
    lma: NodeName = text(..., "the name of an LMA", "Who anchors them")


class Lifetimes(Table):
    """What hosts and peers are promised, and for how long. A host cannot be told less than 2 h once it was told more
    (RFC 4862 section 5.5.3 e), hence the upper bound."""

    valid_s: int = whole(600, 30, 7200, "seconds", "Valid lifetime of an advertised prefix")
    preferred_s: int = whole(300, 15, 7200, "seconds", "Preferred lifetime of the prefix of the gateway a host is at")
    router_s: int = whole(600, 15, 9000, "seconds", "Router lifetime in advertisements (RFC 4861 section 6.2.1)")
    advertise_every_s: int = whole(100, 4, 1800, "seconds", "How often the promises to a host are renewed")
    binding_s: int = whole(600, 12, 7200, "seconds", "Lifetime asked for in a PBU; a multiple of 4 (RFC 6275)")

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """Preferred <= valid; renewed before it runs out; a lifetime that the wire can carry."""
        valid, preferred, router, every, binding = (cls.number(raw, key) for key in cls.model_fields)
        if preferred > valid:
            yield ("preferred_s",), f"is {preferred}, expected at most valid_s ({valid})"
        if every >= preferred:
            yield ("advertise_every_s",), f"is {every}, expected less than preferred_s ({preferred})"
        if every >= router:
            yield ("advertise_every_s",), f"is {every}, expected less than router_s ({router})"
        if binding % 4:
            yield ("binding_s",), f"is {binding}, expected a multiple of 4 (RFC 6275 section 6.1.7)"


class Timers(Table):
    """How long something is waited for."""

    gather_ms: int = whole(
        100, 10, 10_000, "milliseconds", "How long answers of anchors are gathered (not in mode proxy)"
    )
    fallback_ms: int = whole(
        250, 61, 60_000, "milliseconds", "The central database is silent for so long: the gateway goes on without it"
    )
    initial_bindack_ms: int = whole(
        1000, 100, 32_000, "milliseconds", "INITIAL_BINDACK_TIMEOUT: first repetition of a PBU (RFC 8885 section 3.6)"
    )
    max_bindack_ms: int = whole(
        32_000, 100, 256_000, "milliseconds", "MAX_BINDACK_TIMEOUT: the doubling stops here (RFC 8885 section 3.6)"
    )
    refresh_percent: int = whole(
        50, 10, 90, "percent", "A binding is refreshed when this much of its granted lifetime has passed"
    )
    idle_release_s: int = whole(
        300, 1, 86_400, "seconds", "A prefix that is anchored elsewhere and not used for so long is given up"
    )
    probe_after_s: int = whole(
        30, 1, 3600, "seconds", "Before a refresh, a host not heard for so long is probed (three solicitations)"
    )
    heartbeat_s: int = whole(
        60, 30, 3600, "seconds", "HEARTBEAT_INTERVAL: peers with bindings are asked whether they are there (RFC 5847)"
    )
    revocation_ms: int = whole(
        1000, 500, 60_000, "milliseconds", "InitMINDelayBRIs: first repetition of a revocation (RFC 5846 section 11)"
    )
    max_revocation_ms: int = whole(
        2000, 500, 60_000, "milliseconds", "MAX_BRACK_TIMEOUT: the doubling stops here (RFC 5846 section 11)"
    )

    update_notification_replay_ms: int = whole(
        1000, 500, 5000, "milliseconds", "MIN_DELAY_BETWEEN_UPDATE_NOTIFICATION_REPLAY (RFC 7077 section 7)"
    )

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """The fallback waits for the partial answer, and the back-off has somewhere to go."""
        gather, fallback = cls.number(raw, "gather_ms"), cls.number(raw, "fallback_ms")
        if fallback <= gather + GATHER_MARGIN_MS:
            least = gather + GATHER_MARGIN_MS
            yield ("fallback_ms",), f"is {fallback}, expected more than gather_ms + {GATHER_MARGIN_MS} ({least})"
        first, last = cls.number(raw, "initial_bindack_ms"), cls.number(raw, "max_bindack_ms")
        if last < first:
            yield ("max_bindack_ms",), f"is {last}, expected at least initial_bindack_ms ({first})"
        first, last = cls.number(raw, "revocation_ms"), cls.number(raw, "max_revocation_ms")
        if last < first:
            yield ("max_revocation_ms",), f"is {last}, expected at least revocation_ms ({first})"


class Limits(Table):
    """A limit on everything that a host or a peer can make grow; whatever meets one is counted."""

    hosts_per_gateway: int = whole(10_000, 1, 1_000_000, "hosts", "Hosts attached to or anchored at one gateway")
    anchors_per_host: int = whole(
        7, 1, 16, "prefixes",
        "Prefixes that a host may have addresses of, given up ones included; it gets no new one beyond that",
    )  # fmt: skip
    update_notification_retransmits: int = whole(
        1, 0, 5, "messages", "MAX_UPDATE_NOTIFICATION_RETRANSMIT_COUNT (RFC 7077 section 7)"
    )
    attaches_per_s: int = whole(100, 1, 100_000, "1/s", "New hosts that one gateway takes, on average")
    updates_per_s: int = whole(
        2000, 1, 1_000_000, "1/s", "PBUs sent to all peers together: no bursts (RFC 8885 section 3.2)"
    )
    max_update_rate_per_s: int = whole(
        3, 1, 100, "1/s", "MAX_UPDATE_RATE: PBUs about one host to one peer (RFC 8885 section 3.6)"
    )
    sessions: int = whole(
        100_000, 1, 10_000_000, "hosts", "Sessions that the central database keeps, or records that the directory does"
    )
    missing_heartbeats: int = whole(
        3, 1, 100, "messages", "MISSING_HEARTBEATS_ALLOWED: a peer that leaves out so many is reported (RFC 5847)"
    )
    revocation_retries: int = whole(
        1, 0, 10, "messages", "BRIMaxRetriesNumber: repetitions of a revocation (RFC 5846 section 11)"
    )


class Pmip(Table):
    """The configuration variables of RFC 5213 section 9; they have to be the same in the whole domain."""

    min_delay_before_bce_delete_ms: int = whole(
        10_000, 0, 600_000, "milliseconds", "MinDelayBeforeBCEDelete (9.1): how long a session outlives its end"
    )
    max_delay_before_new_bce_assign_ms: int = whole(
        1500, 0, 600_000, "milliseconds", "MaxDelayBeforeNewBCEAssign (9.1): wait for the end of an old session"
    )
    timestamp_validity_window_ms: int = whole(
        300, 1, 3_600_000, "milliseconds", "TimestampValidityWindow (9.1): how far two clocks may differ"
    )
    enable_mag_local_routing: bool = flag(False, "EnableMAGLocalRouting (9.2)")
    timestamp_based_approach_in_use: bool = flag(
        True, "TimestampBasedApproachInUse (9.3): order messages by time; false: by sequence number"
    )
    mobile_node_generated_timestamp_in_use: bool = flag(False, "MobileNodeGeneratedTimestampInUse (9.3)")
    fixed_mag_link_local_address_on_all_access_links: LinkLocal = text(
        IPv6Address("::"), "a link-local IPv6 address, or '::' for none",
        "FixedMAGLinkLocalAddressOnAllAccessLinks (9.3); only where RFC 8885's logical routers are not in use",
    )  # fmt: skip
    fixed_mag_link_layer_address_on_all_access_links: Mac = text(
        bytes(6), "a MAC address, or '00:00:00:00:00:00' for none",
        "FixedMAGLinkLayerAddressOnAllAccessLinks (9.3); as above",
    )  # fmt: skip

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """The node-generated timestamp needs timestamps (RFC 5213 section 9.3, MUST NOT)."""
        key = "mobile_node_generated_timestamp_in_use"
        if raw.get(key) is True and raw.get("timestamp_based_approach_in_use") is False:
            yield (key,), "is true, expected false without timestamp_based_approach_in_use (RFC 5213 section 9.3)"


class DomainConfig(Table):
    """A whole domain: ``domain.toml``."""

    name: NodeName = text(..., "a name of 1 to 32 letters, digits, '-' and '_'", "The domain's name, for people")
    secret: Secret = Field(
        ..., repr=False, description="Known to every node and to nobody else; DLIF addresses are made from it",
        json_schema_extra={"expected": "at least 16 bytes: 32 hexadecimal digits, or that much text"},
    )  # fmt: skip
    mobility: bool = flag(True, "false: plain routers that advertise their own prefix and nothing more, for comparison")
    serve_unregistered: bool = flag(
        True, "A host gets its prefix although the central database is silent, and is registered later"
    )
    strict_8885: bool = flag(
        False, "DLIF addresses and local prefixes in PBAs only, as RFC 8885 has it; the CMD then derives the former"
    )
    finder: Literal["central", "directory", "anchor-known"] = text(
        "central", "'central', 'directory' or 'anchor-known'",
        "Who tells a gateway the anchors of a host: the central database, a directory, or the anchors themselves",
    )  # fmt: skip
    resolvers: Annotated[tuple[GlobalAddress, ...], AfterValidator(_few_resolvers)] = text(
        (), "a list of at most 3 global IPv6 unicast addresses", "DNS resolvers that hosts are told of (RFC 8106)"
    )
    central: Central | None = Field(None, description="The central database; only for finder = 'central'")
    directory: Directory | None = Field(None, description="The directory; only for finder = 'directory'")
    gateways: dict[NodeName, Gateway] = Field(..., description="The gateways, each under its name")
    lmas: dict[NodeName, Lma] = Field(default_factory=dict, description="Local Mobility Anchors, each under its name")
    policy: tuple[Policy, ...] = text((), "a list of tables", "Hosts that an LMA anchors")
    lifetimes: Lifetimes = Field(default_factory=Lifetimes)
    timers: Timers = Field(default_factory=Timers)
    limits: Limits = Field(default_factory=Limits)
    pmip: Pmip = Field(default_factory=Pmip)

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """Rules between nodes: addresses and pools are exclusive (pools decide who anchors what)."""
        gateways = raw.get("gateways")
        if isinstance(gateways, Mapping) and not gateways and not _tables(raw, "lmas"):
            yield ("gateways",), "is empty, expected at least one gateway"
        yield from _strange_names(raw)
        yield from _strange_operators(raw)
        yield from _strange_policies(raw)
        yield from _finder_table(raw)
        addresses, own = list(_addresses(raw)), list(_prefixes(raw, "pools", pool))
        pools = [*own, *_prefixes(raw, "pools", pool, "lmas")]
        yield from _same_address(addresses)
        yield from _overlaps([*pools, *_prefixes(raw, "stands_for", pool, "lmas")])
        for where, address in addresses:
            for other, prefix in pools:
                if address in prefix:
                    yield where, f"{address} lies in {dotted(other)} ({prefix}), expected an address outside every pool"
        for where, local in _prefixes(raw, "local_networks", network):
            for other, prefix in pools:
                if local.overlaps(prefix):
                    yield where, f"{local} overlaps {dotted(other)} ({prefix}), expected a network outside every pool"

        yield from _unusable_resolvers(raw, pools)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that are the same exactly where the same domain is in force, defaults included.

        The secret is the key of the hash, so that the digest, which is shown and sent around, does not give it away.
        """
        content = json.dumps(self.model_dump(exclude={"secret"}), default=_plain, sort_keys=True, separators=(",", ":"))
        return hmac.new(self.secret, content.encode(), hashlib.sha256).hexdigest()

    @property
    def peers(self) -> dict[IPv6Address, str]:
        """The address of every node that speaks PMIPv6 and its name (the central database's is ``central``)."""
        peers = {gateway.address: name for name, gateway in self.gateways.items()}
        peers |= {lma.address: name for name, lma in self.lmas.items()}
        return peers if self.central is None else {self.central.address: CENTRAL_NAMES[0]} | peers

    def anchor_of(self, prefix: IPv6Network) -> str | None:
        """The name of the gateway in whose pools ``prefix`` lies; pools are exclusive, so there is one or none."""
        for name, gateway in self.gateways.items():
            if any(prefix.subnet_of(p) for p in gateway.pools):
                return name
        return None


class NodeConfig(Table):
    """One node: ``node.toml``, and the domain it names (``.domain``). Paths are relative to the node file."""

    node: NodeName = text(
        ..., "the name of a gateway or LMA of the domain, 'central' or 'directory'", "Which node of the domain this is"
    )
    domain_file: Path = Field(
        ..., alias="domain", description="The domain file",
        json_schema_extra={"expected": "the path of the domain file"},
    )  # fmt: skip
    access: tuple[InterfaceName, ...] = text(
        (), "a list of interface names", "Interfaces where hosts are; at least one at a gateway, none elsewhere"
    )
    core: tuple[InterfaceName, ...] = text(
        (), "a list of interface names", "Interfaces towards the core; at least one at a gateway or LMA, none elsewhere"
    )
    state: Path = text(Path("/var/lib/anchord"), "a directory", "Where journal and store are kept")
    run: Path = text(Path("/run/anchord"), "a directory", "Where the control socket is: NODE.sock")
    store: Literal["sqlite", "memory"] = text(
        "sqlite", "'sqlite' or 'memory'",
        "The central database's store; memory: a restart begins with nothing, and the gateways' refreshes fill it",
    )  # fmt: skip
    store_sync: Literal["group", "always"] = text(
        "group", "'group' or 'always'",
        "When the disk holds what was committed: 10 ms later for all of that time, or before anything is answered",
    )  # fmt: skip
    ignore: tuple[Mac, ...] = text((), "a list of MAC addresses", "Never taken for hosts: infrastructure on the links")
    hosts: Literal["any", "listed"] = text("any", "'any' or 'listed'", "Who is served; others get status 153")
    listed: tuple[Listed, ...] = text(
        (), "a list of MAC addresses and identifiers", "Who is served if hosts = 'listed'"
    )
    denied: tuple[Listed, ...] = text(
        (), "a list of MAC addresses and identifiers", "Whom an LMA knows and refuses plain PMIPv6: status 152"
    )

    neighbours: tuple[NodeName, ...] = text(
        (), "a list of at most 8 gateways", "Asked for a host of which nothing is known, when nobody else answers"
    )

    _domain: DomainConfig = PrivateAttr()

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """Interfaces have one role each; ``listed`` is not forgotten to be switched on."""
        seen: dict[str, str] = {}
        for key in ("access", "core"):
            names = raw.get(key)
            for index, name in enumerate(names if isinstance(names, list) else []):
                if isinstance(name, str) and name in seen:
                    yield (key, index), f"{name!r} is in {seen[name]} already, expected each interface once"
                elif isinstance(name, str):
                    seen[name] = dotted((key, index))
        if raw.get("listed") and raw.get("hosts", "any") == "any":
            yield ("listed",), "has no effect with hosts = 'any', expected hosts = 'listed' as well"

    @property
    def domain(self) -> DomainConfig:
        """The domain this node belongs to."""
        return self._domain

    @property
    def role(self) -> Literal["gateway", "central", "directory", "lma"]:
        """What this node is, and so which verb runs it."""
        if self.node in self._domain.lmas:
            return "lma"
        if self.node in CENTRAL_NAMES:
            return "central"
        return "directory" if self.node in DIRECTORY_NAMES else "gateway"

    @property
    def gateway(self) -> Gateway:
        """This gateway's entry in the domain. KeyError at any other node."""
        return self._domain.gateways[self.node]

    @property
    def address(self) -> IPv6Address:
        """The address this node signals from."""
        if self.role == "lma":
            return self.lma.address
        table = {"central": self._domain.central, "directory": self._domain.directory}.get(self.role)
        return self.gateway.address if table is None else table.address

    @property
    def lma(self) -> Lma:
        """This LMA's entry in the domain. KeyError at any other node."""
        return self._domain.lmas[self.node]

    @property
    def socket(self) -> Path:
        """The control socket of this node's daemon."""
        return self.run / f"{self.node}.sock"


def load_domain(path: Path | str) -> DomainConfig:
    """Read ``domain.toml``. Raises ConfigError with every error."""
    return parse_toml(path, DomainConfig)


def load_node(path: Path | str) -> NodeConfig:
    """Read ``node.toml`` and the domain file it names. Raises ConfigError with every error of both."""
    path = Path(path)
    raw = read_toml(path)
    errors: list[str] = []
    node = domain = None
    for key in ("domain", "state", "run"):
        if isinstance(raw.get(key), str):
            raw[key] = str(path.parent / raw[key])
    try:
        node = validate(path, raw, NodeConfig)
    except ConfigError as error:
        errors += error.errors
    raw_domain: Mapping[str, Any] = {}
    if isinstance(raw.get("domain"), str):
        try:
            raw_domain = read_toml(raw["domain"])
            domain = validate(raw["domain"], raw_domain, DomainConfig)
        except ConfigError as error:
            errors += error.errors
    if raw_domain:
        errors += [f"{path}: {dotted(where)}: {what}" for where, what in _misfits(raw, raw_domain)]
    if errors or node is None or domain is None:
        raise ConfigError(errors)
    node._domain = domain
    return node


def _misfits(node: Mapping[str, Any], domain: Mapping[str, Any]) -> Iterator[Conflict]:
    """What is wrong between a node file and its domain file."""
    name, known, lmas = node.get("node"), _tables(domain, "gateways"), _tables(domain, "lmas")
    if not isinstance(name, str):
        return
    central = {finder: names for finder, names in _CENTRAL_NODES.items() if domain.get("finder", "central") == finder}
    others = [one for names in central.values() for one in names]
    if name not in (*known, *lmas, *others):
        expected = ", ".join([*known, *lmas, *central])
        yield ("node",), f"{name!r} is no node of the domain, expected one of {expected}"
    for key in ("access", "core"):
        if name in known and not node.get(key):
            yield (key,), "is empty, expected at least one interface for a gateway"
        if name in others and node.get(key):
            yield (key,), f"is not for the {_SPOKEN.get(name, name)}, expected none"
    if name in lmas and not node.get("core"):
        yield ("core",), "is empty, expected at least one interface for an LMA"
    if name in lmas and node.get("access"):
        yield ("access",), "is not for an LMA, expected none"
    if node.get("denied") and name not in lmas:
        yield ("denied",), "has an effect at an LMA only, expected none"
    if node.get("store") == "memory" and name not in CENTRAL_NAMES:
        yield ("store",), "is 'memory', which only the central database can have, expected 'sqlite'"
    yield from _strange_neighbours(node.get("neighbours"), name, known)
    run = node.get("run", str(NodeConfig.model_fields["run"].default))
    if isinstance(run, str) and len(f"{run}/{name}.sock".encode()) > SOCKET_PATH_BYTES:
        yield ("run",), f"is too long, expected at most {SOCKET_PATH_BYTES} bytes with the socket's name"


def _strange_neighbours(neighbours: object, name: str, known: Mapping[str, Any]) -> Iterator[Conflict]:
    """Neighbours are other gateways of the domain, and few."""
    named = neighbours if isinstance(neighbours, list) else []
    if len(named) > NEIGHBOURS:
        yield ("neighbours",), f"has {len(named)} entries, expected at most {NEIGHBOURS}"
    for index, neighbour in enumerate(named):
        if neighbour == name or neighbour not in known:
            others = ", ".join(other for other in known if other != name)
            yield ("neighbours", index), f"is {shown(neighbour)}, expected another gateway of the domain: {others}"


def _strange_names(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """Gateways and LMAs that are called what only another node may be called."""
    for key in ("gateways", "lmas"):
        for name in _tables(raw, key):
            for finder, names in _CENTRAL_NODES.items():
                if name in names:
                    yield (key, name), f"{name!r} means the {_SPOKEN.get(finder, finder)}, expected another name"
    for name in _tables(raw, "lmas"):
        if name in _tables(raw, "gateways"):
            yield ("lmas", name), f"{name!r} is a gateway already, expected another name"


def _strange_operators(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """An LMA stands between operators that gateways of the file belong to."""
    known = sorted({str(table["operator"]) for table in _tables(raw, "gateways").values() if "operator" in table})
    for name, table in _tables(raw, "lmas").items():
        operators = table.get("operators")
        for index, operator in enumerate(operators if isinstance(operators, list) else []):
            if operator not in known:
                expected = f"one of {', '.join(known)}" if known else "gateways with an operator"
                yield ("lmas", name, "operators", index), f"is {shown(operator)}, expected {expected}"


def _strange_policies(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """Each host has one policy, whose LMA is one of the domain."""
    policies = raw.get("policy")
    seen: dict[bytes, Place] = {}
    for index, table in enumerate(policies if isinstance(policies, list) else []):
        if not isinstance(table, Mapping):
            continue
        lma, hosts = table.get("lma"), table.get("hosts")
        if isinstance(lma, str) and lma not in _tables(raw, "lmas"):
            expected = ", ".join(_tables(raw, "lmas")) or "a table [lmas.NAME]"
            yield ("policy", index, "lma"), f"{lma!r} is no LMA of the domain, expected {expected}"
        for place, host in enumerate(hosts if isinstance(hosts, list) else []):
            where: Place = ("policy", index, "hosts", place)
            known = tolerant(_policy_host, host)
            first = where if known is None else seen.setdefault(known, where)
            if first != where:
                yield where, f"{host!r} is in {dotted(first)} already, expected each host once"


def _finder_table(raw: Mapping[str, Any]) -> Iterator[Conflict]:
    """The table of whoever tells of anchors is there, and no other."""
    finder = raw.get("finder", "central")
    for table in _CENTRAL_NODES:
        if finder == table and table not in raw:
            yield (table,), f"is missing, expected a table with finder = {finder!r}"
        if finder != table and table in raw and isinstance(finder, str):
            yield (table,), f"has no effect with finder = {finder!r}, expected none"


def _tables(raw: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    """The tables under ``key``, as far as they are tables."""
    tables = raw.get(key)
    return {k: v for k, v in tables.items() if isinstance(v, Mapping)} if isinstance(tables, Mapping) else {}


def _addresses(raw: Mapping[str, Any]) -> Iterator[tuple[Place, IPv6Address]]:
    """The address of every node that has a good one."""
    tables: list[tuple[Place, Mapping[str, Any]]] = [
        ((name,), raw[name]) for name in _CENTRAL_NODES if isinstance(raw.get(name), Mapping)
    ]
    tables += [((key, name), table) for key in ("gateways", "lmas") for name, table in _tables(raw, key).items()]
    for where, table in tables:
        address = tolerant(global_address, table.get("address"))
        if address is not None:
            yield (*where, "address"), address


def _prefixes(
    raw: Mapping[str, Any], key: str, read: Any, nodes: str = "gateways"
) -> Iterator[tuple[Place, IPv6Network]]:
    """The prefixes under ``key`` of every gateway, or LMA, that are good ones."""
    for name, table in _tables(raw, nodes).items():
        values = table.get(key)
        for index, value in enumerate(values if isinstance(values, list | tuple) else []):
            prefix = tolerant(read, value)
            if prefix is not None:
                yield (nodes, name, key, index), prefix


def _same_address(addresses: list[tuple[Place, IPv6Address]]) -> Iterator[Conflict]:
    owners: dict[IPv6Address, Place] = {}
    for where, address in addresses:
        first = owners.setdefault(address, where)
        is_its_cmd = first == ("central", "address") and where[0] == "lmas"  # an LMA between operators is their CMD
        if first != where and not is_its_cmd:
            yield where, f"{address} is {dotted(first)} already, expected an address for each node"


def _overlaps(pools: list[tuple[Place, IPv6Network]]) -> Iterator[Conflict]:
    for (first, one), (second, other) in itertools.combinations(pools, 2):
        if one.overlaps(other):
            yield second, f"{other} overlaps {dotted(first)} ({one}), expected pools that share no address"


def _unusable_resolvers(raw: Mapping[str, Any], pools: list[tuple[Place, IPv6Network]]) -> Iterator[Conflict]:
    resolvers: dict[IPv6Address, Place] = {}
    values = raw.get("resolvers")
    for index, value in enumerate(values if isinstance(values, list | tuple) else []):
        address, where = tolerant(global_address, value), ("resolvers", index)
        if address is None:
            continue
        if (first := resolvers.setdefault(address, where)) != where:
            yield where, f"{address} is {dotted(first)} already, expected each resolver once"
        for other, prefix in pools:
            if address in prefix:
                yield where, f"{address} lies in {dotted(other)} ({prefix}), which is for hosts, expected another one"


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
