"""One file, from its job to its record: adopted if it is here already, small, or in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..model import events, urls
from ..model.entry import Entry
from ..model.errors import DiskFullError, FetchError
from ..model.record import Published, Record
from ..model.report import Status
from .adopt import Adoption
from .context import Context
from .small import SmallFile
from .state import FileState
from .transfer import First, PartedTransfer


@dataclass(frozen=True, slots=True)
class Job:
    """A row that needs more than a look at the ledger."""

    entry: Entry
    record: Record | None
    seen: Published | None
    order: int
    error: FetchError | None = None  # why it is parked


FetchOne = Callable[[Job], Awaitable[tuple[Status, Record]]]
"""Fetches the file of one job: how it ended, and its record. Raises FetchError if it cannot be had."""


class FileFetcher:
    """Fetches files with the context of this process; on a full disk it waits for room."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._adoption = Adoption(context)
        self._full_since: float | None = None  # since when the disk is full and nothing was finished

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """Return how the file of `job` ended, and its record; see `FetchOne`."""
        self._context.store.in_hand += 1
        try:
            if record := await self._adoption.finished(job.entry, job.record, job.seen, job.order):
                return Status.PRESENT, record  # another downloader left it, or the ledger is lost
            known = await self._adoption.aside(job.entry, job.record, job.order) or job.record
            if known is not None or not SmallFile.is_likely(self._context, job.entry):
                return Status.FETCHED, await self._fetch_in_parts(job, known)
            return Status.FETCHED, await self._fetch_new(job)
        finally:
            self._context.store.in_hand -= 1

    async def _fetch_new(self, job: Job) -> Record:
        """Fetch a file of which nothing is held. There is no HEAD: the first reply decides, small or in
        parts."""
        entry, pool = job.entry, self._context.pool
        host = urls.host(entry.urls[0])
        async with self._context.exchange(host, job.order, entry.path) as exchange:
            part_size = pool.part_size(host, entry.size, job.order)
            small = SmallFile(self._context, entry)
            if await small.receive(exchange, part_size):
                await exchange.aclose()  # the slot is free while the file is published
                if record := await small.publish(exchange):
                    self._full_since = None
                    return record
            return await self._fetch_in_parts(job, None, First(exchange, part_size))

    async def _fetch_in_parts(self, job: Job, record: Record | None, first: First | None = None) -> Record:
        """Fetch a file in parts, from what is held; on a full disk wait for room and go on."""
        entry, most = job.entry, len(record.held) if record else 0
        replaces = job.record.published if job.record else None
        while True:
            held = await self._context.store.held(entry.path) if record else None
            state = FileState(entry, record, held)
            if record and record.held - state.held:
                # bytes of an earlier file, or bytes that the disk has lost, must not be taken for held once
                # the
                # partial has grown past them again
                await self._context.ledger.put(state.record(state.held))
            transfer = PartedTransfer(self._context, entry, state, job.order, first, replaces)
            first = None
            try:
                record = await transfer.fetch()
                self._full_since = None
                return record
            except DiskFullError as error:
                if len(state.held) > most:
                    most, self._full_since = len(state.held), None
                await self._wait_for_room(transfer, error)
            (again,) = await self._context.ledger.look([entry.path])
            record = again or record

    async def _wait_for_room(self, transfer: PartedTransfer, error: DiskFullError) -> None:
        """Return when `transfer` may go on. Raises DiskFullError, or StorageError for a file without a
        length."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # work that had to be completed before the cancellation has replaced it by its own error
            raise asyncio.CancelledError from error
        if transfer.endless and self._context.store.in_hand > 1:
            await transfer.give_up()  # so that all other files need not wait for it
        try:
            await self._until_room(error)
        except DiskFullError:
            if transfer.endless:
                await transfer.give_up()
            raise

    async def _until_room(self, error: DiskFullError) -> None:
        """Return when there is room again; raises `error` when the patience for that is over."""
        clock = asyncio.get_running_loop().time
        patience = self._context.settings.storage.disk_patience
        self._context.observe(events.DiskWaiting(str(error)))
        while True:
            if self._full_since is None:
                self._full_since = clock()
            if clock() - self._full_since >= patience:
                raise error
            # also where there seems to be room: a quota shows only when something is written
            await asyncio.sleep(min(1.0, patience))
            if await self._context.store.room() >= error.needed:
                return
