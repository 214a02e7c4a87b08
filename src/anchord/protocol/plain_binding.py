"""Sessions of plain Proxy Mobile IPv6 as an LMA knows them, and which of them a PBU is about (RFC 5213 section 5.4).

A node has a session for each of its interfaces. Which one a request means follows from the prefix it names; without
one from the link-layer identifier; without that from the handoff indicator. Where nobody can tell whether a node that
appears somewhere has moved or has a second interface, the de-registration by its old MAG decides, and is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.declared import HostState, PrefixEntry, Role
from anchord.protocol.journal import address_text, prefix_text
from anchord.wire.messages import Status
from anchord.wire.options import Handoff, MobileNodeIdentifier


@dataclass(slots=True)
class PlainBinding:
    """A Binding Cache entry of RFC 5213 section 5.1: one interface of one node."""

    mn_id: MobileNodeIdentifier
    link_layer_id: bytes | None
    access_technology: int
    prefixes: tuple[IPv6Network, ...]  # at least one; the first is what the session is called by
    proxy_coa: IPv6Address  # the MAG's end of the tunnel
    link_local: IPv6Address | None = None  # of the MAG towards the node, where a MAG has asked or told
    ticks: int = 0  # newest timestamp accepted; 0: none yet
    sequence: int = 0  # of the PBU accepted last
    expires_wall_s: float = 0.0
    ending: bool = False  # de-registered; deleted when MinDelayBeforeBCEDelete is over
    installed: bool = False  # the kernel forwards to ``proxy_coa``; not journalled

    @property
    def key(self) -> str:
        """Its name, here and in the kernel layer: no prefix belongs to two sessions."""
        return f"pmip/{prefix_text(self.prefixes[0])}"

    def forwarding(self) -> HostState:
        """What should be true in the kernel: all traffic through the tunnel; none of a node that is gone (5.3.5)."""
        if self.ending:
            return HostState(self.key)
        entries = (PrefixEntry(prefix, Role.EXPORTED, None, self.proxy_coa) for prefix in self.prefixes)
        return HostState(self.key, entries=tuple(entries))

    def to_json(self) -> dict[str, Any]:
        """For the store."""
        return {
            "subtype": int(self.mn_id.subtype),
            "identifier": self.mn_id.identifier.hex(),
            "link_layer_id": None if self.link_layer_id is None else self.link_layer_id.hex(),
            "access_technology": self.access_technology,
            "prefixes": [prefix_text(prefix) for prefix in self.prefixes],
            "proxy_coa": address_text(self.proxy_coa),
            "link_local": None if self.link_local is None else address_text(self.link_local),
            "ticks": self.ticks,
            "sequence": self.sequence,
            "expires_wall_s": self.expires_wall_s,
            "ending": self.ending,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PlainBinding:
        """From the store; raises KeyError or ValueError when it is not a binding."""
        link_layer_id, link_local = value["link_layer_id"], value["link_local"]
        return cls(
            mn_id=MobileNodeIdentifier(value["subtype"], bytes.fromhex(value["identifier"])),
            link_layer_id=None if link_layer_id is None else bytes.fromhex(link_layer_id),
            access_technology=value["access_technology"],
            prefixes=tuple(IPv6Network(prefix) for prefix in value["prefixes"]),
            proxy_coa=IPv6Address(value["proxy_coa"]),
            link_local=None if link_local is None else IPv6Address(link_local),
            ticks=value["ticks"],
            sequence=value["sequence"],
            expires_wall_s=value["expires_wall_s"],
            ending=value["ending"],
        )


@dataclass(frozen=True, slots=True)
class Sought:
    """What a PBU says of the session it is about. ``prefixes``: those that are not all-zero."""

    mn_id: MobileNodeIdentifier
    prefixes: tuple[IPv6Network, ...]
    link_layer_id: bytes | None
    access_technology: int
    handoff: int
    proxy_coa: IPv6Address


@dataclass(frozen=True, slots=True)
class Found:
    """The session it is about; None: a new one. ``wait``: that one if it is de-registered in time, else a new one."""

    binding: PlainBinding | None
    wait: bool = False


class PlainCache:
    """The Binding Cache: sessions by key, by prefix and by node."""

    def __init__(self) -> None:
        self.by_key: dict[str, PlainBinding] = {}
        self._by_prefix: dict[IPv6Network, PlainBinding] = {}
        self._by_node: dict[MobileNodeIdentifier, list[PlainBinding]] = {}

    def __len__(self) -> int:
        return len(self.by_key)

    def of_node(self, mn_id: MobileNodeIdentifier) -> tuple[PlainBinding, ...]:
        """All sessions of a node, oldest first."""
        return tuple(self._by_node.get(mn_id, ()))

    def holds(self, prefix: IPv6Network) -> bool:
        """Whether ``prefix`` belongs to a session."""
        return prefix in self._by_prefix

    def add(self, binding: PlainBinding) -> None:
        """Enter a new session."""
        self.by_key[binding.key] = binding
        self._by_node.setdefault(binding.mn_id, []).append(binding)
        for prefix in binding.prefixes:
            self._by_prefix[prefix] = binding

    def remove(self, binding: PlainBinding) -> None:
        """The session is over."""
        del self.by_key[binding.key]
        sessions = self._by_node[binding.mn_id]
        sessions.remove(binding)
        if not sessions:
            del self._by_node[binding.mn_id]
        for prefix in binding.prefixes:
            del self._by_prefix[prefix]

    def find(self, sought: Sought) -> Found | Status:
        """The existence test of RFC 5213 section 5.4.1, or the status that refuses the request."""
        if sought.prefixes:
            return self._by_any_prefix(sought)
        if sought.link_layer_id is not None:
            return self._by_link_layer_id(sought)
        return self._by_identity(sought, (Handoff.BETWEEN_INTERFACES, Handoff.BETWEEN_GATEWAYS))

    def _by_any_prefix(self, sought: Sought) -> Found | Status:
        """Section 5.4.1.1."""
        binding = next((self._by_prefix[p] for p in sought.prefixes if p in self._by_prefix), None)
        if binding is None:
            return Found(None)  # (2)
        if binding.mn_id != sought.mn_id:
            return Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX  # (3)
        if not _same_set(sought.prefixes, binding.prefixes):
            return Status.BCE_PBU_PREFIX_SET_DO_NOT_MATCH  # (4)
        same_technology = sought.access_technology == binding.access_technology
        same_interface = sought.link_layer_id is not None and sought.link_layer_id == binding.link_layer_id
        nameless = sought.link_layer_id is None and binding.link_layer_id is None
        if (
            (same_interface and same_technology)
            or sought.handoff == Handoff.BETWEEN_INTERFACES
            or (nameless and same_technology and sought.handoff == Handoff.BETWEEN_GATEWAYS)
            or (binding.proxy_coa == sought.proxy_coa and same_technology)
        ):
            return Found(binding)  # (5)
        return Found(None)  # (6)

    def _by_link_layer_id(self, sought: Sought) -> Found:
        """Section 5.4.1.2."""
        for binding in self.of_node(sought.mn_id):
            same_interface = binding.link_layer_id == sought.link_layer_id
            if same_interface and binding.access_technology == sought.access_technology:
                return Found(binding)  # (2)
        return self._by_identity(sought, (Handoff.BETWEEN_INTERFACES,))  # (3), (4)

    def _by_identity(self, sought: Sought, certain: tuple[Handoff, ...]) -> Found:
        """Section 5.4.1.3: the node's only session, if the MAG is certain that the node was handed over."""
        sessions = self.of_node(sought.mn_id)
        if len(sessions) != 1:
            return Found(None)
        if sought.handoff in certain:
            return Found(sessions[0])
        if sought.handoff == Handoff.UNKNOWN:
            return Found(sessions[0], wait=not sessions[0].ending)
        return Found(None)


def _same_set(some: Iterable[IPv6Network], others: Iterable[IPv6Network]) -> bool:
    return sorted(some) == sorted(others)
