"""Mobility sessions as the CMD knows them: who serves each, who anchors what (RFC 8885 sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anchord.protocol.groups import Anchor
from anchord.protocol.identity import session_key
from anchord.protocol.journal import address_text, prefix_text
from anchord.protocol.settings import Mode
from anchord.wire.messages import BindingUpdate
from anchord.wire.options import MobileNodeIdentifier, MobileNodeLinkLayerIdentifier

# No host has addresses of more prefixes (Linux: 16 addresses): what was given up before them is past remembering.
MOST_RELEASED = 32


@dataclass(slots=True)
class Binding:
    """A Binding Cache entry: the serving gateway with its prefix, and the list of the others (P-MAAR list)."""

    key: str
    mn_id: MobileNodeIdentifier
    link_layer_id: bytes | None
    serving: Anchor
    anchors: list[Anchor] = field(default_factory=list)  # oldest first, the serving gateway never among them
    ticks: int = 0  # newest timestamp accepted from a gateway or used by us towards one
    sequence: int = 0  # of the PBU accepted last
    access_technology: int = 0
    expires_wall_s: float = 0.0
    refreshes: int = 0  # how often only its times have changed
    ending: bool = False  # de-registered; deleted when MinDelayBeforeBCEDelete is over
    withheld: bool = False  # the serving gateway does not show its prefix: the budget of the node is spent
    # Anchors that have not acknowledged who serves the node now; True: nor answered any of several questions.
    unconfirmed: dict[IPv6Address, bool] = field(default_factory=dict)
    # Prefixes given up, and until when the node may still have addresses of them (wall clock, seconds).
    released: dict[IPv6Network, float] = field(default_factory=dict)
    confirmed_wall_s: dict[IPv6Address, float] = field(default_factory=dict)  # last PBA of each anchor

    def prefixes(self) -> list[IPv6Network]:
        """Everything the node holds, the serving gateway's first."""
        return [*self.serving.prefixes, *(prefix for anchor in self.anchors for prefix in anchor.prefixes)]

    def anchor(self, maar: IPv6Address) -> Anchor | None:
        """The entry of ``maar`` in the list of previous gateways."""
        return next((anchor for anchor in self.anchors if anchor.maar == maar), None)

    def others(self, anchor: Anchor) -> list[IPv6Network]:
        """What the node uses besides what ``anchor`` anchors, the serving gateway's prefix first."""
        shown = () if self.withheld else self.serving.prefixes
        return [*shown, *(p for other in self.anchors if other.maar != anchor.maar for p in other.prefixes)]

    def announced(self, mode: Mode) -> list[Anchor]:
        """The anchors that the serving gateway hears of.

        A relay names those that have agreed. In the other modes an anchor is believed to agree until it has been silent
        for long (decision 13): a proxy does not ask before, and what an anchor of a locator told the serving gateway
        itself must not be taken from it because the CMD has not heard of it yet (decision 9).
        """
        if not self.unconfirmed:
            return self.anchors
        if mode is Mode.RELAY:
            return [anchor for anchor in self.anchors if anchor.maar not in self.unconfirmed]
        return [anchor for anchor in self.anchors if not self.unconfirmed.get(anchor.maar, False)]

    def preferred(self, mode: Mode) -> Anchor | None:
        """The anchor whose prefix the node opens new connections with, if not the serving gateway's."""
        announced = self.announced(mode) if self.withheld else []
        return announced[-1] if announced else None

    def awaited(self) -> bool:
        """Whether an anchor owes an answer that is worth waiting for."""
        return any(not silent for silent in self.unconfirmed.values())

    def unsettle(self) -> None:
        """The node has moved: every anchor has to acknowledge that. Who was silent is not waited for once more."""
        self.unconfirmed = {anchor.maar: self.unconfirmed.get(anchor.maar, False) for anchor in self.anchors}

    def forget_released(self, now_wall_s: float) -> None:
        """What the node has no addresses of any more takes nothing of its budget."""
        if self.released:
            self.released = {prefix: until for prefix, until in self.released.items() if until > now_wall_s}

    def live(self) -> int:
        """How many prefixes of the node's budget the anchors and what was released take (decision 18)."""
        return sum(len(anchor.prefixes) for anchor in self.anchors) + len(self.released)

    def release(self, anchor: Anchor, until_wall_s: float) -> None:
        """Give up what ``anchor`` anchors; the node forgets its addresses only at ``until_wall_s``."""
        self.anchors.remove(anchor)
        self.unconfirmed.pop(anchor.maar, None)
        self.confirmed_wall_s.pop(anchor.maar, None)
        self.note_released(anchor.prefixes, until_wall_s)

    def note_released(self, prefixes: Iterable[IPv6Network], until_wall_s: float) -> None:
        """The node may have addresses of these until then, although nobody anchors them any more."""
        for prefix in prefixes:
            self.released[prefix] = until_wall_s
        while len(self.released) > MOST_RELEASED:
            del self.released[next(iter(self.released))]

    def to_json(self) -> dict[str, Any]:
        """For the store; what is seldom there is left out."""
        value: dict[str, Any] = {
            "subtype": int(self.mn_id.subtype),
            "identifier": self.mn_id.identifier.hex(),
            "link_layer_id": None if self.link_layer_id is None else self.link_layer_id.hex(),
            "serving": self.serving.to_json(),
            "anchors": [anchor.to_json() for anchor in self.anchors],
            "ticks": self.ticks,
            "sequence": self.sequence,
            "access_technology": self.access_technology,
            "expires_wall_s": self.expires_wall_s,
            "ending": self.ending,
            "refreshes": self.refreshes,
        }
        if self.withheld:
            value["withheld"] = True
        if self.unconfirmed:
            value["unconfirmed"] = {address_text(maar): silent for maar, silent in self.unconfirmed.items()}
        if self.released:
            value["released"] = {prefix_text(prefix): until for prefix, until in self.released.items()}
        return value

    def times_to_json(self) -> dict[str, Any]:
        """For the store: all that a refresh changes, a tenth of the whole."""
        return {
            "refreshes": self.refreshes,
            "expires_wall_s": self.expires_wall_s,
            "ticks": self.ticks,
            "sequence": self.sequence,
        }

    def take_times(self, value: dict[str, Any]) -> None:
        """From the store, unless the whole was kept after this; raises KeyError when it is not what a refresh wrote."""
        if value["refreshes"] > self.refreshes:
            self.refreshes = value["refreshes"]
            self.expires_wall_s = value["expires_wall_s"]
            self.ticks = value["ticks"]
            self.sequence = value["sequence"]

    @classmethod
    def from_json(cls, key: str, value: dict[str, Any]) -> Binding:
        """From the store; raises KeyError or ValueError when it is not a binding."""
        link_layer_id = value["link_layer_id"]
        return cls(
            key=key,
            mn_id=MobileNodeIdentifier(value["subtype"], bytes.fromhex(value["identifier"])),
            link_layer_id=None if link_layer_id is None else bytes.fromhex(link_layer_id),
            serving=Anchor.from_json(value["serving"]),
            anchors=[Anchor.from_json(anchor) for anchor in value["anchors"]],
            ticks=value["ticks"],
            sequence=value["sequence"],
            access_technology=value["access_technology"],
            expires_wall_s=value["expires_wall_s"],
            ending=value["ending"],
            refreshes=value.get("refreshes", 0),
            withheld=value.get("withheld", False),
            unconfirmed={IPv6Address(maar): silent for maar, silent in value.get("unconfirmed", {}).items()},
            released={IPv6Network(prefix): until for prefix, until in value.get("released", {}).items()},
        )


