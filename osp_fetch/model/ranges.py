"""Byte ranges as half-open intervals, and sets of them.

All code uses half-open ranges, `start <= byte < stop`, so that lengths and gaps need no correction by one.
The inclusive form of RFC 9110 section 14 exists only where requests and replies are written and read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from .dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """The bytes with offsets `start <= offset < stop`. A byte range is never empty.

    Raises:
        ValueError: `start` is negative, or `stop` is not greater than `start`.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"not a byte range: {self.start}-{self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}-{self.stop}"


@dataclass(frozen=True, slots=True)
class RangeSet:
    """An immutable set of byte offsets.

    `ranges` is sorted, its ranges are disjoint, and adjacent ranges are merged. Equal sets therefore compare
    equal. `|`, `-` and `&` are union, difference and intersection; `len()` is the number of bytes.
    """

    ranges: tuple[ByteRange, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[ByteRange]) -> RangeSet:
        """Return the union of `ranges`, which may overlap and may come in any order."""
        merged: list[ByteRange] = []
        for r in sorted(ranges):
            if merged and r.start <= merged[-1].stop:
                if r.stop > merged[-1].stop:
                    merged[-1] = ByteRange(merged[-1].start, r.stop)
            else:
                merged.append(r)
        return cls(tuple(merged))

    @classmethod
    def upto(cls, length: int) -> RangeSet:
        """Return the set of the first `length` bytes; it is empty if `length` is 0."""
        return cls((ByteRange(0, length),)) if length > 0 else cls()

    @classmethod
    def parse(cls, text: str) -> RangeSet:
        """Parse the form that `str()` writes, such as `0-100,200-300`.

        Raises:
            ValueError: `text` has another form.
        """
        pairs = (item.split("-") for item in text.split(",") if item)
        found = [ByteRange(int(start), int(stop)) for start, stop in pairs]
        return cls.of(found) if len(found) > 1 else cls(tuple(found))

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))

    def __iter__(self) -> Iterator[ByteRange]:
        return iter(self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __len__(self) -> int:
        return sum(r.stop - r.start for r in self.ranges)

    def __or__(self, other: RangeSet | ByteRange) -> RangeSet:
        added = (other,) if isinstance(other, ByteRange) else other.ranges
        if not self.ranges:
            return RangeSet(added)
        return RangeSet.of((*self.ranges, *added))

    def __sub__(self, other: RangeSet | ByteRange) -> RangeSet:
        removed = (other,) if isinstance(other, ByteRange) else other.ranges
        if not removed or not self.ranges:
            return self
        left: list[ByteRange] = []
        for r in self.ranges:
            at = r.start
            for hole in removed:
                if hole.stop <= at:
                    continue
                if hole.start >= r.stop:
                    break
                if hole.start > at:
                    left.append(ByteRange(at, hole.start))
                at = hole.stop
            if at < r.stop:
                left.append(ByteRange(at, r.stop))
        return RangeSet(tuple(left))

    def __and__(self, other: RangeSet | ByteRange) -> RangeSet:
        return self - (self - other)

    @property
    def frontier(self) -> int:
        """The number of contiguous bytes in the set, counted from offset 0."""
        return self.ranges[0].stop if self.ranges and self.ranges[0].start == 0 else 0

    def before(self, offset: int) -> int:
        """Return the number of contiguous bytes in the set that end directly before `offset`."""
        for r in self.ranges:
            if r.start < offset <= r.stop:
                return offset - r.start
        return 0

    def after(self, offset: int) -> int:
        """Return the number of contiguous bytes in the set that begin at `offset`."""
        for r in self.ranges:
            if r.start <= offset < r.stop:
                return r.stop - offset
        return 0


NOTHING: Final = RangeSet()
