"""The state of the machine itself that forwarding rests on: sysctls, interfaces, the tunnel source.

Set on start, synchronously, with an error that says what to do. ``flush`` undoes all of it but the sysctls: a router
stays a router.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from anchord.kernel import dump, firewall
from anchord.kernel.errors import KernelError
from anchord.kernel.netlink import NetlinkError, NetlinkSocket, Request
from anchord.kernel.objects import IFF_PROMISC, IFF_UP, RTM_NEWLINK, Pair, Route, Rule, group_deletion, ifinfo
from anchord.kernel.seg6 import set_tunnel_source, tunnel_source
from anchord.kernel.tables import (
    ENCAPSULATION_OVERHEAD,
    GRAVEYARD,
    LIVE,
    LOCAL_FIRST,
    LOCAL_MOVED,
    MIN_MTU,
    SPARE,
    PlaneSettings,
)

log = logging.getLogger(__name__)

_CONF = Path("/proc/sys/net/ipv6/conf")  # shows the network namespace of the thread that opens it


class LinkMtus(NamedTuple):
    """What links carry, in bytes: the narrowest of the core, and each access interface by name."""

    core: int
    access: dict[str, int]


def prepare(settings: PlaneSettings, sock: NetlinkSocket, raised: set[str]) -> LinkMtus:
    """Make the machine a router whose access interfaces hear every frame; what its links carry.

    Idempotent: what is as it should be is not touched, and then it takes a millisecond. ``raised`` are the interfaces
    that were made promiscuous by us; those made so now are added. Raises KernelError.
    """
    try:
        known = dump.interfaces(sock)
        _check(settings, sock, known)
        _sysctls(settings)
        newly = _open_access(settings, sock, known)
        raised.update(newly)
        if tunnel_source() != settings.address:
            set_tunnel_source(settings.address)
        firewall.load(settings, raised, newly)
        return _link_mtus(settings, known)
    except NetlinkError as error:
        raise explained(error) from error


def _link_mtus(settings: PlaneSettings, known: dict[str, dump.Interface]) -> LinkMtus:
    """Raises KernelError when what the core leaves to an inner packet is below the least IPv6 allows."""
    narrowest = min((known[name] for name in settings.core), key=lambda each: each.mtu)
    if narrowest.mtu - ENCAPSULATION_OVERHEAD < MIN_MTU:
        raise KernelError(
            f"core interface {narrowest.name} is too narrow for tunnels",
            f"MTU {narrowest.mtu}, tunnels take {ENCAPSULATION_OVERHEAD} bytes and IPv6 needs {MIN_MTU}",
            f"set its MTU to {MIN_MTU + ENCAPSULATION_OVERHEAD} or more; 1540 carries full-size packets",
        )
    return LinkMtus(narrowest.mtu, {name: known[name].mtu for name in settings.access})


def explained(error: NetlinkError) -> KernelError:
    """A netlink error in an operator's words."""
    if error.code == 1:
        return KernelError("not permitted", str(error), "run as root or with CAP_NET_ADMIN and CAP_NET_RAW")
    return KernelError("the kernel refused", str(error), "run anchord doctor: it tries each feature that is needed")


def flush() -> dict[str, int]:
    """Remove everything of ours from this network namespace, whichever process made it; how many of each kind.

    Idempotent. The sysctls stay: a router stays a router. Not to be called while a ``Forwarding`` runs here.
    Raises KernelError.
    """
    try:
        with NetlinkSocket() as sock:
            found = dump.read(sock)
            counts = _flush_objects(sock, found)
            counts["promiscuous"] = _end_promiscuity(sock, found.interfaces)
        counts["filter"] = int(firewall.remove())
        counts["tunnel_source"] = 0
        with contextlib.suppress(NetlinkError):  # a kernel without SRv6 has no tunnel source
            if tunnel_source() != IPv6Address(0):
                set_tunnel_source(IPv6Address(0))
                counts["tunnel_source"] = 1
    except NetlinkError as error:
        raise explained(error) from error
    return counts


def _flush_objects(sock: NetlinkSocket, found: dump.Installed) -> dict[str, int]:
    every = list(found.objects.values())
    rules = [each for each in every if isinstance(each, Rule) and each != LOCAL_FIRST]
    routes = [each for each in every if isinstance(each, Route)]
    pairs = [each for each in every if isinstance(each, Pair)]
    links = [each.group for each in found.interfaces.values() if each.group in (LIVE, GRAVEYARD, SPARE)]
    if LOCAL_MOVED in rules and LOCAL_FIRST not in every:  # first: the machine must not lose its own addresses
        sock.execute(*LOCAL_FIRST.put({}))
    requests = [request for rule in rules for request in rule.remove({})]
    requests += [request for route in routes for request in route.remove({})]
    requests += [request for pair in pairs for request in pair.remove(found.indexes[pair.name])]
    requests += [group_deletion(group) for group in sorted(set(links))]
    for error in sock.send(requests):
        if error is not None and error.code not in (errno.ENOENT, errno.ESRCH, errno.ENODEV):
            raise error
    return {"rules": len(rules), "routes": len(routes), "links": len(links) + len(pairs)}


