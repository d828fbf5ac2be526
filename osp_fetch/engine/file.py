"""One file brought to its end: adopted where it is here already, fetched where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..model import events
from ..model.entry import Entry
from ..model.errors import DiskFullError, FetchError
from ..model.record import Published, Record
from ..model.report import Status
from .adopt import Adoption
from .context import Context
from .state import FileState
from .transfer import PartedTransfer
from .whole import Opened, Wholes


@dataclass(frozen=True, slots=True)
class Job:
    """A row that needs more than a look at the ledger."""

    entry: Entry
    record: Record | None
    seen: Published | None
    order: int
    error: FetchError | None = None  # why it is parked


FetchOne = Callable[[Job], Awaitable[tuple[Status, Record]]]
"""Brings one file; raises FetchError where it cannot be had."""


class FileFetcher:
    """Brings files with the context of this process; on a full disk it waits for room."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._adoption = Adoption(context)
        self._wholes = Wholes(context)
        self._full_since: float | None = None  # since when the disk is full and nothing was finished

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """See `FetchOne`."""
        self._context.store.in_hand += 1
        try:
            adoption, entry, known = self._adoption, job.entry, job.record
            record = await adoption.finished(entry, known, job.seen, job.order)
            status = Status.PRESENT if record else Status.FETCHED
            if record is None:
                aside = await adoption.aside(entry, known, job.order)
                record = await self._fetch(job, aside)
            self._full_since = None
            return status, record
        finally:
            self._context.store.in_hand -= 1

    async def _fetch(self, job: Job, aside: Record | None) -> Record:
        """Fetch one file; on a full disk wait for room, and go on from what is held."""
        entry, record = job.entry, aside or job.record
        most = len(record.held) if record else 0
        opened: Opened | None = None
        if record is None:
            found = await self._wholes.fetch(entry, job.order)
            if isinstance(found, Record):
                return found
            opened = found
        while True:
            held = await self._context.store.held(entry.path) if record else None
            download = FileState(entry, record, held)
            if record and record.held - download.held:
                # what an earlier file held, or the disk has lost, must not be taken for held bytes
                # once the partial has grown past it again
                await self._context.ledger.put(download.record(download.held))
            replaces = job.record.published if job.record else None
            transfer = PartedTransfer(self._context, entry, download, job.order, opened, replaces)
            opened = None
            try:
                return await transfer.fetch()
            except DiskFullError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # whatever had to be seen to its end has put its error in the place of that
                    raise asyncio.CancelledError from error
                if transfer.endless and self._context.store.in_hand > 1:
                    await transfer.give_up()  # rather than that all the others wait for it
                if len(download.held) > most:
                    most, self._full_since = len(download.held), None
                try:
                    await self._until_room(error)
                except DiskFullError:
                    if transfer.endless:
                        await transfer.give_up()
                    raise
            (again,) = await self._context.ledger.look([entry.path])
            record = again or record

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
