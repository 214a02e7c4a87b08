"""Netlink: batches, acknowledgements, errors, dumps."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from namespaces import Namespace

from anchord.kernel import dump
from anchord.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    Request,
    attribute,
    attribute_text,
    attributes,
    generic_family,
    nested,
    text_of,
)
from anchord.kernel.objects import RTM_GETROUTE, RTM_NEWROUTE, Address, Neighbour, Route, RouteKind, Rule
from anchord.kernel.seg6 import encap_red, end_dt6, segment_of, set_tunnel_source, table_of, tunnel_source


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """An empty namespace."""
    made = Namespace("codec")
    made.run("ip link add d0 type veth peer name d1")
    made.run("ip link set d0 up")
    made.run("ip link set d1 up")
    yield made
    made.close()


def indexes(namespace: Namespace) -> dict[str, int]:
    return {each["ifname"]: each["ifindex"] for each in namespace.json("link show")}


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), unique_by=lambda pair: pair[0]))
def test_attributes_are_read_as_written(pairs: list[tuple[int, bytes]]) -> None:
    written = b"".join(attribute(kind, data) for kind, data in pairs)
    assert len(written) % 4 == 0
    assert attributes(written) == dict(pairs)
    assert attributes(attributes(nested(7, written))[7]) == dict(pairs)


@given(st.binary(max_size=200))
def test_malformed_attributes_end_the_reading(data: bytes) -> None:
    for value in attributes(data).values():
        assert value in data


@given(st.ip_addresses(v=6), st.integers(1, 2**32 - 1))
def test_encapsulations_are_read_as_written(segment: IPv6Address, table: int) -> None:
    assert segment_of(encap_red(segment)) == segment
    assert table_of(end_dt6(table)) == table
    assert segment_of(end_dt6(table)) is None
    assert table_of(encap_red(segment)) is None


class Lists:
    """A kernel's list of what it was asked to put in: a request and the answer about it have one format."""

    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests

    def dump(self, kind: int, body: bytes, what: str, flags: int = 0) -> list[tuple[int, bytes]]:
        return [(request.kind, request.body) for request in self._requests]


