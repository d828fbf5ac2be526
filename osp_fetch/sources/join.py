"""Joins the rows of a manifest with another list of the same files: checksums, a second source, a mirror.

A wrong join writes the bytes of one file under the name of another, or rejects a correct file. So a row is
joined only if its counterpart is certain:

- the same path, or
- one path is the end of the other (`000.tar`, `train/000.tar`, `data/train/000.tar`), there is exactly one
  such candidate on both sides, and, if the shorter path is a bare name, no other file on either side has that
  name.

All other rows stay unjoined. They are counted and reported to the user, with examples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from ..model.dataclasses import dataclass
from ..model.entry import Entry
from ..model.errors import ManifestError, Remedy
from ..model.protocols import Row

_EXAMPLES: Final = 3  # refused joins that are quoted in full
T = TypeVar("T")
Pair = tuple[T, str | None]


class NameJoin(Generic[T]):
    """Pairs items, each with a path, with the paths of a list.

    An item whose counterpart is certain, or certainly absent, is returned at once. An item whose counterpart
    is found by the end of its path waits until `end`, because a later item may match the same path. At most
    one item waits per listed path, so memory is bounded by the list, not by the manifest.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        self._listed: dict[str, None] = dict.fromkeys(listed)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._listed:
            self._by_name[_last(path)].append(path)
        self._names: Counter[str] = Counter()  # file name of the list → how often the manifest has it
        self._taken: set[str] = set()  # listed paths that an equal path or two items match
        self._waiting: dict[str, tuple[str, T]] = {}  # listed path → the item that matches it
        self.paired = 0
        self.unpaired = 0
        self.refused = 0
        self.reasons: list[str] = []

    def add(self, path: str, item: T) -> list[Pair[T]]:
        """Add `item`, and return the items that are decided now, each with a listed path or None."""
        name = _last(path)
        if name not in self._by_name:
            self.unpaired += 1
            return [(item, None)]
        self._names[name] += 1
        if path in self._listed:
            self._taken.add(path)
            self.paired += 1
            return [(item, path)]
        candidates = [other for other in self._by_name[name] if _ends_with(path, other)]
        if not candidates:
            self.unpaired += 1
            return [(item, None)]
        if len(candidates) > 1:
            return [self._refuse(path, item, f"matches both {candidates[0]} and {candidates[1]} of the list")]
        (other,) = candidates
        if other in self._waiting:
            rival, waiting = self._waiting.pop(other)
            self._taken.add(other)
            why = f"{rival} and {path} both match {other} of the list"
            return [self._refuse(rival, waiting, why), self._refuse(path, item, why)]
        if other in self._taken:
            return [self._refuse(path, item, f"{other} of the list also matches another file")]
        self._waiting[other] = path, item
        return []

    def end(self) -> list[Pair[T]]:
        """Return the items that have waited, now that no other item can match their counterparts."""
        decided: list[Pair[T]] = []
        for other, (path, item) in self._waiting.items():
            name = _last(path)
            bare = "/" not in path or "/" not in other
            repeated = self._names[name] > 1 or len(self._by_name[name]) > 1
            if other in self._taken or (bare and repeated):
                decided.append(self._refuse(path, item, f"several files are named {name}"))
            else:
                self.paired += 1
                decided.append((item, other))
        self._waiting.clear()
        return decided

    def _refuse(self, path: str, item: T, why: str) -> Pair[T]:
        self.refused += 1
        if len(self.reasons) < _EXAMPLES and why not in self.reasons:
            self.reasons.append(f"{path}: {why}" if path not in why else why)
        return item, None


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _ends_with(path: str, other: str) -> bool:
    """Return whether one of two paths is the end of the other, in complete path components."""
    longer, shorter = (path, other) if len(path) > len(other) else (other, path)
    return longer == shorter or longer.endswith("/" + shorter)


@dataclass(frozen=True, slots=True)
class Rival:
    """A file of the manifest that is not selected: it is not fetched, but its name makes others ambiguous."""

    path: str


