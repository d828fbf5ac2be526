"""Whether a host answers. Awaits nothing; times are seconds on one clock."""

from __future__ import annotations

from typing import Final

from ..model.settings import Retry

_SILENCES: Final = 3  # connections in a row without an answer that make an outage


class CircuitBreaker:
    """A host that falls silent is an outage, not ten thousand failures: it is probed by one connection at a
    time, for `retry.outage`, or for `retry.longest` where it has never answered.

    `down`: it is silent, and is probed. `dead`: it was for so long that nothing more is asked of it.
    """

    def __init__(self, retry: Retry) -> None:
        self.down = self.dead = False
        self._retry = retry
        self._heard = False  # it has answered in this run
        self._silences = 0  # connections in a row that got no answer
        self._since = 0.0  # the first of them
        self._pauses = 0  # made so far, each twice as long as the one before

    def answered(self) -> bool:
        """It has: whether an outage is over by that."""
        was_down, self.down, self.dead = self.down, False, False
        self._heard = True
        self._silences = self._pauses = 0
        return was_down

    def silent(self, now: float, *, paused: bool) -> float | None:
        """One more connection got no answer: seconds to leave the host alone, None where that changes
        nothing. `paused`: it is left alone now."""
        if self._silences == 0:
            self._since = now
        self._silences += 1
        allowed = self._retry.outage if self._heard else self._retry.longest
        if now - self._since > allowed and self._silences >= self._retry.attempts:
            self.down, self.dead = False, True
            return None
        if self._silences < _SILENCES or (self.down and paused):
            return None
        self.down = True
        pause = min(self._retry.longest, self._retry.initial * 2.0 ** min(self._pauses, 30))
        self._pauses += 1
        return pause
