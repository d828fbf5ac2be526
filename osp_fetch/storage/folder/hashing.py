"""Digests over files, computed as the file grows and while its pages are warm."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from ...model.errors import FetchError
from ...model.record import CHECKSUM_SPAN

try:
    from isal.isal_zlib import crc32
except ImportError:  # a platform that it has no wheel for: the same sum, at a tenth of its speed
    from zlib import crc32

checksum: Callable[[bytes | memoryview, int], int] = crc32
"""The CRC-32 of bytes, given that of those before them."""

Read = Callable[[memoryview, int], int]
"""Fills a block from an offset; the number of bytes, 0 at the end."""

_BLOCK: Final = 1 << 20  # bytes a read: past this neither hashing nor reading gets faster


class Hasher(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32c:
    def __init__(self) -> None:
        try:
            import google_crc32c
        except ImportError:
            raise FetchError("crc32c digests need a library: pip install 'osp-fetch[crc32c]'") from None
        self._sum = google_crc32c.Checksum()  # type: ignore[no-untyped-call]

    def update(self, data: bytes | memoryview, /) -> None:
        self._sum.update(bytes(data))  # type: ignore[no-untyped-call]

    def hexdigest(self) -> str:
        return str(self._sum.hexdigest().decode("ascii"))  # type: ignore[no-untyped-call]


_own = threading.local()


def _block() -> memoryview:
    """SharedBuffer of this thread's to read into: fresh memory costs a page fault for every 4 KiB."""
    if not hasattr(_own, "block"):
        _own.block = memoryview(bytearray(_BLOCK))
    block: memoryview = _own.block
    return block


def hasher(algorithm: str, length: int) -> Hasher:
    """A running digest of a file of `length` bytes, which git puts before the content."""
    if algorithm == "git-blob-sha1":
        return hashlib.sha1(b"blob %d\0" % length, usedforsecurity=False)
    if algorithm == "crc32c":
        return _Crc32c()
    make: Callable[..., Hasher] = getattr(hashlib, algorithm)
    return make(usedforsecurity=False)


class Tally:
    """Running digests of one growing file, up to `position`; not safe for two threads at once."""

    def __init__(self, algorithms: frozenset[str]) -> None:
        self._algorithms = algorithms
        self.reset()

    def reset(self) -> None:
        """Begin again at byte 0."""
        self.position = 0
        self._hashers: dict[str, Hasher] | None = None
        self._checksums: list[int] = []
        self._spans = False

    def advance(self, read: Read, upto: int, length: int) -> None:
        """Read on to byte `upto` of a file that will have `length` bytes in all."""
        self._begin(length)
        block = _block()
        while self.position < upto:
            in_span = self.position % CHECKSUM_SPAN
            want = min(len(block), upto - self.position, CHECKSUM_SPAN - in_span)
            count = read(block[:want], self.position)
            if count == 0:
                raise FetchError(f"a partial is shorter than what was written to it ({self.position})")
            self._add(block[:count])

    def _begin(self, length: int) -> None:
        if self._hashers is None:
            self._hashers = {name: hasher(name, length) for name in sorted(self._algorithms)}
            self._spans = length > CHECKSUM_SPAN  # of one span the digest tells as much

    def _add(self, data: bytes | memoryview) -> None:
        for each in (self._hashers or {}).values():
            each.update(data)
        if self._spans:
            if self.position % CHECKSUM_SPAN == 0:
                self._checksums.append(0)
            self._checksums[-1] = checksum(data, self._checksums[-1])
        self.position += len(data)

    def result(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        """Algorithm → hex of all of it, and the CRC-32 of each CHECKSUM_SPAN bytes where it has more."""
        hashers = self._hashers or {name: hasher(name, length) for name in self._algorithms}
        return {n: h.hexdigest() for n, h in hashers.items()}, tuple(self._checksums)


def digests_in(data: memoryview, algorithms: frozenset[str]) -> dict[str, str]:
    """Algorithm → hex over a whole file that lies in memory."""
    found = {}
    for name in algorithms:
        whole = hasher(name, len(data))
        whole.update(data)
        found[name] = whole.hexdigest()
    return found


def digests_of(path: Path, algorithms: frozenset[str]) -> tuple[dict[str, str], tuple[int, ...]]:
    """The digests and checksums of a whole file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        length = os.fstat(fd).st_size
        tally = Tally(algorithms)
        tally.advance(lambda block, at: os.preadv(fd, [block], at), length, length)
        return tally.result(length)
    finally:
        os.close(fd)
