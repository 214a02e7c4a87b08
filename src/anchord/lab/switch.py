"""The access switch of a lab: what moves a host from one gateway's access link to another's.

Real access points broadcast a frame with the station's MAC as its source once a station has associated, an 802.2 XID
response ("Layer 2 Update", IEEE 802.11F): every bridge on the way learns the station's new place from it, and a gateway
hears of a host that itself says nothing for seconds. So does this switch.
"""

from __future__ import annotations

import socket
import time

from anchord.lab.errors import LabError
from anchord.lab.links import Link, Links
from anchord.lab.namespaces import host_port, inside
from anchord.lab.topology import AccessLink
from anchord.wire.neighbor import layer2_update_frame

_CARRIER_WITHIN_S = 3.0


def move(namespace: str, host: str, mac: bytes, target: AccessLink, silent: bool, flap_ms: float | None) -> int:
    """Take a host's port to another access link, and return the time at which it was there (ns since the epoch).

    ``namespace`` is the switch's, ``mac`` the host's. The port changes its bridge in one step with the carrier kept;
    ``flap_ms``: the carrier at the host is gone for so many milliseconds, with the change in the middle. Then the
    Layer 2 Update frame goes out, unless ``silent``. A host that is there already is announced all the same.
    """
    with Links(namespace) as links, _sender(namespace) as sender:
        known = {link.name: link for link in links.all()}
        port, bridge = _named(known, host_port(host)), _named(known, target.bridge)
        if flap_ms is None:
            _enslave(links, port, bridge)
        else:
            links.set_up(port, False)
            try:
                time.sleep(flap_ms / 2000)
                _enslave(links, port, bridge)
                time.sleep(flap_ms / 2000)
            finally:
                links.set_up(port, True)
            _wait_operational(links, port.name)
        moved_ns = time.time_ns()
        if not silent:
            frame = layer2_update_frame(mac)
            for other in known.values():
                # Where it would go, and what the bridge would learn, if the frame had come in at the station's port.
                if other.master == bridge.index and other.name != port.name:
                    sender.sendto(frame, (other.name, 0))
            links.learn(port, mac)
        return moved_ns


def _enslave(links: Links, port: Link, bridge: Link) -> None:
    if port.master != bridge.index:
        links.set_master(port, bridge)


def _wait_operational(links: Links, name: str) -> None:
    """The kernel takes note of a carrier a moment after it is there; until then the bridge has no use for the port."""
    deadline = time.monotonic() + _CARRIER_WITHIN_S
    while not links.get(name).operational:
        if time.monotonic() > deadline:
            raise LabError(f"the access switch's port {name} has no carrier: is the host's interface down?")
        time.sleep(0.0005)


def _sender(namespace: str) -> socket.socket:
    """A socket for whole frames that receives nothing."""
    with inside(namespace):
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def _named(links: dict[str, Link], name: str) -> Link:
    if name not in links:
        raise LabError(f"the access switch has no interface {name}: was it deleted by hand?")
    return links[name]
