"""What a folder store shares with its partials and its complete files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ...model.dataclasses import dataclass
from ..publishing.publisher import Publisher
from .disk import Disk
from .executors import in_thread
from .layout import Layout
from .space import Space
from .tombstones import Marks


@dataclass(frozen=True, slots=True)
class FolderResources:
    """The disk, the layout, the threads and the publisher of one output folder.

    Args:
        disk: system calls.
        layout: where files lie.
        space: free and reserved space.
        durable: whether files are synced.
        writers: threads that read and write.
        receivers: threads that receive and write.
        hashers: threads that hash, one for each core.
        publisher: gives files their final names.
        superseded: states of finished files of earlier runs that are being replaced.
        may_supersede: whether an earlier run left such states.
    """

    disk: Disk
    layout: Layout
    space: Space
    durable: bool
    writers: ThreadPoolExecutor
    receivers: ThreadPoolExecutor
    hashers: ThreadPoolExecutor
    publisher: Publisher
    superseded: Marks
    may_supersede: bool

    async def room(self) -> int:
        """Return the bytes that may still be written and are not reserved."""
        free = await in_thread(self.writers, self.space.free)
        # the reservations of now: two callers that wait at the same time must not both get the same space
        return free - self.space.reserved
