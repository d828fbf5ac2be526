"""Unpacks one archive of a bucket into objects of the same bucket.

The archive is read by ranged requests, and its members are uploaded from memory; nothing but a journal is on
the disk. Members appear one by one. The mark `.osp-fetch/unpacked/NAME.json` in the bucket states that the
archive was read to its end and that every member is there; `NAME.members.gz` beside it lists them.

After a kill the archive is read again, and members in the journal are not uploaded again. An object that
osp-fetch did not write, or that another archive wrote with other bytes, is never replaced.
"""

from __future__ import annotations

import asyncio
import io
import json
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from ..concurrency import task_group
from ..model.dataclasses import dataclass
from ..model.entry import STATE_FOLDER, RelativePath, relative_path
from ..model.errors import FetchError, StorageError
from ..model.record import Published
from ..model.settings import Settings
from ..storage.bucket.pieces import ObjectPiece
from ..storage.bucket.store import BucketStore
from ..storage.destination import Destination
from ..storage.folder.run_lock import state_folder
from ..storage.folder.tombstones import tombstones
from . import marks, webdataset
from .alone import alone
from .extract import Unpacked, UnpackJob
from .marks import Mark, Piece, UnpackedFile
from .read import BrokenArchiveError, Findings, Member, members

_MEMORY: Final = 96 << 20  # bytes for the parts of large members
_AT_ONCE: Final = 16  # small members that are uploaded at the same time; each has at most 8 MiB
_REPEATED: Final = -1  # size of a member in the journal whose name comes again, and is uploaded now
_PAGE: Final = 1000  # objects whose states are compared together
_BLOCKS: Final = 8  # blocks of a WebDataset tar that wait for their upload
_BLOCK: Final = 1 << 20
_LOOK: Final = 0.2  # seconds between two looks whether an upload has failed


@dataclass(frozen=True, slots=True)
class BucketJob:
    """The request to unpack one archive of a bucket; it can be pickled for a worker process.

    Attributes:
        job: the archive; its `root` is the local folder that keeps the state.
        place: the bucket.
        settings: all settings.
    """

    job: UnpackJob
    place: Destination
    settings: Settings


def unpack_in_bucket(work: BucketJob) -> Unpacked:
    """Unpack one archive. Blocks. A broken archive is a result, not an error.

    Raises:
        StorageError: an upload failed, a member conflicts with another object, or the archive changed.
    """
    assert work.place.bucket is not None
    lock = Path(work.job.root, STATE_FOLDER, "unpack", f"{work.job.archive.name}.lock")
    with alone(lock):
        return asyncio.run(_run(work))


async def _run(work: BucketJob) -> Unpacked:
    assert work.place.bucket is not None
    root = Path(work.job.root)
    store = BucketStore(
        work.place.bucket, state_folder(root), work.settings, memory=_MEMORY, root=root, locks=False
    )
    async with store:
        with ThreadPoolExecutor(1, "osp-archive") as reader:
            return await _Unpacking(work.job, store, reader).run()


class _Journal:
    """The members of one archive that were uploaded, in a local file; it may state too little."""

    def __init__(self, place: Path, pieces: Iterable[Published]) -> None:
        self._place, self._head = place, [list(each) for each in pieces]
        self._file: IO[str] | None = None

    def read(self) -> tuple[bool, dict[str, UnpackedFile]]:
        """Return whether the journal is that of this version of the archive, and the members in it."""
        found: dict[str, UnpackedFile] = {}
        is_same = False
        try:
            with self._place.open(encoding="utf-8") as file:
                is_same = json.loads(next(file)) == self._head
                for line in file:
                    member = UnpackedFile(*json.loads(line))
                    found[member.path] = member
        except (OSError, ValueError, TypeError, StopIteration):
            pass  # a torn line is the last one
        return is_same, found

    def begin(self, known: Iterable[UnpackedFile]) -> None:
        """Begin the journal of this version with the members that are there."""
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._place.open("w", encoding="utf-8")
        self._file.write(json.dumps(self._head) + "\n")
        for member in known:
            self.add(member)

    def add(self, member: UnpackedFile) -> None:
        """Note a member that was uploaded."""
        assert self._file is not None
        self._file.write(json.dumps(list(member)) + "\n")
        self._file.flush()

    def close(self, *, remove: bool = False) -> None:
        """Close the journal; remove it if the archive's mark has been written."""
        if self._file is not None:
            self._file.close()
        if remove:
            self._place.unlink(missing_ok=True)


