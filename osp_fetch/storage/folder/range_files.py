"""Range files: ranges of files that a node fetches for another one, in its state folder on a shared disk."""

from __future__ import annotations

import asyncio
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from ...model.errors import StorageError
from ...model.protocols import Hashing, Lost
from ...model.ranges import ByteRange, RangeSet
from .disk import Disk, storage_error
from .executors import in_thread
from .hashing import NoHashing
from .writes import Writes


class FolderRangeFile:
    """A range file in a file; implements `model.protocols.RangeFile`.

    Args:
        place: the file, which is created at the first write.
        span: the bytes of the whole file that it has.
    """

    def __init__(self, place: Path, span: ByteRange) -> None:
        self.place, self._span, self._disk = place, span, Disk()
        self.hashing: Hashing = NoHashing()  # the node that has the file computes its digest
        self._threads = ThreadPoolExecutor(1, "range-file")
        self._writes = Writes(self._threads)
        self._fd: int | None = None

    async def write(self, offset: int, data: bytes | memoryview, length: int | None = None) -> None:
        """Write `data` at `offset` of the whole file.

        Raises:
            DiskFullError: the disk is full.
            StorageError: the file cannot be written, or the bytes are not all in the range.
        """
        if offset < self._span.start or offset + len(data) > self._span.stop:
            raise StorageError(f"{self.place.name}: byte {offset} is outside of the range {self._span}")
        try:
            await self._writes.make(partial(self._write, offset - self._span.start, data))
        except OSError as error:
            raise storage_error(error, f"{self.place} cannot be written") from None

    def _write(self, at: int, data: bytes | memoryview) -> None:
        self._disk.write(self._open(), at, data)

    def _open(self) -> int:
        if self._fd is None:
            self.place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = self._disk.open(self.place, os.O_RDWR | os.O_CREAT)
        return self._fd

    async def begin(self, length: int | None, missing: int) -> None:
        """Do nothing: the space is taken by the writes."""

    async def read(self, span: ByteRange) -> bytes:
        """Return the bytes of `span` of the whole file, fewer if the range file ends before."""
        return await in_thread(
            self._threads, lambda: os.pread(self._open(), len(span), span.start - self._span.start)
        )

    async def sync(self, held: RangeSet) -> RangeSet:
        """Make the range file survive a power loss, and return `held`.

        Raises:
            StorageError: it cannot be synced.
        """
        try:
            await in_thread(self._threads, lambda: self._disk.sync_data(self._open()))
        except OSError as error:
            raise storage_error(error, f"{self.place} cannot be synced") from None
        return held

    async def clear(self) -> None:
        """Raise StorageError: the server does not send ranges of this file any more."""
        raise StorageError(f"{self.place.name}: the server sends the whole file in place of {self._span}")

    async def close(self) -> None:
        """Close the file after the last write."""
        await self._writes.settle()
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)
        self._threads.shutdown(wait=False)


class FolderRangeFiles:
    """The range files of a node; implements `model.protocols.RangeFiles`.

    Args:
        state: the state folder of the node, which goes away with it at the end of the run.

    Attributes:
        block: bytes that are read at a time.
        in_order: False: a partial takes bytes at any place.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / "ranges"
        self.block, self.in_order = 1 << 20, False

    def begin(self, span: ByteRange, lost: Lost | None = None) -> FolderRangeFile:
        """Return a new range file for the bytes of `span`. It loses none of them."""
        return FolderRangeFile(self._folder / f"{span.start}-{secrets.token_hex(4)}", span)

    async def read(self, place: Path, offset: int, count: int) -> bytes:
        """Return bytes of a range file, fewer only where it ends.

        Raises:
            StorageError: it cannot be read.
        """
        return await asyncio.to_thread(_read, place, offset, count)

    async def drop(self, place: Path) -> None:
        """Delete a range file. Errors are ignored."""
        with suppress(OSError):
            await asyncio.to_thread(place.unlink)


def _read(place: Path, offset: int, count: int) -> bytes:
    try:
        with place.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(count)
    except OSError as error:
        raise storage_error(error, f"{place} cannot be read") from None
