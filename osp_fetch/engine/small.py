"""Small files: fetch a file whose first reply contains all of it. There are no parts and no partial.

The file stays in the memory that it was received into, and is published from there. In every other case (a
longer body, a slow one, an error) the exchange keeps what was received, and a PartedTransfer continues.
"""

from __future__ import annotations

import time
from typing import Final

from ..connections.exchange import Exchange
from ..model import events
from ..model.entry import Entry
from ..model.errors import FetchError
from ..model.http import Landing, Request
from ..model.protocols import Memory, Reply
from ..model.ranges import ByteRange, RangeSet
from ..model.record import Record
from .context import Context
from .full_disk import FullDisk

SMALL: Final = 256 << 10  # bytes: the largest file that is fetched this way
_GUESS: Final = 60 << 10  # bytes: memory for a file of unknown size
# A byte rate below this number of largest small files per second would be exceeded in bursts.
_PER_SECOND: Final = 8
# Seconds after which a body that is still incomplete is written and recorded, so that a kill costs little.
_MOMENT: Final = 0.25
_USUAL: Final = frozenset({"sha256"})  # digests of every file, whatever the manifest states


class SmallTransfer:
    """One attempt to fetch a file with a single reply.

    Args:
        context: The shared objects of this process.
        entry: The manifest entry.
        full: The wait for free space.
    """

    def __init__(self, context: Context, entry: Entry, full: FullDisk) -> None:
        self._context, self._entry, self._full = context, entry, full
        self._memory: Memory | None = None

    @staticmethod
    def is_likely(context: Context, entry: Entry) -> bool:
        """Return whether the file may be small, judged by its stated size and the byte rate limit.

        Args:
            context: The shared objects of this process.
            entry: The manifest entry.
        """
        rate = context.pool.rate.now
        return (entry.size is None or entry.size <= SMALL) and not 0 < rate < _PER_SECOND * SMALL

    async def receive(self, exchange: Exchange, part_size: int) -> bool:
        """Send the first request and receive the file if it is small.

        Args:
            exchange: An exchange that has sent nothing yet.
            part_size: Size of the first part in bytes.

        Returns:
            Whether exactly the complete file is in memory. If not, `exchange` keeps the reply, the bytes
            received or the error.
        """
        room = self._entry.size or _GUESS
        self._memory = self._context.store.small_files.memory(Landing.HEAD + room)
        landing = exchange.landing(self._memory.view)
        is_here = False
        try:
            reply = await exchange.send(first_request(self._entry, part_size, landing))
            is_here = await self._received(exchange, landing, reply)
        except FetchError:
            pass  # the exchange keeps the error and raises it to the PartedTransfer
        finally:
            exchange.detach()
            if not is_here:
                self._memory.free()
        return is_here

    async def _received(self, exchange: Exchange, landing: Landing, reply: Reply) -> bool:
        assert self._memory is not None
        length = _length(self._entry, reply)
        if landing.body is None:
            landing.begun()
            return length is not None and await self._read(exchange, length)
        if length is None:
            exchange.unread(memoryview(bytes(landing.body)), last=True)
            return False
        exchange.take_landed(length)
        self._memory.cut(landing.start, landing.start + length)
        return True

    async def _read(self, exchange: Exchange, length: int) -> bool:
        """Read a body that was not received into the landing; return whether it is the complete file."""
        assert self._memory is not None
        if len(self._memory.view) <= length:  # one byte more than the length detects a body that is too long
            self._memory.free()
            self._memory = self._context.store.small_files.memory(length + 1)
        view, begun, came = self._memory.view, time.monotonic(), 0
        try:
            while count := await exchange.readinto(view[came : length + 1]):
                came += count
                if came > length or (came < length and time.monotonic() - begun > _MOMENT):
                    break
            else:
                if came == length:
                    self._memory.cut(0, length)
                    return True
        except FetchError as error:
            exchange.fail_later(error.with_traceback(None))
        exchange.unread(memoryview(bytes(view[:came])))
        return False

    async def publish(self, exchange: Exchange) -> Record | None:
        """Publish the received file and record it.

        Args:
            exchange: The exchange that the file was received from.

        Returns:
            The record; None if the digest differs from the manifest's or the disk cannot be written. The
            exchange then has the bytes, and a PartedTransfer reports the error.

        Raises:
            StorageError: The ledger cannot be written.
        """
        assert self._memory is not None
        entry, memory, length = self._entry, self._memory, len(self._memory.view)
        algorithms = _USUAL
        if entry.digest is not None and entry.digest.algorithm not in _USUAL:
            algorithms = _USUAL | {entry.digest.algorithm}
        validator, source = exchange.reply.representation.validator, entry.source_key(entry.urls[0])
        modified = self._context.mtime_of(validator)
        try:
            self._context.may_publish()
            placed, digests = await self._context.store.small_files.publish(
                entry.path, memory, length, algorithms, entry.digest, modified, source
            )
        except FetchError:
            exchange.unread(memory.view, last=True)
            return None
        self._context.observe(events.Wrote(entry.path, length, exchange.host))
        if placed.kept is not None:
            self._context.observe(events.SetAside(entry.path, placed.kept))
        record = Record(
            entry.path, source, length, validator,
            RangeSet((ByteRange(0, length),)), digests, (), placed.published,
        )  # fmt: skip
        await self._full.record(record)
        return record


def _length(entry: Entry, reply: Reply) -> int | None:
    """Return the length in bytes of the file if `reply` contains all of it and it is small, else None."""
    length = reply.representation.length
    if length is None or not 0 < length <= SMALL or entry.size not in (None, length) or reply.pauses:
        return None
    whole = reply.range is None or (reply.range.start == 0 and reply.range.stop == length)
    return length if whole else None


def first_request(entry: Entry, size: int, landing: Landing | None = None) -> Request:
    """Return the first request of a file of which nothing is held.

    Args:
        entry: The manifest entry.
        size: Size of the first part in bytes. A file of up to 1.25 times this is requested without Range.
        landing: Memory that a small reply is received into, None for none.
    """
    whole = entry.size is not None and entry.size <= size + size // 4
    span = None if whole else ByteRange(0, size)
    sure = entry.digest is not None
    return Request(
        entry.urls[0], span, None, entry.headers, False, entry.path, sure, entry.size, None, landing
    )
