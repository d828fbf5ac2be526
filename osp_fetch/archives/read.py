"""Reads the members of an archive as a stream, from pieces that are never joined on disk.

Whatever its name says: SA-1B's `.tar` is gzip (FACTS section 2). An archive counts as read only when its
end mark was reached and its checksums were right.
"""

from __future__ import annotations

import bz2
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
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tarfile import EmptyHeaderError, EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import IO, Final, cast

from ..model.entry import RelativePath, relative_path
from ..model.errors import FetchError, ManifestError

_BLOCK: Final = 1 << 20
_MOST_TIMES: Final = 200  # a member-by-member bomb: no medium shrinks so far, captions as JSON to a tenth
_ALLOWED: Final = 1 << 30  # … and less than this is no bomb
_READ_ERRORS: Final = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile,
    struct.error, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


class BrokenArchiveError(FetchError):
    """The archive cannot be read to its end, or holds what must not be unpacked."""

    cause = "archive"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive; `read(n)` gives its next bytes, until the next member is asked for."""

    path: RelativePath
    size: int
    read: Callable[[int], bytes]


class Joined(io.RawIOBase):
    """Several files as one, without a copy; `patches`: offset → bytes shown instead of those there."""

    def __init__(self, pieces: Sequence[Path], patches: dict[int, bytes] | None = None) -> None:
        super().__init__()
        self._files = [piece.open("rb", buffering=0) for piece in pieces]
        sizes = [piece.stat().st_size for piece in pieces]
        self.starts = [0, *accumulate(sizes)]
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
        """The bytes from `start` up to `stop`, or to the end."""
        self.seek(start)
        found = b""
        while len(found) < stop - start and (more := self.read(stop - start - len(found))):
            found += more
        return found

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def members(pieces: Sequence[Path], *, disks: bool = False) -> Iterator[Member]:
    """The members of the archive whose pieces are given in order, directories left out.

    Raises BrokenArchiveError, which names the member at which it breaks, and OSError of the disk's.
    """
    last, count, total = "", 0, 0
    with Joined(pieces) as joined:
        try:
            each = _zip(joined, disks=disks) if _is_zip(joined) else _tar(joined)
            for member in each:
                last, count, total = member.path, count + 1, total + member.size
                if total > max(_ALLOWED, _MOST_TIMES * joined.length):
                    raise ValueError(f"it would unpack to more than {_MOST_TIMES} times its size")
                yield Member(member.path, member.size, _guarded(member.read, last, count))
        except _READ_ERRORS as error:
            raise _broken(error, last, count) from None


def _guarded(read: Callable[[int], bytes], last: str, count: int) -> Callable[[int], bytes]:
    """`read`, whose errors are those of a broken archive."""

    def guarded(size: int) -> bytes:
        try:
            return read(size)
        except _READ_ERRORS as error:
            raise _broken(error, last, count) from None

    return guarded


def _broken(error: Exception, last: str, count: int) -> BrokenArchiveError:
    where = f"at or after its member {last} (number {count})" if last else "before its first member"
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return BrokenArchiveError(f"the archive breaks {where}: {why}")


def checked(path: str, *, regular: bool) -> RelativePath:
    """The path of a member, made sure to lie where the archive is unpacked. Raises ValueError."""
    if not regular:
        raise ValueError(f"its member {path!r} is a link or a device, which is not unpacked")
    try:
        return relative_path(path)
    except ManifestError as error:
        raise ValueError(f"of its members {error}") from None


# tar


class _Header(tarfile.TarInfo):
    """A header that is read strictly.

    `tarfile` takes a damaged header after the first for the end of the archive, and so loses every member
    behind it without a word. GNU tar reports it; so does this.
    """

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tarfile)
        except (EOFHeaderError, EmptyHeaderError):
            raise  # a block of zeros, or the end of the file
        except HeaderError as error:
            raise ReadError(f"a header is damaged ({error})") from None


class _TailStream:
    """A stream that knows how many zero bytes were read last: a tar ends with two blocks of zeros."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._zeros = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        kept = len(data.rstrip(b"\0"))
        self._zeros = self._zeros + len(data) if kept == 0 else len(data) - kept
        return data

    def finish(self) -> None:
        """Read to the end of the stream, where compressed ones have their checksum. Raises ValueError."""
        while self.read(_BLOCK):
            pass
        if self._zeros < 2 * tarfile.BLOCKSIZE:
            raise ValueError("it ends without an end mark, so that members may be missing")


class _Tar(tarfile.TarFile):
    """A tar that is read to the end of its file, also where several were concatenated.

    An end mark is at least two blocks of zeros. A single one between two members is what is left of a lost
    header.
    """

    tarinfo = _Header

    def next(self) -> tarfile.TarInfo | None:
        before = self.offset
        found = super().next()
        if found is not None:
            skipped = (found.offset - before) // tarfile.BLOCKSIZE
            if skipped == 1:
                raise ReadError("a block of zeros stands where a header should be")
        return found


def _tar(joined: Joined) -> Iterator[Member]:
    stream = _TailStream(_plain(joined))
    # ignore_zeros: go on after an end mark, because `cat a.tar b.tar` is one archive
    with _Tar.open(fileobj=cast("IO[bytes]", stream), mode="r|", bufsize=_BLOCK, ignore_zeros=True) as tar:
        for info in tar:
            if info.isdir():
                continue
            path = checked(info.name, regular=info.isreg())
            file = tar.extractfile(info)
            assert file is not None
            yield Member(path, info.size, file.read)
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep one of millions
    stream.finish()


def _plain(joined: Joined) -> IO[bytes]:
    """The bytes of a tar, whatever it is compressed with; its name may say anything."""
    magic = joined.read(6) or b""
    joined.seek(0)
    buffered = io.BufferedReader(joined, _BLOCK)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=buffered))
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(buffered))
    if magic.startswith(b"\xfd7zXZ\0"):
        return cast("IO[bytes]", lzma.LZMAFile(buffered))
    return buffered


# zip


def _is_zip(joined: Joined) -> bool:
    magic = joined.read(4) or b""
    joined.seek(0)
    # the third: the mark of a split zip's first piece
    return magic in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00")


def _zip(joined: Joined, *, disks: bool) -> Iterator[Member]:
    if disks:
        joined.patches = _as_one_disk(joined)
        joined.seek(0)
    with zipfile.ZipFile(io.BufferedReader(joined, _BLOCK)) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if disks:
                info.header_offset += joined.starts[info.volume]
            mode = info.external_attr >> 16
            path = checked(info.filename, regular=not mode or stat.S_ISREG(mode) or not stat.S_IFMT(mode))
            with archive.open(info) as file:
                yield Member(path, info.file_size, file.read)
                while file.read(_BLOCK):  # to its end, where its checksum is looked at
                    pass


def _as_one_disk(joined: Joined) -> dict[int, bytes]:
    """Patches by which the end records of a split zip speak of one disk (APPNOTE 4.3.14 to 4.3.16).

    Offsets in them count from the disk that they name; here they count from the first piece's start.
    """
    tail_at = max(0, joined.length - (1 << 16) - 22)
    tail = joined.part(tail_at, joined.length)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("a split zip without its end record")
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
