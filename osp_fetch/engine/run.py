"""A run fetches files. Rows are read only as fast as slots are released, and each row ends in an Outcome."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..concurrency import at_most
from ..model import events, urls
from ..model.entry import Entry, RelativePath, folded
from ..model.errors import FetchError, ManifestError, Remedy
from ..model.protocols import Manifest, Renewal, Row
from ..model.record import Published, Record
from ..model.report import Outcome, Status
from .adopt import same_source
from .context import Context
from .file import FetchOne, FileFetcher, Job

_PAGE = 500  # rows whose records are read from the ledger in one query
_FINISHING = 64  # most files that are hashed, synced and recorded while others use the slots


class Run:
    """One run, from the rows of a manifest to their outcomes.

    Args:
        context: The shared objects of this process.
        deliver: Receives each outcome as soon as it is known.
        renewal: Supplies fresh links for parked jobs, None if there is no source of them.
        fetch_one: Fetches the file of one job. By default this process does.
        recheck: Read finished files again instead of identifying them by size and modification time.
        fresh: The destination is known to be empty, so ledger and disk are not queried for each row.
        again: Returns whether the file of a path is fetched again although it is finished.
        update: Fetch finished files again if their source has changed, unless the manifest states a digest.
    """

    def __init__(
        self,
        context: Context,
        deliver: Callable[[Outcome], None],
        renewal: Renewal | None = None,
        *,
        fetch_one: FetchOne | None = None,
        recheck: bool = False,
        fresh: bool = False,
        again: Callable[[RelativePath], bool] = lambda _: False,
        update: bool = False,
    ) -> None:
        self._again, self._update = again, update
        self._context = context
        self._deliver = deliver
        self._renewal = renewal
        self._fetch_one = fetch_one or FileFetcher(context).fetch
        self._recheck, self._fresh = recheck, fresh
        self._in_hand: set[str] = set()
        self._folded: dict[str, str] = {}  # if the disk ignores case: case-folded path → path
        self._parked: list[Job] = []
        self._something_ended = asyncio.Event()
        self._order = 0
        self._out = 0  # jobs that were started and have not ended
        self._progressed = True  # whether a file was finished since links were last renewed

    async def fetch(self, manifest: Manifest) -> None:
        """Fetch all files of `manifest`.

        Args:
            manifest: The rows, as a blocking or an asynchronous iterable.

        Raises:
            FetchError: The run cannot continue; the remedy is ABORT. Other errors end up in outcomes.
        """
        total = self._context.pool.total
        files = total + min(_FINISHING, 2 * total)
        try:
            await at_most(files, self._all_wanted(manifest), self._settle)
        finally:
            for job in self._parked:  # also if the run is stopped, so that each of them has its outcome
                if job.error is not None:
                    self._end(job, Status.PARKED, job.error)

    async def _all_wanted(self, manifest: Manifest) -> AsyncIterator[Job]:
        """Yield the jobs of the manifest, and parked jobs again when fresh links are available.

        Each job is counted in `_out` before its task begins.
        """
        async for job in self._wanted(manifest):
            if self._parked and self._renewal and self._renewal.changed():
                for renewed in await self._renewed(self._renewal):
                    self._out += 1
                    yield renewed
            self._out += 1
            yield job
        while self._renewal and (self._parked or self._out):
            if self._parked and (self._renewal.changed() or not self._out):
                if not await self._renewal.wait(progressed=self._progressed):
                    break
                self._progressed = False
                for renewed in await self._renewed(self._renewal):
                    self._out += 1
                    yield renewed
            else:
                await self._until_something_ends()

    async def _renewed(self, renewal: Renewal) -> list[Job]:
        """Return the parked jobs that have fresh links. The others stay parked."""
        parked, self._parked = self._parked, []
        fresh = await renewal.renew([job.entry for job in parked])
        ready: list[Job] = []
        for job, entry in zip(parked, fresh, strict=True):
            if entry is None:
                self._parked.append(job)
                continue
            (record,) = await self._context.ledger.get([entry.path])
            ready.append(replace(job, entry=entry, record=record, error=None))
        if ready:
            self._context.observe(events.LinksRenewed(len(ready)))
        return ready

    async def _until_something_ends(self) -> None:
        """Wait until a job has ended, but at most a second, so that fresh links are noticed."""
        self._something_ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._something_ended.wait()

    async def _wanted(self, manifest: Manifest) -> AsyncIterator[Job]:
        """Yield jobs for the rows that are not present. Deliver the outcomes of present and invalid rows."""
        async for rows, last in pages(manifest):
            entries = [row for row in rows if isinstance(row, Entry)]
            self._read(rows, entries)
            if last:
                self._context.observe(events.ManifestEnded())
            records, seen, deleted = await self._known([entry.path for entry in entries])
            for bad in (row for row in rows if isinstance(row, ManifestError)):
                self._finish(Outcome("", Status.FAILED, error=bad))
            for entry, record, stat, tombstone in zip(entries, records, seen, deleted, strict=True):
                if self._context.store.folds and self._collides(entry):
                    continue
                again = self._again(entry.path)
                present = not again and record is not None and is_present(record, entry, stat, tombstone)
                # a digest in the manifest says what the file is, and an unpacked archive is not fetched again
                update = present and self._update and entry.digest is None and stat is not None
                recheck = self._recheck and stat is not None
                if record and present and not (update or recheck):
                    self._finish(_present(entry, record))
                    continue
                self._order += 1
                looked = None if again or (update and not recheck) else stat
                yield Job(entry, record, looked, self._order, update=update)
        self._context.pool.last_files = True

    async def _known(
        self, paths: list[RelativePath]
    ) -> tuple[Sequence[Record | None], Sequence[Published | None], Sequence[Published | None]]:
        """Return the records of `paths`, their states on disk, and those of files deleted after unpacking."""
        nothing = [None] * len(paths)
        if self._fresh:
            return nothing, nothing, nothing
        # one after the other: in parallel, their threads would only wait for the interpreter lock
        records = await self._context.ledger.get(paths)
        seen = await self._context.store.stat(paths)
        return records, seen, await self._context.store.deleted(paths)

    def _collides(self, entry: Entry) -> bool:
        """Return whether an earlier row has the same name on this disk; if so, fail this row."""
        other = self._folded.setdefault(folded(entry.path), entry.path)
        if other == entry.path:
            return False
        same = ManifestError(
            f"{entry.path}: this file system ignores case, so the name is the same as {other} of an earlier "
            "row; rename one, or fetch to another file system"
        )
        self._finish(Outcome(entry.path, Status.FAILED, entry, error=same))
        return True

    def _read(self, rows: list[Row], entries: list[Entry]) -> None:
        signed = (url for e in entries for url in e.urls if "?" in url)
        dates = [date for url in signed if (date := urls.expiry(url))]
        sizes = [entry.size for entry in entries if entry.size is not None]
        first = min(dates, default=None)
        self._context.observe(events.RowsRead(len(rows), len(sizes), sum(sizes), first))

    def _finish(self, outcome: Outcome) -> None:
        self._context.observe(events.Finished(outcome))
        self._deliver(outcome)

    async def _settle(self, job: Job) -> None:
        """Fetch one job until its outcome is known, or park it."""
        try:
            await self._fetch_job(job)
        finally:
            self._out -= 1
            self._something_ended.set()

    async def _fetch_job(self, job: Job) -> None:
        entry = job.entry
        clock = asyncio.get_running_loop().time
        begun = clock()
        if entry.path in self._in_hand:
            twice = ManifestError(
                f"{entry.path}: two rows of the manifest have this path; remove or rename one"
            )
            self._finish(Outcome(entry.path, Status.FAILED, entry, error=twice))
            return
        self._in_hand.add(entry.path)
        try:
            status, record = await self._fetch_one(job)
            digest = _digest(entry, record)
            self._progressed = True
            self._finish(Outcome(entry.path, status, entry, record.length, digest, clock() - begun))
        except FetchError as error:
            if error.remedy is Remedy.ABORT:
                raise
            _bare(error)
            if error.remedy is Remedy.PARK and self._renewal is not None:
                self._parked.append(replace(job, error=error))
                self._context.observe(events.Parked(len(self._parked)))
            else:
                self._end(job, Status.PARKED if error.remedy is Remedy.PARK else Status.FAILED, error)
        except Exception as error:
            # a bug in osp-fetch must cost this file and not a run of several days
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error}, in {Path(where.filename).name}:{where.lineno}"
            defect = FetchError(f"{entry.path}: a bug in osp-fetch, please report it ({what})")
            self._end(job, Status.FAILED, defect)
        finally:
            self._in_hand.discard(entry.path)

    def _end(self, job: Job, status: Status, error: FetchError) -> None:
        entry = job.entry
        self._finish(Outcome(entry.path, status, entry, entry.size, error=error))


def is_present(record: Record, entry: Entry, seen: Published | None, tombstone: Published | None) -> bool:
    """Return whether the file of `entry` is published, or was unpacked and deleted, and fits the row.

    Args:
        record: The record of the file.
        entry: The manifest row.
        seen: State of the file under its final name, None if there is no file.
        tombstone: State of the file before it was deleted after unpacking, None if it was not.
    """
    there = seen if seen is not None else tombstone
    return record.published is not None and there == record.published and _fulfils(record, entry)


def _fulfils(record: Record, entry: Entry) -> bool:
    """Return whether the published file has the size and digest, or else the source, of the row."""
    if entry.size is not None and entry.size != record.length:
        return False
    if entry.digest is not None:
        return record.digests.get(entry.digest.algorithm) == entry.digest.hex
    return same_source(record, entry)


def _bare(error: BaseException) -> None:
    """Remove traceback and causes from `error`: their frames keep the objects of its file in memory."""
    error.__cause__ = error.__context__ = error.__traceback__ = None


def _digest(entry: Entry, record: Record) -> str | None:
    algorithm = entry.digest.algorithm if entry.digest else "sha256"
    value = record.digests.get(algorithm)
    return f"{algorithm}:{value}" if value else None


def _present(entry: Entry, record: Record) -> Outcome:
    return Outcome(entry.path, Status.PRESENT, entry, record.length, _digest(entry, record))


async def pages(manifest: Manifest) -> AsyncIterator[tuple[list[Row], bool]]:
    """Yield the rows of `manifest` in pages of up to 500.

    A blocking iterable is read in a thread. Rows of an asynchronous iterable are yielded one by one, because
    the next one may take long to arrive.

    Args:
        manifest: The rows.

    Returns:
        Pairs of the rows and whether this is the last page.
    """
    if isinstance(manifest, AsyncIterable):
        async for row in manifest:
            yield [row], False
        yield [], True
        return
    rows: Iterator[Row] = iter(manifest)
    last = False
    while not last:
        page = await asyncio.to_thread(lambda: list(islice(rows, _PAGE)))
        last = len(page) < _PAGE  # stated with this page, whose files may take days
        yield page, last
