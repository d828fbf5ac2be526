"""Writes members of archives as objects: small ones by one request, large ones in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from ...model.entry import RelativePath
from ...model.errors import StorageError
from ...model.record import Published
from ..folder.executors import in_thread
from ..folder.hashing import digests_in
from .objects import TOKEN, Creation, look, metadata_of, put
from .partial import BucketPartial
from .resources import BucketResources

_BLOCK: Final = 1 << 20  # bytes of a large member that are read at a time
_DIGEST: Final = frozenset({"sha256"})

Read = Callable[[int], bytes]
"""Returns up to the given number of bytes, none at the end. It is called in a thread."""


class BucketWriter:
    """Creates objects from streams of known length. A right object of an earlier attempt is kept as it is.

    Args:
        shared: what the store shares.
    """

    def __init__(self, shared: BucketResources) -> None:
        self._shared = shared

    @property
    def small(self) -> int:
        """Bytes up to which an object is sent by one request, from memory."""
        return self._shared.least

    async def put_small(
        self, path: RelativePath, data: bytes, replaces: Published | None, *, overwrite: bool = False
    ) -> Published:
        """Create an object from memory.

        Args:
            path: path of the file.
            data: all bytes.
            replaces: state of the object that may be replaced, None for none.
            overwrite: whether any object may be replaced. This is not the `--overwrite` of files: members of
                two archives may have one name.

        Returns:
            The state of the object.

        Raises:
            StorageError: another object has the name, or the store does not answer.
        """
        shared, view = self._shared, memoryview(data)
        digests = await in_thread(shared.hashers, lambda: digests_in(view, _DIGEST))
        scheme = shared.scheme
        sums = {scheme.digest: scheme.hex(scheme.sum(view))} if scheme.name else {}
        creation = Creation(shared.bucket, path, replaces, overwrite=overwrite)
        try:
            found = await put(shared, path, creation, view, metadata_of(digests))
        except StorageError:
            if (same := await self._same(path, len(data), digests | sums)) is not None:
                return same
            raise
        return found.state

    async def put_large(
        self,
        path: RelativePath,
        read: Read,
        size: int | None,
        replaces: Published | None,
        *,
        overwrite: bool = False,
    ) -> Published:
        """Create an object from a stream.

        Args:
            path: path of the file.
            read: reads the stream.
            size: bytes of the stream, None if unknown.
            replaces: state of the object that may be replaced, None for none.
            overwrite: as in `put_small`.

        Returns:
            The state of the object.

        Raises:
            StorageError: another object has the name, or the store does not answer.
        """
        part = BucketPartial(
            self._shared, path, _DIGEST, fresh=True, lost=None, replaces=replaces, found=None,
            overwrite=overwrite,
        )  # fmt: skip
        try:
            try:
                await part.begin(size, 0)
            except StorageError:
                if (same := await self._same_stream(path, read, size)) is not None:
                    return same
                raise
            at = 0
            while block := await asyncio.to_thread(read, _BLOCK):
                await part.write(at, block, size)
                at += len(block)
            await part.digests(at)
            placed = await part.publish(at)
        finally:
            await part.close()
        return placed.published

    async def _same(self, path: RelativePath, size: int, digests: dict[str, str]) -> Published | None:
        """Return the state of the object `path` if it is ours and right, else None."""
        found = await look(self._shared.bucket, path)
        if found is None or found.size != size or TOKEN not in found.metadata:
            return None
        stated = found.sums | ({"sha256": found.metadata["sha256"]} if "sha256" in found.metadata else {})
        common = stated.keys() & digests.keys()
        is_right = bool(common) and all(stated[name] == digests[name] for name in common)
        return found.state if is_right else None

    async def _same_stream(self, path: RelativePath, read: Read, size: int | None) -> Published | None:
        """Read the stream, and return the state of the object `path` if it is ours and has these bytes."""
        scheme = self._shared.scheme
        if not scheme.name:
            return None
        parts, total = list[tuple[int, int]](), 0
        while block := await asyncio.to_thread(read, _BLOCK):
            view = memoryview(block)
            checksum = await in_thread(self._shared.hashers, partial(scheme.sum, view))
            parts.append((checksum, len(view)))
            total += len(view)
        sums = {scheme.digest: scheme.hex(scheme.combined(parts))}
        return await self._same(path, total if size is None else size, sums)
