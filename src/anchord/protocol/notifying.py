"""How the CMD has a serving gateway register a node again (RFC 7077)."""

from __future__ import annotations

from anchord.protocol.binding import Binding
from anchord.protocol.outbox import Outbox
from anchord.protocol.settings import DomainSettings
from anchord.protocol.timers import Instant


class Notifying:
    def __init__(self, domain: DomainSettings, out: Outbox) -> None:
        self._domain = domain
        self._out = out

    def notify(self, binding: Binding, now: Instant) -> None: ...

    def answered(self, binding: Binding) -> None: ...

    def forget(self, binding: Binding) -> None: ...

    def next_s(self) -> float | None:
        return None

    def due(self, now: Instant) -> None: ...