class BindingCache:
    """Every session that the CMD knows, by session key, and who holds which prefix."""

    def __init__(self) -> None:
        self.by_key: dict[str, Binding] = {}
        self._holders: dict[IPv6Network, tuple[str, IPv6Address]] = {}  # session key, and whose prefix it is
        self._held_of: dict[IPv6Address, int] = {}  # how many of each gateway's prefixes are held

    def __len__(self) -> int:
        return len(self.by_key)

    def find(self, update: BindingUpdate) -> Binding | None:
        """The session that a PBU is about: by identity and interface, whatever its prefix (decision 6)."""
        mn_id = update.first(MobileNodeIdentifier)
        link_layer_id = update.first(MobileNodeLinkLayerIdentifier)
        if mn_id is None:
            return None
        return self.by_key.get(session_key(mn_id, link_layer_id.identifier if link_layer_id else None))

    def keep(self, binding: Binding) -> None:
        """Enter a session, or what has become of it."""
        self.by_key[binding.key] = binding
        for anchor in (binding.serving, *binding.anchors):
            for prefix in anchor.prefixes:
                if prefix not in self._holders:
                    self._held_of[anchor.maar] = self._held_of.get(anchor.maar, 0) + 1
                self._holders[prefix] = (binding.key, anchor.maar)

    def forget(self, binding: Binding) -> None:
        """The session is over."""
        self.let_go(binding.prefixes())
        del self.by_key[binding.key]

    def let_go(self, prefixes: Iterable[IPv6Network]) -> None:
        """Nobody holds these any more."""
        for prefix in prefixes:
            held = self._holders.pop(prefix, None)
            if held is not None:
                self._held_of[held[1]] -= 1

    def holder(self, prefix: IPv6Network) -> Binding | None:
        """Whose ``prefix`` is."""
        held = self._holders.get(prefix)
        return None if held is None else self.by_key.get(held[0])

    def may_hold(self, key: str, prefix: IPv6Network) -> bool:
        """Whether no other session holds ``prefix``."""
        held = self._holders.get(prefix)
        return held is None or held[0] == key

    def has_prefixes_of(self, maar: IPv6Address) -> bool:
        """Whether any node holds a prefix of that gateway, there or elsewhere."""
        return self._held_of.get(maar, 0) > 0
