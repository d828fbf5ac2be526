"""The transfer of a range of a file for the node that has the file; see `lent_ranges`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..model import events
from ..model.entry import RelativePath
from ..model.errors import DiskFullError, FetchError
from ..model.protocols import RangeFiles
from ..model.ranges import RangeSet
from ..model.record import Record
from .checkpoint import Checkpoint
from .context import Context
from .lent_ranges import RangeJob
from .part_fetcher import PartFetcher
from .state import FileState


class NoLedger:
    """A ledger that keeps nothing: another node records the bytes, or none does."""

    async def get(self, paths: Sequence[RelativePath]) -> list[Record | None]:
        """Return None for each path."""
        return [None for _ in paths]

    async def put(self, record: Record) -> None:
        """Do nothing."""


async def fetch_range(context: Context, files: RangeFiles, job: RangeJob) -> Path:
    """Fetch a range into a new range file.

    Args:
        context: The shared objects of this process.
        files: Where range files are made.
        job: The range.

    Returns:
        The place of the range file, which is complete and synced.

    Raises:
        DiskFullError: A range file may take space that the file needs.
        FetchError: The range cannot be fetched. The range file is deleted then.
    """
    path, span, tell = job.entry.path, job.range, context.observe

    def observe(event: events.Event) -> None:
        if not isinstance(event, events.FileBegun):  # the other node has begun the file
            tell(event)

    length = job.record.length or 0
    if await context.store.room() < length + len(span):  # the rest of the file may need the space
        raise DiskFullError(f"{path}: too little free space to fetch a range beside the file")
    context = replace(context, ledger=NoLedger(), observe=observe, lending=None)
    state = FileState(job.entry, job.record, length)
    file, before, is_complete = files.begin(span, state.unwrote), len(state.held), False
    checkpoint = Checkpoint(context.ledger, file, state, context.claim_size)
    parts = PartFetcher(context, state, file, checkpoint, job.order, resumed=True)
    try:
        await parts.fetch()
        await checkpoint.settle()
        await file.sync(RangeSet((span,)))
        is_complete = True
        return file.place
    finally:
        await parts.close()
        try:
            await checkpoint.settle()
        except FetchError:
            is_complete = False
        await file.close()
        if not is_complete:
            observe(events.Lost(path, max(0, len(state.held) - before)))
            await files.drop(file.place)
