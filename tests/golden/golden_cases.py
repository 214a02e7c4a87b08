"""The golden cases: for each procedure, what happens to a domain. README.md says what each one shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from domain import CENTRAL, Domain, domain_settings, gateway_info
from golden_files import Case
from lma_domain import MAG1, MAG2, Operators, PlainLma, prefixes
from test_mag import Plain

from anchord.protocol.outputs import Send
from anchord.protocol.settings import DomainSettings, Finding, Limits, Mode
from anchord.wire.options import Handoff, HandoffIndicator, HomeNetworkPrefix

MAC = bytes.fromhex("0255aa000001")
_HOME_LAN = IPv6Network("fd00:1::/48")


def _visits(case: Case, domain: Domain, *gateways: int) -> Domain:
    """A host that comes to one gateway after the other, a second at each."""
    case.begin(domain)
    for gateway in gateways:
        domain.host_at(gateway, MAC)
        domain.pass_time(1.0)
    return domain


def _in_mode(mode: Mode) -> Domain:
    return Domain(settings=domain_settings(mode=mode))


def _found_by(finding: Finding) -> DomainSettings:
    return domain_settings(finding=finding, central=None)


def _address_from(domain: Domain, gateway: int) -> IPv6Address:
    """What a host made of the prefix that it got there."""
    (session,) = domain.gw[gateway].sessions.values()
    return session.prefix.network_address + 0xABCD


def _cut_off(domain: Domain, address: IPv6Address) -> None:
    """Nothing reaches a node, and nothing it sends arrives."""

    def lost(sender: IPv6Address, send: Send) -> bool:
        return address in (sender, send.destination)

    domain.lose = lost


def _joined(domain: Domain) -> None:
    domain.lose = lambda sender, send: False


def first_attachment(case: Case) -> None:
    domain = Domain(1)
    case.begin(domain)
    domain.host_at(1, MAC, solicited=True)


def handover(case: Case) -> None:
    _visits(case, Domain(2), 1, 2)


def proxy(case: Case) -> None:
    _visits(case, _in_mode(Mode.PROXY), 1, 2, 3)


def relay(case: Case) -> None:
    _visits(case, _in_mode(Mode.RELAY), 1, 2, 3)


def relay_without_an_answer(case: Case) -> None:
    domain = _visits(case, _in_mode(Mode.RELAY), 1, 2)
    _cut_off(domain, domain.address(1))
    domain.host_at(3, MAC)
    domain.pass_time(0.5)
    _joined(domain)
    domain.pass_time(1.0)


def locator(case: Case) -> None:
    _visits(case, _in_mode(Mode.LOCATOR), 1, 2, 3)


def directory(case: Case) -> None:
    _visits(case, Domain(settings=_found_by(Finding.DIRECTORY)), 1, 2, 3)


def anchor_known(case: Case) -> None:
    domain = Domain(settings=_found_by(Finding.ANCHOR_KNOWN), neighbours={2: (1,)})
    _visits(case, domain, 1, 2)
    domain.host_at(3, MAC, address=_address_from(domain, 1))


def central_away(case: Case) -> None:
    domain = _visits(case, Domain(2, neighbours={2: (1,)}), 1)
    _cut_off(domain, CENTRAL)
    domain.host_at(2, MAC)
    domain.pass_time(0.3)
    _joined(domain)
    domain.pass_time(4.0)


def and_back(case: Case) -> None:
    _visits(case, Domain(2), 1, 2, 1)


def unused(case: Case) -> None:
    domain = _visits(case, Domain(2), 1, 2)
    domain.used = lambda prefix: False
    domain.pass_time(297.0)
    domain.host_at(2, MAC, solicited=True)
    domain.pass_time(4.0)


def too_many(case: Case) -> None:
    _visits(case, Domain(settings=domain_settings(limits=Limits(anchors_per_host=2))), 1, 2, 3)


def lifetime(case: Case) -> None:
    domain = _visits(case, Domain(2), 1, 2)
    domain.pass_time(298.0)
    domain.host_at(2, MAC, solicited=True)  # it is there still: what it has is refreshed, once
    domain.pass_time(640.0)


def revoked(case: Case) -> None:
    domain = _visits(case, Domain(2), 1, 2)
    _, outputs = domain.nodes[CENTRAL].revoke(MAC.hex(":"), domain.now)  # type: ignore[union-attr]
    domain.perform(CENTRAL, outputs)
    domain.settle()
    domain.pass_time(1.0)


def local_networks(case: Case) -> None:
    one, other = replace(gateway_info(1), local_networks=(_HOME_LAN,)), gateway_info(2)
    gateways = {each.address: each for each in (one, other)}
    _visits(case, Domain(settings=replace(domain_settings(2), gateways=gateways)), 1, 2)


def operators(case: Case) -> None:
    _visits(case, Operators(), 1, 3)


def plain_as_mag(case: Case) -> None:
    _visits(case, Plain(), 1, 2)


def plain_as_lma(case: Case) -> None:
    played = PlainLma()
    case.begin_lma(played)
    (prefix,) = prefixes(played.ask(MAG1))
    here = HomeNetworkPrefix(prefix)
    moved = HandoffIndicator(Handoff.BETWEEN_GATEWAYS)
    played.ask(MAG2, HomeNetworkPrefix=here, HandoffIndicator=moved)
    played.ask(MAG2, HomeNetworkPrefix=here, HandoffIndicator=HandoffIndicator(Handoff.UNCHANGED))
    played.ask(MAG2, HomeNetworkPrefix=here, HandoffIndicator=HandoffIndicator(Handoff.UNKNOWN), lifetime_s=0)
    played.pass_time(15.0)


def life_of_a_peer(case: Case) -> None:
    domain = Domain(1)
    case.begin(domain)
    for address in domain.nodes:
        case.start(domain, address)
    domain.host_at(1, MAC)
    domain.pass_time(61.0)
    gateway = domain.address(1)
    case.start(domain, gateway)
    domain.pass_time(2.0)
    domain.journal[gateway].clear()
    case.start(domain, gateway)
    domain.pass_time(1.0)


CASES: dict[str, Callable[[Case], None]] = {
    "P1-first-attachment": first_attachment,
    "P2-handover": handover,
    "P3-proxy": proxy,
    "P3-relay": relay,
    "P3-relay-without-an-answer": relay_without_an_answer,
    "P3-locator": locator,
    "P3-directory": directory,
    "P3-anchor-known": anchor_known,
    "P3-central-away": central_away,
    "P4-and-back": and_back,
    "P5-unused": unused,
    "P5-too-many": too_many,
    "P5-lifetime": lifetime,
    "P5-revoked": revoked,
    "P6-local-networks": local_networks,
    "P7-operators": operators,
    "P8-plain-as-mag": plain_as_mag,
    "P8-plain-as-lma": plain_as_lma,
    "peers-life": life_of_a_peer,
}
