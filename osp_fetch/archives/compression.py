"""The compression of a tar: gzip, bzip2, xz or zstd, in one or more streams."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from typing import IO, Final, cast

from ..sources.opening import zstd_reader

_BLOCK: Final = 1 << 20  # bytes per read


def decompressed(joined: io.RawIOBase) -> IO[bytes]:
    """Return the decompressed bytes of a tar; the compression is found by content, not by name.

    Raises:
        ValueError: it needs a package that is not installed.
    """
    magic = joined.read(6) or b""
    joined.seek(0)
    buffered = io.BufferedReader(joined, _BLOCK)
    if magic.startswith(b"\x1f\x8b"):
        return _to_the_end(gzip.GzipFile(fileobj=buffered))
    if magic.startswith(b"BZh"):
        return _decompressed(cast("IO[bytes]", buffered), bz2.BZ2Decompressor)
    if magic.startswith(b"\xfd7zXZ\0"):
        return _decompressed(cast("IO[bytes]", buffered), lzma.LZMADecompressor)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(cast("IO[bytes]", buffered))
    return buffered


def _zstd(buffered: IO[bytes]) -> IO[bytes]:
    try:
        return _to_the_end(io.BufferedReader(zstd_reader(buffered), _BLOCK))
    except ImportError:
        raise ValueError("it is compressed with zstd; run: pip install 'osp-fetch[zstd]'") from None


_MakeDecompressor = Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]


def _decompressed(raw: IO[bytes], make: _MakeDecompressor) -> IO[bytes]:
    return _to_the_end(io.BufferedReader(_Streams(raw, make), _BLOCK))


class _ToTheEnd:
    """Compressed bytes, of which all before damage are returned; other files drop those of the last read."""

    def __init__(self, file: gzip.GzipFile | io.BufferedReader) -> None:
        self._file = file
        self._error: Exception | None = None

    def read(self, size: int) -> bytes:
        """Return `size` bytes; fewer at the end, and before an error, which the next call raises."""
        if self._error is not None:
            raise self._error
        pieces: list[bytes] = []
        while size > 0:
            try:
                piece = self._file.read1(size)
            except Exception as error:
                if not pieces:
                    raise
                self._error = error
                break
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _to_the_end(file: gzip.GzipFile | io.BufferedReader) -> IO[bytes]:
    return cast("IO[bytes]", _ToTheEnd(file))


class _Streams(io.RawIOBase):
    """The decompressed bytes of one or more concatenated compressed streams.

    `BZ2File` and `LZMAFile` silently ignore data after a stream if it is not another stream. Here any such
    data is an error, except zeros, the padding of xz.
    """

    def __init__(self, raw: IO[bytes], make: _MakeDecompressor) -> None:
        super().__init__()
        self._raw, self._make = raw, make
        self._decompressor = make()
        self._input = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        block = memoryview(cast("bytearray", buffer)).cast("B")
        while True:
            if self._decompressor.eof:
                rest = (self._decompressor.unused_data or self._raw.read(_BLOCK)).lstrip(b"\0")
                while not rest and (more := self._raw.read(_BLOCK)):
                    rest = more.lstrip(b"\0")
                if not rest:
                    return 0
                self._decompressor, self._input = self._make(), rest
            elif self._decompressor.needs_input and not self._input:
                self._input = self._raw.read(_BLOCK)
                if not self._input:
                    raise EOFError("the compressed stream is truncated")
            given, self._input = self._input, b""
            try:
                data = self._decompressor.decompress(given, len(block))
            except OSError as error:  # bz2 raises OSError for data that is not a bzip2 stream
                raise ValueError(str(error)) from None
            if data:
                block[: len(data)] = data
                return len(data)
