"""A second source of the same files: adds its sizes and digests to rows, and its links as mirrors.

Meta publishes neither sizes nor digests of SA-1B, but a backup on the Hugging Face Hub lists both
(docs/sources.md, "SA-1B link file").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ..model.digest import stronger
from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.protocols import Row


class SecondSource:
    """The rows of another source, by path; see `join.FileList`.

    Args:
        name: the source's name for messages.
        read: returns the source's rows; called when the first row is joined.
        mirror: whether to add the source's links as mirrors, too.

    Attributes:
        passed_over: digests of the source that are not checked, because a stronger one of the file is.
    """

    def __init__(self, name: str, read: Callable[[], Iterable[Row]], *, mirror: bool) -> None:
        self.name = name
        self._read, self._mirror = read, mirror
        self.passed_over = 0
        self._entries: dict[str, Entry] = {}

    @property
    def alone(self) -> bool:
        """Return False: every row has a path."""
        return False

    def paths(self) -> Iterable[str]:
        """Read the source and return the path of each of its valid rows. Blocks.

        Raises:
            ManifestError: the source cannot be read.
            CredentialsError: the server refuses to list the source.
            NetworkError: the source cannot be listed.
        """
        self._entries = {row.path: row for row in self._read() if isinstance(row, Entry)}
        return self._entries

    def combine(self, entry: Entry, path: str) -> Row:
        """Add size, digest and mirrors of the source's row `path` to `entry`; see `join.FileList`."""
        other = self._entries[path]
        contradiction = _contradiction(entry, other)
        if contradiction:
            return ManifestError(
                f"{entry.path}: the manifest and {self.name} state different {contradiction}; "
                "find out which is right and correct the other"
            )
        digest = stronger(entry.digest, other.digest) if other.digest else entry.digest
        self.passed_over += other.digest is not None and digest != other.digest
        # headers belong to one origin, so a link that needs them cannot be a mirror of another row
        links = other.urls if self._mirror and not other.headers else ()
        return replace(
            entry,
            size=other.size if entry.size is None else entry.size,
            digest=digest,
            urls=(*entry.urls, *(link for link in links if link not in entry.urls)),
        )


def _contradiction(row: Entry, other: Entry) -> str | None:
    if None not in (row.size, other.size) and row.size != other.size:
        return "sizes"
    mine, theirs = row.digest, other.digest
    if mine and theirs and mine.algorithm == theirs.algorithm and mine != theirs:
        return "digests"
    return None
