"""Helpers for asyncio tasks: bounded concurrency, completion, cancel scopes; and the number of cores."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Places:
    """The number of items that `at_most` may have in progress.

    An item that only waits can step aside: others are begun in its place, and it goes on beside them.

    Args:
        limit: Largest number of items in progress that have not stepped aside.
        most_aside: Largest number of items that may step aside. Further ones keep their places.
    """

    def __init__(self, limit: int, most_aside: int = 1000) -> None:
        self.limit = self._base = limit
        self._most_aside, self._aside = most_aside, 0
        self.changed: Callable[[], None] = lambda: None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give up the place of one item while the context is open."""
        counts = self._aside < self._most_aside
        self._move(counts)
        try:
            yield
        finally:
            self._move(-counts)

    def resize(self, limit: int) -> None:
        """Change the number of items in progress that have not stepped aside."""
        self.limit, self._base = self.limit + limit - self._base, limit
        self.changed()

    def _move(self, count: int) -> None:
        self._aside += count
        self.limit += count
        if count > 0:
            self.changed()


async def at_most(
    places: Places,
    items: AsyncIterable[T],
    work: Callable[[T], Coroutine[Any, Any, None]],
    extra: Callable[[], int] = lambda: 0,
) -> None:
    """Run `work` on every item, with at most `places.limit` items in progress.

    While that number of items is in progress, no further item is requested from `items`.

    Args:
        places: The number of concurrent calls of `work`. It may change meanwhile.
        items: The items. They are consumed lazily.
        work: The coroutine function to run on each item.
        extra: Returns the number of items in progress that do not count.

    Raises:
        Exception: The first exception that `work` or `items` raises. Before it is raised, all other calls
            are cancelled and awaited.
    """
    running = _Running(places, extra)

    async def feed() -> None:
        async for item in items:
            running.begin(work(item))
            await running.until_room()
        await running.until_ended()

    feeding = asyncio.create_task(feed())
    try:
        await running.watch(feeding)
    finally:
        await stop({feeding})
        await running.stop()


class _Running:
    """The tasks that `at_most` has in progress, and the first error that one of them raised.

    Args:
        places: As in `at_most`.
        extra: As in `at_most`.
    """

    def __init__(self, places: Places, extra: Callable[[], int]) -> None:
        self._places, self._extra = places, extra
        self._tasks: set[asyncio.Task[None]] = set()
        self._room: asyncio.Future[None] | None = None  # set while all places are taken
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        places.changed = self._wake

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def until_room(self) -> None:
        """Wait until another task may be begun."""
        while len(self._tasks) >= self._places.limit + self._extra():
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    async def until_ended(self) -> None:
        """Wait until all tasks have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # gives the `_ended` callbacks a chance to run

    async def watch(self, feeding: asyncio.Task[None]) -> None:
        """Wait until `feeding` has ended, or raise the first error of it and of the tasks."""
        await asyncio.wait({feeding, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        feeding.result()

    async def stop(self) -> None:
        """Cancel the tasks and wait until they have ended."""
        await stop(self._tasks)
        if self._failed.done():
            self._failed.exception()  # marks it as retrieved: another error may be propagating

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._wake()
        elif not self._failed.done():
            self._failed.set_exception(error)


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Yield an `asyncio.TaskGroup` that raises the first error of its tasks itself, not a group of errors."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


async def completed(work: Coroutine[Any, Any, object]) -> None:
    """Await `work` to its end even if the caller is cancelled, so that its effects can be recorded.

    Args:
        work: The coroutine to run. It is shielded from cancellation.

    Raises:
        asyncio.CancelledError: The caller was cancelled. It is raised after `work` has ended.
        Exception: Whatever `work` raises.
    """
    await outlast(asyncio.ensure_future(work))


async def outlast(future: asyncio.Future[T]) -> T:
    """Return the result of `future`, which is not cancelled with the caller.

    `asyncio.shield` lets a cancelled caller go on while the work goes on as well, and a task that does the
    work is cancelled itself when the event loop ends.

    Raises:
        asyncio.CancelledError: The caller was cancelled. It is raised after `future` has ended.
        Exception: Whatever `future` raises.
    """
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            cancelled = True
    result = future.result()
    if cancelled:
        raise asyncio.CancelledError
    return result


async def stop(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel `tasks` once and return when all of them have ended, even if the caller is cancelled meanwhile.

    A task that was left running could still write to files. A task that was cancelled twice could lose
    the data that it was saving.

    Args:
        tasks: The tasks to cancel. Finished tasks are ignored. Their exceptions are not raised.
    """
    remaining: set[asyncio.Future[Any]] = {task for task in tasks if not task.done()}
    for task in remaining:
        task.cancel()
    while remaining:
        with suppress(asyncio.CancelledError):
            _, remaining = await asyncio.wait(remaining)


class Scope:
    """A cancel scope: a context manager whose body other code can cancel with `end`.

    `end` cancels the body at its current `await`. The context then exits without an exception. This is
    what `asyncio.timeout(None)` does, but that costs a small file 10 % of its time.
    """

    __slots__ = ("_cancelling", "_ended", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._ended = False

    def end(self) -> None:
        """Cancel the body of the context. Do nothing if the context has already exited."""
        if self._task is not None:
            # Deferred: the task may be the running one. Cancelling it at once would take effect at its next
            # `await`, which may come after the context has exited.
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
        # a cancellation from elsewhere that arrived at the same time must propagate
        return (
            self._ended
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        )
