"""Digests and checksums of files, computed while the file grows and its pages are in the page cache."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from ...model.digest import HEX_LENGTHS
from ...model.errors import FetchError
from ...model.record import CHECKSUM_SPAN


@cache
def _crc32() -> Callable[[bytes | memoryview, int], int]:
    """Return the fastest CRC-32. It is imported when the first large file is hashed.

    The CRC-32 of isal is as fast, but leaves the upper halves of the vector registers in use. On an AMD EPYC,
    every SHA-256 that the thread computes afterwards then takes a third more time.
    """
    try:
        from zlib_ng.zlib_ng import crc32
    except ImportError:  # no wheel for this platform: zlib computes the same value at a tenth of the speed
        from zlib import crc32
    return crc32


def checksum(data: bytes | memoryview, value: int) -> int:
    """Return the CRC-32 of bytes, continued from the CRC-32 of the preceding bytes (0 at the start)."""
    return _crc32()(data, value)


Read = Callable[[memoryview, int], int]
"""Fills a block with bytes from an offset, and returns their number; 0 at the end of the file."""

# Bytes in one read. Larger blocks make neither reading nor hashing faster.
_BLOCK: Final = 1 << 20


class Hasher(Protocol):
    """A running digest, as `hashlib` provides it."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class _AwsCrc:
    """A checksum of AWS's library, which the extra `s3` installs."""

    def __init__(self, algorithm: str) -> None:
        extra = "crc32c" if algorithm == "crc32c" else "s3"
        try:
            from awscrt import checksums
        except ImportError:
            raise FetchError(
                f"{algorithm} digests need a library; run: pip install 'osp-fetch[{extra}]'"
            ) from None
        self._next = getattr(checksums, algorithm)
        self._value, self._digits = 0, HEX_LENGTHS[algorithm]

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = self._next(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


class _GoogleCrc32c:
    def __init__(self) -> None:
        import google_crc32c

        self._sum = google_crc32c.Checksum()  # type: ignore[no-untyped-call]

    def update(self, data: bytes | memoryview, /) -> None:
        self._sum.update(bytes(data))  # type: ignore[no-untyped-call]

    def hexdigest(self) -> str:
        return str(self._sum.hexdigest().decode("ascii"))  # type: ignore[no-untyped-call]


_own = threading.local()


def _block() -> memoryview:
    """Return this thread's read buffer, which is reused: new memory costs a page fault for every 4 KiB."""
    if not hasattr(_own, "block"):
        _own.block = memoryview(bytearray(_BLOCK))
    block: memoryview = _own.block
    return block


def hasher(algorithm: str, length: int) -> Hasher:
    """Return a running digest for a file.

    Args:
        algorithm: a key of `model.digest.HEX_LENGTHS`.
        length: length of the complete file in bytes. git hashes it before the content.

    Raises:
        FetchError: `algorithm` is crc32c or crc64nvme, and its optional library is not installed.
    """
    if algorithm == "git-blob-sha1":
        return hashlib.sha1(b"blob %d\0" % length, usedforsecurity=False)
    if algorithm == "crc32c":
        try:
            return _GoogleCrc32c()
        except ImportError:
            return _AwsCrc(algorithm)
    if algorithm == "crc64nvme":
        return _AwsCrc(algorithm)
    make: Callable[..., Hasher] = getattr(hashlib, algorithm)
    return make(usedforsecurity=False)


class Tally:
    """Running digests and checksums of one growing file; not safe for two threads at once.

    Args:
        algorithms: digests to compute, as keys of `model.digest.HEX_LENGTHS`.

    Attributes:
        position: number of bytes processed so far, from byte 0.
    """

    def __init__(self, algorithms: frozenset[str]) -> None:
        self._algorithms = algorithms
        self.reset()

    def reset(self) -> None:
        """Start over at byte 0."""
        self.position = 0
        self._hashers: dict[str, Hasher] | None = None
        self._checksums: list[int] = []
        self._spans = False

    def advance(self, read: Read, upto: int, length: int) -> None:
        """Process the bytes from `position` up to `upto`.

        Args:
            read: reads bytes of the file.
            upto: offset to stop at, in bytes.
            length: length of the complete file in bytes.

        Raises:
            FetchError: the file ends before `upto`, or a digest needs a library that is not installed.
        """
        self._begin(length)
        block = _block()
        while self.position < upto:
            in_span = self.position % CHECKSUM_SPAN
            want = min(len(block), upto - self.position, CHECKSUM_SPAN - in_span)
            count = read(block[:want], self.position)
            if count == 0:
                raise FetchError(
                    f"a partial ends after {self.position} bytes, before its last write; run again"
                )
            self._add(block[:count])

    def take(self, data: memoryview, length: int) -> None:
        """Process `data`, the bytes that follow `position`.

        Args:
            data: bytes that are in the file already.
            length: length of the complete file in bytes.

        Raises:
            FetchError: a digest needs a library that is not installed.
        """
        self._begin(length)
        while data:
            count = CHECKSUM_SPAN - self.position % CHECKSUM_SPAN
            self._add(data[:count])
            data = data[count:]

    def _begin(self, length: int) -> None:
        if self._hashers is None:
            self._hashers = {name: hasher(name, length) for name in sorted(self._algorithms)}
            self._spans = length > CHECKSUM_SPAN  # the digest covers a single span as well

    def _add(self, data: bytes | memoryview) -> None:
        for each in (self._hashers or {}).values():
            each.update(data)
        if self._spans:
            if self.position % CHECKSUM_SPAN == 0:
                self._checksums.append(0)
            self._checksums[-1] = checksum(data, self._checksums[-1])
        self.position += len(data)

    def result(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        """Return the digests and checksums of the complete file of `length` bytes.

        Returns:
            Algorithm → hexadecimal digest, and the CRC-32 of each CHECKSUM_SPAN bytes; the latter is empty
            for a file of at most one span.
        """
        hashers = self._hashers or {name: hasher(name, length) for name in self._algorithms}
        return {n: h.hexdigest() for n, h in hashers.items()}, tuple(self._checksums)


def digests_in(data: memoryview, algorithms: frozenset[str]) -> dict[str, str]:
    """Return algorithm → hexadecimal digest for a complete file in memory.

    Args:
        data: all bytes of the file.
        algorithms: digests to compute.

    Raises:
        FetchError: crc32c or crc64nvme is requested, and its optional library is not installed.
    """
    found = {}
    for name in algorithms:
        if name == "sha256":  # of each small file: one call that gives up the interpreter lock, not three
            found[name] = hashlib.sha256(data, usedforsecurity=False).hexdigest()
            continue
        whole = hasher(name, len(data))
        whole.update(data)
        found[name] = whole.hexdigest()
    return found


def digests_of(
    path: Path, algorithms: frozenset[str], progress: Callable[[int], None] = lambda _: None
) -> tuple[dict[str, str], tuple[int, ...]]:
    """Read a complete file and return its digests and checksums, as `Tally.result` does. Blocks.

    Args:
        path: the file.
        algorithms: digests to compute.
        progress: called with the number of bytes after each read.

    Raises:
        FetchError: crc32c or crc64nvme is requested and its optional library is not installed, or the file
            shrinks.
        OSError: the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(block: memoryview, at: int) -> int:
        count = os.preadv(fd, [block], at)
        progress(count)
        return count

    try:
        length = os.fstat(fd).st_size
        tally = Tally(algorithms)
        tally.advance(read, length, length)
        return tally.result(length)
    finally:
        os.close(fd)


class NoHashing:
    """Computes no digest; implements `model.protocols.Hashing`."""

    def advance(self, frontier: int, length: int | None) -> None:
        """Do nothing."""

    async def digests(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        """Return no digest."""
        return {}, ()

    async def reset(self) -> None:
        """Do nothing."""
