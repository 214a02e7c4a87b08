"""What ``anchord show`` shows: plain rows, made of the protocol objects. The keys are documented in docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address
from typing import Any

from anchord.declared import HostState
from anchord.protocol.binding import Binding
from anchord.protocol.central import Central
from anchord.protocol.counters import Counters, PeerCounters
from anchord.protocol.gateway import Gateway
from anchord.protocol.groups import Anchor
from anchord.protocol.identity import mac_text, mn_id_text
from anchord.protocol.lma import Lma
from anchord.protocol.plain_binding import PlainBinding
from anchord.protocol.session import Phase, Session
from anchord.protocol.timers import Instant
from anchord.store.directory import Entry
from anchord.wire.options import MobileNodeIdentifier

Row = dict[str, Any]


def of_gateway(
    gateway: Gateway, what: str, mn: str | None, names: Mapping[IPv6Address, str], now: Instant
) -> list[Row]:
    """``what`` is bindings, prefixes, tunnels or peers; ``mn`` an identifier or MAC address, or None for all."""
    sessions = [s for s in gateway.sessions.values() if mn is None or mn in (mn_id_text(s.mn_id), mac_text(s.mac))]
    if what == "bindings":
        return [_session_row(session, gateway, now) for session in sessions]
    if what == "prefixes":
        rows = [row for session in sessions for row in _prefix_rows(session)]
        if mn is None:
            rows += [_resting_row(str(prefix), until) for prefix, until in gateway.resting().items()]
        return rows
    if what == "tunnels":
        return _tunnel_rows((session.forwarding() for session in sessions), names)
    return peer_rows(gateway.counters, names)


def of_central(
    central: Central, what: str, mn: str | None, names: Mapping[IPv6Address, str], now: Instant
) -> list[Row]:
    """As ``of_gateway``; a CMD has no tunnels."""
    if what == "peers":
        return peer_rows(central.counters, names)
    bindings = [b for b in central.bindings.values() if mn is None or mn in (mn_id_text(b.mn_id), _binding_mac(b))]
    if what == "bindings":
        return [_binding_row(binding, now) for binding in bindings]
    if what == "prefixes":
        return [row for binding in bindings for row in _held_rows(binding)]
    return []


def of_lma(lma: Lma, what: str, mn: str | None, names: Mapping[IPv6Address, str], now: Instant) -> list[Row]:
    """As ``of_gateway``: sessions of plain PMIPv6, and those between operators."""
    if what == "peers":
        return peer_rows(lma.counters, names)
    bindings = [b for b in lma.bindings.values() if mn is None or mn in (mn_id_text(b.mn_id), _binding_mac(b))]
    plain = [b for b in lma.plain_bindings.values() if mn is None or mn in (mn_id_text(b.mn_id), _plain_mac(b))]
    if what == "bindings":
        return [*(_plain_row(binding, now) for binding in plain), *(_binding_row(b, now) for b in bindings)]
    if what == "prefixes":
        rows = [row for binding in plain for row in _plain_prefix_rows(binding)]
        rows += [row for binding in bindings for row in _held_rows(binding)]
        return rows + ([_resting_row(str(p), until) for p, until in lma.resting().items()] if mn is None else [])
    keys = {*(binding.key for binding in plain), *(binding.key for binding in bindings)}
    return _tunnel_rows((state for key, state in lma.forwarding().items() if key in keys), names)


def _session_row(session: Session, gateway: Gateway, now: Instant) -> Row:
    here = session.phase is Phase.SERVING
    return {
        "mn_id": mn_id_text(session.mn_id),
        "mac": mac_text(session.mac),
        "state": session.phase.value,
        "interface": session.interface,
        "serving": str(gateway.settings.me.address if here else session.serving or "") or None,
        "prefix": None if session.is_fixed else str(session.prefix),
        "router": {"mac": mac_text(session.router.mac), "address": str(session.router.address)},
        "anchors": _anchor_rows(session.anchors),
        "lifetime_left_s": round(max(session.expires_wall_s - now.wall_s, 0.0), 1),
        "registered": session.registered,
        "withheld": session.withheld,
    }


def _prefix_rows(session: Session) -> list[Row]:
    return [
        {
            "prefix": str(entry.prefix),
            "mn_id": mn_id_text(session.mn_id),
            "role": entry.role.value,
            "peer": str(entry.peer) if entry.peer is not None else None,
            "state": "leased",
            "until": session.expires_wall_s,
        }
        for entry in session.forwarding().entries
    ]


def _resting_row(prefix: str, until: float) -> Row:
    return {"prefix": prefix, "mn_id": None, "role": None, "peer": None, "state": "quarantined", "until": until}


def _tunnel_rows(states: Iterable[HostState], names: Mapping[IPv6Address, str]) -> list[Row]:
    rows: dict[IPv6Address, Row] = {}
    for state in states:
        for entry in state.entries:
            for end in (entry.peer, entry.anchor):
                if end is not None:
                    fresh = {"peer": str(end), "name": names.get(end), "imported": 0, "exported": 0, "transit": 0}
                    rows.setdefault(end, fresh)[entry.role.value] += 1
    return list(rows.values())


def peer_rows(counters: Counters, names: Mapping[IPv6Address, str]) -> list[Row]:
    """One row for each configured peer, and one for everybody else."""
    rows = [_peer_row(str(peer), names.get(peer), kept) for peer, kept in counters.peers.items()]
    return [*rows, _peer_row("others", None, counters.strangers)]


def _peer_row(peer: str, name: str | None, kept: PeerCounters) -> Row:
    return {
        "peer": peer,
        "name": name,
        "messages_in": kept.messages_in,
        "messages_out": kept.messages_out,
        "repeated": kept.repeated,
        "same_domain": kept.same_domain,
        "clock_skew_ms": kept.clock_skew_ms,
        "reachable": kept.reachable,
        "restart_counter": kept.restart_counter,
        "dropped": dict(kept.dropped),
        "refused": dict(kept.refused),
        "last_heard_s": kept.last_heard_wall_s,
    }


def _binding_mac(binding: Binding) -> str:
    return mac_text(binding.link_layer_id or b"")


def _binding_row(binding: Binding, now: Instant) -> Row:
    return {
        "mn_id": mn_id_text(binding.mn_id),
        "mac": _binding_mac(binding),
        "state": "ending" if binding.ending else "bound",
        "serving": str(binding.serving.maar),
        "prefix": str(binding.serving.prefixes[0]),
        "anchors": _anchor_rows(binding.anchors),
        "unconfirmed": [str(maar) for maar in binding.unconfirmed],
        "lifetime_left_s": round(max(binding.expires_wall_s - now.wall_s, 0.0), 1),
        "registered": True,
        "withheld": binding.withheld,
    }


def _plain_mac(binding: PlainBinding) -> str:
    return mac_text(binding.link_layer_id or b"")


def _plain_row(binding: PlainBinding, now: Instant) -> Row:
    return {
        "mn_id": mn_id_text(binding.mn_id),
        "mac": _plain_mac(binding),
        "state": "ending" if binding.ending else "bound",
        "serving": str(binding.proxy_coa),
        "prefix": str(binding.prefixes[0]),
        "anchors": [],
        "lifetime_left_s": round(max(binding.expires_wall_s - now.wall_s, 0.0), 1),
        "registered": True,
    }


def _plain_prefix_rows(binding: PlainBinding) -> list[Row]:
    return [
        {
            "prefix": str(prefix),
            "mn_id": mn_id_text(binding.mn_id),
            "role": "exported",
            "peer": str(binding.proxy_coa),
            "state": "leased",
            "until": binding.expires_wall_s,
        }
        for prefix in binding.prefixes
    ]


def _held_rows(binding: Binding) -> list[Row]:
    held = [("serving", binding.serving), *(("anchored", anchor) for anchor in binding.anchors)]
    return [
        {
            "prefix": str(prefix),
            "mn_id": mn_id_text(binding.mn_id),
            "role": role,
            "peer": str(anchor.maar),
            "state": "leased",
            "until": binding.expires_wall_s,
        }
        for role, anchor in held
        for prefix in anchor.prefixes
    ]


def of_directory(entries: Iterable[Entry], mn: str | None, now: Instant) -> list[Row]:
    """The records of a directory as bindings; one that makes no sense to us is left out."""
    rows = [row for entry in entries if (row := _record_row(entry, now)) is not None]
    return [row for row in rows if mn is None or mn in (row["mn_id"], row["mac"])]


def _record_row(entry: Entry, now: Instant) -> Row | None:
    try:
        identity, _, mac = entry.key.partition("/")
        subtype, _, identifier = identity.partition(":")
        record = entry.value or {}
        anchors = [Anchor.from_json(anchor) for anchor in record["anchors"]]
        serving = Anchor.from_json(record["serving"])
        return {
            "mn_id": mn_id_text(MobileNodeIdentifier(int(subtype), bytes.fromhex(identifier))),
            "mac": mac_text(bytes.fromhex(mac)),
            "state": "bound",
            "serving": str(serving.maar),
            "prefix": str(serving.prefixes[0]),
            "anchors": _anchor_rows(anchors),
            "lifetime_left_s": round(max(record["expires_wall_s"] - now.wall_s, 0.0), 1),
            "registered": True,
            "revision": entry.revision,
        }
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _anchor_rows(anchors: Iterable[Anchor]) -> list[Row]:
    return [
        {"gateway": str(anchor.maar), "prefixes": [str(prefix) for prefix in anchor.prefixes]} for anchor in anchors
    ]
