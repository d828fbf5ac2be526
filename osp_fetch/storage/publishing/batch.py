"""Giving finished files their names, many together, in whatever thread or process.

Each step is ordered for one file (fsync, rename, fsync of the folder), and shared between files:
a thousand small files cost a few journal commits, not a thousand.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ...model.errors import FetchError, StorageError
from ...model.record import Placed, Published
from ..folder import ownership
from ..folder.disk import Disk, storage_error
from ..folder.executors import Sharers
from ..folder.layout import Layout
from ..folder.ownership import Decision


class ReadyFile:
    """A partial of `length` bytes at `place` that is whole and should be called `final`. `remote`: another
    process can publish it, too. `recorded`: how earlier files of that name looked that the tool itself
    wrote."""

    remote = False

    def __init__(
        self,
        fd: int,
        place: str,
        final: str,
        length: int,
        recorded: tuple[Published | None, ...] = (),
    ) -> None:
        self._fd = fd
        self.place, self.final, self.length, self.recorded = place, final, length, recorded

    def open(self) -> int:
        """Its descriptor, which is the publisher's to close, whoever waits for that or does not. May raise
        OSError and FetchErrors. For the publisher's threads."""
        return self._fd

    def abandon(self, disk: Disk) -> None:
        """Close what is open of it: it will not be published."""
        disk.close(self._fd)

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


class BatchPublisher:
    """Puts finished partials in place. Blocks; for one thread at a time.

    `overwrite`: files of the user's that are in the way are replaced instead of being kept.
    """

    def __init__(self, places: Layout, sharers: Sharers, *, durable: bool, overwrite: bool = False) -> None:
        self.places, self.disk = places, places.disk
        self._sharers, self._durable, self._overwrite = sharers, durable, overwrite

    def publish_all(self, batch: Sequence[ReadyFile]) -> list[Placed | FetchError]:
        """Give all of `batch` their final names, for good. Blocks."""
        try:
            self.places.check_there()  # once a batch: another folder may have taken the place of ours
        except OSError as error:
            gone = storage_error(error, f"{self.places.root} cannot be written")
            for finished in batch:
                finished.abandon(self.disk)
            return [gone] * len(batch)
        results: list[Placed | FetchError] = []
        waits = _Waits()

        def sync(finished: ReadyFile) -> Published | OSError | FetchError:
            return self._sync(finished, waits)

        for finished, synced in zip(batch, self._sharers.each(sync, batch, waits.more_than), strict=True):
            try:
                if isinstance(synced, OSError):
                    raise synced
                if isinstance(synced, FetchError):
                    results.append(synced)
                else:
                    results.append(Placed(synced, self._move(finished)))
            except OSError as error:
                error = self.places.explained(error)
                results.append(storage_error(error, f"{finished.final} cannot be put in place"))
        return results if not self._durable else self._with_names_synced(batch, results)

    def _move(self, finished: ReadyFile) -> str | None:
        """Give a partial its final name; return where the user's own file of that name is kept now."""
        self.places.check(finished.final)
        try:
            self.disk.rename_new(finished.place, finished.final)
            return None
        except FileNotFoundError:
            self.places.prepare(finished.final, durable=self._durable)
            self.disk.rename_new(finished.place, finished.final)
            return None
        except FileExistsError:
            return self._move_over(finished)

    def _move_over(self, finished: ReadyFile) -> str | None:
        kept = None
        existing = self.disk.existing(finished.final)
        match ownership.over_fetched(existing, finished.recorded, overwrite=self._overwrite):
            case Decision.REFUSE:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), finished.final)
            case Decision.REPLACE:
                self.disk.replace(finished.place, finished.final)
            case Decision.KEEP:
                kept = ownership.set_aside(self.disk, self.places.root, self.places.path_of(finished.final))
                self.disk.rename_new(finished.place, finished.final)
            case _:
                self.disk.rename_new(finished.place, finished.final)
        return kept

    def _with_names_synced(
        self, batch: Sequence[ReadyFile], results: list[Placed | FetchError]
    ) -> list[Placed | FetchError]:
        synced: dict[str, StorageError | None] = {}
        for number, (finished, result) in enumerate(zip(batch, results, strict=True)):
            if not isinstance(result, Placed):
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
            return storage_error(error, f"{folder} cannot be synced")
        return None

    def _sync(self, finished: ReadyFile, waits: _Waits) -> Published | OSError | FetchError:
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
