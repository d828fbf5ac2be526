"""One file, from its job to its record: adopted if it exists, else fetched in one reply or in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ..model import urls
from ..model.dataclasses import dataclass
from ..model.entry import Entry
from ..model.errors import (
    DiskFullError,
    FetchError,
    HostDownError,
    HostPausedError,
    NotUpdatedError,
    Remedy,
)
from ..model.record import Published, Record
from ..model.report import Status
from .adopt import Adoption
from .context import Context
from .full_disk import FullDisk
from .part_fetcher import First
from .small import SmallTransfer
from .state import FileState
from .transfer import PartedTransfer
from .update import Update, recorded_first


@dataclass(frozen=True, slots=True)
class Job:
    """An entry that is not present yet, with what is known about it.

    Args:
        entry: The manifest row.
        record: Its record in the ledger, None if there is none.
        seen: State of the file under its final name, None if there is no file.
        order: Position in the manifest. Smaller numbers get slots first.
        host: `host:port` of its first link.
        error: Why the job is parked, None if it is not.
        tries: Connections for the file that got no answer in the present outage of its host.
        outage: Number of the outage to which `tries` refers.
        update: Whether the file is finished and is fetched only if its source has changed. If it has not,
            the file is examined if `seen` is given.
    """

    entry: Entry
    record: Record | None
    seen: Published | None
    order: int
    host: str
    error: FetchError | None = None
    update: bool = False
    tries: int = 0
    outage: int = 0


FetchOne = Callable[[Job], Awaitable[tuple[Status, Record]]]
"""Fetches the file of one job and returns its status and record. Raises FetchError if that fails."""


class FileFetcher:
    """The fetcher of files in this process. On a full disk it waits for free space."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._full = FullDisk(context)
        self._adoption, self._update = Adoption(context, self._full), Update(context)

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """Fetch the file of `job`, or adopt it if it already exists.

        Args:
            job: The job.

        Returns:
            Status.PRESENT if the file was adopted, else Status.FETCHED; and the record of the file.

        Raises:
            FetchError: The file cannot be fetched. The remedy of the error states how to continue.
            DiskFullError: The destination has had no free space for `storage.disk_patience` seconds.
        """
        with self._context.store.expect():
            if job.update and job.record and job.record.published:
                if record := await self._updated(job, job.record):
                    return Status.FETCHED, record
                if job.seen is None:
                    return Status.PRESENT, job.record
            if record := await self._adoption.finished(job.entry, job.record, job.seen, job.order):
                return Status.PRESENT, record  # left by another downloader, or by a run whose ledger is lost
            if record := await self._copied(job):
                return Status.FETCHED, record
            known = await self._adoption.aside(job.entry, job.record, job.order) or job.record
            if known is not None or not SmallTransfer.is_likely(self._context, job.entry):
                return Status.FETCHED, await self._fetch_in_parts(job, known)
            return Status.FETCHED, await self._fetch_new(job)

    async def _copied(self, job: Job) -> Record | None:
        """Let the destination's server copy the file, and return its record; None if it has to be fetched."""
        if self._context.store.copies is None:
            return None
        entry, replaces = job.entry, job.record.published if job.record else None
        made = await self._context.store.copies.copy(entry, replaces)
        if made is None:
            return None
        placed, digests = made
        record = Record(
            entry.path, entry.source_key(entry.urls[0]), placed.published.size, digests=digests,
            published=placed.published,
        )  # fmt: skip
        await self._full.record(record)
        return record

    async def _updated(self, job: Job, record: Record) -> Record | None:
        """Fetch a finished file again if its source has changed. Return its record, None if it has not.

        The file stays under its name until the new one is whole. Until the first bytes of the new one are
        recorded, the ledger states the old one.
        """
        job = replace(job, entry=recorded_first(job.entry, record))
        try:
            first = await self._update.changed(job.entry, record, job.order)
            if first is None:
                return None
            async with first.exchange:
                return await self._fetch_in_parts(job, None, first)
        except FetchError as error:
            if error.remedy in (Remedy.ABORT, Remedy.WAIT):
                raise
            raise NotUpdatedError(error, job.entry.path) from None

    async def _fetch_new(self, job: Job) -> Record:
        """Fetch a file of which nothing is held.

        No HEAD request is sent: the first reply shows whether the file is small or needs parts.
        """
        entry, first = job.entry, None
        # a file with several mirrors may have waited for the host of another one
        host = job.host if len(entry.urls) == 1 else urls.host(entry.urls[0])
        try:
            async with self._context.exchange(host, job.order, entry.path) as exchange:
                part_size = self._context.part_size(host, entry.size, job.order)
                small = SmallTransfer(self._context, entry, self._full)
                if await small.receive(exchange, part_size):
                    await exchange.aclose()  # the slot is free while the file is published
                    with self._context.pool.waits.publishing:
                        record = await small.publish(exchange)
                    if record:
                        return record
                first = First(exchange, part_size)
                return await self._fetch_in_parts(job, None, first)
        except (HostDownError, HostPausedError):
            if first is not None or len(entry.urls) == 1:
                raise
        return await self._fetch_in_parts(job, None)  # from another mirror

    async def _fetch_in_parts(self, job: Job, record: Record | None, first: First | None = None) -> Record:
        """Fetch the missing bytes of a file in parts. On a full disk, wait for free space and continue."""
        replaces = job.record.published if job.record else None
        if job.record and job.record.is_adopted and self._context.store.keeps_others:
            replaces = None  # it was a file of the user, and perhaps only samples of it were compared
        entry, most = job.entry, len(record.held) if record and not record.published else 0
        while True:
            if record is not None and record.published is not None:
                # its bytes are not those of a partial. The ledger states it until bytes of a new one are
                # recorded: if these cannot be fetched, `verify` still shows what became of the old one
                record = None
            held = await self._context.store.held(entry.path) if record else None
            state = FileState(entry, record, held)
            if record and record.held - state.held:
                # the record lists bytes of another file, or bytes that the disk has lost: once the partial
                # has grown past them again, a later run would take them for held
                await self._full.record(state.record(state.held))
            transfer = PartedTransfer(self._context, entry, state, job.order, first, replaces)
            first = None
            try:
                record = await transfer.fetch()
                self._full.progressed()
                return record
            except DiskFullError as error:
                if len(state.held) > most:
                    most = len(state.held)
                    self._full.progressed()
                await self._wait_for_room(transfer, error)
            (again,) = await self._context.ledger.get([entry.path])
            record = again or record

    async def _wait_for_room(self, transfer: PartedTransfer, error: DiskFullError) -> None:
        """Wait until `transfer` may continue.

        Raises DiskFullError, or StorageError if the file has no known length.
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # uninterruptible work was finished first, and its error has replaced the cancellation
            raise asyncio.CancelledError from error
        if transfer.endless and self._context.store.in_progress > 1:
            await transfer.give_up()  # it would fill the disk again: the other files must not wait for it
        try:
            await self._full.until_room(error)
        except DiskFullError:
            if transfer.endless:
                await transfer.give_up()
            raise
