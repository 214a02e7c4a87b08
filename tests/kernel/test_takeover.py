"""Declaring again, restarting, repairing and removing."""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from namespaces import Domain, Flow, Namespace, udp, veth
from planes import Pair, Plane, anchored, exported, gateway_address, give_address, imported, prefix, router, use_router
from test_traffic import reaches

from anchord.declared import HostState
from anchord.kernel.forwarding import Forwarding, KernelError, flush

MakeDomain = Callable[[int], Domain]
MakePlane = Callable[..., Plane]


class Monitor:
    """``ip monitor`` in a namespace: every change of links, addresses, neighbours, routes and rules."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        # A new link's operational state is reported up to a second later.
        while any(link["operstate"] == "UNKNOWN" for link in namespace.json("link show type macvlan group 44033")):
            time.sleep(0.02)
        self._process = namespace.popen("ip", "-o", "-6", "monitor", "link", "address", "route", "rule",
                                        stdout=subprocess.PIPE)  # fmt: skip
        while not self._mark_seen():
            pass

    def _mark_seen(self) -> bool:
        """Change something harmless and wait a little for it to be reported."""
        self._namespace.run("ip -6 route replace blackhole 2001:db8:ffff::/48 table 999")
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 0.2)
        return bool(ready) and "2001:db8:ffff::" in self._process.stdout.readline()

    def changes(self) -> list[str]:
        """Lines since the last call."""
        assert self._process.stdout is not None
        self._namespace.run("ip -6 route replace blackhole 2001:db8:eeee::/48 table 999")
        lines: list[str] = []
        while "2001:db8:eeee::" not in (line := self._process.stdout.readline()):
            if "2001:db8:ffff::" not in line:
                lines.append(line)
        return lines

    def close(self) -> None:
        """Stop."""
        self._process.kill()
        self._process.wait()


def test_declaring_again_changes_nothing(pair: Pair) -> None:
    pair.hand_over()
    plane = pair.planes[2]
    plane.settle()
    sent = plane.counters()["netlink_batches"]
    monitor = Monitor(plane.namespace)
    assert plane.declare(pair.host, anchored(2), imported(1)) is None
    assert plane.declare(pair.host, imported(1), anchored(2)) is None
    assert monitor.changes() == []
    assert plane.counters()["netlink_batches"] == sent
    monitor.close()


def test_a_restart_loses_no_packet(pair: Pair) -> None:
    pair.hand_over()
    assert reaches(pair.host, Domain.CN)
    flows = [
        Flow(udp(pair.domain.cn, Domain.CN), udp(pair.host, str(pair.address))).start(),
        Flow(udp(pair.host, str(pair.address)), udp(pair.domain.cn, Domain.CN)).start(),
    ]
    dropped = pair.planes[2].counters()["stale"]
    for plane in pair.planes.values():
        plane.restart()
    assert pair.planes[2].declare(pair.host, anchored(2), imported(1)) is None
    assert pair.planes[1].declare(None, exported(1, to=2)) is None
    for plane in pair.planes.values():
        assert plane.sweep() is None
        plane.settle()
    assert [flow.stop() for flow in flows] == [[], []]
    assert pair.planes[2].counters()["stale"] == dropped, "counters go on over a restart"


def test_a_restart_finds_what_hosts_had_of_the_pools(pair: Pair) -> None:
    pair.hand_over()
    for plane in pair.planes.values():
        assert not plane.forwarding.left, "there was no earlier process"
        plane.restart()
    assert dict(pair.planes[1].forwarding.left) == {prefix(1): None}, "exported"
    mac = pair.host.mac("eth0")
    assert dict(pair.planes[2].forwarding.left) == {prefix(2): mac}, "what is imported is of another pool"


def test_a_restart_changes_nothing_in_the_kernel(pair: Pair) -> None:
    pair.hand_over()
    plane = pair.planes[2]
    plane.restart()  # after this there are as many spare links as there should be
    plane.forwarding.stop()
    monitor = Monitor(plane.namespace)
    plane.restart()
    assert plane.declare(pair.host, anchored(2), imported(1)) is None
    assert plane.sweep() is None
    plane.settle()
    assert monitor.changes() == []
    monitor.close()


def test_sweep_removes_what_nobody_declared(pair: Pair) -> None:
    pair.hand_over()
    plane = pair.planes[2]
    plane.restart()
    assert plane.declare(pair.host, imported(1)) is None
    assert plane.sweep() is None
    plane.settle()
    assert dict(plane.forwarding.links) == {router(1).mac: "acc0"}
    assert str(prefix(2)) not in plane.namespace.run("ip -6 route show table all")
    assert reaches(pair.host, Domain.CN)


def test_before_a_sweep_undeclared_hosts_are_served(pair: Pair) -> None:
    pair.planes[1].restart()
    assert pair.planes[1].audit() is None
    assert reaches(pair.host, Domain.CN)


def test_row_86_a_declaration_without_entries_leaves_nothing(pair: Pair) -> None:
    plane = pair.planes[1]
    assert plane.declare(pair.host) is None
    plane.settle()
    assert dict(plane.forwarding.links) == {}
    assert str(prefix(1)) not in plane.namespace.run("ip -6 route show table all")
    assert plane.counters()["links"] == 0


def test_buried_links_are_deleted_at_a_quiet_moment(pair: Pair) -> None:
    plane = pair.planes[1]
    assert plane.declare(pair.host) is None
    monitor = plane.namespace.popen("ip", "-o", "monitor", "link", stdout=-1)
    assert monitor.stdout is not None
    while "Deleted" not in monitor.stdout.readline():
        pass
    monitor.kill()
    monitor.wait()
    plane.settle()
    assert plane.namespace.json("link show group 44034") == []
    assert plane.counters()["links_deleted"] == 1


def test_a_link_is_taken_back_out_of_the_graveyard(pair: Pair) -> None:
    plane = pair.planes[1]
    before = plane.namespace.json("link show group 44033")[0]["ifname"]
    assert plane.declare(pair.host) is None
    plane.settle()
    assert plane.declare(pair.host, anchored(1)) is None
    assert plane.namespace.json("link show group 44033")[0]["ifname"] == before
    assert reaches(pair.host, Domain.CN)


@pytest.mark.parametrize(
    "damage",
    [
        "ip -6 route del 2001:db8:a1:1::/64 table 79",
        "ip -6 route flush table 83",
        "ip -6 route del default from 2001:db8:a1:1::/64 table 80",
        "ip -6 rule del pref 53",
        "ip -6 rule add pref 0 lookup local",
        "ip link del an-up0",
        "ip link set an-up1 down",
        "ip link set an-up0 mtu 1500",
        "ip -6 neigh flush nud permanent",
        "ip -6 rule del pref 10",
    ],
)
def test_an_audit_repairs(pair: Pair, damage: str) -> None:
    pair.hand_over()
    plane = pair.planes[2]
    plane.settle()
    wanted = picture(plane.namespace)
    plane.namespace.run(damage)
    assert picture(plane.namespace) != wanted
    assert plane.audit() is None
    assert plane.audit() is None
    assert picture(plane.namespace) == wanted
    assert plane.counters()["repairs"] > 0 or "pref 0" in damage
    assert reaches(pair.host, Domain.CN)


def test_an_audit_repairs_a_deleted_link(pair: Pair) -> None:
    pair.hand_over()
    plane = pair.planes[2]
    for link in plane.namespace.json("link show group 44033"):
        plane.namespace.run(f"ip link del {link['ifname']}")
    assert plane.audit() is None
    assert reaches(pair.host, Domain.CN)


def test_an_audit_brings_a_replaced_access_interface_back(pair: Pair) -> None:
    gateway, switch = pair.planes[1].namespace, pair.domain.switch
    gateway.run("ip link del acc0")
    assert "acc0" in (pair.planes[1].audit() or "")
    veth(gateway, "acc0", switch, "pbr-gw1")
    switch.run("ip link set pbr-gw1 master br-gw1")
    assert pair.planes[1].audit() is None
    assert "PROMISC" in gateway.json("link show acc0")[0]["flags"]
    assert reaches(pair.host, Domain.CN)


def test_an_audit_brings_the_packet_filter_back(pair: Pair) -> None:
    """Whoever reloads the machine's own firewall flushes ours too."""
    gateway = pair.planes[1].namespace
    loaded = gateway.run("nft -s list ruleset")
    gateway.run("nft flush ruleset")
    assert pair.planes[1].audit() is None
    assert gateway.run("nft -s list ruleset") == loaded