def _end_promiscuity(sock: NetlinkSocket, known: dict[str, dump.Interface]) -> int:
    names = [name for name in firewall.raised_promiscuous() if name in known and known[name].promiscuous]
    sock.execute(*(_flags(known[name], 0, IFF_PROMISC, "end promiscuous mode of") for name in names))
    return len(names)


def _check(settings: PlaneSettings, sock: NetlinkSocket, known: dict[str, dump.Interface]) -> None:
    for role, names in (("access", settings.access), ("core", settings.core)):
        for name in names:
            if name not in known:
                present = ", ".join(sorted(known))
                raise KernelError(f"no {role} interface {name}", f"there are: {present}", "correct node.toml")
    if settings.address not in dump.addresses(sock):
        raise KernelError(
            f"the gateway's address {settings.address} is on no interface of this machine",
            "it is the end of every tunnel",
            f"add it: ip -6 addr add {settings.address}/64 dev {settings.core[0]}, or correct domain.toml",
        )


def unnamed(settings: PlaneSettings, sock: NetlinkSocket) -> list[str]:
    """Interfaces that are up and neither access nor core: what they bring is taken for unbound hosts' packets."""
    found: list[str] = []
    for name, each in dump.interfaces(sock).items():
        named = name in settings.access or name in settings.core
        own = name.startswith("an-") or each.group in (LIVE, GRAVEYARD)
        if not (named or own) and each.up and name != "lo":
            found.append(name)
    return found


def _sysctls(settings: PlaneSettings) -> None:
    """A router that forwards, learns its own default route from its core only, and takes no orders from hosts."""
    forwarded = _read("all/forwarding") == "1"
    for name in settings.core:
        if not forwarded and _read(f"{name}/accept_ra") == "1":
            # Forwarding would silently end router discovery on the uplink: 2 means "also on a router".
            _write(f"{name}/accept_ra", "2")
    _ensure("all/forwarding", "1")
    for name in (*settings.access, *settings.core):
        _ensure(f"{name}/forwarding", "1")
    for name in (*settings.access, "default"):  # "default": what new interfaces, DLIFs among them, start with
        if _read(f"{name}/accept_ra") == "2":
            log.warning("sysctl=net.ipv6.conf.%s.accept_ra set from 2 to 0: hosts must not configure a router", name)
            _write(f"{name}/accept_ra", "0")
        _ensure(f"{name}/disable_ipv6", "0")


def _open_access(settings: PlaneSettings, sock: NetlinkSocket, known: dict[str, dump.Interface]) -> list[str]:
    """Bring access interfaces up and make them promiscuous; names of those that were not promiscuous before.

    Frames to a DLIF that the host met elsewhere must be heard before that DLIF stands here. It is a property of the
    interface, not of a socket, so that it survives this process (RFC 8885 section 3.7 has the host keep its router).
    """
    raised = [name for name in settings.access if not known[name].promiscuous]
    changes = [name for name in settings.access if name in raised or not known[name].up]
    both = IFF_UP | IFF_PROMISC
    sock.execute(*(_flags(known[name], both, both, "bring up and make promiscuous") for name in changes))
    return raised


def _flags(interface: dump.Interface, flags: int, change: int, what: str) -> Request:
    return Request(RTM_NEWLINK, 0, ifinfo(interface.index, flags, change), f"{what} {interface.name}")


def _read(name: str) -> str:
    try:
        return (_CONF / name).read_text().strip()
    except OSError as error:
        raise KernelError("IPv6 is not available", f"{_CONF / name}: {error.strerror}", "enable IPv6") from error


def _write(name: str, value: str) -> None:
    try:
        (_CONF / name).write_text(value)
    except OSError as error:
        where = f"{_CONF / name}: {error.strerror}"
        key = "net.ipv6.conf." + name.replace("/", ".")
        raise KernelError(f"cannot set {key}", where, f"run as root, or sysctl -w {key}={value} beforehand") from error


def _ensure(name: str, value: str) -> None:
    if _read(name) != value:
        _write(name, value)
