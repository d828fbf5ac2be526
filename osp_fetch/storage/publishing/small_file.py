"""A whole small file in memory, on its way to its final name."""

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

Described = tuple[RelativePath, int, int, frozenset[str], Digest | None]


class SmallFile(ReadyFile):
    """The file `path` that consists of the first `length` bytes of `memory`, and whose digest has to be
    `wanted`; `digests` are known when it was opened."""

    def __init__(
        self,
        places: Layout,
        space: Space,
        path: RelativePath,
        memory: SharedBuffer,
        length: int,
        algorithms: frozenset[str],
        wanted: Digest | None,
    ) -> None:
        super().__init__(-1, places.partial(path), places.final(path), length)
        self._places, self._space, self._path, self._memory = places, space, path, memory
        self._algorithms, self._wanted = algorithms, wanted
        self.remote = memory.offset is not None
        self.digests: dict[str, str] = {}

    def open(self) -> int:
        """The descriptor of a new partial with all bytes in it. Raises IntegrityError before one is made,
        StorageError where there is no room, and OSError."""
        data = self._memory.view[: self.length]
        self.digests = digests_in(data, self._algorithms)
        if self._wanted is not None and self.digests[self._wanted.algorithm] != self._wanted.hex:
            raise IntegrityError(f"{self._path}: not the {self._wanted.algorithm} that the manifest states")
        fd = self._places.open_partial(self.place, self.final, fresh=True)
        try:
            self._space.take(self.length)
            self._places.disk.write(fd, 0, data)
        except BaseException:
            self._places.disk.close(fd)
            raise
        return fd

    def abandon(self, disk: Disk) -> None:
        """Nothing is open of a small file before `open`."""

    def over(self, *, published: bool) -> None:
        if published:
            self._memory.free()
        else:
            self._memory.keep()

    def described(self) -> Described:
        """All that another process needs which sees the same SharedPool."""
        assert self._memory.offset is not None
        return self._path, self._memory.offset, self.length, self._algorithms, self._wanted
