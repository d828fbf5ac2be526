"""Giving finished files their names, many together, in whatever thread or process.

Each step is ordered for one file (fsync, rename, fsync of the folder), and shared between files:
a thousand small files cost a few journal commits, not a thousand.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..model.errors import FetchError, StorageError
from ..model.record import Published
from . import files
from .places import Places
from .threads import Sharers


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


class Placer:
    """Puts finished partials in place. Blocks; for one thread at a time."""

    def __init__(self, places: Places, sharers: Sharers, *, durable: bool) -> None:
        self.places, self.disk = places, places.disk
        self._sharers, self._durable = sharers, durable

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
                error = self.places.explained(error)
                results.append(files.storage_error(error, f"{finished.final} cannot be put in place"))
        return results if not self._durable else self._with_names_synced(batch, results)

    def _move(self, finished: Finished) -> None:
        self.places.check(finished.final)
        try:
            self.disk.replace(finished.place, finished.final)
        except FileNotFoundError:
            self.places.prepare(finished.final, durable=self._durable)
            self.disk.replace(finished.place, finished.final)

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
            self.disk.sync_folder(folder)
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
                    self.disk.sync(fd)
                waits.add(time.monotonic() - opened, opened - begun)
                seen = self.disk.stat(fd)
            finally:
                self.disk.close(fd)
        except (OSError, FetchError) as error:
            return error
        if seen.size != finished.length:
            return OSError(f"it has {seen.size} bytes, not {finished.length}")
        return seen
