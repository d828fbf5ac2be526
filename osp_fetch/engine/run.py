"""A run fetches files. Rows are read only as fast as slots are released, and each row ends in an Outcome."""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..concurrency import at_most, stop
from ..model import events, urls
from ..model.entry import Entry, RelativePath, folded
from ..model.errors import (
    FetchError,
    HostDownError,
    HostPausedError,
    ManifestError,
    Remedy,
    TransferError,
    UnreachableError,
)
from ..model.protocols import Manifest, Renewal, Row, Spill
from ..model.record import Published, Record
from ..model.report import Outcome, Status
from .context import Context
from .failed import FailedJobs
from .file import FetchOne, FileFetcher, Job
from .host_queues import HostQueues
from .rows import PAGE, digest_of, expiries, first_expiry, is_present, pages, present_outcome

_PROBES = 8  # while there are other jobs, every eighth that starts may probe a host that does not answer
_LOOK = 0.5  # seconds after which fresh links are noticed


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
        spill: Keeps rows on disk that wait for their hosts where there are too many for memory.
        first: Order of the first job. No two jobs that share a connection pool have the same.
        begun: Receives, in place of the pool, whether all files have been started.
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
        spill: Spill | None = None,
        first: int = 1,
        begun: Callable[[bool], None] | None = None,
    ) -> None:
        self._again, self._update = again, update
        self._context = context
        self._deliver = deliver
        self._renewal = renewal
        self._fetch_one = fetch_one or FileFetcher(context).fetch
        pool, loop = context.pool, asyncio.get_running_loop()
        # the workers of a run divide its connections; only they know the limit of a host
        most = (lambda _: pool.total) if fetch_one else pool.limit
        self._queues = HostQueues(context.settings.retry, spill, context.observe, loop.time, pool.pause, most)
        self._recheck, self._fresh = recheck, fresh
        self._in_hand: dict[str, int] = {}  # path → order of the job that fetches it, or waits to
        self._folded: dict[str, str] = {}  # if the disk ignores case: case-folded path → path
        self._parked: list[Job] = []
        self._stale = 0  # jobs that were parked since links were last renewed
        self._has_renewed = False  # links were renewed, and the source of them may have more
        self._page: deque[Job] = deque()  # jobs that were read and not looked at yet
        self._has_ended = False  # all rows are read
        self._turns = 0
        self._woken: asyncio.Future[None] | None = None
        self._order, self._begun = first - 1, begun or partial(setattr, pool, "last_files")
        self._out = 0  # jobs that were started and have not ended
        self._failed_jobs, self._repeats = FailedJobs(spill), 0  # the number that is to be repeated
        self._more: deque[Manifest] = deque()  # manifests that were added
        self._is_added = False  # whether any was
        self._twins: dict[str, list[Job]] = {}  # path → jobs that wait until the one in hand has ended
        self._asked, self._is_over = asyncio.Event(), False
        self._progressed = True  # whether bytes came, or a file was finished, since links were last renewed

    async def fetch(self, manifest: Manifest) -> None:
        """Fetch all files of `manifest`.

        Args:
            manifest: The rows, as a blocking or an asynchronous iterable.

        Raises:
            FetchError: The run cannot continue; the remedy is ABORT. Other errors end up in outcomes.
        """
        try:
            async with aclosing(self._jobs(manifest)) as jobs:
                await at_most(self._context.places, jobs, self._settle, self._queues.connecting)
        finally:
            for job in self._parked:  # also if the run is stopped, so that each of them has its outcome
                if job.error is not None:
                    self._end(job, Status.PARKED, job.error)

    def add(self, manifest: Manifest) -> bool:
        """Fetch the files of another manifest, too. Return False if the run is ending.

        A row whose file was fetched meanwhile is present. One whose file is being fetched waits for it.
        """
        if not self._is_over:
            self._more.append(manifest)
            self._fresh, self._is_added = False, True
            self._ask()
        return not self._is_over

    def retry_failed(self) -> int | None:
        """Fetch the files that have failed so far again. Return their number, None if the run is ending."""
        if self._is_over:
            return None
        self._repeats = len(self._failed_jobs)
        self._ask()
        return self._repeats

    def _ask(self) -> None:
        self._asked.set()
        self._wake()

    def observe(self, event: events.Event) -> None:
        """Start the queued jobs of a host that has answered again: an observer of the run's events."""
        if isinstance(event, events.HostBack):
            self._queues.back(event.host)
            self._wake()

    def notes(self) -> list[str]:
        """Return a sentence for each kind of hosts that were given up."""
        return self._queues.notes()

    async def _jobs(self, manifest: Manifest) -> AsyncGenerator[Job, None]:
        """Yield the jobs of the manifest, and those to repeat, each when its host may be asked.

        Each job is counted in `_out` before its task begins.
        """
        pages = self._pages(manifest)
        reading: asyncio.Future[list[Job] | None] | None = None
        try:
            while True:
                while (job := self._startable()) is not None:
                    self._out += 1
                    yield job
                for number, (job, error) in enumerate(self._queues.failed()):
                    self._give_up(job, error)
                    if number % PAGE == PAGE - 1:
                        await asyncio.sleep(0)  # there may be a million of them
                if reading is not None and reading.done():
                    jobs, reading = reading.result(), None
                    self._page.extend(jobs or ())
                    self._has_ended = jobs is None
                elif self._repeats and not self._page:
                    self._page.extend(await self._repeated())
                elif self._has_ended and self._more:
                    pages, self._has_ended = self._pages(self._more.popleft()), False
                elif self._parked and self._renewal and (self._renewal.changed() or self._is_stale):
                    self._page.extend(await self._renewed(self._renewal))
                elif not self._has_ended and reading is None and not self._queues.is_full:
                    reading = asyncio.ensure_future(anext(pages, None))
                    reading.add_done_callback(lambda _: self._wake())
                elif not self._has_ended or self._out or self._queues:
                    await self._until_something_happens()
                elif not await self._parked_again():
                    break
        finally:
            self._is_over = True
            await stop({reading} if reading is not None else ())

    def _startable(self) -> Job | None:
        """Return a job that may start now, None if there is none."""
        self._turns += 1
        if self._turns % _PROBES == 0 and (job := self._queues.probe()) is not None:
            return job
        if (job := self._queues.ready()) is not None:
            return job
        while self._page:
            job = self._page.popleft()
            if self._queues.admit(job):
                return job
        return self._queues.probe()

    async def _parked_again(self) -> bool:
        """Wait for fresh links of the parked jobs at the end of the run; return whether to go on."""
        if not self._renewal or not self._parked:
            return False
        if not (self._has_renewed and self._stale):
            has_links = await self._links(self._renewal)
            if not has_links:
                return has_links is None
            self._progressed = False
        self._page.extend(await self._renewed(self._renewal))
        return True

    async def _links(self, renewal: Renewal) -> bool | None:
        """Wait for fresh links; return whether there may be some, None if a command came first."""
        self._asked.clear()
        waiting = asyncio.ensure_future(renewal.wait(progressed=self._progressed))
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({waiting, asked}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            await stop({waiting, asked})

    async def _repeated(self) -> list[Job]:
        """Return a page of the jobs that have failed, to be fetched again."""
        failed = self._failed_jobs.take(min(PAGE, self._repeats))
        self._repeats -= len(failed)
        self._context.observe(events.Repeating(tuple(outcome for _, outcome in failed)))
        jobs = []
        for job, outcome in failed:
            self._queues.again(job.host, outcome.error)
            (record,) = await self._context.ledger.get([job.entry.path])
            jobs.append(replace(job, record=record))
        return jobs

    @property
    def _is_stale(self) -> bool:
        """Whether many jobs were parked since fresh links were found: their rows were read before that."""
        return self._has_renewed and self._stale >= PAGE

    async def _renewed(self, renewal: Renewal) -> list[Job]:
        """Return the parked jobs that have fresh links. The others stay parked."""
        parked, self._stale = list(self._parked), 0
        fresh = await renewal.renew([job.entry for job in parked])
        records = await self._context.ledger.get([job.entry.path for job in parked])
        del self._parked[: len(parked)]  # not before: if the run is stopped meanwhile, they are its outcomes
        ready: list[Job] = []
        for job, entry, record in zip(parked, fresh, records, strict=True):
            if entry is None:
                self._parked.append(job)
                continue
            ready.append(replace(job, entry=entry, record=record, host=urls.host(entry.urls[0]), error=None))
        if ready:
            self._has_renewed = True
            self._context.observe(events.LinksRenewed(len(ready), first_expiry(job.entry for job in ready)))
        if self._parked:  # the fresh links are not theirs, or no other ones
            self._context.observe(events.Parked(len(self._parked)))
        return ready

    async def _until_something_happens(self) -> None:
        """Wait until a job ends, rows are read, or a host may be asked again, or for `_LOOK` seconds.

        Fresh links are noticed within that time.
        """
        if self._has_ended and not self._out:
            self._queues.give_last_chances()
        self._begun(self._has_ended and not self._queues.is_busy)
        loop = asyncio.get_running_loop()
        due = self._queues.due()
        self._woken = loop.create_future()
        timer = loop.call_later(_LOOK if due is None else min(_LOOK, due), self._wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _pages(self, manifest: Manifest) -> AsyncIterator[list[Job]]:
        """Yield the jobs of each page of rows. Deliver the outcomes of present and invalid rows."""
        async for rows, last in pages(manifest):
            entries = [row for row in rows if isinstance(row, Entry)]
            records, seen, deleted = await self._known([entry.path for entry in entries])
            self._read(rows, entries, records)
            if last:
                self._context.observe(events.ManifestEnded())
            for bad in (row for row in rows if isinstance(row, ManifestError)):
                self._finish(Outcome("", Status.FAILED, error=bad))
            known = zip(entries, records, seen, deleted, strict=True)
            yield [job for each in known if (job := self._job(*each)) is not None]

    def _job(
        self, entry: Entry, record: Record | None, seen: Published | None, tombstone: Published | None
    ) -> Job | None:
        """Return the job of a row. If its file is present, deliver its outcome and return None."""
        if self._context.store.folds and self._collides(entry):
            return None
        again = self._again(entry.path)
        present = not again and record is not None and is_present(record, entry, seen, tombstone)
        # a digest in the manifest says what the file is, and an unpacked archive is not fetched again
        update = present and self._update and entry.digest is None and seen is not None
        recheck = self._recheck and seen is not None
        if record and present and not (update or recheck):
            self._finish(present_outcome(entry, record))
            return None
        self._order += 1
        looked = None if again or (update and not recheck) else seen
        return Job(entry, record, looked, self._order, urls.host(entry.urls[0]), update=update)

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

    def _read(self, rows: list[Row], entries: list[Entry], records: Sequence[Record | None]) -> None:
        sizes = [entry.size for entry in entries if entry.size is not None]
        known = zip(entries, records, strict=True)  # the links of finished files do not matter any more
        missing = [entry for entry, record in known if record is None or not record.published]
        self._context.observe(events.RowsRead(len(rows), len(sizes), sum(sizes), *expiries(missing)))

    def _finish(self, outcome: Outcome) -> None:
        self._context.observe(events.Finished(outcome))
        self._deliver(outcome)

    async def _settle(self, job: Job) -> None:
        """Fetch one job until its outcome is known, it is parked, or it waits for its host."""
        try:
            await self._fetch_job(job)
        finally:
            self._out -= 1
            self._wake()

    async def _fetch_job(self, job: Job) -> None:
        entry = job.entry
        clock = asyncio.get_running_loop().time
        begun = clock()
        answered, waiting = False, False
        other = self._in_hand.setdefault(entry.path, job.order)
        if other != job.order and self._is_added:
            self._twins.setdefault(entry.path, []).append(job)
            self._queues.ended(job, answered=False)
            return
        try:
            if self._is_added and await self._came_meanwhile(job):
                return
            if other != job.order:
                raise ManifestError(
                    f"{entry.path}: two rows of the manifest have this path; remove or rename one"
                )
            status, record = await self._fetch_one(job)
            answered = status is Status.FETCHED and len(entry.urls) == 1  # else by any of its mirrors
            digest = digest_of(entry, record)
            self._progressed = True
            self._finish(Outcome(entry.path, status, entry, record.length, digest, clock() - begun))
        except FetchError as error:
            if error.remedy is Remedy.ABORT:
                raise
            if isinstance(error, (HostDownError, HostPausedError)) and error.remedy is Remedy.WAIT:
                _bare(error)
                (known,) = await self._context.ledger.get([entry.path])
                self._queues.put_back(replace(job, record=known), error)
                waiting = True
                return
            by_server = isinstance(error, TransferError) and not isinstance(error, UnreachableError)
            answered = by_server and len(entry.urls) == 1
            await self._failed(job, error)
        except Exception as error:
            # a bug in osp-fetch must cost this file and not a run of several days
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error}, in {Path(where.filename).name}:{where.lineno}"
            defect = FetchError(f"{entry.path}: a bug in osp-fetch, please report it ({what})")
            self._end(job, Status.FAILED, defect)
        finally:
            if not waiting:
                self._queues.ended(job, answered=answered)
                if other == job.order:
                    self._let_go(entry.path)

    def _let_go(self, path: str) -> None:
        """End the work on a path. Another row of the same path may begin."""
        del self._in_hand[path]
        if (twins := self._twins.get(path)) is not None:
            self._page.append(twins.pop())
            if not twins:
                del self._twins[path]

    async def _came_meanwhile(self, job: Job) -> bool:
        """Finish the job of a row whose file was fetched for another row after this one was read."""
        if job.update or self._again(job.entry.path):
            return False
        records, seen, deleted = await self._known([job.entry.path])
        record = records[0]
        if record is None or not is_present(record, job.entry, seen[0], deleted[0]):
            return False
        if record == job.record:
            return False  # it was known when the row was read, and is examined again
        self._finish(present_outcome(job.entry, record))
        return True

    async def _failed(self, job: Job, error: FetchError) -> None:
        """Park a job that needs fresh links, or deliver its failure."""
        _bare(error)
        if error.remedy is Remedy.PARK and self._renewal is not None:
            if not self._progressed:
                (known,) = await self._context.ledger.get([job.entry.path])
                before = len(job.record.held) if job.record else 0
                self._progressed = known is not None and len(known.held) > before  # the link brought bytes
            self._parked.append(replace(job, error=error))
            self._stale += 1
            self._context.observe(events.Parked(len(self._parked)))
        else:
            self._end(job, Status.PARKED if error.remedy is Remedy.PARK else Status.FAILED, error)

    def _give_up(self, job: Job, error: FetchError) -> None:
        """Deliver the failure of a job whose host is given up."""
        if self._in_hand.get(job.entry.path) == job.order:
            self._let_go(job.entry.path)
        self._end(job, Status.FAILED, error)

    def _end(self, job: Job, status: Status, error: FetchError) -> None:
        entry = job.entry
        outcome = Outcome(entry.path, status, entry, entry.size, error=error)
        if status is Status.FAILED:
            self._failed_jobs.add(job, outcome)
        self._finish(outcome)


def _bare(error: BaseException) -> None:
    """Remove traceback and causes from `error`: their frames keep the objects of its file in memory."""
    error.__cause__ = error.__context__ = error.__traceback__ = None
