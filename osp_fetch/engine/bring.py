"""One file brought to its end: adopted where it is here already, fetched where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..model import events
from ..model.entry import Entry
from ..model.errors import DiskFull, FetchError
from ..model.record import Published, Record
from ..model.report import Status
from .adopt import Adoption
from .download import Download
from .tools import Tools
from .transfer import Transfer
from .whole import Opened, Wholes


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row that needs more than a look at the ledger."""

    entry: Entry
    record: Record | None
    seen: Published | None
    order: int
    error: FetchError | None = None  # why it is parked


Bring = Callable[[Wanted], Awaitable[tuple[Status, Record]]]
"""Brings one file; raises FetchError where it cannot be had."""


class Bringer:
    """Brings files with the tools of this process; on a full disk it waits for room."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._adoption = Adoption(tools)
        self._wholes = Wholes(tools)
        self._full_since: float | None = None  # since when the disk is full and nothing was finished

    async def bring(self, wanted: Wanted) -> tuple[Status, Record]:
        """See `Bring`."""
        self._tools.sink.in_hand += 1
        try:
            adoption, entry, known = self._adoption, wanted.entry, wanted.record
            record = await adoption.finished(entry, known, wanted.seen, wanted.order)
            status = Status.PRESENT if record else Status.FETCHED
            if record is None:
                aside = await adoption.aside(entry, known, wanted.order)
                record = await self._fetch(wanted, aside)
            self._full_since = None
            return status, record
        finally:
            self._tools.sink.in_hand -= 1

    async def _fetch(self, wanted: Wanted, aside: Record | None) -> Record:
        """Fetch one file; on a full disk wait for room, and go on from what is held."""
        entry, record = wanted.entry, aside or wanted.record
        most = len(record.held) if record else 0
        opened: Opened | None = None
        if record is None:
            found = await self._wholes.fetch(entry, wanted.order)
            if isinstance(found, Record):
                return found
            opened = found
        while True:
            held = await self._tools.sink.held(entry.path) if record else None
            download = Download(entry, record, held)
            if record and record.held - download.held:
                # what an earlier file held, or the disk has lost, must not be taken for held bytes
                # once the partial has grown past it again
                await self._tools.ledger.put(download.record(download.held))
            replaces = wanted.record.published if wanted.record else None
            transfer = Transfer(self._tools, entry, download, wanted.order, opened, replaces)
            opened = None
            try:
                return await transfer.fetch()
            except DiskFull as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # whatever had to be seen to its end has put its error in the place of that
                    raise asyncio.CancelledError from error
                if transfer.endless and self._tools.sink.in_hand > 1:
                    await transfer.give_up()  # rather than that all the others wait for it
                if len(download.held) > most:
                    most, self._full_since = len(download.held), None
                try:
                    await self._until_room(error)
                except DiskFull:
                    if transfer.endless:
                        await transfer.give_up()
                    raise
            (again,) = await self._tools.ledger.look([entry.path])
            record = again or record

    async def _until_room(self, error: DiskFull) -> None:
        """Return when there is room again; raises `error` when the patience for that is over."""
        clock = asyncio.get_running_loop().time
        patience = self._tools.settings.storage.disk_patience
        self._tools.observe(events.DiskWaiting(str(error)))
        while True:
            if self._full_since is None:
                self._full_since = clock()
            if clock() - self._full_since >= patience:
                raise error
            # also where there seems to be room: a quota shows only when something is written
            await asyncio.sleep(min(1.0, patience))
            if await self._tools.sink.room() >= error.needed:
                return
