"""Daemons that lose what they knew are told again; a session is revoked by an administrator."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Network

import pytest
from lab_scenes import (
    ANCHORD,
    BY_HAND,
    PATIENCE_S,
    Flow,
    binding,
    move,
    peer,
    show,
    topology,
    usable_address,
    wait_for,
)

from anchord.lab.domain import Domain
from anchord.lab.namespaces import inside
from anchord.wire.header import decode, encode
from anchord.wire.messages import Heartbeat, HeartbeatFlag
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
