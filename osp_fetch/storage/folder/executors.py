"""Blocking calls in threads of our own pools, through aiofiles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Executor

# concurrent fsyncs share one journal commit on ext4 and xfs; more than a handful gain nothing
_SHARERS: Final = 8
_TOGETHER: Final = 4  # items in a row before another thread is worth its hand-over
_SWIFT: Final = 0.002  # seconds after which threads share what is left …
_SWIFT_EACH: Final = 0.0002  # … where so many of them went by for each item
S = TypeVar("S")
T = TypeVar("T")


async def in_thread(pool: Executor, function: Callable[[], T]) -> T:
    """What `function` returns, run in `pool`.

    aiofiles' file objects share one cursor and lose their handle when a task is cancelled; its
    `wrap`, given a descriptor and an offset, has neither trouble.
    """
    result: T = await _wrapped()(function, executor=pool)
    return result


def _call(function: Callable[[], T]) -> T:
    return function()


@cache
def _wrapped() -> Callable[..., Any]:
    from aiofiles import ospath  # and asyncio with it, which a clerk has no use for

    wrapped: Callable[..., Any] = ospath.wrap(_call)  # type: ignore[attr-defined]
    return wrapped


class Sharers:
    """Threads that share what waits for a disk, and only that: else they would wait for each other."""

    def __init__(self) -> None:
        self._pool: Executor | None = None  # most disks are never worth it
        self._making = threading.Lock()

    def each(
        self, work: Callable[[S], T], items: Sequence[S], slow: Callable[[float], bool] | None = None
    ) -> list[T]:
        """What `work` makes of each of `items`, in their order; blocks. Raises what `work` raises.

        `slow`: whether so many seconds an item were spent on waiting for the disk; where that is not given,
        all the time that `work` takes is.
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
        """End the threads, after what they have begun."""
        if self._pool is not None:
            self._pool.shutdown()