NETWORKS = st.builds(
    lambda value, length: IPv6Network((value, length), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
)
GLOBAL = st.ip_addresses(v=6)
ROUTES = st.builds(
    Route,
    table=st.integers(1, 2**32 - 1),
    destination=NETWORKS,
    source=st.none() | NETWORKS.filter(lambda network: network.prefixlen > 0),
    device=st.just("d0"),
    via=st.none() | GLOBAL,
    segment=st.none() | GLOBAL,
).filter(lambda route: route.via is None or route.segment is None)


@given(st.lists(ROUTES, max_size=4))
def test_routes_are_read_as_written(routes: list[Route]) -> None:
    written = [request for route in routes for request in route.put({"d0": 7})]
    assert list(dump.routes(Lists(written), {7: "d0"})) == routes  # type: ignore[arg-type]


RULES = st.builds(
    Rule,
    priority=st.integers(1, 2**32 - 1),
    table=st.integers(1, 2**32 - 1),
    iif=st.sampled_from(("", "d0", "a-long-name-of-i")),
    destination=st.none() | GLOBAL,
    ip_protocol=st.sampled_from((0, 6, 17, 135)),
)


@given(st.lists(RULES, max_size=4))
def test_rules_are_read_as_written(rules: list[Rule]) -> None:
    written = [request for rule in rules for request in rule.put({})]
    assert list(dump.rules(Lists(written))) == rules  # type: ignore[arg-type]


def test_text_ends_at_nul() -> None:
    assert text_of(attributes(attribute_text(3, "acc0"))[3]) == "acc0"


def test_an_error_names_what_was_attempted_in_the_kernels_words(namespace: Namespace) -> None:
    route = Route(900, IPv6Network("2001:db8:1::/64"), device="d0", via=IPv6Address("2001:db8:ffff::1"))
    with namespace.entered(), NetlinkSocket() as sock, pytest.raises(NetlinkError) as caught:
        sock.execute(*route.put(indexes(namespace)))
    assert caught.value.code == errno.EHOSTUNREACH
    assert str(caught.value) == f"{route}: No route to host"
    with namespace.entered(), NetlinkSocket() as sock, pytest.raises(NetlinkError) as caught:
        bad = struct.pack("=8BI", 10, 129, 0, 0, 0, 201, 0, 1, 0)
        sock.execute(Request(RTM_NEWROUTE, NLM_F_CREATE, bad, "a bad route"))
    assert caught.value.message == "Invalid argument (Invalid prefix length)"
    assert caught.value.what == "a bad route"


def test_a_failing_request_does_not_stop_those_behind_it(namespace: Namespace) -> None:
    rules = [Rule(100, table=900), Rule(100, table=900), Rule(101, table=900)]
    with namespace.entered(), NetlinkSocket() as sock:
        outcomes = sock.send([request for rule in rules for request in rule.put({})])
    assert [outcome and outcome.code for outcome in outcomes] == [None, errno.EEXIST, None]


def test_a_batch_larger_than_the_buffers_is_split(namespace: Namespace) -> None:
    routes = [Route(900, IPv6Network((0x20010DB8 << 96 | n << 64, 64)), kind=RouteKind.BLACKHOLE) for n in range(5000)]
    with namespace.entered(), NetlinkSocket() as sock:
        assert not any(sock.send([request for route in routes for request in route.put({})]))
        assert len(list(dump.routes(sock, {}))) == 5000
        assert sock.sent == 5000


def test_what_is_installed_is_read_back_equal(namespace: Namespace) -> None:
    known = indexes(namespace)
    pool, one = IPv6Network("2001:db8:a1::/48"), IPv6Network("2001:db8:a1:1::/64")
    inside = IPv6Address("fe80::2:1")
    routes = {
        Route(900, one, device="d0", via=inside),
        Route(900, IPv6Network("::/0"), one, device="d0", via=inside),
        Route(901, one, device="d0", segment=IPv6Address("2001:db8::5")),
        Route(902, IPv6Network("2001:db8::7/128"), device="d0", decapsulate_into=903),
        Route(78, pool, kind=RouteKind.UNREACHABLE),
        Route(78, pool, one, kind=RouteKind.THROW),
    }
    rules = {
        Rule(10, table=77, destination=IPv6Address("2001:db8::7"), ip_protocol=41),
        Rule(51, table=1000, iif="lo"),
        Rule(54, iif="d0"),
        Rule(55, goto=57, iif="not-there-yet"),
    }
    neighbour, address = Neighbour("d0", inside, b"\2\0\0\0\0\1"), Address("d0", IPv6Address("fe80::77"))
    with namespace.entered(), NetlinkSocket() as sock:
        for each in (address, neighbour, *routes, *rules):
            sock.execute(*each.put(known))
        assert set(dump.routes(sock, {index: name for name, index in known.items()})) == routes
        assert {rule for rule in dump.rules(sock) if rule.priority} == rules
        assert IPv6Address("fe80::77") in dump.addresses(sock)
        for each in (address, neighbour, *routes, *rules):
            sock.execute(*each.remove(known))
        assert list(dump.routes(sock, {})) == []
        assert [rule.priority for rule in dump.rules(sock)] == [0], "the kernel's own local rule"


def test_a_foreign_route_is_neither_seen_nor_removed(namespace: Namespace) -> None:
    namespace.run("ip -6 route add blackhole 2001:db8:1::/64 table 78")
    with namespace.entered(), NetlinkSocket() as sock:
        assert list(dump.routes(sock, {})) == []
        removal = Route(78, IPv6Network("2001:db8:1::/64"), kind=RouteKind.BLACKHOLE).remove({})
        assert [outcome and outcome.code for outcome in sock.send(removal)] == [errno.ESRCH]
    assert "2001:db8:1::/64" in namespace.run("ip -6 route show table 78")


def test_the_tunnel_source_is_set_and_read(namespace: Namespace) -> None:
    with namespace.entered():
        assert tunnel_source() == IPv6Address("::")
        set_tunnel_source(IPv6Address("2001:db8::9"))
        assert tunnel_source() == IPv6Address("2001:db8::9")


def test_an_unknown_family_is_an_error(namespace: Namespace) -> None:
    with namespace.entered(), NetlinkSocket(16) as sock, pytest.raises(NetlinkError) as caught:
        generic_family(sock, "NOSUCH")
    assert caught.value.code == errno.ENOENT


def test_a_dump_of_nothing_known_is_an_error(namespace: Namespace) -> None:
    with namespace.entered(), NetlinkSocket() as sock, pytest.raises(NetlinkError) as caught:
        sock.dump(RTM_GETROUTE, b"\x0a", "a dump that is too short")
    assert caught.value.what == "a dump that is too short"


def test_an_unknown_request_is_refused(namespace: Namespace) -> None:
    with namespace.entered(), NetlinkSocket() as sock:
        outcome = sock.send([Request(0xFFF, NLM_F_EXCL, b"", "an unknown type")])[0]
    assert outcome is not None
    assert outcome.code == errno.EOPNOTSUPP
