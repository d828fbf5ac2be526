"""The ledger of one file while it grows: it claims too little, never too much."""

from __future__ import annotations

import asyncio
from typing import Final

from ..model.errors import StorageError
from ..model.protocols import Ledger, Partial
from .download import Download
from .tasks import completed

# a slow connection's bytes are claimed, too: soon at first, for a machine that kills runs again and again
# must see them come to an end, and then every second
_CLAIM_SECONDS: Final = (0.25, 1.0)


class Checkpoint:
    """Syncs what is written and then records it, in the background, never two at a time."""

    def __init__(self, ledger: Ledger, partial: Partial, download: Download, size: int) -> None:
        self._ledger, self._partial, self._download, self._size = ledger, partial, download, size
        self._unclaimed = 0
        self._unsound = False  # the disk has failed to sync: nobody knows what of it is there
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
        # one that has failed stays, for `settle` to raise: Linux tells of a failed sync once, and not again
        if not self._unsound and (self._claiming is None or self._claiming.done()):
            self._claimed_at, self._pause = now, min(2 * self._pause, _CLAIM_SECONDS[1])
            self._claiming = asyncio.create_task(self._claim())

    async def _claim(self) -> None:
        # as it is known now: while the disk syncs, the server may show another file
        record, self._unclaimed = self._download.record(self._download.held), 0
        try:
            await self._partial.sync()
        except StorageError:
            self._unsound = True
            raise
        await self._ledger.put(record)

    async def settle(self) -> None:
        """Return when no claim is under way. Raises what the last one raised."""
        if self._claiming is not None:
            claiming, self._claiming = self._claiming, None
            await claiming

    async def done(self) -> None:
        """Every byte is held and the file is about to be published: nothing more is to be claimed."""
        await self.settle()
        self._unclaimed = 0

    async def last(self) -> None:
        """Claim what is written and not yet claimed."""
        await self.settle()
        if self._unclaimed and not self._unsound:
            await self._claim()

    async def retract(self) -> None:
        """Claim no more than is held now: some of what was written is not to be believed. To its end also
        when cancelled: half of it would leave a claim, or a digest, of those bytes."""
        await completed(self._retract())

    async def _retract(self) -> None:
        await self.settle()
        await self._ledger.put(self._download.record(self._download.held))
        await self._partial.rehash()

    async def forget(self) -> None:
        """Claim no more than is held now, and then empty the partial: in this order."""
        await self.settle()
        self._unclaimed = 0
        await self._ledger.put(self._download.record(self._download.held))
        await self._partial.clear()
