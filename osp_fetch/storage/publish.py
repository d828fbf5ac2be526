"""Group publish: many finished files are synced, renamed and their folders synced together.

Each step is ordered for one file (fsync, rename, fsync of the folder), and shared between files:
a thousand small files cost a few journal commits, not a thousand.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from ..model.errors import FetchError, StorageError
from ..model.record import Published
from . import files
from .places import Places
from .threads import Sharers, in_thread

# seconds in which further files are gathered where many come, until a third of those in hand wait (another
# is fetched, and another recorded): the fewer the batches, the less often threads and loop take the
# interpreter's lock from each other
_GATHER: Final = 0.05


class Finished:
    """A partial of `length` bytes at `place` that is whole and should be called `final`. `remote`: another
    process can publish it, too."""

    remote = False

    def __init__(self, fd: int, place: str, final: str, length: int) -> None:
        self._fd = fd
        self.place, self.final, self.length = place, final, length

    def open(self) -> int:
        """Its descriptor, which is the publisher's to close, whoever waits for that or does not. May raise
        OSError and FetchErrors. For the publisher's threads."""
        return self._fd

    def over(self, *, published: bool) -> None:
        """It is, or cannot be; on the event loop."""


class _Waits:
    """How long a thread has waited for the disk: what syncing a file took longer than filling it, which
    waits for the interpreter's lock at least as often. Beside a busy loop that wait is most of both."""

    def __init__(self) -> None:
        self._count, self._seconds = 0, 0.0

    def add(self, syncing: float, filling: float) -> None:
        self._count += 1
        self._seconds += syncing - filling

    def more_than(self, each: float) -> bool:
        return self._seconds > each * self._count


class Publisher:
    """Collects finished partials while one batch is being published, then does those together.

    `in_hand`: how many files there are that may come yet, with those that wait.
    """

    def __init__(
        self, places: Places, sharers: Sharers, in_hand: Callable[[], int], *, durable: bool
    ) -> None:
        self._places, self._disk, self._durable = places, places.disk, durable
        self._sharers = sharers
        self._waiting: list[tuple[Finished, asyncio.Future[Published]]] = []
        self._task: asyncio.Task[None] | None = None
        self._in_hand = in_hand
        self._many = False  # whether files come faster than one by one
        self._third = asyncio.Event()  # of what is in hand waits
        self._thread = ThreadPoolExecutor(1, "osp-publish")
        # publishes such files as are `remote` in another process; raises OSError when that is gone
        self.remote: Callable[[Sequence[Finished]], list[Published | FetchError]] | None = None

    async def publish(self, finished: Finished) -> Published:
        """Return when `finished` stands under its final name for good. Raises StorageError."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((finished, done))
        if 3 * len(self._waiting) >= self._in_hand():
            self._third.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        published: Published = await done
        return published

    async def _work(self) -> None:
        while self._waiting:
            if self._many:
                await self._gather()
            batch, self._waiting = self._waiting, []
            self._many = len(batch) > 1
            partials = [p for p, _ in batch]
            results: Sequence[Published | FetchError]
            try:
                results = await in_thread(self._thread, partial(self._publish, partials))
            except Exception as error:  # whoever waits must be told, whatever went wrong
                results = [StorageError(f"files cannot be put in place: {error}")] * len(batch)
            for (finished, done), result in zip(batch, results, strict=True):
                finished.over(published=isinstance(result, Published))
                if done.done():
                    continue
                if isinstance(result, Published):
                    done.set_result(result)
                else:
                    done.set_exception(result)
                    done.exception()  # seen: whoever waited may have been cancelled

    async def _gather(self) -> None:
        self._third.clear()
        if 3 * len(self._waiting) < self._in_hand():
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER):
                    await self._third.wait()

    async def close(self) -> None:
        """Finish what was begun."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    def _publish(self, batch: Sequence[Finished]) -> list[Published | FetchError]:
        remote, done = self.remote, dict[Finished, Published | FetchError]()
        theirs = [finished for finished in batch if finished.remote] if remote else []
        if remote and theirs:
            try:
                done.update(zip(theirs, remote(theirs), strict=True))
            except OSError:
                self.remote = None  # what it has not done, or not told, is done again
        own = [finished for finished in batch if finished not in done]
        done.update(zip(own, self.publish_all(own), strict=True))
        return [done[finished] for finished in batch]

    def publish_all(self, batch: Sequence[Finished]) -> list[Published | FetchError]:
        """Give all of `batch` their final names, for good. Blocks."""
        results: list[Published | FetchError] = []
        waits = _Waits()

        def sync(finished: Finished) -> Published | OSError | FetchError:
            return self._sync(finished, waits)

        for finished, synced in zip(batch, self._sharers.each(sync, batch, waits.more_than), strict=True):
            try:
                if isinstance(synced, OSError):
                    raise synced
                if isinstance(synced, Published):
                    self._move(finished)
                results.append(synced)
            except OSError as error:
                error = self._places.explained(error)
                results.append(files.storage_error(error, f"{finished.final} cannot be put in place"))
        return results if not self._durable else self._with_names_synced(batch, results)

    def _move(self, finished: Finished) -> None:
        self._places.check(finished.final)
        try:
            self._disk.replace(finished.place, finished.final)
        except FileNotFoundError:
            self._places.prepare(finished.final, durable=self._durable)
            self._disk.replace(finished.place, finished.final)

    def _with_names_synced(
        self, batch: Sequence[Finished], results: list[Published | FetchError]
    ) -> list[Published | FetchError]:
        synced: dict[str, StorageError | None] = {}
        for number, (finished, result) in enumerate(zip(batch, results, strict=True)):
            if not isinstance(result, Published):
                continue
            folder = os.path.dirname(finished.final)
            if folder not in synced:
                synced[folder] = self._name_synced(Path(folder))
            results[number] = synced[folder] or result
        return results

    def _name_synced(self, folder: Path) -> StorageError | None:
        try:
            self._disk.sync_folder(folder)
        except OSError as error:
            return files.storage_error(error, f"{folder} cannot be synced")
        return None

    def _sync(self, finished: Finished, waits: _Waits) -> Published | OSError | FetchError:
        try:
            begun = time.monotonic()
            fd = finished.open()
            try:
                opened = time.monotonic()
                if self._durable:
                    self._disk.sync(fd)
                waits.add(time.monotonic() - opened, opened - begun)
                seen = self._disk.stat(fd)
            finally:
                self._disk.close(fd)
        except (OSError, FetchError) as error:
            return error
        if seen.size != finished.length:
            return OSError(f"it has {seen.size} bytes, not {finished.length}")
        return seen
