"""Circuit breaker: decides whether a host is down. It does no I/O; times are seconds on a monotonic clock."""

from __future__ import annotations

from typing import Final

from ..model.settings import Retry

# Consecutive connections without an answer that count as an outage.
_SILENCES: Final = 3


class CircuitBreaker:
    """The circuit breaker of one host.

    A host that stops answering is one outage, not one failure for each of ten thousand files. During an
    outage, one connection at a time probes the host. Probing ends after `retry.outage` seconds, or after
    `retry.longest` seconds if the host has never answered in this run.

    Attributes:
        down: The host does not answer and is being probed.
        dead: The outage lasted too long. No further request is sent to the host.
    """

    def __init__(self, retry: Retry) -> None:
        self.down = self.dead = False
        self._retry = retry
        self._heard = False  # the host has answered at least once in this run
        self._silences = 0  # consecutive connections without an answer
        self._since = 0.0  # time of the first of them, seconds
        self._pauses = 0  # pauses in this outage; each is twice as long as the previous one

    def answered(self) -> bool:
        """Record an answer of the host.

        Returns:
            True if the answer ends an outage.
        """
        was_down, self.down, self.dead = self.down, False, False
        self._heard = True
        self._silences = self._pauses = 0
        return was_down

    def silent(self, now: float, *, paused: bool) -> float | None:
        """Record a connection that got no answer.

        Args:
            now: Current time in seconds.
            paused: Whether requests to the host are paused now.

        Returns:
            Seconds to pause requests to the host, or None if the pause does not change.
        """
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
