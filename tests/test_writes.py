"""Tests of writes to one file: one at a time; those that wait are made together; each has its own result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from osp_fetch.storage.folder.writes import Writes


class Pool(ThreadPoolExecutor):
    """A thread pool that counts its submissions."""

    hops = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.hops += 1
        return super().submit(fn, *args, **kwargs)


class Slow:
    """A file that writes once `may` is set.

    It raises if two writes overlap in time, and the error in `broken` for an offset.
    """

    def __init__(self) -> None:
        self.may, self.begun = threading.Event(), threading.Event()
        self.broken: dict[int, Exception] = {}
        self.made: list[tuple[int, bytes]] = []
        self._one = threading.Lock()

    def make(self, offset: int, data: bytes | memoryview) -> None:
        assert self._one.acquire(blocking=False), "two at once"
        try:
            self.begun.set()
            assert self.may.wait(20)
            if offset in self.broken:
                raise self.broken[offset]
            self.made.append((offset, bytes(data)))
        finally:
            self._one.release()


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(4) as made:
        yield made


async def begun(slow: Slow) -> None:
    assert await asyncio.to_thread(slow.begun.wait, 20)


async def test_what_waits_is_written_in_one_hop_in_its_order(pool: Pool) -> None:
    slow = Slow()
    writes = Writes(pool)
    first = asyncio.create_task(writes.make(partial(slow.make, 0, b"0")))
    await begun(slow)
    others = [asyncio.create_task(writes.make(partial(slow.make, n, b"%d" % n))) for n in range(1, 9)]
    await asyncio.sleep(0)
    slow.may.set()
    await asyncio.gather(first, *others)
    assert slow.made == [(n, b"%d" % n) for n in range(9)]
    assert pool.hops == 2
    await writes.settle()


async def test_one_that_fails_takes_no_other_with_it(pool: Pool) -> None:
    slow = Slow()
    slow.broken = {1: OSError(28, "full"), 3: ZeroDivisionError()}
    slow.may.set()
    writes = Writes(pool)
    ends = await asyncio.gather(
        *(writes.make(partial(slow.make, n, b"x")) for n in range(5)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [type(None), OSError, type(None), ZeroDivisionError, type(None)]
    assert [offset for offset, _ in slow.made] == [0, 2, 4]
    await writes.make(partial(slow.make, 1 << 20, b"again"))


async def test_settle_waits_for_what_the_cancelled_left(pool: Pool) -> None:
    slow = Slow()
    writes = Writes(pool)
    tasks = [asyncio.create_task(writes.make(partial(slow.make, n, b"x"))) for n in range(3)]
    await begun(slow)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    settled = asyncio.create_task(writes.settle())
    await asyncio.sleep(0)
    assert not settled.done()
    slow.may.set()
    await settled
    assert [offset for offset, _ in slow.made] == [0, 1, 2]


async def test_a_pool_that_is_shut_is_told(pool: Pool) -> None:
    pool.shutdown()
    with pytest.raises(RuntimeError):
        await Writes(pool).make(partial(Slow().make, 0, b"x"))
