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

    Attributes:
        heard: The host has answered in this run.
        error: The error of the last connection during an outage, None if the host is not down.
    """

    __slots__ = ("_silences", "error", "heard")

    def __init__(self) -> None:
        self.heard = False
        self.error: UnreachableError | None = None
        self._silences = 0  # consecutive connections without an answer

    @property
    def down(self) -> bool:
        """Whether the host does not answer and is only probed."""
        return self.error is not None

    def answered(self) -> bool:
        """Record an answer of the host.

        Returns:
            True if the answer ends an outage.
        """
        was_down, self.error = self.down, None
        self.heard = True
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
        return self.down
