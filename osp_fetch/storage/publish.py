"""Group publish: many finished files are synced, renamed and their folders synced together.

Each step is ordered for one file (fsync, rename, fsync of the folder), and shared between files:
a thousand small files cost a few journal commits, not a thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ..model.errors import StorageError
from ..model.record import Published
from . import files
from .places import Places
from .threads import in_thread

# concurrent fsyncs share one journal commit on ext4 and xfs; more than a handful gain nothing
_SYNCERS: Final = 8
_SYNC_TOGETHER: Final = 4  # files in a row before another thread is worth its hand-over


@dataclass(frozen=True, slots=True)
class Finished:
    """A partial that is whole: `fd` is the publisher's to close, whoever waits for it or does not."""

    fd: int
    place: Path
    final: Path
    length: int


class Publisher:
    """Collects finished partials while one batch is being published, then does those together."""

    def __init__(self, places: Places, *, durable: bool) -> None:
        self._places, self._disk, self._durable = places, places.disk, durable
        self._waiting: list[tuple[Finished, asyncio.Future[Published]]] = []
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "osp-publish")
        self._syncers = ThreadPoolExecutor(_SYNCERS, "osp-sync")

    async def publish(self, finished: Finished) -> Published:
        """Return when `finished` stands under its final name for good. Raises StorageError."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((finished, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await asyncio.shield(done)

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            partials = [p for p, _ in batch]
            results: Sequence[Published | StorageError]
            try:
                results = await in_thread(self._thread, partial(self._publish, partials))
            except Exception as error:  # whoever waits must be told, whatever went wrong
                results = [StorageError(f"files cannot be put in place: {error}")] * len(batch)
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():
                    continue
                if isinstance(result, Published):
                    done.set_result(result)
                else:
                    done.set_exception(result)
                    done.exception()  # seen: whoever waited may have been cancelled

    async def close(self) -> None:
        """Finish what was begun."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()
        self._syncers.shutdown()

    def _publish(self, batch: Sequence[Finished]) -> list[Published | StorageError]:
        results: list[Published | StorageError] = []
        for finished, synced in zip(batch, self._synced(batch), strict=True):
            try:
                if isinstance(synced, OSError):
                    raise synced
                self._places.prepare(finished.final, durable=self._durable)
                self._disk.replace(finished.place, finished.final)
                results.append(synced)
            except OSError as error:
                error = self._places.explained(error)
                results.append(files.storage_error(error, f"{finished.final} cannot be put in place"))
        return results if not self._durable else self._with_names_synced(batch, results)

    def _with_names_synced(
        self, batch: Sequence[Finished], results: list[Published | StorageError]
    ) -> list[Published | StorageError]:
        failed: dict[Path, StorageError] = {}
        for folder in {
            f.final.parent for f, r in zip(batch, results, strict=True) if isinstance(r, Published)
        }:
            try:
                self._disk.sync_folder(folder)
            except OSError as error:
                failed[folder] = files.storage_error(error, f"{folder} cannot be synced")
        return [
            failed.get(f.final.parent, r) if isinstance(r, Published) else r
            for f, r in zip(batch, results, strict=True)
        ]

    def _synced(self, batch: Sequence[Finished]) -> list[Published | OSError]:
        size = max(_SYNC_TOGETHER, -(-len(batch) // _SYNCERS))
        some = [batch[at : at + size] for at in range(0, len(batch), size)]
        if len(some) == 1:
            return [self._sync(finished) for finished in batch]
        synced = self._syncers.map(lambda part: [self._sync(finished) for finished in part], some)
        return [each for part in synced for each in part]

    def _sync(self, finished: Finished) -> Published | OSError:
        try:
            try:
                if self._durable:
                    self._disk.sync(finished.fd)
                seen = self._disk.stat(finished.fd)
            finally:
                self._disk.close(finished.fd)
        except OSError as error:
            return error
        if seen.size != finished.length:
            return OSError(f"it has {seen.size} bytes, not {finished.length}")
        return seen
