"""Run blocking calls in the store's own thread pools, through aiofiles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Executor

# Threads. Concurrent fsyncs share one journal commit on ext4 and xfs; more than a few gain nothing.
_SHARERS: Final = 8
# Minimum number of items for one thread; fewer do not pay for the hand-over.
_TOGETHER: Final = 4
# Seconds after which threads share the remaining items …
_SWIFT: Final = 0.002
# … if each item took more than this many seconds. Sharing a batch of fast items gains nothing. With 0.5 ms
# added to each stat, 20,000 files took 9 to 10 s in threads instead of 20 to 23 s.
_SWIFT_EACH: Final = 0.0002
S = TypeVar("S")
T = TypeVar("T")


async def in_thread(pool: Executor, function: Callable[[], T]) -> T:
    """Call `function` in a thread of `pool` and return its result.

    This uses only `wrap` of aiofiles, with functions that take a descriptor and an offset. The file objects
    of aiofiles share one cursor, and lose their handle when a task is cancelled.

    Args:
        pool: executor that runs the function.
        function: a function that may block. An exception that it raises is passed on.

    Raises:
        asyncio.CancelledError: the caller was cancelled. If the function had begun, it has ended.
    """
    result: T = await _wrapped()(function, executor=pool, loop=_Calls)
    return result


async def served_in_thread(pool: Executor, function: Callable[[], T]) -> T:
    """Do what `in_thread` does, and ignore cancellations.

    This is for tasks that serve several callers. Nothing cancels them but the end of the event loop, which
    cancels every task at once.
    """
    import asyncio

    from ...concurrency import outlast

    call = pool.submit(function)
    with suppress(asyncio.CancelledError):
        await outlast(asyncio.wrap_future(call))
    return call.result()


class _Calls:
    """What aiofiles takes for an event loop. Those of asyncio leave a thread alone at a cancellation."""

    @staticmethod
    async def run_in_executor(pool: Executor, function: Callable[[], T]) -> T:
        import asyncio

        from ...concurrency import outlast

        call = pool.submit(function)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            if not call.cancelled():
                with suppress(asyncio.CancelledError, Exception):
                    await outlast(asyncio.wrap_future(call))
            raise


def _call(function: Callable[[], T]) -> T:
    return function()


@cache
def _wrapped() -> Callable[..., Any]:
    from aiofiles import ospath  # imports asyncio, which the helper process does not need

    wrapped: Callable[..., Any] = ospath.wrap(_call)  # type: ignore[attr-defined]
    return wrapped


class Sharers:
    """Threads that share work which waits for a disk.

    Other work gains nothing from them, because its threads would wait for each other's interpreter lock.
    """

    def __init__(self) -> None:
        self._pool: Executor | None = None  # created on first use: most disks are fast enough without it
        self._making = threading.Lock()

    def each(
        self, work: Callable[[S], T], items: Sequence[S], slow: Callable[[float], bool] | None = None
    ) -> list[T]:
        """Return `work(item)` for each item, in order. Blocks; an exception of `work` is passed on.

        The calling thread processes the first items. If they prove slow, threads share the rest.

        Args:
            work: function to apply; it must be safe to call in several threads.
            items: its arguments.
            slow: returns whether more than the given number of seconds for each item was spent on waiting for
                the disk. By default the complete time of `work` counts.
        """
        begun = time.monotonic()
        done: list[T] = []
        for item in items:
            if time.monotonic() - begun > _SWIFT and (slow or self._slow(begun, len(done)))(_SWIFT_EACH):
                break
            done.append(work(item))
        left = items[len(done) :]
        size = max(_TOGETHER, -(-len(left) // _SHARERS))
        some = [left[at : at + size] for at in range(0, len(left), size)]
        each = self._threads().map if len(some) > 1 else map
        for results in each(lambda part: [work(item) for item in part], some):
            done.extend(results)
        return done

    def _threads(self) -> Executor:
        from concurrent.futures import ThreadPoolExecutor

        with self._making:
            self._pool = self._pool or ThreadPoolExecutor(_SHARERS, "osp-share")
            return self._pool

    @staticmethod
    def _slow(begun: float, count: int) -> Callable[[float], bool]:
        return lambda each: time.monotonic() - begun > each * count

    def close(self) -> None:
        """Wait for the running work and end the threads."""
        if self._pool is not None:
            self._pool.shutdown()
