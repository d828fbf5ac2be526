"""The parts of an upload that the next run can continue: those that the ledger of uploads states."""

from __future__ import annotations

from collections.abc import Sequence

from ...model.entry import RelativePath
from ..ledger.uploads import UploadedPart
from .resources import BucketResources


class RecordedParts:
    """The first parts of a file, without a gap; those that come during a write are written by the next.

    Args:
        shared: what the store shares.
        path: the file.
        parts: what the ledger states already.

    Attributes:
        all: all parts in order, those that are not written yet included.
        kept: bytes of the parts that are written.
    """

    def __init__(
        self, shared: BucketResources, path: RelativePath, parts: Sequence[UploadedPart] = ()
    ) -> None:
        self._shared, self._path = shared, path
        self.all = list(parts)
        self._written = len(self.all)
        self.kept = sum(part.size for part in parts)

    @property
    def is_waiting(self) -> bool:
        """Whether parts are not written yet."""
        return self._written < len(self.all)

    def get(self, number: int) -> UploadedPart | None:
        """Return the part with this number, None if it is not among the first ones."""
        return self.all[number - 1] if number <= len(self.all) else None

    def add(self, part: UploadedPart) -> None:
        """Append the next part; `commit` writes it."""
        self.all.append(part)

    async def commit(self) -> None:
        """Write the parts that are not written yet.

        Raises:
            StorageError: the ledger cannot be written.
        """
        while batch := self.all[self._written :]:
            await self._shared.uploads.add(self._path, batch)
            self._written += len(batch)
            self.kept += sum(part.size for part in batch)
