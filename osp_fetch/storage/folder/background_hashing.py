"""Background hashing: computes the digests of a partial while it grows.

Bytes are hashed in order, up to the frontier, which is the first byte that is not held yet. The thread that
writes the next bytes hashes them from memory. Bytes that were written out of order are read again, by the
threads that write, or by a thread of their own where they are many.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final

from ...model.errors import FetchError
from .disk import storage_error
from .executors import in_thread
from .hashing import Read, Tally

# Bytes that must be ready for hashing before a thread is started. The threads that write hash what is less.
_FROM: Final = 64 << 20
# Bytes that are read again and hashed at most with each byte written. Where the processor is the limit, a
# thread of its own would never catch up with the connections, and would read every byte of the file again.
_CATCH_UP: Final = 2
# Bytes that one thread hashes before it returns to the event loop, which may have another goal by then.
_STEP: Final = 64 << 20


class BackgroundHashing:
    """The digests of one partial; implements `model.protocols.Hashing`.

    Args:
        hashers: threads to hash in.
        read: reads bytes of the file at an offset. Called in a thread.
        algorithms: names of the digests to compute.
        place: path of the file, for messages.
    """

    def __init__(
        self, hashers: ThreadPoolExecutor, read: Read, algorithms: frozenset[str], place: str
    ) -> None:
        self._hashers, self._read, self._place = hashers, read, place
        self._tally = Tally(algorithms)
        self._turn = threading.Lock()  # held by the thread that uses the tally
        self._goal = 0
        self._job: asyncio.Task[None] | None = None

    def advance(self, frontier: int, length: int | None) -> None:
        """Hash in the background up to `frontier`.

        Args:
            frontier: number of bytes from the start of the file that are not written again.
            length: length of the file in bytes; None if unknown, then nothing is hashed yet.
        """
        self._goal = max(self._goal, frontier)
        idle = self._job is None or self._job.done()
        if length is not None and idle and self._goal - self._tally.position >= _FROM:
            self._job = asyncio.create_task(self._hash(length))

    def take(self, offset: int, data: bytes | memoryview, length: int) -> None:
        """Hash `data` if it follows the bytes hashed so far and no other thread is hashing. Blocks.

        If bytes before `data` are ready and not hashed, some of them are hashed first.

        Args:
            offset: position of `data` in the file, in bytes.
            data: bytes that are in the file and are not written again.
            length: length of the file in bytes.
        """
        if self._turn.acquire(blocking=False):
            try:
                with suppress(FetchError, OSError):  # `digests` reports what fails here
                    ready = min(self._goal, offset, self._tally.position + _CATCH_UP * len(data))
                    if ready > self._tally.position:
                        self._tally.advance(self._read, ready, length)
                    if offset == self._tally.position:
                        self._tally.take(memoryview(data), length)
            finally:
                self._turn.release()

    async def digests(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        """Hash the rest of the file and return the result.

        Args:
            length: length of the file in bytes.

        Returns:
            Algorithm → hexadecimal digest of the complete file, and its checksums as in `Record`.

        Raises:
            StorageError: the file cannot be read.
        """
        if self._job is not None:
            await self._job
        self._goal = length
        await self._hash(length)
        return self._tally.result(length)

    async def reset(self) -> None:
        """Discard the hashes, so that `digests` reads the complete file again."""
        await self.stop()
        with self._turn:  # at most the time to hash one write, which is milliseconds
            self._tally.reset()

    async def stop(self) -> None:
        """Stop after the block in progress, because a thread cannot be interrupted."""
        self._goal = 0
        if self._job is not None:
            await asyncio.gather(self._job, return_exceptions=True)
            self._job = None

    async def _hash(self, length: int) -> None:
        while self._tally.position < self._goal:
            upto = min(self._goal, self._tally.position + _STEP)
            try:
                await in_thread(self._hashers, partial(self._advance, upto, length))
            except OSError as error:
                raise storage_error(error, f"{self._place} cannot be read") from None

    def _advance(self, upto: int, length: int) -> None:
        with self._turn:
            self._tally.advance(self._read, upto, length)
