"""Group writes to one file: writes that arrive while others are in progress form the next batch.

The kernel executes writes to one file one at a time, and waiting threads spin. Each hop to a thread and back
also costs milliseconds of waiting for the interpreter's lock and for the event loop, and the cost grows with
the number of connections. With 64 connections, one hop for each write limited a file to 140 MB/s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial

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
        # not a task: those are cancelled when the event loop ends, while their thread goes on
        self._job: asyncio.Future[list[Exception | None]] | None = None

    async def make(self, write: Callable[[], None]) -> None:
        """Call `write` in a thread and return afterwards. An exception that it raises is passed on.

        If this is cancelled, the write may still be in progress. The caller must not change the bytes, or
        close the file, before `settle` has returned.

        Args:
            write: a function that may block.
        """
        await self.begin(write)

    def begin(self, write: Callable[[], None]) -> asyncio.Future[None]:
        """Do what `make` does, and return a future of it."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if self._job is None:
            self._begin()
        return done

    async def settle(self) -> None:
        """Return when no write is in progress or waiting."""
        while self._job is not None:
            await asyncio.wait({self._job})

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            self._job = asyncio.get_running_loop().run_in_executor(self._pool, partial(_all, batch))
        except RuntimeError as error:  # the pool has been shut down
            _end(batch, [error] * len(batch))
        else:
            self._job.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: list[_Write], job: asyncio.Future[list[Exception | None]]) -> None:
        _end(batch, job.result())
        self._job = None
        if self._waiting:
            self._begin()


def _end(batch: list[_Write], errors: Sequence[Exception | None]) -> None:
    for (_, done), failed in zip(batch, errors, strict=True):
        if done.cancelled():
            continue
        if failed is None:
            done.set_result(None)
        else:
            done.set_exception(failed)


def _all(batch: list[_Write]) -> list[Exception | None]:
    return [_error(write) for write, _ in batch]


def _error(write: Callable[[], None]) -> Exception | None:
    """Return the exception of `write`, also one caused by a defect, for the caller that requested it."""
    try:
        write()
    except Exception as error:
        return error
    return None
