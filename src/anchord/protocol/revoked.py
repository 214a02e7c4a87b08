"""A gateway whose bindings are revoked (RFC 5846 section 9.1).

The CMD may revoke everything; another gateway, or an LMA, what it anchors of a node that is served here. The node is
named by its identifier of whatever subtype (RFC 5846 writes of NAIs; ours are EUI-48, decision 29), and by its
link-layer identifier where it has several interfaces. That a node has moved is believed when it does not answer here.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from anchord.protocol.core import GatewayCore
from anchord.protocol.identity import mn_id_text, session_key
from anchord.protocol.outputs import Send
from anchord.protocol.presence import ATTACHED
from anchord.protocol.revoking import acknowledgement
from anchord.protocol.serving import ServingRole
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingRevocationIndication, RevocationFlag, RevocationStatus, RevocationTrigger
from anchord.wire.options import HomeNetworkPrefix, MobileNodeIdentifier, MobileNodeLinkLayerIdentifier

_GLOBAL = (RevocationTrigger.PER_PEER_POLICY, RevocationTrigger.REVOKING_MOBILITY_NODE_LOCAL_POLICY)
_MOVED = (
    RevocationTrigger.HANDOVER_SAME_ACCESS_TYPE,
    RevocationTrigger.HANDOVER_DIFFERENT_ACCESS_TYPE,
    RevocationTrigger.HANDOVER_UNKNOWN,
)


class RevokedRole:
    """Binding Revocation Indications, carried out and answered."""

    def __init__(self, core: GatewayCore, serving: ServingRole) -> None:
        self._core = core
        self._serving = serving

    def indicated(self, source: IPv6Address, indication: BindingRevocationIndication, now: Instant) -> None:
        """RFC 5846 section 6.1.2: whatever is not discarded is answered."""
        if indication.trigger in _MOVED and _judge(indication) is None:
            session = self._session(indication)
            if session is not None and session.phase is Phase.SERVING and self._is_meant(source, session, indication):
                # Section 9.1: we are to make sure that it is not attached any more.
                self._serving.presence.doubt(session, source, indication, now)
                return
        self._answer(source, indication, now)

    def unanswered(self, session: Session, now: Instant) -> None:
        """The node was asked whether it is here still, since it is said to have gone."""
        if session.heard_s > session.said_gone_s:
            self._serving.presence.is_here(session, now)
            return
        said, session.said_gone = session.said_gone, {}
        for source, indication in said.items():
            self._answer(source, indication, now)

    def _answer(self, source: IPv6Address, indication: BindingRevocationIndication, now: Instant) -> None:
        failed: list[IPv6Network] = []
        status = _judge(indication)
        if status is None:
            lost = self._note_lost(source, indication, now)
            status = self._revoke(source, indication, failed, now)
            if lost and status is RevocationStatus.BINDING_DOES_NOT_EXIST:
                status, failed = RevocationStatus.PARTIAL_SUCCESS, lost
        if status >= 128:
            self._core.counters.of(source).drop(f"revocation-refused.{int(status)}")
        self._core.emit(Send(source, acknowledgement(indication, status, failed)))

    def _revoke(
        self, source: IPv6Address, indication: BindingRevocationIndication, failed: list[IPv6Network], now: Instant
    ) -> RevocationStatus:
        """What is asked for and not held is ``failed``."""
        session = self._session(indication)
        held = [] if session is None else self._revocable(source, session)
        asked = [option.prefix for option in indication.all(HomeNetworkPrefix)] or held
        revoked = [prefix for prefix in held if prefix in asked]
        if session is None or not revoked:
            return RevocationStatus.BINDING_DOES_NOT_EXIST
        moved = indication.trigger in _MOVED
        if moved and session.phase is Phase.REGISTERING:
            return ATTACHED  # it has come since, and the news is on its way
        failed += [prefix for prefix in asked if prefix not in held]
        self._core.report(
            "revoked",
            mn=mn_id_text(session.mn_id),
            prefixes=[str(prefix) for prefix in revoked],
            by=str(source),
            trigger=indication.trigger,
        )
        left = any(prefix not in revoked for anchor in session.anchors for prefix in anchor.prefixes)
        if session.prefix in revoked or (session.is_fixed and not left):
            barred = indication.trigger == RevocationTrigger.ADMINISTRATIVE_REASON
            self._serving.revoked(session, now, barred, moved)
        else:
            self._serving.lose_prefixes(session, revoked, now)
        return RevocationStatus.PARTIAL_SUCCESS if failed else RevocationStatus.SUCCESS

    def _note_lost(
        self, source: IPv6Address, indication: BindingRevocationIndication, now: Instant
    ) -> list[IPv6Network]:
        """The CMD names what the node lost before it came here, and may still have addresses of: it will be told.

        There is nothing of it to revoke here, and the answer names it. None is returned that was known.
        """
        session, domain = self._session(indication), self._core.settings.domain
        if session is None or session.phase is Phase.AWAY or session.is_fixed or source != domain.central:
            return []
        if indication.trigger != RevocationTrigger.POSSIBLE_OUT_OF_SYNC_BCE_STATE:
            return []
        held = self._revocable(source, session)
        asked = [option.prefix for option in indication.all(HomeNetworkPrefix)]
        lost = [prefix for prefix in asked if prefix not in held and domain.anchor_of(prefix) is not None]
        return lost if self._serving.note_given_up(session, lost, now) else []

    def _session(self, indication: BindingRevocationIndication) -> Session | None:
        mn_id = indication.first(MobileNodeIdentifier)
        ll_id = indication.first(MobileNodeLinkLayerIdentifier)
        if mn_id is None:
            return None
        return self._core.sessions.get(session_key(mn_id, ll_id.identifier if ll_id else None))

    def _revocable(self, source: IPv6Address, session: Session) -> list[IPv6Network]:
        """What ``source`` has a say in."""
        central = source == self._core.settings.domain.central
        central = central and not session.is_fixed
        anchors = [anchor for anchor in session.anchors if central or anchor.maar == source]
        own = [session.prefix] if central else []
        return own + [prefix for anchor in anchors for prefix in anchor.prefixes]

    def _is_meant(self, source: IPv6Address, session: Session, indication: BindingRevocationIndication) -> bool:
        held = self._revocable(source, session)
        asked = [option.prefix for option in indication.all(HomeNetworkPrefix)] or held
        return any(prefix in asked for prefix in held)


def _judge(indication: BindingRevocationIndication) -> RevocationStatus | None:
    """RFC 5846 sections 6.2.1 and 9.1; None: it may be carried out."""
    if indication.flags & RevocationFlag.GLOBAL:
        # Nobody here has to say "all of them": every session has its own owner.
        return RevocationStatus.GLOBAL_REVOCATION_NOT_AUTHORIZED
    if indication.trigger in _GLOBAL or not indication.flags & RevocationFlag.PROXY:
        return RevocationStatus.REVOCATION_FUNCTION_NOT_SUPPORTED
    if indication.trigger not in list(RevocationTrigger):
        return RevocationStatus.REVOCATION_TRIGGER_NOT_SUPPORTED
    if indication.flags & RevocationFlag.IPV4_ONLY:
        return RevocationStatus.BINDING_DOES_NOT_EXIST  # no node here has an IPv4 home address
    mn_id = indication.first(MobileNodeIdentifier)
    if mn_id is None or not mn_id.identifier:
        return RevocationStatus.REVOKED_MOBILE_NODES_IDENTITY_REQUIRED
    return None
