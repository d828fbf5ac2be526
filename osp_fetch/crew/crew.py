"""The run's workers: who fetches what, and how many connections each has."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from ..engine.bring import Wanted
from ..engine.steering import LOOK
from ..engine.tasks import completed, stop
from ..engine.tools import Tools
from ..model import events
from ..model.errors import StorageError
from ..model.record import Record
from ..model.report import Status
from . import wire as w
from .budget import Budget
from .process import Process, WorkerDied

_DEATHS: Final = 3  # of workers over one file, that are enough


class Crew:
    """`setups`: what each worker is told first. An async context manager; `bring` as in `engine.bring`.

    `lock`: the descriptor of the run's lock, which workers hold open: a new run may not begin before the
    last of them has ended, even where this process is killed.
    """

    def __init__(self, setups: list[w.Setup], tools: Tools, budget: Budget, lock: int) -> None:
        self._setups, self._tools, self._budget, self._lock = setups, tools, budget, lock
        self._workers: list[Process] = []
        self._looking: asyncio.Task[None]

    async def __aenter__(self) -> Crew:
        for number, setup in enumerate(self._setups):
            self._workers.append(Process(number, setup, self._tools, self._budget, self._lock, self._cool))
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

    async def bring(self, wanted: Wanted) -> tuple[Status, Record]:
        """Have one file brought by whoever has the fewest in hand."""
        died: WorkerDied | None = None
        for _ in range(_DEATHS):
            there = [worker for worker in self._workers if worker.there]
            worker = min(there or self._workers, key=lambda each: each.in_hand)
            try:
                status, record = await worker.bring(wanted)
                # what one that died had just published was fetched by this run
                return (Status.FETCHED if died else status), record
            except WorkerDied as error:
                died = error
                (known,) = await self._tools.ledger.look([wanted.entry.path])
                (seen,) = await self._tools.sink.look([wanted.entry.path])
                wanted = replace(wanted, record=known, seen=seen)
        raise StorageError(f"{wanted.entry.path}: {_DEATHS} processes died over it; the last one: {died}")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK)
            for number, assign in self._budget.look(loop.time()):
                self._workers[number].send(assign)
            if self._tools.gate.last_files:
                for worker in self._workers:
                    worker.say_last()

    def _cool(self, by: int, event: events.Cooling) -> None:
        """What one worker was asked holds for all of them."""
        for worker in self._workers:
            if worker.number != by:
                worker.send(w.Cool(event.host, event.seconds))
