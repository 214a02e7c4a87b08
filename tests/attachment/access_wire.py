"""An access interface on a real link, seen from where its hosts would be."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable

from anchord.attachment.access import AccessInterface, Hello, Notice
from anchord.lab.namespaces import inside

SECRET = b"a secret of sixteen or more bytes"
MARK = bytes.fromhex("02feedfacade")  # the source of a frame that ends a measurement
AT_ONCE = 40  # frames between two marks: fewer than the receive buffer holds
PATIENCE_S = 5.0


def data_frame(source: bytes, destination: bytes = b"\xff" * 6, ethertype: int = 0x0800, body: bytes = b"") -> bytes:
    """An Ethernet frame of at least 60 octets."""
    return (destination + source + ethertype.to_bytes(2, "big") + body).ljust(60, b"\0")


class Wire:
    """The link from the hosts' end: what of the frames put on it reaches ``access``."""

    def __init__(self, namespace: str, secret: bytes | None = SECRET) -> None:
        self.namespace = namespace
        with inside(namespace):
            self.access = AccessInterface("acc0", secret, "gw1")
            self._host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._host.bind(("host0", 0))

    def close(self) -> None:
        """Both sockets."""
        self.access.close()
        self._host.close()

    def listen(self) -> socket.socket:
        """A socket that receives what is sent from ``acc0``; nobody but the daemon sends there."""
        with inside(self.namespace):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.bind(("host0", 3))
        opened.settimeout(PATIENCE_S)
        return opened

    def put(self, frames: Iterable[bytes]) -> None:
        """Put frames on the link."""
        for frame in frames:
            self._host.send(frame)

    def send(self, frames: Iterable[bytes]) -> tuple[int, list[Notice | Hello]]:
        """Put frames on the link: how many reached user space, and what was made of them."""
        frames, before, seen = list(frames), self.access.frames, []
        marks = 0
        for start in range(0, max(len(frames), 1), AT_ONCE):
            self.put([*frames[start : start + AT_ONCE], data_frame(MARK)])
            seen += self._until_mark()
            marks += 1
        return self.access.frames - before - marks, seen

    def arrives(self, frame: bytes) -> bool:
        """Whether one frame reaches user space."""
        return self.send([frame])[0] == 1

    def _until_mark(self) -> list[Notice | Hello]:
        seen: list[Notice | Hello] = []
        while select.select([self.access], [], [], PATIENCE_S)[0]:
            for event in self.access.drain():
                if event.mac == MARK:
                    return seen
                seen.append(event)
        raise AssertionError("the mark never came")
