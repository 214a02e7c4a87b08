"""What this machine's kernel can do, found out by doing it: in two throw-away namespaces with a link between them.

Run as a program of its own (``probe``): it leaves its namespace for good and prints what it found as JSON. Kernel
versions and configuration files are not asked: a feature that works works, wherever it comes from.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from ipaddress import IPv6Address, IPv6Network

from anchord.kernel import dump, firewall
from anchord.kernel.errors import KernelError
from anchord.kernel.forwarding import Forwarding
from anchord.kernel.host import flush
from anchord.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    Request,
    attribute_text,
    nested,
)
from anchord.kernel.objects import (
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    RTM_DELLINK,
    RTM_NEWLINK,
    Link,
    Route,
    RouteKind,
    Rule,
    ifinfo,
    spare,
)
from anchord.kernel.scratch import (
    HERE,
    HERE_MAC,
    LINK_HERE,
    LINK_THERE,
    THERE,
    Scratch,
    checksum,
    ipv6,
    packet_socket,
    udp,
)
from anchord.kernel.seg6 import set_tunnel_source, tunnel_source
from anchord.kernel.tables import LIVE, LOCAL, LOCAL_FIRST, LOCAL_MOVED, SPARE, PlaneSettings

_PROBE_WITHIN_S = 60
_MOBILITY, _IPV6_IN_IPV6 = 135, 41
_TRIED_TABLE = 900
_BEYOND = IPv6Network("2001:db8:5d::/64")
_PORT = 4713
_ANY = IPv6Network("::/0")
_KERNEL_MEND = "use a kernel with {} (every distribution kernel of Linux 6.0 or later has it)"


class Result(Enum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"  # works, with a drawback that the detail names
    FAIL = "fail"  # a gateway cannot run


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: what came of it and, unless all is well, what to do about it."""

    name: str
    result: Result
    detail: str
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        """With the keys that docs/cli.md lists."""
        return asdict(self) | {"result": self.result.value}


class NotWorkingError(Exception):
    """A feature is there but does not do what it should."""


def probe() -> list[Finding]:
    """Try everything in a process of its own. Never raises: what cannot be tried is a finding too."""
    command = [sys.executable, "-m", "anchord.kernel.features"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_WITHIN_S, check=False)
        found = [Finding(**{**each, "result": Result(each["result"])}) for each in json.loads(done.stdout)]
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError) as error:
        return [Finding("probes", Result.FAIL, f"the probes themselves failed: {error}", "report this")]
    return found


def _tunnel_source(_scratch: Scratch) -> str:
    set_tunnel_source(HERE)
    if tunnel_source() != HERE:
        raise NotWorkingError("it is set and reads differently")
    return "one for the namespace, set over generic netlink SEG6"


def _encap_red(scratch: Scratch) -> str:
    """As it looks on the wire: the outer header's next header is 41 and the inner header follows at once."""
    index = {LINK_HERE: socket.if_nametoindex(LINK_HERE)}
    with scratch.there():
        wire = packet_socket(LINK_THERE)
    with wire, NetlinkSocket() as sock, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sock.execute(*Route(254, _BEYOND, device=LINK_HERE, segment=THERE).put(index))
        sender.sendto(b"anchord!", (str(_BEYOND[1]), _PORT))
        for _ in range(50):
            packet = wire.recv(2048)[14:]
            if packet[24:40] != THERE.packed:
                continue
            if packet[6] != _IPV6_IN_IPV6:
                raise NotWorkingError(f"next header on the wire is {packet[6]}, not 41: a routing header is sent")
            if packet[8:24] != HERE.packed:
                raise NotWorkingError(f"its source is {IPv6Address(packet[8:24])}, not the tunnel source {HERE}")
            if packet[64:80] != _BEYOND[1].packed:
                raise NotWorkingError("the inner packet does not follow the outer header")
            return "on the wire: next header 41, no routing header, from the tunnel source (RFC 2473)"
    raise NotWorkingError("nothing came out")


def _end_dt6(scratch: Scratch) -> str:
    """On the gateway's own address, by protocol, while that address goes on answering otherwise."""
    index = {LINK_HERE: socket.if_nametoindex(LINK_HERE)}
    steer = Rule(10, table=_TRIED_TABLE, destination=HERE, ip_protocol=_IPV6_IN_IPV6)
    with NetlinkSocket() as sock, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        sock.execute(
            *Route(_TRIED_TABLE, IPv6Network(HERE), device=LINK_HERE, decapsulate_into=LOCAL).put(index),
            *steer.put({}),
            *LOCAL_MOVED.put({}),
            *LOCAL_FIRST.remove({}),
        )
        receiver.bind((str(HERE), _PORT))
        receiver.settimeout(1)
        scratch.send_from_there(ipv6(THERE, HERE, _IPV6_IN_IPV6, udp(_BEYOND[2], HERE, _PORT, b"inside")))
        scratch.send_from_there(udp(THERE, HERE, _PORT, b"plain!"))
        got = {receiver.recv(64), receiver.recv(64)}
        sock.execute(*LOCAL_FIRST.put({}), *LOCAL_MOVED.remove({}), *steer.remove({}))
    if got != {b"inside", b"plain!"}:
        raise NotWorkingError(f"received {got}")
    return "on the gateway's own address, which goes on answering"


