"""Unpacks the archives of a folder in worker processes, so that the network never waits for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from ..datasets.catalogue import owner
from ..model import events
from ..model.entry import STATE_FOLDER
from ..model.errors import FetchError, Remedy, StorageError
from ..model.report import Status
from ..storage.folder.disk import Disk
from . import marks, splits
from .extract import Unpacked, UnpackJob, unpack, why_broken
from .splits import Archive


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """`into`: a folder below the output folder for all members, else each archive has its own. `flat`,
    `shard` and `delete_after` as in UnpackJob. `workers`: processes."""

    into: str = ""
    flat: bool = False
    shard: int = 0
    delete_after: bool = False
    workers: int = 0
    min_free: int = 0
    durable: bool = True

    def job(self, root: Path, archive: Archive, digests: Mapping[str, str | None] | None = None) -> UnpackJob:
        """Return what to do with `archive`. `digests`: of its pieces by path (`sha256:…`), as far as
        known."""
        known = tuple((digests or {}).get(piece) for piece in archive.pieces)
        return UnpackJob(
            str(root), archive, self.target(archive), self.flat, self.shard, self.delete_after,
            self.min_free, self.durable, known,
        )  # fmt: skip

    def target(self, archive: Archive) -> str:
        """Where its members go: what was asked, else where training wants them, else beside it."""
        if self.into:
            return self.into
        dataset = owner(archive.pieces[-1])
        return f"datasets/{dataset.media}" if dataset else archive.stem


class Unpacker:
    """Unpacks archives one by one as they become whole. An observer of a run's events, too.

    `tell` is called with each result, from any thread. `elsewhere`: whether a file that is another shard's is
    whole by now. Call `finish` at the end.
    """

    def __init__(
        self,
        root: Path,
        how: UnpackOptions,
        tell: Callable[[Unpacked], None],
        elsewhere: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._root, self._how, self._tell, self._elsewhere = root, how, tell, elsewhere
        self._digests: dict[str, str | None] = {}
        self._foreign: set[str] = set()  # files that other shards fetch
        self.waiting: list[str] = []  # archives whose other pieces are not there yet
        self._lacking: dict[str, set[str]] = {}  # archive → pieces that are not here yet
        self._archives: dict[str, Archive] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._jobs: list[tuple[Archive, Future[Unpacked]]] = []

    def expect(self, paths: Iterable[str], own: Iterable[str] | None = None) -> None:
        """Expect the files `paths`; those of an archive in pieces are waited for together.

        `own`: those among them that this run fetches, where other shards fetch the rest.
        """
        mine = None if own is None else set(own)
        for archive in splits.archives(paths):
            if mine is not None:
                foreign = set(archive.pieces) - mine
                if len(foreign) == len(archive.pieces):
                    continue  # all of it is another shard's
                self._foreign |= foreign
            self._archives[archive.name] = archive
            self._lacking[archive.name] = set(archive.pieces)

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Finished) and event.outcome.status in (Status.FETCHED, Status.PRESENT):
            self._digests[event.outcome.path] = event.outcome.digest
            self.here(event.outcome.path)

    def here(self, path: str) -> None:
        """`path` is whole and under its final name."""
        name = splits.base_of(path)
        lacking = self._lacking.get(name, set())
        if path in lacking:
            lacking.discard(path)
            if not lacking:
                self.begin(self._archives[name])

    def _look_elsewhere(self) -> None:
        """Begin what other shards have made whole meanwhile; note what still waits for them.

        The shard that ends last finds every piece, so each archive is unpacked by one of them.
        """
        for name, lacking in self._lacking.items():
            if lacking and lacking <= self._foreign:
                if all(self._elsewhere(piece) for piece in lacking):
                    lacking.clear()
                    self.begin(self._archives[name])
                else:
                    self.waiting.append(name)

    def know(self, digests: Mapping[str, str | None]) -> None:
        """Take over the digests of finished files (`sha256:…`), which tell one archive from another."""
        self._digests.update(digests)

    def begin(self, archive: Archive) -> None:
        """Unpack `archive` now, or as soon as a worker is free."""
        if self._pool is None:
            workers = self._how.workers or max(1, (os.cpu_count() or 2) // 2)
            # spawn: a fork would take along this process's event loop, locks and sockets
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                # Ctrl-C ends the workers, too, and without a word of their own
                workers,
                context,
                signal.signal,
                (signal.SIGINT, signal.SIG_DFL),
            )
        try:
            job = self._pool.submit(unpack, self._how.job(self._root, archive, self._digests))
        except BrokenProcessPool:
            self._pool = None  # a worker was ended: what it had begun starts again next time
            self.begin(archive)
            return
        job.add_done_callback(self._done)
        self._jobs.append((archive, job))

    def _done(self, job: Future[Unpacked]) -> None:
        if not job.cancelled() and job.exception() is None:
            self._tell(job.result())

    def finish(self) -> list[Unpacked]:
        """Wait for all that was begun. Raises StorageError where the disk as a whole says no. Blocks."""
        self._look_elsewhere()
        try:
            return [self._result(archive, job) for archive, job in self._jobs]
        finally:
            self.stop()

    def _result(self, archive: Archive, job: Future[Unpacked]) -> Unpacked:
        try:
            return job.result()
        except BrokenProcessPool:
            why = "the process that unpacked it was ended; run the same command again"
        except StorageError as error:
            if error.remedy is Remedy.ABORT:
                raise  # the disk's trouble: no other archive would fare better
            why = str(error)
        failed = Unpacked(archive.name, self._how.target(archive), broken=why)
        self._tell(failed)
        return failed

    def stop(self) -> None:
        """Begin nothing more, and wait for the archives under way."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def loose_archives(root: Path) -> list[str]:
    """Return the files of a folder that may be archives, for a folder that no run has fetched into.

    Left out is what was unpacked there by this tool: the tars of `--format webdataset`, archives in archives.
    Archives that were unpacked and deleted count.
    """
    found = {path.relative_to(root).as_posix() for path in _walked(root) if splits.is_piece(path.name)}
    for name, file, mark in marks.all_marks(root):
        if found:
            base = f"{mark.target}/" if mark.target else ""
            found -= {base + member.path for member in file.members()}
        if mark.deleted:
            found.add(name)
    return sorted(found)


def _walked(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in (STATE_FOLDER, ".cache")]
        yield from (Path(place, name) for name in names)


def any_marks(root: Path) -> bool:
    """Return whether anything was unpacked in a folder."""
    return next(marks.all_marks(root), None) is not None


def lost_members(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each archive that was deleted after unpacking, and those of its members that are gone since."""
    for name, file, mark in marks.all_marks(root):
        if mark.deleted and (lost := file.missing(mark, Disk())):
            yield name, lost


def try_folder(root: Path, paths: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each archive of `paths` read to its end, in processes: its name, and why it is broken, or None."""
    found = splits.archives(paths)
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [(archive.name, pool.submit(why_broken, str(root), archive)) for archive in found]
        for name, job in jobs:
            yield name, job.result()


def unpack_folder(
    root: Path,
    files: Mapping[str, str | None],
    how: UnpackOptions,
    tell: Callable[[Unpacked], None],
) -> list[Unpacked]:
    """Unpack every archive that `files` make up: paths relative to `root`, with their digests where known.

    Raises FetchError where there is none.
    """
    found = splits.archives(files)
    if not found:
        raise FetchError(f"{root}: no archive is here; known are .tar, .tar.gz, .tgz, .zip and their splits")
    unpacker = Unpacker(root, how, tell)
    unpacker.know(files)
    for archive in found:
        unpacker.begin(archive)
    return unpacker.finish()
