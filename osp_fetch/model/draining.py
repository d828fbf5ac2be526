"""Protocols of a body that a thread receives, writes and hashes, in place of the event loop.

Not every reply and not every store can do it: the event loop reads a connection with TLS, and a bucket gets
its parts from memory. The engine asks for these protocols, and does without them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from .errors import FetchError
from .ranges import ByteRange

Receive = Callable[[memoryview], int]
"""Receives bytes until the view is full or a moment has passed, and returns their number. Blocks."""

Fill = Callable[[Receive], Awaitable[None]]
"""Calls a `Receive` in a thread, several times, and returns when the thread is done with it."""


@runtime_checkable
class Drainable(Protocol):
    """A reply whose body a thread can receive while it comes quickly."""

    def is_ready(self) -> bool:
        """Return whether a thread can receive the next bytes; others may have to be read before."""
        ...

    async def drain(self, fill: Fill) -> int:
        """Let a thread receive the next bytes of the body; call `is_ready` before.

        If this is cancelled, the thread may still be receiving.

        Args:
            fill: as above.

        Returns:
            Number of bytes that `fill` received. 0 where nothing came within a moment: `readinto` then waits
            for the next bytes, or tells why there are none.

        Raises:
            NetworkError: the connection is too slow.
        """
        ...


@runtime_checkable
class Fillable(Protocol):
    """An unfinished file whose threads can receive the bytes that they write."""

    async def fill(
        self,
        span: ByteRange,
        receive: Receive,
        buffer: memoryview,
        length: int | None = None,
        *,
        filled: int = 0,
    ) -> tuple[int, FetchError | None]:
        """Receive and write bytes until `span` is complete or `receive` returns fewer bytes than requested.

        If this is cancelled, the thread may still use `receive` and `buffer`.

        Args:
            span: where the bytes belong in the file.
            receive: supplies them, in a thread.
            buffer: memory of at least one byte, used for each call of `receive`.
            length: as for `write`.
            filled: bytes at the start of `buffer` that were received before.

        Returns:
            Number of bytes written, and why the next ones could not be written; None if nothing failed.
        """
        ...
