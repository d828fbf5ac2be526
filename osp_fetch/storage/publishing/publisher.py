"""Group publish: files that are finished while a batch is being put in place are the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final

from ...model.errors import FetchError, StorageError
from ...model.record import Placed
from ..folder.executors import in_thread
from .batch import BatchPublisher, ReadyFile

# seconds in which further files are gathered where many come, until a third of those in hand wait (another
# is fetched, and another recorded): the fewer the batches, the less often threads and loop take the
# interpreter's lock from each other
_GATHER: Final = 0.05
_LOOKS: Final = 10


class Publisher:
    """Collects finished partials while one batch is being published, then does those together.

    `in_hand`: how many files there are that may come yet, with those that wait.
    """

    def __init__(self, placer: BatchPublisher, in_hand: Callable[[], int]) -> None:
        self._placer = placer
        self._waiting: list[tuple[ReadyFile, asyncio.Future[Placed]]] = []
        self._task: asyncio.Task[None] | None = None
        self._in_hand = in_hand
        self._many = False  # whether files come faster than one by one
        self._third = asyncio.Event()  # of what is in hand waits
        self._thread = ThreadPoolExecutor(1, "osp-publish")
        # publishes such files as are `remote` in another process; raises OSError when that is gone
        self.remote: Callable[[Sequence[ReadyFile]], list[Placed | FetchError]] | None = None

    async def publish(self, finished: ReadyFile) -> Placed:
        """Return when `finished` stands under its final name for good. Raises StorageError."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((finished, done))
        if self._enough():
            self._third.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        placed: Placed = await done
        return placed

    def _enough(self) -> bool:
        return 3 * len(self._waiting) >= self._in_hand()

    async def _work(self) -> None:
        while self._waiting:
            if self._many:
                await self._gather()
            batch, self._waiting = self._waiting, []
            self._many = len(batch) > 1
            partials = [p for p, _ in batch]
            results: Sequence[Placed | FetchError]
            try:
                results = await in_thread(self._thread, partial(self._publish, partials))
            except Exception as error:  # whoever waits must be told, whatever went wrong
                results = [StorageError(f"files cannot be put in place: {error}")] * len(batch)
            for (finished, done), result in zip(batch, results, strict=True):
                finished.over(published=isinstance(result, Placed))
                if done.done():
                    continue
                if isinstance(result, Placed):
                    done.set_result(result)
                else:
                    done.set_exception(result)
                    done.exception()  # seen: whoever waited may have been cancelled

    async def _gather(self) -> None:
        self._third.clear()
        for _ in range(_LOOKS):
            if self._enough():
                break  # also because the others have ended meanwhile
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER / _LOOKS):
                    await self._third.wait()

    async def close(self) -> None:
        """Finish what was begun."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    def _publish(self, batch: Sequence[ReadyFile]) -> list[Placed | FetchError]:
        remote, done = self.remote, dict[ReadyFile, Placed | FetchError]()
        theirs = [finished for finished in batch if finished.remote] if remote else []
        if remote and theirs:
            try:
                done.update(zip(theirs, remote(theirs), strict=True))
            except OSError:
                self.remote = None  # what it has not done, or not told, is done again
        own = [finished for finished in batch if finished not in done]
        done.update(zip(own, self._placer.publish_all(own), strict=True))
        return [done[finished] for finished in batch]
