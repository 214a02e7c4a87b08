"""Whatever MAGs say and however hosts move: no prefix is in two sessions, and kernels do what the sessions say."""

from __future__ import annotations

from ipaddress import IPv6Network

from domain import CENTRAL
from hypothesis import given, settings
from hypothesis import strategies as st
from lma_domain import MAG1, MAG2, OPERATORS, POOL, Operators, PlainLma, prefixes
from test_operators import heard_across_operators
from test_roaming import MAC, OTHER

from anchord.declared import Role
from anchord.protocol.inputs import MessageReceived
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import Mode
from anchord.wire.options import (
    ALL_ZERO_PREFIX,
    AccessTechnologyType,
    HandoffIndicator,
    HomeNetworkPrefix,
    MobileNodeLinkLayerIdentifier,
)

NAMED = tuple(IPv6Network((int(POOL.network_address) | number << 64, 64)) for number in range(3))
SAID = st.fixed_dictionaries(
    {
        "mn": st.sampled_from([b"a", b"b"]),
        "source": st.sampled_from([MAG1, MAG2]),
        "handoff": st.integers(0, 6),
        "technology": st.sampled_from([3, 4]),
        "interface": st.sampled_from([None, b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"]),
        "lifetime_s": st.sampled_from([0, 40, 600]),
        "prefix": st.sampled_from(["given", "zero", *NAMED]),
        "then_s": st.sampled_from([0.0, 1.0, 2.0, 11.0, 50.0]),
        "kernel_error": st.sampled_from([None, None, None, "no"]),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SAID, max_size=25))
def test_sessions_prefixes_and_kernel_agree(story: list[dict[str, object]]) -> None:
    lma = PlainLma()
    given_last: dict[object, IPv6Network] = {}
    for said in story:
        lma.kernel_error = said["kernel_error"]  # type: ignore[assignment]
        prefix = said["prefix"]
        if prefix == "given":
            prefix = given_last.get(said["mn"], ALL_ZERO_PREFIX)
        interface = said["interface"]
        update = lma.update(
            mn=said["mn"],
            lifetime_s=said["lifetime_s"],
            HomeNetworkPrefix=HomeNetworkPrefix(ALL_ZERO_PREFIX if prefix == "zero" else prefix),  # type: ignore[arg-type]
            HandoffIndicator=HandoffIndicator(said["handoff"]),  # type: ignore[arg-type]
            AccessTechnologyType=AccessTechnologyType(said["technology"]),  # type: ignore[arg-type]
            MobileNodeLinkLayerIdentifier=interface and MobileNodeLinkLayerIdentifier(interface),  # type: ignore[arg-type]
        )
        before = len(lma.sent)
        lma.perform(lma.lma.handle(MessageReceived(said["source"], update), lma.now))  # type: ignore[arg-type]
        for ack in lma.acks(before):
            if ack.status == 0 and ack.lifetime_s:
                given_last[said["mn"]] = prefixes(ack)[0]
        lma.pass_time(said["then_s"])  # type: ignore[arg-type]
        agree(lma)
    lma.kernel_error = None
    lma.restart()
    agree(lma)
    lma.pass_time(700)
    assert not lma.lma.plain_bindings and not any(state.entries for state in lma.declared.values())
    lma.pass_time(700)
    assert not lma.lma.resting() and not lma.store.get("plain") and not lma.store.get("resting")


def agree(lma: PlainLma) -> None:
    """Sessions, leases, store and kernel say the same."""
    bindings = list(lma.lma.plain_bindings.values())
    held = [prefix for binding in bindings for prefix in binding.prefixes]
    assert len(held) == len(set(held)) and all(prefix.subnet_of(POOL) for prefix in held)
    assert not set(held) & set(lma.lma.resting())
    assert set(lma.store.get("plain", {})) == {binding.key for binding in bindings}
    wanted = {prefix: b.proxy_coa for b in bindings if not b.ending for prefix in b.prefixes}
    forwarded = {entry.prefix: entry.peer for state in lma.declared.values() for entry in state.entries}
    assert forwarded == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(Mode)),
    st.lists(
        st.tuples(st.sampled_from([MAC, OTHER]), st.integers(1, 5), st.sampled_from([0.0, 0.3, 2.0, 70.0])), max_size=14
    ),
)
def test_tunnels_between_operators_meet(mode: Mode, story: list[tuple[bytes, int, float]]) -> None:
    """However hosts move between operators, both ends of each tunnel agree, and nobody sees the other operator."""
    domain = Operators(mode=mode)
    for mac, gateway, wait_s in story:
        domain.host_at(gateway, mac, reassociated=True)
        domain.pass_time(wait_s)
    domain.pass_time(40)  # whoever was refused for his haste has asked again
    assert heard_across_operators(domain) == []
    for number, gateway in domain.gw.items():
        for session in gateway.sessions.values():
            if session.phase is Phase.SERVING and session.registered:
                tunnels_meet(domain, number, session)
    domain.pass_time(4000)
    assert not domain.lma.bindings and not any(gateway.sessions for gateway in domain.gw.values())
    assert not any(state.entries for states in domain.declared.values() for state in states.values())


def tunnels_meet(domain: Operators, number: int, session: Session) -> None:
    """What a serving gateway imports comes from where it is anchored, straight or by way of the LMA."""
    here = domain.address(number)
    binding = domain.lma.bindings.get(session.key)
    if binding is None or binding.serving.maar != here:
        return  # it does not know yet that the host has gone
    for entry in session.forwarding().entries:
        if entry.role is not Role.IMPORTED:
            continue
        owner = domain.settings.anchor_of(entry.prefix)
        assert owner is not None
        (exported,) = [
            e for s in domain.declared[owner.address].values() for e in s.entries if e.prefix == entry.prefix
        ]
        if OPERATORS[number - 1] == owner.operator:
            assert (entry.peer, exported.peer) == (owner.address, here)
        else:
            assert (entry.peer, exported.peer) == (CENTRAL, CENTRAL)
            (transit,) = [e for s in domain.declared[CENTRAL].values() for e in s.entries if e.prefix == entry.prefix]
            assert (transit.role, transit.peer, transit.anchor) == (Role.TRANSIT, here, owner.address)
