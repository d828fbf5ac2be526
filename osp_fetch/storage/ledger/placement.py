"""Which node has which file, where each node writes to its own disk: `placement.jsonl`, and an index of it.

Every publication is a line, appended and synced before the ledger states the file as published. The last line
of a path counts. A file that a node has begun is a line, too: only its disk has the partial. The index,
`placement.sqlite3`, bounds the memory; it is completed from the lines, and made anew from them if it is lost.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from ...model.dataclasses import dataclass
from ...model.errors import DiskFullError, Remedy, StorageError
from ...model.record import Published, Record
from ..folder.disk import storage_error
from .failures import ledger_error
from .rows import PATIENCE

PLACEMENT: Final = "placement.jsonl"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS disks (number INTEGER PRIMARY KEY, disk TEXT UNIQUE, node TEXT, address TEXT);
CREATE TABLE IF NOT EXISTS places (
    path TEXT PRIMARY KEY, disk INTEGER NOT NULL, size INTEGER, mtime_ns INTEGER, digest TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS read (bytes INTEGER NOT NULL);
"""
_PAGE: Final = 10_000  # lines that are added to the index in one transaction
_ASK: Final = 500  # paths in one query
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of a node.

    Attributes:
        disk: random text that is kept in the state folder of the node. It identifies the disk, also if the
            machine comes back with another address.
        node: the name of the machine, for people.
        address: its address when the line was written; empty if it is not known.
    """

    disk: str
    node: str
    address: str = ""

    def __str__(self) -> str:
        return f"{self.node} ({self.address})" if self.address else self.node


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a file lies.

    Attributes:
        path: path of the file.
        where: the disk that has it.
        published: how the file looked when it was published; None if it was only begun.
        digest: its digest, as `sha256:…`; None if none is known.
    """

    path: str
    where: Disk
    published: Published | None = None
    digest: str | None = None


def placed(record: Record, where: Disk) -> Placed:
    """Return the place of the file of a record that a node has written."""
    known = sorted(record.digests.items(), key=lambda item: item[0] != "sha256")
    digest = f"{known[0][0]}:{known[0][1]}" if known and record.published else None
    return Placed(record.path, where, record.published, digest)


def has_placement(state: Path) -> bool:
    """Return whether the files of a state folder's ledger lie on nodes."""
    try:
        return (state / PLACEMENT).stat().st_size > 0
    except OSError:
        return False


