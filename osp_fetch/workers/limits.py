"""The limits of a run that its workers divide among them, and what a run asks of its workers."""

from __future__ import annotations

from typing import Protocol

from ..connections.pool import ConnectionPool
from ..engine.file import Job
from ..model import events
from ..model.dataclasses import dataclass
from ..model.record import Record
from ..model.report import Status


def part_of(number: int, worker: int, workers: int) -> int:
    """Return the part of one worker if a number of connections is divided among `workers` of them."""
    return number // workers + (worker < number % workers)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of a run that its workers divide among them.

    Attributes:
        rate: Byte rate of all together, as `limits.rate` has it.
        connections: Largest number of open connections of all together; 0 pauses the run.
        per_host: Largest number of connections to one host.
        is_fixed: Whether each worker has a fixed part of `connections`; otherwise the budget divides those to
            each host.
        most_open: Transfers are closed until at most this many connections are open; None for none.
        parts: Number of runs that share the request rates in the settings.
    """

    rate: int | str
    connections: int
    per_host: int
    is_fixed: bool
    most_open: int | None = None
    parts: int = 1


class Workers(Protocol):
    """Processes that fetch the files of a run, here or on other machines."""

    @property
    def processes(self) -> int:
        """Number of workers."""
        ...

    @property
    def total(self) -> int:
        """Largest number of connections of all of them together."""
        ...

    @property
    def own_pool(self) -> ConnectionPool:
        """The connection pool of the process of the run, which has a share of each host beside them."""
        ...

    def steer(self, limits: RunLimits) -> None:
        """Change the limits of the run in all workers."""
        ...

    def cool(self, host: str, seconds: float) -> None:
        """Send `host` no request for `seconds`, and close the transfers from it."""
        ...

    def paused(self, event: events.Cooling) -> None:
        """Forward the pause that a host has asked the process of the run for to all workers."""
        ...

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """Fetch one file; see `WorkerPool.fetch`."""
        ...

    def notes(self) -> list[str]:
        """Return sentences for the report."""
        ...

    async def lost(self) -> dict[str, int]:
        """Return machine → finished files on its own disk, for machines that have left the run."""
        ...
