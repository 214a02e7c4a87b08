"""Packets that should not be: nothing changes, each is counted by its cause, and the daemons live."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from ipaddress import IPv6Address, IPv6Network

import pytest
from lab_scenes import (
    BY_HAND,
    PATIENCE_S,
    binding,
    correspondent,
    drained,
    frames_at,
    move,
    peer,
    ping,
    show,
    topology,
    usable_address,
    wait_for,
)

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.wire.header import decode, encode
from anchord.wire.messages import (
    BindingAckFlag,
    BindingAcknowledgement,
    BindingError,
    BindingUpdate,
    BindingUpdateFlag,
    UnknownMessage,
)
from anchord.wire.options import (
    AccessTechnologyType,
    HandoffIndicator,
    HomeNetworkPrefix,
    MnIdSubtype,
    MobileNodeIdentifier,
    MobileNodeLinkLayerIdentifier,
    Timestamp,
)

LAB = f"anct-{os.getpid()}-hostile"
MOBILITY, IPV6 = 135, 41
_IPV6_CHECKSUM = 7  # linux/in6.h
GW1, GW2, CMD = "2001:db8:f1::1", "2001:db8:f2::1", "2001:db8:fc::1"
MAC = bytes.fromhex("02aabbccddee")
MN_ID = MobileNodeIdentifier(MnIdSubtype.NAI, b"stranger@example.net")
PROXY = (
    BindingUpdateFlag.ACKNOWLEDGE | BindingUpdateFlag.HOME_REGISTRATION
    | BindingUpdateFlag.PROXY | BindingUpdateFlag.DISTRIBUTED
)  # fmt: skip
MARK = b"a packet that should not be "


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    """mn1, anchored at gw1, is at gw2; mn2 is at gw1."""
    try:
        domain = Domain.up(topology(2, {"mn1": "gw1", "mn2": "gw1"}), LAB, owner_pid=os.getpid())
        for host in ("mn1", "mn2"):
            usable_address(domain, host, "gw1")
        move(domain, "mn1", "gw2")
        yield domain
    finally:
        Domain.take_down(LAB)


@pytest.fixture(autouse=True)
def _life_goes_on(lab: Domain) -> Iterator[None]:
    """Whatever a test sends: what was true before is true afterwards, and the daemons are the same."""
    before = state(lab)
    yield
    assert state(lab) == before
    ping(lab, "cn1", correspondent(lab), anchored(lab, "mn1"))


def state(domain: Domain) -> object:
    """What a message could change."""
    rows = {
        (node, what): [{**row, "lifetime_left_s": 0, "until": 0} for row in show(domain, node, what)]
        for node in domain.topology.daemons()
        for what in ("bindings", "prefixes", "tunnels")
    }
    return rows, [(row["node"], row["pid"], row["alive"]) for row in domain.ps()]


def anchored(domain: Domain, host: str) -> str:
    """A host's address from gw1's pool."""
    pool = domain.topology.gateways["gw1"].pools[0]
    return next(each.address for each in domain.host_addresses(host) if each.prefix.subnet_of(pool))


def raw(domain: Domain, node: str, protocol: int = MOBILITY) -> socket.socket:
    """A raw socket in a node. Of Mobility Headers the kernel fills in the checksum."""
    with inside(domain.namespace(node)):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, protocol)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, BY_HAND)
    opened.bind((str(domain.topology.on_core()[node].ip), 0))
    opened.settimeout(PATIENCE_S)
    return opened


def update(prefix: str, **changed: object) -> BindingUpdate:
    """A proxy binding update that asks for ``prefix``."""
    options = (
        MN_ID, HomeNetworkPrefix(IPv6Network(prefix)), HandoffIndicator(4), AccessTechnologyType(4),
        Timestamp(int(changed.get("ticks", 0))), MobileNodeLinkLayerIdentifier(MAC),
    )  # fmt: skip
    return BindingUpdate(1, 600, PROXY, options)


def heard(domain: Domain, node: str, name: str) -> int:
    return int(peer(domain, node, name)["messages_in"])


def wait_heard(domain: Domain, node: str, name: str, count: int) -> dict[str, object]:
    """Wait for that many messages; what was counted of that peer."""
    wait_for(lambda: heard(domain, node, name) >= count, f"{node} heard {count} messages of {name}")
    return peer(domain, node, name)


MALFORMED = {
    "a header alone": b"",
    "longer than it is": bytes((59, 200, 5, 0, 0, 0)) + bytes(18),
    "an update that ends": bytes((59, 0, 5, 0, 0, 0, 0, 0)),
    "another payload": bytes((6, 1, 5, 0, 0, 0)) + bytes(10),
    "an option beyond the end": bytes((59, 1, 5, 0, 0, 0)) + bytes(6) + bytes((8, 200, 0, 0)),
}


@pytest.mark.parametrize("node", ["gw1", "cmd"])
def test_row_47_53_strangers_change_nothing_and_get_no_answer(lab: Domain, node: str) -> None:
    address = GW1 if node == "gw1" else CMD
    messages = [
        encode(update("2001:db8:a2:77::/64")),
        encode(BindingAcknowledgement(0, 1, 600, BindingAckFlag.PROXY, (MN_ID,))),
        encode(BindingError(1)),
        encode(UnknownMessage(255, bytes(10))),
        *(data or bytes((59, 0, 5, 0, 0, 0)) for data in MALFORMED.values()),
    ]
    before = heard(lab, node, "others")
    with closing(raw(lab, "cn1")) as stranger:
        for message in messages:
            stranger.sendto(message, (address, 0))
        counted = wait_heard(lab, node, "others", before + len(messages))
        assert counted["messages_in"] == before + len(messages)
        assert sum(counted["dropped"].values()) == counted["messages_in"]  # type: ignore[attr-defined]
        assert counted["messages_out"] == 0 and counted["refused"] == {}
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(2048)


@pytest.mark.parametrize("node", ["gw1", "cmd"])
def test_row_129_what_no_kernel_would_send_is_not_even_heard(lab: Domain, node: str) -> None:
    address = GW1 if node == "gw1" else CMD
    before = heard(lab, node, "gw2")
    with closing(raw(lab, "gw2")) as forger:
        forger.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, -1)
        wrong = bytearray(encode(update("2001:db8:a2:77::/64"), IPv6Address(GW2), IPv6Address(address)))
        wrong[4] ^= 1
        forger.sendto(bytes(wrong), (address, 0))
        unknown = encode(UnknownMessage(200, bytes(10)), IPv6Address(GW2), IPv6Address(address))
        forger.sendto(unknown, (address, 0))
        wait_heard(lab, node, "gw2", before + 1)
    assert heard(lab, node, "gw2") == before + 1


def told_of_unknown_type(sender: socket.socket, address: str) -> BindingError | None:
    """Send a message of an unknown type; the answer, if there is one soon."""
    sender.settimeout(0.2)
    sender.sendto(encode(UnknownMessage(200, bytes(10))), (address, 0))
    with suppress(TimeoutError):
        while True:  # the gateway's own messages come to this socket as well
            answer, source = sender.recvfrom(2048)
            if source[0] == address and isinstance(error := decode(answer), BindingError):
                return error
    return None


@pytest.mark.parametrize("node", ["gw1", "cmd"])
def test_row_133_only_a_peer_is_told_of_an_unknown_type(lab: Domain, node: str) -> None:
    address = GW1 if node == "gw1" else CMD
    before = peer(lab, node, "gw2")["dropped"].get("unknown-type", 0)
    with closing(raw(lab, "gw2")) as sender:
        error = wait_for(lambda: told_of_unknown_type(sender, address), "an answer, one a second (row 133)")
    assert error.status == 2  # RFC 6275 section 6.1.9: unrecognized MH Type value
    assert peer(lab, node, "gw2")["dropped"]["unknown-type"] == before + 1


@pytest.mark.parametrize("node", ["gw1", "cmd"])
@pytest.mark.parametrize(("kind", "field"), [("another payload", 0), ("an update that ends", 1)])
def test_rows_131_and_132_a_peer_is_told_which_field_is_wrong_and_a_stranger_is_not(
    lab: Domain, node: str, kind: str, field: int
) -> None:
    address = GW1 if node == "gw1" else CMD

    def told(sender: str) -> bytes | None:
        """Send it; the Parameter Problem, if there is one soon."""
        with closing(raw(lab, sender)) as mobility, closing(raw(lab, sender, socket.IPPROTO_ICMPV6)) as icmp:
            icmp.settimeout(0.2)
            mobility.sendto(MALFORMED[kind], (address, 0))
            with suppress(TimeoutError):
                while True:  # neighbour discovery comes to this socket as well
                    data, source = icmp.recvfrom(2048)
                    if source[0] == address and data[0] == 4:
                        return data
        return None

    problem = wait_for(lambda: told("gw2"), "a Parameter Problem, one a second")
    code, pointer = problem[1], int.from_bytes(problem[4:8], "big")
    quoted = problem[8:]
    assert (code, pointer, quoted[6]) == (0, 40 + field, MOBILITY)
    assert quoted[8:40] == IPv6Address(GW2).packed + IPv6Address(address).packed
    # The kernel of the sender has filled in the checksum of what comes back.
    assert quoted[40:44] == MALFORMED[kind][:4] and quoted[46:] == MALFORMED[kind][6:]
    assert told("gw2") is None  # not again within a second
    assert told("cn1") is None


@pytest.mark.parametrize("node", ["gw1", "cmd"])
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_messages_of_a_peer_are_counted_by_cause(lab: Domain, node: str, kind: str) -> None:
    before = peer(lab, node, "gw2")
    with closing(raw(lab, "gw2")) as sender:
        sender.sendto(MALFORMED[kind] or bytes((59, 0, 5, 0, 0, 0)), (GW1 if node == "gw1" else CMD, 0))
        after = wait_heard(lab, node, "gw2", before["messages_in"] + 1)
    causes = {cause for cause, count in after["dropped"].items() if count > before["dropped"].get(cause, 0)}  # type: ignore[attr-defined]
    refusals = after["refused"] != before["refused"]
    assert refusals or any(cause.startswith(("malformed", "not-the-central", "not-a-proxy")) for cause in causes), after


@pytest.mark.parametrize("node", ["gw1", "cmd"])
def test_any_bytes_of_a_peer_are_survived(lab: Domain, node: str) -> None:
    draw = random.Random(6275)
    before = heard(lab, node, "gw2")
    count = 300
    with closing(raw(lab, "gw2")) as sender:
        for _ in range(count):
            length = draw.randrange(1, 12)
            head = bytes(
                (59, draw.choice([length - 1, draw.randrange(256)]), draw.choice([5, 6, 7, draw.randrange(256)]))
            )
            sender.sendto(head + b"\0\0\0" + draw.randbytes(8 * length - 6), (GW1 if node == "gw1" else CMD, 0))
        wait_heard(lab, node, "gw2", before + count)


@pytest.mark.parametrize(
    ("prefix", "status"),
    [
        ("2001:db8:a1:77::/64", "not-authorized-for-home-network-prefix"),  # of another gateway's pool
        ("2001:db8:99::/64", "not-authorized-for-home-network-prefix"),  # of nobody's
        ("another host's", "not-authorized-for-home-network-prefix"),
        ("::/0", "not-authorized-for-home-network-prefix"),
    ],
)
def test_row_51_66_a_gateway_registers_no_prefix_that_is_not_its_own(lab: Domain, prefix: str, status: str) -> None:
    if prefix == "another host's":
        row = binding(lab, "gw2", "mn1")
        assert row is not None
        prefix = row["prefix"]
    before = peer(lab, "cmd", "gw2")["refused"].get(status, 0)
    stamp = binding_ticks()
    with closing(raw(lab, "gw2")) as sender:
        sender.sendto(encode(update(prefix, ticks=stamp)), (CMD, 0))
        wait_for(lambda: peer(lab, "cmd", "gw2")["refused"].get(status, 0) == before + 1, f"refused with {status}")


def test_row_82_83_an_old_timestamp_is_refused(lab: Domain) -> None:
    before = dict(peer(lab, "cmd", "gw2")["refused"])
    with closing(raw(lab, "gw2")) as sender:
        sender.sendto(encode(update("2001:db8:a2:77::/64", ticks=binding_ticks() - (3600 << 16))), (CMD, 0))
        wait_for(lambda: peer(lab, "cmd", "gw2")["refused"] != before, "refused")
    assert set(peer(lab, "cmd", "gw2")["refused"]) - set(before) <= {"timestamp-mismatch"}


def binding_ticks() -> int:
    """Now, as RFC 5213 section 8.8 writes it: 48 bits of seconds, 16 of fraction."""
    return int(time.time() * 65536)


# Tunnelled packets


def inner(source: str, destination: str, payload: bytes = MARK, protocol: int = 17) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return header + IPv6Address(source).packed + IPv6Address(destination).packed + payload


def dropped(domain: Domain, cause: str) -> int:
    return int(show(domain, "gw1", "status")["kernel"][cause])


def sent_into_the_tunnel(domain: Domain, node: str, packet: bytes, cause: str) -> None:
    """Send a packet in a tunnel to gw1: counted once by cause, and neither to a host nor back into the core."""
    before = dropped(domain, cause)
    with (
        closing(raw(domain, node, IPV6)) as sender,
        frames_at(domain, "core", "core-gw1") as core,
        frames_at(domain, "mn1", "eth0") as first,
        frames_at(domain, "mn2", "eth0") as second,
    ):
        sender.sendto(packet, (GW1, 0))
        wait_for(lambda: dropped(domain, cause) > before, f"{cause} counted")
        ping(domain, "cn1", correspondent(domain), anchored(domain, "mn1"))  # behind it, all the way
        ping(domain, "cn1", correspondent(domain), anchored(domain, "mn2"))
        assert sum(MARK in frame for frame in drained(core)) == 1, "only the way in"
        assert not any(MARK in frame for frame in drained(first) + drained(second))
    assert dropped(domain, cause) == before + 1


def test_row_47_a_tunnelled_packet_of_a_stranger_is_dropped(lab: Domain) -> None:
    sent_into_the_tunnel(lab, "cn1", inner(correspondent(lab), anchored(lab, "mn2")), "foreign")


def test_a_tunnelled_packet_of_a_node_that_is_no_gateway_is_dropped(lab: Domain) -> None:
    sent_into_the_tunnel(lab, "cmd", inner(CMD, anchored(lab, "mn2")), "foreign")


def test_row_114_a_packet_for_a_host_that_is_not_here_any_more_is_dropped(lab: Domain) -> None:
    row = binding(lab, "gw2", "mn1")
    assert row is not None
    visitor = str(IPv6Network(row["prefix"])[5])  # of gw2's pool; gw2 has not told gw1 of it
    sent_into_the_tunnel(lab, "gw2", inner(correspondent(lab), visitor), "stale")


def test_a_packet_that_came_out_of_a_tunnel_never_goes_back_into_it(lab: Domain) -> None:
    """gw1 forwards mn1's prefix to gw2: a gw2 that has forgotten mn1 would play packets to and fro."""
    sent_into_the_tunnel(lab, "gw2", inner(correspondent(lab), anchored(lab, "mn1")), "stale")


def test_a_tunnel_in_a_tunnel_is_dropped(lab: Domain) -> None:
    innermost = inner(correspondent(lab), anchored(lab, "mn2"))
    # From one of gw1's own prefixes, so that the second header would be routed as a host's packet.
    sent_into_the_tunnel(lab, "gw2", inner(anchored(lab, "mn1"), GW1, innermost, IPV6), "foreign")
