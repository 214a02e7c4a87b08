"""Decision 18 a: a host has addresses of seven prefixes at most, released ones included, and always one that works."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from domain import CENTRAL, Domain, domain_settings
from hypothesis import given
from hypothesis import strategies as st
from test_idle import advertised, stays
from test_relay import settled_state
from test_roaming import MAC, acks, roles, updates

from anchord.declared import Role
from anchord.protocol.session import Phase
from anchord.protocol.settings import Limits, Mode
from anchord.wire.neighbor import Preference
from anchord.wire.options import ALL_ZERO_PREFIX, AnchoredPrefix, HomeNetworkPrefix


class Host:
    """What an unmodified host makes of the advertisements it gets (RFC 4862 section 5.5.3): prefixes with lifetimes."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._read = 0
        self._valid: dict[IPv6Network, float] = {}
        self._preferred: dict[IPv6Network, float] = {}
        self._routers: dict[IPv6Address, tuple[float, Preference]] = {}

    def read(self) -> None:
        """Take in what was advertised since the last call, as if it had come at this moment."""
        now_s = self._domain.now.monotonic_s
        for _, order in self._domain.shown[self._read :]:
            # RFC 4861 section 6.3.4: a lifetime of 0 means that this is no default router.
            self._routers[order.router.address] = (now_s + order.router_lifetime_s, order.preference)
            for told in order.prefixes:
                known = told.prefix in self.valid()
                if told.valid_s and (not known or now_s + told.valid_s > self._valid[told.prefix]):
                    self._valid[told.prefix] = now_s + told.valid_s
                if known or told.valid_s:
                    self._preferred[told.prefix] = now_s + told.preferred_s
        self._read = len(self._domain.shown)

    def valid(self) -> list[IPv6Network]:
        """Prefixes that the host has an address of."""
        return [p for p, until in self._valid.items() if until > self._domain.now.monotonic_s]

    def preferred(self) -> list[IPv6Network]:
        """Those that it would choose for a new connection."""
        return [p for p in self.valid() if self._preferred[p] > self._domain.now.monotonic_s]

    def routers(self) -> dict[IPv6Address, Preference]:
        """Its default routers; RFC 4191 section 3.2 has it take those of the highest preference."""
        now_s = self._domain.now.monotonic_s
        return {router: preference for router, (until_s, preference) in self._routers.items() if until_s > now_s}


def works(domain: Domain, number: int, prefix: IPv6Network) -> bool:
    """Whether packets of the host at this gateway go out with this source, and come back."""
    here = {e.prefix: e for state in domain.declared[domain.address(number)].values() for e in state.entries}
    entry = here.get(prefix)
    if entry is None or entry.role is Role.RELEASED:
        return False
    if entry.role is Role.ANCHORED:
        return True
    there = [e for state in domain.declared[entry.peer].values() for e in state.entries] if entry.peer else []
    return any((e.prefix, e.role, e.peer) == (prefix, Role.EXPORTED, domain.address(number)) for e in there)


def led_astray(domain: Domain, number: int, host: Host) -> list[IPv6Address]:
    """Routers of the host that nobody at this gateway is: what it sends there is lost."""
    states = domain.declared[domain.address(number)].values()
    here = [entry.router.address for state in states for entry in state.entries if entry.router is not None]
    return [router for router in host.routers() if router not in here]


def granted(domain: Domain, number: int) -> bool:
    """Whether the CMD's last answer gave the host the gateway's own prefix."""
    ack = acks(domain, CENTRAL, domain.address(number))[-1]
    return ack.first(HomeNetworkPrefix) != HomeNetworkPrefix(ALL_ZERO_PREFIX)


def tour(domain: Domain, last: int, first: int = 1) -> None:
    for number in range(first, last + 1):
        domain.host_at(number, MAC)
        domain.pass_time(12.0)


def test_row_46_decision_18_ten_gateways_in_two_minutes_one_preferred_address_and_never_more_than_seven() -> None:
    domain = Domain(settings=domain_settings(10))
    host = Host(domain)
    for number in range(1, 11):
        domain.host_at(number, MAC)
        host.read()
        assert len(host.valid()) <= 7
        (preferred,) = host.preferred()
        assert works(domain, number, preferred)
        assert not led_astray(domain, number, host)
        assert granted(domain, number) == (number <= 7)
        domain.pass_time(12.0)
        host.read()
    # The oldest was given up to make room, and only that one.
    (binding,) = domain.central.bindings.values()
    assert [anchor.maar for anchor in binding.anchors] == [domain.address(number) for number in range(2, 8)]
    assert not domain.gw[1].sessions and domain.gw[2].sessions
    assert roles(domain, 10)["2001:db8:a7"] == (Role.IMPORTED, domain.address(7))


