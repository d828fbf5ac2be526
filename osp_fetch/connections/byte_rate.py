"""The byte rate of a process: `limits.rate`, shared by all its connections."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from ..model.timetable import Timetable

# Seconds of unused rate that may be made up for. Longer bursts disturb other users of a shared link.
_BURST: Final = 0.25
# Seconds for which a delay explains why connections are slow. It is longer than the time over which a
# connection is compared with others.
_RECENT: Final = 5.0
# Seconds after which the timetable is read again, and after which a delayed reader sees a new rate.
_LOOK: Final = 1.0


class ByteRate:
    """Delays readers so that all connections together stay below a byte rate.

    Args:
        rate: Bytes per second, 0 for no limit; or a timetable, as `limits.rate` has it.
        local: Returns the local time, by which a timetable is read.

    Attributes:
        is_limited: Whether there is a limit at any time. Callers on the fast path of small files ask before
            they wait.
    """

    def __init__(self, rate: int | str, local: Callable[[], time.struct_time] = time.localtime) -> None:
        self._local, self._due, self._rate = local, 0.0, 0
        self._delayed = -math.inf
        self._looked: float | None = None  # when the timetable was last read; None for a constant rate
        self.change(rate)

    @property
    def now(self) -> int:
        """The limit at this time in bytes per second, 0 for none."""
        if self._looked is not None and time.monotonic() - self._looked >= _LOOK:
            self._look()
        return self._rate

    def change(self, rate: int | str) -> None:
        """Set another rate. A reader that is being delayed obeys it within a second.

        Args:
            rate: As above.
        """
        self._table = Timetable.of(rate)
        self.is_limited = self._table.is_limited
        self._look()

    def _look(self) -> None:
        """Read the timetable."""
        local, before = self._local(), self._rate
        self._rate = self._table.rate(local.tm_wday, local.tm_hour, local.tm_min)
        self._looked = None if self._table.is_constant else time.monotonic()
        if before != self._rate and self._due:
            # what was received at the old rate is paid for at the new one
            now = asyncio.get_running_loop().time()
            owed = max(0.0, self._due - now) * before
            self._due = now + owed / self._rate if self._rate else now
            self._delayed = min(self._delayed, self._due)

    def slows(self) -> bool:
        """Return whether the limit, and not the servers, has determined the rate of the last seconds.

        Nothing can be concluded about a server then: a slow connection is not hedged and not given up, and
        no limit of connections is changed.
        """
        return self.is_limited and asyncio.get_running_loop().time() - self._delayed < _RECENT

    async def wait(self) -> None:
        """Wait until the rate allows more bytes."""
        loop = asyncio.get_running_loop()
        while self.now and self._due > (now := loop.time()):
            self._delayed = self._due
            await asyncio.sleep(min(self._due - now, _LOOK))

    def charge(self, count: int) -> None:
        """Charge `count` received bytes."""
        if self.is_limited and (rate := self.now):
            now = asyncio.get_running_loop().time()
            self._due = max(self._due, now - _BURST) + count / rate
