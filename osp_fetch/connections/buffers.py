"""Memory that bytes are received into on their way to the disk, used again and again."""

from __future__ import annotations

from mmap import mmap
from typing import Final

from ..model.settings import Limits

_SHARE: Final = 6  # of the memory allowed
_LEAST: Final = 64 << 10
_PER_SECOND: Final = 8  # buffers that a byte rate fills in a second, so that it is kept without bursts


class Buffers:
    """Buffers for all connections of a run, the larger the fewer there are. `most`: bytes of the largest.

    Fresh memory costs a page fault for every 4 KiB, as much as a copy: what is twice or half as large as
    it would be made now is still used again.
    """

    def __init__(self, limits: Limits, most: int = 2 << 20) -> None:
        self._memory = limits.memory // _SHARE
        self._most = min(most, max(_LEAST, limits.rate // _PER_SECOND)) if limits.rate else most
        self._free: list[memoryview] = []

    def take(self, count: int, connections: int) -> memoryview:
        """Memory for the next of `count` bytes, to one of so many connections."""
        size = self._size(connections)
        if count < size:
            return memoryview(bytearray(count))
        while self._free:
            buffer = self._free.pop()
            if size <= 2 * len(buffer) <= 4 * size:
                return buffer
        return memoryview(mmap(-1, size))  # what is let go goes back to the system at once

    def fitted(self, buffer: memoryview, connections: int) -> memoryview:
        """The same, or a smaller one where there are many more connections by now."""
        size = self._size(connections)
        return buffer if len(buffer) <= 2 * size else self.take(size, connections)

    def give(self, buffer: memoryview, connections: int) -> None:
        """Give it back: nothing reads or writes it any more."""
        size = self._size(connections)
        room = (len(self._free) + 1) * size <= self._memory
        if room and size <= 2 * len(buffer) <= 4 * size:
            self._free.append(buffer)

    def _size(self, connections: int) -> int:
        return min(self._most, max(_LEAST, self._memory // max(1, connections)))