def _source_routes(_scratch: Scratch) -> str:
    index = {LINK_HERE: socket.if_nametoindex(LINK_HERE)}
    routes = (
        Route(_TRIED_TABLE, _ANY, _BEYOND, device=LINK_HERE, via=THERE),
        Route(_TRIED_TABLE, _ANY, IPv6Network("2001:db8:5e::/64"), kind=RouteKind.THROW),
    )
    with NetlinkSocket() as sock:
        sock.execute(*(request for route in routes for request in route.put(index)))
        installed = set(dump.routes(sock, {number: name for name, number in index.items()}))
    if not set(routes) <= installed:
        raise NotWorkingError("they read differently from what was set")
    return "default from PREFIX in a table of its own"


def _macvlan(scratch: Scratch) -> str:
    """Two on one interface: a unicast frame reaches the one whose MAC it bears and no other."""
    macs = [bytes((2, 0, 0, 0, 0x5C, number)) for number in (0x11, 0x12)]
    parent = socket.if_nametoindex(LINK_HERE)
    with NetlinkSocket() as sock, contextlib.ExitStack() as stack:
        for number, mac in enumerate(macs, 2_000_000):
            sock.execute(*spare(number, LINK_HERE, parent, SPARE), *Link(LINK_HERE, mac, LIVE).adopt(number))
        one, other = (stack.enter_context(packet_socket(f"dl{number:x}")) for number in (2_000_000, 2_000_001))
        frame = macs[0] + HERE_MAC + b"\x86\xdd" + udp(THERE, HERE, _PORT, b"frames")
        with scratch.there(), packet_socket(LINK_THERE) as wire:
            wire.send(frame)
        if not _received(one, frame):
            raise NotWorkingError("a unicast frame to its MAC does not arrive")
        other.settimeout(0.05)
        if _received(other, frame):
            raise NotWorkingError("a unicast frame arrives on others as well")
        for number in (2_000_000, 2_000_001):
            sock.execute(Request(RTM_DELLINK, 0, ifinfo(number), "delete a macvlan"))
    return "private mode, delivered by MAC"


def _received(sock: socket.socket, frame: bytes) -> bool:
    with contextlib.suppress(TimeoutError):
        for _ in range(50):
            if sock.recv(2048) == frame:
                return True
    return False


def _mobility_header(scratch: Scratch) -> str:
    """The kernel fills in the checksum and drops what has a bad one (RFC 6275 section 9.2)."""
    heartbeat = bytes((59, 1, 13, 0, 0, 0, 0, 0)) + bytes(8)  # a Heartbeat request with checksum 0 (RFC 5847)
    with scratch.there():
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_RAW, _MOBILITY)
    with receiver, socket.socket(socket.AF_INET6, socket.SOCK_RAW, _MOBILITY) as sender:
        got = _sent_and_received(lambda: sender.sendto(heartbeat, (str(THERE), 0)), receiver)
        if checksum(HERE, THERE, _MOBILITY, got):
            raise NotWorkingError("the checksum of what is sent is not filled in")
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, _MOBILITY) as here:
            bad = got[:4] + b"\xde\xad" + got[6:15] + b"\x01"

            def send_both() -> None:
                scratch.send_from_there(ipv6(THERE, HERE, _MOBILITY, bad))
                scratch.send_from_there(ipv6(THERE, HERE, _MOBILITY, got))  # the sum of the addresses is the same

            if _sent_and_received(send_both, here) != got:
                raise NotWorkingError("a message with a bad checksum is delivered")
    return "raw socket of protocol 135: checksum filled in, bad ones dropped"


def _sent_and_received(send: Callable[[], object], receiver: socket.socket) -> bytes:
    """What arrives of what is sent; sent again, because a link that has just come up may lose the first packet.

    Raises TimeoutError when nothing ever arrives.
    """
    receiver.settimeout(1)
    for _ in range(2):
        send()
        with contextlib.suppress(TimeoutError):
            return receiver.recv(64)
    send()
    return receiver.recv(64)


def _packet_socket(_scratch: Scratch) -> str:
    """With a classic BPF program, as the listener for first frames needs it."""
    accept_all = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFF))
    with packet_socket(LINK_HERE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(accept_all)))  # SO_ATTACH_FILTER
    return "AF_PACKET with a filter in the kernel"


