"""A part fetches bytes: from a reply's body into the partial file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..concurrency import completed
from ..model import events
from ..model.errors import NetworkError, TooLongError
from ..model.protocols import Partial, Reply
from ..model.ranges import NOTHING, ByteRange, RangeSet
from .checkpoint import Checkpoint
from .context import Context
from .state import FileState, PartRequest

# a slow connection's bytes are written so often, however few they are: soon at first, as they are claimed
_WRITE_SECONDS: Final = (0.25, 1.0)
_LAG_SECONDS: Final = 3.0  # for which a connection may be ten times slower than its siblings


class BodyWriter:
    """Empties replies from one host into one file. `connections`: how many the file has now."""

    def __init__(
        self,
        context: Context,
        download: FileState,
        partial: Partial,
        checkpoint: Checkpoint,
        connections: Callable[[], int],
        host: str,
    ) -> None:
        self._context, self._download, self._partial = context, download, partial
        self._checkpoint, self._connections, self._host = checkpoint, connections, host
        self._path = download.entry.path
        self._written: RangeSet = NOTHING

    async def run(self, part: PartRequest, span: ByteRange, reply: Reply) -> None:
        """Write the body of `reply` to `span`; what arrived is kept, however it ends, unless more came
        than was announced: then nothing tells which bytes they were."""
        try:
            await self._run(part, span, reply)
        except TooLongError:
            # also what another had brought before: it was written over
            for each in self._written:
                self._download.unwrote(each)
            if self._written:
                await self._checkpoint.retract()
            raise

    async def _run(self, part: PartRequest, span: ByteRange, reply: Reply) -> None:
        clock = asyncio.get_running_loop().time
        at, begun = span.start, clock()
        written = looked = begun
        pause = _WRITE_SECONDS[0]
        looked_at = at
        if reply.range is not None and part.sample:
            await self._compare(part, reply)
        pool = self._context.pool
        buffer = self._context.buffers.take(len(span), pool.open)
        filled = 0
        try:
            # what comes after the last byte must not come over the bytes before it
            while count := await reply.readinto(buffer[filled : span.stop - at] or memoryview(bytearray(1))):
                pool.received(self._host, count)
                filled += count
                if at + filled > span.stop:
                    filled = 0
                    raise TooLongError(f"{self._path}: more bytes came than were asked for")
                await pool.spend(count)
                if filled == len(buffer) or clock() - written > pause:
                    count, filled, pause = filled, 0, min(2 * pause, _WRITE_SECONDS[1])
                    at, written = await self._write(at, buffer[:count]), clock()
                    buffer = self._context.buffers.fitted(buffer, pool.open)
                    if at < span.stop and not self._download.parts.lacks(span):
                        break  # a hedge was faster
                if clock() - looked > _LAG_SECONDS:
                    if pool.lagging(self._host, (at - looked_at) / (clock() - looked)):
                        raise NetworkError(f"{self._path}: a connection far slower than its siblings")
                    looked, looked_at = clock(), at
        finally:
            if filled and self._download.parts.lacks(ByteRange(at, at + filled)):
                at = await self._write(at, buffer[:filled])
            self._context.buffers.give(buffer, pool.open)
            pool.measured(self._host, at - span.start, clock() - begun)

    async def _compare(self, part: PartRequest, reply: Reply) -> None:
        """Compare the overlap sample with the bytes held."""
        sample = memoryview(bytearray(part.sample))
        came = 0
        while came < part.sample and (count := await reply.readinto(sample[came:])):
            came += count
            await self._context.pool.spend(count)
        if came == part.sample:
            before = ByteRange(part.range.start - part.sample, part.range.start)
            self._download.alike(sample == await self._partial.read(before))

    async def _write(self, at: int, data: memoryview) -> int:
        span = ByteRange(at, at + len(data))
        try:
            await completed(self._partial.write(at, data))
        except asyncio.CancelledError:
            self._wrote(span)  # `completed` has seen the write to its end
            raise
        self._wrote(span)
        return span.stop

    def _wrote(self, span: ByteRange) -> None:
        self._context.pool.answered(self._host)
        self._written |= span
        self._download.wrote(span)
        self._context.observe(events.Wrote(self._path, len(span)))
        self._partial.follow(self._download.parts.settled, self._download.length)
        self._checkpoint.wrote(len(span), self._connections())
