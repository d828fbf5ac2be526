"""Unpacks the archives of a folder in worker processes, so that transfers do not wait for unpacking."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

from ..datasets.catalogue import owner
from ..model import events
from ..model.dataclasses import dataclass
from ..model.entry import STATE_FOLDER
from ..model.errors import FetchError, Remedy, StorageError
from ..model.report import Status
from ..model.settings import Settings
from ..storage.destination import Destination
from ..storage.folder.disk import Disk, files_below
from ..storage.folder.heartbeat import Heartbeat
from . import marks, splits
from .extract import Unpacked, UnpackJob, unpack
from .read import why_broken
from .splits import Archive

SUPPORTED = (
    "archives are files named .tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst, .tgz or .zip, and their pieces"
)
"""Names of archives, for messages."""
UNPACKING = "unpacking"
"""Name of the file in `.osp-fetch/` that is touched while archives are unpacked."""


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """How to unpack the archives of a folder.

    Attributes:
        into: a folder for all members, relative to the output folder; empty: see `target`.
        flat: whether to drop the members' folders.
        shard: bytes of a WebDataset tar; 0 to write the members as files.
        delete_after: whether to delete each archive when its members are safe.
        workers: the number of processes; 0 for half the number of CPUs.
        min_free: bytes that must stay free on the disk.
        durable: whether the members must survive a power loss.
        is_current: whether the source of each piece has been asked if it has changed, as `--update` does. If
            not, pieces of two versions are refused.
    """

    into: str = ""
    flat: bool = False
    shard: int = 0
    delete_after: bool = False
    workers: int = 0
    min_free: int = 0
    durable: bool = True
    is_current: bool = False

    def job(self, root: Path, archive: Archive, digests: Mapping[str, str | None] | None = None) -> UnpackJob:
        """Return the job for one archive.

        Args:
            root: the output folder.
            archive: the archive, with paths relative to `root`.
            digests: path of a piece → its digest (`sha256:…`), as far as known.
        """
        known = tuple((digests or {}).get(piece) for piece in archive.pieces)
        return UnpackJob(
            str(root), archive, self.target(archive), self.flat, self.shard, self.delete_after,
            self.min_free, self.durable, known, self.is_current,
        )  # fmt: skip

    def target(self, archive: Archive) -> str:
        """Return the folder for an archive's members, relative to the output folder.

        It is `into`, or the folder of the dataset to which the archive belongs, or the archive's name without
        its suffix.
        """
        if self.into:
            return self.into
        dataset = owner(archive.pieces[-1])
        return f"datasets/{dataset.media}" if dataset else archive.stem


def begin_worker() -> None:
    """Prepare a process that unpacks or tests archives: it ends with Ctrl-C, and with its parent process.

    It would wait for work for ever if the run is killed: it holds the other end of its own queue, too.
    """
    # with the default handler, Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)  # what it was writing is not published; the next run begins that archive anew

    threading.Thread(target=watch, daemon=True).start()


class Unpacker:
    """Unpacks each archive as soon as it is complete; also an observer of a run's events.

    Call `finish` at the end.

    Args:
        root: the output folder.
        how: the options.
        tell: called with each result, from any thread.
        elsewhere: returns whether a file that another shard fetches is complete now.
        bucket: the bucket of the archives, and how it is reached; `root` then only keeps the state.
    """

    def __init__(
        self,
        root: Path,
        how: UnpackOptions,
        tell: Callable[[Unpacked], None],
        elsewhere: Callable[[str], bool] = lambda _: False,
        bucket: tuple[Destination, Settings] | None = None,
    ) -> None:
        self._root, self._how, self._tell, self._elsewhere = root, how, tell, elsewhere
        self._bucket = bucket
        self._digests: dict[str, str | None] = {}
        self._foreign: set[str] = set()  # files that other shards fetch
        self.waiting: list[str] = []  # archives with pieces that other shards have not completed
        self._missing: dict[str, set[str]] = {}  # archive → pieces that are not complete
        self._archives: dict[str, Archive] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._jobs: list[tuple[Archive, Future[Unpacked]]] = []
        self._heartbeat: Heartbeat | None = None

    def expect(self, paths: Iterable[str], own: Iterable[str] | None = None) -> None:
        """Register the files of the run; an archive in pieces starts when all pieces are complete.

        Args:
            paths: all files of the manifest.
            own: the files that this run fetches, if other shards fetch the rest; None means all.
        """
        mine = None if own is None else set(own)
        for archive in splits.archives(paths):
            if mine is not None:
                foreign = set(archive.pieces) - mine
                if len(foreign) == len(archive.pieces):
                    continue  # another shard fetches and unpacks all of it
                self._foreign |= foreign
            self._archives[archive.name] = archive
            self._missing[archive.name] = set(archive.pieces)

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Finished) and event.outcome.status in (Status.FETCHED, Status.PRESENT):
            self._digests[event.outcome.path] = event.outcome.digest
            self.here(event.outcome.path)

    def here(self, path: str) -> None:
        """Record that `path` is published, and start its archive if that is complete now."""
        name = splits.base_of(path)
        missing = self._missing.get(name, set())
        if path in missing:
            missing.discard(path)
            if not missing:
                self.begin(self._archives[name])

    def _look_elsewhere(self) -> None:
        """Start the archives whose pieces other shards have completed; put the others on `waiting`.

        The shard that ends last finds every piece, so each archive is unpacked by one shard.
        """
        for name, missing in self._missing.items():
            if missing and missing <= self._foreign:
                if all(self._elsewhere(piece) for piece in missing):
                    missing.clear()
                    self.begin(self._archives[name])
                else:
                    self.waiting.append(name)

    def know(self, digests: Mapping[str, str | None]) -> None:
        """Add the digests of finished files (path → `sha256:…`), which identify an archive after a copy."""
        self._digests.update(digests)

    def begin(self, archive: Archive) -> None:
        """Start to unpack `archive` as soon as a worker process is free."""
        if self._heartbeat is None and self._bucket is None:
            self._heartbeat = Heartbeat(self._root / STATE_FOLDER / UNPACKING)
            self._heartbeat.start()
        if self._pool is None:
            workers = self._how.workers or max(1, (os.cpu_count() or 2) // 2)
            # spawn: a fork would inherit this process's event loop, locks and sockets
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, begin_worker)
        try:
            job = self._submit(self._pool, self._how.job(self._root, archive, self._digests))
        except BrokenProcessPool:
            self._pool = (
                None  # a worker process was killed: use a new pool; its archives start again next run
            )
            self.begin(archive)
            return
        job.add_done_callback(self._done)
        self._jobs.append((archive, job))

    @property
    def expected(self) -> int:
        """Number of archives in the manifest of the run."""
        return len(self._archives)

    @property
    def begun(self) -> int:
        """Number of archives that were given to the worker processes."""
        return len(self._jobs)

    def _submit(self, pool: ProcessPoolExecutor, job: UnpackJob) -> Future[Unpacked]:
        if self._bucket is None:
            return pool.submit(unpack, job)
        from .bucket_extract import BucketJob, unpack_in_bucket

        return pool.submit(unpack_in_bucket, BucketJob(job, *self._bucket))

    def _done(self, job: Future[Unpacked]) -> None:
        if not job.cancelled() and job.exception() is None:
            self._tell(job.result())

    def finish(self) -> list[Unpacked]:
        """Wait for all archives, and return their results. Blocks.

        Raises:
            StorageError: the disk as a whole has failed or is full (remedy ABORT).
        """
        self._look_elsewhere()
        try:
            return [self._result(archive, job) for archive, job in self._jobs]
        finally:
            self.stop()

    def _result(self, archive: Archive, job: Future[Unpacked]) -> Unpacked:
        try:
            return job.result()
        except BrokenProcessPool:
            why = "the process that unpacked it was killed; run the same command again"
        except StorageError as error:
            if error.remedy is Remedy.ABORT:
                raise  # the disk has failed, so every other archive would fail, too
            why = str(error)
        failed = Unpacked(archive.name, self._how.target(archive), broken=why)
        self._tell(failed)
        return failed

    def stop(self) -> None:
        """Cancel archives that have not started, and wait for those in progress. Blocks."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None


