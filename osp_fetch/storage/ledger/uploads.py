"""The ledger of unfinished uploads to a bucket: one SQLite file in the local state folder.

A row of a part states that the bucket has it and that the digests cover it, with the state of the digests
behind it. What is not stated is fetched again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Final

from ...model.dataclasses import dataclass
from ...model.errors import StorageError
from .failures import ledger_error
from .rows import PATIENCE

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS uploads (
    path TEXT PRIMARY KEY, upload TEXT NOT NULL, token TEXT NOT NULL, scheme TEXT NOT NULL, length INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    path TEXT, number INTEGER, etag TEXT NOT NULL, checksum INTEGER NOT NULL, size INTEGER NOT NULL,
    states TEXT, tail BLOB, PRIMARY KEY (path, number)
) WITHOUT ROWID;
"""
# Parts from the last one whose last bytes are kept. Resuming compares them with the source.
_TAILS: Final = 64


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that the bucket has and that the digests cover.

    Attributes:
        number: its number, from 1.
        etag: as the bucket returned it.
        checksum: its checksum by the scheme of the upload.
        size: bytes.
        states: state of the digests behind it, as `RunningDigests.state` returns it.
        tail: its last bytes; empty if they are not kept.
    """

    number: int
    etag: str
    checksum: int
    size: int
    states: str | None = None
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Upload:
    """An unfinished multipart upload.

    Attributes:
        upload: the upload id.
        token: random text in the metadata of the object, by which this upload is recognized.
        scheme: name of the checksum.
        length: bytes of the file, by which it was divided into parts; None if unknown.
        parts: the first parts without a gap.
    """

    upload: str
    token: str
    scheme: str
    length: int | None
    parts: tuple[UploadedPart, ...] = field(default=())


class UploadLedger:
    """The ledger of unfinished uploads. All calls block, and come from one thread.

    Args:
        place: the database file; it is created if it does not exist.

    Raises:
        StorageError: it cannot be opened, read or written.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        try:
            self._db = sqlite3.connect(place, isolation_level=None, timeout=PATIENCE, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL").fetchone()
            self._db.execute("PRAGMA synchronous=NORMAL")  # what a power loss takes is fetched again
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def _failed(self, error: sqlite3.Error) -> StorageError:
        return ledger_error(error, self._place, f"{self._place} cannot be used")

    def get(self, path: str) -> Upload | None:
        """Return the unfinished upload of the file `path`, None if there is none."""
        try:
            row = self._db.execute(
                "SELECT upload, token, scheme, length FROM uploads WHERE path=?", (path,)
            ).fetchone()
            if row is None:
                return None
            parts = self._db.execute(
                "SELECT number, etag, checksum, size, states, tail FROM parts WHERE path=? ORDER BY number",
                (path,),
            ).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return Upload(row[0], row[1], row[2], row[3], tuple(_part(part) for part in parts))

    def begin(self, path: str, upload: Upload) -> None:
        """Record a new upload, in place of an earlier one."""
        self._write(
            ("DELETE FROM parts WHERE path=?", [(path,)]),
            (
                "INSERT OR REPLACE INTO uploads VALUES (?,?,?,?,?)",
                [(path, upload.upload, upload.token, upload.scheme, upload.length)],
            ),
        )

    def add(self, path: str, parts: Sequence[UploadedPart]) -> None:
        """Record further parts, which follow the recorded ones."""
        rows = [(path, p.number, p.etag, _signed(p.checksum), p.size, p.states, p.tail) for p in parts]
        old = parts[-1].number - _TAILS
        self._write(
            ("INSERT OR REPLACE INTO parts VALUES (?,?,?,?,?,?,?)", rows),
            (
                "UPDATE parts SET tail=NULL WHERE path=? AND number<=? AND number>?",
                [(path, old, old - len(parts))],
            ),
        )

    def drop(self, path: str) -> None:
        """Forget the upload of the file `path`."""
        self._write(
            ("DELETE FROM parts WHERE path=?", [(path,)]), ("DELETE FROM uploads WHERE path=?", [(path,)])
        )

    def all(self) -> list[tuple[str, str]]:
        """Return path and upload id of every unfinished upload."""
        try:
            return self._db.execute("SELECT path, upload FROM uploads ORDER BY path").fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def _write(self, *statements: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for statement, rows in statements:
                self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._failed(error) from None

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _signed(value: int) -> int:
    """Return `value`, of 64 bits, in the range of SQLite's integers."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _part(row: tuple[int, str, int, int, str | None, bytes | None]) -> UploadedPart:
    number, etag, checksum, size, states, tail = row
    return UploadedPart(number, etag, checksum % (1 << 64), size, states, tail or b"")
