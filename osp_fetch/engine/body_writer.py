"""A part fetches bytes: it writes the body of a reply into the partial."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from ..concurrency import completed
from ..connections.exchange import Exchange
from ..model import events
from ..model.draining import Fillable, Receive
from ..model.errors import FetchError, LaggingError, SizeLimitError, TooLongError
from ..model.protocols import PartialContent
from ..model.ranges import NOTHING, ByteRange, RangeSet
from .checkpoint import Checkpoint
from .context import Context
from .parts import OPEN_END, PartRequest
from .state import FileState

# First and longest interval in seconds after which received bytes are written even if the buffer is not full.
# The first is short because only written bytes can be recorded, and only recorded bytes survive a kill.
_WRITE_SECONDS: Final = (0.25, 1.0)
# Bytes per second of a connection whose body a thread receives.
_SWIFT: Final = 32 << 20
# Bytes that the thread receives before the event loop counts them. They bound what a kill loses.
_PIECE: Final = 4 << 20
# Open connections above which no thread receives: threads are few, and wait for their bytes.
_MOST_DRAINED: Final = 32
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
        self._clock = asyncio.get_running_loop().time
        self._at = self._filled = 0  # offset in the file of the buffer's first byte, and bytes in the buffer
        self._buffer = memoryview(b"")
        self._pause, self._written_at = _WRITE_SECONDS[0], 0.0
        self._tail: ByteRange | None = None  # overlap sample behind the part, not received yet
        self._drains = isinstance(partial, Fillable)
        self._is_swift = False  # the bytes come so quickly that a thread receives them

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
        begun = looked = self._written_at = self._clock()
        reply = exchange.reply.range
        if reply is not None and part.sample:
            await self._compare(part, exchange)
        if reply is not None and part.tail and reply.stop > span.stop:
            self._tail = ByteRange(span.stop, min(reply.stop, span.stop + part.tail))
        buffers, pool = self._context.buffers, self._context.pool
        self._at = looked_at = span.start
        pace = pool.host(exchange.host).throughput.value
        self._is_swift = self._may_drain() and pace is not None and pace > _SWIFT
        self._buffer = buffers.take(len(span), pool.open)
        lags = False
        try:
            while await self._receive(part, span, exchange):
                if self._clock() - looked > _LAG_SECONDS:
                    lags = exchange.lagging((self._at - looked_at) / (self._clock() - looked))
                    if lags:
                        break
                    looked, looked_at = self._clock(), self._at
        finally:
            if self._filled and self._state.parts.missing_in(ByteRange(self._at, self._at + self._filled)):
                await self._flush(part, exchange)
            buffers.give(self._buffer, pool.open)
            exchange.measured(self._at - span.start, self._clock() - begun)
        if lags:
            raise LaggingError(f"{self._path}: this connection was far slower than others to the same host")

    async def _receive(self, part: PartRequest, span: ByteRange, exchange: Exchange) -> bool:
        """Receive more bytes, and write them if it is time; return whether the body is needed further."""
        if self._is_swift and self._at + self._filled < span.stop and exchange.is_ready():
            await self._drain(part, span, exchange)
            return self._is_missing(span)
        if self._tail is not None and self._at + self._filled >= span.stop:
            tail, self._tail = self._tail, None
            if (sample := await self._sample(tail, exchange)) is not None:
                self._state.trust.keep(tail, sample)
        # after the last byte of the span, receive into a spare byte: surplus must not overwrite the span
        room = self._buffer[self._filled : span.stop - self._at] or memoryview(bytearray(1))
        count = await exchange.readinto(room)
        self._filled += count
        stop = self._at + self._filled
        if stop > span.stop:
            self._filled = 0
            raise TooLongError(f"{self._path}: the server sent more bytes than were requested")
        if stop > self._most():
            raise SizeLimitError(
                f"{self._path}: neither the server nor the manifest states its length, and more than "
                f"limits.file_size ({self._most()} bytes) has come; state its size in the manifest, or raise "
                "the limit"
            )
        seconds, is_full = self._clock() - self._written_at, self._filled == len(self._buffer)
        if count and (is_full or seconds > self._pause):
            self._is_swift = is_full and self._may_drain() and self._filled > _SWIFT * seconds
            self._pause = min(2 * self._pause, _WRITE_SECONDS[1])
            await self._flush(part, exchange)
            return self._is_missing(span)
        return count > 0

    def _is_missing(self, span: ByteRange) -> bool:
        """Return whether another connection has not delivered the rest of `span` yet."""
        return self._at >= span.stop or self._state.parts.missing_in(span) > 0

    def _may_drain(self) -> bool:
        """Return whether threads may receive: the length is known, and the threads are enough."""
        return self._drains and self._state.length is not None and self._context.pool.open <= _MOST_DRAINED

    async def _drain(self, part: PartRequest, span: ByteRange, exchange: Exchange) -> None:
        """Let a thread receive, write and hash the next bytes while they come quickly."""
        partial, parts = self._partial, self._state.parts
        assert isinstance(partial, Fillable)
        piece = ByteRange(self._at, min(span.stop, self._at + _PIECE))
        length = self._state.length if parts.begin_write(part.claim, piece.stop) else None
        filling = _Filling(partial, piece, self._buffer, length, self._filled)
        try:
            await completed(exchange.drain(filling.fill))
        finally:
            if filling.was_called:  # else the connection has closed just now
                self._filled = 0
            self._at += filling.count
            self._written_at = self._clock()
            self._context.pool.waits.writing.credit(filling.writing)
            parts.begin_write(part.claim, self._at)  # a hedge may take what did not come
            if filling.count:
                self._wrote(ByteRange(piece.start, self._at), exchange)
        if filling.error is not None:
            raise filling.error
        self._is_swift = filling.count == len(piece)
        if not self._filled:
            self._buffer = self._context.buffers.fitted(self._buffer, self._context.pool.open)

    def _most(self) -> int:
        """Return the length in bytes that the file may have, as far as the settings bound it."""
        most = self._context.settings.limits.file_size
        return most if self._state.length is None and most != "auto" else OPEN_END

    async def _compare(self, part: PartRequest, exchange: Exchange) -> None:
        """Receive the overlap sample before the part and compare it with the bytes held.

        If another part is still fetching them, that is done later.
        """
        before = ByteRange(part.range.start - part.sample, part.range.start)
        sample = await self._sample(before, exchange)
        if sample is None:
            return
        comparable = part.can_compare(self._state.held)
        equal = comparable and sample == await self._partial.read(before)
        if not equal:
            self._state.trust.keep(before, sample)
        if comparable:
            self._state.trust.alike(equal)

    async def _sample(self, span: ByteRange, exchange: Exchange) -> bytes | None:
        """Receive the bytes of `span`, which are not written; None if the body ends before."""
        sample, came = memoryview(bytearray(len(span))), 0
        while came < len(span) and (count := await exchange.readinto(sample[came:])):
            came += count
        return bytes(sample) if came == len(span) else None

    async def _flush(self, part: PartRequest, exchange: Exchange) -> None:
        """Write what the buffer holds."""
        data, self._filled = self._buffer[: self._filled], 0
        span, parts = ByteRange(self._at, self._at + len(data)), self._state.parts
        length = self._state.length if parts.begin_write(part.claim, span.stop) else None
        try:
            with self._context.pool.waits.writing:
                await completed(self._partial.write(span.start, data, length))
        except asyncio.CancelledError:
            self._wrote(span, exchange)  # `completed` has waited for the write, so the bytes are written
            raise
        self._wrote(span, exchange)
        self._at, self._written_at = span.stop, self._clock()
        self._buffer = self._context.buffers.fitted(self._buffer, self._context.pool.open)

    def _wrote(self, span: ByteRange, exchange: Exchange) -> None:
        exchange.progressed()
        self._written |= span
        again = len(span) - self._state.parts.missing_in(span)
        self._state.wrote(span)
        self._context.observe(events.Wrote(self._path, len(span), exchange.host, again=again))
        self._partial.hashing.advance(self._state.parts.settled, self._state.length)
        self._checkpoint.wrote(len(span), self._connections())


class _Filling:
    """One call of `Fillable.fill`, and what came of it.

    Args:
        partial, span, buffer, length, filled: What `fill` is called with.

    Attributes:
        was_called: Whether the connection was still there.
        count: Bytes written.
        error: Why the next ones could not be written, None if nothing failed.
        writing: Seconds in which the thread did not wait for the connection.
    """

    def __init__(
        self, partial: Fillable, span: ByteRange, buffer: memoryview, length: int | None, filled: int
    ) -> None:
        self._partial, self._span, self._buffer, self._length = partial, span, buffer, length
        self._filled, self.was_called, self.count, self.writing = filled, False, 0, 0.0
        self.error: FetchError | None = None
        self._receiving = 0.0

    async def fill(self, receive: Receive) -> None:
        """Receive and write the bytes; see `model.draining.Fill`."""

        def timed(view: memoryview) -> int:
            begun = time.monotonic()
            count = receive(view)
            self._receiving += time.monotonic() - begun
            return count

        self.was_called, begun = True, time.monotonic()
        of_file = (self._span, timed, self._buffer, self._length)
        self.count, self.error = await self._partial.fill(*of_file, filled=self._filled)
        self.writing = time.monotonic() - begun - self._receiving
