"""The output folder as a Store: partials under `.osp-fetch/partial/`, finished files beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from ...model import protocols
from ...model.digest import Digest
from ...model.entry import RelativePath
from ...model.ranges import ByteRange
from ...model.record import Examined, Placed, Published
from ...model.settings import Storage
from ..publishing.batch import BatchPublisher
from ..publishing.helper_process import HelperProcess
from ..publishing.publisher import Publisher
from ..publishing.shared_memory import SharedBuffer
from ..publishing.small_file import SmallFile
from . import blanks, hashing
from .disk import Disk, storage_error
from .executors import Sharers, in_thread
from .layout import Layout
from .partial import FilePartial
from .space import Space
from .tombstones import superseded, tombstones

# os.cpu_count() threads keep every core hashing; writes wait for the disk more than for a core
_WRITERS: Final = 4
# small files from which on a process for them is worth its start: so many, or fewer while so many files are
# in hand
_MANY: Final = 400
_SOME: Final = 16
_QUEUE: Final = 100
T = TypeVar("T")


class FolderStore:
    """A folder on a local or network file system. Use as an async context manager. `lock`: the descriptor of
    the lock of the run that it belongs to; with it, many small files get a process that publishes them."""

    def __init__(
        self,
        root: Path,
        state: Path,
        settings: Storage,
        disk: Disk | None = None,
        *,
        lock: int | None = None,
    ) -> None:
        self.disk = disk or Disk()
        self.places = Layout(root, state, self.disk)
        self.durable = settings.durability == "full"
        self.writers = ThreadPoolExecutor(_WRITERS, "osp-write")
        self.hashers = ThreadPoolExecutor(os.cpu_count() or 1, "osp-hash")
        self._sharers = Sharers()
        overwrite = settings.existing == "overwrite"
        self._placer = BatchPublisher(self.places, self._sharers, durable=self.durable, overwrite=overwrite)
        self.publisher = Publisher(self._placer, lambda: self.in_hand)
        self.in_hand = 0
        self._lock, self._settings = lock, settings
        self._smalls = 0  # small files that memory was lent for
        self._clerk: HelperProcess | None = None
        self._root = root
        self.space = Space(self.disk, root, settings.min_free)
        self.folds = self.disk.folds(state)
        self._tombstones, self.superseded = tombstones(root), superseded(root)
        self._deleted = not self.disk.is_empty(self._tombstones.folder)
        self.may_supersede = not self.disk.is_empty(self.superseded.folder)
        self._asides = not self.disk.is_empty(state / "aside")

    async def __aenter__(self) -> FolderStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.publisher.close()
        finally:
            # at once, however often this is cancelled: it holds the run's lock
            if self._clerk is not None:
                self._clerk.close()
                # nor may its memory, which holds a descriptor, wait for the garbage collector
                self._clerk = self.publisher.remote = None
        for pool in (self.writers, self.hashers):
            pool.shutdown(wait=True)
        self._sharers.close()  # last: a look that nobody waits for any more may still be going on

    async def look(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        def look(path: RelativePath) -> Published | None:
            return self.disk.look(self.places.final(path))

        return await in_thread(self.writers, lambda: self._sharers.each(look, paths))

    async def deleted(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        if not self._deleted:
            return [None] * len(paths)
        return await in_thread(self.writers, lambda: [self._tombstones.get(path) for path in paths])

    async def held(self, path: RelativePath) -> int | None:
        seen = await in_thread(self.writers, lambda: self.disk.look(self.places.partial(path)))
        return seen.size if seen else None

    def partial(
        self,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        replaces: Published | None = None,
    ) -> FilePartial:
        return FilePartial(self, path, algorithms, fresh=fresh, replaces=replaces)

    def memory(self, count: int) -> SharedBuffer:
        self._smalls += 1
        if self._lock is not None and self._smalls >= (_SOME if self.in_hand >= _QUEUE else _MANY):
            self._hire(self._lock)
            self._lock = None
        shared = self._clerk.pool.take(count) if self._clerk and self.publisher.remote else None
        return shared or SharedBuffer(memoryview(bytearray(count)))

    def _hire(self, lock: int) -> None:
        """Have small files published by a process of their own, as soon as it is there, if it can be."""
        if not HelperProcess.possible():
            return

        def begin(clerk: HelperProcess) -> None:
            with suppress(OSError):
                clerk.begin()
                self.publisher.remote = clerk.publish

        with suppress(OSError):
            self._clerk = HelperProcess(self._root, self.places.state, self._settings, lock)
            self.writers.submit(begin, self._clerk)

    async def put(
        self,
        path: RelativePath,
        memory: protocols.Memory,
        length: int,
        algorithms: frozenset[str],
        wanted: Digest | None,
    ) -> tuple[Placed, dict[str, str]]:
        assert isinstance(memory, SharedBuffer)
        small = SmallFile(self.places, self.space, path, memory, length, algorithms, wanted)
        placed = await self.publisher.publish(small)
        return placed, small.digests

    async def examine(
        self, path: RelativePath, algorithms: frozenset[str], *, aside: bool = False
    ) -> Examined:
        place = self.places.aside(path) if aside else self.places.final(path)

        def examine(fd: int, size: int) -> Examined:
            seen = blanks.Blanks()
            tally = hashing.Tally(algorithms)

            def read(block: memoryview, at: int) -> int:
                count = self.disk.read(fd, block, at)
                seen.add(block[:count], at)
                return count

            tally.advance(read, size, size)
            digests, checksums = tally.result(size)
            return Examined(size, digests, checksums, seen.found)

        return await self._read(self.hashers, lambda: self._opened(place, examine), place)

    async def read(self, path: RelativePath, span: ByteRange, *, aside: bool = False) -> bytes:
        place = self.places.aside(path) if aside else self.places.final(path)

        def read(fd: int, _: int) -> bytes:
            block = bytearray(len(span))
            return bytes(block[: self.disk.read(fd, memoryview(block), span.start)])

        return await self._read(self.writers, lambda: self._opened(place, read), place)

    def _opened(self, place: str, use: Callable[[int, int], T]) -> T:
        """What `use(fd, size)` makes of a file."""
        fd = self.disk.open(place, os.O_RDONLY)
        try:
            return use(fd, self.disk.stat(fd).size)
        finally:
            self.disk.close(fd)

    async def _read(self, pool: ThreadPoolExecutor, function: Callable[[], T], place: str) -> T:
        try:
            return await in_thread(pool, function)
        except OSError as error:
            raise storage_error(self.places.explained(error), f"{place} cannot be read") from None

    async def aside(self, path: RelativePath) -> int | None:
        if not self._asides:
            return None
        seen = await in_thread(self.writers, lambda: self.disk.look(self.places.aside(path)))
        return seen.size if seen else None

    async def take_back(self, path: RelativePath) -> None:
        def take() -> None:
            place = self.places.partial(path)
            self.places.prepare(place, durable=False)
            self.disk.replace(self.places.aside(path), place)

        await self._read(self.writers, take, self.places.aside(path))

    async def room(self) -> int:
        free = await in_thread(self.writers, self.space.free)
        return free - self.space.reserved  # by now: two who ask at a time must not be told the same room
