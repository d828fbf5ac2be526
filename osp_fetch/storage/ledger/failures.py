"""The errors of SQLite, as errors of the disk below it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from ...model.errors import DiskFullError, Remedy, StorageError
from ..folder.disk import storage_error

# SQLite gives no reason for these: a quota, a sync that failed, a disk that has become read-only
_UNEXPLAINED: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_PROBE: Final = bytes(64 << 10)


def ledger_error(error: sqlite3.Error, place: Path, doing: str) -> StorageError:
    """Convert an error of SQLite to a StorageError that states what failed, why, and what to do next. Blocks.

    Where SQLite does not say why, a small file is written beside the database to find out.

    Args:
        error: SQLite's error.
        place: The database.
        doing: What failed, as the start of the message.

    Returns:
        DiskFullError if there is no space for the database; a StorageError with remedy ABORT if it cannot be
        written at all, because no other file could be recorded; else a StorageError for one file.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(f"{doing}: {error}; free some space and run the same command again")
    if code not in _UNEXPLAINED:
        return StorageError(f"{doing}: {error}")
    try:
        _probe(place.with_name(f"{place.name}.probe"))
    except OSError as reason:
        made = storage_error(reason, doing)
        return made if isinstance(made, DiskFullError) else StorageError(str(made), remedy=Remedy.ABORT)
    return StorageError(
        f"{doing}: {error}; check the disk and its mount, and run the same command again", remedy=Remedy.ABORT
    )


def _probe(place: Path) -> None:
    try:
        with place.open("wb") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            place.unlink()
