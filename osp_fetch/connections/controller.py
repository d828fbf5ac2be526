"""How many connections one host has, steered by what they bring: the measuring around a ConcurrencyLimit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from .limit import ConcurrencyLimit

LOOK: Final = 0.05  # seconds between two looks at what came
_WINDOW: Final = 0.3  # seconds over which goodput is measured …
_RAMP_WINDOW: Final = 0.1  # … or so many while it doubles, or even from one look to the next …
_ANSWERS: Final = 4  # … where each connection was answered so often, …
_ROUNDS: Final = 4  # … and so many times what an answer takes, for connections begin slowly, …
_LONGEST_WINDOW: Final = 3.0  # … and, up to so many, until each connection has brought so much:
_WINDOW_BYTES: Final = 64 << 10
_WORTH: Final = (0.25, 1.0)  # seconds
_MEMORY: Final = 0.3  # how fast the latency forgets


@dataclass(frozen=True, slots=True)
class HostReport:
    """How one host does in one process. `waiting`: who waits for a connection; since the last report
    `received` bytes came, and `refused` connections were turned away. `share`: how many it may open.
    `latency`: seconds to an answer. `assigned`: the number of what was last assigned to it."""

    host: str
    open: int
    streaming: int
    waiting: int
    received: int
    refused: int
    share: int
    latency: float
    assigned: int = 0


class Controller:
    """Measures one host in windows and moves its level. Times are seconds on one clock."""

    def __init__(self, level: ConcurrencyLimit) -> None:
        self.level = level
        self.received = 0  # bytes in this window
        self.latency = 0.0  # from asking to being answered, of late
        self._answers = 0  # in this window, or while connections are being made
        self._begun = 0.0  # this window, 0 while connections are being made
        self._changed = 0.0  # when the level was
        self._halved = -math.inf  # when it was, for a refusal
        self._full = True  # all that was allowed was open, whenever this window was looked at

    @property
    def worth(self) -> float:
        """Seconds of fetching that are worth a request: it costs about as much as an answer takes."""
        return min(max(_WORTH[0], _ROUNDS * self.latency), _WORTH[1])

    def answered(self, now: float, after: float) -> None:
        """A connection was answered after so many seconds."""
        self.latency += _MEMORY * (after - self.latency)
        self._answers += 1
        # small files come and go between two looks, but so many answers tell that connections are made
        if not self._begun and self._answers >= 2 * self.level.value:
            self._begin(now)

    def look(self, now: float, connections: int, streaming: int) -> str | None:
        """A moment has passed with so many open `connections`, of which so many bring bytes: why the level
        changed, None where it did not."""
        level = self.level
        rounds = min(_ROUNDS * self.latency, 1.0)
        if not self._begun:
            past = now - self._changed
            if past >= LOOK and (streaming >= level.value or past >= _WINDOW + rounds):
                self._begin(now)
            return None
        # where the budget of all hosts is the limit, this host's level is not
        self._full = self._full and connections >= level.value
        past = now - self._begun
        window = _RAMP_WINDOW if level.ramping else _WINDOW
        brisk = self._answers >= _ANSWERS * level.value
        if level.ramping and brisk:
            window = LOOK
        # a look comes some milliseconds late, never early
        if past < max(window, rounds) - LOOK / 10:
            return None
        if self.received < level.value * _WINDOW_BYTES and past < _LONGEST_WINDOW:
            return None
        why = level.sample(now, self.received / past, full=self._full, brisk=brisk)
        self._begin(now)
        return self._moved(why, now)

    def refused(self, now: float, others: int, *, streaming: bool) -> str | None:
        """A connection was turned away beside `others`: why the level changed, None where it did not."""
        if not streaming:
            if now - self._halved < max(LOOK, 2 * self.latency):
                return None  # it was asked for before the level was halved
            self._halved = now
        return self._moved(self.level.refused(now, others, streaming=streaming), now)

    def _begin(self, now: float) -> None:
        self._begun, self.received, self._full, self._answers = now, 0, True, 0

    def _moved(self, why: str | None, now: float) -> str | None:
        if why is not None:
            self._begun, self._changed, self._answers = 0.0, now, 0
        return why
