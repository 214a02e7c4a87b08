"""A running lab: the network, the daemons in it, and what can be done with them.

    with Domain.up(Topology.default(), "try", owner_pid=os.getpid()) as domain:
        domain.exec("mn1", ["ping", "-c1", "2001:db8:c1::1"])
        domain.move("mn1", "gw2")
        domain.wait_served("mn1", "gw2", timeout_s=5)

Every node has a process in a namespace of its own: gateways, the central database and the directory run the real
daemons, the core router the delays of links that have one, the others a ``sleep`` that stands for them. Whatever was
started in a lab ends with it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from anchord.lab import addresses, config_files, delays, guardian, namespaces, processes, state, switch
from anchord.lab.addresses import AddressState
from anchord.lab.errors import LabError, UsageError, unknown
from anchord.lab.links import Links
from anchord.lab.processes import Process
from anchord.lab.state import State
from anchord.lab.topology import CORE, HOST_INTERFACE, SWITCH, VERBS, Kind, Topology

READY_TIMEOUT_S = 30.0
# Every node of a real domain has a processor of its own. Here all share one machine, so that without this a router's
# answer would wait for the traffic generators' turn to end, which in a real domain run elsewhere. Real time also places
# a process that wakes up on the other processor if its waker's is busy with a router; as a merely nice one it would
# wait for its waker to be done (handovers 5 ms instead of 4, anchors 2 ms instead of 1.2).
_ROUTER_PRIORITY = 10
_LINK_PRIORITY = 15  # a cable waits for no router's computing
_PRIORITY_ELSE = ("nice", "-n", "-15")  # where a container has no real time to give
# Who has to be there before the others: the cables, and those that gateways ask. A gateway that finds nobody to ask
# serves its first hosts unregistered.
_FIRST = (Kind.CORE, Kind.CENTRAL, Kind.DIRECTORY, Kind.LMA)
_END_PATIENCE_S = 5.0  # how long a daemon may take to end
_LAB_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PLACEHOLDER = ("sleep", "infinity")


class Domain:
    """One lab. Several objects, in several processes, may stand for the same lab."""

    def __init__(self, record: State) -> None:
        """Use :meth:`up` or :meth:`attach`."""
        self._state = record
        self._children: list[subprocess.Popen[Any]] = []

    # Beginning and end

    @classmethod
    def up(
        cls,
        topology: Topology,
        name: str = "lab",
        owner_pid: int | None = None,
        timeout_s: float = READY_TIMEOUT_S,
        recordings: Path | None = None,
    ) -> Domain:
        """Build a lab and return when every daemon is ready.

        With ``owner_pid`` the lab is taken down when that process ends, however it ends. Labs whose owner has died are
        swept up first. ``recordings``: a directory that every daemon but the directory's records into, a file for each.
        Raises LabError (with the last log lines of the daemon that failed) and leaves nothing of the lab behind.
        """
        _check_name(name)
        namespaces.check_tools()
        cls.sweep_stale()
        owner = None if owner_pid is None else Process.of(owner_pid)
        domain = cls(State(name, topology.checked(), Process.of(os.getpid()), owner, recordings=_made(recordings)))
        domain._state.create()
        try:
            domain._build(time.monotonic() + timeout_s)
        except BaseException:
            domain.down()
            raise
        return domain

    @classmethod
    def attach(cls, name: str = "lab") -> Domain:
        """The lab of that name, whoever made it; LabError if there is none."""
        _check_name(name)
        return cls(state.load(name))

    def down(self) -> None:
        """End every process of the lab and remove its network and files. Does nothing the second time."""
        with _uninterrupted():
            self._down()

    @staticmethod
    def take_down(name: str, owner: Process | None = None) -> bool:
        """Take down the lab of that name; False if there is none. With ``owner``: only if it is the owner's."""
        _check_name(name)
        try:
            record = state.load(name)
        except LabError:
            if name in state.names():
                raise
            return False
        if owner is not None and record.owner != owner:
            return False
        Domain(record).down()
        return True

    @staticmethod
    def sweep_stale() -> list[str]:
        """Take down the labs whose owner, or unfinished maker, has died; their names."""
        state.sweep_staging()
        swept = []
        for name in state.names():
            with suppress(LabError):  # taken down by somebody else meanwhile
                record = state.load(name)
                if record.stale:
                    Domain(record).down()
                    swept.append(name)
        return swept

    @staticmethod
    def names() -> list[str]:
        """Every lab there is."""
        return state.names()

    def __enter__(self) -> Self:
        """The lab is taken down at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the lab down."""
        self.down()

    # What there is

    @property
    def name(self) -> str:
        """The lab's name."""
        return self._state.name

    @property
    def topology(self) -> Topology:
        """What the lab was made from."""
        return self._state.topology

    @property
    def directory(self) -> Path:
        """Where configuration, logs, control sockets and the daemons' state are."""
        return self._state.directory

    def namespace(self, node: str) -> str:
        """The name of a node's namespace."""
        return namespaces.namespace_name(self.name, self._known(node))

    def control(self, node: str) -> Path:
        """The control socket of a node's daemon."""
        return self.directory / "run" / f"{self._daemon(node)}.sock"

    def log(self, node: str) -> Path:
        """The log file of a node's process."""
        return self.directory / "log" / f"{self._known(node)}.log"

    def port(self, host: str) -> str:
        """The access switch's port towards a host."""
        return namespaces.host_port(self.topology.host(host).name)

    def points(self) -> dict[str, tuple[str, str]]:
        """Where frames can be captured outside the gateways: name -> (namespace, interface).

        ``access-gw1`` (``access-gw1-a`` with several links) and ``access-mn1`` are the access switch's ports towards a
        gateway and a host, ``core-gw1`` the core router's interface towards a node.
        """
        at_switch, at_core = self.namespace(SWITCH), self.namespace(CORE)
        points = {f"access-{link.label}": (at_switch, link.port) for link in self.topology.links()}
        points |= {f"access-{host}": (at_switch, self.port(host)) for host in self.topology.hosts}
        points |= {f"core-{node}": (at_core, namespaces.core_port(node)) for node in self.topology.on_core()}
        return points

    def ps(self) -> list[dict[str, Any]]:
        """Every node: ``node``, ``kind``, ``namespace``, ``pid`` (None: never started), ``alive``, ``log``."""
        self._reap()
        nodes = self._state.nodes
        return [
            {
                "node": node,
                "kind": kind.value,
                "namespace": self.namespace(node),
                "pid": nodes[node].pid if node in nodes else None,
                "alive": node in nodes and nodes[node].alive,
                "log": str(self.log(node)),
            }
            for node, kind in self.topology.nodes().items()
        ]

    def host_addresses(self, host: str) -> list[AddressState]:
        """The global addresses a host has now, as its kernel reports them."""
        with namespaces.inside(self.namespace(self.topology.host(host).name)):
            return addresses.dump()

    def host_mac(self, host: str) -> bytes:
        """The MAC address a host has now."""
        with Links(self.namespace(self.topology.host(host).name)) as links:
            return links.get(HOST_INTERFACE).mac

    def at(self, host: str) -> str:
        """The gateway at whose access link a host is."""
        with Links(self.namespace(SWITCH)) as links:
            known = {link.index: link for link in links.all()}
        port = next(link for link in known.values() if link.name == self.port(host))
        bridges = {link.bridge: link.gateway for link in self.topology.links()}
        if port.master not in known:
            raise LabError(f"{host} is at no access link: was its port taken off by hand?")
        return bridges[known[port.master].name]

    # What can be done

    def move(
        self, host: str, gateway: str, silent: bool = False, flap_ms: float | None = None, access: str | None = None
    ) -> int:
        """Move a host to a gateway's access link; the time of the move in ns since the epoch (CLOCK_REALTIME).

        The port changes from one bridge to the other with the carrier kept, then the access switch announces the host
        with an 802.2 XID frame (``silent``: it does not). ``flap_ms``: the carrier at the host is lost for so long.
        ``access`` names one of several access links of the gateway; else it is the first.
        """
        target = self.topology.link(gateway, access)
        return switch.move(self.namespace(SWITCH), host, self.host_mac(host), target, silent, flap_ms)

    def wait_served(self, host: str, gateway: str, timeout_s: float, access: str | None = None) -> None:
        """Wait until a gateway serves a host, on the access link ``access`` if given; LabError if it never did."""
        from anchord.lab import readiness  # noqa: PLC0415  brings asyncio with it

        interface = None if access is None else self.topology.link(gateway, access).interface
        mac, control = self.host_mac(host).hex(":"), self.control(gateway)

        def served() -> bool:
            return any(
                row["mac"] == mac and row["state"] == "serving" and interface in {None, row["interface"]}
                for row in readiness.show(control, "bindings")
            )

        if not readiness.wait_until(control, served, timeout_s):
            raise LabError(f"{gateway} did not serve {host} within {timeout_s:g} s; see {self.log(gateway)}")

    def exec(self, node: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in a node's namespace to its end; ``options`` as for :func:`subprocess.run`.

        Unless they say otherwise, text is captured and a bad exit code is no error.
        """
        settings = {"capture_output": True, "text": True, "check": False, **options}
        command = processes.command(self.namespace(node), argv)
        return subprocess.run(command, **settings)  # noqa: PLW1510  check is among the settings

    def popen(self, node: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command in a node's namespace, in a session of its own; ``options`` as for Popen.

        The process is the command's own. It ends with the lab, if not before.
        """
        child = processes.start(self.namespace(node), argv, **options)
        self._children.append(child)
        return child

    def kill(self, node: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a node's process; after SIGKILL, wait until it is gone. LabError if it had ended."""
        process = self._process(node)
        if not process.send(number):
            raise LabError(f"{node} is not running: its process {process.pid} has ended")
        if number == signal.SIGKILL:
            processes.wait_ended([process], _END_PATIENCE_S)
        self._reap()

    def start(self, node: str, wait: bool = True, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start a node's process again, and wait until its daemon or its delays are there unless told otherwise."""
        if self._process(node).alive:
            raise LabError(f"{node} is running already")
        with state.locked(self.name) as record:
            if record is None:
                raise LabError(f"the lab {self.name!r} was taken down")
            self._state.nodes = record.nodes
            self._launch(node, self.topology.nodes()[node])
            self._state.save()
        if wait and not self.topology.program(node):
            self._wait_ready([node], time.monotonic() + timeout_s)

    def restart(self, node: str, wait: bool = True, timeout_s: float = READY_TIMEOUT_S) -> None:
        """End a node's process as its service manager would (SIGTERM first), if it runs, and start it again."""
        processes.end([self._process(node)], _END_PATIENCE_S)
        self._reap()
        self.start(node, wait, timeout_s)

    # Inside

    def _build(self, deadline: float) -> None:
        if self._state.owner is not None:
            child = guardian.start(self.name, self._state.owner, self.directory / "log" / "guardian.log")
            self._children.append(child)
            self._state.guardian = Process.of(child.pid)
            self._state.save()
        namespaces.build(self.name, self.topology)
        config_files.write(self.directory, self.topology)
        nodes = self.topology.nodes()
        for first in _FIRST:
            for node in (name for name, kind in nodes.items() if kind is first):
                self._launch(node, first)
                self._wait_ready([node], deadline)
        for node, kind in nodes.items():
            if kind not in _FIRST:
                self._launch(node, kind)
        self._state.save()
        self._wait_ready(nodes, deadline)
        self._state.ready = True
        self._state.save()

    def _launch(self, node: str, kind: Kind) -> None:
        argv: Sequence[str] = _PLACEHOLDER
        if program := self.topology.program(node):
            argv = (*_priority(_ROUTER_PRIORITY), *program)
        elif kind.is_daemon:
            config = str(config_files.node_file(self.directory, node))
            argv = (*_priority(_ROUTER_PRIORITY), _program(), VERBS[kind], "--config", config)
            if self._state.recordings is not None and kind is not Kind.DIRECTORY:  # which has nothing to record
                argv = (*argv, "--record", str(self._state.recordings / node))
        elif kind is Kind.CORE and self.topology.delays():
            argv = (*_priority(_LINK_PRIORITY), sys.executable, "-m", "anchord.lab.delays", self.name)
        child = processes.start_logged(self.namespace(node), argv, self.log(node))
        self._children.append(child)
        self._state.nodes[node] = Process.of(child.pid)

    def _wait_ready(self, nodes: Iterable[str], deadline: float) -> None:
        from anchord.lab import readiness  # noqa: PLC0415  brings asyncio with it

        kinds = self.topology.nodes()
        for node in nodes:
            if kinds[node].is_daemon and not self.topology.program(node):
                readiness.wait_ready(node, self._process(node), self.control(node), self.log(node), deadline)
            elif kinds[node] is Kind.CORE:
                in_force = partial(delays.in_force, self.name, self.topology)
                readiness.wait_process(node, self._process(node), self.log(node), deadline, in_force)

    def _down(self) -> None:
        with state.locked(self.name) as record:
            if record is None or record.maker != self._state.maker:
                return
            all_namespaces = [namespaces.namespace_name(self.name, node) for node in record.topology.nodes()]
            processes.end(record.nodes.values(), _END_PATIENCE_S)
            processes.end(processes.in_namespaces(all_namespaces), 1.0)
            namespaces.remove(self.name, record.topology.nodes())
            record.remove()
            if record.guardian is not None and record.guardian.pid != os.getpid():
                processes.end([record.guardian], _END_PATIENCE_S)
        self._reap()

    def _reap(self) -> None:
        """Take note of children that have ended, so that none remains as a zombie."""
        self._children = [child for child in self._children if child.poll() is None]

    def _known(self, node: str) -> str:
        if node not in self.topology.nodes():
            raise unknown("node", node, self.topology.nodes())
        return node

    def _daemon(self, node: str) -> str:
        if program := self.topology.program(self._known(node)):
            raise LabError(f"{node} runs {program[0]} instead of a daemon, which has no control socket that we know of")
        if node not in self.topology.daemons():
            raise unknown("daemon", node, self.topology.daemons())
        return node

    def _process(self, node: str) -> Process:
        process = self._state.nodes.get(self._known(node))
        if process is None:
            raise LabError(f"{node} was never started")
        return process


def _check_name(name: str) -> None:
    if not _LAB_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a lab, expected up to 40 lower-case letters, digits and hyphens")


@cache
def _priority(level: int) -> tuple[str, ...]:
    real_time = ("chrt", "--rr", str(level))
    tried = subprocess.run([*real_time, "true"], capture_output=True, check=False)
    return _PRIORITY_ELSE if tried.returncode else real_time


def _made(directory: Path | None) -> Path | None:
    """A directory that is there, by a name that other processes find it by too."""
    if directory is None:
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{directory}: {error.strerror}, expected a directory for recordings") from None
    return directory.absolute()


def _program() -> str:
    """The command ``anchord`` of the environment that this runs in."""
    program = Path(sys.prefix, "bin", "anchord")
    if not program.exists():
        raise LabError(f"{program} is missing: install anchord into this environment (make demo does)")
    return str(program)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the body is done: half a clean-up would leave something behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
