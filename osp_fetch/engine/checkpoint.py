"""Checkpoints: record the held bytes of a growing file. The ledger states too little, never too much."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

from ..concurrency import completed, outlast
from ..model.errors import StorageError
from ..model.protocols import Ledger, PartialContent
from ..model.ranges import NOTHING
from ..model.record import Record
from .state import FileState

# First and longest interval in seconds between two checkpoints of a slow file. The first is short because a
# machine that kills each run after a short time must still make progress from run to run.
_CLAIM_SECONDS: Final = (0.25, 1.0)


def _seen(task: asyncio.Task[None]) -> None:
    """Mark the exception of a checkpoint as retrieved: the run may end before anyone waits for it."""
    if not task.cancelled():
        task.exception()


class Checkpoint:
    """The checkpoints of one file. They sync written bytes and then record them, in the background.

    At most one checkpoint runs at a time.

    Args:
        ledger: The database of records.
        partial: The unfinished file.
        download: The state of the file.
        size: Written bytes per connection after which a checkpoint is due.
    """

    def __init__(self, ledger: Ledger, partial: PartialContent, download: FileState, size: int) -> None:
        self._ledger, self._partial, self._download, self._size = ledger, partial, download, size
        self._unclaimed = 0
        self._claimed = download.held  # what the ledger states as held
        self._failed: StorageError | None = None  # of a sync: it is unknown which bytes are on disk
        self._claimed_at = asyncio.get_running_loop().time()
        self._pause = _CLAIM_SECONDS[0]
        self._claiming: asyncio.Task[None] | None = None

    def wrote(self, count: int, connections: int) -> None:
        """Count written bytes, and start a checkpoint if one is due.

        Args:
            count: Bytes written since the last call.
            connections: Number of connections that fetch the file.
        """
        self._unclaimed += count
        now = asyncio.get_running_loop().time()
        due = self._unclaimed >= self._size * max(1, connections)
        if not due and now - self._claimed_at < self._pause:
            return
        if self._download.complete and not self._claimed:
            return  # due only because it waited for a slot; the file is complete and is published next
        # Linux reports a failed sync only once: a second sync would succeed, and record lost bytes as held
        if self._failed is None and (self._claiming is None or self._claiming.done()):
            self._claimed_at, self._pause = now, min(2 * self._pause, _CLAIM_SECONDS[1])
            self._claiming = asyncio.create_task(self._claim())
            self._claiming.add_done_callback(_seen)

    async def _claim(self) -> None:
        # take the record before the sync: during it, a reply may show that the file has changed
        record, self._unclaimed = self._download.record(self._download.held), 0
        try:
            kept = await self._partial.sync(record.held)
        except StorageError as error:
            self._failed = error
            raise
        await self._ledger.put(replace(record, held=kept))
        self._claimed = kept

    async def settle(self) -> None:
        """Wait until no checkpoint is running.

        Raises:
            StorageError: The last checkpoint failed. A failed sync is raised by every later call.
        """
        if self._claiming is not None:
            claiming, self._claiming = self._claiming, None
            # not cancelled with the caller: a failed sync is reported once, and would be lost
            await outlast(asyncio.ensure_future(asyncio.wait({claiming})))
            claiming.result()
        if self._failed is not None:
            raise self._failed

    async def done(self) -> None:
        """End checkpoints because the file is complete and is published next.

        Raises:
            StorageError: The last checkpoint failed.
        """
        await self.settle()
        self._unclaimed, self._claimed = 0, self._download.held  # `last` has nothing to add

    async def last(self) -> None:
        """Record the bytes that are written and not yet recorded.

        Raises:
            StorageError: The sync, the ledger or an earlier checkpoint failed.
        """
        await self.settle()
        if self._unclaimed or self._claimed != self._download.held:
            await self._claim()

    async def retract(self) -> None:
        """Remove bytes that turned out to be invalid from the record, and drop the hashes computed so far.

        This runs to its end even if the task is cancelled: half of it would leave a record or a digest of the
        invalid bytes.

        Raises:
            StorageError: The ledger cannot be written, or an earlier checkpoint failed.
        """
        await completed(self._retract(self._download.record(self._download.held)))

    async def _retract(self, record: Record) -> None:
        try:
            await self.settle()
        finally:
            # not all held bytes: some of them are not synced yet
            self._claimed &= record.held
            await self._ledger.put(replace(record, held=self._claimed))
            await self._partial.hashing.reset()

    async def forget(self) -> None:
        """Record that nothing but the bytes held now is held, and then empty the partial.

        The order matters: after a kill between the two, the ledger states too little and not too much.

        Raises:
            StorageError: The ledger or the partial cannot be written.
        """
        with suppress(StorageError):  # an error about bytes that are discarded anyway
            await self.settle()
        self._unclaimed, self._claimed = 0, NOTHING
        await self._ledger.put(self._download.record(self._download.held))
        await self._partial.clear()
