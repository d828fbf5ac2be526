"""The output folder as a store: partials under `.osp-fetch/partial/`, finished files beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ...model.digest import Digest
from ...model.entry import RelativePath
from ...model.protocols import Copies, Files, Lost, SetAsideFiles, SmallFiles
from ...model.record import Published
from ...model.settings import Storage
from ..publishing.batch import BatchPublisher
from ..publishing.helper_process import HelperProcess
from ..publishing.publisher import Publisher
from .complete_files import FolderFiles, FolderSetAside
from .disk import Disk
from .executors import Sharers, in_thread
from .layout import Layout
from .partial import FilePartial
from .resources import FolderResources
from .small_files import FolderSmallFiles
from .space import Space
from .tombstones import superseded, tombstones

# Threads that write. They wait for the disk more than for a core; the os.cpu_count() threads that hash keep
# every core busy.
_WRITERS: Final = 4


class FolderStore:
    """A folder on a local or network file system; implements `model.protocols.Store`.

    An async context manager, which waits for its threads at the end.

    Args:
        root: the output folder.
        state: its state folder, or that of a shard.
        settings: durability, free space to keep, and what happens to files of the user.
        disk: system calls; by default those of the kernel.
        lock: descriptor of the lock of the run. With it, a helper process may publish small files.
        is_new: whether the folder is known to have no file.

    Attributes:
        is_new: as the argument.
        widest: largest range of one request in bytes; a folder has no limit.
        folds: whether names that differ only in case are one name.
        in_progress: number of files that may come to be published.
        small_files: small files, published from memory.
        published: complete files under their final names.
        set_aside: files that were set aside for a wrong digest.
        space: free and reserved space.
        publisher: gives files their final names.
    """

    keeps_others: bool = True

    def __init__(
        self,
        root: Path,
        state: Path,
        settings: Storage,
        disk: Disk | None = None,
        *,
        lock: int | None = None,
        is_new: bool = False,
    ) -> None:
        self.is_new = is_new
        disk = disk or Disk()
        layout, durable = Layout(root, state, disk), settings.durability == "full"
        self._sharers = Sharers()
        overwrite = settings.existing == "overwrite"
        placer = BatchPublisher(layout, self._sharers, durable=durable, overwrite=overwrite)
        self.publisher = Publisher(placer, self._in_progress)
        self.space = Space(disk, root, settings.min_free)
        replaced = superseded(root)
        self._folder = FolderResources(
            disk=disk,
            layout=layout,
            space=self.space,
            durable=durable,
            writers=ThreadPoolExecutor(_WRITERS, "osp-write"),
            receivers=ThreadPoolExecutor(max(_WRITERS, os.cpu_count() or 1), "osp-receive"),
            hashers=ThreadPoolExecutor(os.cpu_count() or 1, "osp-hash"),
            publisher=self.publisher,
            superseded=replaced,
            may_supersede=not disk.is_empty(replaced.folder),
        )

        def helper(lock: int) -> HelperProcess:
            return HelperProcess(root, state, settings, lock)

        make = None if lock is None else lambda: helper(lock)
        self._small_files = FolderSmallFiles(self._folder, make, self._in_progress)
        self.small_files: SmallFiles = self._small_files
        self.published: Files = FolderFiles(self._folder, layout.final)
        self.set_aside: SetAsideFiles = FolderSetAside(self._folder)
        self.copies: Copies | None = None
        self.folds = disk.folds(state)
        self.in_progress, self.widest = 0, sys.maxsize
        self._tombstones = tombstones(root)
        self._any_deleted = not disk.is_empty(self._tombstones.folder)

    async def __aenter__(self) -> FolderStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.publisher.close()
        finally:
            self._small_files.close()  # even if this is cancelled several times
        for pool in (self._folder.receivers, self._folder.writers, self._folder.hashers):
            pool.shutdown(wait=True)
        self._sharers.close()  # last: a call that was cancelled may still use them

    def _in_progress(self) -> int:
        return self.in_progress

    def expect(self) -> _Expected:
        """Return a context that counts one more file in progress."""
        return _Expected(self)

    async def stat(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of the files under these final names, None where there is no file."""

        def look(path: RelativePath) -> Published | None:
            return self._folder.disk.look(self._folder.layout.final(path))

        return await in_thread(self._folder.writers, lambda: self._sharers.each(look, paths))

    async def deleted(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of files that were deleted after unpacking, None where there was none."""
        if not self._any_deleted:
            return [None] * len(paths)
        return await in_thread(self._folder.writers, lambda: [self._tombstones.get(path) for path in paths])

    async def held(self, path: RelativePath) -> int | None:
        """Return the size in bytes of the partial of `path`, None if there is none."""
        disk, place = self._folder.disk, self._folder.layout.partial(path)
        seen = await in_thread(self._folder.writers, lambda: disk.look(place))
        return seen.size if seen else None

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
    ) -> FilePartial:
        """Return the partial of `path`; nothing is created before the first write.

        Args:
            path: path of the file.
            algorithms: names of the digests to compute.
            fresh: whether a partial that an earlier run left is discarded.
            lost: is never called: the disk keeps what was written.
            replaces: state of the finished file of an earlier run, which may be replaced. Any other file of
                that name is kept elsewhere.
        """
        return FilePartial(self._folder, path, algorithms, fresh=fresh, replaces=replaces)

    async def room(self) -> int:
        """Return the bytes that may still be written and are not reserved."""
        return await self._folder.room()


class _Expected:
    """The context that `FolderStore.expect` returns; a generator would cost a small file more."""

    __slots__ = ("_store",)

    def __init__(self, store: FolderStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store.in_progress += 1

    def __exit__(self, *_: object) -> None:
        self._store.in_progress -= 1
