"""Stretches of zeros: where bytes were never written, or did not survive a power loss.

A file system that loses unsynced writes shows holes or zeros in their place, and a downloader that
makes room beforehand leaves zeros where it did not get to.
"""

from __future__ import annotations

from typing import Final

from ..model.ranges import ByteRange, RangeSet
from .files import Disk

GRAIN: Final = 4096  # a page, the least that a file system loses
_SHORTEST: Final = 256 << 10  # a shorter run of bytes is not worth the gap beside it
_BLOCK: Final = 1 << 20
_ZEROS: Final = bytes(GRAIN)


class Blanks:
    """Collects the grains that hold nothing but zeros, of a file that is read in order."""

    def __init__(self) -> None:
        self._ranges: list[ByteRange] = []

    def add(self, block: memoryview, at: int) -> None:
        """`block` begins at byte `at` of the file."""
        first = -at % GRAIN
        for start in range(first, len(block) - GRAIN + 1, GRAIN):
            if not block[start] and bytes(block[start : start + GRAIN]) == _ZEROS:
                self._extend(at + start)

    def _extend(self, at: int) -> None:
        if self._ranges and self._ranges[-1].stop == at:
            self._ranges[-1] = ByteRange(self._ranges[-1].start, at + GRAIN)
        else:
            self._ranges.append(ByteRange(at, at + GRAIN))

    @property
    def found(self) -> RangeSet:
        """What of the file was blank."""
        return RangeSet(tuple(self._ranges))


def likely_held(disk: Disk, fd: int, size: int) -> RangeSet:
    """The bytes of a partial that were written, as far as the file itself can tell. Raises OSError.

    Holes and zeros count as not written, and the grain beside them as half written.
    """
    blanks = Blanks()
    block = memoryview(bytearray(_BLOCK))
    data = disk.extents(fd, size)
    for extent in data:
        at = extent.start
        while at < extent.stop and (count := disk.read(fd, block[: min(_BLOCK, extent.stop - at)], at)):
            blanks.add(block[:count], at)
            at += count
    runs = (data - blanks.found).ranges
    inner = [(r.start + GRAIN if r.start else 0, r.stop - GRAIN) for r in runs]
    return RangeSet(tuple(ByteRange(a, b) for a, b in inner if b - a >= _SHORTEST))
