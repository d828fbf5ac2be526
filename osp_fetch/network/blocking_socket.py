"""A socket that a thread reads in place of the event loop, for as long as a body comes quickly.

The event loop reads what has arrived, a few hundred KiB at a time, and each read costs a turn of the loop and
two calls of Python. A thread asks the kernel for a mebibyte or two, sleeps until they are there, and then
writes and hashes them on the same core.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from typing import Final, Self

# Microseconds that one call waits for bytes. It bounds how long a cancelled transfer waits for its thread.
_MOMENT: Final = 50_000


class BlockingSocket:
    """The socket of a paused transport, for one thread at a time.

    The descriptor is a duplicate, so that a transport that is closed meanwhile does not make its number name
    another file.

    Args:
        descriptor: The descriptor of the transport's socket.
        left: Bytes of the body that are still missing. Nothing after them is received.

    Raises:
        OSError: No descriptor is free, or the connection is gone.

    Attributes:
        left: As above, after each call.
        waited: Seconds for which calls waited for bytes.
        error: Why no more bytes come, None while they may.
    """

    def __init__(self, descriptor: int, left: int) -> None:
        self.left, self.waited = left, 0.0
        self.error: OSError | None = None
        own = os.dup(descriptor)
        try:
            self._socket = socket.socket(fileno=own)
        except OSError:
            os.close(own)
            raise
        # first, so that no call can block for longer, whatever fails
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, _MOMENT))
        self._socket.setblocking(True)

    @classmethod
    def of(cls, transport: asyncio.Transport, left: int) -> Self | None:
        """Return the socket of `transport`, whose reading is paused; None where a thread cannot read it."""
        if transport.get_extra_info("ssl_object") is not None:
            return None
        given = transport.get_extra_info("socket")
        try:
            return None if given is None else cls(given.fileno(), left)
        except OSError:  # no descriptor is free, or the connection is gone
            return None

    def receive(self, view: memoryview) -> int:
        """Receive bytes of the body until `view` is full. Blocks for a moment at most.

        Args:
            view: A writable buffer.

        Returns:
            The number of bytes; fewer than `view` has where a moment passed, the body ended or the connection
            was cut. The latter is in `error` once all bytes before it have been returned.
        """
        view = view[: self.left]
        if not view or self.error is not None:
            return 0
        begun = time.monotonic()
        try:
            count = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self.error, count = error, 0
        else:
            if count == 0:
                self.error = ConnectionError(f"the connection closed {self.left} bytes early")
        self.waited += time.monotonic() - begun
        self.left -= count
        return count

    def close(self) -> None:
        """Give the socket back to the event loop, which needs it not to block."""
        self._socket.setblocking(False)
        self._socket.close()