def test_decision_23_the_router_of_the_newest_old_prefix_stands_in_for_the_one_that_is_withheld() -> None:
    resolver = IPv6Address("2001:db8:53::1")
    domain = Domain(settings=domain_settings(9, resolvers=(resolver,)))
    host = Host(domain)
    tour(domain, 8)
    host.read()
    seventh, eighth = (next(iter(domain.gw[number].sessions.values())).router.address for number in (7, 8))
    assert [router for router, preference in host.routers().items() if preference is Preference.MEDIUM] == [seventh]
    assert eighth not in host.routers()
    assert [order.router.address for _, order in domain.shown if resolver in order.resolvers][-1] == seventh
    for _ in range(10):
        stays(domain, 8, 100)
    host.read()
    assert [router for router, preference in host.routers().items() if preference is Preference.MEDIUM] == [eighth]


def test_what_makes_room_is_withdrawn_at_the_host_after_it_was_served() -> None:
    domain = Domain(settings=domain_settings(9))
    tour(domain, 7)
    (oldest,) = (session.prefix for session in domain.gw[1].sessions.values())
    domain.host_at(8, MAC)
    assert works(domain, 8, oldest)
    domain.pass_time(2.0)
    assert roles(domain, 8)["2001:db8:a1"] == (Role.RELEASED, None) and not domain.gw[1].sessions
    assert advertised(domain, oldest)[-1] == (0, 0, 0)


def test_a_host_that_moves_on_at_once_gives_up_its_oldest_prefix_all_the_same() -> None:
    domain = Domain(settings=domain_settings(9))
    tour(domain, 7)
    domain.host_at(8, MAC)
    domain.pass_time(0.5)
    domain.host_at(9, MAC)
    domain.pass_time(2.0)
    assert not domain.gw[1].sessions and domain.gw[2].sessions


def test_a_gateway_whose_prefix_was_withheld_frees_its_lease_when_the_host_moves_on() -> None:
    domain = Domain(settings=domain_settings(9))
    tour(domain, 8)
    lease = next(iter(domain.gw[8].sessions.values())).prefix
    domain.host_at(9, MAC)
    assert not domain.gw[8].sessions
    assert domain.gw[8].resting().get(lease, 0.0) <= domain.now.wall_s, "nobody was told of it"
    assert updates(domain, CENTRAL, domain.address(8))[-1].lifetime_s == 0
    (binding,) = domain.central.bindings.values()
    assert domain.address(8) not in [anchor.maar for anchor in binding.anchors]


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_a_gateway_that_never_heard_that_its_prefix_is_withheld_does_not_draw_the_host_back(mode: Mode) -> None:
    domain = Domain(settings=domain_settings(9, mode=mode))
    tour(domain, 7)
    domain.lose = lambda sender, send: send.destination == domain.address(8)
    domain.host_at(8, MAC)
    domain.lose = lambda sender, send: False
    domain.host_at(9, MAC)
    domain.pass_time(3.0)
    assert not domain.gw[8].sessions
    settled_state(domain)


def test_when_the_given_up_prefix_is_forgotten_the_next_refresh_brings_the_new_one() -> None:
    domain = Domain(settings=domain_settings(9))
    host = Host(domain)
    tour(domain, 8)
    host.read()
    for _ in range(10):
        stays(domain, 8, 100)
        host.read()
        assert len(host.valid()) <= 7
        (preferred,) = host.preferred()
        assert works(domain, 8, preferred)
    assert granted(domain, 8) and str(preferred).startswith("2001:db8:a8")
    (binding,) = domain.central.bindings.values()
    assert not binding.withheld and len(binding.anchors) == 6


def test_the_preferred_prefix_is_not_given_up_for_want_of_use() -> None:
    domain = Domain(settings=domain_settings(9))
    tour(domain, 8)
    domain.used = lambda prefix: False
    stays(domain, 8, 400)
    (binding,) = domain.central.bindings.values()
    assert binding.withheld and [anchor.maar for anchor in binding.anchors] == [domain.address(7)]
    assert roles(domain, 8)["2001:db8:a7"] == (Role.IMPORTED, domain.address(7))


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_where_no_anchor_is_left_to_be_preferred_the_new_prefix_is_given(mode: Mode) -> None:
    domain = Domain(settings=domain_settings(2, mode=mode, limits=Limits(anchors_per_host=1)))
    domain.host_at(1, MAC)
    domain.kernel = lambda address, state: "no memory" if address == domain.address(1) else None
    domain.host_at(2, MAC)
    domain.pass_time(3.0)
    assert granted(domain, 2)
    host = Host(domain)
    host.read()
    assert [str(prefix)[:11] for prefix in host.preferred()][-1] == "2001:db8:a2"


