"""Receive buffers: memory for bytes between the socket and the disk, reused for all connections of a run."""

from __future__ import annotations

from mmap import mmap
from typing import Final

from ..model.settings import Limits
from .byte_rate import ByteRate

# Free buffers may use 1/6 of `limits.memory`.
_SHARE: Final = 6
# Bytes of the smallest buffer.
_LEAST: Final = 64 << 10
# Buffers that `limits.rate` fills in one second. Larger buffers would make a limited rate bursty.
_PER_SECOND: Final = 8


class Buffers:
    """The receive buffers of a run. The fewer connections are open, the larger each buffer is.

    New memory costs a page fault for every 4 KiB, which takes as long as copying 4 KiB. A free buffer is
    therefore reused if it is at least half and at most twice the size that a new one would have.

    Args:
        limits: Settings; `memory` (bytes) determines the sizes.
        rate: The byte rate, which determines them, too, as it changes; None for that of `limits`.
        most: Bytes of the largest buffer.
    """

    def __init__(self, limits: Limits, rate: ByteRate | None = None, most: int = 2 << 20) -> None:
        self._memory = limits.buffer_memory // _SHARE
        self._rate, self._most = rate or ByteRate(limits.rate), most
        self._free: list[memoryview] = []

    def take(self, count: int, connections: int) -> memoryview:
        """Return a buffer for one of `connections` open connections.

        Args:
            count: Bytes that are still expected. The buffer is no larger than this if no pooled buffer fits.
            connections: Number of open connections.

        Returns:
            A writable view. Its contents are undefined.
        """
        size = self._size(connections)
        if count < size:
            return memoryview(bytearray(count))
        while self._free:
            buffer = self._free.pop()
            if size <= 2 * len(buffer) <= 4 * size:
                return buffer
        return memoryview(mmap(-1, size))  # an anonymous mapping is returned to the system when released

    def fitted(self, buffer: memoryview, connections: int) -> memoryview:
        """Return `buffer`, or a smaller buffer if many more connections are open than when it was taken.

        Args:
            buffer: A buffer from `take`.
            connections: Number of open connections now.
        """
        size = self._size(connections)
        return buffer if len(buffer) <= 2 * size else self.take(size, connections)

    def give(self, buffer: memoryview, connections: int) -> None:
        """Return `buffer` to the pool. The caller must not read or write it afterwards.

        Args:
            buffer: A buffer from `take` or `fitted`.
            connections: Number of open connections now.
        """
        size = self._size(connections)
        room = (len(self._free) + 1) * size <= self._memory
        if room and size <= 2 * len(buffer) <= 4 * size:
            self._free.append(buffer)

    def _size(self, connections: int) -> int:
        rate = self._rate.now
        most = min(self._most, max(_LEAST, rate // _PER_SECOND)) if rate else self._most
        return min(most, max(_LEAST, self._memory // max(1, connections)))
