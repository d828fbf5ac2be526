"""The ledger of one file while it grows: it claims too little, never too much."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

from ..concurrency import completed
from ..model.errors import StorageError
from ..model.protocols import Ledger, Partial
from ..model.ranges import NOTHING
from ..model.record import Record
from .state import FileState

# a slow connection's bytes are claimed, too: soon at first, for a machine that kills runs again and again
# must see them come to an end, and then every second
_CLAIM_SECONDS: Final = (0.25, 1.0)


class Checkpoint:
    """Syncs what is written and then records it, in the background, never two at a time."""

    def __init__(self, ledger: Ledger, partial: Partial, download: FileState, size: int) -> None:
        self._ledger, self._partial, self._download, self._size = ledger, partial, download, size
        self._unclaimed = 0
        self._claimed = download.held  # what the ledger says is held
        self._failed: StorageError | None = None  # a sync: nobody knows what of the partial is there
        self._claimed_at = asyncio.get_running_loop().time()
        self._pause = _CLAIM_SECONDS[0]
        self._claiming: asyncio.Task[None] | None = None

    def wrote(self, count: int, connections: int) -> None:
        """So many more bytes are written; begin a claim where enough of them are."""
        self._unclaimed += count
        now = asyncio.get_running_loop().time()
        due = self._unclaimed >= self._size * max(1, connections)
        if not due and now - self._claimed_at < self._pause:
            return
        if self._download.complete and not self._claimed:
            return  # it has waited long for a connection, came quickly, and is published next
        # Linux tells of a failed sync once: the next one would pass, and claim those bytes, too
        if self._failed is None and (self._claiming is None or self._claiming.done()):
            self._claimed_at, self._pause = now, min(2 * self._pause, _CLAIM_SECONDS[1])
            self._claiming = asyncio.create_task(self._claim())

    async def _claim(self) -> None:
        # as it is known now: while the disk syncs, the server may show another file
        record, self._unclaimed = self._download.record(self._download.held), 0
        try:
            await self._partial.sync()
        except StorageError as error:
            self._failed = error
            raise
        await self._ledger.put(record)
        self._claimed = record.held

    async def settle(self) -> None:
        """Return when no claim is under way. Raises what the last one raised; what a sync did, for good."""
        if self._claiming is not None:
            claiming, self._claiming = self._claiming, None
            await claiming
        if self._failed is not None:
            raise self._failed

    async def done(self) -> None:
        """Every byte is held and the file is about to be published: nothing more is to be claimed."""
        await self.settle()
        self._unclaimed = 0

    async def last(self) -> None:
        """Part what is written and not yet claimed."""
        await self.settle()
        if self._unclaimed:
            await self._claim()

    async def retract(self) -> None:
        """Part nothing any more that is not held now: some of what was written is not to be believed. To its
        end also when cancelled: half of it would leave a claim, or a digest, of those bytes."""
        await completed(self._retract(self._download.record(self._download.held)))

    async def _retract(self, record: Record) -> None:
        try:
            await self.settle()
        finally:
            # not all that is held: some of that is not synced
            self._claimed &= record.held
            await self._ledger.put(replace(record, held=self._claimed))
            await self._partial.rehash()

    async def forget(self) -> None:
        """Part no more than is held now, and then empty the partial: in this order."""
        with suppress(StorageError):  # of bytes that are given up
            await self.settle()
        self._unclaimed, self._claimed = 0, NOTHING
        await self._ledger.put(self._download.record(self._download.held))
        await self._partial.clear()
