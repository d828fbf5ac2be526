"""Levels and their measurements: the settings that `bench` compares, and what each of them brought."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.settings import Limits

# Factor by which goodput must grow for more connections, or for a fixed part size, to count as better.
PAYS: Final = 1.05
# The same factor among levels that took turns in the confirmation, which are compared more exactly.
CONFIRMED_PAYS: Final = 1.03
# Factor by which goodput must grow for more processes to count as better: each costs memory and a core.
_PROCESSES_PAY: Final = 1.1
# Refused requests in one measurement from which a host counts as refusing this number of connections.
_REFUSED: Final = 2
# Two-sided 95 % quantiles of Student's t distribution by degrees of freedom; 2.0 beyond them.
_T: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
# Looks of one level from which the interval is that of their means. Below, it is that of their windows, which
# follow each other and are therefore more alike.
_ENOUGH_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class Level:
    """Settings that are compared.

    Attributes:
        connections: Number of connections, None for auto.
        part_size: Bytes of a part, None for auto.
        processes: Number of processes, None for that of the settings.
    """

    connections: int | None = None
    part_size: int | None = None
    processes: int | None = None

    def limits(self, base: Limits) -> Limits:
        """Return the limits of a run at this level.

        Args:
            base: The limits that the level does not name.
        """
        return replace(
            base,
            connections=self.connections or "auto",
            part_size=self.part_size or "auto",
            processes=self.processes or base.processes,
        )

    @property
    def flags(self) -> str:
        """The flags of `get` for this level, empty for auto."""
        connections = f"-j {self.connections} " if self.connections else ""
        part = f"-k {part_text(self.part_size)} " if self.part_size else ""
        processes = f"--processes {self.processes}" if self.processes else ""
        return f"{connections}{part}{processes}".strip()


AUTO: Final = Level()
"""Nothing is fixed: the run finds its own settings."""


def part_text(size: int | None) -> str:
    """Return a part size as `-k` takes it, such as `8MiB`, or `auto`."""
    if size is None:
        return "auto"
    return f"{size >> 20}MiB" if size % (1 << 20) == 0 else str(size)


@dataclass(frozen=True, slots=True)
class Look:
    """One measurement of a level.

    Attributes:
        rates: Bytes per second of each window in the steady state, at least one.
        refused: Requests that the host refused; 0 if it did so only in the first window.
        steady: Whether the rate had become steady before the time of the look was over.
        busy: Share of one core that the event loop used, from 0 to 1.
        after: Seconds from the start of the run to the steady state.
        slope: Bytes per second over all these windows, as the slope of the received bytes over time; None for
            the mean of `rates`.
    """

    rates: tuple[float, ...]
    refused: int = 0
    steady: bool = True
    busy: float = 0.0
    after: float = 0.0
    slope: float | None = None

    @property
    def goodput(self) -> float:
        """Bytes per second in the steady state."""
        return statistics.fmean(self.rates) if self.slope is None else self.slope


@dataclass(frozen=True, slots=True)
class Point:
    """What all looks at one level brought.

    Attributes:
        level: The level.
        looks: Its measurements, at least one, in the order in which they were made.
    """

    level: Level
    looks: tuple[Look, ...]

    @property
    def goodput(self) -> float:
        """Bytes per second that were written and, when a file was complete, published."""
        return statistics.fmean(look.goodput for look in self.looks)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `goodput`, in bytes per second."""
        values = [look.goodput for look in self.looks]
        if len(values) < _ENOUGH_LOOKS:
            values = [rate for look in self.looks for rate in look.rates]
        if len(values) < 2:
            return 0.0, math.inf
        quantile = _T[len(values) - 2] if len(values) <= len(_T) + 1 else 2.0
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
        return max(0.0, self.goodput - half), self.goodput + half

    @property
    def refused(self) -> int:
        """Requests that the host refused."""
        return sum(look.refused for look in self.looks)

    @property
    def is_refused(self) -> bool:
        """Whether the host refuses this number of connections."""
        return self.refused >= _REFUSED * len(self.looks)

    @property
    def steady(self) -> bool:
        """Whether the rate was steady in every look."""
        return all(look.steady for look in self.looks)

    @property
    def busy(self) -> float:
        """Share of one core that the event loop used, from 0 to 1."""
        return statistics.fmean(look.busy for look in self.looks)

    def row(self) -> dict[str, Any]:
        """Return the point as a JSON-serializable dict, for `--json`."""
        low, high = self.interval
        return {
            "connections": self.level.connections,
            "part_size": self.level.part_size,
            "processes": self.level.processes,
            "bytes_per_second": round(self.goodput),
            "low": round(low),
            "high": round(high) if math.isfinite(high) else None,
            "refused": self.refused,
            "steady": self.steady,
            "looks": len(self.looks),
        }


def points_of(looks: Iterable[tuple[Level, Look]]) -> list[Point]:
    """Return a point for each level, in the order in which the levels were first measured.

    Args:
        looks: Measurements with their levels.
    """
    by_level: dict[Level, list[Look]] = {}
    for level, look in looks:
        by_level.setdefault(level, []).append(look)
    return [Point(level, tuple(found)) for level, found in by_level.items()]


def best(points: Sequence[Point], pays: float = PAYS) -> Point:
    """Return the point with the fewest connections whose goodput is nearly the highest.

    Of points with as many connections, automatic parts come first, then the smaller ones: with them, the last
    parts of a run end sooner. Points whose requests are refused count only if there are no others. More
    processes count only if they bring a tenth more.

    Args:
        points: Measurements of fixed numbers of connections; at least one.
        pays: Factor by which goodput must grow for more connections to count as better.
    """
    served = [point for point in points if not point.is_refused] or list(points)
    alone = [point for point in served if point.level.processes is None] or served
    top = max(point.goodput for point in alone)
    several = [point for point in served if point.level.processes is not None]
    if several and max(point.goodput for point in several) > top * _PROCESSES_PAY:
        alone, top = several, max(point.goodput for point in several)
    return min((point for point in alone if point.goodput * pays >= top), key=_modesty)


def _modesty(point: Point) -> tuple[int, int]:
    return point.level.connections or 0, point.level.part_size or 0
