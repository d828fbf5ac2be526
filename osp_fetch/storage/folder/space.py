"""Free space: how many bytes may still be written to the disk of the output folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from ...model.errors import DiskFullError, StorageError
from .disk import Disk

_FRESH: Final = 0.5  # seconds for which the answer of the file system is used again


class Space:
    """The free space on the disk of `root`. Usable in any thread.

    Args:
        disk: system calls.
        root: the output folder.
        min_free: bytes that must stay free.

    Attributes:
        reserved: bytes that open partials still have to write.
    """

    def __init__(self, disk: Disk, root: Path, min_free: int) -> None:
        self._disk, self._root, self._min_free = disk, root, min_free
        self.reserved = 0
        self._room = 0
        self._read = 0.0

    def free(self) -> int:
        """Return the number of bytes that may still be written, including reserved ones.

        Raises:
            OSError: the file system cannot be queried.
        """
        return self._disk.free(self._root) - self._min_free

    def take(self, count: int) -> None:
        """Account for a write of `count` bytes; refuse it if less than `min_free` would stay free.

        While the space is sufficient, the file system is queried once in `_FRESH` seconds.

        Raises:
            DiskFullError: the free space is not sufficient.
            StorageError: `count` exceeds the capacity of the disk.
            OSError: the file system cannot be queried.
        """
        now = time.monotonic()
        if now - self._read > _FRESH or self._room < count:
            self._room, self._read = self.free(), now
        self._room -= count
        if self._room < 0:
            raise self.full(count)

    def surely(self, count: int) -> bool:
        """Return whether `count` unreserved bytes were free a moment ago. Does not block.

        False also where that is not known, because nothing was written within the last `_FRESH` seconds.
        """
        return time.monotonic() - self._read <= _FRESH and self._room - self.reserved >= count

    def full(self, needed: int) -> StorageError:
        """Return the error for a write of `needed` bytes that does not fit.

        Raises:
            OSError: the file system cannot be queried.
        """
        if needed > self._disk.capacity(self._root):
            return StorageError(
                f"{self._root}: {needed} bytes exceed the capacity of the disk; check the size in "
                "the manifest, or choose a larger disk"
            )
        return DiskFullError(
            f"{self._root}: not enough free space for {needed} more bytes beside storage.min_free "
            f"({self._min_free >> 20} MiB); free some space or lower --min-free, and run the same "
            "command again",
            needed=needed,
        )
