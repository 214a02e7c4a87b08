"""Netlink: many requests in one sendmsg(), one acknowledgement each, dumps, and errors in the kernel's own words.

This is the transport only: it moves ``Request`` values and byte strings and knows no object of ours. It exists beside
the general libraries because forwarding state is on the path of a handover: a request costs a few microseconds here.
rtnetlink works inside sendmsg(), so every acknowledgement is waiting in the socket when sendmsg() returns.

A socket belongs to the network namespace of the thread that opened it and must be used by one thread at a time.
Formats: linux/netlink.h, linux/rtnetlink.h, linux/genetlink.h; "Introduction to Netlink" in the kernel documentation.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_ACK_TLVS = 0x200  # on an acknowledgement: attributes follow

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR_CODE = struct.Struct("=i")
_TIMEVAL = struct.Struct("@ll")

_MAX_BATCH_REQUESTS = 192
"""Requests in one sendmsg(): each acknowledgement takes about 0.8 kB of the receive buffer."""
_MAX_BATCH_BYTES = 48 * 1024
_BUFFER_BYTES = 1 << 20
_RECEIVE_BYTES = 1 << 17
_ANSWER_WITHIN_S = 10
_DUMP_TRIES = 8
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")


class NetlinkError(Exception):
    """The kernel refused a request: ``code`` (errno), ``message`` (its own words), ``what`` was attempted."""

    def __init__(self, code: int, message: str, what: str) -> None:
        self.code = code
        self.message = message
        self.what = what
        super().__init__(f"{what}: {message}")

    @classmethod
    def of(cls, code: int, said: str, what: object) -> NetlinkError:
        """From an errno and the kernel's extended acknowledgement text, which may be empty."""
        reason = os.strerror(code)
        return cls(code, f"{reason} ({said})" if said else reason, str(what))


