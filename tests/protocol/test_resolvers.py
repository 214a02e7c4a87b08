"""Resolvers are announced where they can be reached (RFC 8106), wherever the host has gone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from domain import Domain, domain_settings, gateway_info

from anchord.daemon.advertiser import advertisement
from anchord.protocol.outputs import Advertise
from anchord.wire.frames import parse_frame
from anchord.wire.neighbor import RecursiveDnsServer, received

MAC = bytes.fromhex("0255aa000001")
EVERYWHERE, BEHIND_GW1, BEHIND_GW2 = (IPv6Address(text) for text in ("2001:db8:53::1", "fd00:1::53", "fd00:2::53"))


def domain_with_resolvers() -> Domain:
    """gw1 and gw2 have a resolver each in a local network of theirs; gw3 has none."""
    plain = domain_settings(resolvers=(BEHIND_GW1, EVERYWHERE, BEHIND_GW2))
    gateways = dict(plain.gateways)
    for number in (1, 2):
        info = replace(gateway_info(number), local_networks=(IPv6Network(f"fd00:{number}::/48"),))
        gateways[info.address] = info
    return Domain(settings=replace(plain, gateways=gateways))


def announced(domain: Domain) -> dict[str, tuple[set[IPv6Address], int]]:
    """What was shown since the last question: prefix (its first three groups) to resolvers and their lifetime."""
    found = {str(order.prefixes[0].prefix)[:11]: (set(order.resolvers), order.resolver_lifetime_s)
             for _, order in domain.shown}  # fmt: skip
    domain.shown.clear()
    return found


def test_each_router_announces_the_resolvers_that_it_leads_to() -> None:
    domain = domain_with_resolvers()
    domain.host_at(1, MAC)
    assert announced(domain) == {"2001:db8:a1": ({EVERYWHERE, BEHIND_GW1}, 300)}
    domain.host_at(2, MAC)
    assert announced(domain) == {
        "2001:db8:a2": ({EVERYWHERE, BEHIND_GW2}, 300),
        "2001:db8:a1": ({BEHIND_GW1}, 300),
    }
    domain.host_at(3, MAC)
    assert announced(domain) == {
        "2001:db8:a3": ({EVERYWHERE}, 300),
        "2001:db8:a2": ({BEHIND_GW2}, 300),
        "2001:db8:a1": ({BEHIND_GW1}, 300),
    }


def test_resolvers_are_renewed_before_they_run_out() -> None:
    domain = domain_with_resolvers()
    domain.host_at(3, MAC)
    announced(domain)
    domain.pass_time(domain.settings.lifetimes.advertise_every_s + 1)
    assert announced(domain) == {"2001:db8:a3": ({EVERYWHERE}, 300)}


def test_a_host_that_is_sent_away_forgets_its_resolvers() -> None:
    """RFC 8106 section 5.1: a lifetime of 0 means that the address must no longer be used."""
    domain = domain_with_resolvers()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    announced(domain)
    domain.pass_time(2 * domain.settings.lifetimes.binding_s)  # it falls silent, and its session ends
    last = announced(domain)
    assert last["2001:db8:a2"] == ({EVERYWHERE, BEHIND_GW2}, 0)
    assert last["2001:db8:a1"] == ({BEHIND_GW1}, 0)


def test_the_frame_carries_them_and_without_any_there_is_no_option() -> None:
    domain = domain_with_resolvers()
    domain.host_at(3, MAC)
    order = domain.shown[-1][1]
    assert options_of(order) == [RecursiveDnsServer(300, (EVERYWHERE,))]
    assert options_of(replace(order, resolvers=())) == []


def options_of(order: Advertise) -> list[object]:
    """The RDNSS options in an advertisement's frame."""
    return list(received(parse_frame(advertisement(order))).all(RecursiveDnsServer))
