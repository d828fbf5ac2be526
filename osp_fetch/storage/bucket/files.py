"""Objects as files: reading complete ones, and publishing small ones from memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from ...model import protocols
from ...model.digest import Digest
from ...model.entry import RelativePath
from ...model.errors import IntegrityError, StorageError
from ...model.ranges import ByteRange
from ...model.record import Examined, Placed
from ..folder import blanks
from ..folder.executors import in_thread
from ..folder.hashing import digests_in
from .client import BucketError
from .objects import Creation, put
from .resources import BucketResources
from .sums import RunningDigests

_BLOCK: Final = 8 << 20  # bytes that are read, hashed and forgotten at a time


class BucketFiles:
    """The complete objects; implements `model.protocols.Files`.

    Args:
        shared: what the store shares.
    """

    def __init__(self, shared: BucketResources) -> None:
        self._shared = shared

    async def examine(self, path: RelativePath, algorithms: frozenset[str]) -> Examined:
        """Read the complete object and return its size, digests and zero ranges.

        Raises:
            StorageError: the object does not exist, or cannot be read.
        """
        digests, seen, at = RunningDigests(algorithms, await self._size(path)), blanks.Blanks(), 0
        async for block in self._blocks(path):

            def work(block: bytes = block, at: int = at) -> None:
                digests.update(memoryview(block))
                seen.add(memoryview(block), at)

            await in_thread(self._shared.hashers, work)
            at += len(block)
        return Examined(at, digests.result(), (), seen.found)

    async def _size(self, path: RelativePath) -> int:
        found = await self._shared.bucket.ask(
            "head_object", self._what(path), Key=self._shared.bucket.address.key(path)
        )
        return int(found["ContentLength"])

    def _what(self, path: RelativePath) -> str:
        return f"{self._shared.bucket.address.url(path)}: it cannot be read"

    async def _blocks(self, path: RelativePath) -> AsyncIterator[bytes]:
        """Yield the bytes of the object in blocks, each by a request of its own that can be repeated."""
        size = await self._size(path)
        for at in range(0, size, _BLOCK):
            span = ByteRange(at, min(size, at + _BLOCK))
            block = await self.read(path, span)
            if len(block) != len(span):
                raise StorageError(f"{self._what(path)}: it changed meanwhile; run again")
            yield block

    async def read(self, path: RelativePath, span: ByteRange) -> bytes:
        """Return the bytes of `span`, fewer if the object ends before.

        Raises:
            StorageError: the object does not exist, or cannot be read.
        """
        try:
            return await self._shared.bucket.body(
                self._what(path), Key=self._shared.bucket.address.key(path),
                Range=f"bytes={span.start}-{span.stop - 1}",
            )  # fmt: skip
        except BucketError as error:
            if error.code == "InvalidRange" or error.status == 416:
                return b""
            raise


class NoSetAside:
    """No files that were set aside; implements `model.protocols.SetAsideFiles`."""

    async def find(self, path: RelativePath) -> int | None:
        """Return None."""

    async def examine(self, path: RelativePath, algorithms: frozenset[str]) -> Examined:
        """Raise StorageError."""
        raise self._none(path)

    async def read(self, path: RelativePath, span: ByteRange) -> bytes:
        """Raise StorageError."""
        raise self._none(path)

    async def restore(self, path: RelativePath) -> None:
        """Raise StorageError."""
        raise self._none(path)

    @staticmethod
    def _none(path: RelativePath) -> StorageError:
        return StorageError(f"{path}: nothing was set aside; a bucket keeps no unfinished files")


class _Memory:
    """Memory for a small file; implements `model.protocols.Memory`."""

    __slots__ = ("view",)

    def __init__(self, count: int) -> None:
        self.view = memoryview(bytearray(count))

    def cut(self, start: int, stop: int) -> None:
        """Reduce `view` to the bytes from `start` to `stop`."""
        self.view = self.view[start:stop]

    def free(self) -> None:
        """Do nothing: the memory is freed with its last reference."""


class BucketSmallFiles:
    """Small files, each one request; implements `model.protocols.SmallFiles`.

    Args:
        shared: what the store shares.
    """

    def __init__(self, shared: BucketResources) -> None:
        self._shared = shared

    def memory(self, count: int) -> _Memory:
        """Lend `count` bytes."""
        return _Memory(count)

    async def publish(
        self,
        path: RelativePath,
        memory: protocols.Memory,
        length: int,
        algorithms: frozenset[str],
        wanted: Digest | None,
        modified: str | None = None,
    ) -> tuple[Placed, dict[str, str]]:
        """Publish a complete small file. It replaces no object unless that is allowed.

        Args:
            path: path of the file.
            memory: memory that `memory` lent.
            length: length of the file in bytes, from the start of `memory`.
            algorithms: names of the digests to compute.
            wanted: digest that the file must have, None if unknown.
            modified: Last-Modified of the server, which becomes metadata of the object.

        Returns:
            The state of the object, and algorithm → hexadecimal digest with the checksum of the object.

        Raises:
            IntegrityError: the file does not have the digest `wanted`.
            StorageError: the file cannot be published.
        """
        data, scheme = memory.view[:length], self._shared.scheme
        digests = digests_in(data, algorithms)  # a thread would cost more than it saves
        if wanted is not None and digests[wanted.algorithm] != wanted.hex:
            raise IntegrityError(
                f"{path}: the {wanted.algorithm} is {digests[wanted.algorithm]}, the manifest states "
                f"{wanted.hex}"
            )
        creation = Creation(self._shared.bucket, path, None, overwrite=self._shared.overwrite)
        found = await put(self._shared, path, creation, data, digests, modified)
        if scheme.name:
            digests[scheme.digest] = scheme.hex(scheme.sum(data))
        return Placed(found.state), digests
