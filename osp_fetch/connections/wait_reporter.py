"""WaitReporter: sends what the connections of one process waited for, once a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ..model import events
from .pool import ConnectionPool
from .processor import LOOP, Load, Processor, Times


class Allowed(Protocol):
    """What states how many connections a run may have, in all its processes together."""

    @property
    def total(self) -> int:
        """Largest number of connections to all hosts."""
        ...


class WaitReporter:
    """Sends `events.Waited` at each tick.

    Args:
        pool: The connection pool of this process.
        observe: Receives the events.
        times: Returns the processor times; called in the thread of the event loop.
        is_worker: Whether the run, in another process, states the numbers of connections that are allowed.
        allowed: States how many connections all processes may have; None if `pool` does.

    Attributes:
        period: Seconds between two ticks.
    """

    period: Final = 1.0

    def __init__(
        self,
        pool: ConnectionPool,
        observe: events.Observer,
        times: Callable[[], Times],
        *,
        is_worker: bool = False,
        allowed: Allowed | None = None,
    ) -> None:
        self._is_worker, self._allowed = is_worker, allowed or pool
        self._pool, self._observe, self._times = pool, observe, times
        self._processor, self._then = Processor(), times()
        self._processor.load(self._then)
        self._taken()

    def _taken(self) -> tuple[float, ...]:
        """Return the sums of all gauges since the last call."""
        waits = self._pool.waits
        each = (waits.open, waits.delayed, waits.writing, waits.hashing, waits.publishing)
        return tuple(gauge.take() for gauge in each)

    def tick(self) -> None:
        """Send what was measured since the last tick."""
        now, then, pool, total = self._times(), self._then, self._pool, self._allowed.total
        seconds, self._then = now.now - then.now, now
        waits = [each / seconds if seconds > 0 else 0.0 for each in self._taken()]
        full = self._processor.load(now) is Load.FULL
        is_loop = full and now.loop - then.loop >= LOOP * seconds
        self._observe(
            events.Waited(
                seconds, waits[0], waits[1], waits[2], waits[3], waits[4],
                most=0 if self._is_worker else min(total, pool.per_host),
                total=0 if self._is_worker else total,
                rate=pool.rate.now, busy="loop" if is_loop else "cores" if full else "",
            )
        )  # fmt: skip
