"""Small files: memory that they are received into, and publication from that memory.

When a run has many small files, a helper process hashes, writes and publishes them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ...model import protocols
from ...model.digest import Digest
from ...model.entry import RelativePath
from ...model.record import Placed
from ..publishing.helper_process import HelperProcess
from ..publishing.shared_memory import SharedBuffer
from ..publishing.small_file import SmallFile
from .resources import FolderResources

# Small files after which a helper process is worth its start; fewer are enough while at least _QUEUE files
# are in progress.
_MANY: Final = 400
_SOME: Final = 16
_QUEUE: Final = 100


class FolderSmallFiles:
    """The small files of a folder store; implements `model.protocols.SmallFiles`.

    Args:
        folder: what the store shares.
        helper: makes the helper process; None if the store may not start one.
        in_progress: returns the number of files in progress.
    """

    def __init__(
        self,
        folder: FolderResources,
        helper: Callable[[], HelperProcess] | None,
        in_progress: Callable[[], int],
    ) -> None:
        self._folder, self._in_progress = folder, in_progress
        self._make_helper = helper
        self._helper: HelperProcess | None = None
        self._lent = 0  # how often memory was lent

    def memory(self, count: int) -> SharedBuffer:
        """Lend memory for a small file; its content is undefined.

        Args:
            count: size in bytes.
        """
        self._lent += 1
        if self._make_helper and self._lent >= (_SOME if self._in_progress() >= _QUEUE else _MANY):
            self._start(self._make_helper)
            self._make_helper = None
        shared = self._helper.pool.take(count) if self._helper and self._folder.publisher.remote else None
        return shared or SharedBuffer(memoryview(bytearray(count)))

    def _start(self, make: Callable[[], HelperProcess]) -> None:
        """Start the helper process in a thread. Until it is ready, and if it fails, this process
        publishes."""
        if not HelperProcess.possible():
            return

        def begin(helper: HelperProcess) -> None:
            with suppress(OSError):
                helper.begin()
                self._folder.publisher.remote = helper.publish

        with suppress(OSError):
            self._helper = make()
            self._folder.writers.submit(begin, self._helper)

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
        """Publish a complete small file. When this returns, it survives a power loss.

        Args:
            path: path of the file.
            memory: memory that `memory` lent. The store owns it from now on; if this raises, its view is a
                copy that the caller may keep.
            length: length of the file in bytes, from the start of `memory`.
            algorithms: names of the digests to compute.
            wanted: digest that the file must have, None if unknown.
            modified: Last-Modified of the server, to become the file's modification time.

        Returns:
            The state of the published file, and algorithm → hexadecimal digest.

        Raises:
            IntegrityError: the file does not have the digest `wanted`.
            StorageError: the file cannot be published.
        """
        assert isinstance(memory, SharedBuffer)
        small = SmallFile(
            self._folder.layout, self._folder.space, path, memory, length, algorithms, wanted, modified
        )
        placed = await self._folder.publisher.publish(small)
        return placed, small.digests

    def close(self) -> None:
        """End the helper process. It returns at once, and does not wait for the garbage collector.

        The process holds the run's lock, and its memory holds a descriptor.
        """
        if self._helper is not None:
            self._helper.close()
            self._helper = self._folder.publisher.remote = None
