"""Writes to one file: those that come while some are being made are made next, together.

The kernel writes to one file one at a time, and lets threads spin meanwhile. And each hop to a thread and
back costs milliseconds of waiting for the interpreter's lock and for the loop, as many connections as there
are: on 64 of them, one hop a write kept a file from growing by more than 140 MB/s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from .executors import in_thread

_Write = tuple[Callable[[], None], "asyncio.Future[None]"]


class Writes:
    """Writes in threads of `pool`, one thread at a time."""

    __slots__ = ("_job", "_pool", "_waiting")

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._waiting: list[_Write] = []
        self._job: asyncio.Task[None] | None = None

    async def make(self, write: Callable[[], None]) -> None:
        """Return when `write` was called. Raises what it does. Whoever is cancelled must leave alone what is
        written until `settle` has returned."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if self._job is None:
            self._job = asyncio.create_task(self._run())
        await done

    async def settle(self) -> None:
        """Return when nothing is being written, or waits for it."""
        if self._job is not None:
            await asyncio.wait({self._job})

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    errors = await in_thread(self._pool, partial(_all, batch))
                except Exception as error:  # a pool that is shut
                    errors = [error] * len(batch)
                for (_, done), failed in zip(batch, errors, strict=True):
                    if done.cancelled():
                        continue
                    if failed is None:
                        done.set_result(None)
                    else:
                        done.set_exception(failed)
        finally:
            self._job = None


def _all(batch: list[_Write]) -> list[Exception | None]:
    return [_error(write) for write, _ in batch]


def _error(write: Callable[[], None]) -> Exception | None:
    """What `write` raises; also a defect: it is whose write it was that has to know."""
    try:
        write()
    except Exception as error:
        return error
    return None
