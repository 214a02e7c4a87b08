"""Daemons that lose what they knew are told again; a session is revoked by an administrator; and what peers say of it.

Where a peer has to say what ours do not say, it is played (``strangers.py``).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Network
from typing import Any

import pytest
from lab_scenes import (
    ANCHORD,
    BY_HAND,
    PATIENCE_S,
    Flow,
    binding,
    drained,
    frames_at,
    move,
    peer,
    routers,
    show,
    topology,
    usable_address,
    wait_for,
)
from strangers import (
    NOBODY,
    RESPONSE,
    UNSOLICITED,
    Stranger,
    about,
    acknowledgement,
    answers,
    binding_error,
    body,
    heartbeat,
    is_indication,
    is_update,
    prefix_body,
    revoked,
    update,
)

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.lab.topology import Central
from anchord.wire.header import decode, encode
from anchord.wire.messages import (
    BindingUpdate,
    Heartbeat,
    HeartbeatFlag,
    NotificationReason,
    UpdateNotification,
    UpdateNotificationAcknowledgement,
)
from anchord.wire.options import RestartCounter

LAB = f"anct-{os.getpid()}-life"
HOSTS = {"mn1": "gw1", "mn2": "gw1", "mn3": "gw1"}
MOBILITY = 135


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    """Three gateways, each test with a host of its own; every daemon runs again after each test."""
    try:
        domain = Domain.up(topology(3, HOSTS), LAB, owner_pid=os.getpid())
        for host, gateway in HOSTS.items():
            usable_address(domain, host, gateway)
        yield domain
    finally:
        Domain.take_down(LAB)


def lose(domain: Domain, node: str) -> int:
    """kill -9, its state is deleted, and it is started again. Returns the counter that others knew of it until now."""
    known = counter(domain, node)
    domain.kill(node)
    shutil.rmtree(domain.directory / "state" / node)
    domain.start(node)
    return known


def counter(domain: Domain, node: str) -> int:
    """What a node says now, asked by another one; it answers with the sequence number of the question."""
    asker = "gw2" if node != "gw2" else "gw3"
    on_core = domain.topology.on_core()
    with inside(domain.namespace(asker)):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, MOBILITY)
    with closing(opened):
        opened.settimeout(PATIENCE_S)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, BY_HAND)
        opened.bind((str(on_core[asker].ip), 0))
        opened.sendto(encode(Heartbeat(0xDEADBEEF, HeartbeatFlag(0))), (str(on_core[node].ip), 0))
        while True:  # the asker's own messages come to this socket as well
            data, source = opened.recvfrom(2048)
            answer = decode(data)
            if source[0] == str(on_core[node].ip) and isinstance(answer, Heartbeat) and answer.sequence == 0xDEADBEEF:
                break
    assert answer.flags == HeartbeatFlag.RESPONSE
    (option,) = answer.options
    assert isinstance(option, RestartCounter)
    return option.value


def anchors_at(domain: Domain, node: str, host: str) -> dict[str, list[str]]:
    row = binding(domain, node, host)
    return {} if row is None else {anchor["gateway"]: anchor["prefixes"] for anchor in row["anchors"]}


def expected(domain: Domain, **addresses: str) -> dict[str, list[str]]:
    """Anchors by an address that a host has from each."""
    gateways = domain.topology.gateways
    return {
        str(gateways[name].address): [str(IPv6Network((address, 64), strict=False))]
        for name, address in addresses.items()
    }


def test_row_146_a_cmd_that_lost_its_store_is_rebuilt_by_the_gateways(lab: Domain) -> None:
    old = usable_address(lab, "mn1", "gw1")
    move(lab, "mn1", "gw2")
    middle = usable_address(lab, "mn1", "gw2")
    known = lose(lab, "cmd")
    # Within seconds; its next refresh would come after five minutes.
    wait_for(lambda: anchors_at(lab, "cmd", "mn1") == expected(lab, gw1=old), "gw2 has registered mn1 again")
    wait_for(lambda: len(show(lab, "cmd", "bindings")) == len(HOSTS), "every host is known again")
    assert counter(lab, "cmd") > known
    with Flow(lab, "mn1", old) as first, Flow(lab, "mn1", middle) as second:
        move(lab, "mn1", "gw3")
        first.wait_alive()
        second.wait_alive()
    assert anchors_at(lab, "gw3", "mn1") == expected(lab, gw1=old, gw2=middle)


def test_row_146_a_gateway_that_lost_its_journal_is_told_again_by_the_cmd(lab: Domain) -> None:
    old = usable_address(lab, "mn2", "gw1")
    move(lab, "mn2", "gw2")
    usable_address(lab, "mn2", "gw2")
    with Flow(lab, "mn2", old) as flow:
        known = lose(lab, "gw1")
        wait_for(lambda: (row := binding(lab, "gw1", "mn2")) and row["state"] == "away", "exported again")
        assert counter(lab, "gw1") > known
        flow.wait_alive()
        move(lab, "mn2", "gw3")
        flow.wait_alive()
    # And those that it served until then: their next frames register them, with the prefix they had.
    served = usable_address(lab, "mn3", "gw1")
    with Flow(lab, "mn3", served) as flow:
        flow.wait_alive()
    row = binding(lab, "gw1", "mn3")
    assert row is not None and row["registered"] and IPv6Network(row["prefix"]) == IPv6Network((served, 64), False)


def test_row_146_a_restart_without_a_loss_is_none(lab: Domain) -> None:
    for node in ("cmd", "gw1"):
        known = counter(lab, node)
        lab.kill(node)
        lab.start(node)
        assert counter(lab, node) == known


def test_row_148_an_administrator_ends_a_session_everywhere(lab: Domain) -> None:
    mac = lab.host_mac("mn1").hex(":")
    assert sum(binding(lab, node, "mn1") is not None for node in lab.topology.daemons()) == 4
    done = lab.exec("cmd", [ANCHORD, "revoke", mac, "--socket", str(lab.control("cmd"))])
    assert (done.returncode, done.stdout) == (0, f"revoked: {mac}\n"), done.stderr
    wait_for(lambda: not any(binding(lab, node, "mn1") for node in lab.topology.daemons()), "no session anywhere")
    again = lab.exec("cmd", [ANCHORD, "revoke", mac, "--socket", str(lab.control("cmd"))])
    assert again.returncode == 1 and "no session" in again.stderr
    refused = lab.exec("gw1", [ANCHORD, "revoke", mac, "--socket", str(lab.control("gw1"))])
    assert refused.returncode == 1 and "central database" in refused.stderr
    assert peer(lab, "cmd", "gw3")["dropped"] == {}


# Peers that are played

CMD, GW1, GW2 = "2001:db8:fc::1", "2001:db8:f1::1", "2001:db8:f2::1"
THERE = "2001:db8:a2:78::/64"
IDLE_S = 3


@pytest.fixture
def gateway(lab_name: str) -> Iterator[tuple[Domain, Stranger]]:
    """gw2 is somebody else's; mn1 is at gw1."""
    plain = topology(2, {"mn1": "gw1"}, domain={"timers": {"idle_release_s": IDLE_S}})
    gateways = {**plain.gateways, "gw2": dataclasses.replace(plain.gateways["gw2"], program=NOBODY)}
    with (
        Domain.up(dataclasses.replace(plain, gateways=gateways), lab_name, owner_pid=os.getpid()) as domain,
        closing(Stranger(domain, "gw2")) as stranger,
    ):
        usable_address(domain, "mn1", "gw1")
        yield domain, stranger


