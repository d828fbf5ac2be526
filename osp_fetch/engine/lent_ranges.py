"""Ranges of a file that other nodes fetch, because they have nothing else to do at the end of a run.

A node fetches such a range into a range file of its own, or into objects of osp-fetch in a bucket. The node
that has the file copies the bytes into its partial, so that no other process ever writes there: a range file
that comes too late changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from ..concurrency import completed, stop
from ..model import urls
from ..model.dataclasses import dataclass
from ..model.entry import Entry
from ..model.errors import StorageError
from ..model.protocols import PartialContent, RangeFiles
from ..model.ranges import ByteRange, RangeSet
from ..model.record import Record
from .checkpoint import Checkpoint
from .parts import Part
from .state import FileState

_LEAST: Final = 16 << 20  # bytes: the smallest range that is worth a lease
_SECONDS: Final = 20.0  # for which a range is sized, at the rate at which the file is fetched here
# A range is taken back after this many seconds, and after this multiple of the time that it should take.
_PATIENCE: Final = (20.0, 4.0)
_FAILURES: Final = 2  # ranges that were not fetched, after which no more of the file is lent
_AHEAD: Final = 3  # blocks that are read while one is written


@dataclass(frozen=True, slots=True)
class RangeJob:
    """A range of a file that a node fetches for another one.

    Args:
        number: Unique among the ranges of the file.
        entry: The row, with the one link to use.
        record: What is known of the file. All bytes but those of the range are stated as held.
        range: The bytes to fetch.
        order: Position of the file in the manifest.
        host: `host:port` of the link.
    """

    number: int
    entry: Entry
    record: Record
    range: ByteRange
    order: int
    host: str


class LentRanges:
    """The ranges of one file that other nodes fetch.

    Args:
        files: Reads what other nodes have fetched.
        state: The state of the file.
        partial: The unfinished file.
        checkpoint: Records the copied bytes.
        order: Position of the file in the manifest.
        changed: Called when bytes were copied, or are free again.
    """

    def __init__(
        self,
        files: RangeFiles,
        state: FileState,
        partial: PartialContent,
        checkpoint: Checkpoint,
        order: int,
        changed: Callable[[], None],
    ) -> None:
        self._range_files, self._state, self._partial = files, state, partial
        self._checkpoint, self._order, self._changed = checkpoint, order, changed
        self._lent: dict[int, tuple[Part, asyncio.TimerHandle]] = {}
        self._copying: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._settled = asyncio.Event()  # set when further bytes may be settled
        self._since, self._held = asyncio.get_running_loop().time(), len(state.held)

    @property
    def free(self) -> int:
        """Number of bytes of the file that could be lent."""
        return self._state.parts.free or 0

    def lend(self, helpers: int) -> RangeJob | None:
        """Lend the end of the missing bytes.

        Args:
            helpers: Number of nodes that have nothing else to do.

        Returns:
            The range; None if too little is missing, or nothing would prove that its bytes are of the file.
        """
        loop = asyncio.get_running_loop()
        now, state, link = loop.time(), self._state, self._state.mirrors.first
        rate = (len(state.held) - self._held) / max(0.1, now - self._since)
        size = min(self.free // (helpers + 1), max(_LEAST, int(rate * _SECONDS)))
        if size < _LEAST or self._failures >= _FAILURES or not state.trust.proven(link):
            return None
        part = state.parts.lend(size, now)
        if part is None:
            return None
        least, factor = _PATIENCE
        patience = max(least, factor * size / rate) if rate else least
        self._lent[part.number] = part, loop.call_later(patience, self.returned, part.number, None)
        rest = RangeSet.upto(state.length or 0) - part.range
        record = replace(state.record(rest), source_key=state.entry.source_key(link))
        entry = replace(state.entry, urls=(link,))
        return RangeJob(part.number, entry, record, part.range, self._order, urls.host(link))

    def returned(self, number: int, file: Path | None) -> bool:
        """Take what a node has fetched.

        Args:
            number: The number of the range.
            file: The file with its bytes, None if they were not fetched.

        Returns:
            Whether the range is still lent. If not, the file is not used, and not deleted.
        """
        if number not in self._lent:
            return False
        part, overdue = self._lent.pop(number)
        overdue.cancel()
        if file is None:
            self._release(part, is_failure=True)
            return True
        task = asyncio.create_task(self._copy(part, file))
        self._copying.add(task)
        task.add_done_callback(self._copying.discard)
        return True

    async def recall(self) -> None:
        """Take back all ranges, and lend no more: the file starts again, ends, or comes in one request.

        Nothing is copied after this. If the file starts again, a range may have been wrong.
        """
        lent, self._lent, self._failures = self._lent, {}, _FAILURES
        for part, overdue in lent.values():
            overdue.cancel()
            self._state.parts.release(part)
        await completed(stop(self._copying))

    def _release(self, part: Part, *, is_failure: bool) -> None:
        self._state.parts.release(part)
        self._failures += is_failure
        self._changed()

    async def _copy(self, part: Part, file: Path) -> None:
        """Copy a range file into the partial, and delete it. Bytes that cannot be copied are free again."""
        is_failure = True
        try:
            if self._range_files.in_order:
                await self._until_settled(part.range.start)
            is_failure = not await self._copied(part.range, file)
        except StorageError:
            pass  # the bytes are fetched here: that shows whether the disk is at fault
        finally:
            self._release(part, is_failure=is_failure)
            await completed(self._range_files.drop(file))

    async def _until_settled(self, offset: int) -> None:
        """Wait until all bytes before `offset` are held."""
        while self._state.parts.settled < offset:
            self._settled.clear()
            await self._settled.wait()

    def advanced(self) -> None:
        """Note that a part has ended."""
        self._settled.set()

    async def _copied(self, span: ByteRange, file: Path) -> bool:
        """Copy blocks of a range file in order, and read ahead. Return whether all of `span` was there."""
        size, reading = self._range_files.block, deque[tuple[ByteRange, asyncio.Task[bytes]]]()
        blocks = (ByteRange(at, min(at + size, span.stop)) for at in range(span.start, span.stop, size))
        try:
            while True:
                for block in islice(blocks, _AHEAD + 1 - len(reading)):
                    read = self._range_files.read(file, block.start - span.start, len(block))
                    task = asyncio.create_task(read)
                    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # retrieved
                    reading.append((block, task))
                if not reading:
                    return True
                block, task = reading[0]
                data = await task
                if data:
                    await completed(self._partial.write(block.start, data, self._state.length))
                    self._wrote(ByteRange(block.start, block.start + len(data)))
                if len(data) < len(block):
                    return False
                reading.popleft()
        finally:
            await completed(stop({task for _, task in reading}))

    def _wrote(self, span: ByteRange) -> None:
        self._state.wrote(span)
        self._partial.hashing.advance(self._state.parts.settled, self._state.length)
        self._checkpoint.wrote(len(span), 1)


class Lending:
    """The files of this node of which other nodes may fetch ranges.

    Args:
        range_files: What nodes have fetched for each other.
    """

    def __init__(self, range_files: RangeFiles) -> None:
        self.range_files = range_files
        self._files: dict[str, LentRanges] = {}

    def offer(self, path: str, ranges: LentRanges) -> None:
        """Add a file: a server has answered, and its missing bytes are known."""
        self._files[path] = ranges

    def withdraw(self, path: str) -> None:
        """Remove a file: it has ended."""
        self._files.pop(path, None)

    def lend(self, helpers: int) -> RangeJob | None:
        """Lend a range of the file with the most free bytes, None if there is none; see `LentRanges.lend`."""
        files = sorted(self._files.values(), key=lambda ranges: -ranges.free)
        return next(filter(None, (ranges.lend(helpers) for ranges in files)), None)

    def returned(self, path: str, number: int, file: Path | None) -> bool:
        """Take what a node has fetched of a file; see `LentRanges.returned`."""
        ranges = self._files.get(path)
        return ranges is not None and ranges.returned(number, file)
