"""The network of a lab: namespaces, links, addresses and routes, without any process of ours.

Everything is made by ``ip -batch``: one process for all links, one for each namespace. A veth pair is created with both
ends already in their namespaces, so nothing of a lab is ever visible outside it and several labs never meet.

Into a host's namespace goes its link, up, and nothing else: no address, no route, no setting, unless the topology
gives the host settings of its own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Interface
from pathlib import Path

from anchord.lab.errors import LabError
from anchord.lab.topology import (
    CORE,
    CORE_INTERFACE,
    HOST_INTERFACE,
    SWITCH,
    Kind,
    Topology,
    interface_towards_core,
    local_interface,
    router_on,
)

# The kernel tells of a change of carrier at once only where an interface and its peer have different indexes; else up
# to a second later (linkwatch_urgent_event). The ends inside core and switch therefore count from numbers of their own.
_CORE_INDEX = 1000
_SWITCH_INDEX = 2000

# Frames that wait for the process that is the cable. It can be held up for 50 ms, because the scheduler leaves others a
# twentieth of each second: with the default, 1,000, more than 20,000 frames a second would then not fit.
_TAP_QUEUE = 10_000

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def namespace_name(lab: str, node: str) -> str:
    """The namespace of a node, as ``ip netns`` lists it."""
    return f"anchord-{lab}-{node}"


def host_port(host: str) -> str:
    """The access switch's port towards a host."""
    return f"p-{host}"


def core_port(node: str) -> str:
    """The core router's interface towards a node."""
    return f"core-{node}"


