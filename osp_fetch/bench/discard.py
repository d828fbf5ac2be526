"""A store that discards bytes, for `bench --no-disk`: the network alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from ..model.digest import Digest
from ..model.entry import RelativePath
from ..model.protocols import Copies, Files, Hashing, Lost, Memory, Partial, SetAsideFiles, SmallFiles
from ..model.ranges import ByteRange, RangeSet
from ..model.record import Examined, Placed, Published
from ..storage.folder.hashing import NoHashing


def _placed(length: int) -> Placed:
    return Placed(Published(length, time.time_ns()))


class _DiscardingPartial:
    """A file whose bytes are discarded."""

    def __init__(self) -> None:
        self.hashing: Hashing = NoHashing()

    async def write(self, offset: int, data: bytes | memoryview, length: int | None = None) -> None:
        """Discard `data`."""

    async def begin(self, length: int | None, missing: int) -> None:
        """Do nothing: no space is needed."""

    async def read(self, span: ByteRange) -> bytes:
        """Return nothing, as a file does beyond its end."""
        return b""

    async def sync(self, held: RangeSet) -> RangeSet:
        """Return `held`."""
        return held

    async def clear(self) -> None:
        """Do nothing."""

    async def publish(self, length: int, modified: str | None = None) -> Placed:
        """Return the state that the file would have."""
        return _placed(length)

    async def set_aside(self) -> None:
        """Do nothing, and name no place."""

    async def close(self) -> None:
        """Do nothing."""


class _DiscardingMemory:
    """Memory for one small file."""

    def __init__(self, count: int) -> None:
        self.view = memoryview(bytearray(count))

    def cut(self, start: int, stop: int) -> None:
        """Reduce `view` to the bytes from `start` to `stop`."""
        self.view = self.view[start:stop]

    def free(self) -> None:
        """Do nothing: the memory is freed with its last reference."""


class _DiscardingSmallFiles:
    """Small files that are discarded."""

    def memory(self, count: int) -> Memory:
        """Lend `count` bytes."""
        return _DiscardingMemory(count)

    async def publish(
        self,
        path: RelativePath,
        memory: Memory,
        length: int,
        algorithms: frozenset[str],
        wanted: Digest | None,
        modified: str | None = None,
        source: str = "",
    ) -> tuple[Placed, dict[str, str]]:
        """Return the state that the file would have, without a digest."""
        return _placed(length), {}


class _NoFiles:
    """No complete files."""

    async def examine(self, path: RelativePath, algorithms: frozenset[str]) -> Examined:
        """Return an empty file."""
        return Examined(0, {}, ())

    async def read(self, path: RelativePath, span: ByteRange) -> bytes:
        """Return nothing."""
        return b""

    async def find(self, path: RelativePath) -> int | None:
        """Return None: there is no file."""

    async def restore(self, path: RelativePath) -> None:
        """Do nothing."""


class DiscardingStore:
    """A destination without a disk."""

    keeps_others: bool = False

    def __init__(self) -> None:
        self.is_new, self.widest, self.folds = True, sys.maxsize, False
        self.in_progress = 0
        self.small_files: SmallFiles = _DiscardingSmallFiles()
        self.published: Files = _NoFiles()
        self.set_aside: SetAsideFiles = _NoFiles()
        self.copies: Copies | None = None

    def expect(self) -> AbstractContextManager[None]:
        """Return a context that counts one more file in progress."""
        return self._counted()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.in_progress += 1
        try:
            yield
        finally:
            self.in_progress -= 1

    async def stat(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return None for each path: there is no file."""
        return [None] * len(paths)

    async def deleted(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return None for each path."""
        return [None] * len(paths)

    async def held(self, path: RelativePath) -> int | None:
        """Return None: there is no partial."""

    def partial(
        self,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        lost: Lost | None = None,
        replaces: Published | None = None,
        wanted: Digest | None = None,
        source: str = "",
    ) -> Partial:
        """Return a partial that discards its bytes."""
        return _DiscardingPartial()

    async def room(self) -> int:
        """Return the largest number of bytes: nothing takes space."""
        return sys.maxsize
