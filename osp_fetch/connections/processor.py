"""Processor load: decides whether the processor, and not a host, limits the rate. No I/O and no clock."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

from ..model.dataclasses import dataclass

# Seconds over which the load is measured at least. The system counts in hundredths of a second.
_SPAN: Final = 0.1
# Share of one core that the thread of the event loop uses when it is the limit.
LOOP: Final = 0.95
# Cores that this process uses at least, and the idle share of all cores at most, when it is limited by them.
_OWN, _IDLE = 0.6, 0.08
# Idle share of all cores below which more connections cost processor time and may bring little. On two cores
# that also ran the server, 4 × 512 MiB left 10 to 20 % idle with any number of connections from 4 to 24.
_SPARE: Final = 0.25


class Load(Enum):
    """The processor load of this process over the last moment."""

    LOW = "low"  # the processor does not limit the rate
    HIGH = "high"  # little processor time is left: further connections have to bring much
    FULL = "full"  # the processor limits the rate


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

    def load(self, times: Times) -> Load:
        """Add a sample, and return the load.

        If the load is full, more connections cost more time for each byte and bring none. Other processes may
        use the cores, too; if this one uses little, something else is its limit.

        Args:
            times: The times now.
        """
        self._samples.append(times)
        while len(self._samples) > 2 and times.now - self._samples[1].now >= _SPAN:
            self._samples.popleft()
        before = self._samples[0]
        past = times.now - before.now
        if past < _SPAN:
            return Load.LOW
        if times.loop - before.loop >= LOOP * past:
            return Load.FULL
        if times.idle is None or before.idle is None or times.own - before.own < _OWN * past:
            return Load.LOW
        idle = (times.idle - before.idle) / (past * times.cores)
        return Load.FULL if idle <= _IDLE else Load.HIGH if idle <= _SPARE else Load.LOW
