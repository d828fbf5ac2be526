"""Processor load: decides whether the processor, and not a host, limits the rate. No I/O and no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

# Seconds over which the load is measured at least. The system counts in hundredths of a second.
_SPAN: Final = 0.1
# Share of one core that the thread of the event loop uses when it is the limit.
_LOOP: Final = 0.95
# Cores that this process uses at least, and the idle share of all cores at most, when it is limited by them.
_OWN, _IDLE = 0.6, 0.08


@dataclass(frozen=True, slots=True)
class Times:
    """Processor times in seconds since some time in the past.

    Attributes:
        now: Monotonic clock.
        loop: Of the thread of the event loop.
        own: Of this process, all threads.
        idle: Of all cores together, without work; None where the system does not tell.
        cores: Number of cores.
    """

    now: float
    loop: float
    own: float
    idle: float | None
    cores: int


class Processor:
    """The processor load over the last moment."""

    def __init__(self) -> None:
        self._samples: deque[Times] = deque()

    def is_limit(self, times: Times) -> bool:
        """Add a sample, and return whether the processor limits the rate.

        More connections then cost more time for each byte and bring none. Other processes may use the cores,
        too; if this one uses little, something else is its limit.

        Args:
            times: The times now.
        """
        self._samples.append(times)
        while len(self._samples) > 2 and times.now - self._samples[1].now >= _SPAN:
            self._samples.popleft()
        before = self._samples[0]
        past = times.now - before.now
        if past < _SPAN:
            return False
        if times.loop - before.loop >= _LOOP * past:
            return True
        if times.idle is None or before.idle is None:
            return False
        is_busy = times.idle - before.idle <= _IDLE * past * times.cores
        return is_busy and times.own - before.own >= _OWN * past
