"""Pace: the rate of a run over a long time, for estimates of hours and days."""

from __future__ import annotations

from collections import deque
from typing import Final

_SAMPLES: Final = 60  # samples that are kept of one window, which bounds the memory


class Pace:
    """The mean rate over a window of time.

    Args:
        window: seconds.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._samples: deque[tuple[float, int]] = deque()
        self._now: tuple[float, int] = (0.0, 0)

    def add(self, now: float, count: int) -> None:
        """Add a sample.

        Args:
            now: seconds on any clock; not earlier than the sample before.
            count: bytes so far.
        """
        self._now = now, count
        if not self._samples or now - self._samples[-1][0] >= self._window / _SAMPLES:
            self._samples.append(self._now)
        while len(self._samples) > 1 and now - self._samples[1][0] >= self._window:
            self._samples.popleft()

    def rate(self) -> float | None:
        """Return bytes per second over the window, None while it is not yet full."""
        if not self._samples:
            return None
        (then, before), (now, count) = self._samples[0], self._now
        if now - then < self._window or now == then:
            return None
        return (count - before) / (now - then)