def takes(domain: Domain, stranger: Stranger, sequence: int) -> None:
    """mn1 is at gw2 now, and its former gateway anchors what it had there."""
    question = update(sequence, 600, about(domain.host_mac("mn1"), THERE))
    stranger.say(CMD, question)
    assert stranger.hear(CMD, answers(question)).status == 0
    wait_for(lambda: (row := binding(domain, "gw1", "mn1")) and row["state"] == "away", "gw1 forwards to gw2")


def test_row_18_decision_14_an_anchor_that_refuses_is_taken_off_the_list_by_forced_reregistration(
    gateway: tuple[Domain, Stranger],
) -> None:
    domain, stranger = gateway
    takes(domain, stranger, 42)
    domain.exec("mn1", ["ip", "link", "set", "eth0", "down"])
    domain.exec("mn1", ["ip", "link", "set", "eth0", "up"])  # its first frame says that it is at gw1 again
    # The CMD names the anchor to gw1 at once, and asks it meanwhile (RFC 8885 section 3.4).
    asked = stranger.hear(CMD, lambda message: is_update(message) and bool(body(message, 68)))
    wait_for(lambda: anchors_at(domain, "gw1", "mn1") == {GW2: [THERE]}, "gw1 has been told of an anchor")
    wait_for(lambda: len(routers(domain, "mn1")) == 2, "so has the host")
    with frames_at(domain, "gw1", "core0") as core:
        who = about(domain.host_mac("mn1"), THERE)
        stranger.say(CMD, acknowledgement(asked.seq, 0, [*who, *asked.options[-1:]], status=129))
        wait_for(lambda: anchors_at(domain, "gw1", "mn1") == {}, "gw1 has a new list")
        wait_for(lambda: len(routers(domain, "mn1")) == 1, "the host has forgotten that router")
        said = [decode(frame[54:]) for frame in drained(core) if frame[12:14] == b"\x86\xdd" and frame[20] == MOBILITY]
    wanted = (UpdateNotification, UpdateNotificationAcknowledgement, BindingUpdate)
    told, *more = [message for message in said if isinstance(message, wanted)]
    assert isinstance(told, UpdateNotification) and told.reason == NotificationReason.FORCE_REREGISTRATION
    assert {type(message) for message in more} == {UpdateNotificationAcknowledgement, BindingUpdate}


