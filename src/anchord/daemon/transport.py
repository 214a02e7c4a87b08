"""Mobility Header messages to and from the network: one raw socket (IP protocol 135).

The kernel fills in the checksum on sending and silently drops what arrives with a wrong one (RFC 6275 section 9.2);
everything else about a message is checked by the wire layer and the protocol.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv6Address

from anchord.daemon.complaints import Complaints
from anchord.protocol.inputs import MessageDropped, MessageReceived
from anchord.wire.errors import WireError
from anchord.wire.header import decode, encode
from anchord.wire.messages import Message

MOBILITY_HEADER = 135
DRAIN = 64  # messages a wake-up
LONGEST = 4096  # more than a Mobility Header can be (2048), so that nothing is cut silently
BUFFER_BYTES = 4 << 20


class TransportError(Exception):
    """The socket cannot be had; the message says why and what to do."""


class Transport:
    """This node's Mobility Header socket, bound to its own address: nothing sent to another, or to a group, arrives."""

    def __init__(self, address: IPv6Address, peers: Collection[IPv6Address]) -> None:
        """``peers``: whose messages are read at all. Raises TransportError."""
        # A peer's address is not written and read for each message: that takes as long as reading the message.
        self._texts = {peer: str(peer) for peer in peers}
        self._by_text = {text: peer for peer, text in self._texts.items()}
        self.send_failures = 0
        try:
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, MOBILITY_HEADER)
            self._socket.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
            self._socket.bind((str(address), 0))
            self._complaints = Complaints(address)
        except PermissionError as error:
            raise TransportError("no raw socket: root or CAP_NET_RAW is needed") from error
        except OSError as error:
            raise TransportError(
                f"{address}: cannot be used as this node's address: {error.strerror}; is it configured on an interface?"
            ) from error

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        self._complaints.close()

    def send(self, destination: IPv6Address, message: Message) -> None:
        """Send one message. A full queue or a missing route counts as a loss: the protocol repeats what matters."""
        text = self._texts.get(destination) or str(destination)
        try:
            self._socket.sendto(encode(message), (text, 0))
        except OSError:
            self.send_failures += 1

    def drain(self) -> Iterator[MessageReceived | MessageDropped]:
        """What has come in; at most DRAIN messages."""
        for _ in range(DRAIN):
            try:
                data, sender = self._socket.recvfrom(LONGEST)
            except OSError:
                return
            source = self._by_text.get(sender[0])
            if source is None:
                # RFC 5213 section 5.3.1 (1): who is nobody to us is not even decoded.
                yield MessageDropped(IPv6Address(sender[0].partition("%")[0]), "unconfigured-peer")
                continue
            yield understand(source, data, self._complaints.say)


def understand(
    source: IPv6Address, data: bytes, complain: Callable[[IPv6Address, int, bytes], None]
) -> MessageReceived | MessageDropped:
    """What a peer's bytes are to the protocol. ``complain`` is called where the peer is told (RFC 6275 section 9.2)."""
    try:
        return MessageReceived(source, decode(data))
    except WireError as error:
        if error.pointer is not None:
            complain(source, error.pointer, data)
        return MessageDropped(source, f"malformed.{error.cause}")
