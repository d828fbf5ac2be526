"""Rows that wait on disk for their host: a temporary SQLite database that ends with the run."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from ...model.errors import Remedy, StorageError

# Rows that are written in one transaction.
_TOGETHER: Final = 500
_MAKE: Final = """
    PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
    CREATE TABLE waiting (id INTEGER PRIMARY KEY, key TEXT, row BLOB);
    CREATE INDEX waiting_key ON waiting (key, id);
"""
_FIRST: Final = "SELECT id, row FROM waiting WHERE key = ? ORDER BY id LIMIT ?"
_REMOVE: Final = "DELETE FROM waiting WHERE key = ? AND id <= ?"


class DiskSpill:
    """Queues of rows on disk; implements `model.protocols.Spill`.

    The database is made with the first row, and is neither synced nor kept: after a kill, the next run reads
    the manifest again. A write of 500 rows takes about a millisecond, so it needs no thread. While the disk
    is full, rows wait in memory.

    Args:
        place: The file of the database, which only its owner can read: rows may contain signed links. An
            older one, of a run that was killed, is removed.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._db: sqlite3.Connection | None = None
        self._pending: list[tuple[str, bytes]] = []
        self.close()

    def put(self, key: str, row: bytes) -> None:
        """Add a row at the end of the queue `key`."""
        self._pending.append((key, row))
        if len(self._pending) % _TOGETHER == 0:
            self._write()

    def take(self, key: str, most: int) -> list[bytes]:
        """Remove and return the first rows of the queue `key`, at most `most`.

        Raises:
            StorageError: The disk cannot be read.
        """
        self._write()
        found: list[tuple[int, bytes]] = []
        if self._db is not None:
            try:
                found = self._db.execute(_FIRST, (key, most)).fetchall()
                if found:
                    self._db.execute(_REMOVE, (key, found[-1][0]))
            except sqlite3.Error as error:
                raise StorageError(
                    f"{self._place} cannot be read ({error}); run the same command again", remedy=Remedy.ABORT
                ) from None
        rows = [row for _, row in found]
        if len(rows) < most and self._pending:
            mine = [pair for pair in self._pending if pair[0] == key][: most - len(rows)]
            rows += [row for _, row in mine]
            self._pending = [pair for pair in self._pending if pair not in mine]
        return rows

    def _write(self) -> None:
        """Write the pending rows. On a full disk they stay pending."""
        if not self._pending:
            return
        with suppress(sqlite3.Error, OSError):
            db = self._open()
            with db:  # all or none of them
                db.execute("BEGIN")
                db.executemany("INSERT INTO waiting (key, row) VALUES (?, ?)", self._pending)
            self._pending.clear()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            os.close(os.open(self._place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._db = sqlite3.connect(self._place, isolation_level=None)
            self._db.executescript(_MAKE)
        return self._db

    def close(self) -> None:
        """Remove the database."""
        if self._db is not None:
            self._db.close()
            self._db = None
        with suppress(OSError):
            self._place.unlink()