class _Unpacking:
    def __init__(self, job: UnpackJob, store: BucketStore, reader: ThreadPoolExecutor) -> None:
        self._job, self._store, self._reader = job, store, reader
        self._name, self._root = job.archive.name, Path(job.root)
        self._writer, self._notes, self._archives = store.writer, store.notes, store.archives
        self._loop = asyncio.get_running_loop()
        self._there: dict[str, UnpackedFile] = {}  # members that are right already
        self._old: dict[str, UnpackedFile] = {}  # members of earlier runs, which may be replaced
        self._done: dict[str, UnpackedFile] = {}
        self._repeated: set[str] = set()  # names whose object an earlier run may have replaced unnoted
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> Unpacked:
        """Unpack the archive if its mark does not say that it is unpacked already."""
        mark, listed = await self._mark()
        pieces = [await self._archives.piece(RelativePath(path)) for path in self._job.archive.pieces]
        is_same = mark is not None and self._is_archive_of(mark, pieces)
        if mark is not None and is_same:
            self._there = await self._present(listed)
            if len(self._there) == mark.files:
                # a run was killed while deleting it; one that has come back is no request to delete it again
                return await self._finish(mark, already=True, delete=mark.deleted and not all(pieces))
        if not all(pieces):
            return self._without_archive(mark, len(listed) - len(self._there))
        if self._job.archive.problem:
            return self._failed(self._job.archive.problem)
        found = [piece for piece in pieces if piece]
        try:
            done = await self._extract(found, {} if is_same else listed)
        except BrokenArchiveError as error:
            return self._failed(f"{error}; {len(self._done)} members before that are in the bucket")
        return await self._finish(done, already=False)

    # the mark

    async def _mark(self) -> tuple[Mark | None, dict[str, UnpackedFile]]:
        """Return the mark in the bucket, and the members that it lists."""
        text = await self._notes.read(f"unpacked/{self._name}.json")
        mark = Mark.parse(text.decode("utf-8", "replace")) if text else None
        if mark is None:
            return None, {}
        packed = await self._notes.read(f"unpacked/{self._name}.members.gz") or b""
        return mark, {member.path: member for member in marks.read_members(io.BytesIO(packed))}

    async def _write_mark(self, mark: Mark, listed: Iterable[UnpackedFile] | None = None) -> None:
        if listed is not None:
            packed = io.BytesIO()
            marks.pack_members(packed, listed)
            await self._notes.write(f"unpacked/{self._name}.members.gz", packed.getvalue())
        await self._notes.write(f"unpacked/{self._name}.json", mark.to_text().encode())

    def _is_archive_of(self, mark: Mark, pieces: list[ObjectPiece | None]) -> bool:
        """Return whether `mark` is that of this archive with the same options; deleted pieces are ignored."""
        job = self._job
        if (mark.target, mark.flat, mark.shard) != (job.target, job.flat, job.shard):
            return False
        if len(mark.pieces) != len(pieces):
            return False
        return all(
            mark.deleted if now is None else now.state == Published(then.size, then.mtime_ns)
            for now, then in zip(pieces, mark.pieces, strict=True)
        )

    async def _present(self, listed: dict[str, UnpackedFile]) -> dict[str, UnpackedFile]:
        """Return the members of which the bucket has the object that was uploaded."""
        found: dict[str, UnpackedFile] = {}
        every = sorted(listed.values())
        for start in range(0, len(every), _PAGE):
            page = every[start : start + _PAGE]
            states = await self._store.stat([self._final(member.path) for member in page])
            for member, state in zip(page, states, strict=True):
                if state == Published(member.size, member.mtime_ns):
                    found[member.path] = member
        return found

    def _final(self, name: str) -> RelativePath:
        target = self._job.target
        return relative_path(f"{target}/{name}" if target else name)

    def _failed(self, why: str) -> Unpacked:
        return Unpacked(self._name, self._job.target, broken=why)

    def _without_archive(self, mark: Mark | None, lost: int) -> Unpacked:
        if mark is not None and mark.deleted:
            return self._failed(
                f"it was deleted, and {lost} of its members are gone or changed, or it was unpacked with "
                f"other options; to restore them, run osp-fetch get … --again '{self._name}*' --unpack"
            )
        return self._failed(self._job.archive.problem or "it is not in the bucket; run get again")

    # reading and uploading

    async def _extract(self, pieces: list[ObjectPiece], earlier: dict[str, UnpackedFile]) -> Mark:
        """Upload all members and write the mark. `earlier` has the members of another version."""
        place = self._root / STATE_FOLDER / "unpack" / f"{self._name}.jsonl"
        journal = _Journal(place, [piece.state for piece in pieces])
        is_same, noted = journal.read()
        # a member that is repeated replaces what an earlier run has uploaded of the later one
        self._old = {**earlier, **self._there, **noted}
        self._repeated = {name for name, member in noted.items() if member.size == _REPEATED}
        if is_same:
            self._there |= await self._present(noted)
        journal.begin(self._there.values())
        try:
            findings = Findings()
            if self._job.shard:
                count = await self._regroup(pieces, findings, journal)
            else:
                await self._members(pieces, findings, journal)
                count = len(self._done)
        finally:
            journal.close()
        for path, piece in zip(self._job.archive.pieces, pieces, strict=True):
            now = await self._archives.piece(RelativePath(path))
            if now is None or now.state != piece.state:
                raise StorageError(f"{self._name} changed while it was read; run the same command again")
        mark = Mark(
            tuple(Piece(*piece.state, 0, 0) for piece in pieces), self._job.target, self._job.flat,
            self._job.shard, count, sum(member.size for member in self._done.values()), len(self._done),
            durable=True, doubt=findings.doubt,
        )  # fmt: skip
        await self._write_mark(mark, sorted(self._done.values()))
        journal.close(remove=True)
        return mark

    async def _in_reader(self, call: Any) -> Any:
        return await self._loop.run_in_executor(self._reader, call)

    async def _members(self, pieces: list[ObjectPiece], findings: Findings, journal: _Journal) -> None:
        each = members(pieces, disks=self._job.archive.disks, findings=findings)
        broken: BrokenArchiveError | None = None
        try:
            async with task_group() as sending:
                try:
                    while (member := await self._in_reader(lambda: next(each, None))) is not None:
                        await self._member(cast("Member", member), sending, journal)
                except BrokenArchiveError as error:
                    broken = error  # the members before the damage are uploaded to the end
        finally:
            await self._in_reader(each.close)  # type: ignore[attr-defined]
        if broken is not None:
            raise broken

    async def _member(self, member: Member, sending: asyncio.TaskGroup, journal: _Journal) -> None:
        """Upload one member, or begin to if it is small."""
        name = PurePosixPath(member.path).name if self._job.flat else member.path
        if name in self._tasks:
            if self._job.flat:
                raise BrokenArchiveError(f"two of its members are named {name}; unpack without --flat")
            await asyncio.wait({self._tasks[name]})  # a later member replaces an earlier one of its name
            self._there.pop(name, None)
            journal.add(UnpackedFile(name, _REPEATED, 0))
        known = self._there.get(name)
        if known is not None and known.size == member.size:
            self._done[name] = known
            self._tasks[name] = sending.create_task(asyncio.sleep(0))
            return
        if member.size <= self._writer.small:
            data = await self._in_reader(lambda: _complete(member))
            await self._places.acquire()
            self._tasks[name] = sending.create_task(self._put(name, data, journal))
            return
        state = await self._writer.put_large(
            self._final(name), member.read, member.size, self._replaced(name),
            overwrite=name in self._repeated,
        )  # fmt: skip
        self._note(UnpackedFile(name, *state), journal)
        self._tasks[name] = sending.create_task(asyncio.sleep(0))

    def _replaced(self, name: str) -> Published | None:
        """Return the state of the object that the member may replace, None for none."""
        old = self._done.get(name) or self._old.get(name)
        return Published(old.size, old.mtime_ns) if old else None

    def _note(self, member: UnpackedFile, journal: _Journal) -> None:
        self._done[member.path] = member
        journal.add(member)

    async def _put(self, name: str, data: bytes, journal: _Journal) -> None:
        try:
            state = await self._writer.put_small(
                self._final(name), data, self._replaced(name), overwrite=name in self._repeated
            )
        finally:
            self._places.release()
        self._note(UnpackedFile(name, *state), journal)

    # WebDataset

    async def _regroup(self, pieces: list[ObjectPiece], findings: Findings, journal: _Journal) -> int:
        """Upload the members regrouped into tars, and return their number."""
        disks = self._job.archive.disks
        folder = self._root / STATE_FOLDER / "unpack"

        def create(name: str) -> _TarUpload:
            return _TarUpload(self, name, journal)

        def work() -> int:
            count, _ = webdataset.regroup(
                lambda: members(pieces, disks=disks, findings=findings), folder, create,
                PurePosixPath(self._job.archive.stem).name, self._job.shard,
            )  # fmt: skip
            return count

        return cast("int", await self._in_reader(work))

    def begin_tar(self, name: str, read: Any, journal: _Journal) -> Future[None]:
        """Begin the upload of a tar; called in the thread that reads the archive."""

        async def upload() -> None:
            known = self._there.get(name)
            if known is not None:
                size = 0
                while block := await asyncio.to_thread(read, _BLOCK):
                    size += len(block)
                if size == known.size:
                    self._done[name] = known
                    return
                raise StorageError(f"{self._name}: its tar {name} differs from an earlier run; run again")
            state = await self._writer.put_large(self._final(name), read, None, self._replaced(name))
            self._note(UnpackedFile(name, *state), journal)

        return asyncio.run_coroutine_threadsafe(upload(), self._loop)

    # the end

    async def _finish(self, mark: Mark, *, already: bool, delete: bool = False) -> Unpacked:
        deleted, note = False, None
        if self._job.delete_after or delete:
            why = mark.doubt
            if not already and not why:  # another writer, or the store, may have lost one since
                there = await self._present(self._done)
                why = "" if len(there) == len(self._done) else "not all of its objects were found"
            deleted = not why
            if deleted:
                await self._delete(mark)
            else:
                note = f"it is not deleted: {why}"
        return Unpacked(self._name, mark.target, mark.members, mark.bytes, already, deleted, note=note)

    async def _delete(self, mark: Mark) -> None:
        """Delete the archive, all of whose members are in the bucket."""
        pieces = [
            (RelativePath(path), Published(then.size, then.mtime_ns))
            for path, then in zip(self._job.archive.pieces, mark.pieces, strict=True)
        ]
        # the tombstones first: without them, `get` would fetch a deleted archive again
        for path, state in pieces:
            tombstones(self._root).put(path, state, durable=True)
        if not mark.deleted:
            await self._write_mark(replace(mark, deleted=True))
        for path, state in pieces:
            await self._archives.delete(path, state)


