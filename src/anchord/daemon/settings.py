"""From what the operator wrote to what the protocol and the kernel layer take."""

from __future__ import annotations

import hmac
from ipaddress import IPv6Address

from anchord.daemon.config import DomainConfig, NodeConfig
from anchord.kernel.forwarding import PlaneSettings
from anchord.protocol.settings import (
    CentralSettings,
    DomainSettings,
    Finding,
    GatewayInfo,
    GatewaySettings,
    Lifetimes,
    Limits,
    LmaInfo,
    LmaSettings,
    Mode,
    Timing,
)


def router_key(secret: bytes) -> bytes:
    """What the protocol derives routers from (decision 15): it is recorded with the settings, and the secret is not.

    One way: nobody who has it can say what only the secret lets one say, as a gateway's hello.
    """
    return hmac.digest(secret, b"anchord routers", "sha256")


def domain_settings(config: DomainConfig) -> DomainSettings:
    """The domain as the protocol knows it."""
    gateways = {
        gateway.address: GatewayInfo(
            name, gateway.address, gateway.pools, gateway.local_networks, gateway.operator or ""
        )
        for name, gateway in config.gateways.items()
    }
    lmas = {lma.address: LmaInfo(name, lma.address, lma.pools, lma.stands_for) for name, lma in config.lmas.items()}
    lifetimes, timers, limits, pmip = config.lifetimes, config.timers, config.limits, config.pmip
    return DomainSettings(
        secret=router_key(config.secret),
        central=None if config.central is None else config.central.address,
        gateways=gateways,
        mode=Mode.PROXY if config.central is None else Mode(config.central.mode),
        finding=Finding(config.finder),
        lifetimes=Lifetimes(
            lifetimes.valid_s,
            lifetimes.preferred_s,
            lifetimes.router_s,
            lifetimes.advertise_every_s,
            lifetimes.binding_s,
        ),
        timing=Timing(
            initial_bindack_s=timers.initial_bindack_ms / 1000,
            max_bindack_s=timers.max_bindack_ms / 1000,
            gather_s=timers.gather_ms / 1000,
            fallback_s=timers.fallback_ms / 1000,
            timestamp_window_s=pmip.timestamp_validity_window_ms / 1000,
            min_delay_before_bce_delete_s=pmip.min_delay_before_bce_delete_ms / 1000,
            max_delay_before_new_bce_assign_s=pmip.max_delay_before_new_bce_assign_ms / 1000,
            probe_after_s=timers.probe_after_s,
            idle_release_s=timers.idle_release_s,
            refresh_share=timers.refresh_percent / 100,
            heartbeat_s=timers.heartbeat_s,
            revocation_s=timers.revocation_ms / 1000,
            max_revocation_s=timers.max_revocation_ms / 1000,
            notification_replay_s=timers.update_notification_replay_ms / 1000,
        ),
        limits=Limits(
            hosts=limits.hosts_per_gateway,
            bindings=limits.sessions,
            anchors_per_host=limits.anchors_per_host,
            notification_retransmits=limits.update_notification_retransmits,
            attaches_per_s=limits.attaches_per_s,
            max_update_rate=limits.max_update_rate_per_s,
            updates_per_s=limits.updates_per_s,
            missing_heartbeats=limits.missing_heartbeats,
            revocation_retries=limits.revocation_retries,
        ),
        digest=bytes.fromhex(config.digest),
        mobility=config.mobility,
        serve_unregistered=config.serve_unregistered,
        strict_8885=config.strict_8885,
        timestamps=pmip.timestamp_based_approach_in_use,
        lmas=lmas,
        fixed_anchors={host: config.lmas[p.lma].address for p in config.policy for host in p.hosts},
        fixed_link_local=pmip.fixed_mag_link_local_address_on_all_access_links,
        fixed_mac=pmip.fixed_mag_link_layer_address_on_all_access_links,
        resolvers=config.resolvers,
    )


def gateway_settings(config: NodeConfig) -> GatewaySettings:
    """A gateway as the protocol knows it."""
    domain = domain_settings(config.domain)
    listed = None if config.hosts == "any" else frozenset(_identifier(entry) for entry in config.listed)
    return GatewaySettings(
        me=domain.gateways[config.address],
        domain=domain,
        ignore=frozenset(config.ignore),
        listed=listed,
        neighbours=tuple(config.domain.gateways[name].address for name in config.neighbours),
    )


def central_settings(config: NodeConfig) -> CentralSettings:
    """The CMD as the protocol knows it."""
    listed = None if config.hosts == "any" else frozenset(_identifier(entry) for entry in config.listed)
    central = config.domain.central
    idle_release = central is None or central.idle_release == "accept"
    denied = frozenset(_identifier(entry) for entry in config.denied)
    return CentralSettings(domain_settings(config.domain), listed, denied, idle_release)


def plane_settings(config: NodeConfig) -> PlaneSettings:
    """A gateway or an LMA as the kernel layer knows it."""
    domain = config.domain
    if config.role == "lma":
        peers, pools = tuple(lma_peers(config)), config.lma.pools
    else:
        gateways = (gateway.address for gateway in domain.gateways.values() if gateway.address != config.address)
        peers, pools = (*gateways, *(lma.address for lma in domain.lmas.values())), config.gateway.pools
    return PlaneSettings(
        address=config.address,
        pools=pools,
        access=config.access,
        core=config.core,
        peers=peers,
        idle_s=config.domain.timers.idle_release_s,
        local_routing=domain.pmip.enable_mag_local_routing and config.role == "gateway",
    )


def lma_settings(config: NodeConfig) -> LmaSettings:
    """An LMA as the protocol knows it."""
    domain = domain_settings(config.domain)
    listed = None if config.hosts == "any" else frozenset(_identifier(entry) for entry in config.listed)
    return LmaSettings(
        me=domain.lmas[config.address],
        domain=domain,
        mags=frozenset(config.lma.mags),
        operators=config.lma.operators,
        listed=listed,
        denied=frozenset(_identifier(entry) for entry in config.denied),
    )


def lma_peers(config: NodeConfig) -> dict[IPv6Address, str]:
    """Whom an LMA hears and tunnels to, each with a name."""
    gateways = {gateway.address: name for name, gateway in config.domain.gateways.items()}
    return {address: str(address) for address in config.lma.mags} | gateways


def _identifier(entry: str) -> bytes:
    """A listed host as its identifier on the wire: a MAC address as six bytes, anything else as it is."""
    parts = entry.split(":")
    if len(parts) == 6 and all(len(part) == 2 for part in parts):
        return bytes.fromhex("".join(parts))
    return entry.encode()