class Request(NamedTuple):
    """One netlink request. ``what`` describes it for errors; it is turned into text only when needed."""

    kind: int
    flags: int
    body: bytes
    what: object


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = len(data)
    return _ATTRIBUTE.pack(size + 4, kind) + data + _PAD[size & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attribute_u32(kind: int, value: int) -> bytes:
    """An attribute that is one unsigned 32-bit number in host order."""
    return struct.pack("=HHI", 8, kind, value)


def attribute_text(kind: int, text: str) -> bytes:
    """An attribute that is a NUL-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def each_attribute(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type and value of every attribute in ``data`` from ``offset``. Stops at malformed ones."""
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            break
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The same by type; of several with one type the last wins."""
    return dict(each_attribute(data, offset))


def text_of(data: bytes) -> str:
    """A NUL-terminated string from an attribute."""
    return data.partition(b"\0")[0].decode(errors="replace")


class NetlinkSocket:
    """One netlink socket of one protocol, with extended acknowledgements and strict checking of dumps."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 1
        self.sent = 0
        """Requests sent so far."""
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
            with contextlib.suppress(OSError):  # strict checking came with Linux 4.20
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            with contextlib.suppress(PermissionError):  # then the default of the system must do
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(_ANSWER_WITHIN_S, 0))
        self._socket.bind((0, 0))

    def close(self) -> None:
        """Close the socket. May be called twice."""
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def send(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Send all requests, in order, in as few system calls as the buffers allow; one outcome for each.

        A failing request does not stop the ones behind it.
        """
        outcomes: list[NetlinkError | None] = []
        for batch in _batches(requests):
            outcomes.extend(self._send_batch(batch))
        return outcomes

    def execute(self, *requests: Request) -> None:
        """Send the requests; raise the first error."""
        for outcome in self.send(requests):
            if outcome is not None:
                raise outcome

    def dump(self, kind: int, body: bytes, what: str, flags: int = NLM_F_DUMP) -> list[tuple[int, bytes]]:
        """Ask for a list: (message type, payload) of every answer. Asked again when it changed underneath.

        Raises NetlinkError, with EINTR when the list kept changing.
        """
        for _ in range(_DUMP_TRIES):
            answers, interrupted = self._dump_once(kind, body, what, flags)
            if not interrupted:
                return answers
        raise NetlinkError.of(errno.EINTR, "the list kept changing while it was read", what)

    def _send_batch(self, batch: Sequence[Request]) -> list[NetlinkError | None]:
        first = self._sequence
        self._sequence += len(batch)
        self.sent += len(batch)
        parts: list[bytes] = []
        for number, (kind, flags, body, _) in enumerate(batch, first):
            parts.append(_HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, number, 0))
            parts.append(body)  # bodies are made of padded attributes: no padding is needed between messages
        outcomes: list[NetlinkError | None] = [None] * len(batch)
        try:
            self._socket.send(b"".join(parts))
            waiting = len(batch)
            while waiting:
                for number, code, said in _acknowledgements(self._socket.recv(_RECEIVE_BYTES)):
                    position = number - first
                    if 0 <= position < len(batch):
                        waiting -= 1
                        if code:
                            outcomes[position] = NetlinkError.of(code, said, batch[position].what)
        except OSError as error:
            return [NetlinkError.of(*_explain(error), request.what) for request in batch]
        return outcomes

    def _dump_once(self, kind: int, body: bytes, what: str, flags: int) -> tuple[list[tuple[int, bytes]], bool]:
        number = self._sequence
        self._sequence += 1
        answers: list[tuple[int, bytes]] = []
        interrupted = False
        try:
            self._socket.send(_HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST, number, 0) + body)
            while True:
                for answer_kind, answer_flags, answer_number, payload in _messages(self._socket.recv(_RECEIVE_BYTES)):
                    if answer_number != number:
                        continue  # what an earlier, broken-off request left behind
                    interrupted = interrupted or bool(answer_flags & NLM_F_DUMP_INTR)
                    if answer_kind in (NLMSG_DONE, NLMSG_ERROR):
                        code = -_ERROR_CODE.unpack_from(payload)[0] if len(payload) >= 4 else 0
                        if code:
                            raise NetlinkError.of(code, _said(answer_kind, answer_flags, payload), what)
                        return answers, interrupted
                    answers.append((answer_kind, payload))
        except OSError as error:
            raise NetlinkError.of(*_explain(error), what) from error


def _batches(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """Requests in groups whose bytes and acknowledgements fit the socket's buffers."""
    start = size = 0
    for position, request in enumerate(requests):
        length = 16 + len(request.body)
        if position > start and (position - start >= _MAX_BATCH_REQUESTS or size + length > _MAX_BATCH_BYTES):
            yield requests[start:position]
            start, size = position, 0
        size += length
    if start < len(requests):
        yield requests[start:]


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, payload) of every netlink message in a datagram."""
    offset = 0
    while offset + 16 <= len(data):
        size, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
        if size < 16 or offset + size > len(data):
            break
        yield kind, flags, number, data[offset + 16 : offset + size]
        offset += (size + 3) & ~3


def _acknowledgements(data: bytes) -> Iterator[tuple[int, int, str]]:
    """(sequence number, errno or 0, the kernel's words) of every acknowledgement in a datagram."""
    for kind, flags, number, payload in _messages(data):
        if kind == NLMSG_ERROR and len(payload) >= 20:
            code = -_ERROR_CODE.unpack_from(payload)[0]
            yield number, code, _said(kind, flags, payload) if code else ""


def _said(kind: int, flags: int, payload: bytes) -> str:
    """The text of an extended acknowledgement (NETLINK_CAP_ACK: only the request's header is repeated before it)."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    return text_of(attributes(payload, 20 if kind == NLMSG_ERROR else 4).get(NLMSGERR_ATTR_MSG, b""))


def _explain(error: OSError) -> tuple[int, str]:
    """errno and an explanation of a failed system call on the socket itself."""
    code = error.errno or errno.EIO
    if code == errno.ENOBUFS:
        return code, "the netlink socket overflowed; what was installed must be read again"
    if code == errno.EAGAIN:
        return errno.ETIMEDOUT, f"no answer from the kernel within {_ANSWER_WITHIN_S} s"
    return code, "on the netlink socket"


# Generic netlink: families are numbered at run time, so the number is asked for by name.
_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2


def generic_family(sock: NetlinkSocket, name: str) -> int:
    """Number of a generic netlink family. Raises NetlinkError with ENOENT when this kernel lacks it."""
    body = struct.pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + attribute_text(_CTRL_ATTR_FAMILY_NAME, name)
    # Without a dump flag the answer is followed by the acknowledgement, which ends the list like a dump's DONE.
    for _, payload in sock.dump(_GENL_ID_CTRL, body, f"look up generic netlink family {name}", NLM_F_ACK):
        found = attributes(payload, 4).get(_CTRL_ATTR_FAMILY_ID)
        if found is not None:
            return int(struct.unpack_from("=H", found)[0])
    raise NetlinkError.of(errno.ENOENT, "", f"look up generic netlink family {name}")
