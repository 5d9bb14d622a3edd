"""Messages between the server and its workers: a JSON header and bytes, over any stream socket.

The framing is `>II` (length of the header, length of the payload), then the header, then the payload. Nothing in it needs both
sides to be on one machine, but for the clock: stamps are times of the machine's monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

_LENGTHS = struct.Struct(">II")
MAX_HEADER = 1 << 20
MAX_PAYLOAD = 1 << 30

Header = dict[str, Any]
Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]


class LinkClosed(ConnectionError):
    """The other side is gone."""


class Link:
    """One end. `send` may be called from several threads, `receive` from one."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def send(self, header: Header, *parts: Buffer) -> None:
        """Send one message; LinkClosed where nobody is there. Waits while the other side does not read."""
        head = json.dumps(header, separators=(",", ":")).encode()
        views = [_bytes_of(part) for part in parts]
        try:
            with self._lock:
                self._socket.sendall(_LENGTHS.pack(len(head), sum(len(view) for view in views)) + head)
                for view in views:
                    self._socket.sendall(view)
        except OSError as error:
            raise LinkClosed(str(error)) from None

    def receive(self) -> tuple[Header, memoryview]:
        """The next message; LinkClosed at the end."""
        n_head, n_payload = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        if n_head > MAX_HEADER or n_payload > MAX_PAYLOAD:
            raise LinkClosed("this is not a worker's language")
        data = self._exactly(n_head + n_payload)
        return json.loads(bytes(data[:n_head])), data[n_head:]

    def _exactly(self, n: int) -> memoryview:
        # MSG_WAITALL: the kernel gathers the whole message, so that the interpreter lock is asked for once
        data = memoryview(bytearray(n))
        got = 0
        while got < n:
            try:
                count = self._socket.recv_into(data[got:], n - got, socket.MSG_WAITALL)
            except OSError as error:
                raise LinkClosed(str(error)) from None
            if not count:
                raise LinkClosed("the other side is gone")
            got += count
        return data

    def close(self) -> None:
        """End the link; a `receive` that waits on either side raises LinkClosed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _bytes_of(part: Buffer) -> memoryview:
    if isinstance(part, np.ndarray):
        return np.ascontiguousarray(part).data.cast("B")
    return memoryview(part).cast("B")


def pair() -> tuple[Link, socket.socket]:
    """A link and the socket of its other end."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return Link(ours), theirs
