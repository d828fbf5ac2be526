"""The unfinished file of a bucket: parts in memory, hashed in order, uploaded, and published by completing.

A part is kept in memory until it is full, hashed and uploaded. It is recorded in the ledger of uploads once
that is true of all parts before it. Only recorded parts survive the end of the process: parts of an open
upload cannot be read back, so one behind a gap could never be hashed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from ...concurrency import stop
from ...model.entry import RelativePath
from ...model.errors import FetchError, Remedy, TransferError
from ...model.protocols import Hashing, Lost
from ...model.ranges import ByteRange, RangeSet
from ...model.record import Placed, Published
from ..folder.executors import in_thread
from ..ledger.uploads import Upload, UploadedPart
from .grid import Cell, Grid
from .multipart import Multipart, check
from .objects import SOURCE_ID, Creation, Object, contradicts, metadata_of, put
from .part_memory import Part
from .recorded_parts import RecordedParts
from .resources import BucketResources
from .sums import RunningDigests, Scheme, scheme_of

# Bytes of each recorded part that are kept for a comparison with the source when the upload is continued.
_TAIL: Final = 4 << 10
# Seconds without a written byte after which a part may be given up. Its writer has recorded it by then.
_SETTLED: Final = 0.5
# Times that a write is tried whose parts are given up meanwhile; after that, `digests` finds them missing.
_FILLS: Final = 3
_END: Final = 1 << 62  # bytes: beyond the end of any file


class BucketPartial:
    """One unfinished file in a bucket; implements `model.protocols.Partial` and `Hashing`.

    Args:
        shared: what the store shares.
        path: path of the file in the manifest.
        algorithms: names of the digests to compute.
        fresh: whether an upload that an earlier run left is discarded.
        lost: called with bytes that had to be given up.
        replaces: state of the object that may be replaced; None if there is none.
        found: the upload that an earlier run left, as far as the bucket confirms it.
        states: what the metadata of the object state of the file.
        overwrite: whether any object may be replaced; None takes what `--overwrite` says.

    Attributes:
        hashing: this object.
        touched: loop time of the last written byte.
    """

    def __init__(
        self,
        shared: BucketResources,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        lost: Lost | None,
        replaces: Published | None,
        found: Upload | None,
        states: dict[str, str] | None = None,
        overwrite: bool | None = None,
    ) -> None:
        self._shared, self._path, self._algorithms = shared, path, algorithms
        self._lost = lost or (lambda _: None)
        source = (states or {}).get(SOURCE_ID, "")
        overwrite = shared.overwrite if overwrite is None else overwrite
        self._creation = Creation(shared.bucket, path, replaces, overwrite=overwrite, source=source)
        self._opening = asyncio.Lock()
        self._fresh, self._given_up = fresh, 0  # number of parts given up
        self._states = states or {}
        self._multipart = Multipart(shared, path, self._states)
        self._empty()
        if found is not None and not fresh:
            self._continue(found)
        self.touched = asyncio.get_running_loop().time()
        self.hashing: Hashing = self
        shared.memory.add(self)

    def _empty(self) -> None:
        """Forget everything about the bytes of the file."""
        self._parts: dict[int, Part] = {}
        self._recorded = RecordedParts(self._shared, self._path)
        self._digests: RunningDigests | None = None
        self._upload: Upload | None = None
        self._grid: Grid | None = None
        self._length: int | None = None
        self._next = 1  # number of the part that is hashed next
        self._released = 0  # bytes from the start whose parts have left memory
        self._error: FetchError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hasher: asyncio.Task[None] | None = None
        self._recorder: asyncio.Task[None] | None = None

    def _continue(self, found: Upload) -> None:
        """Continue the upload of an earlier run.

        Its bytes are lost if their digests cannot be continued, or if it states a sha256 that was corrected.
        """
        if found.parts or contradicts(found.token, self._states):
            try:
                if contradicts(found.token, self._states):
                    raise ValueError("its metadata would be wrong")
                self._digests = RunningDigests(self._algorithms, found.length, found.parts[-1].states or "{}")
            except ValueError:
                self._fresh = True
                self._lost(ByteRange(0, _END))
                return
        self._upload, self._recorded = found, RecordedParts(self._shared, self._path, found.parts)
        self._grid, self._length = Grid(found.length, self._shared.least), found.length
        self._next, self._released = len(found.parts) + 1, self._recorded.kept

    # ---- model.protocols.PartialContent

    async def begin(self, length: int | None, missing: int) -> None:
        """Look at the final name, and fix how the file is divided into parts.

        Args:
            length: length of the file in bytes, None if unknown.
            missing: is not needed: the bucket has no bound that could be asked for.

        Raises:
            StorageError: there is an object of this name that must be kept, or the store does not answer.
        """
        await self._creation.check()
        if self._upload is None and self._fresh:
            await self._multipart.discard_earlier()
        self._fresh = False
        if self._grid is None:
            self._grid, self._length = Grid(length, self._shared.least), length
        elif self._length is None:
            self._length = length

    async def write(self, offset: int, data: bytes | memoryview, length: int | None = None) -> None:
        """Copy `data` into the parts that it belongs to. Bytes of full parts are not replaced.

        Args:
            offset: position in the file, in bytes.
            data: the bytes.
            length: length of the file in bytes, None if unknown.

        Raises:
            StorageError: a part could not be uploaded. RESTART is the remedy if the bucket has lost the
                upload.
        """
        self._raise_failure()
        if self._grid is None:
            await self.begin(length, 0)
        for _ in range(_FILLS):
            given_up = self._given_up
            await self._fill(offset, memoryview(data))
            if self._given_up == given_up:
                break  # else a part may have been given up while this waited for memory for the next one
        self.touched = asyncio.get_running_loop().time()

    async def _fill(self, at: int, view: memoryview) -> None:
        assert self._grid is not None
        if at < self._released:
            view, at = view[self._released - at :], max(at, min(self._released, at + len(view)))
        while view:
            cell = self._grid.cell(at)
            part = await self._part(cell)
            count = min(len(view), cell.stop - at)
            if part is not None:
                self._copy(part, at, view[:count])
            view, at = view[count:], at + count

    async def _part(self, cell: Cell) -> Part | None:
        """Return the part in memory for `cell`; None if it has left memory already."""
        while True:
            self._raise_failure()
            if cell.start < self._released:
                return None
            if (part := self._parts.get(cell.number)) is not None:
                return part
            is_next = cell.number <= self._next
            memory = self._shared.memory
            buffer = await memory.take(cell.stop - cell.start, self, is_next=is_next)
            if cell.number in self._parts or cell.start < self._released or self._error:
                memory.give(buffer)
                continue
            self._parts[cell.number] = Part(cell, buffer)

    def _copy(self, part: Part, at: int, data: memoryview) -> None:
        if part.length:
            return  # it is full, and may be being hashed or sent
        start = at - part.cell.start
        part.buffer.view[start : start + len(data)] = data
        part.filled |= ByteRange(at, at + len(data))
        part.touched = asyncio.get_running_loop().time()
        self._close_if_full(part)

    def _close_if_full(self, part: Part) -> None:
        """Hash and upload a part if all of its bytes are there."""
        stop = part.cell.stop if self._length is None else min(part.cell.stop, self._length)
        length = stop - part.cell.start
        if part.length or length <= 0 or part.filled.after(part.cell.start) < length:
            return
        part.length = length
        self._begin(self._send(part))
        if self._hasher is None or self._hasher.done():
            self._hasher = self._begin(self._hash())

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start `work`, whose error the next call raises."""

        async def guarded() -> None:
            try:
                await work
            except FetchError as error:
                self._error = self._error or error

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # if it was cancelled before it began
        return task

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error

    async def read(self, span: ByteRange) -> bytes:
        """Return the bytes of `span` as far as they are in memory, or are the last recorded ones."""
        found, at = bytearray(), span.start
        while at < span.stop and (piece := self._piece(at, span.stop)):
            found += piece
            at += len(piece)
        return bytes(found)

    def _piece(self, at: int, stop: int) -> bytes:
        assert self._grid is not None or not self._parts
        if self._grid is None:
            return b""
        cell = self._grid.cell(at)
        part = self._parts.get(cell.number)
        if part is not None:
            start, count = at - cell.start, min(stop - at, part.filled.after(at))
            return bytes(part.buffer.view[start : start + count])
        if (done := self._recorded.get(cell.number)) is not None:
            first = cell.start + done.size - len(done.tail)
            return done.tail[at - first : stop - first] if at >= first else b""
        return b""

    async def sync(self, held: RangeSet) -> RangeSet:
        """Wait for the uploads that have begun, and return what of `held` the next run can continue.

        Args:
            held: the ranges that were written.
        """
        await self._settled()
        return held & RangeSet.upto(self._recorded.kept)

    async def _settled(self) -> None:
        """Wait until no task works on the file."""
        while waiting := {task for task in self._tasks if task is not asyncio.current_task()}:
            await asyncio.wait(waiting)

    async def clear(self) -> None:
        """Discard all bytes and hashes, and abort the upload.

        Raises:
            StorageError: the store does not answer, or the ledger cannot be written.
        """
        await self._release()
        self._empty()
        await self._multipart.discard_earlier()  # the ledger also has one that was begun by a stopped task

    # ---- model.protocols.Hashing

    def advance(self, frontier: int, length: int | None) -> None:
        """Do nothing: a part is hashed as soon as it is full."""

    async def digests(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        """Hash and upload what is left, and return the digests.

        Args:
            length: length of the file in bytes.

        Returns:
            Algorithm → hexadecimal digest, with the checksum that the object will have; and no checksums of
            spans, because objects are not repaired.

        Raises:
            TransferError: bytes are missing, because they had to be given up; the remedy is RESTART.
            StorageError: a part could not be uploaded.
        """
        self._length = length
        for part in list(self._parts.values()):
            self._close_if_full(part)
        await self._settled()
        self._raise_failure()
        end = max([self._released, *(p.cell.start + p.length for p in self._parts.values() if p.is_hashed)])
        if end != length:
            raise TransferError(
                f"{self._path}: bytes of the file had to be given up for want of memory; they are fetched "
                "again",
                remedy=Remedy.RESTART,
            )
        digests = self._digests or RunningDigests(self._algorithms, length)
        found = await in_thread(self._shared.hashers, digests.result)
        return found | self._checksum(), ()

    def _checksum(self) -> dict[str, str]:
        """Return the checksum that the object has to have, as `Record.digests` has it; empty for none."""
        scheme = self._scheme
        if not scheme.name:
            return {}
        recorded = [(p.checksum, p.size) for p in self._recorded.all]
        left = [(p.checksum, p.length) for _, p in sorted(self._parts.items())]
        return {scheme.digest: scheme.hex(scheme.combined([*recorded, *left]))}

    async def reset(self) -> None:
        """Discard all bytes: those that were uploaded cannot be read again, so they are fetched again."""
        await self.clear()
        self._lost(ByteRange(0, _END))

    # ---- hashing, sending, recording

    async def _hash(self) -> None:
        """Hash full parts in order until one is missing."""
        while (part := self._parts.get(self._next)) is not None and part.length:
            if self._digests is None:
                self._digests = RunningDigests(self._algorithms, self._length)
            digests, data = self._digests, part.data

            def work(digests: RunningDigests = digests, data: memoryview = data) -> str | None:
                digests.update(data)
                return digests.state()

            part.states = await in_thread(self._shared.hashers, work)
            part.is_hashed = True
            self._next += 1
            self._record()

    @property
    def _scheme(self) -> Scheme:
        return scheme_of(self._upload.scheme) if self._upload else self._shared.scheme

    @property
    def _is_single(self) -> bool:
        """Whether the file is one part, which is sent when it is published."""
        return self._upload is None and self._length is not None and self._length <= self._shared.least

    async def _send(self, part: Part) -> None:
        """Upload a full part, unless it is the only one."""
        scheme = self._scheme
        part.checksum = await in_thread(self._shared.hashers, lambda: scheme.sum(part.data))
        if self._is_single:
            return
        upload = await self._opened()
        part.etag = await self._multipart.send(upload, part.cell.number, part.data, part.checksum)
        self._record()

    async def _opened(self) -> Upload:
        """Return the upload, which is begun when it is first needed."""
        async with self._opening:
            if self._upload is None:
                self._upload = await self._multipart.begin(self._length)
            return self._upload

    def _record(self) -> None:
        """Release parts that are hashed and uploaded, in order, and begin to record them."""
        done = len(self._recorded.all) + 1
        while (part := self._parts.get(done)) is not None and part.is_hashed and part.etag is not None:
            self._recorded.add(
                UploadedPart(
                    done, part.etag, part.checksum, part.length, part.states, bytes(part.data[-_TAIL:])
                )
            )
            del self._parts[done]
            self._released = part.cell.start + part.length
            self._shared.memory.give(part.buffer)
            done += 1
        if self._recorded.is_waiting and (self._recorder is None or self._recorder.done()):
            self._recorder = self._begin(self._recorded.commit())

    def give_up_part(self) -> bool:
        """Discard the part that is farthest from the start of the file; return whether there was one."""
        before = asyncio.get_running_loop().time() - _SETTLED
        for number in sorted(self._parts, reverse=True):
            part = self._parts[number]
            if number < self._next or part.is_hashed or part.touched > before:
                continue
            if part.length and (part.etag is None or number == self._next):
                continue  # it is being sent or hashed
            del self._parts[number]
            self._given_up += 1
            self._shared.memory.give(part.buffer)
            for span in part.filled:
                self._lost(span)
            return True
        return False

    # ---- the end

    async def publish(self, length: int, modified: str | None = None) -> Placed:
        """Let the object appear. When this returns, the bucket has it with the right size and checksum.

        Args:
            length: length of the file in bytes.
            modified: Last-Modified of the server, which becomes metadata of an object of one part.

        Raises:
            IntegrityError: the object differs from what was sent; it was deleted again.
            StorageError: another object has the name, or the store refuses the object.
        """
        await self._settled()
        self._raise_failure()
        if self._upload is None:
            found = await self._put(length, modified)
        else:
            found = await self._multipart.complete(self._upload, self._recorded.all, self._creation)
        await check(self._shared, self._path, found, length, self._checksum())
        if self._upload is not None:
            await self._multipart.forget(self._upload)
        await self._release()
        return Placed(found.state)

    async def _put(self, length: int, modified: str | None) -> Object:
        part = self._parts.get(1)
        data = part.data if part else memoryview(b"")
        digests = self._digests.result() if self._digests else {}
        states = self._states | metadata_of(digests, modified)
        return await put(self._shared, self._path, self._creation, data[:length], states)

    async def set_aside(self) -> None:
        """Abort the upload: a bucket cannot keep a file without giving it a name."""
        await self.clear()

    async def close(self) -> None:
        """End all work on the file. What is recorded can be continued."""
        await self._release()
        self._shared.memory.remove(self)

    async def _release(self) -> None:
        """Stop all work and give the memory back."""
        await stop(self._tasks - {self._recorder} if self._recorder else set(self._tasks))
        await self._settled()
        for part in self._parts.values():
            self._shared.memory.give(part.buffer)
        self._parts.clear()
