"""Range objects: ranges of files that a node fetches for another one, as objects of osp-fetch in the bucket.

A range is kept in pieces of the size of a part, an object each. Every piece is uploaded as soon as it is
complete, and read by one request. Parts of the upload of the file cannot serve for this: the node that has
the file could not read them, and its digest needs every byte.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from ...concurrency import stop, task_group
from ...model.errors import FetchError, StorageError
from ...model.protocols import Hashing, Lost
from ...model.ranges import ByteRange, RangeSet
from ...s3.client import Bucket
from ..folder.executors import in_thread
from ..folder.hashing import NoHashing
from .grid import Cell
from .part_memory import Body, Part
from .resources import BucketResources

# Seconds without a written byte after which an incomplete piece may be given up, as for parts.
_SETTLED: Final = 0.5
_FILLS: Final = 3  # times that a write is tried whose pieces are given up meanwhile
_DELETING: Final = 16  # requests at a time


class RangeObject:
    """A range on its way to the bucket; implements `model.protocols.RangeFile`.

    Args:
        shared: what the store shares.
        place: what the names of its pieces begin with, below the folder of osp-fetch.
        span: the bytes of the whole file that it has.
        lost: called with bytes that had to be given up for want of memory.

    Attributes:
        hashing: no digests: the node that has the file computes them.
        touched: loop time of the last written byte.
    """

    def __init__(self, shared: BucketResources, place: Path, span: ByteRange, lost: Lost) -> None:
        self.place, self._span, self._shared, self._lost = place, span, shared, lost
        self.hashing: Hashing = NoHashing()
        self.touched = asyncio.get_running_loop().time()
        self._pieces: dict[int, Part] = {}  # number → piece in memory
        self._sent: set[int] = set()  # numbers of uploaded pieces
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: FetchError | None = None
        self._given_up = 0  # pieces
        shared.memory.add(self)

    async def begin(self, length: int | None, missing: int) -> None:
        """Do nothing: a bucket states no bound, and the range file has no name to be checked."""

    async def write(self, offset: int, data: bytes | memoryview, length: int | None = None) -> None:
        """Copy `data` into the pieces that it belongs to. Bytes of complete pieces are not replaced.

        Raises:
            StorageError: a piece could not be uploaded, the memory does not suffice, or the bytes are not all
                in the range.
        """
        at, view = offset - self._span.start, memoryview(data)
        if at < 0 or at + len(view) > len(self._span):
            raise StorageError(f"{self.place.name}: byte {offset} is outside of the range {self._span}")
        for _ in range(_FILLS):
            given_up = self._given_up
            await self._fill(at, view)
            if self._given_up == given_up:
                break  # else a piece may have been given up while this waited for memory for the next one
        else:
            raise StorageError(f"{self.place.name}: there is too little memory for a range")
        self.touched = asyncio.get_running_loop().time()

    async def _fill(self, at: int, view: memoryview) -> None:
        size = self._shared.least
        while view:
            start = at - at % size
            cell = Cell(at // size, start, min(start + size, len(self._span)))
            count = min(len(view), cell.stop - at)
            piece = await self._piece(cell)
            if piece is not None and not piece.length:
                self._copy(piece, at, view[:count])
            at, view = at + count, view[count:]

    async def _piece(self, cell: Cell) -> Part | None:
        """Return the piece in memory for `cell`; None if it was uploaded."""
        memory = self._shared.memory
        while True:
            if self._error is not None:
                raise self._error
            if cell.number in self._sent:
                return None
            if (piece := self._pieces.get(cell.number)) is not None:
                return piece
            buffer = await memory.take(cell.stop - cell.start, self, is_next=False)
            if cell.number in self._pieces or cell.number in self._sent:
                memory.give(buffer)
            else:
                self._pieces[cell.number] = Part(cell, buffer)

    def _copy(self, piece: Part, at: int, data: memoryview) -> None:
        start, size = at - piece.cell.start, piece.cell.stop - piece.cell.start
        piece.buffer.view[start : start + len(data)] = data
        piece.filled |= ByteRange(at, at + len(data))
        piece.touched = asyncio.get_running_loop().time()
        if piece.filled.after(piece.cell.start) == size:
            piece.length = size
            task = asyncio.create_task(self._send(piece))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, piece: Part) -> None:
        shared, data = self._shared, piece.data
        try:
            sums = await in_thread(
                shared.hashers, lambda: shared.scheme.arguments(data, shared.scheme.sum(data))
            )
            async with shared.sending:
                await shared.bucket.ask(
                    "put_object", f"{shared.bucket.address}: a fetched range cannot be uploaded",
                    Key=_key(shared.bucket, self.place, piece.cell.start), Body=Body(data),
                    ContentLength=len(data), **sums,
                )  # fmt: skip
            self._sent.add(piece.cell.number)
        except FetchError as error:
            self._error = self._error or error
        finally:
            self._release(piece)

    def _release(self, piece: Part) -> None:
        del self._pieces[piece.cell.number]
        self._shared.memory.give(piece.buffer)

    async def read(self, span: ByteRange) -> bytes:
        """Return nothing: no byte of the range was there before it was fetched."""
        return b""

    async def sync(self, held: RangeSet) -> RangeSet:
        """Wait until the pieces that are complete are uploaded, and return `held`.

        Raises:
            StorageError: one of them could not be uploaded; or all bytes are held, and a piece is missing.
        """
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._error is not None:
            raise self._error
        is_whole = len(held & RangeSet((self._span,))) == len(self._span)
        if is_whole and len(self._sent) * self._shared.least < len(self._span):
            raise StorageError(f"{self.place.name}: a piece of the fetched range was not uploaded")
        return held

    async def clear(self) -> None:
        """Raise StorageError: the server does not send ranges of this file any more."""
        raise StorageError(f"{self.place.name}: the server sends the whole file in place of {self._span}")

    async def close(self) -> None:
        """End all uploads, and give the memory back."""
        await stop(self._tasks)
        for piece in list(self._pieces.values()):
            self._release(piece)
        self._shared.memory.remove(self)

    def give_up_part(self) -> bool:
        """Discard the incomplete piece that is farthest from the start; return whether there was one."""
        before = asyncio.get_running_loop().time() - _SETTLED
        for _, piece in sorted(self._pieces.items(), reverse=True):
            if not piece.length and piece.touched <= before:
                self._release(piece)
                self._given_up += 1
                for span in piece.filled:
                    self._lost(ByteRange(self._span.start + span.start, self._span.start + span.stop))
                return True
        return False


class BucketRangeFiles:
    """The range objects of a run or shard; implements `model.protocols.RangeFiles`.

    Args:
        shared: what the store shares.

    Attributes:
        block: bytes of a piece.
        in_order: True: the parts of a file are hashed in order, and wait for each other in memory.
    """

    def __init__(self, shared: BucketResources) -> None:
        self._shared, self.block, self.in_order = shared, shared.least, True

    def begin(self, span: ByteRange, lost: Lost | None = None) -> RangeObject:
        """Return a new range object for the bytes of `span`; `lost` receives bytes that are given up."""
        place = Path("ranges", self._shared.scope, f"{span.start}-{secrets.token_hex(4)}")
        return RangeObject(self._shared, place, span, lost or (lambda _: None))

    async def read(self, place: Path, offset: int, count: int) -> bytes:
        """Return bytes of one piece, fewer where it ends.

        Raises:
            StorageError: it cannot be read.
        """
        start, bucket = offset - offset % self.block, self._shared.bucket
        what = f"{bucket.address}: a range that another node has fetched cannot be read"
        data = await bucket.body(what, Key=_key(bucket, place, start))
        return data[offset - start : offset - start + count]

    async def drop(self, place: Path) -> None:
        """Delete the pieces of a range. What cannot be deleted is left to the end of the run, or the next."""
        with suppress(FetchError):
            await discard_ranges(self._shared.bucket, place)


def _key(bucket: Bucket, place: Path, start: int) -> str:
    return bucket.address.own(f"{place.as_posix()}/{start:016}")


async def discard_ranges(bucket: Bucket, place: Path = Path("ranges")) -> None:
    """Delete all range objects whose names begin with `place`.

    Raises:
        StorageError: the store does not answer, or refuses it.
    """
    what, places = f"{bucket.address}: fetched ranges cannot be deleted", asyncio.Semaphore(_DELETING)

    async def delete(key: str) -> None:
        async with places:
            await bucket.ask("delete_object", what, Key=key)

    async for page in bucket.pages(
        "list_objects_v2", what, Prefix=bucket.address.own(f"{place.as_posix()}/")
    ):
        async with task_group() as deleting:
            for row in page.get("Contents", []):
                deleting.create_task(delete(row["Key"]))
