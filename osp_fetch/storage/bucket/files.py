"""Objects as files: reading complete ones, and publishing small ones from memory."""

from __future__ import annotations

import asyncio
from typing import Final

from ...model import protocols
from ...model.digest import Digest
from ...model.entry import RelativePath
from ...model.errors import IntegrityError, StorageError
from ...model.ranges import ByteRange
from ...model.record import Examined, Placed
from ...s3.client import Bucket
from ...s3.errors import BucketError
from ..folder import blanks
from ..folder.hashing import digests_in
from .multipart import check
from .objects import SOURCE_ID, Creation, look, metadata_of, put
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
        found = await digests_of_object(self._shared.bucket, path, algorithms)
        if found is None:
            raise StorageError(f"{self._shared.bucket.address.url(path)}: there is no such object")
        return found

    async def read(self, path: RelativePath, span: ByteRange) -> bytes:
        """Return the bytes of `span`, fewer if the object ends before.

        Raises:
            StorageError: the object does not exist, or cannot be read.
        """
        return await read_range(self._shared.bucket, path, span)


async def digests_of_object(
    bucket: Bucket, path: RelativePath, algorithms: frozenset[str]
) -> Examined | None:
    """Read an object and return its size, digests and zero ranges; None if there is no object.

    Args:
        bucket: requests to the bucket.
        path: the file.
        algorithms: names of the digests to compute.

    Raises:
        StorageError: the object cannot be read.
    """
    found = await look(bucket, path)
    if found is None:
        return None
    digests, seen = RunningDigests(algorithms, found.size), blanks.Blanks()
    for at in range(0, found.size, _BLOCK):
        span = ByteRange(at, min(found.size, at + _BLOCK))
        # each block by a request of its own, which can be repeated
        block = await read_range(bucket, path, span, IfMatch=found.etag)
        if len(block) != len(span):
            raise StorageError(f"{bucket.address.url(path)}: it changed while it was read; run again")

        def work(block: bytes = block, at: int = at) -> None:
            digests.update(memoryview(block))
            seen.add(memoryview(block), at)

        await asyncio.to_thread(work)
    return Examined(found.size, digests.result(), (), seen.found)


async def read_range(bucket: Bucket, path: RelativePath, span: ByteRange, **more: str) -> bytes:
    """Return the bytes of `span` of an object, fewer if it ends before."""
    try:
        return await bucket.body(
            f"{bucket.address.url(path)}: it cannot be read", Key=bucket.address.key(path),
            Range=f"bytes={span.start}-{span.stop - 1}", **more,
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
        source: str = "",
    ) -> tuple[Placed, dict[str, str]]:
        """Publish a complete small file. It replaces no object unless that is allowed.

        Args:
            path: path of the file.
            memory: memory that `memory` lent.
            length: length of the file in bytes, from the start of `memory`.
            algorithms: names of the digests to compute.
            wanted: digest that the file must have, None if unknown.
            modified: Last-Modified of the server, which becomes metadata of the object.
            source: source key of the file, which becomes metadata, too.

        Returns:
            The state of the object, and algorithm → hexadecimal digest with the checksum of the object.

        Raises:
            IntegrityError: the file does not have the digest `wanted`; or the object differs from what was
                sent, and was deleted again.
            StorageError: the file cannot be published.
        """
        data, scheme = memory.view[:length], self._shared.scheme
        digests = digests_in(data, algorithms)  # a thread would cost more than it saves
        if wanted is not None and digests[wanted.algorithm] != wanted.hex:
            raise IntegrityError(
                f"{path}: the {wanted.algorithm} is {digests[wanted.algorithm]}, the manifest states "
                f"{wanted.hex}"
            )
        states, shared = metadata_of(digests, modified, source), self._shared
        creation = Creation(
            shared.bucket, path, None, overwrite=shared.overwrite, source=states.get(SOURCE_ID, "")
        )
        found = await put(self._shared, path, creation, data, states)
        sums = {scheme.digest: scheme.hex(scheme.sum(data))} if scheme.name else {}
        await check(self._shared, path, found, length, sums)
        return Placed(found.state), digests | sums
