"""Bins: an amount over time in bounded memory, whatever the span."""

from __future__ import annotations

from typing import Final

_MOST: Final = 480  # bins; a drawing has fewer columns than that


class Bins:
    """Adds up amounts in bins of equal width. The width doubles whenever there are too many bins.

    Args:
        most: largest number of bins between the first and the last one.

    Attributes:
        width: seconds of a bin.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self.width = 1.0
        self._bins: dict[int, float] = {}
        self._first, self._last = 0, -1  # the bins that are in use

    def add(self, begin: float, end: float, amount: float) -> None:
        """Spread `amount` evenly over the time from `begin` to `end` (seconds)."""
        end = max(end, begin)
        self._include(begin)
        self._include(end)
        first, last = int(begin // self.width), int(end // self.width)
        if first == last:
            self._bins[first] = self._bins.get(first, 0.0) + amount
            return
        for number in range(first, last + 1):
            share = min(end, (number + 1) * self.width) - max(begin, number * self.width)
            self._bins[number] = self._bins.get(number, 0.0) + amount * share / (end - begin)

    def _include(self, when: float) -> None:
        number = int(when // self.width)
        if self._last < self._first:
            self._first = self._last = number
        self._first, self._last = min(self._first, number), max(self._last, number)
        while self._last - self._first >= self._most:
            self.widen()

    def widen(self) -> None:
        """Double the width of the bins."""
        self.width *= 2
        halved: dict[int, float] = {}
        for number, amount in self._bins.items():
            halved[number // 2] = halved.get(number // 2, 0.0) + amount
        self._bins = halved
        self._first, self._last = self._first // 2, self._last // 2

    def rates(self, width: float, first: int, count: int) -> list[float]:
        """Return the amount per second in each of `count` bins.

        Args:
            width: seconds of a bin, at least `self.width`; the bins are widened to it.
            first: number of the first bin: its time divided by `width`.
            count: number of bins.
        """
        while self.width < width:
            self.widen()
        return [self._bins.get(number, 0.0) / width for number in range(first, first + count)]

    @property
    def span(self) -> tuple[int, int] | None:
        """The numbers of the first and last bin, None if nothing was added."""
        return (self._first, self._last) if self._last >= self._first else None
