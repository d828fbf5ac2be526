"""Another source of the same files: it lends its sizes and digests, or its links, too.

Meta lists neither for SA-1B, but a backup on a hub does (FACTS section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.protocols import Row

_TWICE: Final = None  # a name that several of its files have


class Backup:
    """Joins rows with those of another source that have the same path, or the same last name.

    `read`: gives that source's rows, when the first row is joined. `mirror`: its links are mirrors.
    """

    def __init__(self, name: str, read: Callable[[], Iterable[Row]], *, mirror: bool) -> None:
        self._name, self._read, self._mirror = name, read, mirror
        self._by_path: dict[str, Entry] | None = None
        self._by_name: dict[str, Entry | None] = {}

    def join(self, row: Row) -> Row:
        """`row` with what the other source knows of it; a contradiction fails the row."""
        if not isinstance(row, Entry) or (other := self._of(row.path)) is None:
            return row
        contradiction = self._contradiction(row, other)
        if contradiction:
            return ManifestError(f"{row.path}: the manifest and {self._name} state different {contradiction}")
        # headers are for one origin: a link that needs them is no mirror for a row of another
        links = other.urls if self._mirror and not other.headers else ()
        return replace(
            row,
            size=other.size if row.size is None else row.size,
            digest=other.digest if row.digest is None else row.digest,
            urls=(*row.urls, *(link for link in links if link not in row.urls)),
        )

    @staticmethod
    def _contradiction(row: Entry, other: Entry) -> str | None:
        if None not in (row.size, other.size) and row.size != other.size:
            return "sizes"
        mine, theirs = row.digest, other.digest
        if mine and theirs and mine.algorithm == theirs.algorithm and mine != theirs:
            return "digests"
        return None

    def _of(self, path: str) -> Entry | None:
        if self._by_path is None:
            self._by_path = {row.path: row for row in self._read() if isinstance(row, Entry)}
            for row in self._by_path.values():
                name = row.path.rsplit("/", 1)[-1]
                self._by_name[name] = _TWICE if name in self._by_name else row
        return self._by_path.get(path) or self._by_name.get(path.rsplit("/", 1)[-1])
