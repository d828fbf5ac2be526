"""Reads the members of an archive as a stream, from pieces that are never joined on disk.

The format is found by content, not by name: SA-1B's `.tar` files are gzip (docs/sources.md, "SA-1B link
file"). An archive counts as read only if its end mark was reached and its checksums match.
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from tarfile import EmptyHeaderError, EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import Final, Protocol, cast

from ..model.dataclasses import dataclass
from ..model.entry import RelativePath, relative_path
from ..model.errors import FetchError, ManifestError
from .compression import decompressed
from .splits import Archive

_BLOCK: Final = 1 << 20  # bytes per read
# unpacked size / archive size above which it is a decompression bomb: captions in JSON reach 10, media less
_MOST_TIMES: Final = 200
_ALLOWED: Final = 1 << 30  # bytes; an archive that unpacks to less is accepted at any ratio
_READ_ERRORS: Final = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile,
    struct.error, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


class BrokenArchiveError(FetchError):
    """The archive cannot be read to its end, or contains a member that must not be unpacked."""

    cause = "archive"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        path: its path, relative and checked.
        size: bytes, as the archive's header states them.
        read: returns the next n bytes; valid until the next member is requested.
    """

    path: RelativePath
    size: int
    read: Callable[[int], bytes]


class Piece(Protocol):
    """A file of an archive that is not on the disk."""

    def opened(self) -> tuple[io.RawIOBase, int]:
        """Return an open file, which can seek, and its size in bytes. Blocks."""
        ...


def _opened(piece: Path | Piece) -> tuple[io.RawIOBase, int]:
    if isinstance(piece, Path):
        return piece.open("rb", buffering=0), piece.stat().st_size
    return piece.opened()


