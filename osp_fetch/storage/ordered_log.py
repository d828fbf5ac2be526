"""Logs of lines with increasing positions, which other processes and machines follow while they grow.

A line is a JSON list whose first value is its position, a whole number. One process appends at a time. A
reader opens the file anew for each look: a network file system then shows what another machine has closed.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from .folder.permissions import Permissions

Row = list[Any]
_TAIL: Final = 1 << 20  # bytes at the end of a log in which its last line is looked for; no line is as long
_NEAR: Final = 1 << 16  # bytes of a block; it is read line by line where a position is looked for by halving
_BLOCKS: Final = 256  # blocks of `_NEAR` bytes in which gaps are looked for
_PAGE: Final = 1000  # lines that are read or written at a time
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class OrderedLog:
    """Appends to a log. All methods block and raise OSError.

    Args:
        place: the file.
        permissions: of the file.
    """

    def __init__(self, place: Path, permissions: Permissions | None = None) -> None:
        self._place, self._permissions = place, permissions or Permissions()

    def settle(self) -> int:
        """Cut off an incomplete line at the end; return the position of the last line, 0 if there is none."""
        try:
            file = self._place.open("r+b")
        except FileNotFoundError:
            return 0
        with file:
            size = file.seek(0, os.SEEK_END)
            begin = file.seek(max(0, size - _TAIL))
            tail = file.read()
            end = len(tail)
            while (end := tail.rfind(b"\n", 0, end)) >= 0:
                row = _row(tail[tail.rfind(b"\n", 0, end) + 1 : end])
                if row is not None:
                    if begin + end + 1 < size:
                        file.truncate(begin + end + 1)
                    return int(row[0])
        return 0

    def has_gap(self, first: int) -> bool:
        """Return whether the beginning of the log is lost, or bytes that a power loss has zeroed are found.

        A log up to 16 MiB is read completely, and that much of a longer one, evenly spread.

        Args:
            first: the log must have a line with this position, unless it is 0.
        """
        if first and [row[0] for row in OrderedReader(self._place, first - 1).read(1)] != [first]:
            return True
        with self._place.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            for at in range(0, size, max(_NEAR, size // _BLOCKS)):
                file.seek(at)
                if b"\0" in file.read(_NEAR):
                    return True
        return False

    def append(self, rows: Iterable[Row], *, durable: bool = False) -> None:
        """Append all of `rows`, whose positions are larger than those in the log, or none if this raises.

        Args:
            rows: the lines.
            durable: whether they must survive a power loss.
        """
        # few system calls: the thread of the ledger gives up the interpreter lock for each
        fd = os.open(self._place, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._permissions.grant(fd)
            before = os.fstat(fd).st_size
            try:
                for lines in _blocks(rows):
                    count = 0
                    while count < len(lines):
                        count += os.write(fd, lines[count:])
                if durable:
                    os.fsync(fd)
            except BaseException:
                with suppress(OSError):  # on a full disk a part of the rows would keep the last free bytes
                    os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace the log atomically by one of `rows`. If this raises, no temporary file stays."""
        beside = self._place.with_name(self._place.name + ".new")
        try:
            with beside.open("wb") as file:
                self._permissions.grant(file.fileno())
                file.writelines(_blocks(rows))
            beside.replace(self._place)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise


class OrderedReader:
    """Reads a log from any position, again and again. It may be used while the log grows, or does not exist.

    Args:
        place: the file.
        after: position of the last line that is not to be read.
    """

    def __init__(self, place: Path, after: int = 0) -> None:
        self.place, self.after = place, after
        self._offset, self._inode = 0, -1
        self._end: int | None = None

    def limit(self) -> None:
        """Do not read lines that are appended from now on. Raises OSError as `read`."""
        try:
            self._end = self.place.stat().st_size
        except FileNotFoundError:
            self._end = 0

    def read(self, most: int) -> list[Row]:
        """Return the lines that follow, `most` at most; `after` becomes the position of the last one.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            file = self.place.open("rb")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                return []
            raise
        with file:
            seen = os.fstat(file.fileno())
            if seen.st_ino != self._inode or seen.st_size < self._offset:
                self._inode, self._offset = seen.st_ino, self._found(file, seen.st_size)
            file.seek(self._offset)
            return self._lines(file, most)

    def read_all(self) -> Iterator[Row]:
        """Yield all lines that follow. Raises OSError as `read`."""
        while rows := self.read(_PAGE):
            yield from rows

    def _lines(self, file: IO[bytes], most: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < most and (self._end is None or self._offset < self._end):
            if not (line := file.readline()).endswith(b"\n"):
                break
            row = _row(line)
            if row is None:
                continue  # damaged by a power loss; the next run cuts it off
            self._offset = file.tell()
            if row[0] > self.after:
                self.after = row[0]
                rows.append(row)
        return rows

    def _found(self, file: IO[bytes], size: int) -> int:
        """Return where a line begins before which no line is wanted, near the first that is."""
        low, high = 0, size
        while high - low > _NEAR:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline()
            start = file.tell()
            row = _row(file.readline())
            if row is not None and row[0] <= self.after:
                low = start
            else:
                high = middle
        return low


def _blocks(rows: Iterable[Row]) -> Iterator[memoryview]:
    """Yield the lines of `rows`, `_PAGE` at a time."""
    left = iter(rows)
    while page := list(islice(left, _PAGE)):
        yield memoryview(b"".join(_encode(row).encode() + b"\n" for row in page))


def _row(line: bytes) -> Row | None:
    """Return the content of a line, None if it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, list) and row and type(row[0]) is int else None
