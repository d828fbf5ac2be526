"""Opens the files of a manifest: decompressed, decoded, from a path or from standard input."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from ..model.dataclasses import dataclass
from ..model.errors import ManifestError
from ..model.urls import shown
from .encoding import encoding_of
from .extras import need
from .row_parser import broken

# what people type for a link without its scheme: a name with a dot and a port or a path, or localhost
_HOST: Final = re.compile(r"(?:localhost|www\.[\w.-]+|[\w-]+(?:\.[\w-]+)+(?=:\d))(?::\d+)?/")
STDIN: Final = "-"
HEAD: Final = 64 << 10  # bytes by which the format of a file is recognised
_SPOOLED: Final = 32 << 20  # bytes of a pipe that are kept in memory; the rest goes to a temporary file
# Bytes that are decompressed at a time: they may become 32,000 times as many.
_ZSTD_BLOCK: Final = 4 << 10
_ODD_BYTES: Final = "osp_fetch.windows_1252"
TABLES: Final = frozenset(".parquet .csv .tsv .tab .psv .jsonl .ndjson .json .meta4 .metalink".split())
"""Suffixes of the files that are read as tables where others lie beside them."""
_PACKED_NAMES: Final = (".gz", ".bz2", ".xz", ".zst", ".zip")


class ZstdError(ValueError):
    """The data is not valid zstd."""


# what decompressors raise for damaged data; bz2 and gzip raise an OSError without a number as well
DAMAGED: Final = (EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, ZstdError)


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a manifest, which can be read several times.

    Attributes:
        name: its name for messages.
        suffix: the suffix of its name in lower case, without that of a compression.
        size: bytes as they are stored, compressed or not.
        binary: opens the decompressed bytes.
        encoding: the encoding of the text; invalid UTF-8 is read as Windows-1252.
    """

    name: str
    suffix: str
    size: int
    binary: Callable[[], IO[bytes]]
    encoding: str

    def text(self) -> IO[str]:
        """Open the decoded text; line ends stay as they are."""
        errors = _ODD_BYTES if self.encoding == "utf-8-sig" else "replace"
        return io.TextIOWrapper(self.binary(), encoding=self.encoding, errors=errors, newline="")

    def head(self) -> str:
        """Return the first characters of the text, up to 64 Ki."""
        with self.text() as file:
            return file.read(HEAD)


def open_files(source: Path | str) -> list[ManifestFile]:
    """Return the files of a manifest: one, or the members of a zip archive.

    Standard input (`-`) and pipes are copied to a temporary file first, so that they can be read again.

    Args:
        source: a path, or `-`.

    Raises:
        ManifestError: the file does not exist, cannot be read, or its compression is not supported or broken.
    """
    name = "standard input" if source == STDIN else Path(source).name
    try:
        stored = _stored(source)
        with stored() as file:
            magic = file.read(8)
            size = file.seek(0, io.SEEK_END)
        if magic.startswith(b"PK\x03\x04"):
            return _members(name, stored, size)
        opened = _decompressed(name, magic, stored)
        with opened() as file:
            head = file.read(HEAD)
    except OSError as error:
        if error.errno is None:
            raise _damaged(name, error) from None
        if isinstance(error, FileNotFoundError) and _HOST.match(str(source)):
            raise broken(
                f"{shown(str(source))}: there is no such file; for a link write http://{shown(str(source))}"
            ) from None
        from .huggingface import is_repo

        if isinstance(error, FileNotFoundError) and is_repo(str(source)):
            raise broken(
                f"{source}: there is no such file; for the dataset of that name on the Hugging Face Hub "
                f"write hf://datasets/{source}"
            ) from None
        raise broken(
            f"{shown(str(source))}: the manifest cannot be read ({error.strerror or error}); a SOURCE is a "
            "manifest file, a URL, hf://datasets/OWNER/NAME, or the name of a dataset"
        ) from None
    except DAMAGED as error:
        raise _damaged(name, error) from None
    return [ManifestFile(name, suffix_of(name), size, opened, encoding_of(head))]


def _damaged(name: str, error: Exception) -> ManifestError:
    return broken(f"{name}: cannot be decompressed ({error}); fetch the manifest again")


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case, without that of a compression: `.csv` of `a.csv.gz`."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in _PACKED_NAMES else path.suffix


def _stored(source: Path | str) -> Callable[[], IO[bytes]]:
    """Return an opener of the bytes as they are stored, which can be called several times."""
    path = Path(source)
    if source != STDIN and path.is_dir():
        raise broken(f"{shown(str(path))} is not a file; name a manifest, a URL, an address or a dataset")
    if source != STDIN and (path.is_file() or not path.exists()):
        return lambda: path.open("rb")
    spool = tempfile.SpooledTemporaryFile(_SPOOLED)  # noqa: SIM115
    if source == STDIN and sys.stdin is None:
        raise broken("standard input is closed; pipe the list into it, or name a file")
    name = "standard input" if source == STDIN else shown(str(path))
    with _waited_for(name), nullcontext(sys.stdin.buffer) if source == STDIN else path.open("rb") as pipe:
        shutil.copyfileobj(pipe, spool)
    if not spool.tell():
        raise broken(f"{name} had no byte; did the command that writes the list fail?")
    return lambda: cast("IO[bytes]", io.BufferedReader(_Shared(cast("IO[bytes]", spool))))


