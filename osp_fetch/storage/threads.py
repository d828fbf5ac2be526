"""Blocking calls in threads of our own pools, through aiofiles."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from aiofiles import ospath

T = TypeVar("T")


async def in_thread(pool: Executor, function: Callable[[], T]) -> T:
    """What `function` returns, run in `pool`.

    aiofiles' file objects share one cursor and lose their handle when a task is cancelled; its
    `wrap`, given a descriptor and an offset, has neither trouble.
    """
    result: T = await _wrapped(function, executor=pool)
    return result


def _call(function: Callable[[], T]) -> T:
    return function()


_wrapped = ospath.wrap(_call)  # type: ignore[attr-defined]
