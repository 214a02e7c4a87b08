"""What the CMD learns of anchors from gateways that had to go on without it (decision 26).

Pools are exclusive, so a prefix names its anchor. The anchor itself is asked before anybody counts on it.
"""

from __future__ import annotations

from dataclasses import replace

from anchord.protocol.answering import Answering
from anchord.protocol.binding import Binding, BindingCache
from anchord.protocol.groups import Anchor, read_groups
from anchord.protocol.identity import derive_router, mn_id_text
from anchord.protocol.notifying import Notifying
from anchord.protocol.outbox import Outbox
from anchord.protocol.outputs import Persist
from anchord.protocol.settings import DomainSettings, GatewayInfo, Mode
from anchord.protocol.telling import LEAST_LIFETIME_S, Telling
from anchord.protocol.timers import Instant
from anchord.wire.messages import BindingUpdate
from anchord.wire.options import AnchoredPrefix, HomeNetworkPrefix


class Learning:
    """Anchors that are added to a session because a gateway names them in option 65."""

    def __init__(
        self,
        domain: DomainSettings,
        cache: BindingCache,
        telling: Telling,
        answering: Answering,
        notifying: Notifying,
        out: Outbox,
    ) -> None:
        self._domain = domain
        self._cache = cache
        self._telling = telling
        self._answering = answering
        self._notifying = notifying
        self._out = out

    def listed(self, binding: Binding, update: BindingUpdate) -> None:
        """Decision 26: a refresh lists what the node retains, and so does a gateway that had to go on without us.

        Pools are exclusive, so each prefix names its anchor. What was given up is not taken back.
        """
        for option in update.all(AnchoredPrefix):
            if len(binding.anchors) >= self._domain.limits.anchors_per_host:
                self._out.counters.count("limit.prefixes")  # RFC 8885 section 6
                return
            owner = self._domain.anchor_of(option.prefix)
            if owner is None or owner.address == binding.serving.maar or option.prefix in binding.released:
                continue
            known = binding.anchor(owner.address)
            if not self._cache.may_hold(binding.key, option.prefix):
                continue
            if known is not None:
                if option.prefix not in known.prefixes:  # it may have given the node another one; it knows
                    binding.unconfirmed.setdefault(owner.address, False)
                continue
            router = derive_router(self._domain.secret, owner.name, binding.mn_id)
            binding.anchors.append(Anchor(owner.address, (option.prefix,), router, owner.local_networks))
            binding.unconfirmed[owner.address] = False

    def refused(self, update: BindingUpdate, gateway: GatewayInfo, now: Instant) -> None:
        """A gateway that could not reach us served the node before the one that does: it anchors what it gave it.

        Its PBU is refused, being older; nothing but its own prefix, named in option 65 as well, is taken from it.
        """
        binding = self._cache.find(update)
        own = tuple(option.prefix for option in update.all(HomeNetworkPrefix))
        if binding is None or binding.ending or not update.lifetime_s:
            return
        if not own or [option.prefix for option in update.all(AnchoredPrefix)] != [*own]:
            return
        if gateway.address == binding.serving.maar or binding.anchor(gateway.address) is not None:
            return
        may_hold = [gateway.owns(p) and self._cache.may_hold(binding.key, p) and p not in binding.released for p in own]
        lifetime_s = int(binding.expires_wall_s - now.wall_s)
        if not all(may_hold) or lifetime_s < LEAST_LIFETIME_S:
            return
        if len(binding.anchors) >= self._domain.limits.anchors_per_host:
            self._out.counters.count("limit.prefixes")  # RFC 8885 section 6
            return
        face = read_groups(gateway.address, update.options).own
        anchor = replace(face, prefixes=own)
        binding.anchors.append(anchor)
        binding.unconfirmed[anchor.maar] = False
        self._cache.keep(binding)
        self._telling.tell(binding, anchor, lifetime_s, now)
        self._out.emit(Persist("binding", binding.key, binding.to_json()))
        self._out.report("anchor-learned", mn=mn_id_text(binding.mn_id), anchor=str(anchor.maar))
        if not self._answering.settled(binding, now) and self._domain.mode is not Mode.RELAY:
            self._notifying.notify(binding, now)
