"""How fast one connection to a host is, and what follows from it: the size of parts, and who lags."""

from __future__ import annotations

from collections import deque
from typing import Final

_MIB: Final = 1 << 20
FIRST_PART: Final = 8 * _MIB  # while no connection of the host has been measured
_PART_SECONDS: Final = 4.0
_LEAST_SECONDS: Final = 2.0  # of a part at the end of a file
_SIBLINGS: Final = 16  # connections that one is held against
_MEMORY: Final = 0.3  # how fast it forgets: about the last three parts count


class Throughput:
    """Bytes per second of one connection: the mean of late in `value`, None while none was measured."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._last: deque[float] = deque(maxlen=_SIBLINGS)

    def measured(self, count: int, seconds: float) -> None:
        """One connection brought `count` bytes in so many seconds."""
        if count < _MIB // 4 or seconds <= 0:
            return
        pace = count / seconds
        self._last.append(pace)
        self.value = pace if self.value is None else self.value + _MEMORY * (pace - self.value)

    def lagging(self, pace: float) -> bool:
        """Whether `pace` is a tenth of what is usual, or less."""
        import statistics  # a hundredth of a start, for what few runs need

        return len(self._last) >= _SIBLINGS // 4 and pace < statistics.median(self._last) / 10

    def part_size(self, free: int | None, connections: int, least: float | None) -> int:
        """Bytes of the next part, of a file of which `free` are fetched by nobody, None for not known.
        `least`: seconds that a part should take at the end of a run, None while other files wait for one
        of the `connections`."""
        pace = self.value or FIRST_PART / _PART_SECONDS
        size = int(min(max(pace * _PART_SECONDS, 4 * _MIB), 64 * _MIB))
        fair = size if free is None else free // (2 * max(1, connections))
        if fair < size:
            # towards its end all connections share what is left of a file, so that all end at about the
            # same time; where another file waits for them, that matters less than round trips do
            size = max(fair, int(pace * (_LEAST_SECONDS if least is None else least)), _MIB)
        return min(size, 64 * _MIB) // _MIB * _MIB
