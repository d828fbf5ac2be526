"""Conversion between records and rows, and read-only access to a ledger."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

from ...model.entry import RelativePath
from ...model.errors import StorageError
from ...model.http import Validator
from ...model.ranges import NOTHING, RangeSet
from ...model.record import Published, Record

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, source_key TEXT NOT NULL, length INTEGER, etag TEXT, last_modified TEXT,
    held TEXT NOT NULL, digests TEXT NOT NULL, checksums TEXT NOT NULL, size INTEGER, mtime_ns INTEGER,
    position INTEGER
) WITHOUT ROWID
"""
# `position` orders published files by publication. It is NULL in rows of other files.
COLUMNS: Final = (
    "path source_key length etag last_modified held digests checksums size mtime_ns position".split()
)
_RECORD: Final = ",".join(COLUMNS[:-1])  # what `record_of` takes; ledgers of format 1 have no other column
# Seconds that a connection waits for the lock of another. Readers and writers block each other on disks that
# do not support WAL.
PATIENCE: Final = 30.0
_MOMENT: Final = 0.5  # seconds of one attempt to open it for reading
# Paths in one query. Old builds of SQLite accept at most 999 variables.
_ASK: Final = 500
_encode: Final = json.JSONEncoder().encode
_decode: Final = json.JSONDecoder().decode
_NO_VALIDATOR: Final = Validator()
# errors of a database that needs files which cannot be created
_UNWRITABLE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR})
_Row = tuple[Any, ...]


