"""Memory for the parts of files on their way to a bucket, bounded over all files."""

from __future__ import annotations

import asyncio
import io
import os
from collections import deque
from contextlib import suppress
from typing import Final, Protocol

from ...model.ranges import NOTHING, RangeSet
from .grid import Cell

# Seconds that a file waits for memory before it looks for some that is not in use.
_LOOK: Final = 1.0
# Seconds without a written byte after which the memory of a file may be taken: its host does not answer.
_IDLE: Final = 3.0


class PartBuffer:
    """Memory for one part.

    Args:
        size: bytes of the memory; its content is zeros at first.

    Attributes:
        view: all of the memory.
    """

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))


class Body(io.BytesIO):
    """Memory as the body of a request, without a copy. It must not change while it is sent.

    aiohttp sends objects of this class from the event loop, and every other file block by block from threads.

    Args:
        data: the bytes.
    """

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data, self._at = data, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all that are left."""
        stop = len(self._data) if size is None or size < 0 else self._at + size
        found = bytes(self._data[self._at : stop])
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at


class Part:
    """A part in memory.

    Attributes:
        cell: its place in the file.
        filled: bytes that were written, from the start of the file.
        touched: loop time of the last of them.
        length: its bytes, once it is full.
        checksum: its checksum, once it is known.
        etag: what the bucket calls it, once it is there.
        is_hashed: whether the digests cover it.
        states: state of the digests behind it.
    """

    def __init__(self, cell: Cell, buffer: PartBuffer) -> None:
        self.cell, self.buffer = cell, buffer
        self.filled: RangeSet = NOTHING
        self.touched = 0.0
        self.length = 0
        self.checksum = 0
        self.etag: str | None = None
        self.is_hashed = False
        self.states: str | None = None

    @property
    def data(self) -> memoryview:
        """The bytes of a full part."""
        return self.buffer.view[: self.length]


class Holder(Protocol):
    """A file that holds memory.

    Attributes:
        touched: loop time of its last written byte.
    """

    touched: float

    def give_up_part(self) -> bool:
        """Discard the part that is farthest from the start of the file; return whether there was one."""
        ...


class PartMemory:
    """The memory for parts.

    A part that is needed next for the digest of its file gets memory even where none is free: the file then
    gives up the part that is farthest ahead, whose bytes are fetched again. Otherwise all memory could be
    held by parts that wait for that one.

    Args:
        most: bytes in all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._holders: set[Holder] = set()
        self._free: dict[int, list[PartBuffer]] = {}

    @property
    def used(self) -> int:
        """Bytes that are in use."""
        return self._used

    async def take(self, size: int, holder: Holder, *, is_next: bool) -> PartBuffer:
        """Return memory for a part, as soon as there is some.

        Args:
            size: bytes of the part. One that is larger than all memory gets it when nothing else is in use.
            holder: the file.
            is_next: whether the digest of the file waits for this part.
        """
        while self._used and self._used + size > self._most:
            if not (is_next and holder.give_up_part()):
                await self._wait(first=is_next)
        self._used += size
        free = self._free.get(size)
        return free.pop() if free else PartBuffer(size)

    async def _wait(self, *, first: bool) -> None:
        """Wait until memory was given back; after a second, take some from a file that makes no progress."""
        woken = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(woken)
        try:
            async with asyncio.timeout(_LOOK):
                await woken
        except TimeoutError:
            self._take_from_idle()
        except asyncio.CancelledError:
            if woken.done():
                self._wake()  # this one does not use what it was woken for
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(woken)

    def _take_from_idle(self) -> None:
        long_ago = asyncio.get_running_loop().time() - _IDLE
        for holder in sorted(self._holders, key=lambda each: each.touched):
            if holder.touched > long_ago or holder.give_up_part():
                return

    def give(self, buffer: PartBuffer) -> None:
        """Give memory back."""
        size = len(buffer.view)
        self._used -= size
        free = sum(each * len(kept) for each, kept in self._free.items())
        if self._used + free + size <= self._most:
            self._free.setdefault(size, []).append(buffer)
        self._wake()

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)
                return

    def add(self, holder: Holder) -> None:
        """Begin to count `holder` among the files whose memory may be taken."""
        self._holders.add(holder)

    def remove(self, holder: Holder) -> None:
        """Forget `holder`."""
        self._holders.discard(holder)