def _complete(member: Member) -> bytes:
    """Return all bytes of a small member."""
    data = b"".join(_blocks(member))
    if len(data) != member.size:
        raise BrokenArchiveError(f"its member {member.path} is shorter than its header states")
    return data


def _blocks(member: Member) -> Iterator[bytes]:
    while block := member.read(_BLOCK):
        yield block


class _TarUpload:
    """A tar that is uploaded while it is written; implements `webdataset.Tar`."""

    def __init__(self, unpacking: _Unpacking, name: str, journal: _Journal) -> None:
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_BLOCKS)
        self._upload = unpacking.begin_tar(name, self._read, journal)

    def write(self, data: bytes, /) -> None:
        self._put(bytes(data))

    def close(self) -> None:
        """Wait until the object is there."""
        self._put(b"")
        self._upload.result()

    def abandon(self) -> None:
        """End the upload without an object."""
        with suppress(FetchError):
            self._put(None)

    def _put(self, block: bytes | None) -> None:
        while True:
            if self._upload.done():
                self._upload.result()
                raise FetchError("the upload of a tar ended early")
            try:
                self._blocks.put(block, timeout=_LOOK)
                return
            except queue.Full:
                continue

    def _read(self, _: int) -> bytes:
        block = self._blocks.get()
        if block is None:
            raise FetchError("the tar was not completed")
        return block