def loose_archives(root: Path) -> list[str]:
    """Return the files that may be archives, for a folder into which no run has fetched.

    Files that this tool has unpacked are left out, such as the tars of `--format webdataset` and archives
    inside archives. Archives that were unpacked and deleted are included.

    Args:
        root: the folder to search.

    Returns:
        Sorted paths relative to `root`.
    """
    below = files_below(root, leave_out=(STATE_FOLDER, ".cache"))
    found = {path.relative_to(root).as_posix() for path in below if splits.is_piece(path.name)}
    for name, file, mark in marks.all_marks(root):
        if found:
            base = f"{mark.target}/" if mark.target else ""
            found -= {base + member.path for member in file.members()}
        if mark.deleted:
            found.add(name)
    return sorted(found)


def any_marks(root: Path) -> bool:
    """Return whether an archive was unpacked in the folder `root`."""
    return next(marks.all_marks(root), None) is not None


def lost_members(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each archive that was deleted after unpacking and has lost members since, and those members."""
    for name, file, mark in marks.all_marks(root):
        if mark.deleted and (lost := file.missing(mark, Disk())):
            yield name, lost


def try_folder(root: Path, paths: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Read each archive among `paths` to its end, in worker processes, without writing anything.

    Args:
        root: the folder of the archives.
        paths: paths relative to `root`; other files are ignored.

    Yields:
        The archive's name, and why it is broken, or None.
    """
    found = splits.archives(paths)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count() or 1, spawn, begin_worker) as pool:
        jobs = [(archive.name, pool.submit(why_broken, str(root), archive)) for archive in found]
        for name, job in jobs:
            try:
                yield name, job.result()
            except BrokenProcessPool:
                yield name, "the process that read it was killed; run the same command again"


def unpack_folder(
    root: Path,
    files: Mapping[str, str | None],
    how: UnpackOptions,
    tell: Callable[[Unpacked], None],
    bucket: tuple[Destination, Settings] | None = None,
) -> list[Unpacked]:
    """Unpack every archive among `files`. Blocks.

    Args:
        root: the folder of the archives, and the output folder.
        files: path relative to `root` → digest (`sha256:…`), None if it is not known.
        how: the options.
        tell: called with each result, from any thread.
        bucket: as in `Unpacker`.

    Returns:
        The results, sorted by the archives' names.

    Raises:
        FetchError: there is no archive among `files`.
        StorageError: the disk as a whole has failed or is full.
    """
    found = splits.archives(files)
    if not found:
        raise FetchError(f"{bucket[0] if bucket else root}: no archive found; {SUPPORTED}")
    unpacker = Unpacker(root, how, tell, bucket=bucket)
    unpacker.know(files)
    for archive in found:
        unpacker.begin(archive)
    return unpacker.finish()