def namespace_path(namespace: str) -> Path:
    """Where iproute2 keeps a named namespace."""
    return Path("/run/netns", namespace)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Run the body with the calling thread in a named namespace; sockets opened there stay there.

    Takes about 0.02 ms, against a process and 2 ms for ``ip netns exec``. Other threads are not affected. Raises
    LabError if there is no such namespace.
    """
    with open("/proc/thread-self/ns/net", "rb") as home:
        try:
            with open(namespace_path(namespace), "rb") as target:
                _setns(target.fileno())
        except FileNotFoundError:
            raise LabError(f"no namespace {namespace}: was the lab taken down?") from None
        try:
            yield
        finally:
            _setns(home.fileno())


@contextmanager
def private(addresses: Iterable[IPv6Address]) -> Iterator[None]:
    """Run the body with the calling thread in a new namespace without a name: a loopback interface with ``addresses``.

    It goes with the last process and socket in it, so nothing is left to be cleaned up, whatever happens. Processes
    started in the body are in it as well. Raises LabError with what ``ip`` said.
    """
    with open("/proc/thread-self/ns/net", "rb") as home:
        if _libc.unshare(_CLONE_NEWNET):
            error = ctypes.get_errno()
            raise LabError(f"no network namespace can be made: {os.strerror(error)}")
        try:
            _ip(["link set lo up", *(f"addr add {address}/128 dev lo nodad" for address in addresses)])
            yield
        finally:
            _setns(home.fileno())


def build(lab: str, topology: Topology) -> None:
    """Build the whole network of a lab; raises LabError with what ``ip`` said. What was made so far is left behind:
    :func:`remove` takes it down, whole or half."""
    nodes = topology.nodes()
    _ip([f"netns add {namespace_name(lab, node)}" for node in nodes])
    for node, kind in nodes.items():
        _write_sysctls(namespace_name(lab, node), _sysctls_before_links(topology, node, kind))
    _ip([*_core_links(lab, topology), *_local_links(lab, topology), *_access_links(lab, topology)])
    for node, commands in _ends_of_delayed_links(topology).items():
        _ip(commands, namespace_name(lab, node))
    for node, kind in nodes.items():
        _write_sysctls(namespace_name(lab, node), _sysctls_before_up(topology, node, kind))
    for node, kind in nodes.items():
        _ip(_setup(topology, node, kind), namespace_name(lab, node))


def remove(lab: str, nodes: Iterable[str]) -> None:
    """Delete the namespaces of a lab, and with them every link. Those that do not exist are no error."""
    names = [namespace_name(lab, node) for node in nodes]
    if there := [name for name in names if namespace_path(name).exists()]:
        _ip([f"netns del {name}" for name in there], tolerant=True)


def check_tools() -> None:
    """Raise LabError if this process cannot build a lab, with what is missing."""
    if os.geteuid() != 0:
        raise LabError("a lab needs root: it makes network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW)")
    if not shutil.which("ip"):
        raise LabError("a lab needs the command ip: install the package iproute2")


def _core_links(lab: str, topology: Topology) -> Iterator[str]:
    nodes = topology.nodes()
    mtu = f"mtu {topology.core_mtu}"
    for index, node in enumerate(topology.on_core(), _CORE_INDEX):
        if node in topology.delays():
            continue
        yield (
            f"link add name {core_port(node)} index {index} netns {namespace_name(lab, CORE)} {mtu} type veth"
            f" peer name {interface_towards_core(nodes[node])} netns {namespace_name(lab, node)} {mtu}"
        )


def _local_links(lab: str, topology: Topology) -> Iterator[str]:
    for gateway in topology.gateways:
        for node in topology.behind(gateway):
            yield (
                f"link add name {local_interface(node.name)} netns {namespace_name(lab, gateway)} type veth"
                f" peer name {HOST_INTERFACE} netns {namespace_name(lab, node.name)}"
            )


def _ends_of_delayed_links(topology: Topology) -> dict[str, list[str]]:
    """The commands, by node, that make the tap devices at both ends of each link with a delay. They stay when nobody
    is attached to them, without a carrier then; :mod:`anchord.lab.delays` is the cable between them."""
    commands: dict[str, list[str]] = {}
    for node in topology.delays():
        ends = ((node, interface_towards_core(topology.nodes()[node])), (CORE, core_port(node)))
        for end, interface in ends:
            commands.setdefault(end, []).append(f"tuntap add dev {interface} mode tap")
            commands[end].append(f"link set {interface} mtu {topology.core_mtu} txqueuelen {_TAP_QUEUE}")
    return commands


def _access_links(lab: str, topology: Topology) -> Iterator[str]:
    ends = [(link.gateway, link.interface, link.port, "") for link in topology.links()]
    for host in topology.hosts.values():
        mac = f" address {host.mac}" if host.mac else ""
        ends.append((host.name, HOST_INTERFACE, host_port(host.name), mac))
    for index, (node, interface, port, mac) in enumerate(ends, _SWITCH_INDEX):
        yield (
            f"link add name {port} index {index} netns {namespace_name(lab, SWITCH)} type veth"
            f" peer name {interface} netns {namespace_name(lab, node)}{mac}"
        )


def _sysctls_before_links(topology: Topology, node: str, kind: Kind) -> Mapping[str, str | int]:
    """Settings of a namespace that its interfaces inherit."""
    if kind is Kind.SWITCH:
        # A switch that spoke IPv6 on its bridges would look like one more host on each access link.
        return {"net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1}
    if kind is Kind.CORE:
        # Without a link-local address out of DAD a router cannot solicit neighbours for packets it forwards: without
        # this the core would be deaf for its first second.
        return {"net.ipv6.conf.all.forwarding": 1, "net.ipv6.conf.default.accept_dad": 0}
    if kind in (Kind.GATEWAY, Kind.LMA):
        return {"net.ipv6.conf.all.forwarding": 1}
    if kind is Kind.HOST:
        return {key: value for key, value in _host_sysctls(topology, node).items() if not _of_interface(key)}
    return {}


def _sysctls_before_up(topology: Topology, node: str, kind: Kind) -> Mapping[str, str | int]:
    """Settings of single interfaces, which exist but are still down. A gateway's access interfaces stay as the kernel
    makes them, as on a real router."""
    if kind.is_daemon:
        return {f"net.ipv6.conf.{CORE_INTERFACE}.accept_dad": 0}
    if kind is Kind.HOST:
        return {key: value for key, value in _host_sysctls(topology, node).items() if _of_interface(key)}
    return {}


def _host_sysctls(topology: Topology, node: str) -> dict[str, str | int]:
    """A host's own settings under their full names; a name without a dot is one of ``net.ipv6.conf.default``."""
    sysctls = topology.hosts[node].sysctls
    return {key if "." in key else f"net.ipv6.conf.default.{key}": value for key, value in sysctls.items()}


