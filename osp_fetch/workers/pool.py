"""The run's workers: who fetches what, and how many connections each has."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from ..concurrency import completed, stop
from ..connections.controller import LOOK
from ..engine.context import Context
from ..engine.file import Job
from ..model import events
from ..model.errors import StorageError
from ..model.record import Record
from ..model.report import Status
from . import messages
from .budget import Budget
from .process import Process, WorkerDiedError

_DEATHS: Final = 3  # of workers over one file, that are enough


class WorkerPool:
    """`setups`: what each worker is told first. An async context manager; `fetch_one` as in `engine.fetch`.

    `lock`: the descriptor of the run's lock, which workers hold open: a new run may not begin before the
    last of them has ended, even where this process is killed.
    """

    def __init__(self, setups: list[messages.Setup], context: Context, budget: Budget, lock: int) -> None:
        self._setups, self._context, self._budget, self._lock = setups, context, budget, lock
        self._workers: list[Process] = []
        self._looking: asyncio.Task[None]

    async def __aenter__(self) -> WorkerPool:
        for number, setup in enumerate(self._setups):
            self._workers.append(Process(number, setup, self._context, self._budget, self._lock, self._cool))
        try:
            await completed(self._begin())  # half begun, nobody would end them
        except BaseException:
            await self._end()
            raise
        self._looking = asyncio.create_task(self._look())
        return self

    async def _begin(self) -> None:
        begun = await asyncio.gather(*(each.start() for each in self._workers), return_exceptions=True)
        for failed in begun:
            if failed is not None:
                raise failed

    async def __aexit__(self, *_: object) -> None:
        await stop({self._looking})
        await self._end()

    async def _end(self) -> None:
        ending = asyncio.gather(*(worker.end() for worker in self._workers))
        cancelled = False
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                cancelled = True  # what they hold is claimed first
        ending.result()
        if cancelled:
            raise asyncio.CancelledError

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """Have one file brought by whoever has the fewest in hand."""
        died: WorkerDiedError | None = None
        for _ in range(_DEATHS):
            there = [worker for worker in self._workers if worker.there]
            worker = min(there or self._workers, key=lambda each: each.in_hand)
            try:
                status, record = await worker.fetch(job)
                # what one that died had just published was fetched by this run
                return (Status.FETCHED if died else status), record
            except WorkerDiedError as error:
                died = error
                (known,) = await self._context.ledger.look([job.entry.path])
                (seen,) = await self._context.store.look([job.entry.path])
                job = replace(job, record=known, seen=seen)
        raise StorageError(f"{job.entry.path}: {_DEATHS} processes died over it; the last one: {died}")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK)
            for number, assign in self._budget.look(loop.time()):
                self._workers[number].send(assign)
            if self._context.pool.last_files:
                for worker in self._workers:
                    worker.say_last()

    def _cool(self, by: int, event: events.Cooling) -> None:
        """What one worker was asked holds for all of them."""
        for worker in self._workers:
            if worker.number != by:
                worker.send(messages.CoolHost(event.host, event.seconds))
