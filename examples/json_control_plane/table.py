"""The table that is this control plane: who is where, and which gateway anchors which of its prefixes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from anchord.declared import HostState, LogicalRouter, PrefixEntry, Role
from anchord.wire.neighbor import eui64_link_local


class TableError(Exception):
    """The table cannot be used; a line for each reason."""


def _mac(value: object) -> bytes:
    if isinstance(value, str) and len(value) == 17:
        mac = bytes.fromhex(value.replace(":", ""))
        if len(mac) == 6 and not mac[0] & 1:
            return mac
    raise ValueError(f"is {value!r}, expected a unicast MAC address such as '02:00:00:00:00:01'")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gateway(_Row):
    """A gateway: the end of its tunnels, and what it gives each of its hosts a /64 of."""

    address: IPv6Address
    pools: tuple[IPv6Network, ...]


class Held(_Row):
    """One prefix of a host. The anchor stays what it is wherever the host goes."""

    prefix: IPv6Network
    anchor: str


class Host(_Row):
    """A host. ``at`` is the gateway it is at now; None: at none."""

    mac: Annotated[bytes, BeforeValidator(_mac)]
    at: str | None
    prefixes: tuple[Held, ...]


class Table(_Row):
    """Everything that this control plane knows."""

    gateways: dict[str, Gateway]
    hosts: dict[str, Host] = {}

    @model_validator(mode="after")
    def _agrees(self) -> Table:
        if wrong := list(self._problems()):
            raise ValueError("\n".join(wrong))
        return self

    def _problems(self) -> Iterator[str]:
        macs: dict[bytes, str] = {}
        prefixes: dict[IPv6Network, str] = {}
        for name, host in self.hosts.items():
            if host.at is not None and host.at not in self.gateways:
                yield f"hosts.{name}.at: no gateway {host.at!r}, expected one of {', '.join(self.gateways)}, or null"
            if (other := macs.setdefault(host.mac, name)) != name:
                yield f"hosts.{name}.mac: {host.mac.hex(':')} is that of {other} already, expected another one"
            for held in host.prefixes:
                anchor = self.gateways.get(held.anchor)
                if held.prefix in prefixes:
                    yield f"hosts.{name}.prefixes: {held.prefix} is held by {prefixes[held.prefix]} already"
                prefixes[held.prefix] = name
                if anchor is None:
                    yield f"hosts.{name}.prefixes: {held.prefix} has no anchor {held.anchor!r} among the gateways"
                elif held.prefix.prefixlen != 64 or not any(held.prefix.subnet_of(pool) for pool in anchor.pools):
                    yield f"hosts.{name}.prefixes: {held.prefix} is no /64 of a pool of {held.anchor}"

    def state(self, name: str, gateway: str, interface: str) -> HostState:
        """What should be true of a host at one gateway, whose hosts are on ``interface``."""
        host = self.hosts.get(name)
        if host is None or host.at is None:
            return HostState(name)
        if host.at == gateway:
            return HostState(
                name, host.mac, interface, tuple(self._here(name, held, gateway) for held in host.prefixes)
            )
        serving = self.gateways[host.at].address
        return HostState(
            name,
            entries=tuple(
                PrefixEntry(held.prefix, Role.EXPORTED, peer=serving)
                for held in host.prefixes
                if held.anchor == gateway
            ),
        )

    def _here(self, name: str, held: Held, gateway: str) -> PrefixEntry:
        router = face(name, held.anchor)
        if held.anchor == gateway:
            return PrefixEntry(held.prefix, Role.ANCHORED, router)
        return PrefixEntry(held.prefix, Role.IMPORTED, router, self.gateways[held.anchor].address)


def face(host: str, anchor: str) -> LogicalRouter:
    """The router by which a host knows an anchor: the same at every gateway, and another one for every host."""
    digest = hashlib.sha256(f"{anchor} {host}".encode()).digest()
    mac = bytes((digest[0] & 0xFC | 0x02, *digest[1:6]))  # locally administered, unicast
    return LogicalRouter(mac, eui64_link_local(mac))


def load(path: Path) -> Table:
    """Read a table; raises TableError with everything that is wrong with it."""
    try:
        return Table.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        lines = []
        for each in error.errors():
            where = ".".join(str(part) for part in each["loc"])
            lines += [f"{path}: {f'{where}: ' if where else ''}{line}" for line in _said(each["msg"])]
        raise TableError("\n".join(lines)) from None


def _said(message: str) -> list[str]:
    return message.removeprefix("Value error, ").splitlines()
