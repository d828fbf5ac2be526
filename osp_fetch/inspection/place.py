"""Places: how a destination looks now, without a run. Folders are read from disk, buckets by requests."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import weakref
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ..model.entry import RelativePath
from ..model.record import Published
from ..model.settings import Settings
from ..storage.destination import Destination
from ..storage.folder.disk import Disk
from ..storage.folder.run_lock import state_folder, state_folders
from ..storage.folder.tombstones import tombstones
from ..storage.ledger.placement import Placed, Placement, has_placement
from ..storage.ledger.uploads import UploadLedger

if TYPE_CHECKING:
    from ..s3.client import Bucket
    from ..storage.bucket.objects import Object

T = TypeVar("T")
_CONNECTIONS: Final = 32  # connections to a bucket
_PATIENCE: Final = 60.0  # seconds that a bucket may not answer


class Place(Protocol):
    """A destination as it is now.

    Attributes:
        root: the output folder; for a bucket, the local folder that keeps its state.
    """

    root: Path

    def prepare(self, paths: Sequence[str]) -> None:
        """Look at many files together: `look` is called for these next."""
        ...

    def look(self, path: str) -> Published | None:
        """Return the state of the file under its final name, None if there is none."""
        ...

    def is_taken(self, path: str) -> bool:
        """Return whether anything exists under the final name."""
        ...

    def tombstone(self, path: str) -> Published | None:
        """Return the state of a file that was deleted after unpacking, None if it was not."""
        ...

    def partial_size(self, state: Path, path: str) -> int | None:
        """Return the bytes of the unfinished file that can be continued, None if there is none."""
        ...

    def free(self) -> int | None:
        """Return the bytes that are free, None if the destination states no bound."""
        ...


class FolderPlace:
    """A local folder; implements `Place`.

    Args:
        root: the output folder. It need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = os.path.join(root, "")
        self._disk, self._tombstones = Disk(), tombstones(root)

    def prepare(self, paths: Sequence[str]) -> None:
        """Do nothing: a look at one file is as cheap as at many."""

    def look(self, path: str) -> Published | None:
        """Return the state of the file under its final name, None if there is none."""
        return self._disk.look(self._prefix + path)

    def is_taken(self, path: str) -> bool:
        """Return whether anything exists under the final name."""
        return os.path.lexists(self._prefix + path)

    def has_folder(self, path: str) -> bool:
        """Return whether a folder exists under the final name."""
        existing = self._disk.existing(self._prefix + path)
        return existing is not None and existing.kind == "folder"

    def tombstone(self, path: str) -> Published | None:
        """Return the state of a file that was deleted after unpacking, None if it was not."""
        return self._tombstones.get(path)

    def partial_size(self, state: Path, path: str) -> int | None:
        """Return the bytes of the partial, None if there is none."""
        # nodes of a run that was killed have left theirs in folders of their own; the next run collects them
        for folder in (state, *(state / "nodes").glob("*")):
            if seen := self._disk.look(os.path.join(folder, "partial", path)):
                return seen.size
        return None

    def free(self) -> int:
        """Return the bytes that are free on the disk."""
        place = self.root
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


