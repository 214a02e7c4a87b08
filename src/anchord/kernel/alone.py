"""One process at a time forwards in a network namespace: another one would sweep what the first has put there.

The lock is the name of a unix socket in the abstract namespace, of which there is one for each network namespace
(unix(7), network_namespaces(7)). The kernel frees it with the process that has it, however that ends, so whoever is
started in its place need not wait.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

from anchord.kernel.errors import KernelError

_NAME = "\0anchord-forwarding"
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Alone:
    """The lock of the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        """Raises KernelError, which names the process that has it already."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(_NAME)
            self._socket.listen(1)  # so that others can ask who we are
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise KernelError("the network namespace cannot be locked", str(error), "see unix(7)") from error
            raise KernelError(
                "another anchord gateway runs in this network namespace", _holder(), "stop it first"
            ) from error

    def close(self) -> None:
        """Let others have it."""
        self._socket.close()


def _holder() -> str:
    """Who has the lock, in words; it may have ended by now, or be in a PID namespace that we do not see."""
    pid = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, contextlib.suppress(OSError):
        asking.setblocking(False)  # nobody takes the call: who answers it is known to the kernel
        asking.connect(_NAME)
        pid = _UCRED.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
    return f"pid {pid}" if pid else "its pid cannot be seen from here"
