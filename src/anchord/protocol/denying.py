"""A node that must not be served here: what its refusal asks of us (RFC 5213 section 6.9.1.2 (7) to (11))."""

from __future__ import annotations

from anchord.protocol.advertising import Advertising
from anchord.protocol.core import GatewayCore
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant
from anchord.wire.messages import Status


def deny(core: GatewayCore, advertising: Advertising, session: Session, status: int, now: Instant) -> None:
    """No prefix, no forwarding (RFC 5213 section 6.9.1.2 (11)), and no further frames of it for a while."""
    interface, mac = session.interface, session.mac
    if status == Status.PROXY_REG_NOT_ENABLED and len(core.barred) < core.settings.domain.limits.hosts:
        core.barred[mac] = None  # section 6.9.1.2 (7): until somebody has put it right, and restarts us
    core.timers.cancel(("fallback", session.key))
    if session.phase is Phase.SERVING:
        advertising.withdraw_all(session)
    if session.serving is not None:
        # It stays our node elsewhere, as far as we know.
        session.phase = Phase.AWAY
        session.interface = None
        core.persist(session)
        core.declare(session)
    else:
        # 155: never the same prefix again (RFC 5213 section 6.9.1.2 (10)); a rested one is offered next time.
        core.close(session, now, heed=False, rest=status == Status.NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX)
    if interface is not None:
        core.timers.set(("heed", f"{interface}/{mac.hex()}"), now.monotonic_s + core.settings.domain.timing.refuse_s)
