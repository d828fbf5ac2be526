"""How a file is divided into the parts of a multipart upload. No I/O."""

from __future__ import annotations

from typing import Final

from ...model.dataclasses import dataclass

LEAST: Final = 8 << 20
"""Bytes of the smallest part. S3 demands 5 MiB for all but the last."""
MOST_PARTS: Final = 9_000
"""Parts of a file of known length. S3 allows 10,000 (Amazon S3 User Guide, "Multipart upload limits")."""
_MIB: Final = 1 << 20
_TIER: Final = 1_000  # parts of one size, before those of twice that size, of a file of unknown length


@dataclass(frozen=True, slots=True)
class Cell:
    """The place of a part: its number, counted from 1, and its bytes from `start` to `stop`."""

    number: int
    start: int
    stop: int


class Grid:
    """The division of one file. It never changes, so that a killed upload can be continued.

    Args:
        length: bytes of the file. If None, parts grow: 1,000 of the least size, then 1,000 of twice that, …
        least: bytes of the smallest part.
    """

    def __init__(self, length: int | None, least: int = LEAST) -> None:
        self._length, self._least = length, least
        self._size = least if length is None else part_size(length, least)

    def cell(self, offset: int) -> Cell:
        """Return the part that contains the byte at `offset`."""
        if self._length is not None:
            number = offset // self._size
            return Cell(number + 1, number * self._size, (number + 1) * self._size)
        tier, start, size = 0, 0, self._least
        while offset >= start + _TIER * size:
            tier, start, size = tier + 1, start + _TIER * size, 2 * size
        number = (offset - start) // size
        return Cell(tier * _TIER + number + 1, start + number * size, start + (number + 1) * size)


def part_size(length: int, least: int = LEAST) -> int:
    """Return the bytes of a part of a file of `length` bytes."""
    each = -(-length // MOST_PARTS)
    return max(least, -(-each // _MIB) * _MIB)
