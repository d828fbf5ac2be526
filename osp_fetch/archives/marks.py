"""Marks of unpacked archives: the archive's files, the target folder, and the state of every member.

`.osp-fetch/unpacked/NAME.json` is the mark of archive NAME, `NAME.members.gz` the list of its members. A mark
is trusted only as far as the disk confirms it. An archive is compared by size, modification time, inode and
link target, or by its digest if a copy changed the inode. A member is compared by size and modification time.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Final, NamedTuple
from urllib.parse import quote

from ..model.dataclasses import dataclass
from ..model.entry import STATE_FOLDER
from ..model.record import Published
from ..storage.folder.disk import Disk, replace_text
from ..storage.folder.hashing import digests_of
from ..storage.ordered_log import OrderedLog, OrderedReader

_VERSION: Final = 2
MOST_NAMED: Final = 1000
"""Files that are gone or changed, after which no more are looked for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The state of one piece of an archive when it was unpacked.

    Attributes:
        size: bytes.
        mtime_ns: modification time in Unix nanoseconds.
        ctime_ns: time of the last status change in Unix nanoseconds.
        inode: the inode number.
        link: the target if the piece is a symbolic link; the other values are then those of the target.
        digest: `sha256:…`, if it is known.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    link: str | None = None
    digest: str | None = None


class UnpackedFile(NamedTuple):
    """A file that was unpacked: its path below the target, size in bytes and mtime in Unix nanoseconds."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Mark:
    """An archive that was unpacked, or whose members are about to be published.

    Attributes:
        pieces: the state of its files.
        target: the folder of its members, relative to the output folder.
        flat: whether the members' folders were dropped.
        shard: bytes of a WebDataset tar; 0 for plain files.
        members: the number of members of the archive.
        bytes: the size of all members.
        files: the number of files in the list of members; fewer than `members` for WebDataset tars.
        durable: whether the members survive a power loss.
        doubt: why the archive may contain more than `members`; empty if nothing suggests it.
        deleted: whether the archive was deleted, or a run has begun to delete it.
    """

    pieces: tuple[Piece, ...]
    target: str
    flat: bool = False
    shard: int = 0
    members: int = 0
    bytes: int = 0
    files: int = 0
    durable: bool = False
    doubt: str = ""
    deleted: bool = False

    def to_text(self) -> str:
        """Return the mark as JSON."""
        return json.dumps({"version": _VERSION, **asdict(self)})

    @classmethod
    def read(cls, place: Path) -> Mark | None:
        """Return the mark at `place`, or None if it is absent or not valid.

        A mark of an older format has no list of members, so it counts only if its archive was deleted.
        """
        try:
            return cls.parse(place.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return None

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """Return the mark that `to_text` returned, or None if it is not valid."""
        try:
            read = json.loads(text)
            if read.pop("version", 1) == _VERSION:
                return cls(**{**read, "pieces": tuple(Piece(**piece) for piece in read["pieces"])})
            if read.get("deleted"):
                target, members, size = str(read["target"]), read["members"], read["bytes"]
                return cls((), target, members=members, bytes=size, deleted=True)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return None


class MarkFile:
    """The mark of the archive `name` in the output folder `root`. All methods block."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        folder = root / STATE_FOLDER / "unpacked"
        self.place, self.list_place = folder / f"{name}.json", folder / f"{name}.members.gz"

    def read(self) -> Mark | None:
        """Return the mark, or None if it is absent or not valid."""
        return Mark.read(self.place)

    def write(self, mark: Mark) -> None:
        """Write `mark` durably.

        Raises:
            OSError: the file cannot be written.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.place, mark.to_text(), durable=True)

    def write_members(self, members: Sequence[UnpackedFile]) -> None:
        """Write the list of members durably. Call this before `write`.

        Raises:
            OSError: the file cannot be written.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)
        write_members(self.list_place, members)

    def members(self) -> Iterator[UnpackedFile]:
        """Yield the members; none if the list is missing, and those before the damage if it is torn."""
        return read_members(self.list_place)

    def missing(self, mark: Mark, disk: Disk, most: int = MOST_NAMED) -> list[str]:
        """Return the files of `mark` that are gone or were changed.

        Args:
            mark: the mark whose files are compared with the disk.
            disk: looks up the files.
            most: stop after this number of files.

        Returns:
            Paths below the output folder. If the list of members is missing or torn, the result ends with a
            remark on it, because the other members cannot be checked.
        """
        base = self.root / mark.target
        lost, listed = [], 0
        for member in read_members(self.list_place):
            listed += 1
            if disk.look(base / member.path) != Published(member.size, member.mtime_ns):
                lost.append(f"{mark.target}/{member.path}" if mark.target else member.path)
                if len(lost) >= most:
                    return lost
        if listed < mark.files:
            lost.append(f"(the list of members {self.list_place.relative_to(self.root)} is torn)")
        return lost


