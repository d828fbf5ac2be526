"""How much may still be written."""

from __future__ import annotations

import time
from pathlib import Path

from ...model.errors import DiskFullError, StorageError
from .disk import Disk


class Space:
    """The room on the disk of `root` beside `min_free` bytes. For any thread."""

    def __init__(self, disk: Disk, root: Path, min_free: int) -> None:
        self._disk, self._root, self._min_free = disk, root, min_free
        self.reserved = 0  # bytes that open partials still have to write
        self._room = 0
        self._read = 0.0

    def free(self) -> int:
        """Bytes that may still be written, reserved ones among them; asks the disk."""
        return self._disk.free(self._root) - self._min_free

    def take(self, count: int) -> None:
        """Refuse a write that would leave less than `min_free`; asks the disk twice a second."""
        now = time.monotonic()
        if now - self._read > 0.5 or self._room < count:
            self._room, self._read = self.free(), now
        self._room -= count
        if self._room < 0:
            raise self.full(count)

    def full(self, needed: int) -> StorageError:
        """The error for `needed` bytes that have no room."""
        if needed > self._disk.capacity(self._root):
            return StorageError(
                f"{self._root}: {needed} bytes would not fit even on the empty disk; is that size right?"
            )
        error = DiskFullError(
            f"{self._root}: there is no room for {needed} more bytes beside storage.min_free "
            f"({self._min_free >> 20} MiB); free some space or lower --min-free, and run the same "
            "command again"
        )
        error.needed = needed
        return error