def test_an_audit_brings_tunnel_source_and_forwarding_back(pair: Pair) -> None:
    pair.hand_over()
    gateway = pair.planes[2].namespace
    gateway.run("ip sr tunsrc set ::1")
    gateway.run("sysctl -qw net.ipv6.conf.all.forwarding=0")
    gateway.run("ip link set acc0 promisc off")
    assert pair.planes[2].audit() is None
    assert reaches(pair.host, Domain.CN)


def test_an_audit_finds_nothing_when_all_is_well(pair: Pair) -> None:
    pair.hand_over()
    for plane in pair.planes.values():
        assert plane.audit() is None
        assert plane.counters()["repairs"] == 0


def test_a_failing_host_does_not_block_others_and_is_repaired_by_declaring_again(
    make_domain: MakeDomain, make_plane: MakePlane
) -> None:
    domain = make_domain(1)
    domain.add_access(domain.gateways[1], "acc1", "br-gw1b")
    plane = make_plane(domain, 1, ("acc0", "acc1"))
    host, other = domain.host("mn1", "br-gw1b"), domain.host("mn2", "br-gw1")
    plane.namespace.run("ip link del acc1")
    answers: dict[str, str | None] = {}
    both = threading.Barrier(3)

    def note(key: str) -> Callable[[str | None], None]:
        def done(error: str | None) -> None:
            answers[key] = error
            threading.Thread(target=both.wait).start()

        return done

    plane.forwarding.declare(HostState("mn1", host.mac("eth0"), "acc1", (anchored(1),)), note("mn1"))
    plane.forwarding.declare(HostState("mn2", other.mac("eth0"), "acc0", (anchored(1, 2),)), note("mn2"))
    both.wait(10)
    assert answers["mn2"] is None
    assert answers["mn1"] is not None
    assert "acc1" in answers["mn1"]
    veth(plane.namespace, "acc1", domain.switch, "pbr-gw1b")
    domain.switch.run("ip link set pbr-gw1b master br-gw1b")
    assert plane.declare(host, anchored(1), interface="acc1") is None
    give_address(host, 1)
    use_router(host, 1)
    assert reaches(host, Domain.CN)


