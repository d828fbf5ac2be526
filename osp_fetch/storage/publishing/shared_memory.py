"""SharedBuffer that small files are received into, which another process may see, too."""

from __future__ import annotations

import mmap
import os
from typing import Final

_STEP: Final = 64 << 10  # bytes: pieces are multiples of it


class SharedBuffer:
    """See `model.protocols.SharedBuffer`. `offset`: where it lies in a SharedPool, None where it lies in
    none."""

    __slots__ = ("_piece", "_pool", "offset", "view")

    def __init__(self, view: memoryview, pool: SharedPool | None = None, offset: int | None = None) -> None:
        self.view, self.offset = view, offset
        self._pool, self._piece = pool, (offset, len(view))

    def cut(self, start: int, stop: int) -> None:
        self.view = self.view[start:stop]
        if self.offset is not None:
            self.offset += start

    def free(self) -> None:
        pool, self._pool = self._pool, None
        offset, count = self._piece
        if pool is not None and offset is not None:
            pool.give(offset, count)
        self.view = memoryview(b"")

    def keep(self) -> None:
        """Free it, but for a copy of its bytes."""
        kept = memoryview(bytes(self.view))
        self.free()
        self.view = kept


class SharedPool:
    """`size` bytes that whoever has its `descriptor` shares, handed out in pieces. Raises OSError where the
    system has no such memory."""

    def __init__(self, size: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("no memory can be shared by a descriptor here")
        self.descriptor = os.memfd_create("osp-fetch")
        os.ftruncate(self.descriptor, size)
        self._view = memoryview(mmap.mmap(self.descriptor, size))
        self._free: dict[int, list[int]] = {}  # size of a piece → where there are some
        self._end = 0

    def take(self, count: int) -> SharedBuffer | None:
        """A piece of `count` bytes, with anything in it; None where there is none."""
        size = _rounded(count)
        free = self._free.get(size)
        if free:
            offset = free.pop()
        elif self._end + size <= len(self._view):
            offset, self._end = self._end, self._end + size
        else:
            return None
        return SharedBuffer(self._view[offset : offset + count], self, offset)

    def give(self, offset: int, count: int) -> None:
        """Take a piece back: nobody reads or writes it any more."""
        self._free.setdefault(_rounded(count), []).append(offset)

    def close(self) -> None:
        """Share it with nobody else from now on."""
        os.close(self.descriptor)


def _rounded(count: int) -> int:
    return -(-count // _STEP) * _STEP
