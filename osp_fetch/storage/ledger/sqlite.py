"""The ledger of a run: one SQLite file, one row for each file, one writer thread, group commit.

The database is on the disk that it describes, and is never shared between hosts. In a trial, two hosts that
wrote to one SQLite file over a network lost 76 of 200 rows. Each shard therefore has its own ledger.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

from ...concurrency import outlast
from ...model import events
from ...model.entry import RelativePath
from ...model.errors import Remedy, StorageError
from ...model.record import Record
from ..folder.disk import Disk, storage_error
from ..folder.executors import in_thread, served_in_thread
from ..folder.permissions import Permissions
from ..ordered_log import OrderedLog
from .failures import ledger_error
from .rows import (
    COLUMNS,
    PATIENCE,
    SCHEMA,
    LedgerReader,
    end_position,
    look,
    positions,
    publications,
    row_of,
)
from .sidecars import Sidecars

# Format 1 had no column `position`. Format 2 was never released.
_SCHEMA_VERSION: Final = 3
_UNRELEASED: Final = 2
PUBLICATIONS: Final = "published.jsonl"
"""Name of the log of publications, beside the ledger, from which it is completed."""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS published ON files(position) WHERE position IS NOT NULL"
# Rows in one statement, at 11 variables each. Old builds of SQLite accept at most 999 variables.
_TOGETHER: Final = 90
# Seconds for which opening a ledger is retried while another process holds it.
_OPENING: Final = 5.0
T = TypeVar("T")
_Placed = tuple[Record, int | None]  # with its position, None if it is not published


class SqliteLedger:
    """The ledger of one run; implements `model.protocols.Ledger`. Use it as an async context manager.

    Args:
        place: the database file; it is created if it does not exist.
        others: ledgers of other runs over the same output folder. Files that they record as published count
            as published.
        durable: whether `put` returns only when the record survives a power loss.
        permissions: of the database file; SQLite gives its other files the same.
        min_free: bytes that stay free when the ledger is converted or the log of publications is rewritten.
        retry: seconds without an attempt to write the log after one that has failed.
        observe: receives a LedgerReplaced event if the ledger is damaged and begun anew.

    Raises:
        DiskFullError: on entering, the disk is full.
        StorageError: on entering, the ledger cannot be opened (remedy ABORT), or was written by a newer
            version of osp-fetch.
    """

    def __init__(
        self,
        place: Path,
        others: Sequence[Path] = (),
        *,
        durable: bool = True,
        permissions: Permissions | None = None,
        min_free: int = 0,
        retry: float = 60.0,
        observe: events.Observer = lambda _: None,
    ) -> None:
        self._place, self._others, self._durable = place, others, durable
        self._permissions = permissions or Permissions()
        self._thread = ThreadPoolExecutor(1, "osp-ledger")
        self._waiting: list[tuple[Record, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._db: sqlite3.Connection
        self._is_ordered = True  # False for a ledger of an earlier format on a full disk: it has no log
        self._claims = Sidecars(place.parent / "claims")
        self._readers: list[LedgerReader] = []
        self._log = OrderedLog(place.with_name(PUBLICATIONS), self._permissions)
        self._position = 0  # of the last publication
        self._is_behind = True  # whether the log may not have all publications
        self._min_free, self._retry, self._observe = min_free, retry, observe
        self._loop: asyncio.AbstractEventLoop
        self._tried_until = 0.0  # monotonic time before which the log is not tried again

    async def __aenter__(self) -> SqliteLedger:
        self._loop = asyncio.get_running_loop()
        try:  # a thread that goes on could open the ledger when another run already owns the folder
            await outlast(self._loop.run_in_executor(self._thread, self._open))
        except asyncio.CancelledError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})  # it may have been cancelled with the event loop
        await in_thread(self._thread, self._close)
        self._thread.shutdown()

    def _open(self) -> None:
        # files that other shards, or an unsharded run, have published need not be fetched
        for place in self._others:
            with suppress(StorageError):
                self._readers.append(LedgerReader(place))
        try:
            self._db = self._patiently_connected()
        except sqlite3.DatabaseError as error:
            if not _is_wreck(error):
                made = ledger_error(error, self._place, f"{self._place} cannot be opened")
                raise type(made)(str(made), remedy=Remedy.ABORT) from None
            self._begin_anew(error)
        try:
            self._or_anew(self._resume_log)
        except sqlite3.Error as error:
            self._db.close()
            raise StorageError(f"{self._place} cannot be read: {error}", remedy=Remedy.ABORT) from None

    def _resume_log(self) -> None:
        self._position = end_position(self._db.execute, "max") if self._is_ordered else 0
        self._catch_up()

    def _begin_anew(self, why: Exception) -> None:
        """Move a damaged or foreign ledger to `*.damaged`, and begin with an empty one.

        What the old ledger stated is found again from the files themselves. The old one is kept for
        inspection.
        """
        kept = self._place.with_name(self._place.name + ".damaged")
        self._place.replace(kept)
        for ending in ("-wal", "-shm", "-journal"):
            self._place.with_name(self._place.name + ending).unlink(missing_ok=True)
        self._db = self._connect()
        # observers are called in the thread of the event loop
        self._loop.call_soon_threadsafe(self._observe, events.LedgerReplaced(str(why), str(kept)))

    def _patiently_connected(self) -> sqlite3.Connection:
        """Return `_connect()`, and retry it while a reader or another shard holds a lock.

        SQLite waits for most locks by itself, but not while a WAL file is created or removed.
        """
        tried_until = time.monotonic() + _OPENING
        while True:
            try:
                return self._connect()
            except sqlite3.OperationalError as error:
                full = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
                if full or _is_wreck(error) or time.monotonic() > tried_until:
                    raise
            time.sleep(0.05)

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
                raise
            # on a full disk the shared-memory file of WAL cannot be created. A run whose files are all
            # published still has to work, and exclusive locking mode needs no such file
            return self._connected(alone=True)

    def _connected(self, *, alone: bool = False) -> sqlite3.Connection:
        if self._permissions.are_given:
            self._place.touch()  # SQLite creates it with mode 0644 at most
            self._permissions.grant(self._place)
        db = sqlite3.connect(self._place, isolation_level=None, timeout=PATIENCE)
        try:
            if alone:
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
            # WAL lets `status`, `plan` and `verify` read while a run writes
            if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                db.execute("PRAGMA journal_mode=TRUNCATE")
            db.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'OFF'}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA_VERSION:
                raise StorageError(
                    f"{self._place} was written by a newer osp-fetch (format {version}); update osp-fetch"
                )
            db.execute(SCHEMA)
            columns = _columns(db)
            if version == _UNRELEASED or columns not in (COLUMNS, COLUMNS[:-1]):
                raise _Foreign("it is not a ledger of osp-fetch")
            self._is_ordered = version == _SCHEMA_VERSION or self._convert(db, version)
            db.execute("SELECT path, held, mtime_ns FROM files LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _convert(self, db: sqlite3.Connection, version: int) -> bool:
        """Convert a ledger to the current format, with positions for the published files of format 1.

        Returns:
            False if the disk is full. Format 1 can be used as it is, but has no log.
        """
        if version and not self._has_room(db):
            return False  # rolling back would leave a WAL file that has filled the disk
        numbers = itertools.count(1)
        db.create_function("number", 0, lambda: next(numbers))
        try:
            db.execute("BEGIN IMMEDIATE")
            if _columns(db) != COLUMNS:
                db.execute("ALTER TABLE files ADD COLUMN position INTEGER")
            db.execute("UPDATE files SET position = number() WHERE mtime_ns IS NOT NULL")
            db.execute(_INDEX)
            db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if version == 0 or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            return False
        return True

    def _close(self) -> None:
        with suppress(sqlite3.Error, ValueError):
            self._catch_up()
        for reader in self._readers:
            reader.close()
        self._db.close()

    async def get(self, paths: Sequence[RelativePath]) -> list[Record | None]:
        """Return the record of each path, in order; None if there is none.

        Ledgers of other runs and sidecars are consulted for paths without a record of their own.

        Raises:
            StorageError: the ledger cannot be read. The remedy is ABORT.
        """
        try:
            found = await in_thread(self._thread, lambda: self._or_anew(lambda: self._look(paths)))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{self._place} cannot be read: {error}", remedy=Remedy.ABORT) from None
        return [found.get(path) for path in paths]

    def _or_anew(self, work: Callable[[], T]) -> T:
        """Return `work()`; if the ledger proves damaged, replace it by an empty one and call again."""
        try:
            return work()
        except (sqlite3.DatabaseError, ValueError) as error:
            # a path that is no valid text is a defect of the caller, and none of the ledger
            if isinstance(error, UnicodeError) or not (isinstance(error, ValueError) or _is_wreck(error)):
                raise
            self._db.close()
            self._begin_anew(error)
            return work()

    def _look(self, paths: Sequence[RelativePath]) -> dict[str, Record]:
        found = look(self._db.execute, paths)
        for other in tuple(self._readers):
            missing = [path for path in paths if path not in found]
            try:
                published = [r for r in other.look(missing).values() if r.published]
            except StorageError:
                # damaged, or being created: its records would only have saved work
                self._readers.remove(other)
                other.close()
                continue
            found.update((record.path, record) for record in published)
        claimed = [self._claims.find(path) for path in paths if path not in found]
        found.update((record.path, record) for record in claimed if record)
        return found

    async def put(self, record: Record) -> None:
        """Store `record`; return when it is committed. Records that wait are committed together.

        Raises:
            DiskFullError: the disk is full.
            StorageError: the ledger cannot be written.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        if self._task is None or self._task.done():
            self._begin()
        await done

    def _begin(self, ended: asyncio.Task[None] | None = None) -> None:
        """Begin to commit, unless nothing waits; also after a task that was cancelled with the event loop."""
        if self._waiting:
            self._task = asyncio.create_task(self._commit())
            self._task.add_done_callback(self._begin)

    async def _commit(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure: StorageError | None = None
            try:
                records = [record for record, _ in batch]
                await served_in_thread(self._thread, partial(self._or_anew, partial(self._write, records)))
            except sqlite3.Error as error:
                explained = partial(ledger_error, error, self._place, f"{self._place} cannot be written")
                failure = await served_in_thread(self._thread, explained)
            except OSError as error:
                failure = storage_error(error, f"{self._place} cannot be written")
            except Exception as error:  # callers of `put` must not wait forever
                failure = StorageError(f"{self._place} cannot be written: {error}")
            for _, done in batch:
                if failure and not done.done():
                    done.set_exception(failure)
                    done.exception()  # mark as retrieved: a caller that was cancelled does not read it
                elif not done.done():
                    done.set_result(None)

    def _write(self, records: Sequence[Record]) -> None:
        self._claims.check()
        for record in records:
            self._claims.before(record)
        # few statements, because sqlite3 releases the interpreter's lock for each, and waits to get it back.
        # A single statement is atomic and needs no transaction
        several = len(records) > _TOGETHER
        before = self._position
        placed: Sequence[_Placed] = [
            (record, None if record.published is None else self._next()) for record in records
        ]
        try:
            if several:
                self._db.execute("BEGIN")
            placed = self._stored(placed)
            if several:
                self._db.execute("COMMIT")
        except BaseException:
            self._is_behind = True  # a part may have been stored
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        for record in records:
            self._claims.after(record)
        self._announce([(record, at) for record, at in placed if at is not None and at > before])

    def _stored(self, placed: Sequence[_Placed]) -> Sequence[_Placed]:
        """Store records, and return them with their positions.

        A file that is recorded again as it was published, as by `--recheck`, keeps its position. In most
        batches all paths are new, which takes one statement to find out and to store.
        """
        if not self._is_ordered:
            self._insert("REPLACE", placed)
            return placed
        if all(record.published for record, _ in placed) and self._insert("IGNORE", placed) == len(placed):
            return placed
        known = positions(self._db.execute, [record.path for record, at in placed if at is not None])
        kept = [(r, known.get((r.path, *r.published), at) if r.published else None) for r, at in placed]
        self._insert("REPLACE", kept)
        return kept

    def _insert(self, conflict: Literal["IGNORE", "REPLACE"], placed: Sequence[_Placed]) -> int:
        """Insert records, and return the number of rows that were stored."""
        count, stored = len(COLUMNS) if self._is_ordered else len(COLUMNS) - 1, 0
        marks = f"({','.join('?' * count)})"
        statement = f"INSERT OR {conflict} INTO files ({','.join(COLUMNS[:count])}) VALUES "
        for at in range(0, len(placed), _TOGETHER):
            rows = [row_of(*each)[:count] for each in placed[at : at + _TOGETHER]]
            values = [value for row in rows for value in row]
            stored += self._db.execute(statement + ",".join([marks] * len(rows)), values).rowcount
        return stored

    def _next(self) -> int:
        """Return the next position in the order of publication.

        Positions are times in microseconds, as far as these increase. So they also increase where an empty
        ledger took the place of a damaged one, and positions of several ledgers can be compared.
        """
        self._position = max(self._position + 1, time.time_ns() // 1000)
        return self._position

    def _announce(self, new: Sequence[tuple[Record, int]]) -> None:
        """Append published files to the log. After an error the log catches up later."""
        if self._is_behind or not self._is_ordered:
            if time.monotonic() >= self._tried_until:
                self._catch_up()
            return
        rows = [
            [position, record.path, *record.published, record.digests]
            for record, position in new
            if record.published is not None
        ]
        try:
            if rows:
                self._log.append(rows)
        except OSError:
            self._fall_behind()

    def _fall_behind(self) -> None:
        """Do not write the log for a while: an attempt at each commit could rewrite a gigabyte each time."""
        self._is_behind, self._tried_until = True, time.monotonic() + self._retry

    def _catch_up(self) -> None:
        """Append what a killed run or a full disk has kept from the log. If the log has gaps, rewrite it."""
        if not self._is_behind or not self._is_ordered:
            return
        try:
            last = self._log.settle()
            self._position = max(self._position, last)
            if last and not self._log.has_gap(end_position(self._db.execute, "min")):
                self._log.append(publications(self._db.execute, last))
            else:
                self._rewrite()
            self._is_behind = False
        except OSError:
            self._fall_behind()

    def _rewrite(self) -> None:
        if not self._has_room(self._db):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._log.rewrite(publications(self._db.execute, 0))

    def _has_room(self, db: sqlite3.Connection) -> bool:
        """Return whether twice the size of the ledger is free beside `min_free`.

        Converting it takes less, and so does a log: a row has more bytes in the ledger, where its path is
        also in the index.
        """
        size = db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return Disk().free(self._place.parent) - self._min_free >= 2 * int(size.fetchone()[0])


class _Foreign(sqlite3.DatabaseError):
    """An SQLite file that is not a ledger."""


def _columns(db: sqlite3.Connection) -> list[str]:
    return [row[1] for row in db.execute("PRAGMA table_info(files)")]


def _is_wreck(error: sqlite3.DatabaseError) -> bool:
    """Return whether `error` means that the file is damaged or not a ledger."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _Foreign) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
