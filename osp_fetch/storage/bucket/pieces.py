"""Complete objects as files that can be read in a thread, for unpacking."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import Future
from typing import Final, cast

from ...model.entry import RelativePath
from ...model.errors import StorageError
from ...model.ranges import ByteRange
from ...model.record import Published
from .files import read_range
from .objects import look
from .resources import BucketResources
from .state import state_of

_BLOCK: Final = 8 << 20  # bytes of one request for an object that is read in order


class ArchiveObjects:
    """Objects that are archives: reading and deleting them.

    Args:
        shared: what the store shares.
    """

    def __init__(self, shared: BucketResources) -> None:
        self._bucket = shared.bucket

    async def piece(self, path: RelativePath) -> ObjectPiece | None:
        """Return an object that can be read in a thread, None if there is none."""
        found = await look(self._bucket, path)
        if found is None:
            return None
        return ObjectPiece(self, path, found.size, found.etag, asyncio.get_running_loop())

    async def range(self, path: RelativePath, span: ByteRange, etag: str) -> bytes:
        """Return bytes of the version of an object that has this ETag.

        Raises:
            StorageError: there is another version now, or the store does not answer.
        """
        address = self._bucket.address
        data = await read_range(self._bucket, path, span, IfMatch=etag)
        if len(data) != len(span):
            raise StorageError(f"{address.url(path)}: it changed while it was read; run again")
        return data

    async def delete(self, path: RelativePath, seen: Published) -> None:
        """Delete an object that still has the state `seen`.

        Raises:
            StorageError: the store refuses it, or does not answer.
        """
        found = await look(self._bucket, path)
        if found is not None and found.state == seen:
            address = self._bucket.address
            await self._bucket.ask(
                "delete_object", f"{address.url(path)}: it cannot be deleted", Key=address.key(path)
            )


class ObjectPiece:
    """An object as a file, to be read in another thread than that of its event loop.

    Args:
        objects: reads it.
        path: path of the file.
        size: its bytes.
        etag: the version that is read.
        loop: the event loop in which requests are sent.

    Attributes:
        size: its bytes.
        state: the state of the object.
    """

    def __init__(
        self,
        objects: ArchiveObjects,
        path: RelativePath,
        size: int,
        etag: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._objects, self._path, self._etag, self._loop = objects, path, etag, loop
        self.size = size
        self.state = state_of(size, etag)

    def opened(self) -> tuple[io.RawIOBase, int]:
        """Return an open file, and its size in bytes."""
        return _ObjectFile(self), self.size

    def ahead(self, number: int) -> Future[bytes] | None:
        """Begin to read block `number`, and return its future; None behind the end."""
        if number * _BLOCK >= self.size:
            return None
        span = ByteRange(number * _BLOCK, min(self.size, (number + 1) * _BLOCK))
        work = self._objects.range(self._path, span, self._etag)
        return asyncio.run_coroutine_threadsafe(work, self._loop)


class _ObjectFile(io.RawIOBase):
    """An open object. The block behind the one that is read is requested ahead."""

    def __init__(self, piece: ObjectPiece) -> None:
        self._piece, self._at = piece, 0
        self._number, self._block = -1, b""
        self._next: tuple[int, Future[bytes] | None] = (-1, None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._piece.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer)).cast("B")
        number, start = divmod(self._at, _BLOCK)
        if number != self._number:
            self._load(number)
        found = self._block[start : start + len(view)]
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _load(self, number: int) -> None:
        expected, future = self._next
        if expected == number and future is not None:
            self._block = future.result()
        else:
            if future is not None:
                future.cancel()
            reading = self._piece.ahead(number)
            self._block = reading.result() if reading is not None else b""
        # only reading in order profits from the next block; a zip's directory is read by jumps
        in_order = number == self._number + 1
        self._number = number
        self._next = (number + 1, self._piece.ahead(number + 1) if in_order else None)

    def close(self) -> None:
        if (future := self._next[1]) is not None:
            future.cancel()
        super().close()
