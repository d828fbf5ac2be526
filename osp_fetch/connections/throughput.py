"""Throughput of one connection to a host, the part size that follows from it, and detection of slow ones."""

from __future__ import annotations

from collections import deque
from typing import Final

_MIB: Final = 1 << 20
# Bytes of a part before any connection to the host has been measured.
FIRST_PART: Final = 8 * _MIB
# Seconds that a part should take.
_PART_SECONDS: Final = 4.0
# Seconds that a part at the end of a file should take at least.
_LEAST_SECONDS: Final = 2.0
# Recent measurements that a connection is compared with.
_SIBLINGS: Final = 16
# Weight of the newest measurement in the moving average: about the last three parts count.
_MEMORY: Final = 0.3


class Throughput:
    """The throughput of single connections to one host.

    Attributes:
        value: Moving average in bytes per second, None before the first measurement.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._last: deque[float] = deque(maxlen=_SIBLINGS)

    def measured(self, count: int, seconds: float) -> None:
        """Record one transfer. Transfers of less than 256 KiB are ignored.

        Args:
            count: Bytes received.
            seconds: Duration in seconds.
        """
        if count < _MIB // 4 or seconds <= 0:
            return
        pace = count / seconds
        self._last.append(pace)
        self.value = pace if self.value is None else self.value + _MEMORY * (pace - self.value)

    def lagging(self, pace: float) -> bool:
        """Return whether `pace` (bytes per second) is less than a tenth of the median of recent transfers."""
        import statistics  # imported here: it takes 1 % of the start-up time, and few runs need it

        return len(self._last) >= _SIBLINGS // 4 and pace < statistics.median(self._last) / 10

    def part_size(self, free: int | None, connections: int, least: float | None) -> int:
        """Return the size of the next part in bytes, a multiple of 1 MiB.

        Args:
            free: Bytes of the file that no request has taken yet, None if not known.
            connections: Connections that the host may have.
            least: Seconds that a part at the end of a run should take, None while other files wait for a
                slot.
        """
        pace = self.value or FIRST_PART / _PART_SECONDS
        size = int(min(max(pace * _PART_SECONDS, 4 * _MIB), 64 * _MIB))
        fair = size if free is None else free // (2 * max(1, connections))
        if fair < size:
            # Near the end of a file, all connections share the rest, so that they end at about the same
            # time. If another file waits for the slots, saving round trips matters more.
            size = max(fair, int(pace * (_LEAST_SECONDS if least is None else least)), _MIB)
        return min(size, 64 * _MIB) // _MIB * _MIB
