"""Throughput of one connection to a host, the part size that follows from it, and detection of slow ones."""

from __future__ import annotations

from typing import Final

_MIB: Final = 1 << 20
# Bytes of a part before any connection to the host has been measured.
FIRST_PART: Final = 8 * _MIB
# Seconds that a part should take.
_PART_SECONDS: Final = 4.0
# Seconds that a part at the end of a file should take at least.
_LEAST_SECONDS: Final = 2.0
# Weight of the newest measurement in the moving average: about the last three parts count.
_MEMORY: Final = 0.3
# Recent measurements that a connection is compared with, and the least number of them.
_SIBLINGS, _LEAST_SIBLINGS = 16, 4
# A connection lags if it is slower than this fraction of the better ones.
_LAGS: Final = 4
# Seconds in which one slot gets at most one fresh connection in place of one that lags.
_BUDGET_SECONDS: Final = 30.0
# Fresh connections without a better one among them after which no more are made, and for how many seconds.
_USELESS, _USELESS_SECONDS = 8, 300.0


class Throughput:
    """The throughput of single connections to one host.

    A load balancer may send most connections to slow servers, and some to fast ones. A connection is
    therefore compared with the better ones, not with the usual one: a fresh connection may be one of these.
    The number of fresh connections is bounded, and none is made any more where they are no better.

    Attributes:
        value: Moving average in bytes per second, None before the first measurement.
    """

    __slots__ = ("_fresh", "_last", "_off_until", "_useless", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self._last: list[tuple[float, int]] = []  # pace, and the connections that shared the link
        self._fresh: list[float] = []  # times of recent fresh connections in place of lagging ones
        self._useless = 0  # fresh connections since the last one that was a better one
        self._off_until = 0.0  # until when no fresh ones are made

    def measured(self, count: int, seconds: float, connections: int = 1) -> None:
        """Record one transfer. Transfers of less than 256 KiB are ignored.

        Args:
            count: Bytes received.
            seconds: Duration in seconds.
            connections: Connections that transferred at the same time, this one included.
        """
        if count < _MIB // 4 or seconds <= 0:
            return
        pace = count / seconds
        if self._useless and pace * 2 > (self._better(connections) or 0):
            self._useless = 0
        self._last = [*self._last[1 - _SIBLINGS :], (pace, connections)]
        self.value = pace if self.value is None else self.value + _MEMORY * (pace - self.value)

    def lagging(self, pace: float, connections: int, now: float) -> bool:
        """Return whether a connection should be replaced, because a fresh one may be much faster.

        Args:
            pace: Its bytes per second.
            connections: Connections that transfer at the same time, this one included.
            now: Current time in seconds.
        """
        better = self._better(connections)
        if better is None or pace * _LAGS >= better or now < self._off_until:
            return False
        self._fresh = [at for at in self._fresh if now - at < _BUDGET_SECONDS]
        return len(self._fresh) < connections

    def replaced(self, now: float) -> None:
        """Record that a lagging connection is closed, and a fresh one is made in its place.

        Args:
            now: Current time in seconds.
        """
        self._fresh.append(now)
        self._useless += 1
        if self._useless > _USELESS:
            self._useless, self._off_until = 0, now + _USELESS_SECONDS

    def _better(self, connections: int) -> float | None:
        """Return the pace of the better connections, None if too few were measured.

        It is their 90th percentile. While more connections share the link than at the time of a measurement,
        each of them may get less.
        """
        if len(self._last) < _LEAST_SIBLINGS:
            return None
        paces = sorted(pace * min(1.0, then / max(1, connections)) for pace, then in self._last)
        return paces[len(paces) * 9 // 10]

    def part_size(
        self, free: int | None, connections: int, least: float | None, first: int = FIRST_PART
    ) -> int:
        """Return the size of the next part in bytes, a multiple of 1 MiB.

        Args:
            free: Bytes of the file that no request has taken yet, None if not known.
            connections: Connections that the host may have.
            least: Seconds that a part at the end of a run should take, None while other files wait for a
                slot.
            first: Bytes of a part before the first measurement.
        """
        pace = self.value or first / _PART_SECONDS
        size = int(min(max(pace * _PART_SECONDS, 4 * _MIB), 64 * _MIB))
        fair = size if free is None else free // (2 * max(1, connections))
        if fair < size:
            # Near the end of a file, all connections share the rest, so that they end at about the same
            # time. If another file waits for the slots, saving round trips matters more.
            size = max(fair, int(pace * (_LEAST_SECONDS if least is None else least)), _MIB)
        return min(size, 64 * _MIB) // _MIB * _MIB
