"""The output folder as a Sink: partials under `.osp-fetch/partial/`, finished files beside it."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from ..model.entry import RelativePath
from ..model.errors import DiskFull, StorageError
from ..model.ranges import ByteRange
from ..model.record import Published
from ..model.settings import Storage
from . import files, hashing
from .publish import Finished, Publisher
from .threads import in_thread

# os.cpu_count() threads keep every core hashing; writes wait for the disk more than for a core
_WRITERS: Final = 4
_FOLLOW_FROM: Final = 4 << 20  # bytes behind the frontier that are worth a thread hop
T = TypeVar("T")


class FolderSink:
    """A folder on a local or network file system. Use as an async context manager."""

    def __init__(self, root: Path, state: Path, settings: Storage) -> None:
        self.root, self.partials = root, state / "partial"
        self.durable = settings.durability == "full"
        self.writers = ThreadPoolExecutor(_WRITERS, "osp-write")
        self.hashers = ThreadPoolExecutor(os.cpu_count() or 1, "osp-hash")
        self._min_free = settings.min_free
        self._room = 0
        self._room_read = 0.0
        self.reserved = 0  # bytes that open partials still have to write
        self.publisher = Publisher(self.durable)

    async def __aenter__(self) -> FolderSink:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.publisher.close()
        for pool in (self.writers, self.hashers):
            pool.shutdown(wait=True)

    async def look(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        def stats() -> list[Published | None]:
            return [stat_of(self.root / path) for path in paths]

        return await in_thread(self.writers, stats)

    async def held(self, path: RelativePath) -> int | None:
        seen = await in_thread(self.writers, lambda: stat_of(self.partials / path))
        return seen.size if seen else None

    def partial(self, path: RelativePath, algorithms: frozenset[str], *, fresh: bool) -> FilePartial:
        return FilePartial(self, path, algorithms, fresh=fresh)

    async def digest(self, path: RelativePath, algorithm: str) -> str:
        try:
            found, _ = await in_thread(
                self.hashers, lambda: hashing.digests_of(self.root / path, frozenset({algorithm}))
            )
        except OSError as error:
            raise files.storage_error(error, f"{path} cannot be read") from None
        return found[algorithm]

    async def room(self) -> int:
        usage = await in_thread(self.writers, lambda: shutil.disk_usage(self.root))
        return usage.free - self._min_free - self.reserved

    def take_room(self, count: int) -> None:
        """Refuse a write that would leave less than `min_free`; asks the disk twice a second."""
        now = time.monotonic()
        if now - self._room_read > 0.5 or self._room < count:
            self._room, self._room_read = shutil.disk_usage(self.root).free - self._min_free, now
        self._room -= count
        if self._room < 0:
            raise self.full(count)

    def full(self, needed: int) -> StorageError:
        """The error for `needed` bytes that have no room."""
        if needed > shutil.disk_usage(self.root).total:
            return StorageError(
                f"{self.root}: {needed} bytes would not fit even on the empty disk; is that size right?"
            )
        error = DiskFull(
            f"{self.root}: there is no room for {needed} more bytes beside storage.min_free "
            f"({self._min_free >> 20} MiB); free some space or lower --min-free, and run the same "
            "command again"
        )
        error.needed = needed
        return error


def stat_of(path: Path) -> Published | None:
    """How the file at `path` looks now; None where there is none to be seen."""
    try:
        seen = path.lstat()
    except OSError:
        return None  # whatever is wrong with it, whoever writes there will be told
    return Published(seen.st_size, seen.st_mtime_ns)


class FilePartial:
    """One unfinished file; see `model.protocols.Partial`. Opened when its first byte is written."""

    def __init__(
        self, sink: FolderSink, path: RelativePath, algorithms: frozenset[str], *, fresh: bool
    ) -> None:
        self._sink = sink
        self._fresh = fresh
        self.place, self.final = sink.partials / path, sink.root / path
        self._tally = hashing.Tally(algorithms)
        self._opening = threading.Lock()
        self._fd: int | None = None
        self._busy: set[asyncio.Future[Any]] = set()
        self._reserved = 0
        self._goal = 0
        self._job: asyncio.Task[None] | None = None

    async def write(self, offset: int, chunks: Sequence[bytes], length: int | None = None) -> None:
        # a small file that comes in order is hashed while it is in hand; a larger one by `follow`,
        # so that writing does not wait for hashing
        self._use(sum(map(len, chunks)))
        small = length is not None and length <= _FOLLOW_FROM and offset == self._tally.position

        def write() -> None:
            self._sink.take_room(sum(map(len, chunks)))
            files.write_all(self.opened(), offset, chunks)
            if small and chunks:
                self._tally.take(chunks, length or 0)

        await self._call(write, "written")

    def opened(self) -> int:
        """The file descriptor; creates the file. Raises OSError. For the sink's threads only."""
        with self._opening:
            if self._fd is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                # the tail of an older, longer partial would be published with the new file
                flags |= os.O_TRUNC if self._fresh else 0
                try:
                    self._fd = os.open(self.place, flags, 0o666)
                except FileNotFoundError:
                    files.make_folder(self.place.parent, durable=False)
                    self._fd = os.open(self.place, flags, 0o666)
                except IsADirectoryError:
                    files.remove_empty_folders(self.place)  # of another manifest's files, long published
                    self._fd = os.open(self.place, flags, 0o666)
            return self._fd

    async def reserve(self, count: int) -> None:
        # files that have room are finished, instead of all being begun and none finished
        if await self._sink.room() < count - self._reserved:
            raise self._sink.full(count)
        self._sink.reserved += count - self._reserved
        self._reserved = count

    def _use(self, count: int) -> None:
        """Give back so much of what was reserved: it is being written, or will not be."""
        count = min(count, self._reserved)
        self._reserved -= count
        self._sink.reserved -= count

    async def read(self, span: ByteRange) -> bytes:
        def read() -> bytes:
            return os.pread(self.opened(), len(span), span.start)

        return await self._call(read, "read")

    async def sync(self) -> None:
        def sync() -> None:
            fd = self._fd
            if fd is not None and self._sink.durable:
                os.fdatasync(fd)

        await self._call(sync, "synced")

    async def clear(self) -> None:
        await self._stop_hashing()
        self._tally.reset()
        await self._call(lambda: os.ftruncate(self.opened(), 0), "emptied")

    async def _call(self, function: Callable[[], T], done: str) -> T:
        # a thread goes on when its caller is cancelled: `close` must wait for it, or the number of
        # the closed descriptor, soon given to another file, would be written to
        job = asyncio.ensure_future(in_thread(self._sink.writers, function))
        self._busy.add(job)
        job.add_done_callback(self._busy.discard)
        try:
            return await asyncio.shield(job)
        except OSError as error:
            raise files.storage_error(error, f"{self.place} cannot be {done}") from None

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
                await in_thread(self._sink.hashers, partial(self._advance, upto, length))
            except OSError as error:
                raise files.storage_error(error, f"{self.place} cannot be read") from None

    def _advance(self, upto: int, length: int) -> None:
        self._tally.advance(self.opened(), upto, length)

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

    async def publish(self, length: int) -> Published:
        await self._stop_hashing()
        fd = self._fd if self._fd is not None else await self._call(self.opened, "opened")
        self._fd = None
        return await self._sink.publisher.publish(Finished(fd, self.place, self.final, length))

    async def close(self) -> None:
        self._use(self._reserved)
        await self._stop_hashing()
        if self._busy:
            await asyncio.wait(self._busy)
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
