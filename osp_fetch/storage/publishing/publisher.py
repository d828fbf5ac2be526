"""Group publishing: files that are finished while a batch is being published form the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final

from ...model.errors import FetchError, StorageError
from ...model.record import Placed
from ..folder.executors import served_in_thread
from .batch import BatchPublisher, ReadyFile

# Seconds for which a batch waits for further files when many are finished, at most until a third of the files
# in progress wait (of the others, a third is being fetched and a third recorded). Fewer batches mean that
# threads and event loop compete less often for the interpreter lock.
_GATHER: Final = 0.05
_LOOKS: Final = 10  # checks in that time, because the number of files in progress changes


class Publisher:
    """The publisher of finished files, which collects them while one batch is being published.

    Args:
        placer: publishes one batch.
        in_hand: returns the number of files in progress, including those that wait to be published.

    Attributes:
        remote: publishes the files whose `remote` is true in another process; raises OSError if that process
            has ended. None if there is no such process.
    """

    def __init__(self, placer: BatchPublisher, in_hand: Callable[[], int]) -> None:
        self._placer = placer
        self._waiting: list[tuple[ReadyFile, asyncio.Future[Placed]]] = []
        self._task: asyncio.Task[None] | None = None
        self._in_hand = in_hand
        self._many = False  # whether the last batch had more than one file
        self._third = asyncio.Event()  # set when a third of the files in progress wait
        self._thread = ThreadPoolExecutor(1, "osp-publish")
        self.remote: Callable[[Sequence[ReadyFile]], list[Placed | FetchError]] | None = None

    async def publish(self, finished: ReadyFile) -> Placed:
        """Publish one file. When this returns, the file survives a power loss under its final name.

        Args:
            finished: the complete partial.

        Returns:
            The state of the published file, and the path of a file of the user that was moved out of the way.

        Raises:
            StorageError: the file cannot be published.
            IntegrityError: a small file does not have the digest that the manifest states.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((finished, done))
        if self._enough():
            self._third.set()
        if self._task is None or self._task.done():
            self._begin()
        placed: Placed = await done
        return placed

    def _enough(self) -> bool:
        return 3 * len(self._waiting) >= self._in_hand()

    def _begin(self, ended: asyncio.Task[None] | None = None) -> None:
        """Begin to work, unless nothing waits; also after a task that the end of the event loop has ended."""
        if self._waiting:
            self._task = asyncio.create_task(self._work())
            self._task.add_done_callback(self._begin)

    async def _work(self) -> None:
        while self._waiting:
            if self._many:
                await self._gather()
            batch, self._waiting = self._waiting, []
            self._many = len(batch) > 1
            partials = [p for p, _ in batch]
            results: Sequence[Placed | FetchError]
            try:
                results = await served_in_thread(self._thread, partial(self._publish, partials))
            except Exception as error:  # each waiting caller must get a result, whatever failed
                results = [StorageError(f"files cannot be put in place: {error}")] * len(batch)
            for (finished, done), result in zip(batch, results, strict=True):
                finished.over(published=isinstance(result, Placed))
                if done.done():
                    continue
                if isinstance(result, Placed):
                    done.set_result(result)
                else:
                    done.set_exception(result)
                    done.exception()  # marks it as retrieved: the caller may have been cancelled

    async def _gather(self) -> None:
        self._third.clear()
        for _ in range(_LOOKS):
            if self._enough():
                break  # the number of files in progress may have fallen meanwhile
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER / _LOOKS):
                    await self._third.wait()

    async def close(self) -> None:
        """Publish the files that wait, then stop the thread."""
        if self._task is not None:
            await asyncio.wait({self._task})  # it may have been cancelled with the event loop
        self._thread.shutdown()

    def _publish(self, batch: Sequence[ReadyFile]) -> list[Placed | FetchError]:
        remote, done = self.remote, dict[ReadyFile, Placed | FetchError]()
        theirs = [finished for finished in batch if finished.remote] if remote else []
        if remote and theirs:
            try:
                done.update(zip(theirs, remote(theirs), strict=True))
            except OSError:
                self.remote = None  # files without a result from it are published here
        own = [finished for finished in batch if finished not in done]
        done.update(zip(own, self._placer.publish_all(own), strict=True))
        return [done[finished] for finished in batch]
