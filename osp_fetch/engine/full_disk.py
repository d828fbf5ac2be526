"""The wait for free space on a full disk, which the files of a process have in common."""

from __future__ import annotations

import asyncio

from ..model import events
from ..model.errors import DiskFullError
from ..model.record import Record
from .context import Context


class FullDisk:
    """How long the disk has been full without a file being finished.

    Args:
        context: The shared objects of this process.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._since: float | None = None  # loop time, None while there is space

    def progressed(self) -> None:
        """Record that a file was finished, or has grown: the patience begins anew."""
        self._since = None

    async def until_room(self, error: DiskFullError) -> None:
        """Wait for free space.

        Args:
            error: The error of the write that failed.

        Raises:
            DiskFullError: `error`, after `storage.disk_patience` seconds without progress.
        """
        clock = asyncio.get_running_loop().time
        patience = self._context.settings.storage.disk_patience
        self._context.observe(events.DiskWaiting(str(error)))
        while True:
            if self._since is None:
                self._since = clock()
            if clock() - self._since >= patience:
                raise error
            # sleep even if space is reported free: a quota shows only when something is written
            await asyncio.sleep(min(1.0, patience))
            if await self._context.store.room() >= error.needed:
                return

    async def record(self, record: Record) -> None:
        """Store the record of a file that is in place. If the ledger's disk is full, wait and try again.

        Raises:
            DiskFullError: As `until_room`.
            StorageError: The ledger cannot be written.
        """
        while True:
            try:
                await self._context.ledger.put(record)
            except DiskFullError as error:
                await self.until_room(error)
            else:
                self.progressed()
                return
