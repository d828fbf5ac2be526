"""A file that one reply brings whole, as small ones are: there is nothing to resume, to split or to claim.

What turns out to be more than that, a longer body, a slow one, a refusal, is handed over as it stands: a
PartedTransfer goes on with the reply that is here already, so that nothing is asked for twice.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from typing import Final

from ..connections.pool import ConnectionPool
from ..connections.streams import Streams
from ..model import events, urls
from ..model.entry import Entry
from ..model.errors import FetchError
from ..model.http import Landing, Request
from ..model.protocols import Memory, Reply
from ..model.ranges import ByteRange, RangeSet
from ..model.record import Record
from .context import Context
from .state import first_request

_SMALL: Final = 256 << 10  # bytes
_GUESS: Final = 60 << 10  # bytes that a file of unknown size has room in, to be received where it belongs
_PER_SECOND: Final = 8  # so many small files in a second keep a byte rate without bursts
_MOMENT: Final = 0.25  # seconds after which what has come of a file should be claimed
_USUAL: Final = frozenset({"sha256"})


class Opened:
    """The first request for a file, and what has come of it: a reply, to be had by entering this, which
    raises the error where there is none.

    `connection`: held for it at the pool, None where it was given back. `size`: of the part that was asked
    for.
    """

    def __init__(
        self,
        connection: AbstractAsyncContextManager[None],
        size: int,
        request: Request,
        exchange: AbstractAsyncContextManager[Reply],
    ) -> None:
        self.connection: AbstractAsyncContextManager[None] | None = connection
        self.size, self.request = size, request
        self.reply: Reply | None = None
        self.error: FetchError | None = None
        self._exchange: AbstractAsyncContextManager[Reply] | None = exchange

    async def ask(self) -> Reply:
        """Send the request."""
        assert self._exchange is not None
        self.reply = await self._exchange.__aenter__()
        return self.reply

    async def __aenter__(self) -> Reply:
        if self.reply is not None:
            return self.reply
        assert self.error is not None
        raise self.error

    async def __aexit__(self, *_: object) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self.reply is not None:
            await exchange.__aexit__(None, None, None)

    async def close(self) -> None:
        """Let go of the reply, and of the connection."""
        await self.__aexit__()
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.__aexit__(None, None, None)


class Replayed:
    """`reply`, of which `came` was read already; then it goes on, or ends in `error`, or is `over`."""

    def __init__(
        self, reply: Reply, came: memoryview, error: FetchError | None = None, *, over: bool = False
    ) -> None:
        self.representation, self.range = reply.representation, reply.range
        self.framed, self.borrowed = reply.framed, reply.borrowed
        self.headers_sent, self.pauses = reply.headers_sent, reply.pauses
        self._reply = None if over else reply
        self._came, self._error = came, error

    async def readinto(self, view: memoryview) -> int:
        if self._came:
            count = min(len(view), len(self._came))
            view[:count] = self._came[:count]
            self._came = self._came[count:]
            return count
        if self._error is not None:
            raise self._error
        return 0 if self._reply is None else await self._reply.readinto(view)


class _Coming(Landing):
    """A small file in the memory that it comes to; the pool is told when it begins to come."""

    __slots__ = ("_asked", "_host", "_pool", "_streams", "memory")

    def __init__(self, memory: Memory, pool: ConnectionPool, host: str) -> None:
        super().__init__(memory.view)
        self.memory = memory
        self._pool, self._host = pool, host
        self._asked = time.monotonic()
        self._streams: Streams | None = None

    def begun(self) -> None:
        if self._streams is None:
            self._pool.answered(self._host, time.monotonic() - self._asked)
            self._streams = self._pool.streams(self._host)
            self._streams.brief += 1

    def ended(self) -> None:
        """Nothing more comes, and nobody looks here any more: whoever still has this has no memory of the
        store's."""
        self.view, self.body = memoryview(b""), None
        if self._streams is not None:
            self._streams.brief -= 1


