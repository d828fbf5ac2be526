"""Memory that small files are received into, and that the helper process may share."""

from __future__ import annotations

import mmap
import os
from typing import Final

# Bytes. Sizes of buffers in the pool are multiples of this, so that freed ones can be reused for files of
# similar size.
_STEP: Final = 64 << 10


class SharedBuffer:
    """Memory for one small file; implements `model.protocols.Memory`.

    Attributes:
        view: the bytes.
        offset: offset of `view` in its SharedPool, in bytes; None if it is private memory.
    """

    __slots__ = ("_piece", "_pool", "offset", "view")

    def __init__(self, view: memoryview, pool: SharedPool | None = None, offset: int | None = None) -> None:
        self.view, self.offset = view, offset
        self._pool, self._piece = pool, (offset, len(view))

    def cut(self, start: int, stop: int) -> None:
        """Restrict `view` to the bytes from `start` up to but not including `stop`."""
        self.view = self.view[start:stop]
        if self.offset is not None:
            self.offset += start

    def free(self) -> None:
        """Return the memory to its pool; `view` becomes empty."""
        pool, self._pool = self._pool, None
        offset, count = self._piece
        if pool is not None and offset is not None:
            pool.give(offset, count)
        self.view = memoryview(b"")

    def keep(self) -> None:
        """Return the memory to its pool; `view` becomes a private copy of the bytes."""
        kept = memoryview(bytes(self.view))
        self.free()
        self.view = kept


class SharedPool:
    """Shared memory that is handed out as buffers.

    Args:
        size: bytes of memory.

    Attributes:
        descriptor: file descriptor of the memory; a process that inherits it can map the memory.

    Raises:
        OSError: the operating system has no `memfd_create`, or refuses it.
    """

    def __init__(self, size: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("this operating system cannot share memory through a descriptor")
        self.descriptor = os.memfd_create("osp-fetch")
        os.ftruncate(self.descriptor, size)
        self._view = memoryview(mmap.mmap(self.descriptor, size))
        self._free: dict[int, list[int]] = {}  # size in bytes → offsets of free buffers of that size
        self._end = 0

    def take(self, count: int) -> SharedBuffer | None:
        """Return a buffer of `count` bytes with undefined content; None if the pool is used up."""
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
        """Take back the buffer of `count` bytes at `offset`, which must no longer be in use."""
        self._free.setdefault(_rounded(count), []).append(offset)

    def close(self) -> None:
        """Close the descriptor, so that no further process can inherit it. The memory stays mapped."""
        os.close(self.descriptor)


def _rounded(count: int) -> int:
    return -(-count // _STEP) * _STEP
