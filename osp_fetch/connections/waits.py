"""What connections and complete files wait for, as means over time: the measured facts about a slow run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import field

from ..model.dataclasses import dataclass


class Gauge:
    """A number that rises and falls, and its mean. As a context manager, it counts what is inside.

    A sum over time is exact where samples are not: a connection may wait for seconds, or for microseconds.

    Args:
        clock: Clock in seconds.
    """

    __slots__ = ("_clock", "_count", "_since", "_sum")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._count, self._sum, self._since = clock, 0, 0.0, clock()

    def add(self, count: int) -> None:
        """Change the number by `count`."""
        now = self._clock()
        self._sum += self._count * (now - self._since)
        self._since = now
        self._count += count

    def credit(self, seconds: float) -> None:
        """Add `seconds` seconds of one wait that was measured elsewhere."""
        self._sum += seconds

    def take(self) -> float:
        """Return the sum of number × seconds since the last call."""
        self.add(0)
        taken, self._sum = self._sum, 0.0
        return taken

    def __enter__(self) -> None:
        self.add(1)

    def __exit__(self, *_: object) -> None:
        self.add(-1)


@dataclass(frozen=True, slots=True)
class Waits:
    """Gauges of one process.

    Attributes:
        open: Open connections.
        delayed: Those of them that the byte rate delays.
        writing: Those whose bytes are being written, or wait for that.
        hashing: Complete files whose digests are being computed.
        publishing: Complete files that are being synced, renamed and recorded. Small files are hashed then.
    """

    open: Gauge = field(default_factory=Gauge)
    delayed: Gauge = field(default_factory=Gauge)
    writing: Gauge = field(default_factory=Gauge)
    hashing: Gauge = field(default_factory=Gauge)
    publishing: Gauge = field(default_factory=Gauge)