class UnpackedOrder:
    """The archives of an output folder in the order in which they were unpacked, in one log for each machine.

    A row has the position, the archive's name, its target, and size and mtime of its pieces. Only one process
    of a machine may call `add` at a time. All methods block.

    Args:
        root: the output folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / STATE_FOLDER / "unpacked-order"

    def logs(self) -> list[Path]:
        """Return the logs, sorted."""
        return sorted(self._folder.glob("*.jsonl"))

    def add(self, name: str, mark: Mark, *, repeated: bool) -> None:
        """Append an archive.

        Args:
            name: the archive.
            mark: how it was unpacked.
            repeated: whether a killed process may have appended it already. Then it is not appended twice.

        Raises:
            OSError: the log cannot be read or written.
        """
        row = [name, mark.target, [[piece.size, piece.mtime_ns] for piece in mark.pieces]]
        if repeated and any(row == old[1:] for log in self.logs() for old in OrderedReader(log).read_all()):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        log = OrderedLog(self._folder / f"{quote(socket.gethostname(), safe='')}.jsonl")
        position = max(log.settle() + 1, time.time_ns() // 1000)
        log.append([[position, *row]], durable=mark.durable)


def count_of(lost: Sequence[str]) -> str:
    """Return the number of files that `MarkFile.missing` has found, in words."""
    return f"{len(lost):,}" if len(lost) < MOST_NAMED else f"at least {len(lost):,}"


def all_marks(root: Path) -> Iterator[tuple[str, MarkFile, Mark]]:
    """Yield the archive's name, the file and the content of every mark in the output folder `root`."""
    folder = root / STATE_FOLDER / "unpacked"
    for place in sorted(folder.rglob("*.json")):
        name = place.relative_to(folder).as_posix().removesuffix(".json")
        file = MarkFile(root, name)
        mark = file.read()
        if mark is not None:
            yield name, file, mark


def pack_members(raw: IO[bytes], members: Iterable[UnpackedFile]) -> None:
    """Write a list of members to an open file."""
    with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3, mtime=0) as file:
        for member in members:
            file.write(json.dumps(list(member)).encode() + b"\n")


def write_members(place: Path, members: Sequence[UnpackedFile]) -> None:
    """Write a list of members durably.

    Raises:
        OSError: the file cannot be written.
    """
    beside = place.with_name(place.name + ".new")
    with beside.open("wb") as raw:
        pack_members(raw, members)
        raw.flush()
        os.fsync(raw.fileno())
    beside.replace(place)


def read_members(place: Path | IO[bytes]) -> Iterator[UnpackedFile]:
    """Yield the members of a list; none if it is missing, and those before the damage if it is torn."""
    try:
        with gzip.open(place, "rb") as file:
            for line in file:
                yield UnpackedFile(*json.loads(line))
    except (OSError, EOFError, ValueError, TypeError):
        return


def are_alike(then: Mark | None, now: Mark) -> bool:
    """Return whether the pieces of two marks have the same sizes and modification times."""
    return then is not None and [(p.size, p.mtime_ns) for p in then.pieces] == [
        (p.size, p.mtime_ns) for p in now.pieces
    ]


def is_whole(place: Path, mark: Mark) -> bool:
    """Return whether the list of members at `place` has all files of `mark`."""
    return sum(1 for _ in read_members(place)) == mark.files


# the archive itself


def look(place: Path, digest: str | None = None) -> Piece | None:
    """Return the state of the piece at `place`, or None if it does not exist or is not a file.

    Args:
        place: the file, or a symbolic link to it.
        digest: the known digest of the file, to be stored with its state.
    """
    try:
        link = str(place.readlink()) if place.is_symlink() else None
        seen = place.stat()
    except OSError:
        return None
    if not place.is_file():
        return None
    return Piece(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, link, digest)


def is_untouched(place: Path, then: Piece) -> bool:
    """Return whether the file at `place` is the very one that `then` describes, not a copy of it."""
    now = look(place)
    return now is not None and replace(now, digest=None) == replace(then, digest=None)


def same(place: Path, then: Piece) -> bool:
    """Return whether the file at `place` is the piece that `then` describes.

    The file is read, to compare its digest, only if its inode or ctime changed, as after a copy. Blocks.
    """
    now = look(place)
    if now is None or (now.size, now.mtime_ns, now.link) != (then.size, then.mtime_ns, then.link):
        return False
    if (now.ctime_ns, now.inode) == (then.ctime_ns, then.inode):
        return True
    if then.digest is None:
        return False
    algorithm, _, value = then.digest.partition(":")
    try:
        found, _ = digests_of(place, frozenset({algorithm}))
    except OSError:
        return False
    return found[algorithm] == value
