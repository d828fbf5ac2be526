"""Group writes to one file: writes that arrive while others are in progress form the next batch.

The kernel executes writes to one file one at a time, and waiting threads spin. Each hop to a thread and back
also costs milliseconds of waiting for the interpreter's lock and for the event loop, and the cost grows with
the number of connections. With 64 connections, one hop for each write limited a file to 140 MB/s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from .executors import in_thread

_Write = tuple[Callable[[], None], "asyncio.Future[None]"]


class Writes:
    """Executes the writes to one file in a thread pool, in one thread at a time.

    Args:
        pool: executor that runs the writes.
    """

    __slots__ = ("_job", "_pool", "_waiting")

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._waiting: list[_Write] = []
        self._job: asyncio.Task[None] | None = None

    async def make(self, write: Callable[[], None]) -> None:
        """Call `write` in a thread and return afterwards. An exception that it raises is passed on.

        If this is cancelled, the write may still be in progress. The caller must not change the bytes, or
        close the file, before `settle` has returned.

        Args:
            write: a function that may block.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if self._job is None:
            self._job = asyncio.create_task(self._run())
        await done

    async def settle(self) -> None:
        """Return when no write is in progress or waiting."""
        if self._job is not None:
            await asyncio.wait({self._job})

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    errors = await in_thread(self._pool, partial(_all, batch))
                except Exception as error:  # the pool has been shut down
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
    """Return the exception of `write`, also one caused by a defect, for the caller that requested it."""
    try:
        write()
    except Exception as error:
        return error
    return None