def test_row_148_who_does_not_know_update_notifications_says_so_and_gets_a_revocation(
    gateway: tuple[Domain, Stranger],
) -> None:
    domain, stranger = gateway
    (anchored,) = show(domain, "gw1", "bindings")
    domain.exec("mn1", ["ip", "link", "set", "eth0", "down"])
    takes(domain, stranger, 42)
    told = stranger.hear(CMD, lambda message: message.mhtype == 19)  # gw1 has given up what nobody uses
    assert told.msg[2:4] == b"\0\1"  # RFC 7077 section 4.1: FORCE-REREGISTRATION
    stranger.say(CMD, binding_error(2))
    indication = stranger.hear(CMD, is_indication)
    assert indication.msg[1] == 7  # Possible Out-of-Sync BCE State
    assert prefix_body(anchored["prefix"]) in bytes(indication)
    stranger.say(CMD, revoked(indication))
    wait_for(lambda: show(domain, "cmd", "status")["counters"].get("notifications.unable"), "it is remembered")
    assert peer(domain, "cmd", "gw2")["dropped"] == {"binding-error.2": 1}


def is_question(message: Any) -> bool:
    """A Heartbeat that wants an answer (RFC 5847 section 3.3: R is clear)."""
    return bool(message.mhtype == 13 and not message.msg[1] & 1)


def test_rows_144_and_146_a_binding_error_of_the_cmd_makes_its_gateways_ask_what_else_it_has_lost(
    lab_name: str,
) -> None:
    made = dataclasses.replace(topology(1, {"mn1": "gw1"}), central=Central(program=NOBODY))
    with (
        Domain.up(made, lab_name, owner_pid=os.getpid()) as domain,
        closing(Stranger(domain, "cmd")) as stranger,
    ):

        def registered() -> None:
            """gw1 registers mn1 and is told yes."""
            asked = stranger.hear(GW1, is_update)
            (prefix,) = body(asked, 22)
            (stamp,) = body(asked, 27)
            own = str(IPv6Network((prefix[2:], prefix[1])))
            options = about(domain.host_mac("mn1"), own, now=int.from_bytes(stamp, "big") / 65536)
            stranger.say(GW1, acknowledgement(asked.seq, 600, options))

        registered()
        usable_address(domain, "mn1", "gw1")
        stranger.say(GW1, binding_error(1))  # it does not know a binding of gw1's
        asked = stranger.hear(GW1, is_question)
        stranger.say(GW1, heartbeat(int.from_bytes(bytes(asked)[8:12], "big"), RESPONSE, 1))
        wait_for(lambda: peer(domain, "gw1", "central")["restart_counter"] == 1, "gw1 has asked what else is lost")
        stranger.say(GW1, heartbeat(0, RESPONSE | UNSOLICITED, 2))  # everything (RFC 5847 section 3.2)
        registered()
        wait_for(lambda: (row := binding(domain, "gw1", "mn1")) and row["registered"], "mn1 is registered again")


def events_of_peers(domain: Domain) -> list[str]:
    """What the CMD's log says of them."""
    return [line.split()[2] for line in domain.log("cmd").read_text().splitlines() if " peer-" in line]


@pytest.mark.long
@pytest.mark.timeout(180)
def test_row_144_a_peer_that_leaves_out_heartbeats_is_reported_and_so_is_its_return(lab_name: str) -> None:
    brief = {"timers": {"heartbeat_s": 30}, "limits": {"missing_heartbeats": 1}}
    with Domain.up(topology(2, {"mn1": "gw1"}, domain=brief), lab_name, owner_pid=os.getpid()) as domain:
        usable_address(domain, "mn1", "gw1")
        wait_for(lambda: peer(domain, "cmd", "gw1")["reachable"], "gw1 answers", 35)
        domain.kill("gw1")
        wait_for(lambda: peer(domain, "cmd", "gw1")["reachable"] is False, "it does not any more", 70)
        domain.start("gw1")
        wait_for(lambda: peer(domain, "cmd", "gw1")["reachable"], "it does again", 35)
        wait_for(lambda: events_of_peers(domain) == ["peer-down", "peer-up"], "its log says so")
