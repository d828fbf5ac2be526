"""Protocols: what the engine requires of a transport, a store and a ledger.

The engine knows only these. Adapters are in `network` and `storage`, fakes in the tests. Each protocol has a
contract suite in `tests/contracts/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Protocol

from .digest import Digest
from .entry import Entry, RelativePath
from .errors import ManifestError, NotThePayloadError
from .http import Coding, Representation, Request
from .ranges import ByteRange, RangeSet
from .record import Examined, Placed, Published, Record

Row = Entry | ManifestError
"""A source yields a bad row as an error, so that only that row fails."""

Manifest = Iterable[Row] | AsyncIterable[Row]


class Reply(Protocol):
    """A reply that is the payload; its body has not been read yet.

    Attributes:
        representation: length and validators of the complete file.
        range: bytes of the file that the body supplies; None if it is the complete file.
        framed: whether the end of the body is marked (Content-Length or chunked coding). Otherwise it is
            where the connection was closed.
        borrowed: whether the URL came from a redirect.
        headers_sent: whether every request of the redirect chain carried the entry's own headers. They are
            not sent to another origin.
        pauses: (host, seconds) for each host that asked for a pause.
        doubt: why the body looks like a page in place of the file; a digest decides whether it is. None if it
            does not.
        coding: what became of the content coding that the server applied.
        name: the file name that the server states, by a header or by its redirects. It is not checked, and
            empty if the server states none.
    """

    representation: Representation
    range: ByteRange | None
    framed: bool
    borrowed: bool
    headers_sent: bool
    pauses: tuple[tuple[str, float], ...]
    doubt: NotThePayloadError | None
    coding: Coding

    @property
    def name(self) -> str: ...

    async def readinto(self, view: memoryview) -> int:
        """Receive the next bytes into `view`, until it is full or a moment has passed.

        Returns:
            Number of bytes; 0 only at the end of the body.

        Raises:
            NetworkError: the body was cut, or no byte came within `timeouts.idle`.
        """
        ...


class Leads(Protocol):
    """Recognizes HTML pages that stand in place of a file and contain the link to it."""

    def knows(self, url: str) -> bool:
        """Return whether `url` may lead to such a page."""
        ...

    def target(self, url: str, page: bytes) -> str:
        """Return the link to the file. Blocks.

        Raises:
            TransferError: the page contains no link to the file.
        """
        ...


class Transport(Protocol):
    """Sends requests."""

    def send(self, request: Request) -> AbstractAsyncContextManager[Reply]:
        """Return a context that sends one GET request when it is entered. Its value is the reply.

        Raises:
            TransferError: the reply is not the payload.
        """
        ...


class Hashing(Protocol):
    """The digests of one partial, computed while it grows."""

    def advance(self, frontier: int, length: int | None) -> None:
        """Hash in the background up to `frontier`: bytes before it are not written again."""
        ...

    async def digests(self, length: int) -> tuple[dict[str, str], tuple[int, ...]]:
        """Return algorithm → hexadecimal digest of the file of `length` bytes, and its checksums."""
        ...

    async def reset(self) -> None:
        """Discard the hashes, so that `digests` reads the complete file again."""
        ...


class PartialContent(Protocol):
    """The bytes of an unfinished file. Writes may come in any order and at the same time.

    Attributes:
        hashing: the digests of the file.
    """

    hashing: Hashing

    async def write(self, offset: int, data: bytes | memoryview, length: int | None = None) -> None:
        """Write `data` at `offset`.

        Args:
            offset: position in the file, in bytes.
            data: the bytes. The caller must not change them before this returns.
            length: length of the file in bytes if `data` is not written again. The digests may then be
                computed from `data`. None if its bytes may be overwritten, or the length is unknown.
        """
        ...

    async def begin(self, length: int | None, missing: int) -> None:
        """Prepare for bytes of a server that has accepted the first request.

        Args:
            length: length of the file in bytes, None if unknown.
            missing: bytes that are to be written; space for them is reserved if the length is known.

        Raises:
            DiskFullError: the destination does not have that much unreserved space.
            StorageError: the file cannot have its final name.
        """
        ...

    async def read(self, span: ByteRange) -> bytes:
        """Return the bytes of `span`, fewer if the file ends before."""
        ...

    async def sync(self, held: RangeSet) -> RangeSet:
        """Return the bytes of `held`, ranges that were written, that survive a power loss from now on."""
        ...

    async def clear(self) -> None:
        """Discard all bytes and hashes."""
        ...


class Partial(PartialContent, Protocol):
    """An unfinished file, until it is published, set aside or closed."""

    async def publish(self, length: int, modified: str | None = None) -> Placed:
        """Give the file of `length` bytes its final name. When this returns, it survives a power loss.

        A store that keeps times of files sets the time of the file to `modified`, a Last-Modified header.
        """
        ...

    async def set_aside(self) -> str | None:
        """Move the complete file to where it disturbs nothing, and close it.

        Returns:
            That place; None if the destination cannot keep the file, which is discarded.
        """
        ...

    async def close(self) -> None:
        """Close the file; what was written stays."""
        ...


class RangeFile(PartialContent, Protocol):
    """A range of a file that is fetched for another node, in a file of its own.

    Offsets are those of the whole file. A write outside the range raises StorageError, as does `clear`.

    Attributes:
        place: where it is.
    """

    place: Path

    async def close(self) -> None:
        """Close the range file; what was written stays."""
        ...


class RangeFiles(Protocol):
    """The range files of a node, at a place that all nodes see.

    Attributes:
        block: bytes that are read at a time.
        in_order: whether the bytes of a range must be written to a partial after all bytes before them.
    """

    block: int
    in_order: bool

    def begin(self, span: ByteRange, lost: Lost | None = None) -> RangeFile:
        """Return a new range file for the bytes of `span`.

        Args:
            span: bytes of the whole file.
            lost: called with bytes that were written and had to be given up.
        """
        ...

    async def read(self, place: Path, offset: int, count: int) -> bytes:
        """Return bytes of a range file, fewer only where it ends.

        Args:
            place: where the range file is.
            offset: position in the range file, in bytes.
            count: number of bytes.

        Raises:
            StorageError: it cannot be read.
        """
        ...

    async def drop(self, place: Path) -> None:
        """Delete a range file. Errors are ignored."""
        ...


class Renewal(Protocol):
    """A source of fresh links for a manifest whose links have expired."""

    def changed(self) -> bool:
        """Return whether other links may be available at once."""
        ...

    async def wait(self, *, progressed: bool) -> bool:
        """Wait until other links may be available. Return False if none are to be expected.

        Args:
            progressed: whether a byte was received with the last links.
        """
        ...

    async def renew(self, entries: Sequence[Entry]) -> list[Entry | None]:
        """Return each entry with other links, None where there are none."""
        ...


class Memory(Protocol):
    """Memory that a store lends; `view` shows all of it."""

    view: memoryview

    def cut(self, start: int, stop: int) -> None:
        """Reduce `view` to the bytes from `start` to `stop`."""
        ...

    def free(self) -> None:
        """Give the memory back."""
        ...


class SmallFiles(Protocol):
    """Small files, published from the memory that they were received into."""

    def memory(self, count: int) -> Memory:
        """Lend `count` bytes with undefined content. They are passed to `publish`, or freed."""
        ...

    async def publish(
        self,
        path: RelativePath,
        memory: Memory,
        length: int,
        algorithms: frozenset[str],
        wanted: Digest | None,
        modified: str | None = None,
        source: str = "",
    ) -> tuple[Placed, dict[str, str]]:
        """Publish the first `length` bytes of `memory`, and return algorithm → hexadecimal digest.

        `modified` is as in `Partial.publish`, `source` as in `Store.partial`.

        The store owns the memory from now on. If this raises, its view is a copy that stays valid.

        Raises:
            IntegrityError: the file does not have the digest `wanted`.
            StorageError: the file cannot be published.
        """
        ...


class Files(Protocol):
    """Complete files that can be read."""

    async def examine(self, path: RelativePath, algorithms: frozenset[str]) -> Examined:
        """Read the complete file and return its size, digests and zero ranges."""
        ...

    async def read(self, path: RelativePath, span: ByteRange) -> bytes:
        """Return the bytes of `span`, fewer if the file ends before."""
        ...


class SetAsideFiles(Files, Protocol):
    """Complete files that were set aside for a wrong digest."""

    async def find(self, path: RelativePath) -> int | None:
        """Return the size of the file in bytes, None if there is none."""
        ...

    async def restore(self, path: RelativePath) -> None:
        """Make the file the partial of `path` again."""
        ...


class Copies(Protocol):
    """Copies of files that are at the destination's own server already."""

    async def copy(self, entry: Entry, replaces: Published | None) -> tuple[Placed, dict[str, str]] | None:
        """Copy and publish the file of a row without receiving its bytes.

        Args:
            entry: the row.
            replaces: as in `Store.partial`.

        Returns:
            The published file and algorithm → hexadecimal digest as the server states them; None if the row
            has to be fetched.

        Raises:
            IntegrityError: the copy is not right, and is not published.
            StorageError: it cannot be made.
        """
        ...


