"""A part fetches bytes: from the body of a reply into the partial file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..concurrency import completed
from ..connections.exchange import Exchange
from ..model import events
from ..model.errors import NetworkError, TooLongError
from ..model.protocols import Partial
from ..model.ranges import NOTHING, ByteRange, RangeSet
from .checkpoint import Checkpoint
from .context import Context
from .state import FileState, PartRequest

# seconds after which the bytes of a slow connection are written, however few they are: first and longest
# pause.
# The first is short, because only written bytes are recorded, and survive a kill
_WRITE_SECONDS: Final = (0.25, 1.0)
_LAG_SECONDS: Final = 3.0  # for which a connection may be ten times slower than its siblings


class BodyWriter:
    """Writes the bodies of exchanges into one file.

    Args:
        connections: returns how many connections the file has now.
    """

    def __init__(
        self,
        context: Context,
        state: FileState,
        partial: Partial,
        checkpoint: Checkpoint,
        connections: Callable[[], int],
    ) -> None:
        self._context, self._state, self._partial = context, state, partial
        self._checkpoint, self._connections = checkpoint, connections
        self._path = state.entry.path
        self._written: RangeSet = NOTHING

    async def run(self, part: PartRequest, span: ByteRange, exchange: Exchange) -> None:
        """Write the body of `exchange` to `span`, and keep what arrived however it ends.

        Raises:
            TooLongError: more bytes came than were announced. Nothing tells which bytes they were, so none of
                them is kept.
        """
        try:
            await self._run(part, span, exchange)
        except TooLongError:
            # also bytes that another connection had brought before: they were written over
            for each in self._written:
                self._state.unwrote(each)
            if self._written:
                await self._checkpoint.retract()
            raise

    async def _run(self, part: PartRequest, span: ByteRange, exchange: Exchange) -> None:
        clock = asyncio.get_running_loop().time
        at, begun = span.start, clock()
        written = looked = begun
        pause = _WRITE_SECONDS[0]
        looked_at = at
        if exchange.reply.range is not None and part.sample:
            await self._compare(part, exchange)
        buffers, pool = self._context.buffers, self._context.pool
        buffer = buffers.take(len(span), pool.open)
        filled = 0
        try:
            # one byte more than is missing: what comes after the last byte must not overwrite bytes before it
            while count := await exchange.readinto(
                buffer[filled : span.stop - at] or memoryview(bytearray(1))
            ):
                filled += count
                if at + filled > span.stop:
                    filled = 0
                    raise TooLongError(f"{self._path}: more bytes came than were asked for")
                if filled == len(buffer) or clock() - written > pause:
                    count, filled, pause = filled, 0, min(2 * pause, _WRITE_SECONDS[1])
                    at, written = await self._write(at, buffer[:count], exchange), clock()
                    buffer = buffers.fitted(buffer, pool.open)
                    if at < span.stop and not self._state.parts.lacks(span):
                        break  # a hedge was faster
                if clock() - looked > _LAG_SECONDS:
                    if exchange.lagging((at - looked_at) / (clock() - looked)):
                        raise NetworkError(f"{self._path}: a connection far slower than its siblings")
                    looked, looked_at = clock(), at
        finally:
            if filled and self._state.parts.lacks(ByteRange(at, at + filled)):
                at = await self._write(at, buffer[:filled], exchange)
            buffers.give(buffer, pool.open)
            exchange.measured(at - span.start, clock() - begun)

    async def _compare(self, part: PartRequest, exchange: Exchange) -> None:
        """Compare the overlap sample with the bytes held."""
        sample = memoryview(bytearray(part.sample))
        came = 0
        while came < part.sample and (count := await exchange.readinto(sample[came:])):
            came += count
        if came == part.sample:
            before = ByteRange(part.range.start - part.sample, part.range.start)
            self._state.alike(sample == await self._partial.read(before))

    async def _write(self, at: int, data: memoryview, exchange: Exchange) -> int:
        span = ByteRange(at, at + len(data))
        try:
            await completed(self._partial.write(at, data))
        except asyncio.CancelledError:
            self._wrote(span, exchange)  # `completed` has waited for the write
            raise
        self._wrote(span, exchange)
        return span.stop

    def _wrote(self, span: ByteRange, exchange: Exchange) -> None:
        exchange.progressed()
        self._written |= span
        self._state.wrote(span)
        self._context.observe(events.Wrote(self._path, len(span)))
        self._partial.follow(self._state.parts.settled, self._state.length)
        self._checkpoint.wrote(len(span), self._connections())