class PlacedPlace:
    """The disks of the nodes of a cluster, as the last run has seen them; implements `Place`.

    Args:
        root: the output folder of the machine of the run, which has the records.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._placement = root, Placement(state_folder(root), writes=False)
        # most places are made for one look, and end with their last reference
        self._ending = weakref.finalize(self, self._placement.close)
        self._seen: dict[str, Placed] = {}

    def prepare(self, paths: Sequence[str]) -> None:
        """Look up where these files lie."""
        self._seen = self._placement.get(paths)

    def _at(self, path: str) -> Placed | None:
        return self._seen.get(path) or self._placement.get([path]).get(path)

    def look(self, path: str) -> Published | None:
        """Return the state of the file when a node published it, None if none did."""
        place = self._at(path)
        return place.published if place else None

    def is_taken(self, path: str) -> bool:
        """Return False: it is not known."""
        return False

    def tombstone(self, path: str) -> Published | None:
        """Return None: nothing is unpacked on nodes."""

    def partial_size(self, state: Path, path: str) -> int | None:
        """Return a number above that of all bytes if a node has begun the file, else None."""
        return sys.maxsize if self._at(path) else None

    def free(self) -> None:
        """Return None: it is not known."""

    def by_node(self) -> list[dict[str, Any]]:
        """Return name, address, files and bytes of each node that has finished files."""
        return [
            {"node": disk.node, "address": disk.address, "files": files, "bytes": size}
            for disk, files, size in self._placement.sums()
            if files
        ]

    def elsewhere(self) -> str:
        """Return where the files are, as the begin of a message."""
        nodes = self.by_node()
        files, disks = sum(each["files"] for each in nodes), len(nodes)
        return (
            f"{self.root}: {files:,} file{'s' * (files != 1)} lie{'s' * (files == 1)} on the disks of "
            f"{disks} node{'s' * (disks != 1)}"
        )

    def close(self) -> None:
        """Close what is read."""
        self._ending()


class BucketPlace:
    """A prefix of a bucket; implements `Place`. A context manager, used outside of any event loop.

    Args:
        destination: bucket, prefix and local state.
        settings: `s3` says how the bucket is reached.

    Raises:
        CredentialsError: on entering or later, the store refuses the credentials.
        SettingsError: on entering, the local state belongs to another store.
        StorageError: on entering or later, the bucket does not exist, or does not answer.
    """

    def __init__(self, destination: Destination, settings: Settings) -> None:
        assert destination.bucket is not None
        self.root, self.address, self._s3 = destination.root, destination.bucket, settings.s3
        self._tombstones = tombstones(destination.root)
        self._seen: dict[str, Published | None] = {}
        self._uploads: dict[Path, UploadLedger | None] = {}

    def __enter__(self) -> BucketPlace:
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        try:
            self.run(self._open())
        except BaseException:
            self.__exit__()
            raise
        return self

    async def _open(self) -> None:
        from ..s3.session import connected
        from ..storage.bucket.belonging import check_place
        from ..storage.bucket.listing import is_empty

        self.bucket: Bucket = await self._stack.enter_async_context(
            connected(self.address, self._s3, _CONNECTIONS, _PATIENCE)
        )
        for state in state_folders(self.root) if self.root.is_dir() else []:
            check_place(state, self.address, self.bucket.endpoint)
        await is_empty(self.bucket)  # a missing bucket, or wrong credentials, are reported now

    def __exit__(self, *_: object) -> None:
        for ledger in self._uploads.values():
            if ledger is not None:
                ledger.close()
        self.run(self._stack.aclose())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the event loop of this place, and return its result."""
        return self._runner.run(work)

    def prepare(self, paths: Sequence[str]) -> None:
        """Look at the objects for `paths`, by listings where that takes fewer requests."""
        from ..storage.bucket.listing import states

        wanted = [RelativePath(path) for path in paths]
        self._seen = dict(zip(wanted, self.run(states(self.bucket, wanted)), strict=True))

    def look(self, path: str) -> Published | None:
        """Return the state of the object, None if there is none."""
        if path not in self._seen:
            self.prepare([path])
        return self._seen[path]

    def objects(self, paths: Sequence[str]) -> list[Object | None]:
        """Return the objects for `paths` with their checksums, None where there is none."""
        from ..storage.bucket.objects import look

        async def all_of_them() -> list[Object | None]:
            places = asyncio.Semaphore(_CONNECTIONS)

            async def one(path: str) -> Object | None:
                async with places:
                    return await look(self.bucket, RelativePath(path))

            return list(await asyncio.gather(*(one(path) for path in paths)))

        return self.run(all_of_them())

    def note(self, name: str) -> bytes | None:
        """Return a small object of osp-fetch itself, None if there is none."""
        from ..s3.errors import BucketError

        key = self.address.own(name)
        try:
            return self.run(self.bucket.body(f"{self.address}: {key} cannot be read", Key=key))
        except BucketError as error:
            if error.status == 404:
                return None
            raise

    def put(self, path: str, content: bytes) -> None:
        """Create an object, or replace one that osp-fetch made.

        Raises:
            StorageError: there is an object of another program, or the store refuses it.
        """
        from ..storage.bucket.objects import TOKEN, look, new_token, own_metadata, taken

        async def write() -> None:
            found = await look(self.bucket, RelativePath(path))
            if found is not None and TOKEN not in found.metadata:
                raise taken(self.bucket, RelativePath(path))
            await self.bucket.ask(
                "put_object", f"{self.address.url(path)}: it cannot be written", Key=self.address.key(path),
                Body=content, Metadata=own_metadata(new_token(), {}),
                **({"IfMatch": found.etag} if found else {"IfNoneMatch": "*"}),
            )  # fmt: skip

        self.run(write())

    def is_taken(self, path: str) -> bool:
        """Return whether there is an object of this name."""
        return self.look(path) is not None

    def tombstone(self, path: str) -> Published | None:
        """Return the state of an archive that was deleted after unpacking, None if there was none."""
        return self._tombstones.get(path)

    def partial_size(self, state: Path, path: str) -> int | None:
        """Return the bytes of the unfinished upload, as the local ledger states them."""
        if state not in self._uploads:
            place = state / "uploads.sqlite3"
            self._uploads[state] = UploadLedger(place) if place.exists() else None
        ledger = self._uploads[state]
        upload = ledger.get(path) if ledger else None
        return sum(part.size for part in upload.parts) if upload else None

    def free(self) -> None:
        """Return None: a bucket states no bound."""


@contextmanager
def opened_place(destination: Destination, settings: Settings) -> Iterator[Place]:
    """Open a destination. It is used outside of any event loop.

    Args:
        destination: The folder or bucket.
        settings: All settings; `s3` says how a bucket is reached.

    Raises:
        FetchError: As `BucketPlace`.
    """
    if destination.bucket is None:
        place = place_of(destination.root)
        with closing(place) if isinstance(place, PlacedPlace) else nullcontext():
            yield place
        return
    with BucketPlace(destination, settings) as place:
        yield place


def place_of(root: Path | Place) -> Place:
    """Return `root` as a place; a path is that of a local folder, whose files may lie on nodes."""
    if not isinstance(root, Path):
        return root
    return PlacedPlace(root) if has_placement(state_folder(root)) else FolderPlace(root)
