"""Measure a host: find the settings that suit it best, confirm them, and say what is the limit."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.profile import Profile
from ..model.report import JSON_VERSION
from ..model.settings import Settings
from ..model.timetable import Timetable
from ..options import PlainOptions
from .disk import DiskRates
from .host_files import HostFiles
from .levels import AUTO, CONFIRMED_PAYS, PAYS, Level, Point, best, points_of
from .pipeline import Pipeline, scratch_folder
from .search import finalists, next_number
from .session import CONFIRMED, ROUNDS, Session, Tell, cores_of, most_of, window_of

# Difference of the rates of one level, early and late, from which the host counts as changed.
_DRIFT: Final = 0.25
# Smallest and largest size in bytes of the first parts of a run whose profile fixes no part size, and the
# seconds that such a part should take.
_PART: Final = (4 << 20, 64 << 20)
_PART_SECONDS: Final = 4.0
# Share of the rate that the user allows, from which it counts as the limit.
_ALLOWED: Final = 0.85


@dataclass(frozen=True, slots=True)
class Bench:
    """The result of a measurement.

    Attributes:
        host: `host:port`.
        points: The measurements of fixed levels, sorted by part size and connections.
        best: The recommended one.
        auto: The measurement with nothing fixed, None if it was not made.
        confirmed: Whether `best` was measured again, in turns with `auto` and its neighbours.
        drift: Rate of the best level in the confirmation divided by its rate in the search; 1 without both.
        received: Bytes that were fetched for the measurement.
        ended: Why it ended before the best level was found or confirmed, empty if it did not.
        writes: Whether the bytes were written to the destination's disk.
        network: Measurements with discarded bytes, sorted by connections; only with `disk`.
        disk: What the destination's disk and this processor can do, None if that was not measured.
        neighbours: Whether the time sufficed to compare the neighbours of `best`, too.
        allowed: Bytes per second that `limits.rate` allowed when the measurement began, None for any.
    """

    host: str
    points: tuple[Point, ...]
    best: Point
    auto: Point | None
    confirmed: bool
    drift: float
    received: int
    ended: str
    writes: bool
    network: tuple[Point, ...] = ()
    disk: DiskRates | None = None
    neighbours: bool = True
    allowed: int | None = None

    @property
    def is_held_back(self) -> bool:
        """Whether `limits.rate` may have been the limit, and not the host."""
        return self.allowed is not None and self.best.goodput >= _ALLOWED * self.allowed

    @property
    def gain(self) -> float | None:
        """Goodput of the best level divided by that of auto, None if auto was not measured."""
        return self.best.goodput / self.auto.goodput if self.auto and self.auto.goodput else None

    @property
    def helps(self) -> bool:
        """Whether the best level is better than auto in the mean and in every round."""
        if self.auto is None or self.gain is None:
            return True
        turns = zip(self.best.looks, self.auto.looks, strict=False)
        return self.gain >= PAYS and all(mine.goodput > other.goodput for mine, other in turns)

    @property
    def drifted(self) -> bool:
        """Whether the host has changed during the measurement."""
        return abs(self.drift - 1) > _DRIFT

    @property
    def profile(self) -> Profile:
        """The profile to save for later runs."""
        level = self.best.level
        pace = int(self.best.goodput / (level.connections or 1) * _PART_SECONDS)
        size = level.part_size or min(max(pace, _PART[0]), _PART[1]) >> 20 << 20
        fixed = level.part_size is not None
        return Profile(level.connections or 1, size, round(self.best.goodput), time.time(), keeps_parts=fixed)

    def row(self) -> dict[str, Any]:
        """Return the result as a JSON-serializable dict, for `--json`."""
        return {
            "version": JSON_VERSION,
            "host": self.host,
            "best": self.best.row(),
            "flags": self.best.level.flags,
            "confirmed": self.confirmed,
            "auto": self.auto.row() if self.auto else None,
            "gain": round(self.gain, 3) if self.gain is not None else None,
            "auto_suffices": not self.helps,
            "drift": round(self.drift, 3),
            "part_size": self.best.level.part_size,
            "points": [point.row() for point in self.points],
            "network": [point.row() for point in self.network],
            "disk": self.disk.row() if self.disk else None,
            "bytes_received": self.received,
            "ended": self.ended or None,
        }


async def measure(
    host: HostFiles,
    options: PlainOptions,
    *,
    size: int,
    seconds: float,
    output: Path | None = None,
    tell: Tell = lambda _: None,
    levels: Sequence[Level] = (),
    rounds: int = ROUNDS[0],
) -> Bench:
    """Find the settings with which a host serves best.

    Each look is a part of a real run. Its files are written to a scratch folder, which is deleted afterwards.

    Args:
        host: The files to fetch; see `host_files`.
        options: Options as for `fetch_all`.
        size: Bytes to fetch at most, approximately.
        seconds: Seconds to take at most, approximately.
        output: The destination, on whose disk the scratch folder is made. None to discard the bytes.
        tell: Called with each look, as a point, as soon as it was made.
        levels: Levels to compare, each in every round, instead of searching for the best one.
        rounds: Rounds of that comparison.

    Raises:
        SettingsError: An option is invalid.
        StorageError: The scratch folder cannot be written.
        TransferError: The host sends no bytes.
    """
    limits, now = (options.get("settings") or Settings()).limits, time.localtime()
    allowed = Timetable.of(limits.rate).rate(now.tm_wday, now.tm_hour, now.tm_min) or None
    async with _session(host, options, output, size, seconds, tell) as session:
        if levels:
            done = await session.rounds([*levels, AUTO], rounds, rounds)
            return replace(_compared(session, done, writes=output is not None), allowed=allowed)
        most, fixed = most_of(limits), None if limits.part_size == "auto" else limits.part_size
        await session.search(most, lambda: host.total(session.pipeline.lengths), cores_of(limits), fixed)
        searched = len(session.looks)
        wanted = finalists(session.points, most)
        contenders = wanted[: session.affordable]
        done = await session.rounds([*contenders, AUTO])
        found = _confirmed(session, searched, contenders, done, writes=output is not None)
        return replace(found, neighbours=len(contenders) >= min(2, len(wanted)), allowed=allowed)


@asynccontextmanager
async def _session(
    host: HostFiles, options: PlainOptions, output: Path | None, size: int, seconds: float, tell: Tell
) -> AsyncIterator[Session]:
    window = window_of(seconds)

    def session(folder: Path | None) -> Session:
        pipeline = Pipeline(host.chosen, host.count, options, folder, window)
        return Session(pipeline, size, time.monotonic(), seconds, tell)

    if output is None:
        yield session(None)
        return
    async with scratch_folder(output) as folder:
        yield session(folder)


def _confirmed(
    session: Session, searched: int, contenders: Sequence[Level], done: int, *, writes: bool
) -> Bench:
    """Return the result of a search and of `done` rounds in which `contenders` were measured again."""
    before, again = points_of(session.looks[:searched]), points_of(session.looks[searched:])
    ranked = [point for point in again if point.level in contenders]
    confirmed = done >= CONFIRMED
    top = best(ranked, CONFIRMED_PAYS) if confirmed else best(before)
    early = next((point.goodput for point in before if point.level == top.level), 0.0)
    # what is recommended is one of the measurements that are shown
    kept = {point.level: point for point in ([*before, *again] if confirmed else [*again, *before])}
    return _bench(
        session, list(kept.values()), top, confirmed, top.goodput / early if early else 1.0, writes=writes
    )


def _compared(session: Session, done: int, *, writes: bool) -> Bench:
    points = points_of(session.looks)
    top = best([point for point in points if point.level != AUTO])
    first, last = top.looks[0].goodput, top.looks[-1].goodput
    return _bench(session, points, top, done >= CONFIRMED, last / first if first else 1.0, writes=writes)


def _bench(
    session: Session, points: Sequence[Point], top: Point, confirmed: bool, drift: float, *, writes: bool
) -> Bench:
    fixed = [point for point in points if point.level != AUTO]
    return Bench(
        host=session.pipeline.host,
        points=tuple(sorted(fixed, key=_place)),
        best=top,
        auto=next((point for point in points if point.level == AUTO), None),
        confirmed=confirmed,
        drift=drift,
        received=session.pipeline.received,
        ended=session.cut if confirmed else session.ended,
        writes=writes,
    )


def _place(point: Point) -> tuple[int, int, int]:
    level = point.level
    return level.processes or 0, level.part_size or 0, level.connections or 0


async def measure_network(
    host: HostFiles, options: PlainOptions, *, size: int, seconds: float, tell: Tell = lambda _: None
) -> tuple[tuple[Point, ...], int]:
    """Measure the rate of the network alone by number of connections. The bytes are discarded.

    Args:
        host: As in `measure`.
        options: As in `measure`.
        size: As in `measure`.
        seconds: As in `measure`.
        tell: As in `measure`.

    Returns:
        The measurements, sorted by connections, and the bytes that were fetched for them.
    """
    most = most_of((options.get("settings") or Settings()).limits)
    async with _session(host, options, None, size, seconds, tell) as session:
        while (number := next_number(session.points, most)) is not None:
            if not await session.visit(Level(number)):
                break
        return tuple(sorted(session.points, key=_place)), session.pipeline.received
