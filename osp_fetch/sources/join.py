"""Joins the rows of a manifest with a list of files from elsewhere: a checksum list, a second source, a
mirror.

A wrong join puts the bytes of one file under the name of another, or refuses a right file. So a row is joined
only if its counterpart is certain:

- the same path, or
- one path is the end of the other (`000.tar`, `train/000.tar`, `data/train/000.tar`), there is one such
  candidate on both sides, and, where the shorter path is a bare name, no other file on either side has that
  name.

Everything else is left unjoined and counted, with examples, for the user to read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from ..model.entry import Entry
from ..model.errors import ManifestError, Remedy
from ..model.protocols import Row

_EXAMPLES: Final = 3  # refused joins that are quoted in full
T = TypeVar("T")
Pair = tuple[T, str | None]


class NameJoin(Generic[T]):
    """Pairs items, each with a path, with the paths of a list.

    Items whose counterpart is certain, or certainly absent, are paired at once. An item that has a
    counterpart by its last names waits until `end`, because a later one may claim the same. At most one item
    waits for each listed path, so memory is bounded by the list, not by the manifest.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        self._listed: dict[str, None] = dict.fromkeys(listed)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._listed:
            self._by_name[_last(path)].append(path)
        self._names: Counter[str] = Counter()  # how often the manifest has each last name of the list
        self._taken: set[str] = set()  # listed paths that an equal path has, or that two items claim
        self._waiting: dict[str, tuple[str, T]] = {}  # listed path → the item that claims it
        self.paired = 0
        self.unpaired = 0
        self.refused = 0
        self.reasons: list[str] = []

    def add(self, path: str, item: T) -> list[Pair[T]]:
        """Return the items whose counterpart is decided by now, each with a listed path or None."""
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
            return [self._refuse(path, item, f"could be {candidates[0]} or {candidates[1]} of the list")]
        (other,) = candidates
        if other in self._waiting:
            rival, waiting = self._waiting.pop(other)
            self._taken.add(other)
            why = f"{rival} and {path} could both be {other} of the list"
            return [self._refuse(rival, waiting, why), self._refuse(path, item, why)]
        if other in self._taken:
            return [self._refuse(path, item, f"{other} of the list belongs to another file, too")]
        self._waiting[other] = path, item
        return []

    def end(self) -> list[Pair[T]]:
        """Return the items that have waited, now that no other can claim their counterparts."""
        decided: list[Pair[T]] = []
        for other, (path, item) in self._waiting.items():
            name = _last(path)
            bare = "/" not in path or "/" not in other
            repeated = self._names[name] > 1 or len(self._by_name[name]) > 1
            if other in self._taken or (bare and repeated):
                decided.append(self._refuse(path, item, f"several files are called {name}"))
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
    """Return whether one of two paths is the end of the other, at a border of names."""
    longer, shorter = (path, other) if len(path) > len(other) else (other, path)
    return longer == shorter or longer.endswith("/" + shorter)


@dataclass(frozen=True, slots=True)
class Rival:
    """A file of the manifest that is not wanted: not joined, but its name is taken."""

    path: str


class FileList(Protocol):
    """A list of files that rows are joined with. `name`: what the user calls it, for messages."""

    name: str

    def paths(self) -> Iterable[str]:
        """Return the path of every listed file. May block; called once."""
        ...

    def combine(self, entry: Entry, path: str) -> Row:
        """Return `entry` with what the list says of `path`, or the error where the two contradict."""
        ...


class RowJoin:
    """Joins the rows of one run with one list.

    Raises ManifestError at the end if no row of the manifest is listed: then the list verifies nothing. With
    `strict` it also raises at the first ambiguous name.
    """

    def __init__(self, source: FileList, *, strict: bool = False) -> None:
        self._source, self._strict = source, strict
        self._join: NameJoin[Entry | Rival] | None = None
        self._wanted = self._covered = 0  # files that are to be fetched, and those of them that are listed

    def over(self, rows: Iterable[Row | Rival]) -> Iterator[Row | Rival]:
        """Yield `rows`, joined; rows that have to wait come last."""
        for row in rows:
            yield from self.add(row)
        yield from self.end()

    def add(self, row: Row | Rival) -> list[Row | Rival]:
        """Return the rows that are decided by now, joined."""
        if not isinstance(row, (Entry, Rival)):
            return [row]
        if self._join is None:
            self._join = NameJoin(self._source.paths())
        return self._combined(self._join.add(row.path, row))

    def end(self) -> list[Row | Rival]:
        """Return the rows that have waited. Raises ManifestError if nothing was joined."""
        if self._join is None:
            return []
        rows = self._combined(self._join.end())
        if not self._covered and self._wanted:
            why = f" ({'; '.join(self._join.reasons)})" if self._join.reasons else ""
            raise ManifestError(
                f"{self._source.name} lists none of the manifest's files by a path that is certain{why}; "
                "give "
                "it the same paths, or run without it",
                remedy=Remedy.ABORT,
            )
        return rows

    def _combined(self, pairs: list[Pair[Entry | Rival]]) -> list[Row | Rival]:
        if self._strict and self._join is not None and self._join.reasons:
            raise ManifestError(
                f"{self._source.name}: {self._join.reasons[0]}; give both the same paths", remedy=Remedy.ABORT
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
        """Return what a user has to know of the join, a sentence each: rows that it does not cover."""
        join = self._join
        if join is None or self._covered == self._wanted:
            return []
        covers = f"{self._source.name} covers {self._covered} of {self._wanted} files"
        said = [f"{covers}; the others are fetched without it"]
        if join.refused:
            said.append(
                f"{join.refused} files have an ambiguous name there and were not joined: "
                f"{'; '.join(join.reasons)}"
            )
        return said
