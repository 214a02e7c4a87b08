"""Access links: several on one gateway, one that two gateways are on, and hosts that are on no list."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator

import pytest
from lab_scenes import (
    Flow,
    advertised_prefixes,
    binding,
    drained,
    frames_at,
    move,
    peer,
    show,
    topology,
    usable_address,
    wait_event,
    wait_for,
)

from anchord.lab.domain import Domain
from anchord.lab.topology import Central, Host
from anchord.wire.frames import layer2_update_frame

LAB = f"anct-{os.getpid()}-segments"
LISTED = {"mn1": "02:00:00:00:00:01", "mn2": "02:00:00:00:00:02"}
EARLY, LATE = bytes.fromhex("0200000000e1"), bytes.fromhex("0200000000e2")
UNLISTED = "02:00:00:00:00:99"
HELLO_S, QUIET_S = 5.0, 16.0  # how often gateways say hello, and how long one is remembered


@pytest.fixture(scope="module")
def lab() -> Iterator[Domain]:
    """gw1 with two access links, gw2 with one; a central database that knows its hosts."""
    plain = topology(2, {})
    gateways = {**plain.gateways, "gw1": dataclasses.replace(plain.gateways["gw1"], access=("a", "b"))}
    hosts = {name: Host(name, "gw1", mac=mac) for name, mac in LISTED.items()}
    hosts["nobody"] = Host("nobody", "gw2", mac=UNLISTED)
    listed = [*LISTED.values(), EARLY.hex(":"), LATE.hex(":")]
    made = dataclasses.replace(
        plain,
        gateways=gateways,
        hosts=hosts,
        central=Central(node={"hosts": "listed", "listed": listed}),
        domain={"serve_unregistered": False},  # else all are served while the central database begins, listed or not
    )
    try:
        yield Domain.up(made, LAB, owner_pid=os.getpid())
    finally:
        Domain.take_down(LAB)


def test_a_host_moves_between_two_links_of_a_gateway_and_nobody_else_need_know(lab: Domain) -> None:
    address = usable_address(lab, "mn1", "gw1")
    told = peer(lab, "gw1", "central")["messages_out"]
    before = binding(lab, "gw1", "mn1")
    assert before is not None and before["interface"] == "acc0"
    with Flow(lab, "mn1", address) as flow:
        for access, interface in (("b", "acc1"), ("a", "acc0"), ("b", "acc1")):
            move(lab, "mn1", "gw1", access=access)
            flow.wait_alive()
            after = binding(lab, "gw1", "mn1")
            assert after is not None and after["interface"] == interface
            assert {**after, "interface": "acc0", "lifetime_left_s": 0} == {**before, "lifetime_left_s": 0}
        lost = flow.lost()
        assert len(lost["up"]) < 60 and len(lost["down"]) < 60
    assert [state.address for state in lab.host_addresses("mn1")] == [address]
    assert peer(lab, "gw1", "central")["messages_out"] == told


def test_a_host_on_no_list_gets_no_advertisement(lab: Domain) -> None:
    with frames_at(lab, "nobody", "eth0") as seen:
        lab.move("nobody", "gw2")  # announced: if it was noticed before, now again
        status = "not-lma-for-this-mobile-node"  # 153, RFC 5213 section 8.9
        wait_for(lambda: status in peer(lab, "gw2", "central")["refused"], "gw2 was refused")
        assert peer(lab, "cmd", "gw2")["refused"][status] >= 1
        # Another host's advertisements come after anything that was on its way to this one.
        move(lab, "mn2", "gw2")
        assert (
            list(advertised_prefixes([frame for frame in drained(seen) if frame[:6] == lab.host_mac("nobody")])) == []
        )
    assert binding(lab, "gw2", "nobody") is None and binding(lab, "cmd", "nobody") is None
    assert lab.host_addresses("nobody") == []


def conflicts(domain: Domain, node: str) -> dict[str, str]:
    found: dict[str, str] = show(domain, node, "status")["segment_conflicts"]
    return found


def refused_frames(domain: Domain, node: str) -> int:
    return int(show(domain, node, "status")["counters"].get("frame.segment-conflict", 0))


def knows(domain: Domain, node: str, mac: bytes) -> bool:
    return any(row["mac"] == mac.hex(":") and row["state"] == "serving" for row in show(domain, node, "bindings"))


def test_two_gateways_on_one_segment_refuse_new_hosts_until_they_are_apart(lab: Domain) -> None:
    address = usable_address(lab, "mn1", "gw1")
    move(lab, "mn1", "gw1", access="b")

    def put(port: str, bridge: str) -> None:
        subprocess.run(["ip", "-n", lab.namespace("sw"), "link", "set", port, "master", bridge], check=True)

    with Flow(lab, "mn1", address) as flow, frames_at(lab, "mn2", "eth0") as host:
        lab.move("mn2", "gw1")  # to the link "a", where nobody else is
        lab.wait_served("mn2", "gw1", timeout_s=5)
        put("p-gw2", "br-gw1-a")
        wait_event(lab, "gw1", lambda: bool(conflicts(lab, "gw1")), HELLO_S + 2)
        wait_event(lab, "gw2", lambda: bool(conflicts(lab, "gw2")), 2)
        assert conflicts(lab, "gw1") == {"acc0": "gw2/acc0"}
        assert conflicts(lab, "gw2") == {"acc0": "gw1/acc0"}
        before = {node: refused_frames(lab, node) for node in ("gw1", "gw2")}
        host.send(layer2_update_frame(EARLY))
        for node, count in before.items():
            wait_for(lambda: refused_frames(lab, node) > count, f"{node} counted it")  # noqa: B023
            assert not knows(lab, node, EARLY)
        flow.wait_alive()  # a host on another link of the same gateway is not concerned
        put("p-gw2", "br-gw2")
        for node in before:
            wait_event(lab, node, lambda: not conflicts(lab, node), HELLO_S + QUIET_S)  # noqa: B023
        host.send(layer2_update_frame(LATE))
        wait_event(lab, "gw1", lambda: knows(lab, "gw1", LATE))
        assert not knows(lab, "gw1", EARLY) and not knows(lab, "gw2", LATE)
        move(lab, "mn2", "gw2")
        flow.wait_alive()