_waited: Final[list[str]] = []  # names of the pipes that are being read


@contextmanager
def _waited_for(name: str) -> Iterator[None]:
    _waited.append(name)
    try:
        yield
    finally:
        _waited.remove(name)


def pipe_that_is_read() -> str:
    """Return the name of a pipe that is being read by some thread now, which nothing can interrupt, or ""."""
    return _waited[-1] if _waited else ""


def is_pipe(source: object) -> bool:
    """Return whether a SOURCE can be read only once: standard input or a pipe."""
    if source == STDIN:
        return True
    path = Path(source) if isinstance(source, (str, Path)) and "://" not in str(source) else None
    return path is not None and path.exists() and not path.is_file() and not path.is_dir()


class _Shared(io.RawIOBase):
    """A view of a spooled file that begins at byte 0, and leaves the file open when it is closed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._place)
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset, whence = self._place + offset, io.SEEK_SET
        self._place = self._file.seek(offset, whence)
        return self._place


def _decompressed(name: str, magic: bytes, stored: Callable[[], IO[bytes]]) -> Callable[[], IO[bytes]]:
    """Return an opener of the decompressed bytes, by the magic number and not by the name."""
    if magic.startswith(b"\x1f\x8b"):
        return lambda: _Unpacked(gzip.open(file := stored()), file)
    if magic.startswith(b"BZh"):
        return lambda: _Unpacked(bz2.open(file := stored()), file)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lambda: _Unpacked(lzma.open(file := stored()), file)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        need("zstandard", "zstd", f"{name}: reading zstd")
        return lambda: _Unpacked(zstd_reader(file := stored()), file)
    return stored


class _Unpacked(io.BufferedReader):
    """A decompressed file that closes the stored one with it."""

    def __init__(self, reader: Any, stored: IO[bytes]) -> None:
        super().__init__(reader)
        self._stored = stored

    def close(self) -> None:
        super().close()
        self._stored.close()


def zstd_reader(stored: IO[bytes]) -> io.RawIOBase:
    """Return a reader of decompressed zstd, several frames included.

    Reading raises ZstdError if the data is damaged, and EOFError if the last frame is not complete.

    Raises:
        ImportError: the package `zstandard` is not installed.
    """
    import zstandard

    return _Zstd(stored, zstandard.ZstdDecompressor(), zstandard.ZstdError)


class _Zstd(io.RawIOBase):
    def __init__(self, stored: IO[bytes], decompressor: Any, error: type[Exception]) -> None:
        self._stored, self._decompressor, self._error = stored, decompressor, error
        self._frame: Any = None
        self._rest = self._data = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._data:
            if not self._rest and not (more := self._stored.read(_ZSTD_BLOCK)):
                if self._frame is not None:
                    raise EOFError("the last zstd frame is not complete")
                return 0
            given, self._rest = self._rest or more, b""
            self._frame = self._frame or self._decompressor.decompressobj()
            try:
                self._data = self._frame.decompress(given)
            except self._error as error:
                raise ZstdError(f"zstd: {error}") from None
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._data))
        buffer[:count], self._data = self._data[:count], self._data[count:]
        return count


def _members(name: str, stored: Callable[[], IO[bytes]], size: int) -> list[ManifestFile]:
    try:
        with stored() as file, zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if not info.is_dir() and info.file_size]
    except zipfile.BadZipFile as error:
        raise _damaged(name, error) from None
    # what is beside the tables: a licence, a description, folders of macOS
    members = [
        m for m in members if suffix_of(m.filename) in TABLES and "__MACOSX" not in m.filename
    ] or members
    if not members:
        raise broken(
            f"{name}: the archive contains no file; a manifest in a zip archive is one or more tables"
        )
    files = []
    for info in members:
        opened = _member(stored, info)
        with opened() as file:
            encoding = encoding_of(file.read(HEAD))
        inner = f"{name}/{info.filename}"
        files.append(ManifestFile(inner, suffix_of(info.filename), info.file_size, opened, encoding))
    return files


def _member(stored: Callable[[], IO[bytes]], info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: _Unpacked(zipfile.ZipFile(file := stored()).open(info), file)


def _odd_bytes(error: UnicodeError) -> tuple[str, int]:
    """Decode bytes that are not UTF-8 as Windows-1252, which old spreadsheets write."""
    assert isinstance(error, UnicodeDecodeError)
    odd = error.object[error.start : error.end]
    try:
        return odd.decode("cp1252"), error.end
    except UnicodeDecodeError:
        return odd.decode("ascii", "surrogateescape"), error.end


codecs.register_error(_ODD_BYTES, _odd_bytes)
