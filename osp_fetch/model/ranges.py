"""Byte ranges as half-open intervals, and sets of them.

Inside the house ranges are half-open, `start <= byte < stop`, so that lengths and gaps need no
plus-ones. The inclusive form of RFC 9110 section 14 exists only in `network.transport`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """The bytes from `start` up to and without `stop`; never empty."""

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
    """A set of bytes: disjoint ranges in order, touching ones merged. Equal sets compare equal."""

    ranges: tuple[ByteRange, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[ByteRange]) -> RangeSet:
        """The union of `ranges`, in whatever order and however they overlap."""
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
        """The first `length` bytes; empty for 0."""
        return cls((ByteRange(0, length),)) if length > 0 else cls()

    @classmethod
    def parse(cls, text: str) -> RangeSet:
        """Read what `str` wrote: `0-100,200-300`. Raises ValueError for anything else."""
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
        """How many bytes are in the set without a gap, counted from byte 0."""
        return self.ranges[0].stop if self.ranges and self.ranges[0].start == 0 else 0

    def before(self, offset: int) -> int:
        """How many bytes just before `offset` are in the set without a gap."""
        for r in self.ranges:
            if r.start < offset <= r.stop:
                return offset - r.start
        return 0


NOTHING: Final = RangeSet()