class FileList(Protocol):
    """A list of files to join rows with.

    Attributes:
        name: the list's name for messages.
        passed_over: digests of the list that are not checked, because a stronger one of the file is.
    """

    name: str
    passed_over: int

    @property
    def alone(self) -> bool:
        """Whether the list has no names, and describes the only file of the manifest."""
        ...

    def paths(self) -> Iterable[str]:
        """Return the path of every listed file. May block; called once."""
        ...

    def combine(self, entry: Entry, path: str) -> Row:
        """Combine `entry` with the list's values for `path`.

        Args:
            entry: the row of the manifest.
            path: its counterpart among `paths()`.

        Returns:
            The completed entry, or a ManifestError if the two contradict each other.
        """
        ...


class RowJoin:
    """Joins the rows of one run with one list.

    Args:
        source: the list.
        strict: raise ManifestError at the first ambiguous name, instead of leaving its row unjoined.
    """

    def __init__(self, source: FileList, *, strict: bool = False) -> None:
        self._source, self._strict = source, strict
        self._join: NameJoin[Entry | Rival] | None = None
        self._wanted = self._covered = 0  # files to fetch, and how many of them are listed

    def over(self, rows: Iterable[Row | Rival]) -> Iterator[Row | Rival]:
        """Yield `rows`, joined; rows that have to wait come last.

        Raises:
            ManifestError: as `add` and `end`.
        """
        for row in rows:
            yield from self.add(row)
        yield from self.end()

    def read(self) -> None:
        """Read the list, unless that was done or it has no names. Blocks; raises what the list raises."""
        if self._join is None and not self._source.alone:
            self._join = NameJoin(self._source.paths())

    def add(self, row: Row | Rival) -> list[Row | Rival]:
        """Add `row`, and return the rows that are decided now, joined.

        Raises:
            ManifestError: a name is ambiguous, and the join is strict; or the list has no names, and this is
                the second file.
        """
        if not isinstance(row, (Entry, Rival)):
            return [row]
        if self._source.alone and isinstance(row, Entry):
            return [self._only(row)]
        self.read()
        assert self._join is not None
        return self._combined(self._join.add(row.path, row))

    def end(self) -> list[Row | Rival]:
        """Return the rows that have waited, joined.

        Raises:
            ManifestError: no row of the manifest is listed, so the list verifies nothing; or a name is
                ambiguous, and the join is strict.
        """
        if self._join is None:
            return []
        rows = self._combined(self._join.end())
        if not self._covered and self._wanted:
            why = f" ({'; '.join(self._join.reasons)})" if self._join.reasons else ""
            raise ManifestError(
                f"{self._source.name} lists none of the manifest's files by an unambiguous path{why}; "
                "use the same paths in both, or run without it",
                remedy=Remedy.ABORT,
            )
        return rows

    def _only(self, entry: Entry) -> Row:
        """Return `entry`, the only file of the manifest, joined with a list that has no names."""
        self._wanted += 1
        if self._wanted > 1:
            raise ManifestError(
                f"{self._source.name} states one value without a name, but the manifest has several files; "
                "write the name of the file after the value",
                remedy=Remedy.ABORT,
            )
        self._covered += 1
        return self._source.combine(entry, "")

    def _combined(self, pairs: list[Pair[Entry | Rival]]) -> list[Row | Rival]:
        if self._strict and self._join is not None and self._join.reasons:
            raise ManifestError(
                f"{self._source.name}: {self._join.reasons[0]}; use the same paths in both",
                remedy=Remedy.ABORT,
            )
        combined: list[Row | Rival] = []
        for row, path in pairs:
            if isinstance(row, Rival):
                combined.append(row)
                continue
            self._wanted += 1
            self._covered += path is not None
            combined.append(row if path is None else self._source.combine(row, path))
        return combined

    def notes(self) -> list[str]:
        """Return notes for the user, one sentence each, about rows that the list does not cover."""
        join, said = self._join, list[str]()
        if over := self._source.passed_over:
            are = "is" if over == 1 else "are"
            said.append(
                f"{self._source.name}: {over:,} of its digests {are} not checked, because the manifest or "
                "another list has stronger ones of these files"
            )
        if join is None or self._covered == self._wanted:
            return said
        covers = f"{self._source.name} covers {self._covered} of {self._wanted} files"
        said.append(f"{covers}; the others are fetched without it")
        if join.refused:
            said.append(
                f"{join.refused} files have ambiguous names in that list and were not joined: "
                f"{'; '.join(join.reasons)}"
            )
        return said