def test_back_at_an_earlier_anchor_its_prefix_is_no_new_one() -> None:
    domain = Domain(settings=domain_settings(9))
    tour(domain, 8)
    domain.host_at(3, MAC)
    assert granted(domain, 3)
    (binding,) = domain.central.bindings.values()
    assert not binding.withheld and not domain.gw[8].sessions
    assert [a.maar for a in binding.anchors] == [domain.address(number) for number in (2, 4, 5, 6, 7)]


def test_a_budget_of_one_means_one_anchor_for_good() -> None:
    domain = Domain(settings=domain_settings(4, limits=Limits(anchors_per_host=1)))
    tour(domain, 4)
    assert roles(domain, 4)["2001:db8:a1"] == (Role.IMPORTED, domain.address(1))
    assert [granted(domain, number) for number in (1, 2, 3, 4)] == [True, False, False, False]


def test_a_prefix_that_the_host_had_long_ago_is_a_new_one() -> None:
    domain = Domain(settings=domain_settings(3, limits=Limits(anchors_per_host=2)))
    domain.host_at(1, MAC)
    (first,) = (session.prefix for session in domain.gw[1].sessions.values())
    tour(domain, 3, first=2)
    stays(domain, 3, 1300)
    assert granted(domain, 3) and not domain.gw[1].sessions
    domain.host_at(1, MAC)
    assert [session.prefix for session in domain.gw[1].sessions.values()] == [first]
    assert not granted(domain, 1)


def test_the_budget_survives_a_restart() -> None:
    domain = Domain(settings=domain_settings(9))
    tour(domain, 8)
    domain.restart(CENTRAL)
    domain.host_at(9, MAC)
    assert not granted(domain, 9)
    (binding,) = domain.central.bindings.values()
    assert len(binding.released) == 1 and len(binding.anchors) == 6


def test_what_was_shown_while_the_cmd_was_silent_and_is_withheld_then_is_not_preferred_any_more() -> None:
    domain = Domain(4, domain_settings(4, limits=Limits(anchors_per_host=3)))
    tour(domain, 3)
    domain.lose = lambda sender, send: CENTRAL in (sender, send.destination)
    domain.host_at(4, MAC)
    domain.pass_time(0.5)
    (session,) = domain.gw[4].sessions.values()
    assert advertised(domain, session.prefix)[-1][2] > 0
    domain.lose = lambda sender, send: False
    domain.pass_time(5.0)
    assert session.withheld and advertised(domain, session.prefix)[-1][1:] == (600, 0)
    host = Host(domain)
    host.read()
    assert len(host.preferred()) == 1 and works(domain, 4, host.preferred()[0])
    assert session.router.address not in host.routers(), "the next gateway may not know of it"
    prefix = session.prefix
    domain.host_at(1, MAC)
    domain.pass_time(5.0)
    assert prefix in domain.gw[4].resting(), "the host has an address of it"


def test_the_same_holds_in_relay_mode() -> None:
    domain = Domain(settings=domain_settings(9, mode=Mode.RELAY))
    host = Host(domain)
    for number in range(1, 10):
        domain.host_at(number, MAC)
        domain.pass_time(0.2)
        host.read()
        (preferred,) = host.preferred()
        assert works(domain, number, preferred) and len(host.valid()) <= 7
        assert not led_astray(domain, number, host)
        domain.pass_time(12.0)
        host.read()


def test_row_38_the_anchors_learn_what_else_the_host_uses_but_not_what_is_withheld() -> None:
    domain = Domain(settings=domain_settings(9))
    tour(domain, 3)
    told = updates(domain, CENTRAL, domain.address(1))[-1]
    assert [str(o.prefix)[:11] for o in told.all(AnchoredPrefix)] == ["2001:db8:a3", "2001:db8:a2"]
    tour(domain, 8, first=4)
    told = updates(domain, CENTRAL, domain.address(2))[-1]
    assert [str(o.prefix)[:11] for o in told.all(AnchoredPrefix)] == [f"2001:db8:a{n}" for n in (1, 3, 4, 5, 6, 7)]


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.0, 1.0, 30.0, 200.0])), max_size=30))
def test_however_a_host_roams_it_has_a_preferred_address_that_works(steps: list[tuple[int, float]]) -> None:
    domain = Domain(settings=domain_settings(9))
    host = Host(domain)
    for number, stay_s in steps:
        domain.host_at(number, MAC)
        host.read()
        stays(domain, number, stay_s)
        domain.pass_time(1.5)
        host.read()
        assert len(host.valid()) <= 7
        assert host.preferred() and all(works(domain, number, prefix) for prefix in host.preferred())
        assert host.routers() and not led_astray(domain, number, host)
        assert [s.phase for s in domain.gw[number].sessions.values()] == [Phase.SERVING]
        settled_state(domain)
