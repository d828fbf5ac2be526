"""Controller: measures one host's goodput in windows and feeds the measurements to its ConcurrencyLimit."""

from __future__ import annotations

import math
from typing import Final

from ..model.dataclasses import dataclass
from .limit import ConcurrencyLimit
from .processor import Load

# Seconds between two evaluations of a host.
LOOK: Final = 0.05
# Seconds over which goodput is measured.
_WINDOW: Final = 0.3
# Seconds over which goodput is measured while the limit doubles: differences are large then. With a loaded
# processor they may be small, and are measured over _WINDOW.
_RAMP_WINDOW: Final = 0.1
# Replies per connection within one window. With at least that number, a ramping limit is evaluated at every
# LOOK.
_ANSWERS: Final = 4
# A window also lasts at least this number of latencies, because TCP connections start slowly.
_ROUNDS: Final = 4
# A window is extended until each connection has transferred _WINDOW_BYTES, but to at most this many seconds.
_LONGEST_WINDOW: Final = 3.0
_WINDOW_BYTES: Final = 64 << 10
# Lower and upper bound of `Controller.worth`, in seconds.
_WORTH: Final = (0.25, 1.0)
# Weight of the newest latency in the moving average.
_MEMORY: Final = 0.3


@dataclass(frozen=True, slots=True)
class HostReport:
    """The state of one host in one process.

    Attributes:
        host: `host:port`.
        open: Open connections.
        streaming: Open connections that are transferring a body.
        waiting: Requests that wait for a slot.
        received: Bytes received since the last report.
        refused: Connections that the host refused since the last report.
        share: Connections that this process may open.
        latency: Seconds from a request to the head of its reply, as a moving average.
        assigned: Sequence number of the last assignment that this process applied.
    """

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
    """Measures the goodput of one host in windows and adjusts its concurrency limit.

    Times are seconds on a monotonic clock. All methods return at once.

    Attributes:
        limit: The concurrency limit of the host.
        received: Bytes received in the current window.
        latency: Seconds from a request to the head of its reply, as a moving average.
    """

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.limit = limit
        self.received = 0
        self.latency = 0.0
        self._answers = 0  # replies in this window, or while connections are being opened
        self._begun = 0.0  # start of this window; 0 while connections are being opened
        self._changed = 0.0  # time of the last change of the limit
        self._halved = -math.inf  # time of the last halving because of a refusal
        self._full = True  # the limit was reached at every evaluation in this window

    @property
    def worth(self) -> float:
        """Seconds of transfer that justify one more request, given that a request costs about one latency."""
        return min(max(_WORTH[0], _ROUNDS * self.latency), _WORTH[1])

    def answered(self, now: float, after: float) -> None:
        """Record the head of a reply.

        Args:
            now: Current time in seconds.
            after: Seconds between the request and the head of its reply.
        """
        self.latency += _MEMORY * (after - self.latency)
        self._answers += 1
        # Small files start and end between two evaluations, so `streaming` misses them. Two replies per
        # connection show that the connections are established.
        if not self._begun and self._answers >= 2 * self.limit.value:
            self._begin(now)

    def look(self, now: float, connections: int, streaming: int, *, load: Load = Load.LOW) -> str | None:
        """Evaluate the current window. Call this every LOOK seconds.

        Args:
            now: Current time in seconds.
            connections: Open connections to the host.
            streaming: Open connections that are transferring a body.
            load: The processor load.

        Returns:
            The reason if the concurrency limit changed, else None.
        """
        limit = self.limit
        rounds = min(_ROUNDS * self.latency, 1.0)
        if not self._begun:
            past = now - self._changed
            if past >= LOOK and (streaming >= limit.value or past >= _WINDOW + rounds):
                self._begin(now)
            return None
        # If the total of all hosts is exhausted, this host cannot reach its own limit, and the window says
        # nothing about that limit.
        self._full = self._full and connections >= limit.value
        past = now - self._begun
        window = _RAMP_WINDOW if limit.ramping else _WINDOW
        brisk = self._answers >= _ANSWERS * limit.value
        if limit.ramping and brisk:
            window = LOOK
        # timers fire some milliseconds late, never early
        if past < max(window, rounds) - LOOK / 10:
            return None
        if self.received < limit.value * _WINDOW_BYTES and past < _LONGEST_WINDOW:
            return None
        if limit.ramping and past < _WINDOW and not limit.is_clear(self.received / past, load):
            return None  # a small difference takes a longer window
        why = limit.sample(now, self.received / past, full=self._full, brisk=brisk, load=load)
        self._begin(now)
        return self._moved(why, now)

    def skip(self, now: float) -> None:
        """Begin another window: what was measured in this one says nothing about the host.

        Args:
            now: Current time in seconds.
        """
        self._begin(now)

    def refused(self, now: float, others: int, *, streaming: bool) -> str | None:
        """Record that the host refused a connection.

        Args:
            now: Current time in seconds.
            others: Other connections that are open to the host.
            streaming: Whether any of them is transferring a body.

        Returns:
            The reason if the concurrency limit changed, else None.
        """
        if not streaming:
            if now - self._halved < max(LOOK, 2 * self.latency):
                return None  # the request was sent before the limit was halved
            self._halved = now
        return self._moved(self.limit.refused(now, others, streaming=streaming), now)

    def _begin(self, now: float) -> None:
        self._begun, self.received, self._full, self._answers = now, 0, True, 0

    def _moved(self, why: str | None, now: float) -> str | None:
        if why is not None:
            self._begun, self._changed, self._answers = 0.0, now, 0
        return why
