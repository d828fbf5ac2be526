"""The partial: one unfinished file, written in any order and published when it is complete."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from ...concurrency import outlast
from ...model.draining import Receive
from ...model.entry import RelativePath
from ...model.errors import FetchError, StorageError
from ...model.protocols import Hashing
from ...model.ranges import ByteRange, RangeSet
from ...model.record import Placed, Published
from ..publishing.batch import ReadyFile
from .background_hashing import BackgroundHashing
from .disk import storage_error
from .resources import FolderResources
from .writes import Writes

# Bytes: for smaller files, asking for the free space costs more than it saves.
_RESERVE_FROM: Final = 1 << 20
T = TypeVar("T")


class _Descriptor:
    """The file descriptor of a partial, which is opened when it is first needed.

    It is an object of its own so that hashing can read the file without a reference to the partial: a cycle
    of references would keep both in memory until the next run of the garbage collector.
    """

    def __init__(
        self, folder: FolderResources, path: RelativePath, *, fresh: bool, replaces: Published | None
    ) -> None:
        self._folder, self._path = folder, path
        self._fresh, self._replaces = fresh, replaces
        self._opening = threading.Lock()
        self._is_given_up = False
        self.fd: int | None = None

    def get(self) -> int:
        """Return the descriptor, creating the file if needed. Blocks, so only a thread may call it."""
        with self._opening:
            if self._is_given_up:
                raise StorageError(f"{self._path}: its partial is closed already")
            if self.fd is None:
                layout = self._folder.layout
                layout.check_there()
                if self._replaces is not None:
                    with suppress(OSError):  # without this mark, the old file is kept like a file of the user
                        self._folder.superseded.put(self._path, self._replaces)
                place, final = layout.partial(self._path), layout.final(self._path)
                existing = self._folder.disk.existing(final)
                if existing is not None and existing.kind == "folder":
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), final)
                self.fd = layout.open_partial(place, final, fresh=self._fresh)
            return self.fd

    def take(self) -> int | None:
        """Return the descriptor if it is open, and give up its ownership.

        A thread that is late must not open the file again: that empties it, if it is fresh.
        """
        with self._opening:
            fd, self.fd, self._is_given_up = self.fd, None, True
            return fd

    def reopen(self) -> None:
        """Let `get` open the file again after `take`."""
        self._is_given_up = False

    def read(self, block: memoryview, offset: int) -> int:
        """Read into `block` from `offset` (bytes). Blocks."""
        return self._folder.disk.read(self.get(), block, offset)


class FilePartial:
    """The partial of a `FolderStore`; implements `model.protocols.Partial`.

    The file is opened at the first call that needs it, such as the first write.

    Args:
        folder: what the store shares with its partials.
        path: path of the file in the manifest.
        algorithms: names of the digests to compute.
        fresh: whether a partial that an earlier run left is discarded.
        replaces: state of the finished file of an earlier run, which may be replaced; None if there is none.

    Attributes:
        place: path of the partial.
        final: final path.
        hashing: digests of the file, computed while it grows.
    """

    def __init__(
        self,
        folder: FolderResources,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        replaces: Published | None,
    ) -> None:
        self._folder, self._disk, self._places = folder, folder.disk, folder.layout
        self._replaces = replaces
        self._path = path
        self.place, self.final = self._places.partial(path), self._places.final(path)
        self._descriptor = _Descriptor(folder, path, fresh=fresh, replaces=replaces)
        self._writes = Writes(folder.writers)
        self._writing = threading.Lock()  # the kernel executes writes to one file one at a time
        self._busy: set[asyncio.Future[Any]] = set()
        self._reserved = 0
        self._hashing = BackgroundHashing(folder.hashers, self._descriptor.read, algorithms, self.place)
        self.hashing: Hashing = self._hashing

    async def write(self, offset: int, data: bytes | memoryview, length: int | None = None) -> None:
        """Write `data` at `offset`.

        If this is cancelled, it returns after the write.

        Args:
            offset: position in the file, in bytes.
            data: the bytes. The caller must not change them before this returns.
            length: length of the file in bytes if `data` is not written again, so that it can be hashed from
                memory. None if its bytes may be overwritten, or the length is unknown.

        Raises:
            DiskFullError: the disk is full.
            StorageError: the file cannot be opened or written.
        """
        self._use(len(data))
        try:
            await outlast(self._writes.begin(partial(self._write, offset, data, length)))
        except OSError as error:
            raise self._explained(error, "written") from None

    async def fill(
        self,
        span: ByteRange,
        receive: Receive,
        buffer: memoryview,
        length: int | None = None,
        *,
        filled: int = 0,
    ) -> tuple[int, FetchError | None]:
        """Receive bytes and write them to `span`; see `model.draining.Fillable.fill`.

        The thread that receives bytes also writes and hashes them, while they are in the cache of its core.
        """
        fill = partial(self._fill, span, receive, buffer, length, filled)
        count, error = await outlast(self._begun(fill, self._folder.receivers))
        self._use(count)
        return count, self._explained(error, "written") if isinstance(error, OSError) else error

    def _fill(
        self, span: ByteRange, receive: Receive, buffer: memoryview, length: int | None, filled: int
    ) -> tuple[int, OSError | FetchError | None]:
        at, is_full = span.start, True
        while at < span.stop and is_full:
            view = buffer[: span.stop - at]
            data, filled = view[: filled + receive(view[filled:])], 0
            try:
                self._write(at, data, length)
            except (OSError, FetchError) as error:
                return at - span.start, error
            at, is_full = at + len(data), len(data) == len(view)
        return at - span.start, None

    def _write(self, offset: int, data: bytes | memoryview, length: int | None) -> None:
        with self._writing:
            self._folder.space.take(len(data))
            self._disk.write(self._descriptor.get(), offset, data)
        if length is not None:
            self._hashing.take(offset, data, length)

    async def begin(self, length: int | None, missing: int) -> None:
        """Reserve disk space for the rest of the file.

        Args:
            length: length of the file in bytes, None if unknown. Nothing is reserved then.
            missing: number of bytes that are not written yet; replaces an earlier reservation of this
                partial.

        Raises:
            DiskFullError: the disk does not have that much unreserved space.
        """
        if length is not None and length > _RESERVE_FROM:
            await self._reserve(missing)

    async def _reserve(self, count: int) -> None:
        # without reservations, partials would fill a nearly full disk and no file would be finished
        space, more = self._folder.space, count - self._reserved
        if not space.surely(more) and await self._folder.room() < more:
            raise space.full(count)
        space.reserved += more
        self._reserved = count

    def _use(self, count: int) -> None:
        """Release `count` bytes of the reservation, because they are being written or never will be."""
        count = min(count, self._reserved)
        self._reserved -= count
        self._folder.space.reserved -= count

    async def read(self, span: ByteRange) -> bytes:
        """Return the bytes of `span`, fewer if the file ends before.

        Args:
            span: byte range of the file.

        Raises:
            StorageError: the file cannot be opened or read.
        """

        def read() -> bytes:
            block = bytearray(len(span))
            return bytes(block[: self._descriptor.read(memoryview(block), span.start)])

        return await self._call(read, "read")

    async def sync(self, held: RangeSet) -> RangeSet:
        """Return `held` when everything written so far survives a power loss; at once if not durable.

        Args:
            held: the ranges that were written.

        Raises:
            StorageError: the disk reports an error.
        """

        def sync() -> None:
            fd = self._descriptor.fd
            if fd is not None and self._folder.durable:
                self._disk.sync_data(fd)

        try:
            await outlast(self._begun(sync, self._folder.writers))  # its error is reported once
        except OSError as error:
            raise self._explained(error, "synced") from None
        return held

    async def clear(self) -> None:
        """Discard all bytes and hashes.

        Raises:
            StorageError: the file cannot be opened or truncated.
        """
        await self.hashing.reset()
        self._descriptor.reopen()  # a file that filled the disk is emptied after `close`
        await self._call(lambda: self._disk.truncate(self._descriptor.get(), 0), "emptied")

    async def _call(self, function: Callable[[], T], done: str) -> T:
        # The thread continues if its caller is cancelled. `close` must wait for it: otherwise the closed
        # descriptor's number may already belong to another file, which the thread would write to.
        try:
            return await asyncio.shield(self._begun(function, self._folder.writers))
        except OSError as error:
            raise self._explained(error, done) from None

    def _begun(self, function: Callable[[], T], pool: Executor) -> asyncio.Future[T]:
        """Call `function` in a thread. The event loop does not cancel it when it ends, unlike a task."""
        job = asyncio.get_running_loop().run_in_executor(pool, function)
        self._busy.add(job)
        job.add_done_callback(self._over)
        return job

    def _explained(self, error: OSError, done: str) -> StorageError:
        return storage_error(self._places.explained(error), f"{self.place} cannot be {done}")

    def _over(self, job: asyncio.Future[Any]) -> None:
        self._busy.discard(job)
        if not job.cancelled():
            job.exception()  # marks it as retrieved: the caller may have been cancelled

    async def publish(self, length: int, modified: str | None = None) -> Placed:
        """Give the file its final name. When this returns, it survives a power loss.

        Args:
            length: length of the file in bytes.
            modified: Last-Modified of the server, to become the file's modification time.

        Returns:
            The state of the published file, and the path of a file of the user that was moved out of the way.

        Raises:
            StorageError: the file cannot be published.
        """
        await self._hashing.stop()
        if self._busy:
            await asyncio.wait(self._busy)  # a read whose caller was cancelled
        if self._descriptor.fd is None:
            await self._call(self._descriptor.get, "opened")
        known: tuple[Published | None, ...] = ()
        if self._replaces is not None or self._folder.may_supersede:
            known = await self._call(self._recorded, "published")
        fd = self._descriptor.take()
        assert fd is not None
        ready = ReadyFile(fd, self.place, self.final, length, known, modified)
        placed = await self._folder.publisher.publish(ready)
        if any(known):
            await self._call(lambda: self._folder.superseded.remove(self._path), "published")
        return placed

    def _recorded(self) -> tuple[Published | None, ...]:
        """Return the states of files of earlier runs that may exist under the final name."""
        return self._replaces, self._folder.superseded.get(self._path)

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
        try:
            await self._hashing.stop()
            await self._writes.settle()
            if self._busy:
                await asyncio.wait(self._busy)
        finally:
            with self._writing:  # the caller may be cancelled again, while a thread is writing
                fd = self._descriptor.take()
                if fd is not None:
                    self._disk.close(fd)
