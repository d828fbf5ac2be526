"""What of a manifest is wanted: globs, one row a path, one shard of several."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.protocols import Row
from .join import Rival

if TYPE_CHECKING:
    import numpy

    Hashes = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]

_SET_LIMIT: Final = 1 << 17  # past so many paths a Python set costs ten times what an array does
_LONGEST_RUN: Final = 1 << 21  # merging longer ones would need their memory twice


def matches(path: str, pattern: str) -> bool:
    """Whether a glob names `path`: `*` also crosses folders, a pattern without `/` meets the last
    name in any folder, and a folder's name means all that lies in it."""
    if fnmatchcase(path, pattern) or path.startswith(pattern.rstrip("/") + "/"):
        return True
    return "/" not in pattern and fnmatchcase(path.rsplit("/", 1)[-1], pattern)


@dataclass(frozen=True, slots=True)
class Selection:
    """Globs: what is wanted (everything where empty), and what of it is not."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def wants(self, path: str) -> bool:
        if self.include and not any(matches(path, glob) for glob in self.include):
            return False
        return not (self.exclude and any(matches(path, glob) for glob in self.exclude))


class Seen:
    """Which paths came before, in 8 bytes each: ten million of them in 80 MB.

    Hashes of 64 bits: among ten million paths two collide with a probability of 3 in a million.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[Hashes] = []

    def repeats(self, paths: Sequence[str]) -> list[bool]:
        """Add `paths`; for each whether it was there before."""
        hashes = [hash(path) for path in paths]
        old = self._in_runs(hashes)
        answer = []
        for value, known in zip(hashes, old, strict=True):
            answer.append(known or value in self._recent)
            self._recent.add(value)
        if len(self._recent) > _SET_LIMIT:
            self._pack()
        return answer

    def knows(self, paths: Sequence[str]) -> list[bool]:
        """For each of `paths` whether it was there before; adds nothing."""
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
        """Move the set into sorted arrays, of which few are kept by merging those of like length."""
        import numpy

        run = numpy.fromiter(self._recent, dtype=numpy.int64, count=len(self._recent))
        run.sort()
        self._recent = set()
        while self._runs and len(self._runs[-1]) <= len(run) < _LONGEST_RUN:
            run = numpy.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)


def distinct(
    blocks: Iterator[tuple[str, list[tuple[int, Row | Rival]]]],
) -> Iterator[list[Row | Rival]]:
    """The rows of `(name of the manifest, block)` pairs, with an error in place of each row whose
    path an earlier row had."""
    seen = Seen()
    for where, block in blocks:
        lines = [line for line, _ in block]
        rows = [row for _, row in block]
        entries = [(i, row.path) for i, row in enumerate(rows) if isinstance(row, Entry)]
        for (index, path), repeated in zip(entries, seen.repeats([p for _, p in entries]), strict=True):
            if repeated:
                rows[index] = ManifestError(
                    f"{where}:{lines[index]}: {path} is named twice; rename or remove this row"
                )
        yield rows


def shard(rows: Iterable[Row], index: int, total: int) -> Iterator[Row]:
    """The rows of shard `index` (from 0) of `total`: each row goes to the shard with the fewest bytes.

    Every shard reads the same rows in the same order and so comes to the same split. A row without a
    size counts as the mean of those seen, so that a manifest without sizes is split by count. Bad
    rows are shard 0's to report.
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
