"""Memory that bytes are received into on their way to the disk, used again and again."""

from __future__ import annotations

from typing import Final

from ..model.settings import Limits

_SHARE: Final = 4  # of the memory allowed
_LEAST: Final = 64 << 10
_PER_SECOND: Final = 8  # buffers that a byte rate fills in a second, so that it is kept without bursts


class Buffers:
    """Buffers of one size for all connections of a run, smaller ones for smaller parts.

    Fresh memory costs a page fault for every 4 KiB, as much as a copy. A size is a power of two, so that
    it seldom changes while connections come and go. `most`: bytes of the largest.
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
            if len(buffer) == size:
                return buffer
        return memoryview(bytearray(size))

    def give(self, buffer: memoryview, connections: int) -> None:
        """Give it back: nothing reads or writes it any more."""
        size = self._size(connections)
        if len(buffer) == size and (len(self._free) + 1) * size <= self._memory:
            self._free.append(buffer)

    def _size(self, connections: int) -> int:
        each = min(self._most, max(_LEAST, self._memory // max(1, connections)))
        return 1 << (each.bit_length() - 1)
