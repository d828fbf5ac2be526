"""Regroups members into tars of a given size, with the members of one key adjacent, as WebDataset requires.

A key is a member's path up to the first dot of its file name. In archives such as SA-1B's, a picture is far
from its masks. So an archive is read twice: the first pass counts the members of each key and checks that the
archive is complete, the second writes them.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol, cast

from .read import BrokenArchiveError, Member


class Tar(Protocol):
    """A tar that is written in order."""

    def write(self, data: bytes, /) -> object: ...

    def close(self) -> None:
        """End the tar, which is complete."""
        ...

    def abandon(self) -> None:
        """End the tar, which is not complete. Called once, also after an error of `close`."""
        ...


class LocalTar:
    """A tar on the disk.

    Args:
        place: the file.
    """

    def __init__(self, place: Path) -> None:
        self._file = place.open("wb")
        self.write, self.close, self.abandon = self._file.write, self._file.close, self._file.close


Create = Callable[[str], Tar]
"""Creates a tar of this name."""
_BUFFER = 1 << 20  # bytes of a tar that are written at a time
_IN_MEMORY = 32 << 20  # bytes of waiting members that are kept in memory; more are kept in a file


def key_of(path: str) -> str:
    """Return the key of a member, by which WebDataset groups members into samples."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".", 1)[0]


class _Waiting:
    """Members that wait for the others of their key, in a spooled temporary file."""

    def __init__(self, folder: Path) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._places: dict[str, list[tuple[str, int, int]]] = {}
        self._end = 0

    def add(self, key: str, path: str, data: bytes) -> int:
        """Store a member's `data`, and return the number of members of `key` that wait now."""
        self._spool.seek(self._end)
        self._spool.write(data)
        self._places.setdefault(key, []).append((path, self._end, len(data)))
        self._end += len(data)
        return len(self._places[key])

    def take(self, key: str) -> Iterator[tuple[str, bytes]]:
        """Remove the members of `key`, and yield each path and its data, sorted by path."""
        for path, start, size in sorted(self._places.pop(key)):
            self._spool.seek(start)
            yield path, self._spool.read(size)
        if not self._places:
            self._end = 0  # the file holds no waiting member: reuse it from its start

    def close(self) -> None:
        self._spool.close()


def regroup(
    read: Callable[[], Iterator[Member]],
    folder: Path,
    create: Create,
    stem: str,
    size: int,
    room: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Write members into tars `STEM-000000.tar`, `STEM-000001.tar` and so on.

    Args:
        read: returns the members of the archive; called twice.
        folder: the folder for temporary files.
        create: creates a tar of this name; it is closed when the tar is complete.
        stem: the start of the tars' names.
        size: bytes of a tar; a tar is larger only if a single sample is.
        room: called with a number of bytes before they are written; may raise DiskFullError.

    Returns:
        The number of members, and their bytes.

    Raises:
        BrokenArchiveError: the archive cannot be read to its end, and no tar was written; or a member is
            shorter than its header states.
        DiskFullError: raised by `room`.
    """
    counts, total = _counted(read())
    waiting, shards = _Waiting(folder), _Shards(create, stem, size, room)
    try:
        for member in read():
            key = key_of(member.path)
            data = b"".join(iter(lambda m=member: m.read(1 << 20), b""))  # type: ignore[misc]
            if len(data) != member.size:
                raise BrokenArchiveError(f"its member {member.path} is shorter than its header states")
            if waiting.add(key, member.path, data) == counts[hash(key)]:
                shards.write(list(waiting.take(key)))
        shards.close()
    finally:
        shards.abandon()
        waiting.close()
    return sum(counts.values()), total


def _counted(members: Iterator[Member]) -> tuple[dict[int, int], int]:
    """Return the number of members by the hash of their key, and the bytes of all. The archive is read."""
    counts: dict[int, int] = {}  # hashes take a tenth of the memory of the keys
    total = 0
    for member in members:
        number = hash(key_of(member.path))
        counts[number] = counts.get(number, 0) + 1
        total += member.size
    return counts, total


class _Shards:
    def __init__(self, create: Create, stem: str, size: int, room: Callable[[int], None]) -> None:
        self._create, self._stem, self._size, self._room = create, stem, size, room
        self._tar: tarfile.TarFile | None = None
        self._file: Tar | None = None
        self._written = self._number = 0

    def write(self, sample: list[tuple[str, bytes]]) -> None:
        count = sum(len(data) + 1024 for _, data in sample)
        if self._tar is not None and self._written + count > self._size:
            self.close()
        if self._tar is None:
            self._file = self._create(f"{self._stem}-{self._number:06}.tar")
            out = cast("IO[bytes]", self._file)  # tarfile calls nothing but `write`
            self._tar = tarfile.open(fileobj=out, mode="w|", bufsize=_BUFFER)  # noqa: SIM115
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
            assert self._file is not None
            self._tar.close()
            self._file.close()
            self._tar = self._file = None

    def abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()
            self._tar = self._file = None
