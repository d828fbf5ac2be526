"""Meter: counts what a run brings, in windows, and decides when its rate is steady. No I/O."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Final

from ..connections.limit import REFUSED
from ..model import events
from ..model.errors import FetchError, Remedy
from ..model.report import Outcome, Status
from .levels import Look

# Windows of the steady state that a look needs. Bytes are counted when they are written, which a slow
# connection does once a second: four windows hold two such writes of each connection.
_STEADY: Final = 4
# Largest difference between the two halves of these windows, as a share of the larger one.
_DIFFERENCE: Final = 0.1
# Samples from which the slope of the line through them is better than the mean of windows.
_SAMPLES: Final = 8
# Errors by which a host refuses a connection that is one too many.
_REFUSALS: Final = frozenset({"status 429", "status 503", "status 403"})


class Windows:
    """The rates of consecutive windows of equal length.

    The first window is never used: connections are being opened, and a host may begin each reply with a
    burst. Later windows are used once they are steady, which is after such a burst has ended.

    Args:
        most: Windows after which a rate that never became steady is taken as it is.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._moves: list[int] = []
        self.rates: list[float] = []

    def add(self, rate: float, moves: int) -> None:
        """Add a window.

        Args:
            rate: Bytes per second.
            moves: How often the number of connections has been changed since the start of the run.
        """
        self.rates.append(rate)
        self._moves.append(moves)

    @property
    def steady(self) -> bool:
        """Whether the last windows have about the same rate, and the same number of connections."""
        last = self.rates[1:][-_STEADY:]
        if len(last) < _STEADY or self._moves[-_STEADY] != self._moves[-1]:
            return False
        early, late = statistics.fmean(last[: _STEADY // 2]), statistics.fmean(last[_STEADY // 2 :])
        return late > 0 and abs(early - late) <= _DIFFERENCE * max(early, late)

    @property
    def over(self) -> bool:
        """Whether no further window is needed."""
        return self.steady or len(self.rates) >= self._most

    @property
    def used(self) -> tuple[float, ...]:
        """The windows of the steady state; if there is none, the second half of all windows."""
        count = _STEADY if self.steady else max(1, len(self.rates) // 2)
        used = tuple(self.rates[-count:])
        return used if any(used) else tuple(self.rates)  # a slow connection writes once a second


class Meter:
    """An observer that counts bytes and refusals, and remembers the files that the host does not serve.

    Attributes:
        received: Bytes that were written since the start of the run.
        moves: Changes of the number of connections; none if the number is fixed.
        gone: Paths of files that will not be served.
        error: The last error of a file, None if there was none.
        trouble: Why the last request was repeated, or the host does not answer; empty if neither happened.
        lengths: Path → length of the file in bytes, as the server states it.
        hosts: `host:port` → connections that were opened to it.
    """

    passes_over: Final = frozenset({events.Closed, events.RowsRead, events.Progress})

    def __init__(self) -> None:
        self.received = self.moves = 0
        self._refused = self._refused_early = 0
        self._is_lowered = False
        self.trouble = ""
        self._samples: list[tuple[float, int]] = []
        self.gone: set[str] = set()
        self.error: FetchError | None = None
        self.lengths: dict[str, int] = {}
        self.hosts: Counter[str] = Counter()

    def __call__(self, event: events.Event) -> None:
        """Count one event."""
        match event:
            case events.Wrote(_, count, _):
                self.received += count
            case events.Opened(_, host):
                self.hosts[host] += 1
            case events.FileBegun(path, int(length)):
                self.lengths[path] = length
            case events.Retrying(_, cause, _, message):
                self._refused += cause in _REFUSALS
                self.trouble = message
            case events.HostDown(_, _, why):
                self.trouble = why
            case events.LimitChanged(_, _, why):
                self.moves += 1
                self._is_lowered = self._is_lowered or why == REFUSED
            case events.Finished(outcome):
                self._finished(outcome)

    def _finished(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.error = outcome.error
            # a file whose attempts are used up may be served when there are fewer connections
            if outcome.status is Status.PARKED or outcome.error.remedy is not Remedy.RETRY:
                self.gone.add(outcome.path)

    def sample(self, now: float) -> None:
        """Record the bytes received until `now`, in seconds on any clock."""
        self._samples.append((now, self.received))

    def slope(self, seconds: float) -> float | None:
        """Return the bytes per second over the last `seconds` seconds, None if there are too few samples.

        It is the slope of the line through the samples. A connection writes as rarely as once a second, so
        that the difference of the first and the last sample would depend on which writes lie beside them.

        Args:
            seconds: Length of the steady state.
        """
        first = self._samples[-1][0] - seconds if self._samples else 0.0
        used = [sample for sample in self._samples if sample[0] >= first]
        if len(used) < _SAMPLES:
            return None
        return max(0.0, statistics.linear_regression(*zip(*used, strict=True)).slope)

    def settle(self) -> None:
        """Record that the first window is over."""
        self._refused_early = self._refused

    @property
    def refused(self) -> int:
        """Requests that were refused, 0 if all of them were in the first window.

        Connections of the look before may still be closing then. If the run has lowered the number of
        connections for them, they count: no later request could be refused.
        """
        return self._refused if self._refused > self._refused_early or self._is_lowered else 0


def look_of(windows: Windows, meter: Meter, *, busy: float, seconds: float) -> Look:
    """Return the result of a look.

    Args:
        windows: All its windows.
        meter: What was counted.
        busy: Share of a core that the event loop used.
        seconds: Seconds from the start of the run to the end of the last window.
    """
    used = windows.used
    window = seconds / max(1, len(windows.rates))
    slope = meter.slope(len(used) * window)
    return Look(used, meter.refused, windows.steady, busy, max(0.0, seconds - len(used) * window), slope)
