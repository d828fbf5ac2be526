"""What is known of an archive that was unpacked: which file it was, where its members went, how they looked.

`.osp-fetch/unpacked/NAME.json` is the mark of archive NAME, `NAME.members.gz` the list of its members. A mark
is believed only as far as the disk confirms it: the archive by size, modification time, inode and link target
(or, where a copy changed the inode, by its digest), each member by size and modification time.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ..model.entry import STATE_FOLDER
from ..model.record import Published
from ..storage.folder.disk import Disk, replace_text
from ..storage.folder.hashing import digests_of

_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """How a piece of an archive looked. `link`: where it leads, if it is a symbolic link; the other values
    are then those of the file behind it. `digest`: `sha256:…`, if it is known."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    link: str | None = None
    digest: str | None = None


class UnpackedFile(NamedTuple):
    """A file that was unpacked: its path below the target, and how it looked there."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Mark:
    """An archive that was unpacked, or is planned to be published: `target` below the output folder.

    `shard`: bytes of a WebDataset tar, 0 for plain files. `members`, `bytes`: of the archive. `files`: in the
    list of members, which for WebDataset tars is fewer. `doubt`: why the archive may hold more
    than that. `durable`: they survive a power loss. `deleted`: the
    archive was, or is being, deleted.
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
        """Return the mark at `place`; None where there is none that makes sense.

        A mark of an older format names no members, so only what it says of a deleted archive counts.
        """
        try:
            read = json.loads(place.read_text(encoding="utf-8"))
            if read.pop("version", 1) == _VERSION:
                return cls(**{**read, "pieces": tuple(Piece(**piece) for piece in read["pieces"])})
            if read.get("deleted"):
                target, members, size = str(read["target"]), read["members"], read["bytes"]
                return cls((), target, members=members, bytes=size, deleted=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return None


class MarkFile:
    """The mark of one archive `name` in the output folder `root`. All methods block."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        folder = root / STATE_FOLDER / "unpacked"
        self.place, self.list_place = folder / f"{name}.json", folder / f"{name}.members.gz"

    def read(self) -> Mark | None:
        return Mark.read(self.place)

    def write(self, mark: Mark, members: Sequence[UnpackedFile] | None = None) -> None:
        """Put `mark` in place for good, after its `members` where they are given. Raises OSError."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        if members is not None:
            write_members(self.list_place, members)
        replace_text(self.place, mark.to_text(), durable=True)

    def members(self) -> Iterator[UnpackedFile]:
        """Yield the members; none where the list is lost."""
        return read_members(self.list_place)

    def missing(self, mark: Mark, disk: Disk, most: int = 1000) -> list[str]:
        """Return up to `most` files of `mark` that are gone or were changed, as paths below the output
        folder.

        A list of members that is lost or torn proves nothing, and stands for all of them.
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


def all_marks(root: Path) -> Iterator[tuple[str, MarkFile, Mark]]:
    """Yield the name, the file and the content of every mark in an output folder."""
    folder = root / STATE_FOLDER / "unpacked"
    for place in sorted(folder.rglob("*.json")):
        name = place.relative_to(folder).as_posix().removesuffix(".json")
        file = MarkFile(root, name)
        mark = file.read()
        if mark is not None:
            yield name, file, mark


def write_members(place: Path, members: Sequence[UnpackedFile]) -> None:
    """Write a list of members for good. Raises OSError."""
    beside = place.with_name(place.name + ".new")
    with beside.open("wb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3, mtime=0) as file:
            for member in members:
                file.write(json.dumps(list(member)).encode() + b"\n")
        raw.flush()
        os.fsync(raw.fileno())
    beside.replace(place)


def read_members(place: Path) -> Iterator[UnpackedFile]:
    """Yield the members of a list; none where it is lost or torn."""
    try:
        with gzip.open(place, "rb") as file:
            for line in file:
                yield UnpackedFile(*json.loads(line))
    except (OSError, EOFError, ValueError, TypeError):
        return


# the archive itself


def look(place: Path, digest: str | None = None) -> Piece | None:
    """Return how a piece looks now; None if it is not there, or is no file."""
    try:
        link = str(place.readlink()) if place.is_symlink() else None
        seen = place.stat()
    except OSError:
        return None
    if not place.is_file():
        return None
    return Piece(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, link, digest)


def same(place: Path, then: Piece) -> bool:
    """Return whether the file at `place` is the piece that `then` describes. Reads it only if it was
    copied."""
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