def _packet_filter(_scratch: Scratch) -> str:
    settings = PlaneSettings(HERE, (IPv6Network("2001:db8:5c::/48"),), ("acc0",), (LINK_HERE,), (THERE,))
    firewall.load(settings)
    with firewall.open_counters() as sock:
        firewall.read_counters(sock)
    firewall.remove()
    return "nft loads the table, counters are read over netlink"


def _whole(_scratch: Scratch) -> str:
    """The data plane itself, started and taken away again."""
    with NetlinkSocket() as sock:
        info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "veth"))
        body = ifinfo(0) + attribute_text(IFLA_IFNAME, "acc0") + info
        sock.execute(Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "create an access interface"))
    plane = Forwarding(PlaneSettings(HERE, (IPv6Network("2001:db8:5f::/48"),), ("acc0",), (LINK_HERE,), (THERE,)))
    plane.start()
    plane.stop()
    counts = flush()
    return f"starts and goes without trace ({counts['rules']} rules, {counts['routes']} routes)"


def _ip6tnl(_scratch: Scratch) -> str:
    with NetlinkSocket() as sock:
        info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "ip6tnl"))
        body = ifinfo(0) + attribute_text(IFLA_IFNAME, "tried0") + info
        sock.execute(Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "create an ip6tnl device"))
    return "present; not needed, SRv6 carries the tunnels"


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to try, and what to do when it does not work."""

    name: str
    attempt: Callable[[Scratch], str]
    mend: str
    optional: bool = False


PROBES = (
    Probe("mobility-header", _mobility_header, _KERNEL_MEND.format("raw IPv6 sockets")),
    Probe("packet-socket", _packet_socket, _KERNEL_MEND.format("CONFIG_PACKET")),
    Probe("macvlan", _macvlan, _KERNEL_MEND.format("CONFIG_MACVLAN (modprobe macvlan)")),
    Probe("tunnel-source", _tunnel_source, _KERNEL_MEND.format("CONFIG_IPV6_SEG6_LWTUNNEL")),
    Probe("encap.red", _encap_red, _KERNEL_MEND.format("CONFIG_IPV6_SEG6_LWTUNNEL and encap.red")),
    Probe("End.DT6", _end_dt6, _KERNEL_MEND.format("CONFIG_IPV6_SEG6_LWTUNNEL and CONFIG_IPV6_MULTIPLE_TABLES")),
    Probe("source-routes", _source_routes, _KERNEL_MEND.format("CONFIG_IPV6_SUBTREES")),
    Probe("nftables", _packet_filter, "install the package nftables; the kernel needs CONFIG_NF_TABLES_INET"),
    Probe("data-plane", _whole, "mend what failed above first"),
    Probe("ip6tnl", _ip6tnl, "", optional=True),
)


def attempt(tried: Probe, scratch: Scratch) -> Finding:
    """Try one thing."""
    finding = _attempt(tried, scratch)
    if finding.result is Result.FAIL and tried.optional:
        return Finding(tried.name, Result.OK, "absent; not needed, SRv6 carries the tunnels")
    return finding


def _attempt(tried: Probe, scratch: Scratch) -> Finding:
    try:
        return Finding(tried.name, Result.OK, tried.attempt(scratch))
    except NotWorkingError as error:
        detail = f"does not work: {error}"
    except NetlinkError as error:
        absent = error.code in (errno.EOPNOTSUPP, errno.ENOENT, errno.EPFNOSUPPORT)
        detail = f"the kernel does not have it ({error})" if absent else f"refused: {error}"
    except KernelError as error:
        mend = tried.mend if error.mend.startswith("run anchord doctor") else error.mend
        return Finding(tried.name, Result.FAIL, f"{error.what}: {error.where}", mend)
    except TimeoutError:
        detail = "does not work: nothing arrived within a second"
    except OSError as error:
        detail = f"refused: {error}"
    return Finding(tried.name, Result.FAIL, detail, tried.mend)


def _all() -> list[Finding]:
    try:
        scratch = Scratch()
    except (OSError, NetlinkError) as error:
        mend = "run anchord doctor as root"
        return [Finding("namespaces", Result.FAIL, f"nothing could be tried: no network namespace ({error})", mend)]
    findings = [attempt(each, scratch) for each in PROBES]
    return [_as_user(each) for each in findings] if scratch.in_user_namespace else findings


def _as_user(finding: Finding) -> Finding:
    """What a trial in a user namespace is worth: some things the kernel permits in its first one only."""
    if finding.result is Result.FAIL and "not permitted" in finding.detail:
        mend = "run anchord doctor as root to try this too"
        return Finding(finding.name, Result.WARN, "could not be tried without CAP_SYS_ADMIN", mend)
    return replace(finding, detail=f"{finding.detail} (tried in a user namespace)")


if __name__ == "__main__":
    json.dump([finding.as_json() for finding in _all()], sys.stdout)
