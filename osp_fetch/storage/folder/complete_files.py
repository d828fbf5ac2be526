"""Complete files on the disk: reading those under final names, and those that were set aside."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ...model.entry import RelativePath
from ...model.ranges import ByteRange
from ...model.record import Examined
from . import blanks
from .disk import storage_error
from .executors import in_thread
from .hashing import Tally
from .resources import FolderResources

T = TypeVar("T")


class FolderFiles:
    """The complete files in one part of the folder; implements `model.protocols.Files`.

    Args:
        folder: what the store shares.
        place: returns the place of a path in that part.
    """

    def __init__(self, folder: FolderResources, place: Callable[[RelativePath], str]) -> None:
        self._folder, self._disk, self._place = folder, folder.disk, place

    async def examine(self, path: RelativePath, algorithms: frozenset[str]) -> Examined:
        """Read the complete file and return its size, digests and zero ranges.

        Raises:
            StorageError: the file cannot be read.
        """

        def examine(fd: int, size: int) -> Examined:
            seen, tally = blanks.Blanks(), Tally(algorithms)

            def read(block: memoryview, at: int) -> int:
                count = self._disk.read(fd, block, at)
                seen.add(block[:count], at)
                return count

            tally.advance(read, size, size)
            digests, checksums = tally.result(size)
            return Examined(size, digests, checksums, seen.found)

        place = self._place(path)
        return await self._call(self._folder.hashers, lambda: self._opened(place, examine), place)

    async def read(self, path: RelativePath, span: ByteRange) -> bytes:
        """Return the bytes of `span`, fewer if the file ends before.

        Raises:
            StorageError: the file cannot be read.
        """

        def read(fd: int, _: int) -> bytes:
            block = bytearray(len(span))
            return bytes(block[: self._disk.read(fd, memoryview(block), span.start)])

        place = self._place(path)
        return await self._call(self._folder.writers, lambda: self._opened(place, read), place)

    def _opened(self, place: str, use: Callable[[int, int], T]) -> T:
        """Return `use(descriptor, size)` for an open file."""
        fd = self._disk.open(place, os.O_RDONLY)
        try:
            return use(fd, self._disk.stat(fd).size)
        finally:
            self._disk.close(fd)

    async def _call(self, pool: ThreadPoolExecutor, function: Callable[[], T], place: str) -> T:
        try:
            return await in_thread(pool, function)
        except OSError as error:
            raise storage_error(self._folder.layout.explained(error), f"{place} cannot be read") from None


class FolderSetAside(FolderFiles):
    """The files that were set aside for a wrong digest; implements `model.protocols.SetAsideFiles`."""

    def __init__(self, folder: FolderResources) -> None:
        super().__init__(folder, folder.layout.aside)
        # one look at the start spares a system call for each row
        self._any = not self._disk.is_empty(folder.layout.state / "aside")

    async def find(self, path: RelativePath) -> int | None:
        """Return the size in bytes of the file that was set aside, None if there is none."""
        if not self._any:
            return None
        seen = await in_thread(self._folder.writers, lambda: self._disk.look(self._place(path)))
        return seen.size if seen else None

    async def restore(self, path: RelativePath) -> None:
        """Make the file that was set aside the partial of `path` again.

        Raises:
            StorageError: the file cannot be moved.
        """
        layout, place = self._folder.layout, self._place(path)

        def take() -> None:
            target = layout.partial(path)
            layout.prepare(target, durable=False)
            self._disk.replace(place, target)

        await self._call(self._folder.writers, take, place)
