"""Real daemons and messages that scapy has built: a central database and gateways of somebody else would be understood.

In each lab one node runs nothing and the test speaks in its place (``strangers.py``).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Address, IPv6Network

import pytest
from lab_scenes import PATIENCE_S, binding, ip, show, topology, usable_address, wait_for
from strangers import (
    D_OF_ACK,
    D_OF_UPDATE,
    NOBODY,
    P_OF_ACK,
    PROXY_A_H,
    Stranger,
    about,
    acknowledgement,
    answers,
    body,
    heartbeat,
    is_update,
    option,
    prefix_body,
    update,
)

from anchord.lab.domain import Domain
from anchord.lab.topology import Central

LAB = f"anct-{os.getpid()}-others"
CMD, GW1, GW2 = "2001:db8:fc::1", "2001:db8:f1::1", "2001:db8:f2::1"
STRANGER = b"\x02\x5c\xa9\x00\x00\x01"


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[Domain, Stranger]]:
    """gw2 is somebody else's; mn1 is at gw1."""
    plain = topology(2, {"mn1": "gw1"})
    gateways = {**plain.gateways, "gw2": dataclasses.replace(plain.gateways["gw2"], program=NOBODY)}
    with Domain.up(dataclasses.replace(plain, gateways=gateways), LAB, owner_pid=os.getpid()) as domain:
        usable_address(domain, "mn1", "gw1")
        with closing(Stranger(domain, "gw2")) as stranger:
            yield domain, stranger


@pytest.fixture
def central(lab_name: str) -> Iterator[tuple[Domain, Stranger]]:
    """The central database is somebody else's."""
    made = dataclasses.replace(topology(2, {"mn1": "gw1"}), central=Central(program=NOBODY))
    made = dataclasses.replace(made, domain={"serve_unregistered": False})
    with Domain.up(made, lab_name, owner_pid=os.getpid()) as domain, closing(Stranger(domain, "cmd")) as stranger:
        yield domain, stranger


def test_rows_3_7_10_and_18_a_central_database_serves_a_gateway_of_somebody_else(
    gateway: tuple[Domain, Stranger],
) -> None:
    domain, stranger = gateway
    question = update(41, 600, about(STRANGER, "2001:db8:a2:77::/64"))
    stranger.say(CMD, question)
    answer = stranger.hear(CMD, answers(question))
    assert (answer.status, answer.mhtime, int(answer.flags), answer.res2) == (0, 150, P_OF_ACK, D_OF_ACK)
    assert body(answer, 22) == [prefix_body("2001:db8:a2:77::/64")] and body(answer, 67) == []

    # A node that was at gw1 until now.
    anchored = binding(domain, "gw1", "mn1")
    assert anchored is not None
    question = update(42, 600, about(domain.host_mac("mn1"), "2001:db8:a2:78::/64"))
    stranger.say(CMD, question)
    answer = stranger.hear(CMD, answers(question))
    (previous,) = body(answer, 67)
    prefix = IPv6Network(anchored["prefix"])
    # RFC 8885 section 4.5: Reserved, Prefix Length, address of the anchor, prefix.
    assert previous == bytes((0, 64)) + IPv6Address(GW1).packed + prefix.network_address.packed
    assert body(answer, 69) == [IPv6Address(anchored["router"]["address"]).packed]
    assert body(answer, 70) == [bytes(2) + bytes.fromhex(anchored["router"]["mac"].replace(":", ""))]

    # The anchor was told, and forwards to the stranger.
    def exported() -> bool:
        return any(row["role"] == "exported" and row["peer"] == GW2 for row in show(domain, "gw1", "prefixes"))

    wait_for(exported, "gw1 forwards to the other gateway")
    routes = ip(domain, "gw1", "route", "show", "table", "81")
    assert [(row["dst"], row["segs"]) for row in routes] == [(str(prefix), [GW2])]


def test_rows_144_and_146_a_heartbeat_of_somebody_else_is_answered(gateway: tuple[Domain, Stranger]) -> None:
    _, stranger = gateway
    stranger.say(CMD, heartbeat(4711))
    answer = stranger.hear(CMD, lambda message: message.mhtype == 13 and message.msg[2:6] == (4711).to_bytes(4, "big"))
    assert answer.msg[:2] == b"\0\x01"  # R
    assert answer.msg[6:10] == bytes((1, 0, 28, 4))  # PadN up to 4n+2, Restart Counter (section 3.4)


def test_rows_2_9_11_and_29_a_gateway_obeys_a_central_database_of_somebody_else(
    central: tuple[Domain, Stranger],
) -> None:
    domain, stranger = central
    mac = domain.host_mac("mn1")
    asked = stranger.hear(GW1, lambda message: is_update(message) and STRANGER not in bytes(message))
    assert (int(asked.flags), asked.reserved) == (PROXY_A_H, D_OF_UPDATE)
    (registered,) = body(asked, 22)
    (stamp,) = body(asked, 27)
    assert abs(int.from_bytes(stamp, "big") / 65536 - time.time()) < 5
    own = str(IPv6Network((registered[2:], registered[1])))

    # It is accepted, and there is an anchor somewhere else: RFC 8885 sections 4.5, 4.7 and 4.8 in this order.
    elsewhere, router = IPv6Network("2001:db8:a2:99::/64"), bytes.fromhex("025ca9000099")
    link_local = IPv6Address("fe80::5c:a9ff:fe00:99")
    stranger.say(
        GW1,
        acknowledgement(
            asked.seq,
            600,
            [
                *about(mac, own, now=int.from_bytes(stamp, "big") / 65536),
                option(67, (8, 4), bytes((0, 64)) + IPv6Address(GW2).packed + elsewhere.network_address.packed),
                option(69, (8, 6), link_local.packed),
                option(70, (4, 0), bytes(2) + router),
            ],
        ),
    )
    domain.wait_served("mn1", "gw1", PATIENCE_S)

    def prefixes() -> dict[str, bool]:
        states = domain.host_addresses("mn1")
        return {str(state.prefix): bool(state.preferred) for state in states if state.usable}

    wait_for(lambda: prefixes() == {own: True, str(elsewhere): False}, "the host has an address of each anchor")
    assert {row["gateway"]: row["pref"] for row in ip(domain, "mn1", "route", "show", "default")}[
        str(link_local)
    ] == "low"

    # The node has gone on: RFC 8885 section 4.6, Serving MAAR.
    question = update(7, 600, [*about(mac, own), option(68, (8, 6), IPv6Address(GW2).packed)])
    stranger.say(GW1, question)
    answer = stranger.hear(GW1, answers(question))
    assert (answer.status, int(answer.flags), answer.res2) == (0, P_OF_ACK, D_OF_ACK)
    assert body(answer, 22) == [prefix_body(own)] and body(answer, 68) == [IPv6Address(GW2).packed]
    routes = ip(domain, "gw1", "route", "show", "table", "81")
    assert [(row["dst"], row["segs"]) for row in routes] == [(own, [GW2])]
