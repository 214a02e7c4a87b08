"""The PBU of a serving gateway, whoever it goes to: RFC 5213 sections 6.9.1.1 and 6.9.1.5, with RFC 8885's D flag."""

from __future__ import annotations

from collections.abc import Iterable

from anchord.protocol.core import GatewayCore
from anchord.protocol.exchange import Exchange, ticks_of
from anchord.protocol.groups import Anchor, read_groups
from anchord.protocol.session import Session
from anchord.protocol.settings import GatewayInfo
from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingAcknowledgement, BindingUpdate, BindingUpdateFlag
from anchord.wire.options import (
    AccessTechnologyType,
    AnchoredPrefix,
    BindingRefreshAdvice,
    Handoff,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Option,
    Timestamp,
)

# RFC 6275 section 6.1.7, RFC 5213 section 8.1, RFC 8885 section 4.1; H is set as RFC 5213 nodes do (decision 30).
PBU_FLAGS = (
    BindingUpdateFlag.ACKNOWLEDGE
    | BindingUpdateFlag.HOME_REGISTRATION
    | BindingUpdateFlag.PROXY
    | BindingUpdateFlag.DISTRIBUTED
)


def proxy_update(
    core: GatewayCore,
    session: Session,
    handoff: Handoff,
    lifetime_s: int,
    prefixes: Iterable[HomeNetworkPrefix],
    more: Iterable[Option],
    now: Instant,
    then_s: float | None = None,
) -> tuple[BindingUpdate, int]:
    """A PBU about ``session`` and its timestamp (0: none is in use); ``more`` follows the options of RFC 5213.

    ``then_s``: the time of day that it is about, if that is not now (seconds since 1970).
    """
    ticks = max(ticks_of(now.wall_s), session.ticks + 1) if then_s is None else ticks_of(then_s)
    if not core.settings.domain.timestamps:
        ticks = 0
    options: list[Option] = [session.mn_id, *prefixes]
    options += [HandoffIndicator(handoff), AccessTechnologyType(core.settings.access_technology)]
    if ticks:
        options.append(Timestamp(ticks))
    options.append(MobileNodeLinkLayerIdentifier(session.mac))
    options += more
    return BindingUpdate(0, lifetime_s, PBU_FLAGS, tuple(options)), ticks


def retained(session: Session) -> list[AnchoredPrefix]:
    """What else the node holds (RFC 8885 section 4.3): whoever hears it knows all anchors, for pools are exclusive."""
    return [AnchoredPrefix(prefix) for anchor in session.anchors for prefix in anchor.prefixes]


def is_about(core: GatewayCore, exchange: Exchange, ack: BindingAcknowledgement) -> bool:
    """RFC 5213 section 6.9.1.2 (6): identifiers and indicators come back as they went out.

    An answer where they do not is ignored, what it says of clocks included, and the PBU is not sent again.
    """
    kinds = (MobileNodeIdentifier, HandoffIndicator, AccessTechnologyType, MobileNodeLinkLayerIdentifier)
    if all(exchange.message.first(kind) == ack.first(kind) for kind in kinds):
        return True
    core.counters.of(exchange.peer).drop("echo-mismatch")
    core.exchanges.cancel(exchange.peer, exchange.session)
    return False


def anchor_in(core: GatewayCore, session: Session, gateway: GatewayInfo, ack: BindingAcknowledgement) -> Anchor | None:
    """What ``gateway`` says in its own PBA that it anchors of a node (RFC 8885 section 3.2); None: nothing of its own.

    It speaks for its pools alone. Without a face in the PBA (RFC 8885 sections 4.7 and 4.8) the derived one is meant.
    """
    prefixes = tuple(option.prefix for option in ack.all(HomeNetworkPrefix) if gateway.owns(option.prefix))
    if not prefixes:
        return None
    own = read_groups(gateway.address, ack.options).own
    router = own.router or core.face(session.key, session.mn_id, gateway.name)
    return Anchor(gateway.address, prefixes, router, own.local_networks)


def advised_s(ack: BindingAcknowledgement) -> float | None:
    """In how many seconds the peer wants the binding refreshed (RFC 6275 section 11.7.3); None: it does not say.

    Section 6.2.4 has this below the lifetime: what is not says nothing. Nor does 0, which would be asked for ever.
    """
    advice = ack.first(BindingRefreshAdvice)
    return float(advice.interval_s) if advice is not None and 0 < advice.interval_s < ack.lifetime_s else None