def test_a_declaration_that_contradicts_itself_is_refused(pair: Pair) -> None:
    error = pair.planes[1].declare(None, anchored(1))
    assert error is not None
    assert "access interface" in error
    error = pair.planes[1].declare(None, replace(exported(1, to=2), peer=None))
    assert error is not None
    assert "peer" in error


def test_one_router_cannot_be_shown_to_two_hosts(pair: Pair) -> None:
    error = pair.planes[1].declare(pair.host, anchored(1), key="somebody else")
    assert error is not None
    assert "mn1" in error
    assert reaches(pair.host, Domain.CN)


def test_many_declarations_are_merged_and_all_answered(make_domain: MakeDomain, make_plane: MakePlane) -> None:
    plane = make_plane(make_domain(1), 1)
    answered = threading.Semaphore(0)
    errors: list[str | None] = []

    def done(error: str | None) -> None:
        errors.append(error)
        answered.release()

    for number in range(200):
        mac = bytes((2, 0, 0, 0, 0, number))
        face = replace(router(1), mac=bytes((2, 0xA1, 0, 0, 1, number)))
        entry = replace(anchored(1, number + 1), router=face)
        plane.forwarding.declare(HostState(f"mn{number}", mac, "acc0", (entry,)), done)
    for _ in range(200):
        assert answered.acquire(timeout=20)
    assert errors == [None] * 200
    assert plane.counters()["declarations_merged"] > 0
    assert len(plane.namespace.json("link show group 44033")) == 200
    assert len(plane.namespace.run("ip -6 route show table 78 proto 201").splitlines()) == 201
    assert plane.audit() is None
    assert plane.counters()["repairs"] == 0


