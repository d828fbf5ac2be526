"""A part fetches bytes: it writes the body of a reply into the partial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..concurrency import completed
from ..connections.exchange import Exchange
from ..model import events
from ..model.errors import LaggingError, SizeLimitError, TooLongError
from ..model.protocols import PartialContent
from ..model.ranges import NOTHING, ByteRange, RangeSet
from .checkpoint import Checkpoint
from .context import Context
from .parts import OPEN_END
from .state import FileState, PartRequest

# First and longest interval in seconds after which received bytes are written even if the buffer is not full.
# The first is short because only written bytes can be recorded, and only recorded bytes survive a kill.
_WRITE_SECONDS: Final = (0.25, 1.0)
# Seconds after which a connection is compared with the better ones of its host.
_LAG_SECONDS: Final = 2.0


class BodyWriter:
    """The writer of reply bodies into the partial of one file.

    Args:
        context: The shared objects of this process.
        state: The state of the file; receives the written ranges.
        partial: The unfinished file.
        checkpoint: Notified of written bytes, so that it records them.
        connections: Returns the number of connections that fetch the file now.
    """

    def __init__(
        self,
        context: Context,
        state: FileState,
        partial: PartialContent,
        checkpoint: Checkpoint,
        connections: Callable[[], int],
    ) -> None:
        self._context, self._state, self._partial = context, state, partial
        self._checkpoint, self._connections = checkpoint, connections
        self._path = state.entry.path
        self._written: RangeSet = NOTHING

    async def run(self, part: PartRequest, span: ByteRange, exchange: Exchange) -> None:
        """Write the body of `exchange` to `span`. Bytes that arrived before an error are kept.

        Args:
            part: The part that the exchange was opened for.
            span: Byte range of the file that the body supplies.
            exchange: The exchange, with its reply received.

        Raises:
            TooLongError: The server sent more bytes than requested. It is unknown which range they belong
                to, so no byte of this body is kept.
            SizeLimitError: The file has no stated length, and is longer than `limits.file_size`.
            NetworkError: The connection was cut or stalled.
            LaggingError: It was far slower than others to the same host.
            ChangedError: The overlap sample differs from the bytes held.
            StorageError: The partial cannot be written or read.
            DiskFullError: The destination is full.
        """
        try:
            await self._run(part, span, exchange)
        except TooLongError:
            # this includes ranges that another connection had written before: they were overwritten
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
        filled, most, lags = 0, self._most(), False
        try:
            # after the last byte of the span, receive into a spare byte: surplus must not overwrite the span
            while count := await exchange.readinto(
                buffer[filled : span.stop - at] or memoryview(bytearray(1))
            ):
                filled += count
                if at + filled > span.stop:
                    filled = 0
                    raise TooLongError(f"{self._path}: the server sent more bytes than were requested")
                if at + filled > most:
                    raise SizeLimitError(
                        f"{self._path}: neither the server nor the manifest states its length, and more than "
                        f"limits.file_size ({most} bytes) has come; state its size in the manifest, or raise "
                        "the limit"
                    )
                if filled == len(buffer) or clock() - written > pause:
                    count, filled, pause = filled, 0, min(2 * pause, _WRITE_SECONDS[1])
                    at, written = await self._write(part, at, buffer[:count], exchange), clock()
                    buffer = buffers.fitted(buffer, pool.open)
                    if at < span.stop and not self._state.parts.missing_in(span):
                        break  # another connection has delivered the rest
                if clock() - looked > _LAG_SECONDS:
                    lags = exchange.lagging((at - looked_at) / (clock() - looked))
                    if lags:
                        break
                    looked, looked_at = clock(), at
        finally:
            if filled and self._state.parts.missing_in(ByteRange(at, at + filled)):
                at = await self._write(part, at, buffer[:filled], exchange)
            buffers.give(buffer, pool.open)
            exchange.measured(at - span.start, clock() - begun)
        if lags:
            exchange.replaced()
            raise LaggingError(f"{self._path}: this connection was far slower than others to the same host")

    def _most(self) -> int:
        """Return the length in bytes that the file may have, as far as the settings bound it."""
        most = self._context.settings.limits.file_size
        return most if self._state.length is None and most != "auto" else OPEN_END

    async def _compare(self, part: PartRequest, exchange: Exchange) -> None:
        """Receive the overlap sample and compare it with the bytes held."""
        sample = memoryview(bytearray(part.sample))
        came = 0
        while came < part.sample and (count := await exchange.readinto(sample[came:])):
            came += count
        if came == part.sample:
            before = ByteRange(part.range.start - part.sample, part.range.start)
            self._state.trust.alike(sample == await self._partial.read(before))

    async def _write(self, part: PartRequest, at: int, data: memoryview, exchange: Exchange) -> int:
        span, parts = ByteRange(at, at + len(data)), self._state.parts
        length = self._state.length if parts.begin_write(part.claim, span.stop) else None
        try:
            with self._context.pool.waits.writing:
                await completed(self._partial.write(at, data, length))
        except asyncio.CancelledError:
            self._wrote(span, exchange)  # `completed` has waited for the write, so the bytes are written
            raise
        self._wrote(span, exchange)
        return span.stop

    def _wrote(self, span: ByteRange, exchange: Exchange) -> None:
        exchange.progressed()
        self._written |= span
        again = len(span) - self._state.parts.missing_in(span)
        self._state.wrote(span)
        self._context.observe(events.Wrote(self._path, len(span), exchange.host, again=again))
        self._partial.hashing.advance(self._state.parts.settled, self._state.length)
        self._checkpoint.wrote(len(span), self._connections())