class Joined(io.RawIOBase):
    """Several files read as one, without a copy.

    Args:
        pieces: the files, in order.
        patches: offset → bytes that replace those of the files at this offset.

    Raises:
        OSError: a file cannot be opened.
    """

    def __init__(self, pieces: Sequence[Path | Piece], patches: dict[int, bytes] | None = None) -> None:
        super().__init__()
        opened = [_opened(piece) for piece in pieces]
        self._files = [file for file, _ in opened]
        self.starts = [0, *accumulate(size for _, size in opened)]
        self.length = self.starts.pop()
        self.patches = patches or {}
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.length}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        block = memoryview(cast("bytearray", buffer)).cast("B")
        if self._at >= self.length or not block:
            return 0
        number = bisect_right(self.starts, self._at) - 1
        file = self._files[number]
        file.seek(self._at - self.starts[number])
        count = file.readinto(block) or 0
        for offset, patch in self.patches.items():
            first, last = max(offset, self._at), min(offset + len(patch), self._at + count)
            if first < last:
                block[first - self._at : last - self._at] = patch[first - offset : last - offset]
        self._at += count
        return count

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop`, fewer at the end of the last file."""
        self.seek(start)
        found = b""
        while len(found) < stop - start and (more := self.read(stop - start - len(found))):
            found += more
        return found

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


@dataclass(slots=True)
class Findings:
    """Facts about an archive beyond its members.

    Attributes:
        headers: the number of headers, including those of directories.
        inner_marks: the number of end marks between members.
        repeated: the number of members whose name an earlier member has.
        unlisted: bytes of a zip that belong to no member in its directory.
    """

    headers: int = 0
    inner_marks: int = 0
    repeated: int = 0
    unlisted: int = 0

    @property
    def doubt(self) -> str:
        """A message why the archive may contain more than its members; empty if nothing suggests it."""
        if not self.headers:
            return "it has no member at all"
        if self.inner_marks:
            return "it has an end mark between members: it was concatenated, or is damaged there"
        if self.unlisted:
            return f"{self.unlisted:,} bytes in it belong to no member that its directory lists"
        return "a later member replaces an earlier one of the same name" if self.repeated else ""


def members(
    pieces: Sequence[Path | Piece], *, disks: bool = False, findings: Findings | None = None
) -> Iterator[Member]:
    """Yield the members of an archive, without directories.

    Args:
        pieces: the files of the archive, in order.
        disks: True for a split zip.
        findings: filled with facts about the archive.

    Raises:
        BrokenArchiveError: the archive is damaged, incomplete, a decompression bomb, or has a member that
            must not be unpacked. The message names the last good member.
        OSError: a file cannot be read.
    """
    last, count, total = "", 0, 0
    findings = findings or Findings()
    with Joined(pieces) as joined:
        try:
            each = _zip(joined, findings, disks=disks) if _is_zip(joined) else _tar(joined, findings)
            for member in each:
                last, count, total = member.path, count + 1, total + member.size
                if total > max(_ALLOWED, _MOST_TIMES * joined.length):
                    raise ValueError(f"it would unpack to more than {_MOST_TIMES} times its size")
                yield Member(member.path, member.size, _guarded(member.read, last, count))
        except _READ_ERRORS as error:
            raise _broken(error, last, count) from None


def _guarded(read: Callable[[int], bytes], last: str, count: int) -> Callable[[int], bytes]:
    """Wrap `read` so that its errors become BrokenArchiveError."""

    def guarded(size: int) -> bytes:
        try:
            return read(size)
        except _READ_ERRORS as error:
            raise _broken(error, last, count) from None

    return guarded


def _broken(error: Exception, last: str, count: int) -> BrokenArchiveError:
    where = f"at or after its member {last} (number {count})" if last else "before its first member"
    why = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, _RefusedError):
        return BrokenArchiveError(f"the archive is not unpacked: {' '.join(str(error).split())}")
    return BrokenArchiveError(f"the archive is broken {where}: {why}")


class _RefusedError(ValueError):
    """A member must not be unpacked, though the archive may be whole."""


def checked(path: str, *, regular: bool) -> RelativePath:
    """Return the path of a member, after checking that it stays inside the target folder.

    Args:
        path: the member's name in the archive.
        regular: whether it is a regular file.

    Raises:
        ValueError: the member is a link or a device, or its path leaves the folder or is not valid.
    """
    if not regular:
        raise _RefusedError(f"its member {path[:200]!r} is a link or a device")
    try:
        return relative_path(path)
    except ManifestError as error:
        raise _RefusedError(f"its member's name is not valid: {error}") from None


def why_broken(root: str, archive: Archive) -> str | None:
    """Return why an archive in the folder `root` cannot be read to its end, or None if it can. Blocks."""
    if archive.problem:
        return archive.problem
    try:
        for member in members([Path(root, p) for p in archive.pieces], disks=archive.disks):
            while member.read(_BLOCK):
                pass
    except BrokenArchiveError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


# tar


class _Header(tarfile.TarInfo):
    """A tar header that is parsed strictly.

    `tarfile` treats a damaged header after the first one as the end of the archive, and silently drops all
    members after it. GNU tar reports an error, and so does this class.
    """

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tarfile)
        except (EOFHeaderError, EmptyHeaderError):
            raise  # not damage: a block of zeros, or the end of the file
        except HeaderError as error:
            raise ReadError(f"a header is damaged ({error})") from None


class _Tar(tarfile.TarFile):
    """A tar that is read to the end of its file, even if it is a concatenation of several.

    An end mark is at least two blocks of zeros. A single block of zeros between two members is a destroyed
    header. `zero_blocks` is the number of such blocks before the member read last, or before the end.
    """

    tarinfo = _Header
    zero_blocks = 0

    def next(self) -> tarfile.TarInfo | None:
        first = getattr(self, "firstmember", None) is not None  # the constructor has read this header already
        before = self.offset
        found = super().next()
        if not first:
            after = self.offset if found is None else found.offset
            self.zero_blocks = (after - before) // tarfile.BLOCKSIZE
            if found is not None and self.zero_blocks == 1:
                raise ReadError("a block of zeros is in place of a header")
        return found


def _tar(joined: Joined, findings: Findings) -> Iterator[Member]:
    stream = decompressed(joined)
    seen: set[int] = set()  # hashes of names
    # ignore_zeros: go on after an end mark, because `cat a.tar b.tar` is one archive
    with _Tar.open(fileobj=stream, mode="r|", bufsize=_BLOCK, ignore_zeros=True) as tar:
        for info in tar:
            findings.headers += 1
            findings.inner_marks += tar.zero_blocks > 0
            if info.isdir():
                continue
            path = checked(info.name, regular=info.isreg())
            findings.repeated += hash(path) in seen
            seen.add(hash(path))
            file = tar.extractfile(info)
            assert file is not None
            yield Member(path, info.size, file.read)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all headers, perhaps millions
        if tar.zero_blocks < 2:
            raise ValueError("it ends without an end mark, so members may be missing")
    while stream.read(_BLOCK):  # to the end of the stream, where gzip, bzip2 and xz have their checksum
        pass


# zip


def _is_zip(joined: Joined) -> bool:
    magic = joined.read(4) or b""
    joined.seek(0)
    # the third and fourth are the markers at the start of a split zip's first piece (APPNOTE 8.5)
    return magic in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00")


def _zip(joined: Joined, findings: Findings, *, disks: bool) -> Iterator[Member]:
    if disks:
        joined.patches = _as_one_disk(joined)
        joined.seek(0)
    seen: set[int] = set()  # hashes of names
    with zipfile.ZipFile(io.BufferedReader(joined, _BLOCK)) as archive:
        if disks:
            _use_joined_offsets(joined, archive)
        _check_begin(joined, archive)
        findings.unlisted = _unlisted(joined, archive, disks=disks)
        for info in archive.infolist():
            findings.headers += 1
            if info.is_dir():
                if info.file_size:
                    raise _RefusedError(f"its folder {_name(info)[:200]!r} contains the data of a file")
                continue
            mode = info.external_attr >> 16
            path = checked(_name(info), regular=not mode or stat.S_ISREG(mode) or not stat.S_IFMT(mode))
            findings.repeated += hash(path) in seen
            seen.add(hash(path))
            with archive.open(info) as file:
                yield Member(path, info.file_size, file.read)
                while file.read(_BLOCK):  # to the member's end, where zipfile compares its checksum
                    pass


def _name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member of a zip.

    Raises:
        ValueError: it has letters that are not ASCII, and its encoding is not certain.
    """
    if info.flag_bits & 0x800 or info.filename.isascii():  # bit 11: UTF-8 (APPNOTE 4.4.4)
        return info.filename
    try:
        return info.filename.encode("cp437").decode()  # many programs write UTF-8 without the bit
    except UnicodeError:
        raise _RefusedError(
            f"the name of its member {info.filename[:200]!r} is not marked as UTF-8, so its letters are not "
            "certain; unpack it with a program that takes the encoding, such as unzip -O GBK"
        ) from None


def _use_joined_offsets(joined: Joined, archive: zipfile.ZipFile) -> None:
    """Replace the offsets of members of a split zip, which count from their disk, by those in all pieces.

    Newer zipfiles (Python 3.11.8, 3.12.2, 3.13) compare the end of a member with the start of the next one,
    which they have noted by offsets that count from different disks.
    """
    for info in archive.infolist():
        info.header_offset += joined.starts[info.volume]
    following = archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if hasattr(info, "_end_offset"):
            info._end_offset = following
        following = info.header_offset


def _check_begin(joined: Joined, archive: zipfile.ZipFile) -> None:
    """Raise ValueError if data precedes the first member: `cat a.zip b.zip` lists the members of b only."""
    offsets = [info.header_offset for info in archive.infolist()]
    first = min(offsets, default=joined.length - 22 - len(archive.comment))
    if first > 4:  # the marker of a split zip takes four bytes
        raise ValueError(f"it has {first} bytes before its first member, which may be another archive")


def _unlisted(joined: Joined, archive: zipfile.ZipFile, *, disks: bool) -> int:
    """Return the bytes between the members that the directory lists, and before the directory.

    A header takes 30 bytes and the lengths that it states. A data descriptor of up to 24 bytes may follow.
    """
    if disks:
        return 0
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    starts = [info.header_offset for info in infos] + [archive.start_dir]
    count = 0
    for info, following in zip(infos, starts[1:], strict=True):
        name, extra = struct.unpack("<HH", joined.part(info.header_offset + 26, info.header_offset + 30))
        gap = following - (info.header_offset + 30 + name + extra + info.compress_size)
        count += gap if gap > 24 else 0
    joined.seek(0)
    return count


def _as_one_disk(joined: Joined) -> dict[int, bytes]:
    """Return patches that make the end records of a split zip refer to one disk (APPNOTE 4.3.14 to 4.3.16).

    Offsets in these records are relative to the disk that they name. The patched offsets are relative to the
    start of the first piece.
    """
    tail_at = max(0, joined.length - (1 << 16) - 22)
    tail = joined.part(tail_at, joined.length)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("the split zip has no end record")
    end = bytearray(tail[at : at + 22])
    _, disk, _, total, _, offset = struct.unpack_from("<HHHHII", end, 4)
    patches: dict[int, bytes] = {}
    locator_at = at - 20
    if locator_at >= 0 and tail[locator_at : locator_at + 4] == b"PK\x06\x07":
        patches |= _zip64(joined, tail_at + locator_at, tail[locator_at : locator_at + 20])
    elif disk:
        directory_disk = struct.unpack_from("<H", end, 6)[0]
        struct.pack_into("<I", end, 16, offset + joined.starts[directory_disk])
    struct.pack_into("<HHH", end, 4, 0, 0, total)
    return patches | {tail_at + at: bytes(end)}


def _zip64(joined: Joined, locator_at: int, locator: bytes) -> dict[int, bytes]:
    disk, offset = struct.unpack_from("<IQ", locator, 4)
    record_at = joined.starts[disk] + offset
    record = bytearray(joined.part(record_at, record_at + 56))
    directory_disk = struct.unpack_from("<I", record, 20)[0]
    total, _, directory = struct.unpack_from("<QQQ", record, 32)
    struct.pack_into("<IIQ", record, 16, 0, 0, total)
    struct.pack_into("<Q", record, 48, directory + joined.starts[directory_disk])
    return {
        locator_at: struct.pack("<4sIQI", b"PK\x06\x07", 0, record_at, 1),
        record_at: bytes(record),
    }