def test_export_replaces_the_route_without_losing_a_packet(pair: Pair) -> None:
    """ANCHORED to EXPORTED and back, while somebody sends: every packet goes one way or the other."""
    assert pair.planes[2].declare(pair.host, imported(1)) is None  # so that both ways end at a host
    pair.domain.switch.run("ip link add br-both type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    pair.domain.switch.run("ip link set br-both up")
    for port in ("pbr-gw1", "pbr-gw2", "p-mn1"):
        pair.domain.switch.run(f"ip link set {port} master br-both")
    assert reaches(pair.host, Domain.CN)
    flow = Flow(udp(pair.domain.cn, Domain.CN), udp(pair.host, str(pair.address))).start()
    for _ in range(25):
        assert pair.planes[1].declare(None, exported(1, to=2)) is None
        assert pair.planes[1].declare(pair.host, anchored(1)) is None
    assert flow.stop() == []


def picture(namespace: Namespace) -> dict[str, Any]:
    """Everything in a namespace that flush must restore, without what changes by itself."""
    links = namespace.json("-d link show")
    for link in links:
        for moving in ("txqlen", "num_tx_queues", "ifindex", "promiscuity", "link_index", "operstate"):
            link.pop(moving, None)
        if link["ifname"].startswith("dl"):
            link["ifname"] = "dl"
        link.get("linkinfo", {}).pop("info_data", None)
        link["spare"] = link.get("group") == "44035" and link.pop("address", None)
    return {
        "rules": sorted(namespace.run("ip -6 rule").splitlines()),
        "routes": sorted(
            line for line in namespace.run("ip -6 route show table all").splitlines()
            if "dev dl" not in line or "proto 201" in line
        ),
        "links": sorted(json.dumps(link, sort_keys=True) for link in links if not link["spare"]),
        "neighbours": sorted(namespace.run("ip -6 neigh show nud permanent").splitlines()),
        "filter": namespace.run("nft list tables"),
    }  # fmt: skip


def test_flush_leaves_the_namespace_as_it_was(make_domain: MakeDomain) -> None:
    domain = make_domain(2)
    gateway = domain.gateways[1]
    gateway.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
    before = picture(gateway)
    plane = Plane(domain, 1).start()
    host = domain.host("mn1", "br-gw1")
    assert plane.declare(host, anchored(1), imported(2)) is None
    assert plane.declare(None, exported(1, 2, 2), key="mn2") is None
    assert "PROMISC" in gateway.json("link show acc0")[0]["flags"]
    plane.restart()
    plane.forwarding.stop()
    counts = gateway.call(flush)
    assert picture(gateway) == before
    assert counts["rules"] == 13
    assert counts["promiscuous"] == counts["filter"] == counts["tunnel_source"] == 1
    assert not any(gateway.call(flush).values())


def test_flush_leaves_promiscuity_that_was_there_before(make_domain: MakeDomain) -> None:
    domain = make_domain(1)
    gateway = domain.gateways[1]
    gateway.run("ip link set acc0 promisc on")
    plane = Plane(domain, 1).start()
    plane.forwarding.stop()
    gateway.call(flush)
    assert "PROMISC" in gateway.json("link show acc0")[0]["flags"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("ip link del acc0", "no access interface acc0"),
        ("ip link del core0", "no core interface core0"),
        ("ip addr del 2001:db8:f1::1/64 dev core0", "2001:db8:f1::1"),
        ("ip link set core0 mtu 1300", "1320"),
    ],
)
def test_start_says_what_is_wrong_and_what_to_do(make_domain: MakeDomain, command: str, says: str) -> None:
    domain = make_domain(1)
    plane = Plane(domain, 1)
    domain.gateways[1].run(command)
    with pytest.raises(KernelError) as caught:
        plane.start()
    assert says in str(caught.value)
    assert caught.value.mend


def test_a_second_gateway_in_a_namespace_ends_with_nothing_changed(pair: Pair) -> None:
    first, second = pair.planes[1], Plane(pair.domain, 1)
    first.settle()

    def installed() -> list[str]:
        return [first.namespace.run(f"ip -6 {what}") for what in ("route show table all", "rule")]

    before = installed()
    with pytest.raises(KernelError, match=rf"^another anchord gateway .*\(pid {os.getpid()}\): stop it first"):
        second.start()
    second.forwarding.stop()
    assert installed() == before
    assert reaches(pair.host, pair.address)
    first.forwarding.stop()
    second.start()
    second.forwarding.stop()


def test_a_changed_configuration_replaces_the_old_rules(pair: Pair) -> None:
    plane = pair.planes[1]
    plane.forwarding.stop()
    plane.namespace.run("ip addr add 2001:db8:f1::2/64 dev core0 nodad")
    changed = Forwarding(replace(plane.settings, address=gateway_address(1) + 1))
    plane.namespace.call(changed.start)
    plane.forwarding = changed
    tunnel_rules = [line for line in plane.namespace.run("ip -6 rule").splitlines() if line.startswith("10:")]
    assert len(tunnel_rules) == 1
    assert "2001:db8:f1::2" in tunnel_rules[0]
