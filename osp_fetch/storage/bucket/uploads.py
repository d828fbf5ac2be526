"""Access to the ledger of unfinished uploads: a protocol, and the ledger of this machine in a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from ..folder.executors import in_thread
from ..ledger.uploads import Upload, UploadedPart, UploadLedger


class Uploads(Protocol):
    """The ledger of unfinished uploads. Every call raises StorageError if it cannot be read or written."""

    async def get(self, path: str) -> Upload | None:
        """Return the unfinished upload of the file `path`, None if there is none."""
        ...

    async def begin(self, path: str, upload: Upload) -> None:
        """Record a new upload, in place of an earlier one."""
        ...

    async def add(self, path: str, parts: Sequence[UploadedPart]) -> None:
        """Record further parts, which follow the recorded ones."""
        ...

    async def drop(self, path: str) -> None:
        """Forget the upload of the file `path`."""
        ...

    async def all(self) -> list[tuple[str, str]]:
        """Return path and upload id of every unfinished upload."""
        ...


class LocalUploads:
    """A ledger of this machine, used from one thread; implements `Uploads`.

    Args:
        ledger: the ledger.
        thread: the only thread that uses it.
    """

    def __init__(self, ledger: UploadLedger, thread: ThreadPoolExecutor) -> None:
        self._ledger, self._thread = ledger, thread

    async def get(self, path: str) -> Upload | None:
        """Return the unfinished upload of the file `path`, None if there is none."""
        return await in_thread(self._thread, partial(self._ledger.get, path))

    async def begin(self, path: str, upload: Upload) -> None:
        """Record a new upload, in place of an earlier one."""
        await in_thread(self._thread, partial(self._ledger.begin, path, upload))

    async def add(self, path: str, parts: Sequence[UploadedPart]) -> None:
        """Record further parts, which follow the recorded ones."""
        await in_thread(self._thread, partial(self._ledger.add, path, parts))

    async def drop(self, path: str) -> None:
        """Forget the upload of the file `path`."""
        await in_thread(self._thread, partial(self._ledger.drop, path))

    async def all(self) -> list[tuple[str, str]]:
        """Return path and upload id of every unfinished upload."""
        return await in_thread(self._thread, self._ledger.all)


@asynccontextmanager
async def local_uploads(place: Path) -> AsyncIterator[LocalUploads]:
    """Open the ledger `place`, and yield the access to it.

    Raises:
        StorageError: it cannot be opened.
    """
    with ThreadPoolExecutor(1, "osp-uploads") as thread:
        ledger = await in_thread(thread, lambda: UploadLedger(place))
        try:
            yield LocalUploads(ledger, thread)
        finally:
            thread.submit(ledger.close)
