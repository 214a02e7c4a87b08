"""Whatever MAGs say and in whatever order: no prefix in two sessions, and the kernel does what the sessions say."""

from __future__ import annotations

from ipaddress import IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st
from lma_domain import MAG1, MAG2, POOL, PlainLma, prefixes

from anchord.protocol.inputs import MessageReceived
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
    assert not lma.lma.resting() and not any(lma.store.values())


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
