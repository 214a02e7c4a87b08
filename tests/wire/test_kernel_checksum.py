"""The Linux kernel as the judge of our checksum: it verifies that of a received Mobility Header and fills in ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from wire_vectors import VECTORS

from anchord.wire import header
from anchord.wire.messages import BindingUpdate, BindingUpdateFlag

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace and raw sockets")

# Runs in the namespace. Sends each packet whole, by a socket that adds no header, then lets the kernel put the
# checksum into a message without one; prints what a Mobility Header socket has received.
SENDER = """
import json, socket, sys
packets, unsummed = json.load(sys.stdin)
receiver = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 135)
receiver.settimeout(5)
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
for packet in packets:
    raw.sendto(bytes.fromhex(packet), ("::1", 0))
receiver.sendto(bytes.fromhex(unsummed), ("::1", 0))
without_checksum = lambda message: message[:8] + message[12:]
received = []
while not received or without_checksum(received[-1]) != without_checksum(unsummed):
    received.append(receiver.recv(4096).hex())
print(json.dumps(received))
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"anct-{os.getpid()}-wire"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


LOOPBACK = IPv6Address("::1")
LAST = BindingUpdate(0xFFFF, 0, BindingUpdateFlag.ACKNOWLEDGE)


def packet(mobility_header: bytes) -> str:
    ipv6 = bytes.fromhex("60000000") + len(mobility_header).to_bytes(2, "big") + b"\x87\x40" + 2 * LOOPBACK.packed
    return (ipv6 + mobility_header).hex()


def damaged(mobility_header: bytes) -> bytes:
    return mobility_header[:-1] + bytes((mobility_header[-1] ^ 1,))


def through_the_kernel(namespace: str, packets: list[str]) -> list[bytes]:
    """Send ``packets`` and, without a checksum, ``LAST``; return what a Mobility Header socket gets."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", SENDER]
    sent = json.dumps([packets, header.encode(LAST).hex()])
    run = subprocess.run(command, input=sent, capture_output=True, text=True, check=True, timeout=60)
    return [bytes.fromhex(message) for message in json.loads(run.stdout)]


def test_row_124_129_the_kernel_takes_our_checksum_and_drops_a_wrong_one(namespace: str) -> None:
    good = [header.encode(vector.message, LOOPBACK, LOOPBACK) for vector in VECTORS]
    packets = [packet(data) for one in good for data in (damaged(one), one)]
    *received, _last = through_the_kernel(namespace, packets)
    assert received == good


def test_row_124_the_kernel_fills_in_the_checksum_we_would(namespace: str) -> None:
    assert through_the_kernel(namespace, []) == [header.encode(LAST, LOOPBACK, LOOPBACK)]
