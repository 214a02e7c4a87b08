"""Whether the CMD accepts a PBU: the checks of RFC 5213 section 5.3.1, in the order given there.

Where RFC 8885 contradicts RFC 5213: a PBU for a known node with a *new* prefix from another gateway is a handover, not
a second session (RFC 8885 section 3.2 (2) against RFC 5213 section 5.4.1.1; decision 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network

from anchord.protocol.binding import Binding, BindingCache
from anchord.protocol.counters import Counters
from anchord.protocol.exchange import judge_timestamp, sequence_is_newer
from anchord.protocol.identity import session_key
from anchord.protocol.settings import CentralSettings, GatewayInfo
from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingUpdate, BindingUpdateFlag, Status
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Timestamp,
)


@dataclass(frozen=True, slots=True)
class Request:
    """A PBU that passed all checks."""

    update: BindingUpdate
    gateway: GatewayInfo
    mn_id: MobileNodeIdentifier
    link_layer_id: bytes | None
    key: str
    ticks: int
    prefixes: tuple[IPv6Network, ...]
    binding: Binding | None


class Checks:
    """Judges PBUs by what the CMD knows already."""

    def __init__(self, settings: CentralSettings, cache: BindingCache, counters: Counters) -> None:
        self._settings = settings
        self._domain = settings.domain
        self._cache = cache
        self._counters = counters

    def check(  # noqa: PLR0911 - one return for each status, in the order that the RFC prescribes
        self, update: BindingUpdate, gateway: GatewayInfo, now: Instant
    ) -> Request | Status:
        """The PBU as a request, or the status that refuses it."""
        mn_id = update.first(MobileNodeIdentifier)
        if mn_id is None or not mn_id.identifier:
            return Status.MISSING_MN_IDENTIFIER_OPTION  # (4)
        if not update.flags & BindingUpdateFlag.DISTRIBUTED:
            return Status.ADMINISTRATIVELY_PROHIBITED  # decision 21: we are no plain LMA
        if self._settings.listed is not None and mn_id.identifier not in self._settings.listed:
            return Status.NOT_LMA_FOR_THIS_MOBILE_NODE  # (7)
        if mn_id.identifier in self._settings.denied:
            return Status.PROXY_REG_NOT_ENABLED  # (8)
        link_layer_id = update.first(MobileNodeLinkLayerIdentifier)
        identifier = link_layer_id.identifier if link_layer_id is not None else None
        key = session_key(mn_id, identifier)
        binding = self._cache.by_key.get(key)
        stamp = update.first(Timestamp)
        order = self._check_order(update, gateway, binding, stamp, now)  # (9)
        if order is not None:
            return order
        prefixes = tuple(option.prefix for option in update.all(HomeNetworkPrefix))
        if not prefixes:
            return Status.MISSING_HOME_NETWORK_PREFIX_OPTION  # (10)
        if update.first(HandoffIndicator) is None:
            return Status.MISSING_HANDOFF_INDICATOR_OPTION  # (11)
        if update.first(AccessTechnologyType) is None:
            return Status.MISSING_ACCESS_TECH_TYPE_OPTION  # (12)
        if not self._may_hold(key, prefixes, gateway):
            return Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX
        if binding is not None and self._is_foreign_set(binding, update, gateway, prefixes):
            return Status.BCE_PBU_PREFIX_SET_DO_NOT_MATCH
        if binding is None and len(self._cache) >= self._domain.limits.bindings:
            self._counters.count("limit.bindings")
            return Status.INSUFFICIENT_RESOURCES
        ticks = stamp.ticks if stamp is not None else 0
        return Request(update, gateway, mn_id, identifier, key, ticks, prefixes, binding)

    def _check_order(
        self,
        update: BindingUpdate,
        gateway: GatewayInfo,
        binding: Binding | None,
        stamp: Timestamp | None,
        now: Instant,
    ) -> Status | None:
        """RFC 5213 section 5.5: by timestamp, or by sequence number where there is none (RFC 6275 section 9.5.1)."""
        if stamp is None:
            # One counter for each pair of nodes: another gateway's number says nothing (decision 8).
            same = binding is not None and binding.serving.maar == gateway.address
            if same and binding is not None and not sequence_is_newer(update.sequence, binding.sequence):
                return Status.SEQUENCE_NUMBER_OUT_OF_WINDOW
            return None
        last = binding.ticks if binding is not None else 0
        if binding is not None and stamp.ticks == last and update.sequence == binding.sequence:
            return None  # decision 11: the same message again is answered again
        return judge_timestamp(stamp.ticks, last, now.wall_s, self._domain.timing.timestamp_window_s)

    def _may_hold(self, key: str, prefixes: tuple[IPv6Network, ...], gateway: GatewayInfo) -> bool:
        """Decision 5: every prefix lies in the pool of the gateway that asks, and no other node holds it."""
        if ALL_ZERO_PREFIX in prefixes:
            return False
        return all(gateway.owns(p) and self._cache.may_hold(key, p) for p in prefixes)

    @staticmethod
    def _is_foreign_set(
        binding: Binding, update: BindingUpdate, gateway: GatewayInfo, prefixes: tuple[IPv6Network, ...]
    ) -> bool:
        """Decision 6: a *refresh* by the serving gateway has to name the prefixes of the session."""
        handoff = update.first(HandoffIndicator)
        refresh = handoff is not None and handoff.value == Handoff.UNCHANGED
        if not refresh or prefixes == binding.serving.prefixes:
            return False
        return binding.serving.maar == gateway.address and sorted(prefixes) != sorted(binding.serving.prefixes)
