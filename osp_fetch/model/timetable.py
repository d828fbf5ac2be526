"""Timetable: the byte rate at each time of the week, as `limits.rate` may state it. No I/O and no clock.

The form is that of rclone's `--bwlimit`: entries `[DAY-]HH:MM,RATE` with blanks between them, such as
`08:00,10MiB 19:00,0` or `Mon-08:00,10MiB Fri-19:00,off`. An entry without a day holds for every day. A rate
holds until the next entry, over midnight and over the end of the week. Unlike rclone's, a number without a
unit is a number of bytes, as in every other setting.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final, Self

from .dataclasses import dataclass

_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ENTRY: Final = r"(?i)(?:([a-z]{3,9})-)?(\d{1,2}):(\d{2}),(\S+)"
_DAY: Final = 24 * 60  # minutes of a day
_WEEK: Final = 7 * _DAY  # minutes of a week
# Most weeks over which `Timetable.seconds` adds up rates; a longer transfer is not estimated.
_LONGEST: Final = 520


@dataclass(frozen=True, slots=True)
class Timetable:
    """The byte rate at each time of the week.

    Attributes:
        steps: Pairs of a minute of the week, from Monday 00:00 on, and the rate in bytes per second from then
            on; 0 for no limit. In ascending order, at least one.
    """

    steps: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, rate: int | str) -> Self:
        """Return the timetable of a rate as `limits.rate` has it: bytes per second, or a normal form."""
        return cls(((0, rate),)) if isinstance(rate, int) else cls.parse(rate, int)

    @classmethod
    def parse(cls, text: str, size: Callable[[Any], int]) -> Self:
        """Parse a timetable.

        Args:
            text: The entries.
            size: Parses a rate; raises ValueError.

        Raises:
            ValueError: `text` is not a timetable, or states two rates for one time.
        """
        every: dict[int, int] = {}
        single: dict[int, int] = {}
        for word in text.split():
            day, minute, rate = _entry(word, size)
            made = single if day is not None else every
            for start in [day] if day is not None else range(7):
                if made.setdefault(start * _DAY + minute, rate) != rate:
                    raise ValueError(f"{word!r} states a second rate for the same time")
        if not every and not single:
            raise ValueError("a timetable needs an entry such as 08:00,10MiB")
        return cls(tuple(sorted({**every, **single}.items())))

    @property
    def is_constant(self) -> bool:
        """Whether the rate never changes."""
        return len({rate for _, rate in self.steps}) == 1

    @property
    def is_limited(self) -> bool:
        """Whether the rate is limited at any time."""
        return any(rate for _, rate in self.steps)

    def rate(self, weekday: int, hour: int, minute: int) -> int:
        """Return the rate at a local time in bytes per second, 0 for no limit.

        Args:
            weekday: 0 for Monday.
            hour: 0 to 23.
            minute: 0 to 59.
        """
        now = weekday * _DAY + hour * 60 + minute
        return self.steps[bisect_right(self.steps, now, key=lambda step: step[0]) - 1][1]

    def divided(self, count: int) -> str | int:
        """Return the part of the rate for one of `count` processes, in the form of `limits.rate`."""
        parts = [(minute, -(-rate // count)) for minute, rate in self.steps]
        return parts[0][1] if self.is_constant else _text(parts)

    def seconds(self, size: int, weekday: int, hour: int, minute: int, pace: float) -> float | None:
        """Return the seconds that a transfer takes, None if they cannot be estimated.

        Args:
            size: Bytes to transfer.
            weekday: Local time of its begin; 0 for Monday.
            hour: 0 to 23.
            minute: 0 to 59.
            pace: Bytes per second that the servers give without a limit, 0 if that is not known.
        """
        now, left, passed = weekday * _DAY + hour * 60 + minute, float(size), 0.0
        starts = [start for start, _ in self.steps]
        for _ in range(_LONGEST * len(starts)):
            place = bisect_right(starts, now)
            until = starts[place] if place < len(starts) else starts[0] + _WEEK
            limit = self.steps[place - 1][1]
            rate = min(limit, pace) if limit and pace else limit or pace
            if not rate:
                return None
            if left <= rate * 60 * (until - now):
                return passed + left / rate
            left -= rate * 60 * (until - now)
            passed += 60.0 * (until - now)
            now = until % _WEEK
        return None

    def __str__(self) -> str:
        return _text(self.steps)


def _entry(word: str, size: Callable[[Any], int]) -> tuple[int | None, int, int]:
    """Return the day (None for every day), the minute of the day, and the rate of one entry."""
    match = re.fullmatch(_ENTRY, word)
    if match is None:
        raise ValueError(f"{word!r} is not an entry of a timetable; write [DAY-]HH:MM,RATE")
    name, hour, minute, rate = (match[1] or "").lower(), int(match[2]), int(match[3]), match[4].lower()
    days = [number for number, day in enumerate(_DAYS) if name and day.startswith(name)]
    if name and len(days) != 1:
        raise ValueError(f"{word!r}: {match[1]} is not a day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun")
    if hour > 23 or minute > 59:
        raise ValueError(f"{word!r}: {match[2]}:{match[3]} is not a time of the day")
    return days[0] if days else None, hour * 60 + minute, 0 if rate == "off" else size(match[4])


def _text(steps: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> str:
    """Return steps in normal form: rates in bytes, and no day where all days are alike."""
    days = [[(m % _DAY, rate) for m, rate in steps if m // _DAY == day] for day in range(7)]
    if all(day == days[0] for day in days):
        return " ".join(f"{m // 60:02}:{m % 60:02},{rate}" for m, rate in days[0])
    return " ".join(
        f"{_DAYS[m // _DAY][:3].title()}-{m % _DAY // 60:02}:{m % 60:02},{rate}" for m, rate in steps
    )


def rate_of(value: object, size: Callable[[Any], int]) -> int | str:
    """Parse a byte rate, or a timetable of rates such as `"08:00,10MiB 19:00,0"`.

    Args:
        value: A rate as `size` takes it, `"off"`, or a timetable.
        size: Parses a rate.

    Returns:
        Bytes per second, 0 for no limit; or the normal form of the timetable, which `Timetable.of` takes.

    Raises:
        ValueError: `value` is none of these.
    """
    if not isinstance(value, str):
        return size(value)
    if "," in value or re.search(r"\d:\d", value):
        table = Timetable.parse(value, size)
        return table.steps[0][1] if table.is_constant else str(table)
    return 0 if value.strip().lower() == "off" else size(value)