class Wholes:
    """Fetches files of which nothing is held and that are small, as far as is known."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def fetch(self, entry: Entry, order: int) -> Record | Opened | None:
        """The record of `entry`, published; or what was opened, for a PartedTransfer to go on with; None
        where it should begin by itself."""
        pool, host = self._context.pool, urls.host(entry.urls[0])
        small = entry.size is None or 0 < entry.size <= _SMALL
        rate = self._context.settings.limits.rate
        # a small file at once may be too much at once
        if not small or 0 < rate < _PER_SECOND * _SMALL or pool.dead(host):
            return None
        connection = pool.connection(host, order)
        await connection.__aenter__()
        size = pool.part_size(host, entry.size, order)
        room = _GUESS if entry.size is None else entry.size
        coming = _Coming(self._context.store.memory(Landing.HEAD + room), pool, host)
        request = first_request(entry, size, coming)
        opened = Opened(connection, size, request, self._context.transport.get(request))
        self._context.observe(events.Opened(entry.path, host))
        whole = handed_over = False
        try:
            whole = await self._came(entry, host, opened, coming)
            handed_over = not whole
        finally:
            coming.ended()
            if not whole:
                coming.memory.free()
            if not handed_over:
                await opened.close()
                self._context.observe(events.Closed(entry.path, host))
        if whole and (record := await self._finished(entry, opened, coming.memory)):
            return record
        return opened

    async def _came(self, entry: Entry, host: str, opened: Opened, coming: _Coming) -> bool:
        """Whether the whole file, and nothing else, is in the memory; where this is not the reply that
        brings it, and now, what came is in `opened`."""
        pool = self._context.pool
        try:
            reply = await opened.ask()
        except FetchError as error:
            opened.error = error.with_traceback(None)
            return False
        length = _length(entry, reply)
        if coming.body is None:
            coming.begun()
            return length is not None and await self._read(host, opened, coming, reply, length)
        if length is None:
            opened.reply = Replayed(reply, memoryview(bytes(coming.body)), over=True)
            return False
        pool.received(host, length)
        await pool.spend(length)
        coming.memory.cut(coming.start, coming.start + length)
        return True

    async def _read(self, host: str, opened: Opened, coming: _Coming, reply: Reply, length: int) -> bool:
        """See `_came`, for a reply that was not received where it belongs."""
        clock, pool = time.monotonic, self._context.pool
        # one byte more than there is to come tells that no more comes
        if len(coming.memory.view) <= length:
            coming.memory.free()
            coming.memory = self._context.store.memory(length + 1)
        view, now, came = coming.memory.view, clock(), 0
        try:
            while count := await reply.readinto(view[came : length + 1]):
                pool.received(host, count)
                came += count
                await pool.spend(count)
                if came > length or (came < length and clock() - now > _MOMENT):
                    break
            else:
                if came == length:
                    coming.memory.cut(0, length)
                    return True
        except FetchError as error:
            opened.error = error.with_traceback(None)
        pool.received(host, -came)  # whoever goes on with them tells of them again
        opened.reply = Replayed(reply, memoryview(bytes(view[:came])), opened.error)
        return False

    async def _finished(self, entry: Entry, opened: Opened, memory: Memory) -> Record | None:
        """The record of the file that `memory` consists of; None where it is not the right one, or the disk
        does not take it: then whoever goes on with `opened` finds it there."""
        reply, length, wanted = opened.reply, len(memory.view), entry.digest
        assert reply is not None
        algorithms = _USUAL
        if wanted is not None and wanted.algorithm not in _USUAL:
            algorithms = _USUAL | {wanted.algorithm}
        try:
            placed, digests = await self._context.store.put(entry.path, memory, length, algorithms, wanted)
        except FetchError:
            opened.reply = Replayed(reply, memory.view, over=True)
            return None
        self._context.observe(events.Wrote(entry.path, length))
        if placed.kept is not None:
            self._context.observe(events.SetAside(entry.path, placed.kept))
        key, held = entry.source_key(entry.urls[0]), RangeSet((ByteRange(0, length),))
        validator = reply.representation.validator
        record = Record(entry.path, key, length, validator, held, digests, (), placed.published)
        await self._context.ledger.put(record)
        return record


def _length(entry: Entry, reply: Reply) -> int | None:
    """How long the file is that `reply` brings whole; None where it does not, or not a small one."""
    length = reply.representation.length
    if length is None or not 0 < length <= _SMALL or entry.size not in (None, length) or reply.pauses:
        return None
    whole = reply.range is None or (reply.range.start == 0 and reply.range.stop == length)
    return length if whole else None
