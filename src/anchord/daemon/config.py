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
import json
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr

from anchord.daemon import consistency
from anchord.daemon.configfile import (
    ConfigError,
    Conflict,
    GlobalAddress,
    InterfaceName,
    Mac,
    Network,
    Pool,
    Table,
    dotted,
    flag,
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
from anchord.daemon.variables import Lifetimes, Limits, Pmip, Timers

__all__ = [
    "Central", "ConfigError", "Directory", "DomainConfig", "Gateway", "Lifetimes", "Limits", "Lma", "NodeConfig",
    "Pmip", "Policy", "Table", "Timers", "load_domain", "load_node", "parse_toml",
]  # fmt: skip

SECRET_BYTES = 16  # the least that is worth calling a secret: 128 bits
MOST_RESOLVERS = 3  # as many as hosts are known to use (RFC 8106 section 5.3.1)


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
PolicyHost = Annotated[bytes, BeforeValidator(consistency.policy_host)]


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
        ..., "a list of IPv6 prefixes shorter than /64", "What it gives each of its hosts a /64 of; nobody else's"
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
        (), "a list of IPv6 prefixes shorter than /64", "What it gives each host of plain PMIPv6 a /64 of"
    )
    mags: tuple[GlobalAddress, ...] = text(
        (), "a list of IPv6 addresses", "MAGs that may register hosts with it, besides the gateways of this file"
    )
    operators: tuple[NodeName, ...] = text(
        (), "a list of operators", "Between whose gateways it stands, as their central database"
    )
    stands_for: tuple[Pool, ...] = text(
        (), "a list of IPv6 prefixes shorter than /64", "Pools of other operators, whose gateways it hides"
    )


class Policy(Table):
    """Hosts that one LMA anchors, by plain Proxy Mobile IPv6: the gateway they are at is their MAG."""

    hosts: Annotated[tuple[PolicyHost, ...], AfterValidator(_not_empty)] = text(
        ..., "a list of MAC addresses, or ['any']", "Whom it is for; 'any': all that no other policy names"
    )
    lma: NodeName = text(..., "the name of an LMA", "Who anchors them")


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
        if isinstance(gateways, Mapping) and not gateways and not consistency.tables(raw, "lmas"):
            yield ("gateways",), "is empty, expected at least one gateway"
        yield from consistency.strange_names(raw)
        yield from consistency.strange_operators(raw)
        yield from consistency.strange_policies(raw)
        yield from consistency.finder_table(raw)
        addresses, own = list(consistency.addresses(raw)), list(consistency.prefixes(raw, "pools", pool))
        pools = [*own, *consistency.prefixes(raw, "pools", pool, "lmas")]
        yield from consistency.same_address(addresses)
        yield from consistency.overlaps([*pools, *consistency.prefixes(raw, "stands_for", pool, "lmas")])
        for where, address in addresses:
            for other, prefix in pools:
                if address in prefix:
                    yield where, f"{address} lies in {dotted(other)} ({prefix}), expected an address outside every pool"
        for where, local in consistency.prefixes(raw, "local_networks", network):
            for other, prefix in pools:
                if local.overlaps(prefix):
                    yield where, f"{local} overlaps {dotted(other)} ({prefix}), expected a network outside every pool"

        yield from consistency.unusable_resolvers(raw, pools)

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
        return peers if self.central is None else {self.central.address: consistency.CENTRAL_NAMES[0]} | peers

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
        (), "a list of MAC addresses and identifiers",
        "Whom an LMA or the central database knows and refuses: status 152",
    )  # fmt: skip

    neighbours: tuple[NodeName, ...] = text(
        (), "a list of at most 8 gateways", "Asked for a host of which nothing is known, when nobody else answers"
    )

    _domain: DomainConfig = PrivateAttr()

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """Interfaces have one role each; ``listed`` is not forgotten to be switched on."""
        for key in ("state", "run"):
            if isinstance(raw.get(key), str) and "\0" in raw[key]:
                yield (key,), "has a NUL in it, expected a directory"
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
        if self.node in consistency.CENTRAL_NAMES:
            return "central"
        return "directory" if self.node in consistency.DIRECTORY_NAMES else "gateway"

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
        default_run = str(NodeConfig.model_fields["run"].default)
        found = consistency.misfits(raw, raw_domain, default_run)
        errors += [f"{path}: {dotted(where)}: {what}" for where, what in found]
    if errors or node is None or domain is None:
        raise ConfigError(errors)
    node._domain = domain
    return node


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
