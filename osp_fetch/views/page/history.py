"""History: how a run went over time, in bounded memory, from seconds to months."""

from __future__ import annotations

from collections import deque
from typing import Final

from ...model.dataclasses import dataclass

# Samples of the last minutes, one a second.
_RECENT: Final = 900
# Samples of the whole run. When there are as many, pairs of them are merged.
_WHOLE: Final = 1200


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened until a time.

    Attributes:
        time: Its end in Unix seconds.
        rate: Mean bytes per second that were received.
        connections: Mean number of open connections.
        files: Files per second that ended.
    """

    time: float
    rate: float
    connections: float
    files: float

    def row(self) -> list[float]:
        """Return the sample as a list of numbers, for the page."""
        return [round(self.time, 1), round(self.rate), round(self.connections, 1), round(self.files, 2)]


class History:
    """Samples of a run: the last 15 minutes by second, and the whole run in at most 1,200 samples.

    Attributes:
        number: Number of samples so far.
    """

    def __init__(self) -> None:
        self.number = 0
        self._recent: deque[Sample] = deque(maxlen=_RECENT)
        self._whole: list[Sample] = []
        self._step = 1  # samples of a second that one of the whole run stands for
        self._pending: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Add the sample of another second."""
        self.number += 1
        self._recent.append(sample)
        self._pending.append(sample)
        if len(self._pending) < self._step:
            return
        self._whole.append(_merged(self._pending))
        self._pending.clear()
        if len(self._whole) >= _WHOLE:
            self._whole = [_merged(self._whole[n : n + 2]) for n in range(0, len(self._whole), 2)]
            self._step *= 2

    def recent(self, most: int = _RECENT) -> list[list[float]]:
        """Return the last samples of a second, oldest first."""
        return [sample.row() for sample in list(self._recent)[-most:]] if most > 0 else []

    def whole(self) -> list[list[float]]:
        """Return samples of the whole run, oldest first."""
        pending = [_merged(self._pending)] if self._pending else []
        return [sample.row() for sample in [*self._whole, *pending]]


def _merged(samples: list[Sample]) -> Sample:
    """Return one sample for several of the same length."""
    count = len(samples)
    return Sample(
        samples[-1].time,
        sum(sample.rate for sample in samples) / count,
        sum(sample.connections for sample in samples) / count,
        sum(sample.files for sample in samples) / count,
    )
