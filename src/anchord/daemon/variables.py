"""What a domain agrees on in numbers: lifetimes, timers, limits, and the variables of RFC 5213 section 9."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address
from typing import Any

from anchord.daemon.configfile import (
    Conflict,
    LinkLocal,
    Mac,
    Table,
    flag,
    text,
    whole,
)

GATHER_MARGIN_MS = 50  # a fallback must leave the central database's partial answer this long to arrive


class Lifetimes(Table):
    """What hosts and peers are promised, and for how long. A host cannot be told less than 2 h once it was told more
    (RFC 4862 section 5.5.3 e), hence the upper bound."""

    valid_s: int = whole(600, 30, 7200, "seconds", "Valid lifetime of an advertised prefix")
    preferred_s: int = whole(300, 15, 7200, "seconds", "Preferred lifetime of the prefix of the gateway a host is at")
    router_s: int = whole(600, 15, 9000, "seconds", "Router lifetime in advertisements (RFC 4861 section 6.2.1)")
    advertise_every_s: int = whole(100, 4, 1800, "seconds", "How often the promises to a host are renewed")
    binding_s: int = whole(600, 12, 7200, "seconds", "Lifetime asked for in a PBU; a multiple of 4 (RFC 6275)")

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """Preferred <= valid; renewed before it runs out; a lifetime that the wire can carry."""
        valid, preferred, router, every, binding = (cls.number(raw, key) for key in cls.model_fields)
        if preferred > valid:
            yield ("preferred_s",), f"is {preferred}, expected at most valid_s ({valid})"
        if every >= preferred:
            yield ("advertise_every_s",), f"is {every}, expected less than preferred_s ({preferred})"
        if every >= router:
            yield ("advertise_every_s",), f"is {every}, expected less than router_s ({router})"
        if binding % 4:
            yield ("binding_s",), f"is {binding}, expected a multiple of 4 (RFC 6275 section 6.1.7)"


class Timers(Table):
    """How long something is waited for."""

    gather_ms: int = whole(
        100, 10, 10_000, "milliseconds", "How long answers of anchors are gathered (not in mode proxy)"
    )
    fallback_ms: int = whole(
        250, 61, 60_000, "milliseconds", "The central database is silent for so long: the gateway goes on without it"
    )
    initial_bindack_ms: int = whole(
        1000, 100, 32_000, "milliseconds", "INITIAL_BINDACK_TIMEOUT: first repetition of a PBU (RFC 8885 section 3.6)"
    )
    max_bindack_ms: int = whole(
        32_000, 100, 256_000, "milliseconds", "MAX_BINDACK_TIMEOUT: the doubling stops here (RFC 8885 section 3.6)"
    )
    refresh_percent: int = whole(
        50, 10, 90, "percent", "A binding is refreshed when this much of its granted lifetime has passed"
    )
    idle_release_s: int = whole(
        300, 1, 86_400, "seconds", "A prefix that is anchored elsewhere and not used for so long is given up"
    )
    probe_after_s: int = whole(
        30, 1, 3600, "seconds", "Before a refresh, a host not heard for so long is probed (three solicitations)"
    )
    heartbeat_s: int = whole(
        60, 30, 3600, "seconds", "HEARTBEAT_INTERVAL: peers with bindings are asked whether they are there (RFC 5847)"
    )
    revocation_ms: int = whole(
        1000, 500, 60_000, "milliseconds", "InitMINDelayBRIs: first repetition of a revocation (RFC 5846 section 11)"
    )
    max_revocation_ms: int = whole(
        2000, 500, 60_000, "milliseconds", "MAX_BRACK_TIMEOUT: the doubling stops here (RFC 5846 section 11)"
    )

    update_notification_replay_ms: int = whole(
        1000, 500, 5000, "milliseconds", "MIN_DELAY_BETWEEN_UPDATE_NOTIFICATION_REPLAY (RFC 7077 section 7)"
    )

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """The fallback waits for the partial answer, and the back-off has somewhere to go."""
        gather, fallback = cls.number(raw, "gather_ms"), cls.number(raw, "fallback_ms")
        if fallback <= gather + GATHER_MARGIN_MS:
            least = gather + GATHER_MARGIN_MS
            yield ("fallback_ms",), f"is {fallback}, expected more than gather_ms + {GATHER_MARGIN_MS} ({least})"
        first, last = cls.number(raw, "initial_bindack_ms"), cls.number(raw, "max_bindack_ms")
        if last < first:
            yield ("max_bindack_ms",), f"is {last}, expected at least initial_bindack_ms ({first})"
        first, last = cls.number(raw, "revocation_ms"), cls.number(raw, "max_revocation_ms")
        if last < first:
            yield ("max_revocation_ms",), f"is {last}, expected at least revocation_ms ({first})"


class Limits(Table):
    """A limit on everything that a host or a peer can make grow; whatever meets one is counted."""

    hosts_per_gateway: int = whole(10_000, 1, 1_000_000, "hosts", "Hosts attached to or anchored at one gateway")
    anchors_per_host: int = whole(
        7, 1, 16, "prefixes",
        "Prefixes that a host may have addresses of, given up ones included; it gets no new one beyond that",
    )  # fmt: skip
    update_notification_retransmits: int = whole(
        1, 0, 5, "messages", "MAX_UPDATE_NOTIFICATION_RETRANSMIT_COUNT (RFC 7077 section 7)"
    )
    attaches_per_s: int = whole(100, 1, 100_000, "1/s", "New hosts that one gateway takes, on average")
    updates_per_s: int = whole(
        2000, 1, 1_000_000, "1/s", "PBUs sent to all peers together: no bursts (RFC 8885 section 3.2)"
    )
    max_update_rate_per_s: int = whole(
        3, 1, 100, "1/s", "MAX_UPDATE_RATE: PBUs about one host to one peer (RFC 8885 section 3.6)"
    )
    sessions: int = whole(
        100_000, 1, 10_000_000, "hosts", "Sessions that the central database keeps, or records that the directory does"
    )
    missing_heartbeats: int = whole(
        3, 1, 100, "messages", "MISSING_HEARTBEATS_ALLOWED: a peer that leaves out so many is reported (RFC 5847)"
    )
    revocation_retries: int = whole(
        1, 0, 10, "messages", "BRIMaxRetriesNumber: repetitions of a revocation (RFC 5846 section 11)"
    )


class Pmip(Table):
    """The configuration variables of RFC 5213 section 9; they have to be the same in the whole domain."""

    min_delay_before_bce_delete_ms: int = whole(
        10_000, 0, 600_000, "milliseconds", "MinDelayBeforeBCEDelete (9.1): how long a session outlives its end"
    )
    max_delay_before_new_bce_assign_ms: int = whole(
        1500, 0, 600_000, "milliseconds", "MaxDelayBeforeNewBCEAssign (9.1): wait for the end of an old session"
    )
    timestamp_validity_window_ms: int = whole(
        300, 1, 3_600_000, "milliseconds", "TimestampValidityWindow (9.1): how far two clocks may differ"
    )
    enable_mag_local_routing: bool = flag(False, "EnableMAGLocalRouting (9.2)")
    timestamp_based_approach_in_use: bool = flag(
        True, "TimestampBasedApproachInUse (9.3): order messages by time; false: by sequence number"
    )
    mobile_node_generated_timestamp_in_use: bool = flag(False, "MobileNodeGeneratedTimestampInUse (9.3)")
    fixed_mag_link_local_address_on_all_access_links: LinkLocal = text(
        IPv6Address("::"), "a link-local IPv6 address, or '::' for none",
        "FixedMAGLinkLocalAddressOnAllAccessLinks (9.3); only where RFC 8885's logical routers are not in use",
    )  # fmt: skip
    fixed_mag_link_layer_address_on_all_access_links: Mac = text(
        bytes(6), "a MAC address, or '00:00:00:00:00:00' for none",
        "FixedMAGLinkLayerAddressOnAllAccessLinks (9.3); as above",
    )  # fmt: skip

    @classmethod
    def conflicts(cls, raw: Mapping[str, Any]) -> Iterable[Conflict]:
        """The node-generated timestamp needs timestamps (RFC 5213 section 9.3, MUST NOT)."""
        key = "mobile_node_generated_timestamp_in_use"
        if raw.get(key) is True and raw.get("timestamp_based_approach_in_use") is False:
            yield (key,), "is true, expected false without timestamp_based_approach_in_use (RFC 5213 section 9.3)"
