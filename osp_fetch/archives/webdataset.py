"""Members regrouped into tars of a given size, those of one key side by side, as WebDataset reads them.

A key is a member's path up to the first dot of its last name. Archives such as SA-1B's hold a picture
and its masks far apart, so they are read twice: once to know how many members each key has, and that
the archive is whole, and once to write them.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .read import BrokenArchiveError, Member

_IN_MEMORY = 32 << 20  # bytes of members that wait for their partners; more wait in a file


def key_of(path: str) -> str:
    """The key of a member, by which WebDataset groups."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".", 1)[0]


class _Waiting:
    """Members that wait for the others of their key, in a file that the system keeps in memory while
    it can."""

    def __init__(self, folder: Path) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._places: dict[str, list[tuple[str, int, int]]] = {}
        self._end = 0

    def add(self, key: str, path: str, data: bytes) -> int:
        """Keep one more member; how many of `key` wait now."""
        self._spool.seek(self._end)
        self._spool.write(data)
        self._places.setdefault(key, []).append((path, self._end, len(data)))
        self._end += len(data)
        return len(self._places[key])

    def take(self, key: str) -> Iterator[tuple[str, bytes]]:
        """All of `key`, in the order of their names; they wait no more."""
        for path, start, size in sorted(self._places.pop(key)):
            self._spool.seek(start)
            yield path, self._spool.read(size)
        if not self._places:
            self._end = 0  # nobody waits: begin the file again

    def close(self) -> None:
        self._spool.close()


def regroup(
    read: Callable[[], Iterator[Member]], folder: Path, stem: str, size: int, room: Callable[[int], None]
) -> tuple[int, int]:
    """Write the members that `read()` gives into `folder/STEM-000000.tar` …, each of about `size` bytes.

    Gives the number of members and their bytes. `room` is told the bytes before they are written.
    Raises BrokenArchiveError before anything is written where the archive cannot be read to its end.
    """
    counts: dict[int, int] = {}  # by the key's hash: a tenth of the memory
    members = total = 0
    for member in read():
        number = hash(key_of(member.path))
        counts[number] = counts.get(number, 0) + 1
        members, total = members + 1, total + member.size
    waiting, shards = _Waiting(folder), _Shards(folder, stem, size, room)
    try:
        for member in read():
            key = key_of(member.path)
            data = b"".join(iter(lambda m=member: m.read(1 << 20), b""))  # type: ignore[misc]
            if len(data) != member.size:
                raise BrokenArchiveError(f"its member {member.path} is shorter than it says")
            if waiting.add(key, member.path, data) == counts[hash(key)]:
                shards.write(list(waiting.take(key)))
    finally:
        shards.close()
        waiting.close()
    return members, total


class _Shards:
    def __init__(self, folder: Path, stem: str, size: int, room: Callable[[int], None]) -> None:
        self._folder, self._stem, self._size, self._room = folder, stem, size, room
        self._tar: tarfile.TarFile | None = None
        self._written = self._number = 0

    def write(self, sample: list[tuple[str, bytes]]) -> None:
        count = sum(len(data) + 1024 for _, data in sample)
        if self._tar is not None and self._written + count > self._size:
            self.close()
        if self._tar is None:
            self._tar = tarfile.open(self._folder / f"{self._stem}-{self._number:06}.tar", "w")  # noqa: SIM115
            self._number, self._written = self._number + 1, 0
        self._room(count)
        for path, data in sample:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
            self._tar.members.clear()  # type: ignore[attr-defined]
        self._written += count

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
