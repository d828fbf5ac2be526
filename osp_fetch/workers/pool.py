"""The worker pool of a run: it deals jobs to the workers, and connections to each of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Final

from ..concurrency import completed, stop
from ..connections.controller import LOOK
from ..connections.pool import ConnectionPool
from ..engine.context import Context
from ..engine.file import Job
from ..model import events
from ..model.record import Record
from ..model.report import Status
from ..model.timetable import Timetable
from . import messages
from .budget import OWN, Budget
from .limits import RunLimits, part_of
from .own_share import OwnShare
from .peer import Losses, WorkerDiedError
from .process import Process

_DEATHS: Final = 3  # workers in a row that may die while they fetch one file and bring it no further


class WorkerPool:
    """The worker processes of a run, an async context manager that starts and ends them.

    Args:
        setups: The first message to each worker; one worker is started for each.
        context: The engine's context in the process of the run.
        budget: Divides the connections of each host among the workers.
        lock: The descriptor of the run's lock. Each worker holds it open, so that a new run cannot start
            before the last worker has ended, even where the process of the run is killed.
    """

    def __init__(self, setups: list[messages.Setup], context: Context, budget: Budget, lock: int) -> None:
        self._setups, self._context, self._budget, self._lock = setups, context, budget, lock
        self._workers: list[Process] = []
        self._own = OwnShare(context, budget)
        self._rate = Timetable.of(context.settings.limits.rate)  # of all workers together
        self._sharing = len(setups)  # workers that it is divided among: those that have files
        self._jobs: Counter[int] = Counter()  # worker → its files
        self._looking: asyncio.Task[None]

    async def __aenter__(self) -> WorkerPool:
        for number, setup in enumerate(self._setups):
            self._workers.append(Process(number, setup, self._context, self._budget, self._lock, self._cool))
        try:
            await completed(self._begin())  # a cancelled start would leave processes running
        except BaseException:
            await self._end()
            raise
        self._looking = asyncio.create_task(self._look())
        return self

    async def _begin(self) -> None:
        """Start all workers; raise the first error after the last has started or failed."""
        begun = await asyncio.gather(*(each.start() for each in self._workers), return_exceptions=True)
        for failed in begun:
            if failed is not None:
                raise failed

    async def __aexit__(self, *_: object) -> None:
        await stop({self._looking})
        await self._end()

    async def _end(self) -> None:
        """End all workers, also where the caller is cancelled meanwhile."""
        ending = asyncio.gather(*(worker.end() for worker in self._workers))
        cancelled = False
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                cancelled = True  # only after the workers have recorded the held bytes
        ending.result()
        if cancelled:
            raise asyncio.CancelledError

    @property
    def processes(self) -> int:
        """Number of workers."""
        return len(self._workers)

    @property
    def total(self) -> int:
        """Largest number of connections of all workers together."""
        return self._budget.total

    @property
    def own_pool(self) -> ConnectionPool:
        """The connection pool of this process, which has a share of each host beside the workers."""
        return self._own.pool

    def steer(self, limits: RunLimits) -> None:
        """Change the limits of the run in all workers."""
        self._own.steer(limits)
        count = len(self._workers)
        if limits.connections:
            self._budget.resize(limits.connections, limits.per_host)
        self._rate, self._sharing = Timetable.of(limits.rate), self._busy
        rate, left = self._rate.divided(self._sharing), limits.most_open
        for worker in self._workers:
            most = limits.connections
            most = part_of(most, worker.number, count) if limits.is_fixed else most
            open_ = None if left is None else part_of(left, worker.number, count)
            worker.send(messages.Steer(rate, most, limits.is_fixed, open_, limits.parts))

    def cool(self, host: str, seconds: float) -> None:
        """Send `host` no request for `seconds`, and close the transfers from it."""
        self._own.pool.cool(host, seconds, sheds=True)
        for worker in self._workers:
            worker.send(messages.CoolHost(host, seconds, sheds=True))

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """Fetch one file in the worker that has the fewest jobs.

        Args:
            job: The job to fetch.

        Returns:
            The status of the file, and its record.

        Raises:
            FetchError: The error of the worker's `engine.file.FileFetcher`.
            StorageError: Three workers in a row died while fetching the file, and it got no further; or the
                job cannot be sent to a worker.
            RuntimeError: The worker failed with an exception that is no FetchError.
        """
        losses, was_lost = Losses(job.entry.path, _DEATHS), False
        while True:
            there = [worker for worker in self._workers if worker.there]
            worker = min(there or self._workers, key=lambda each: each.in_hand)
            self._share_rate(worker.number, 1)
            try:
                status, record = await worker.fetch(job, is_suspect=was_lost)
                # a file that was published just before its worker died counts as fetched by this run
                return (Status.FETCHED if was_lost else status), record
            except WorkerDiedError as error:
                was_lost = True
                (known,) = await self._context.ledger.get([job.entry.path])
                losses.add(error, len(known.held) if known else 0)
                (seen,) = await self._context.store.stat([job.entry.path])
                job = replace(job, record=known, seen=seen)
            finally:
                self._share_rate(worker.number, -1)

    @property
    def _busy(self) -> int:
        """Number of workers that have files, at least one."""
        return max(1, sum(count > 0 for count in self._jobs.values()))

    def _share_rate(self, number: int, change: int) -> None:
        """Divide the byte rate among the workers that have files, after the jobs of one have changed."""
        self._jobs[number] += change
        if not self._rate.is_limited or self._busy == self._sharing:
            return
        self._sharing = self._busy
        rate = self._rate.divided(self._sharing)
        for worker in self._workers:
            worker.send(messages.ShareRate(rate))

    def notes(self) -> list[str]:
        """Return sentences for the report: none."""
        return []

    async def lost(self) -> dict[str, int]:
        """Return nothing: all workers write to the destination of the run."""
        return {}

    async def _look(self) -> None:
        """Send new assignments, and the notice of the last files, every `LOOK` seconds."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK)
            for number, assign in self._own.look(loop.time()):
                self._workers[number].send(assign)
            if self._context.pool.last_files:
                for worker in self._workers:
                    worker.say_last()

    def paused(self, event: events.Cooling) -> None:
        """Forward the pause that a host has asked the process of the run for, in reply to a page."""
        self._cool(OWN, event)

    def _cool(self, by: int, event: events.Cooling) -> None:
        """Forward a host's request to wait from worker `by` to all others, and to the queues of the run."""
        self._context.pool.cool(event.host, event.seconds)
        self._own.pool.cool(event.host, event.seconds)
        for worker in self._workers:
            if worker.number != by:
                worker.send(messages.CoolHost(event.host, event.seconds))
