"""Publish complete partials in batches. This module runs in any thread or process.

For each file the order is fsync(file), rename, fsync(folder). The steps are shared between the files of a
batch: a thousand small files cost a few journal commits of the file system, not a thousand.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from ...model.errors import FetchError, StorageError
from ...model.record import Placed, Published
from ..folder import ownership
from ..folder.disk import Disk, Existing, storage_error
from ..folder.executors import Sharers
from ..folder.layout import Layout, folder_of
from ..folder.ownership import Decision

# The form of dates that servers should send (IMF-fixdate, RFC 9110 section 5.6.7).
_USUAL_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
)
_MONTHS: Final = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1)
}


class ReadyFile:
    """A complete partial that is ready for its final name.

    Attributes:
        remote: whether another process can publish it as well.
        place: path of the partial.
        final: final path.
        length: length in bytes.
        recorded: how files of that name looked that earlier runs of osp-fetch published.
        modified: the Last-Modified of the server, which becomes the modification time; None to leave it.
    """

    remote = False

    def __init__(
        self,
        fd: int,
        place: str,
        final: str,
        length: int,
        recorded: tuple[Published | None, ...] = (),
        modified: str | None = None,
    ) -> None:
        self._fd = fd
        self.place, self.final, self.length, self.recorded = place, final, length, recorded
        self.modified = modified

    def open(self) -> int:
        """Return the file descriptor. The publisher owns it and closes it in every case.

        Called in a thread of the publisher.

        Raises:
            FetchError: a subclass writes or verifies its bytes here, and that failed.
            OSError: a system call failed.
        """
        return self._fd

    def abandon(self, disk: Disk) -> None:
        """Close the descriptor of a file that will not be published."""
        disk.close(self._fd)

    def over(self, *, published: bool) -> None:
        """Release resources after the file was published, or could not be. Called on the event loop."""


def modification_time(text: str, now: float) -> int | None:
    """Return the time that a Last-Modified header states (RFC 9110 section 8.8.2), in Unix nanoseconds.

    Args:
        text: the value of the header.
        now: current time in Unix seconds.

    Returns:
        The time; None if the text is no date, or a date that cannot be true: after `now`, or not after 1970,
        which servers send for files whose time they do not know.
    """
    seconds = _seconds(text)
    return seconds * 1_000_000_000 if seconds is not None and 86_400 <= seconds <= now else None


@lru_cache(maxsize=4096)
def _seconds(text: str) -> int | None:
    """Return a date in Unix seconds, None if `text` is none. Files of one dataset share many dates."""
    usual = _USUAL_DATE.fullmatch(text)
    try:
        if usual:  # 4× faster, once for each small file
            day, year, hour, minute, second = map(int, usual.group(1, 3, 4, 5, 6))
            stated = datetime(year, _MONTHS[usual[2]], day, hour, minute, second, tzinfo=UTC)
        else:
            stated = parsedate_to_datetime(text)
        return int((stated if stated.tzinfo else stated.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, TypeError, IndexError, KeyError):
        return None


class _Waits:
    """Estimate of the time that a thread has waited for the disk.

    The estimate is the time of the sync minus the time of the write. The write waits for the
    interpreter's lock at least as often as the sync, and beside a busy event loop that wait is most of both.
    """

    def __init__(self) -> None:
        self._count, self._seconds = 0, 0.0

    def add(self, syncing: float, filling: float) -> None:
        """Add one file, with the seconds of its sync and of its write."""
        self._count += 1
        self._seconds += syncing - filling

    def more_than(self, each: float) -> bool:
        """Return whether the mean wait for a file exceeds `each` seconds."""
        return self._seconds > each * self._count


class BatchPublisher:
    """Publishes complete partials. All methods block; not safe for two threads at once.

    Args:
        places: layout of the output folder.
        sharers: threads that share the syncs of a slow disk.
        durable: whether files and names are synced, so that they survive a power loss.
        overwrite: whether the user's own files under a final name are replaced instead of kept.
    """

    def __init__(self, places: Layout, sharers: Sharers, *, durable: bool, overwrite: bool = False) -> None:
        self.places, self.disk = places, places.disk
        self._sharers, self._durable, self._overwrite = sharers, durable, overwrite

    def publish_all(self, batch: Sequence[ReadyFile]) -> list[Placed | FetchError]:
        """Publish every file of `batch`, and sync the names if durability is required.

        Returns:
            One result for each file, in order: how it was published, or the error. An error of one file does
            not affect the others.
        """
        try:
            self.places.check_there()  # a file system may have been mounted or unmounted at the output folder
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
        """Rename a partial to its final name; return where the user's own file was moved, if any.

        Raises:
            IsADirectoryError: a folder has taken the place of the partial, or of the final name.
            OSError: a system call failed.
        """
        self.places.check(finished.final)
        existing = self.disk.existing(finished.place)
        if existing is not None and existing.kind == "folder":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), finished.place)
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
        # the same bytes: a helper process may have published them, and died before it said so
        overwrite = self._overwrite or self._is_same(finished, existing)
        match ownership.over_fetched(existing, finished.recorded, overwrite=overwrite):
            case Decision.REFUSE:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), finished.final)
            case Decision.REPLACE:
                self.disk.replace(finished.place, finished.final)
            case Decision.KEEP:
                kept = ownership.set_aside(self.disk, self.places.root, self.places.path_of(finished.final))
                try:
                    self.disk.rename_new(finished.place, finished.final)
                except OSError:
                    with suppress(OSError):  # else it would be gone from its name, and no message names it
                        self.disk.rename_new(os.path.join(self.places.root, kept), finished.final)
                    raise
            case _:
                self.disk.rename_new(finished.place, finished.final)
        return kept

    def _is_same(self, finished: ReadyFile, existing: Existing | None) -> bool:
        if not finished.remote or existing is None or existing.size != finished.length:
            return False
        return existing.kind == "file" and self.disk.same(finished.place, finished.final)

    def _with_names_synced(
        self, batch: Sequence[ReadyFile], results: list[Placed | FetchError]
    ) -> list[Placed | FetchError]:
        synced: dict[str, StorageError | None] = {}
        for number, (finished, result) in enumerate(zip(batch, results, strict=True)):
            if not isinstance(result, Placed):
                continue
            folder = folder_of(finished.final)
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
                if finished.modified and (when := modification_time(finished.modified, time.time())):
                    with suppress(OSError):  # EPERM: the partial belongs to another user of the group
                        self.disk.set_modified(fd, when)
                if self._durable:
                    self.disk.sync(fd)
                waits.add(time.monotonic() - opened, opened - begun)
                seen = self.disk.stat(fd)
            finally:
                self.disk.close(fd)
        except (OSError, FetchError) as error:
            return error
        if seen.size != finished.length:
            return OSError(f"it has {seen.size} bytes instead of {finished.length}")
        return seen
