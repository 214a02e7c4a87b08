"""Traffic that fills its packets: TCP with offloads, and datagrams of the whole link's size."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from ipaddress import IPv6Address

from namespaces import Namespace, udp

FULL = 1452
"""Bytes in a UDP datagram that fills a 1500-byte link."""
_IPV6_RECVERR = 25
_WITHIN_S = 10


def tcp_passes(sender: Namespace, source: IPv6Address, receiver: Namespace, to: IPv6Address, size: int) -> bool:
    """Whether a connection from ``source`` to ``to`` carries ``size`` bytes."""
    with receiver.entered():
        listening = socket.create_server((str(to), 0), family=socket.AF_INET6)
    with sender.entered():
        sending = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listening.settimeout(_WITHIN_S)
    sending.settimeout(_WITHIN_S)
    got = 0

    def receive() -> None:
        nonlocal got
        with contextlib.suppress(OSError):
            accepted, _ = listening.accept()
            accepted.settimeout(_WITHIN_S)
            with accepted:
                while data := accepted.recv(1 << 16):
                    got += len(data)

    receiving = threading.Thread(target=receive, daemon=True)
    receiving.start()
    with listening, sending, contextlib.suppress(OSError):
        sending.bind((str(source), 0))
        sending.connect(listening.getsockname()[:2])
        sending.sendall(bytes(size))
        sending.close()
        receiving.join()
    return got == size


def lost_of_full_datagrams(
    sender: Namespace, source: IPv6Address, receiver: Namespace, to: IPv6Address, count: int = 5
) -> int:
    """How many of ``count`` datagrams that fill a 1500-byte link are lost, each sent when it is known of the last one.

    A sender that hears Packet Too Big makes fragments from then on.
    """
    with contextlib.closing(udp(receiver, str(to))) as receiving, contextlib.closing(udp(sender, str(source))) as made:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        made.connect(receiving.getsockname()[:2])
        known = select.poll()
        known.register(made, 0)  # POLLERR is always reported
        known.register(receiving, select.POLLIN)
        arrived = 0
        for _ in range(count):
            made.send(bytes(FULL))
            for descriptor, _ in known.poll(1000):
                if descriptor == receiving.fileno():
                    arrived += len(receiving.recv(1 << 16)) == FULL
                else:
                    made.recvmsg(FULL, 512, socket.MSG_ERRQUEUE)
        return count - arrived
