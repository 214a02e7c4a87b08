"""What is checked of the machine as it is: privileges, sysctls, interfaces, buffers, the clock. Nothing is changed."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from anchord.kernel import dump
from anchord.kernel.features import Finding, Result
from anchord.kernel.netlink import NetlinkError, NetlinkSocket
from anchord.kernel.tables import ENCAPSULATION_OVERHEAD, MIN_MTU

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
_CONF = Path("/proc/sys/net/ipv6/conf")
_FULL_SIZE_MTU = 1500
_BUFFER_BYTES = 1 << 20
_SO_RCVBUFFORCE = 33
_STA_UNSYNC, _TIME_ERROR = 0x40, 5


def privileges() -> Finding:
    """CAP_NET_ADMIN and CAP_NET_RAW are all a gateway needs."""
    effective = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if not missing:
        who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
        return Finding("privileges", Result.OK, f"{who} with CAP_NET_ADMIN and CAP_NET_RAW")
    mend = "run as root, or give a service AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"
    return Finding("privileges", Result.FAIL, f"missing: {' '.join(missing)}", mend)


def routing(core: Sequence[str]) -> list[Finding]:
    """Forwarding, and whether turning it on would end router discovery on the uplink."""
    try:
        on = (_CONF / "all/forwarding").read_text().strip() == "1"
    except OSError as error:
        return [Finding("forwarding", Result.FAIL, f"IPv6 is not available: {error}", "enable IPv6")]
    findings = [Finding("forwarding", Result.OK, "on" if on else "off; the gateway turns it on")]
    for name in core:
        value = _read(_CONF / name / "accept_ra")
        if on and value == "1":
            detail = f"{name} ignores Router Advertisements, because forwarding is on and accept_ra is 1"
            mend = f"if its default route comes from there: sysctl -w net.ipv6.conf.{name}.accept_ra=2"
            findings.append(Finding("accept_ra", Result.OK, detail, mend))
        elif value is not None:
            detail = f"{name}: {value}" + (
                "; the gateway makes it 2, to keep its default route" if value == "1" else ""
            )
            findings.append(Finding("accept_ra", Result.OK, detail))
    return findings


def interfaces(access: Sequence[str], core: Sequence[str]) -> list[Finding]:
    """Whether the configured interfaces exist, and what MTU the core leaves to hosts (RFC 5213 section 6.9.5)."""
    try:
        with NetlinkSocket() as sock:
            known = dump.interfaces(sock)
    except NetlinkError as error:
        return [Finding("interfaces", Result.FAIL, str(error), "run as root")]
    missing = [name for name in (*access, *core) if name not in known]
    if missing:
        detail = f"missing: {' '.join(missing)}; there are: {' '.join(sorted(known))}"
        return [Finding("interfaces", Result.FAIL, detail, "correct access and core in node.toml")]
    return [_core_mtu(name, known[name].mtu) for name in core]


def _core_mtu(name: str, mtu: int) -> Finding:
    left = mtu - ENCAPSULATION_OVERHEAD
    if left < MIN_MTU:
        detail = f"{name}: {mtu}, which leaves {left} bytes for a tunnelled packet; IPv6 needs {MIN_MTU}"
        return Finding("core-mtu", Result.FAIL, detail, f"ip link set {name} mtu {MIN_MTU + ENCAPSULATION_OVERHEAD}")
    if left < _FULL_SIZE_MTU:
        detail = f"{name}: {mtu}; hosts are told to use packets of {left} bytes"
        wide = _FULL_SIZE_MTU + ENCAPSULATION_OVERHEAD
        return Finding("core-mtu", Result.WARN, detail, f"if the core can: MTU {wide} carries full-size packets")
    return Finding("core-mtu", Result.OK, f"{name}: {mtu}; full-size packets fit into tunnels")


def receive_buffers() -> Finding:
    """Whether a burst of frames and messages fits a socket's buffer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        got = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel counts its own share as well
    if got >= _BUFFER_BYTES:
        return Finding("receive-buffers", Result.OK, f"{got} bytes can be had")
    mend = f"sysctl -w net.core.rmem_max={_BUFFER_BYTES}, or CAP_NET_ADMIN"
    return Finding("receive-buffers", Result.WARN, f"only {got} bytes of {_BUFFER_BYTES}", mend)


def clock() -> Finding:
    """Whether the kernel calls its clock synchronised: registrations carry timestamps (RFC 5213 section 5.5)."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(512)  # struct timex is smaller; modes = 0 only reads
    state = libc.adjtimex(timex)
    status = ctypes.c_int.from_buffer(timex, _STATUS_OFFSET).value
    if state >= 0 and state != _TIME_ERROR and not status & _STA_UNSYNC:
        return Finding("clock", Result.OK, "synchronised")
    detail = "not synchronised, as far as the kernel knows; gateways refuse each other's messages beyond 300 ms"
    return Finding("clock", Result.WARN, detail, "run chrony or systemd-timesyncd on every node, from a common source")


_STATUS_OFFSET = 5 * ctypes.sizeof(ctypes.c_long)
"""Of ``status`` in struct timex: after modes (padded), offset, freq, maxerror and esterror."""


def state_directory(state: Path) -> Finding:
    """Whether the journal can be kept."""
    existing = state
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding("state", Result.OK, f"{state} can be written" if existing == state else f"{state} can be made")
    return Finding("state", Result.FAIL, f"{existing} cannot be written", f"make {state} and let this user write there")


def attachment() -> Finding:
    """What an operator must know about whom the gateway believes."""
    return Finding(
        "attachment",
        Result.OK,
        "first-frame attachment trusts MAC addresses: whoever sends with a host's MAC is that host",
        "where spoofing matters, authenticate on the link (802.1X, WPA) and restrict hosts = 'listed'",
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
