"""The one concurrency primitive of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def at_most(
    limit: int, items: AsyncIterable[T], work: Callable[[T], Coroutine[Any, Any, None]]
) -> None:
    """Do `work` on each item, on at most `limit` at a time; the next item is asked for when one ends.

    The first exception, in `work` or in `items`, cancels the rest, waits for their end, and is raised.
    """
    running: set[asyncio.Task[None]] = set()
    room: asyncio.Future[None] | None = None  # there, while there is none
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(task: asyncio.Task[None]) -> None:
        running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            if room is not None and not room.done():
                room.set_result(None)
        elif not failed.done():
            failed.set_exception(error)

    async def feed() -> None:
        nonlocal room
        async for item in items:
            task = asyncio.create_task(work(item))
            running.add(task)
            task.add_done_callback(ended)
            while len(running) >= limit:
                room = asyncio.get_running_loop().create_future()
                await room
        while running:
            await asyncio.wait(running)
            await asyncio.sleep(0)  # lets `ended` run

    feeding = asyncio.create_task(feed())
    try:
        await asyncio.wait({feeding, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
        feeding.result()
    finally:
        await stop({feeding})
        await stop(running)
        if failed.done():
            failed.exception()  # seen, also where another error is on its way out


async def completed(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end also when cancelled, so that what was begun can be accounted for."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def stop(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel `tasks` and return when they have ended, however often the caller is cancelled meanwhile.

    Tasks that are left behind would still write to files; cancelled twice, they would lose what they
    were about to save.
    """
    remaining: set[asyncio.Future[Any]] = {task for task in tasks if not task.done()}
    for task in remaining:
        task.cancel()
    while remaining:
        with suppress(asyncio.CancelledError):
            _, remaining = await asyncio.wait(remaining)


class Scope:
    """Work of the current task that others may end: `end` stops it where it waits, and the context is left
    in silence. As asyncio.timeout(None), for which every small file would wait a tenth of its time."""

    __slots__ = ("_cancelling", "_ended", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._ended = False

    def end(self) -> None:
        """End it; nothing where it is over already."""
        if self._task is not None:
            # later: the task may be the one that runs now, and would be cancelled after it has left
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        if self._task is not None and not self._ended:
            self._ended = True
            self._task.cancel()

    def __enter__(self) -> Scope:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        task, self._task = self._task, None
        # another's cancelling, at the same time, goes on
        return (
            self._ended
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        )
