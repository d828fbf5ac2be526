"""Selects the rows of a manifest: by globs, one row per path, one shard of several."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from ..model.dataclasses import dataclass
from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.protocols import Row
from .join import Rival

if TYPE_CHECKING:
    import numpy

    Hashes = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]

_SET_LIMIT: Final = 1 << 17  # hashes in the set; a Python set takes ten times the memory of an array
_LONGEST_RUN: Final = 1 << 21  # hashes in an array that is still merged; a merge doubles its memory


def matches(path: str, pattern: str) -> bool:
    """Return whether the glob `pattern` matches `path`.

    `*` also matches `/`. A pattern without `/` is compared with the file name in any folder. A folder's name
    matches every path below it.
    """
    if fnmatchcase(path, pattern) or path.startswith(pattern.rstrip("/") + "/"):
        return True
    return "/" not in pattern and fnmatchcase(path.rsplit("/", 1)[-1], pattern)


@dataclass(frozen=True, slots=True)
class Selection:
    """The globs of wanted paths (`include`; empty: all), and of paths to leave out (`exclude`)."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def wants(self, path: str) -> bool:
        """Return whether the globs select `path`."""
        if self.include and not any(matches(path, glob) for glob in self.include):
            return False
        return not (self.exclude and any(matches(path, glob) for glob in self.exclude))


class Seen:
    """A set of paths, or of other values, that takes 8 bytes for each: 80 MB for ten million.

    It stores 64-bit hashes. Among ten million values the probability of a collision is 3 in a million.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[Hashes] = []

    def repeats(self, values: Sequence[Hashable]) -> list[bool]:
        """Add `values`, and return for each whether it was present before."""
        hashes = [hash(value) for value in values]
        old = self._in_runs(hashes)
        answer = []
        for value, known in zip(hashes, old, strict=True):
            answer.append(known or value in self._recent)
            self._recent.add(value)
        if len(self._recent) > _SET_LIMIT:
            self._pack()
        return answer

    def knows(self, paths: Sequence[str]) -> list[bool]:
        """Return for each of `paths` whether it is present, without adding it."""
        hashes = [hash(path) for path in paths]
        old = self._in_runs(hashes)
        return [known or value in self._recent for value, known in zip(hashes, old, strict=True)]

    def _in_runs(self, hashes: list[int]) -> list[bool]:
        if not self._runs:
            return [False] * len(hashes)
        import numpy

        values = numpy.array(hashes, dtype=numpy.int64)
        found = numpy.zeros(len(values), dtype=bool)
        for run in self._runs:
            places = numpy.minimum(numpy.searchsorted(run, values), len(run) - 1)
            found |= run[places] == values
        return [bool(each) for each in found]

    def _pack(self) -> None:
        """Move the set into a sorted array, and merge arrays of similar length to keep their number low."""
        import numpy

        run = numpy.fromiter(self._recent, dtype=numpy.int64, count=len(self._recent))
        run.sort()
        self._recent = set()
        while self._runs and len(self._runs[-1]) <= len(run) < _LONGEST_RUN:
            run = numpy.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)


class Distinct:
    """Leaves out rows that repeat an earlier one, and refuses rows whose path an earlier one has.

    Args:
        note: receives a sentence for the user once a row is repeated.

    Attributes:
        repeated: rows that were left out.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._paths, self._rows = Seen(), Seen()
        self._note = note
        self.repeated = 0
        self._first = ""

    def rows(self, where: str, block: Sequence[tuple[int, Row | Rival]]) -> list[Row | Rival]:
        """Return the rows of `block` that are not repeated.

        Args:
            where: the manifest's name.
            block: pairs of a line and a row.
        """
        entries = [(line, row) for line, row in block if isinstance(row, Entry)]
        taken = self._paths.repeats([row.path for _, row in entries])
        same = self._rows.repeats([(r.path, _sent(r.urls), r.size, r.digest, r.headers) for _, r in entries])
        if len(entries) == len(block) and not any(taken):
            return [row for _, row in entries]
        judged = {id(row): (path, row_) for (_, row), path, row_ in zip(entries, taken, same, strict=True)}
        kept: list[Row | Rival] = []
        for line, row in block:
            path_taken, repeated = judged.get(id(row), (False, False))
            if repeated:
                self.repeated += 1
                self._first = self._first or f"{where}:{line}"
            elif path_taken:
                assert isinstance(row, Entry)
                said = f"{row.path} is listed twice, with other links, headers, size or digest"
                kept.append(ManifestError(f"{where}:{line}: {said}; rename or remove this row"))
            else:
                kept.append(row)
        return kept

    def end(self) -> None:
        """Tell the user how many rows were repeated."""
        if self.repeated == 1:
            self._note(f"1 row repeats an earlier one and is left out: {self._first}")
        elif self.repeated:
            self._note(
                f"{self.repeated} rows repeat an earlier one and are left out; the first is {self._first}"
            )


def _sent(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Return `urls` as they are requested: without fragments."""
    return urls if "#" not in urls[0] else tuple(url.partition("#")[0] for url in urls)


def distinct(
    blocks: Iterator[tuple[str, list[tuple[int, Row | Rival]]]], note: Callable[[str], None]
) -> Iterator[list[Row | Rival]]:
    """Apply `Distinct` to all blocks of a manifest.

    Args:
        blocks: pairs of a manifest's name and a block of (line, row).
        note: receives a sentence for the user once a row is repeated.

    Returns:
        The rows, block by block.
    """
    kept = Distinct(note)
    for where, block in blocks:
        yield kept.rows(where, block)
    kept.end()


def shard(rows: Iterable[Row], index: int, total: int) -> Iterator[Row]:
    """Yield the rows of one shard; each row goes to the shard with the fewest bytes.

    Every shard reads the same rows in the same order, so all compute the same split. A row without a size
    counts as the mean of the sizes seen, so a manifest without sizes is split by count. Shard 0 reports bad
    rows.

    Args:
        rows: all rows of the manifest.
        index: the shard, from 0.
        total: the number of shards.
    """
    loads = [(0.0, n) for n in range(total)]
    known, sized = 0, 0
    for row in rows:
        if not isinstance(row, Entry):
            if index == 0:
                yield row
            continue
        if row.size is not None:
            known, sized = known + row.size, sized + 1
        weight = row.size if row.size is not None else (known / sized if known else 1)
        load, lightest = loads[0]
        heapq.heapreplace(loads, (load + max(weight, 1), lightest))
        if lightest == index:
            yield row
