"""Circuit breaker: decides whether a host is down. It does no I/O and has no clock."""

from __future__ import annotations

from typing import Final

from ..model.errors import UnreachableError

# Consecutive connections without an answer that count as an outage of a host that has answered before.
_SILENCES: Final = 3


class CircuitBreaker:
    """The circuit breaker of one host.

    A host that stops answering is one outage, not one failure for each of ten thousand files. During an
    outage, one connection at a time probes the host; `engine.host_queues` decides when, and for how long.

    Args:
        heard: Whether the host has answered in this run.

    Attributes:
        heard: The same, as it is now.
        error: The error of the last connection during an outage, None if the host is not down.
        down: Whether the host does not answer and is only probed.
        is_new: Whether it has not answered yet, or is down. A connection to it may bring nothing.
    """

    __slots__ = ("_silences", "down", "error", "heard", "is_new")

    def __init__(self, *, heard: bool = False) -> None:
        self.heard, self.down, self.is_new = heard, False, not heard
        self.error: UnreachableError | None = None
        self._silences = 0  # consecutive connections without an answer

    def answered(self) -> bool:
        """Record an answer of the host.

        Returns:
            True if the answer ends an outage.
        """
        was_down = self.down
        if self.is_new:
            self.heard, self.down, self.is_new, self.error = True, False, False, None
        self._silences = 0
        return was_down

    def silent(self, error: UnreachableError) -> bool:
        """Record a connection that got no answer.

        A host that has never answered is down at once. One that has may have dropped a single connection.

        Args:
            error: The error of the connection.

        Returns:
            True if the host is down now.
        """
        self._silences += 1
        if self.down or not self.heard or self._silences >= _SILENCES:
            # without its traceback, whose frames would keep the objects of a file in memory
            self.error = error.with_traceback(None)
            self.error.__cause__ = self.error.__context__ = None
            self.down = self.is_new = True
        return self.down
