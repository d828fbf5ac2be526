"""Stretches of zeros: where bytes were never written, or did not survive a power loss.

A file system that loses unsynced writes shows zeros in their place, and so does a file of a downloader
that makes room beforehand, wherever it did not get to.
"""

from __future__ import annotations

from typing import Final

from ...model.ranges import ByteRange, RangeSet

GRAIN: Final = 4096  # a page, the least that a file system loses
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
