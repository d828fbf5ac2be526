"""One unfinished file: written in any order, hashed behind its frontier, published when whole."""

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

_FOLLOW_FROM: Final = 4 << 20  # bytes behind the frontier that are worth a thread hop
T = TypeVar("T")


class FilePartial:
    """See `model.protocols.Partial`. Opened when its first byte is written."""

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
        self._use(len(data))
        try:
            await self._writes.make(partial(self._write, offset, data))
        except OSError as error:
            raise self._explained(error, "written") from None

    def _write(self, offset: int, data: bytes | memoryview) -> None:
        self._store.space.take(len(data))
        self._disk.write(self._opened(), offset, data)

    def _opened(self) -> int:
        """The file descriptor; creates the file. Raises OSError. For the store's threads only."""
        with self._opening:
            if self._fd is None:
                self._places.check_there()
                if self._replaces is not None:
                    with suppress(OSError):  # else the old file is kept, as if it were the user's
                        self._store.superseded.put(self._path, self._replaces)
                self._fd = self._places.open_partial(self.place, self.final, fresh=self._fresh)
            return self._fd

    async def reserve(self, count: int) -> None:
        # files that have room are finished, instead of all being begun and none finished
        if await self._store.room() < count - self._reserved:
            raise self._store.space.full(count)
        self._store.space.reserved += count - self._reserved
        self._reserved = count

    def _use(self, count: int) -> None:
        """Give back so much of what was reserved: it is being written, or will not be."""
        count = min(count, self._reserved)
        self._reserved -= count
        self._store.space.reserved -= count

    async def read(self, span: ByteRange) -> bytes:
        def read() -> bytes:
            block = bytearray(len(span))
            return bytes(block[: self._disk.read(self._opened(), memoryview(block), span.start)])

        return await self._call(read, "read")

    async def sync(self) -> None:
        def sync() -> None:
            if self._fd is not None and self._store.durable:
                self._disk.sync_data(self._fd)

        await self._call(sync, "synced")

    async def clear(self) -> None:
        await self._stop_hashing()
        self._tally.reset()
        await self._call(lambda: self._disk.truncate(self._opened(), 0), "emptied")

    async def _call(self, function: Callable[[], T], done: str) -> T:
        # a thread goes on when its caller is cancelled: `close` must wait for it, or the number of
        # the closed descriptor, soon given to another file, would be written to
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
            job.exception()  # seen: whoever waited may have been cancelled

    async def rehash(self) -> None:
        await self._stop_hashing()
        self._tally.reset()

    def follow(self, frontier: int, length: int | None) -> None:
        self._goal = max(self._goal, frontier)
        idle = self._job is None or self._job.done()
        if length is not None and idle and self._goal - self._tally.position >= _FOLLOW_FROM:
            self._job = asyncio.create_task(self._hash(length))

    async def _hash(self, length: int) -> None:
        # only ever one such job a file: `advance` is not safe for two threads
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
        """Let a running job end where it is: a thread cannot be interrupted."""
        self._goal = 0
        if self._job is not None:
            await asyncio.gather(self._job, return_exceptions=True)
            self._job = None

    async def digests(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        if self._job is not None:
            await self._job
        self._goal = length
        await self._hash(length)
        return self._tally.result(length)

    async def publish(self, length: int) -> Placed:
        await self._stop_hashing()
        fd = self._fd if self._fd is not None else await self._call(self._opened, "opened")
        self._fd = None
        known = await self._call(self._recorded, "published")
        placed = await self._store.publisher.publish(ReadyFile(fd, self.place, self.final, length, known))
        if any(known):
            await self._call(lambda: self._store.superseded.remove(self._path), "published")
        return placed

    def _recorded(self) -> tuple[Published | None, ...]:
        """Return how files of earlier runs looked that may be there under the final name."""
        if self._replaces is None and not self._store.may_supersede:
            return ()
        return self._replaces, self._store.superseded.get(self._path)

    async def set_aside(self) -> str:
        aside = self._places.aside(self._path)

        def move() -> None:
            self._places.prepare(aside, durable=False)
            self._disk.replace(self.place, aside)

        await self.close()
        await self._call(move, "set aside")
        return str(Path(aside).relative_to(self._places.root))

    async def close(self) -> None:
        self._use(self._reserved)
        await self._stop_hashing()
        await self._writes.settle()
        if self._busy:
            await asyncio.wait(self._busy)
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)