class LedgerReader:
    """Reads a ledger without changing it; a run may write to it at the same time.

    Args:
        place: the database file.

    Raises:
        StorageError: the ledger is locked for longer than 30 seconds, or cannot be read.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        try:
            self._db = self._opened()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{place} cannot be read: {error}") from None

    def _opened(self) -> sqlite3.Connection:
        """Return a connection that has read from the ledger.

        The first attempt is read-only: a writable connection that closes last would remove the WAL file of a
        run that is starting. The second attempt is writable, to recover the WAL file that a killed run left.
        On a full disk neither can create the shared-memory file of WAL; the third attempt does without it, in
        exclusive locking mode, and copies the ledger to memory, so that others can read it, too.
        Two readers that try the third one at once hold what the other one waits for, so that each gives up
        after a moment and begins again. Where nothing can be written, as on a mount that is read-only or in a
        folder of another user, SQLite reads a database of WAL only if it is called immutable.
        """
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self._attempted()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(random.uniform(0.05, 0.2))

    def _attempted(self) -> sqlite3.Connection:
        address = f"{self._place.absolute().as_uri()}?mode=ro"
        failure: sqlite3.Error | None = None
        for name, uri, alone in ((address, True, False), (str(self._place), False, False),
                                 (str(self._place), False, True)):  # fmt: skip
            db = sqlite3.connect(name, uri=uri, timeout=_MOMENT)
            try:
                if alone:
                    db.execute("PRAGMA locking_mode=EXCLUSIVE")
                db.execute("SELECT path FROM files LIMIT 1").fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    db.close()
                    failure = error
                    continue
            except sqlite3.DatabaseError:
                db.close()
                raise
            if alone:
                return _in_memory(db)
            db.execute(f"PRAGMA busy_timeout={round(PATIENCE * 1000)}")
            return db
        assert failure is not None
        if failure.sqlite_errorcode & 0xFF in _UNWRITABLE and not _is_writable(self._place.parent):
            return self._unwritable()
        raise failure

    def _unwritable(self) -> sqlite3.Connection:
        """Return a connection to a ledger in a folder that cannot be written."""
        log = self._place.with_name(f"{self._place.name}-wal")
        if not log.exists() or log.stat().st_size == 0:
            return sqlite3.connect(f"{self._place.absolute().as_uri()}?immutable=1", uri=True)
        # a killed run has left records in it
        with tempfile.TemporaryDirectory(prefix="osp-fetch-") as folder:
            for place in (self._place, log):
                shutil.copyfile(place, os.path.join(folder, place.name))
            return _in_memory(sqlite3.connect(os.path.join(folder, self._place.name)))

    def _rows(self, query: str, values: Sequence[str] = ()) -> Iterator[_Row]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            if "no such table" in str(error):
                return  # a run is creating the ledger at this moment: it is empty
            raise StorageError(f"{self._place} cannot be read: {error}") from None

    def all(self) -> Iterator[Record]:
        """Iterate over all records, sorted by path.

        Raises:
            StorageError: the ledger cannot be read.
        """
        return map(record_of, self._rows(f"SELECT {_RECORD} FROM files ORDER BY path"))

    def look(self, paths: Sequence[str]) -> dict[str, Record]:
        """Return the records of `paths` by path; a path without a record is missing from the result.

        Raises:
            StorageError: the ledger cannot be read.
        """
        return look(self._rows, paths)

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _in_memory(db: sqlite3.Connection) -> sqlite3.Connection:
    """Return a copy of a database in memory, and close `db`."""
    copy = sqlite3.connect(":memory:")
    with closing(db):
        db.backup(copy)
    return copy


def look(rows: Callable[[str, Sequence[str]], Iterable[_Row]], paths: Sequence[str]) -> dict[str, Record]:
    """Return the records of `paths` by path; a path without a record is missing from the result.

    Args:
        rows: executes a query with its values.
        paths: paths below the output folder, any number of them.
    """
    found: dict[str, Record] = {}
    for at in range(0, len(paths), _ASK):
        some = paths[at : at + _ASK]
        marks = ",".join("?" * len(some))
        query = f"SELECT {_RECORD} FROM files WHERE path IN ({marks})"
        found.update((row[0], record_of(row)) for row in rows(query, some))
    return found


def row_of(record: Record, position: int | None) -> _Row:
    """Return `record` as a row of the table, in the order of `COLUMNS`.

    Args:
        record: the record.
        position: its place in the order of publication, None if it is not published.
    """
    published = record.published
    return (
        record.path,
        record.source_key,
        record.length,
        record.validator.etag,
        record.validator.last_modified,
        str(record.held),
        _encode(record.digests),
        ",".join(f"{value:x}" for value in record.checksums),
        published.size if published else None,
        published.mtime_ns if published else None,
        position,
    )


def publications(rows: Callable[[str, Sequence[int]], Iterable[_Row]], after: int) -> Iterator[list[Any]]:
    """Yield the published files in order of publication: position, path, size, mtime_ns, digests.

    Args:
        rows: executes a query with its values.
        after: only files with a larger position are yielded.
    """
    query = "SELECT position, path, size, mtime_ns, digests FROM files WHERE position > ? ORDER BY position"
    for *row, digests in rows(query, (after,)):
        yield [*row, _decode(digests)]


def positions(
    rows: Callable[[str, Sequence[str]], Iterable[_Row]], paths: Sequence[str]
) -> dict[tuple[str, int, int], int]:
    """Return path, size and mtime_ns → position of the published ones of `paths`.

    Args:
        rows: executes a query with its values.
        paths: paths below the output folder, any number of them.
    """
    found: dict[tuple[str, int, int], int] = {}
    for at in range(0, len(paths), _ASK):
        some = paths[at : at + _ASK]
        marks = ",".join("?" * len(some))
        query = f"SELECT path, size, mtime_ns, position FROM files WHERE path IN ({marks})"
        found.update((row[:3], row[3]) for row in rows(query, some) if row[3] is not None)
    return found


def end_position(rows: Callable[[str, Sequence[int]], Iterable[_Row]], which: Literal["min", "max"]) -> int:
    """Return the position of the first or the last publication, 0 if there is none.

    Args:
        rows: executes a query with its values.
        which: the first is "min", the last "max".
    """
    # without the condition SQLite does not use the index, and reads the whole ledger
    ((found,),) = rows(f"SELECT {which}(position) FROM files WHERE position IS NOT NULL", ())
    return int(found or 0)


def record_of(row: _Row) -> Record:
    """Return the record that `row` stores.

    Raises:
        ValueError: the row is damaged.
    """
    path, key, length, etag, modified, held, digests, checksums, size, mtime = row
    return Record(
        path=RelativePath(path),
        source_key=key,
        length=length,
        validator=Validator(etag, modified) if etag or modified else _NO_VALIDATOR,
        held=RangeSet.parse(held) if held else NOTHING,
        digests=_decode(digests),
        checksums=tuple(int(value, 16) for value in checksums.split(",")) if checksums else (),
        published=Published(size, mtime) if size is not None else None,
    )
