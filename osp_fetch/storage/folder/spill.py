"""Rows that wait on disk for their host, in a file without a name that ends with the run."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

from ...model.errors import Remedy, StorageError

# Bits of a place that hold the length of a row; the others hold its offset.
_LENGTH: Final = 24


class DiskSpill:
    """Queues of rows on disk; implements `model.protocols.Spill`.

    Rows may contain signed links and headers. The file therefore has no name: no other process opens it, and
    nothing remains of it after a kill. It is made with the first row, and not synced: the next run reads the
    manifest again. A row takes a few microseconds and 40 bytes of memory, so it needs no thread. A row that
    cannot be written, because the disk is full, waits in memory.

    Args:
        folder: A folder on the disk to use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._end = 0
        self._queues: dict[str, deque[int | bytes]] = {}  # offset and length of each row, or the row itself

    def put(self, key: str, row: bytes) -> None:
        """Add a row at the end of the queue `key`."""
        self._queues.setdefault(key, deque()).append(self._written(row))

    def _written(self, row: bytes) -> int | bytes:
        """Write a row. Return its place, or the row where that is impossible."""
        try:
            if self._file is None:
                self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115 - `close` closes it
            if len(row) >> _LENGTH or os.pwrite(self._file.fileno(), row, self._end) < len(row):
                return row
        except OSError:
            return row
        place = self._end << _LENGTH | len(row)
        self._end += len(row)
        return place

    def take(self, key: str, most: int) -> list[bytes]:
        """Remove and return the first rows of the queue `key`, at most `most`.

        Raises:
            StorageError: The disk cannot be read.
        """
        queue = self._queues.get(key, deque())
        rows = [self._read(place) for place in islice(queue, most)]
        for _ in rows:
            queue.popleft()
        if not queue:
            self._queues.pop(key, None)
        if not self._queues and self._file is not None:
            self._end = 0
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), 0)
        return rows

    def _read(self, place: int | bytes) -> bytes:
        if isinstance(place, bytes):
            return place
        assert self._file is not None
        length, offset = place & (1 << _LENGTH) - 1, place >> _LENGTH
        try:
            row = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            row, why = b"", os.strerror(error.errno or 0)
        else:
            why = "the file was cut"
        if len(row) < length:
            raise StorageError(
                f"{self._folder}: rows that wait for their host cannot be read again ({why}); run the same "
                "command again",
                remedy=Remedy.ABORT,
            )
        return row

    def close(self) -> None:
        """Discard all rows."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> DiskSpill:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
