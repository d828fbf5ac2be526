"""A prefix of a bucket as a store: files become objects."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from ...concurrency import stop
from ...model.digest import Digest
from ...model.entry import RelativePath
from ...model.protocols import Copies, Files, Lost, SetAsideFiles, SmallFiles
from ...model.record import Published
from ...model.settings import Settings
from ...s3.address import BucketAddress
from ...s3.client import Bucket
from ...s3.errors import BucketError
from ...s3.session import connected
from ..folder.tombstones import tombstones
from ..ledger.uploads import Upload
from .belonging import note_place
from .copies import BucketCopies
from .files import BucketFiles, BucketSmallFiles, NoSetAside
from .grid import LEAST
from .listing import is_empty, states
from .lock import BucketLock
from .notes import Notes
from .objects import metadata_of
from .part_memory import PartMemory
from .partial import BucketPartial
from .pieces import ArchiveObjects
from .range_objects import BucketRangeFiles, discard_ranges
from .resources import BucketResources
from .sums import SCHEMES, Scheme
from .unfinished import abort, forget, unknown_uploads
from .uploads import Uploads, local_uploads
from .writer import BucketWriter

_SENDING: Final = 16  # bodies that are sent at the same time


class BucketStore:
    """A prefix of a bucket; implements `model.protocols.Store`.

    An async context manager.

    Args:
        address: bucket and prefix.
        state: the local state folder, or that of a shard.
        settings: all settings; `s3`, `storage.existing` and `storage.disk_patience` count.
        memory: bytes for parts on their way to the bucket.
        scope: the run or shard; its lock and its unfinished uploads are named after it.
        locks: whether the store holds the lock while it is open: workers share that of their run.
        wait_lock: seconds to wait for a lock that another run holds.
        least: bytes of the smallest part.
        root: the local folder in which the deletion of unpacked archives is recorded.
        uploads: the ledger of unfinished uploads of the run that this node works for; None for the one in
            the state folder.
        stopped: returns once the run is asked to stop; a store that does not answer is not waited for then.

    Attributes:
        is_new: whether the prefix had no object of another kind than those of osp-fetch itself.
        widest: bytes that one request may fetch: a part, so that parts are completed nearly in order.
        folds: False: names that differ in case are two objects.
        in_progress: number of files that may come to be published.
        small_files: small files, published from memory.
        published: complete objects.
        copies: copies from other places of the same store.
        set_aside: nothing: a bucket cannot keep a file without giving it a name.
        writer: creates objects from the members of archives.
        notes: objects of osp-fetch itself.
        archives: objects that are archives.
        range_files: ranges of files that nodes fetch for each other.
    """

    keeps_others: bool = False

    def __init__(
        self,
        address: BucketAddress,
        state: Path,
        settings: Settings,
        *,
        memory: int,
        scope: str = "run",
        locks: bool = True,
        wait_lock: float = 0.0,
        least: int = LEAST,
        root: Path | None = None,
        uploads: Uploads | None = None,
        stopped: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._stopped = stopped
        self._tombstones = tombstones(root) if root else None
        self._address, self._state, self._settings = address, state, settings
        self._memory, self._scope, self._locks, self._least = memory, scope, locks, least
        self._wait_lock, self._uploads = wait_lock, uploads
        self._stack = AsyncExitStack()
        self._found: dict[RelativePath, Upload] = {}  # uploads that `held` has compared with the bucket
        self.widest, self.folds, self.in_progress = least, False, 0
        self.set_aside: SetAsideFiles = NoSetAside()
        self.is_new = False

    async def __aenter__(self) -> BucketStore:
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> None:
        patience = self._settings.storage.disk_patience
        bucket = await stack.enter_async_context(
            connected(self._address, self._settings.s3, 2 * _SENDING, patience)
        )
        if self._stopped is not None:
            stack.push_async_callback(stop, {asyncio.create_task(self._hurry(bucket, self._stopped))})
        if self._uploads is None:  # a node has no state of its own
            await asyncio.to_thread(note_place, self._state, self._address, bucket.endpoint)
        self.is_new = await is_empty(bucket)
        if self._locks:
            lock = BucketLock(bucket, self._state, f"lock-{self._scope}", self._wait_lock)
            await stack.enter_async_context(lock)
        hashers = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1, "osp-hash"))
        if self._uploads is None:
            own = local_uploads(self._state / "uploads.sqlite3")
            self._uploads = await stack.enter_async_context(own)
        self._shared = BucketResources(
            bucket=bucket,
            memory=PartMemory(self._memory),
            uploads=self._uploads,
            hashers=hashers,
            scheme=await _scheme(bucket),
            sending=asyncio.Semaphore(_SENDING),
            overwrite=self._settings.storage.existing == "overwrite",
            least=self._least,
            scope=self._scope,
        )
        self.small_files: SmallFiles = BucketSmallFiles(self._shared)
        self.published: Files = BucketFiles(self._shared)
        self.copies: Copies | None = BucketCopies(self._shared)
        self.range_files = BucketRangeFiles(self._shared)
        self.writer, self.notes, self.archives = (
            BucketWriter(self._shared), Notes(self._shared), ArchiveObjects(self._shared),
        )  # fmt: skip
        if self._locks:
            await self.tidy_up()

    @staticmethod
    async def _hurry(bucket: Bucket, stopped: Callable[[], Awaitable[None]]) -> None:
        await stopped()
        bucket.hurry()

    @property
    def uploads(self) -> Uploads:
        """The ledger of unfinished uploads."""
        return self._shared.uploads

    async def tidy_up(self) -> None:
        """Remove what killed runs and nodes of this scope left and this run cannot use.

        These are uploads that the ledger does not know, because it was lost or the process was killed before
        it was written, the notes of uploads that were completed, and ranges that nodes fetched for others.

        Raises:
            StorageError: the store does not answer, or the ledger cannot be read.
        """
        shared = self._shared
        await discard_ranges(shared.bucket, Path("ranges", self._scope))
        known = dict(await shared.uploads.all())
        async for noted in unknown_uploads(shared.bucket, f"{self._scope}/", set(known.values())):
            await abort(shared.bucket, noted)
        paths = [RelativePath(path) for path in known]
        for path, state in zip(paths, await states(shared.bucket, paths), strict=True):
            upload = await shared.uploads.get(path)
            if state is not None and upload is not None and await self._confirmed(path, upload) is None:
                await self._forget(path, upload)

    async def _forget(self, path: RelativePath, upload: Upload) -> None:
        """Remove what is noted of an upload that the bucket has no more."""
        await forget(self._shared.bucket, f"{self._scope}/{upload.token}")
        await self._shared.uploads.drop(path)

    def expect(self) -> _Expected:
        """Return a context that counts one more file in progress."""
        return _Expected(self)

    async def stat(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of the objects for these paths, None where there is none.

        Raises:
            StorageError: the store cannot be asked.
        """
        return await states(self._shared.bucket, paths)

    async def deleted(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of archives that were deleted after unpacking, None where there was none."""
        known = self._tombstones
        if known is None or not await asyncio.to_thread(known.any):
            return [None] * len(paths)
        return await asyncio.to_thread(lambda: [known.get(path) for path in paths])

    async def held(self, path: RelativePath) -> int | None:
        """Return the bytes of the unfinished upload of `path` that can be continued, None if there is none.

        The ledger is compared with the parts that the bucket lists. Where they differ, the bucket is right.

        Raises:
            StorageError: the store cannot be asked.
        """
        upload = await self._shared.uploads.get(path)
        if upload is None:
            return None
        confirmed = await self._confirmed(path, upload)
        if confirmed is None:
            await self._forget(path, upload)
            return None
        self._found[path] = confirmed
        return sum(part.size for part in confirmed.parts)

    async def _confirmed(self, path: RelativePath, upload: Upload) -> Upload | None:
        """Return `upload` with the first parts that the bucket has, too; None if it has no such upload."""
        bucket, listed = self._shared.bucket, dict[int, tuple[str, int]]()
        try:
            async for page in bucket.pages(
                "list_parts", f"{self._address.url(path)}: its parts cannot be listed",
                Key=self._address.key(path), UploadId=upload.upload,
            ):  # fmt: skip
                for part in page.get("Parts", []):
                    listed[part["PartNumber"]] = (part["ETag"].strip('"'), part["Size"])
        except BucketError as error:
            if error.status == 404:
                return None
            raise
        count = 0
        for part in upload.parts:
            if listed.get(part.number) != (part.etag.strip('"'), part.size) or part.number != count + 1:
                break
            count += 1
        return Upload(upload.upload, upload.token, upload.scheme, upload.length, upload.parts[:count])

    def partial(
        self,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        lost: Lost | None = None,
        replaces: Published | None = None,
        wanted: Digest | None = None,
        source: str = "",
    ) -> BucketPartial:
        """Return the unfinished file of `path`; nothing is uploaded before its first part is full.

        Args:
            path: path of the file.
            algorithms: names of the digests to compute.
            fresh: whether an upload that an earlier run left is discarded.
            lost: called with bytes that had to be given up.
            replaces: state of the object that may be replaced. Any other object of that name is kept, and the
                file fails.
            wanted: digest that the file must have; a sha256 becomes metadata of the object.
            source: source key of the file, which becomes metadata, too.
        """
        states = metadata_of({wanted.algorithm: wanted.hex} if wanted else {}, source=source)
        return BucketPartial(
            self._shared, path, algorithms, fresh=fresh, lost=lost, replaces=replaces,
            found=self._found.pop(path, None), states=states,
        )  # fmt: skip

    async def room(self) -> int:
        """Return the largest number: a bucket states no bound."""
        return sys.maxsize


class _Expected:
    """The context that `BucketStore.expect` returns."""

    __slots__ = ("_store",)

    def __init__(self, store: BucketStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store.in_progress += 1

    def __exit__(self, *_: object) -> None:
        self._store.in_progress -= 1


async def _scheme(bucket: Bucket) -> Scheme:
    """Return the strongest checksum that the store compares, found by writing a small object of our own."""
    key, data = bucket.address.own("probe"), memoryview(b"osp-fetch")
    for scheme in SCHEMES:
        try:
            found = await bucket.ask(
                "put_object", f"{bucket.address}: it cannot be written", Key=key, Body=bytes(data),
                **scheme.arguments(data, scheme.sum(data)),
            )  # fmt: skip
        except BucketError as error:
            if error.status in (400, 501) and scheme.name:
                continue
            raise
        if not scheme.name or found.get(scheme.field):
            await bucket.ask("delete_object", f"{bucket.address}: a probe cannot be deleted", Key=key)
            return scheme
    raise AssertionError("unreachable")
