"""The partial: one unfinished file, written in any order and published when it is complete.

Bytes are hashed in the background up to the frontier, which is the first byte that is not held yet.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...model.entry import RelativePath
from ...model.errors import StorageError
from ...model.ranges import ByteRange
from ...model.record import Placed, Published
from ..publishing.batch import ReadyFile
from . import hashing
from .disk import storage_error
from .executors import in_thread
from .writes import Writes

if TYPE_CHECKING:
    from .store import FolderStore

# Bytes that must be ready for hashing before a thread is started: a thread hop costs milliseconds.
_FOLLOW_FROM: Final = 4 << 20
T = TypeVar("T")


class FilePartial:
    """The partial of a `FolderStore`; implements `model.protocols.Partial`.

    The file is opened at the first call that needs it, such as the first write.

    Args:
        store: the store that the partial belongs to.
        path: path of the file in the manifest.
        algorithms: names of the digests to compute.
        fresh: whether a partial that an earlier run left is discarded.
        replaces: state of the finished file of an earlier run, which may be replaced; None if there is none.

    Attributes:
        place: path of the partial.
        final: final path.
    """

    def __init__(
        self,
        store: FolderStore,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        replaces: Published | None,
    ) -> None:
        self._store, self._disk, self._places = store, store.disk, store.places
        self._fresh, self._replaces = fresh, replaces
        self._path = path
        self.place, self.final = self._places.partial(path), self._places.final(path)
        self._tally = hashing.Tally(algorithms)
        self._opening = threading.Lock()
        self._writes = Writes(store.writers)
        self._fd: int | None = None
        self._busy: set[asyncio.Future[Any]] = set()
        self._reserved = 0
        self._goal = 0
        self._job: asyncio.Task[None] | None = None

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`.

        If this is cancelled, the write may still be in progress and reads `data`; `close` waits for it.

        Args:
            offset: position in the file, in bytes.
            data: the bytes. The caller must not change them before this returns.

        Raises:
            DiskFullError: the disk is full.
            StorageError: the file cannot be opened or written.
        """
        self._use(len(data))
        try:
            await self._writes.make(partial(self._write, offset, data))
        except OSError as error:
            raise self._explained(error, "written") from None

    def _write(self, offset: int, data: bytes | memoryview) -> None:
        self._store.space.take(len(data))
        self._disk.write(self._opened(), offset, data)

    def _opened(self) -> int:
        """Return the file descriptor, creating the file if needed. Blocks, so only a thread may call it."""
        with self._opening:
            if self._fd is None:
                self._places.check_there()
                if self._replaces is not None:
                    with suppress(OSError):  # without this mark, the old file is kept like a file of the user
                        self._store.superseded.put(self._path, self._replaces)
                self._fd = self._places.open_partial(self.place, self.final, fresh=self._fresh)
            return self._fd

    async def reserve(self, count: int) -> None:
        """Reserve disk space for the rest of the file.

        Args:
            count: number of bytes; replaces an earlier reservation of this partial.

        Raises:
            DiskFullError: the disk does not have that much unreserved space.
        """
        # without reservations, partials would fill a nearly full disk and no file would be finished
        if await self._store.room() < count - self._reserved:
            raise self._store.space.full(count)
        self._store.space.reserved += count - self._reserved
        self._reserved = count

    def _use(self, count: int) -> None:
        """Release `count` bytes of the reservation, because they are being written or never will be."""
        count = min(count, self._reserved)
        self._reserved -= count
        self._store.space.reserved -= count

    async def read(self, span: ByteRange) -> bytes:
        """Return the bytes of `span`, fewer if the file ends before.

        Args:
            span: byte range of the file.

        Raises:
            StorageError: the file cannot be opened or read.
        """

        def read() -> bytes:
            block = bytearray(len(span))
            return bytes(block[: self._disk.read(self._opened(), memoryview(block), span.start)])

        return await self._call(read, "read")

    async def sync(self) -> None:
        """Return when everything written so far survives a power loss.

        Does nothing if the store is not durable.

        Raises:
            StorageError: the disk reports an error.
        """

        def sync() -> None:
            if self._fd is not None and self._store.durable:
                self._disk.sync_data(self._fd)

        await self._call(sync, "synced")

    async def clear(self) -> None:
        """Discard all bytes and hashes.

        Raises:
            StorageError: the file cannot be opened or truncated.
        """
        await self._stop_hashing()
        self._tally.reset()
        await self._call(lambda: self._disk.truncate(self._opened(), 0), "emptied")

    async def _call(self, function: Callable[[], T], done: str) -> T:
        # The thread continues if its caller is cancelled. `close` must wait for it: otherwise the closed
        # descriptor's number may already belong to another file, which the thread would write to.
        job = asyncio.ensure_future(in_thread(self._store.writers, function))
        self._busy.add(job)
        job.add_done_callback(self._over)
        try:
            return await asyncio.shield(job)
        except OSError as error:
            raise self._explained(error, done) from None

    def _explained(self, error: OSError, done: str) -> StorageError:
        return storage_error(self._places.explained(error), f"{self.place} cannot be {done}")

    def _over(self, job: asyncio.Future[Any]) -> None:
        self._busy.discard(job)
        if not job.cancelled():
            job.exception()  # marks it as retrieved: the caller may have been cancelled

    async def rehash(self) -> None:
        """Discard the hashes, so that `digests` reads the complete file again."""
        await self._stop_hashing()
        self._tally.reset()

    def follow(self, frontier: int, length: int | None) -> None:
        """Hash in the background up to `frontier`.

        Args:
            frontier: number of bytes from the start of the file that are not written again.
            length: length of the file in bytes; None if unknown, then nothing is hashed yet.
        """
        self._goal = max(self._goal, frontier)
        idle = self._job is None or self._job.done()
        if length is not None and idle and self._goal - self._tally.position >= _FOLLOW_FROM:
            self._job = asyncio.create_task(self._hash(length))

    async def _hash(self, length: int) -> None:
        # at most one such job per file: `Tally.advance` is not safe for two threads
        while self._tally.position < self._goal:
            upto = min(self._goal, self._tally.position + (64 << 20))
            try:
                await in_thread(self._store.hashers, partial(self._advance, upto, length))
            except OSError as error:
                raise storage_error(error, f"{self.place} cannot be read") from None

    def _advance(self, upto: int, length: int) -> None:
        fd = self._opened()
        self._tally.advance(lambda block, at: self._disk.read(fd, block, at), upto, length)

    async def _stop_hashing(self) -> None:
        """Stop hashing after the block in progress, because a thread cannot be interrupted."""
        self._goal = 0
        if self._job is not None:
            await asyncio.gather(self._job, return_exceptions=True)
            self._job = None

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

    async def publish(self, length: int) -> Placed:
        """Give the file its final name. When this returns, it survives a power loss.

        Args:
            length: length of the file in bytes.

        Returns:
            The state of the published file, and the path of a file of the user that was moved out of the way.

        Raises:
            StorageError: the file cannot be published.
        """
        await self._stop_hashing()
        fd = self._fd if self._fd is not None else await self._call(self._opened, "opened")
        self._fd = None
        known = await self._call(self._recorded, "published")
        placed = await self._store.publisher.publish(ReadyFile(fd, self.place, self.final, length, known))
        if any(known):
            await self._call(lambda: self._store.superseded.remove(self._path), "published")
        return placed

    def _recorded(self) -> tuple[Published | None, ...]:
        """Return the states of files of earlier runs that may exist under the final name."""
        if self._replaces is None and not self._store.may_supersede:
            return ()
        return self._replaces, self._store.superseded.get(self._path)

    async def set_aside(self) -> str:
        """Close the file and move it to the folder for files set aside.

        Returns:
            Its path relative to the output folder.

        Raises:
            StorageError: the file cannot be moved.
        """
        aside = self._places.aside(self._path)

        def move() -> None:
            self._places.prepare(aside, durable=False)
            self._disk.replace(self.place, aside)

        await self.close()
        await self._call(move, "set aside")
        return str(Path(aside).relative_to(self._places.root))

    async def close(self) -> None:
        """Wait for all work on the file and close it. The written bytes stay on disk."""
        self._use(self._reserved)
        await self._stop_hashing()
        await self._writes.settle()
        if self._busy:
            await asyncio.wait(self._busy)
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)