def _of_interface(key: str) -> bool:
    return HOST_INTERFACE in key.split(".")


def _setup(topology: Topology, node: str, kind: Kind) -> list[str]:
    """The ``ip`` commands inside one namespace."""
    commands = ["link set lo up"]
    if kind is Kind.CORE:
        return commands + _setup_core(topology)
    if kind is Kind.SWITCH:
        return commands + _setup_switch(topology)
    if kind is Kind.HOST:
        return [*commands, f"link set {HOST_INTERFACE} up"]
    if kind is Kind.GATEWAY:
        commands += [f"link set {link.interface} up" for link in topology.gateways[node].links]
        for local in topology.behind(node):
            commands.append(f"link set {local_interface(local.name)} up")
            commands.append(f"addr add {router_on(local.network)}/64 dev {local_interface(local.name)} nodad")
    interface, address = interface_towards_core(kind), _address(topology, node)
    return [
        *commands,
        f"link set {interface} up",
        f"addr add {address} dev {interface} nodad",
        f"route add default via {router_on(address.network)} dev {interface}",
    ]


def _address(topology: Topology, node: str) -> IPv6Interface:
    """A node's address on its only link, or on that to the core."""
    local = topology.correspondents.get(node)
    return topology.on_core()[node] if local is None else IPv6Interface((local.address, 64))


def _setup_core(topology: Topology) -> list[str]:
    """The core routes each pool to the gateway that anchors it, and knows nothing of mobile nodes."""
    commands = []
    for node, address in topology.on_core().items():
        commands.append(f"link set {core_port(node)} up")
        commands.append(f"addr add {router_on(address.network)}/64 dev {core_port(node)} nodad")
    for anchor in topology.anchors():
        for pool in anchor.pools:
            commands.append(f"route add {pool} via {anchor.address} dev {core_port(anchor.name)}")
    for gateway in topology.gateways:
        for local in topology.behind(gateway):
            # A local network is nobody's business beyond its gateway: not to, and not from it.
            commands.append(f"route add prohibit {local.network}")
            commands.append(f"rule add from {local.network} prohibit")
    return commands


def _setup_switch(topology: Topology) -> list[str]:
    """One bridge for each access link. A port forwards at once (no spanning tree), and multicast goes everywhere: with
    no querier about, snooping could only lose a solicitation."""
    commands = []
    for link in topology.links():
        commands.append(f"link add {link.bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        commands.append(f"link set {link.bridge} up")
        commands.append(f"link set {link.port} master {link.bridge} up")
    for host in topology.hosts.values():
        commands.append(f"link set {host_port(host.name)} master {topology.link(host.at, host.access).bridge} up")
    return commands


def _write_sysctls(namespace: str, values: Mapping[str, str | int]) -> None:
    if not values:
        return
    with inside(namespace):  # /proc/sys/net shows the namespace of the thread that looks
        for key, value in values.items():
            path = Path("/proc/sys", *key.split("."))
            try:
                path.write_text(str(value))
            except OSError as error:
                raise LabError(f"{namespace}: cannot set {key} = {value}: {error.strerror}") from None


def _ip(commands: Iterable[str], namespace: str | None = None, tolerant: bool = False) -> None:
    """Run ``ip`` commands in one process. ``tolerant``: go on after an error and do not report it."""
    argv = ["ip", "-6", *(["-n", namespace] if namespace else []), *(["-force"] if tolerant else []), "-batch", "-"]
    done = subprocess.run(
        argv, input="\n".join(commands) + "\n", text=True, capture_output=True, check=False, start_new_session=True
    )
    if done.returncode and not tolerant:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):  # os.setns() exists only from Python 3.12 on
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")