class Placement:
    """The places of files. All calls block, and come from one thread.

    Args:
        state: the state folder.
        writes: whether lines are appended; else another process may append meanwhile.

    Raises:
        StorageError: a file of it cannot be opened, read or written.
    """

    def __init__(self, state: Path, *, writes: bool = True) -> None:
        self._place, self._writes = state / PLACEMENT, writes
        self._disks: dict[str, tuple[int, Disk]] = {}
        self._file: IO[bytes] | None = None
        self._is_behind = False  # the index could not be written, and does not have all lines
        try:
            # what only reads has an index of its own: a run may be writing
            index = state / "placement.sqlite3" if writes else ""
            self._db = sqlite3.connect(index, isolation_level=None, timeout=PATIENCE, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL").fetchone()
            self._db.execute("PRAGMA synchronous=NORMAL")  # what a power loss takes is read from the lines
            self._db.executescript(_SCHEMA)
            for number, disk, node, address in self._db.execute("SELECT * FROM disks"):
                self._disks[disk] = number, Disk(disk, node, address)
            self._catch_up()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        except OSError as error:
            raise storage_error(error, f"{self._place} cannot be used") from None

    def _failed(self, error: sqlite3.Error) -> StorageError:
        made = ledger_error(error, self._place, f"the index of {self._place} cannot be written")
        if isinstance(made, DiskFullError) or made.remedy is Remedy.ABORT:
            return made
        return StorageError(
            f"the index of {self._place} cannot be used: {error}; remove placement.sqlite3 beside it, and "
            "run the same command again"
        )

    def _catch_up(self) -> None:
        """Add the lines that the index does not have, and cut off an incomplete one."""
        try:
            size = self._place.stat().st_size
        except FileNotFoundError:
            size = 0
        (done,) = self._db.execute("SELECT coalesce(max(bytes), 0) FROM read").fetchone()
        if done > size:  # it was replaced
            self._db.executescript("DELETE FROM places; DELETE FROM read; DELETE FROM disks")
            self._disks, done = {}, 0
        if done == size:
            return
        with self._place.open("rb") as file:
            file.seek(done)
            while rows := _read(file, _PAGE):
                self._add(rows, file.tell())
            end = file.tell()
        if end < size and self._writes:
            os.truncate(self._place, end)

    def add(self, rows: Sequence[Placed]) -> None:
        """Append lines. When this returns, they survive a power loss."""
        assert self._writes
        try:
            if self._file is None:
                self._file = self._place.open("ab")
            self._file.writelines(_encode(_line(row)).encode() + b"\n" for row in rows)
            self._file.flush()
            os.fsync(self._file.fileno())
            behind, self._is_behind = self._is_behind, True
            if behind:
                self._catch_up()
            else:
                self._add(rows, self._file.tell())
            self._is_behind = False
        except sqlite3.Error as error:
            raise self._failed(error) from None
        except OSError as error:
            raise storage_error(error, f"{self._place} cannot be written") from None

    def _add(self, rows: Iterable[Placed], end: int) -> None:
        """Add lines to the index, which has all lines up to the byte `end` then."""
        known = dict(self._disks)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            values = [
                (row.path, self._number(row.where), *(row.published or (None, None)), row.digest)
                for row in rows
            ]
            self._db.executemany("INSERT OR REPLACE INTO places VALUES (?,?,?,?,?)", values)
            self._db.execute("DELETE FROM read")
            self._db.execute("INSERT INTO read VALUES (?)", (end,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._disks = known  # the numbers of new disks are not in the index
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _number(self, where: Disk) -> int:
        known = self._disks.get(where.disk)
        if known is not None and known[1] == where:
            return known[0]
        number = known[0] if known else len(self._disks)
        values = number, where.disk, where.node, where.address
        self._db.execute("INSERT OR REPLACE INTO disks VALUES (?,?,?,?)", values)
        self._disks[where.disk] = number, where
        return number

    def get(self, paths: Sequence[str]) -> dict[str, Placed]:
        """Return path → place, for those of `paths` that have one."""
        disks, found = dict(self._disks.values()), dict[str, Placed]()
        try:
            for start in range(0, len(paths), _ASK):
                some = paths[start : start + _ASK]
                marks = ",".join("?" * len(some))
                asked = f"SELECT path, disk, size, mtime_ns, digest FROM places WHERE path IN ({marks})"
                for path, disk, size, mtime_ns, digest in self._db.execute(asked, some):
                    published = None if size is None else Published(size, mtime_ns)
                    found[path] = Placed(path, disks[disk], published, digest)
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return found

    def sums(self) -> Iterator[tuple[Disk, int, int]]:
        """Yield each disk with the number of published files that lie on it, and their bytes."""
        asked = "SELECT disk, count(*), sum(size) FROM places WHERE size IS NOT NULL GROUP BY disk"
        counted = {disk: (files, size) for disk, files, size in self._db.execute(asked)}
        for number, disk in self._disks.values():
            yield disk, *counted.get(number, (0, 0))

    def close(self) -> None:
        """Close the files."""
        self._db.close()
        if self._file is not None:
            self._file.close()


def _line(row: Placed) -> dict[str, Any]:
    size, mtime_ns = row.published or (None, None)
    where = {"path": row.path, "node": row.where.node, "address": row.where.address, "disk": row.where.disk}
    return where | {"size": size, "mtime_ns": mtime_ns, "digest": row.digest}


def _read(file: IO[bytes], most: int) -> list[Placed]:
    """Return the complete lines that follow, and leave `file` behind the last of them."""
    rows: list[Placed] = []
    while len(rows) < most:
        begin, line = file.tell(), file.readline()
        if not line.endswith(b"\n"):
            file.seek(begin)
            break
        try:
            read = json.loads(line)
            where = Disk(read["disk"], read["node"], read["address"])
            size = read["size"]
            published = None if size is None else Published(size, read["mtime_ns"])
            rows.append(Placed(read["path"], where, published, read["digest"]))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a power loss has damaged
    return rows
