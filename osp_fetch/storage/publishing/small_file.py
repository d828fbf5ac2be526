"""A complete small file in memory that is ready to be published."""

from __future__ import annotations

from ...model.digest import Digest
from ...model.entry import RelativePath
from ...model.errors import IntegrityError
from ..folder.disk import Disk
from ..folder.hashing import digests_in
from ..folder.layout import Layout
from ..folder.space import Space
from .batch import ReadyFile
from .shared_memory import SharedBuffer

# Path, offset in the SharedPool (bytes), length (bytes), algorithms to compute, digest to verify,
# Last-Modified of the server.
Described = tuple[RelativePath, int, int, frozenset[str], Digest | None, str | None]


class SmallFile(ReadyFile):
    """A file that consists of the first `length` bytes of `memory`.

    Args:
        places: layout of the output folder.
        space: free space of its disk.
        path: path below the output folder.
        memory: buffer that holds the bytes.
        length: length of the file in bytes.
        algorithms: digests to compute.
        wanted: digest that the file must have, if known; its algorithm must be in `algorithms`.
        modified: as in `ReadyFile`.

    Attributes:
        digests: algorithm → hexadecimal digest; empty until `open` has returned.
    """

    def __init__(
        self,
        places: Layout,
        space: Space,
        path: RelativePath,
        memory: SharedBuffer,
        length: int,
        algorithms: frozenset[str],
        wanted: Digest | None,
        modified: str | None = None,
    ) -> None:
        super().__init__(-1, places.partial(path), places.final(path), length, modified=modified)
        self._places, self._space, self._path, self._memory = places, space, path, memory
        self._algorithms, self._wanted = algorithms, wanted
        self.remote = memory.offset is not None
        self.digests: dict[str, str] = {}

    def open(self) -> int:
        """Verify the bytes, write them to a new partial, and return its file descriptor.

        Raises:
            IntegrityError: the digest is wrong; no partial is created.
            DiskFullError: the free space is not sufficient.
            StorageError: the file is larger than the disk.
            OSError: a system call failed.
        """
        data = self._memory.view[: self.length]
        self.digests = digests_in(data, self._algorithms)
        if self._wanted is not None and self.digests[self._wanted.algorithm] != self._wanted.hex:
            raise IntegrityError(
                f"{self._path}: its {self._wanted.algorithm} is not the one that the manifest states"
            )
        fd = self._places.open_partial(self.place, self.final, fresh=True)
        try:
            self._space.take(self.length)
            self._places.disk.write(fd, 0, data)
        except BaseException:
            self._places.disk.close(fd)
            raise
        return fd

    def abandon(self, disk: Disk) -> None:
        """Do nothing: a small file has no descriptor before `open`."""

    def over(self, *, published: bool) -> None:
        """Free the memory; if the file was not published, the view becomes a private copy of the bytes."""
        if published:
            self._memory.free()
        else:
            self._memory.keep()

    def described(self) -> Described:
        """Return what a process that shares the SharedPool needs to publish this file."""
        assert self._memory.offset is not None
        offset = self._memory.offset
        return self._path, offset, self.length, self._algorithms, self._wanted, self.modified
