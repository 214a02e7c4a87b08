"""Messages out of order: hosts faster than the signalling, a host that two gateways see, clocks, sequence numbers."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator

import pytest
from lab_scenes import (
    MODES,
    Flow,
    binding,
    correspondent,
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
from anchord.lab.topology import Topology

LAB = f"anct-{os.getpid()}-order"
MOVES = 40
PAUSE_S = 0.004  # less than a handover takes
SETTLE_S = 20.0


@pytest.fixture
def lab_of() -> Iterator[Callable[[Topology], Domain]]:
    yield lambda wanted: Domain.up(wanted, LAB, owner_pid=os.getpid())
    Domain.take_down(LAB)


@pytest.mark.parametrize("mode", MODES)
def test_decision_17_ping_pong_faster_than_the_signalling_settles_where_the_host_is(
    lab_of: Callable[[Topology], Domain], mode: str
) -> None:
    domain = lab_of(topology(3, {"mn1": "gw1"}, **MODES[mode]))
    addresses = []
    for gateway in ("gw1", "gw2", "gw3"):
        if gateway != "gw1":
            move(domain, "mn1", gateway)
        addresses.append(usable_address(domain, "mn1", gateway))
    with Flow(domain, "mn1", addresses[0]) as flow:
        for number in range(MOVES):
            domain.move("mn1", ("gw1", "gw2", "gw3")[number % 3])
            time.sleep(PAUSE_S)
        domain.move("mn1", "gw2")
        domain.wait_served("mn1", "gw2", SETTLE_S)
        flow.wait_alive(timeout_s=SETTLE_S)
    states = {gateway: binding(domain, gateway, "mn1") for gateway in ("gw1", "gw2", "gw3")}
    wait_for(
        lambda: (
            [(row := binding(domain, gateway, "mn1")) and row["state"] for gateway in states]
            == ["away", "serving", "away"]
        ),
        "one gateway serves it, and the others know",
        SETTLE_S,
    )
    for address in addresses:
        ping(domain, "cn1", correspondent(domain), address)


def test_two_gateways_that_see_a_host_at_once_end_with_one_that_serves_it(
    lab_of: Callable[[Topology], Domain],
) -> None:
    """Somebody sends with the host's MAC address on another link: both gateways hear it, until the host speaks last."""
    domain = lab_of(topology(2, {"mn1": "gw1", "other": "gw2"}))
    address = usable_address(domain, "mn1", "gw1")
    usable_address(domain, "other", "gw2")
    forged = b"\xff" * 6 + domain.host_mac("mn1") + b"\x00\x06" + bytes((0, 1, 0xAF, 0x81, 1, 0))
    with frames_at(domain, "other", "eth0") as wire, Flow(domain, "mn1", address) as flow:
        for _ in range(5):
            wire.send(forged)
            domain.move("mn1", "gw1")  # announces it again where it is
        domain.wait_served("mn1", "gw1", SETTLE_S)
        flow.wait_alive(timeout_s=SETTLE_S)
        serving = [gateway for gateway in ("gw1", "gw2") if (row := binding(domain, gateway, "mn1")) and
                   row["state"] == "serving"]  # fmt: skip
        assert serving == ["gw1"]


def test_rows_85_and_134_a_domain_that_orders_by_sequence_numbers_keeps_addresses_too(
    lab_of: Callable[[Topology], Domain],
) -> None:
    plain = topology(3, {"mn1": "gw1"})
    domain = lab_of(dataclasses.replace(plain, domain={"pmip": {"timestamp_based_approach_in_use": False}}))
    first = usable_address(domain, "mn1", "gw1")
    with Flow(domain, "mn1", first) as flow:
        for gateway in ("gw2", "gw3", "gw1", "gw2"):
            move(domain, "mn1", gateway)
            usable_address(domain, "mn1", gateway)
            flow.wait_alive()
        domain.kill("cmd")
        domain.start("cmd")
        move(domain, "mn1", "gw3")
        flow.wait_alive()


def test_rows_84_and_101_a_registration_outside_the_window_is_refused_counted_and_let_be(
    lab_of: Callable[[Topology], Domain],
) -> None:
    """A link slower than the window is as a clock that is wrong: 156, and no prefix."""
    plain = topology(2, {"mn1": "gw1"})
    slow = dataclasses.replace(plain.gateways["gw2"], delay_ms=30.0)
    domain = lab_of(
        dataclasses.replace(
            plain,
            gateways={**plain.gateways, "gw2": slow},
            domain={"pmip": {"timestamp_validity_window_ms": 15}},
        )
    )
    usable_address(domain, "mn1", "gw1")
    domain.move("mn1", "gw2")
    wait_for(lambda: peer(domain, "cmd", "gw2")["refused"].get("timestamp-mismatch"), "the CMD refuses with 156")
    wait_for(lambda: peer(domain, "gw2", "central")["refused"].get("timestamp-mismatch"), "gw2 counts it")
    wait_for(lambda: binding(domain, "gw2", "mn1") is None, "gw2 does not serve it")
    row = binding(domain, "cmd", "mn1")
    assert row is not None and row["serving"] == str(domain.topology.gateways["gw1"].address)
    assert show(domain, "cmd", "status")["ready"]
    domain.move("mn1", "gw1")
    domain.wait_served("mn1", "gw1", SETTLE_S)
