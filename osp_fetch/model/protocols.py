"""The doors between the engine and the world: what a transport, a store and a ledger can do.

The engine knows only these; adapters stand in `network` and `storage`, fakes in the tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from .digest import Digest
from .entry import Entry, RelativePath
from .errors import ManifestError
from .http import Representation, Request
from .ranges import ByteRange
from .record import Examined, Placed, Published, Record

Row = Entry | ManifestError
"""A source yields its bad rows too, as errors, so that they fail as rows and stop no others."""

Manifest = Iterable[Row] | AsyncIterable[Row]


class Reply(Protocol):
    """An answer that is the payload, its body not yet read.

    `range`: the bytes that the body supplies, None where it is the whole file. `framed`: whether
    the end of the body shows (Content-Length or chunked), or is just where the connection closed.
    `headers_sent`: whether the request's own headers went all the way, through redirects within one
    origin. `pauses`: hosts that asked to be left alone for so many seconds.
    """

    representation: Representation
    range: ByteRange | None
    framed: bool
    borrowed: bool
    headers_sent: bool
    pauses: tuple[tuple[str, float], ...]

    async def readinto(self, view: memoryview) -> int:
        """Receive the next bytes into `view`, until it is full or a moment has passed: how many came, 0
        only at the end. Raises NetworkError on a cut or a stall."""
        ...


class Leads(Protocol):
    """Knows pages that stand where a file should be, and lead on to it by a click."""

    def knows(self, url: str) -> bool:
        """Whether pages at `url` are of its kind."""
        ...

    def target(self, url: str, page: bytes) -> str:
        """Where the page leads to. Raises TransferError for one that leads nowhere. Blocks."""
        ...


class Transport(Protocol):
    def get(self, request: Request) -> AbstractAsyncContextManager[Reply]:
        """Send one GET. Raises TransferError for anything that is not the payload."""
        ...


class Partial(Protocol):
    """An unfinished file. Writes may come in any order and at once."""

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`."""
        ...

    async def reserve(self, count: int) -> None:
        """Keep room for `count` more bytes; raises DiskFullError where there is not so much."""
        ...

    async def read(self, span: ByteRange) -> bytes: ...

    async def sync(self) -> None:
        """Return when everything written so far survives a power loss."""
        ...

    async def clear(self) -> None:
        """Forget every byte."""
        ...

    def follow(self, frontier: int, length: int | None) -> None:
        """Hash up to `frontier` in the background: everything before it is there for good."""
        ...

    async def digests(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        """Algorithm → hex over the whole file of `length` bytes, and its checksums."""
        ...

    async def rehash(self) -> None:
        """Forget what was hashed: `digests` reads all of it again."""
        ...

    async def publish(self, length: int) -> Placed:
        """Give the file of `length` bytes its final name. When this returns it survives a power loss."""
        ...

    async def set_aside(self) -> str:
        """Keep the whole file where it is in nobody's way, and let go of it; where that is, in words."""
        ...

    async def close(self) -> None:
        """Let go of the file; what is written stays."""
        ...


class Renewal(Protocol):
    """Where fresh links come from when those of the manifest are dead."""

    def changed(self) -> bool:
        """Whether other links may be had at once."""
        ...

    async def wait(self, *, progressed: bool) -> bool:
        """Return True when other links may be there, False where none are to be expected.

        `progressed`: whether the links of last time were good for anything.
        """
        ...

    async def renew(self, entries: Sequence[Entry]) -> list[Entry | None]:
        """For each entry the same with other links, None where there are none."""
        ...


class Memory(Protocol):
    """Bytes that a store lends: `view` is all of them."""

    view: memoryview

    def cut(self, start: int, stop: int) -> None:
        """Make so much of it all of it."""
        ...

    def free(self) -> None:
        """Give them back."""
        ...


class Store(Protocol):
    """Where files go. `folds`: names that differ in nothing but case are one name here. `in_hand`: how many
    files may come to be published, which the engine keeps count of."""

    folds: bool
    in_hand: int

    async def look(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return how the files under these final names look now; None where there is no file."""
        ...

    async def deleted(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return how the files looked that were deleted after unpacking; None where there was none."""
        ...

    async def held(self, path: RelativePath) -> int | None:
        """The size of the partial of `path`, None where there is none."""
        ...

    def memory(self, count: int) -> Memory:
        """Memory for a small file that may come to be `put`, with anything in it; to be freed otherwise."""
        ...

    async def put(
        self,
        path: RelativePath,
        memory: Memory,
        length: int,
        algorithms: frozenset[str],
        wanted: Digest | None,
    ) -> tuple[Placed, dict[str, str]]:
        """Give a whole small file, the first `length` bytes of `memory`, its final name, and tell its
        digests, as `Partial.publish` and `digests` do. Raises IntegrityError where it has not the digest
        `wanted`. The memory is the store's from now on; where this raises, its view is a copy that stays."""
        ...

    def partial(
        self,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        replaces: Published | None = None,
    ) -> Partial:
        """Return the partial of `path`.

        `fresh`: whatever an earlier run left of it is dropped. `replaces`: how the finished file of an
        earlier run looks, which the new one may replace. Any other file of that name is kept elsewhere.
        """
        ...

    async def examine(
        self, path: RelativePath, algorithms: frozenset[str], *, aside: bool = False
    ) -> Examined:
        """Read the whole file under its final name, or the one that was set `aside`."""
        ...

    async def read(self, path: RelativePath, span: ByteRange, *, aside: bool = False) -> bytes:
        """Some bytes of that file."""
        ...

    async def aside(self, path: RelativePath) -> int | None:
        """The size of what was set aside of `path`, None where nothing was."""
        ...

    async def take_back(self, path: RelativePath) -> None:
        """Make what was set aside the partial of `path` again."""
        ...

    async def room(self) -> int:
        """Bytes that may still be written and are not reserved."""
        ...


class Ledger(Protocol):
    """The record of what is held and published."""

    async def look(self, paths: Sequence[RelativePath]) -> list[Record | None]: ...

    async def put(self, record: Record) -> None:
        """Return when the record survives a power loss."""
        ...
