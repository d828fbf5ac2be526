"""Session: looks at levels until the time or the bytes allowed are used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Final

from ..concurrency import cores
from ..connections.totals import most_connections
from ..model.dataclasses import dataclass
from ..model.errors import FetchError
from ..model.settings import Limits
from .levels import AUTO, Level, Look, Point, best, points_of
from .pipeline import Budget, Pipeline
from .search import next_level

# Shortest and longest window in seconds, and its part of the time allowed. The longest is the usual one: two
# windows then last as long as the longest time between two writes of a connection.
_WINDOW: Final = (0.2, 0.5)
_WINDOWS: Final = 100
# Windows of the highest rate for which the bytes allowed should last. Otherwise windows become shorter.
_WINDOWS_OF_BYTES: Final = 200
# Windows after which a look ends although its rate is not steady. Nothing is fixed at the level AUTO, so that
# it needs time to find its number of connections: it may use 1/12 of the time allowed, within these bounds.
_LONGEST: Final = 10
_LONGEST_AUTO: Final = (10, 30)
_AUTO: Final = 12
# One look may use 1/24 of the bytes allowed.
_SHARE: Final = 24
# Share of the time and bytes allowed that the search may use. The rest is for the confirmation.
_SEARCH: Final = 0.5
# Fewest and most rounds of the confirmation, in each of which every finalist is measured once.
ROUNDS: Final = (3, 6)
# Rounds from which the confirmation counts.
CONFIRMED: Final = 2
# Half of the confidence interval, as a share of the mean, at which no further round is needed.
_CERTAIN: Final = 0.05

Tell = Callable[[Point], None]


@dataclass(slots=True)
class Session:
    """Looks at levels until the time or the bytes are used up.

    Attributes:
        pipeline: Makes the looks.
        size: Bytes that may be received.
        begun: Start of the measurement, in seconds on the monotonic clock.
        seconds: Seconds that it may take.
        tell: Called with each look, as a point, as soon as it was made.
        looks: All looks so far, with their levels.
        ended: Why nothing more can be measured, empty if more can be.
        cut: Why the search ended before the best level was found, empty if it was found.
    """

    pipeline: Pipeline
    size: int
    begun: float
    seconds: float
    tell: Tell
    looks: list[tuple[Level, Look]] = field(default_factory=list)
    ended: str = ""
    cut: str = ""

    @property
    def points(self) -> list[Point]:
        """The points of all fixed levels."""
        return points_of((level, look) for level, look in self.looks if level != AUTO)

    def spent(self, share: float = 1.0) -> str:
        """Return which budget is used up to `share`, empty if none is."""
        if self.pipeline.received >= self.size * share:
            return "the bytes allowed were used up"
        return "the time allowed was used up" if self._past >= self.seconds * share else ""

    @property
    def _past(self) -> float:
        return time.monotonic() - self.begun

    @property
    def affordable(self) -> int:
        """Number of levels that can be measured in as many rounds as a confirmation needs, beside auto."""
        used = max(self._past / self.seconds, self.pipeline.received / self.size)
        turns = int((1 - used) * len(self.looks) / used) // CONFIRMED
        return max(1, turns - 3)  # auto takes the time of up to three levels

    async def visit(self, level: Level) -> bool:
        """Look at a level once. Return whether that was possible.

        Raises:
            FetchError: The first look failed. Later failures end the measurement (see `ended`).
        """
        if self.looks and (self.ended or (spent := self.spent())):
            self.ended = self.ended or spent
            return False
        left = self.size - self.pipeline.received
        budget = Budget(left, self.begun + self.seconds, max(1, self.size // _SHARE))
        try:
            look = await self.pipeline.look(level, budget, self._longest_auto if level == AUTO else _LONGEST)
        except FetchError as error:
            if not self.looks:
                raise
            self.ended = f"the measurement with {level.flags or 'auto'} failed: {error}"
            return False
        self.looks.append((level, look))
        self.pipeline.window = min(self.pipeline.window, self._window(look.goodput))
        self.tell(Point(level, (look,)))
        return True

    @property
    def _longest_auto(self) -> int:
        windows = int(self.seconds / _AUTO / self.pipeline.window)
        return min(max(windows, _LONGEST_AUTO[0]), _LONGEST_AUTO[1])

    def _window(self, goodput: float) -> float:
        """Return the longest window with which the bytes allowed last for as many looks as the time does."""
        return max(self.size / (_WINDOWS_OF_BYTES * goodput), _WINDOW[0]) if goodput else _WINDOW[1]

    async def search(
        self, most: int, total: Callable[[], int | None], cores: int, part_size: int | None = None
    ) -> None:
        """Look at levels until the best one is found, or the search's share of the budget is used up.

        Args:
            most: Largest number of connections to try.
            total: Returns the bytes of all files, None if not known.
            cores: Processor cores that a run may use.
            part_size: Bytes of a part if no others are to be tried, else None.
        """
        while level := next_level(self.points, most, total=total(), cores=cores, part_size=part_size):
            if self.looks and (spent := self.spent(_SEARCH)):
                self.cut = spent
                return
            if not await self.visit(level):
                return

    async def rounds(self, levels: Sequence[Level], least: int = ROUNDS[0], most: int = ROUNDS[1]) -> int:
        """Look at each of `levels` once in each round, until the best is certain or the budget is used up.

        The order alternates, so that a host that becomes slower or faster favours none of them.

        Args:
            levels: The levels.
            least: Fewest rounds.
            most: Most rounds.

        Returns:
            The number of complete rounds.
        """
        before = len(self.looks)
        for number in range(most):
            if number >= least and _certain(points_of(self.looks[before:])):
                return number
            for level in levels if number % 2 == 0 else reversed(levels):
                if not await self.visit(level):
                    return number
        return most


def _certain(points: Sequence[Point]) -> bool:
    """Return whether the intervals of auto and of the best fixed level are narrow."""
    top = best([point for point in points if point.level != AUTO])
    auto = [point for point in points if point.level == AUTO]
    return all(p.interval[1] - p.interval[0] <= 2 * _CERTAIN * p.goodput for p in [top, *auto])


def window_of(seconds: float) -> float:
    """Return the seconds of one window of a measurement that may take `seconds` seconds."""
    return min(max(seconds / _WINDOWS, _WINDOW[0]), _WINDOW[1])


def most_of(limits: Limits) -> int:
    """Return the largest number of connections to one host."""
    most = most_connections(limits)
    return most if limits.per_host == "auto" else min(most, limits.per_host)


def cores_of(limits: Limits) -> int:
    """Return the number of cores that a run may use; 1 if the settings name its number of processes."""
    return cores() if limits.processes == 1 else 1
