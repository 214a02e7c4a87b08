"""Row 110: Router Advertisements carry what fits onto the access link and into tunnels, and follow its changes."""

from __future__ import annotations

from domain import Domain, domain_settings
from test_pacing import most_within

from anchord.daemon.advertiser import advertisement
from anchord.protocol.gateway import TOLD_MTU_PER_S
from anchord.protocol.inputs import MtuChanged
from anchord.protocol.outputs import Advertise
from anchord.protocol.peerlife import TELL_EVERY_S
from anchord.protocol.settings import Limits
from anchord.wire.frames import parse_frame
from anchord.wire.neighbor import received
from anchord.wire.neighbor_options import Mtu

MAC = bytes.fromhex("0255aa000001")


def shown(domain: Domain) -> list[Advertise]:
    """What hosts were shown since the last question."""
    orders = [order for _, order in domain.shown]
    domain.shown.clear()
    return orders


def test_row_110_every_router_of_a_host_announces_one_mtu_from_the_first_advertisement_on() -> None:
    domain = Domain()
    for number in (1, 2):
        domain.feed(domain.address(number), MtuChanged("acc0", 1360))
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    orders = shown(domain)
    assert len(orders) == 3 and {order.mtu for order in orders} == {1360}
    assert [received(parse_frame(advertisement(order))).all(Mtu) for order in orders] == [(Mtu(1360),)] * 3


def test_row_110_a_change_is_told_at_once_by_every_router() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    shown(domain)
    domain.feed(domain.address(2), MtuChanged("acc0", 1360))
    domain.pass_time(2 * TELL_EVERY_S)
    orders = shown(domain)
    routers = {order.router for order in orders}
    assert len(orders) == 2 and len(routers) == 2
    assert {(order.mac, order.mtu) for order in orders} == {(MAC, 1360)}
    assert [(report.event, report.fields) for _, report in domain.reports if report.event == "mtu-changed"] == [
        ("mtu-changed", {"interface": "acc0", "mtu": 1360})
    ]


def test_row_110_what_has_not_changed_is_not_told() -> None:
    domain = Domain()
    domain.host_at(1, MAC)
    domain.feed(domain.address(1), MtuChanged("acc0", 1360))
    domain.pass_time(2 * TELL_EVERY_S)
    shown(domain)
    domain.feed(domain.address(1), MtuChanged("acc0", 1360))
    domain.pass_time(2 * TELL_EVERY_S)
    assert shown(domain) == []


def test_row_110_only_hosts_on_that_interface_are_told_and_none_that_has_left() -> None:
    domain = Domain()
    other, gone = bytes.fromhex("0255aa000002"), bytes.fromhex("0255aa000003")
    domain.host_at(1, MAC)
    domain.host_at(1, other, interface="acc1")
    domain.host_at(1, gone)
    domain.host_at(2, gone)
    shown(domain)
    domain.feed(domain.address(1), MtuChanged("acc0", 1360))
    domain.pass_time(2 * TELL_EVERY_S)
    assert [(order.mac, order.interface, order.mtu) for order in shown(domain)] == [(MAC, "acc0", 1360)]


def test_row_110_a_gateway_full_of_hosts_tells_them_a_little_at_a_time() -> None:
    domain = Domain(settings=domain_settings(1, limits=Limits(attach_burst=1000)))
    macs = {bytes([2, 0x55, 0, 0, number // 256, number % 256]) for number in range(300)}
    for mac in macs:
        domain.host_at(1, mac)
    shown(domain)
    domain.feed(domain.address(1), MtuChanged("acc0", 1360))
    assert shown(domain) == []
    told: list[tuple[float, bytes]] = []
    for _ in range(200):
        domain.pass_time(0.01)
        told += [(domain.now.monotonic_s, order.mac) for order in shown(domain) if order.mtu == 1360]
    assert {mac for _, mac in told} == macs and len(told) == len(macs)
    assert most_within([at_s for at_s, _ in told], 1.0) <= TOLD_MTU_PER_S * (1 + TELL_EVERY_S)
