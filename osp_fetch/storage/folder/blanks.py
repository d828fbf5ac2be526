"""Find ranges of zeros, which may be bytes that were never written or did not survive a power loss.

A file system that loses unsynced writes shows zeros in their place. A file of a downloader that preallocates
also contains zeros where the download did not arrive.
"""

from __future__ import annotations

from typing import Final

from ...model.ranges import ByteRange, RangeSet

# Bytes of a page, the smallest unit that a file system loses.
GRAIN: Final = 4096
_ZEROS: Final = bytes(GRAIN)


class Blanks:
    """Collects the aligned 4096-byte blocks that consist of zeros, from a file that is read in order."""

    def __init__(self) -> None:
        self._ranges: list[ByteRange] = []

    def add(self, block: memoryview, at: int) -> None:
        """Examine the next bytes of the file.

        Args:
            block: the bytes.
            at: their offset in the file, in bytes.
        """
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
        """The ranges of zeros that were found so far."""
        return RangeSet(tuple(self._ranges))