Lost = Callable[[ByteRange], None]
"""Receives a range that was written and is no longer held: it must be fetched again."""


class Store(Protocol):
    """A destination of files.

    Attributes:
        is_new: whether it is known to have had no file when it was opened.
        widest: bytes that one request should fetch at most, so that those of a file arrive nearly in order.
        folds: whether names that differ only in case are one name here.
        in_progress: number of files that may come to be published. Only the store changes it.
        small_files: small files, published from memory.
        published: complete files under their final names.
        set_aside: files that were set aside for a wrong digest.
        copies: copies within the destination's server, None if there is none.
        keeps_others: whether a file under a final name that no run has fetched is kept elsewhere; else a new
            one fails.
    """

    is_new: bool
    widest: int
    folds: bool
    in_progress: int
    small_files: SmallFiles
    published: Files
    set_aside: SetAsideFiles
    copies: Copies | None
    keeps_others: bool

    def expect(self) -> AbstractContextManager[None]:
        """Return a context that counts one more file in progress."""
        ...

    async def stat(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of the files under these final names, None where there is no file."""
        ...

    async def deleted(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of files that were deleted after unpacking, None where there was none."""
        ...

    async def held(self, path: RelativePath) -> int | None:
        """Return the size in bytes of the partial of `path`, None if there is none."""
        ...

    def partial(
        self,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        lost: Lost | None = None,
        replaces: Published | None = None,
        wanted: Digest | None = None,
        source: str = "",
    ) -> Partial:
        """Return the partial of `path`.

        Args:
            path: path of the file.
            algorithms: names of the digests to compute.
            fresh: whether a partial that an earlier run left is discarded.
            lost: called with bytes that the store had to give up for want of memory.
            replaces: state of the finished file of an earlier run, which may be replaced. Any other file of
                that name is kept.
            wanted: digest that the file must have, None if unknown. The caller compares it.
            source: source key of the file. A store of objects states both with the object.
        """
        ...

    async def room(self) -> int:
        """Return the bytes that may still be written and are not reserved."""
        ...


class Spill(Protocol):
    """Rows that wait on disk for a host, while too many wait for memory. They end with the run."""

    def put(self, key: str, row: bytes) -> None:
        """Add a row at the end of the queue `key`.

        Raises:
            StorageError: the disk cannot be written.
        """
        ...

    def take(self, key: str, most: int) -> list[bytes]:
        """Remove and return the first rows of the queue `key`, at most `most`."""
        ...


class Ledger(Protocol):
    """The records of files that are held or published."""

    async def get(self, paths: Sequence[RelativePath]) -> list[Record | None]:
        """Return the record of each path, None where there is none."""
        ...

    async def put(self, record: Record) -> None:
        """Store a record. When this returns, it survives a power loss."""
        ...
