"""Measures how many of the files that the captions name are on the disk.

Caption files are streamed, because they reach 7 GB. The path scheme in the captions of SAM, AnyText and Human
is not documented (docs/sources.md, "The six datasets"): it is inferred from the first captions that match a
file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from ..model.dataclasses import dataclass
from ..model.entry import relative_path
from ..model.errors import ManifestError, Remedy
from ..model.report import JSON_VERSION
from ..model.text import printable
from ..sources.select import Seen
from .catalogue import CAPTION_FOLDER, DATASETS, Captions, Dataset

_PROBED: Final = 2000  # pairs from which the path scheme is inferred
_DEEPEST: Final = 6  # schemes drop fewer leading folders than this
_BLOCK: Final = 4096  # paths per lookup


@dataclass(slots=True)
class Coverage:
    """The coverage of one caption file by the files of one folder.

    Attributes:
        dataset: the dataset's name.
        captions: the caption file's name.
        folder: the media folder, relative to the output folder.
        documented: the number of pairs that the guide states.
        scheme: how a caption's path was mapped to a file's, in words.
        pairs: pairs in the caption file.
        found: pairs whose file exists.
        missing: pairs whose file does not exist, also where only another pair's file has its name.
        without_path: items without a path.
        refused: missing pairs whose path is not valid: it leaves the folder, contains control characters, or
            is longer than file systems allow.
        files: files in the folder.
        unnamed: files in the folder that no caption names.
        examples: up to three paths of missing pairs.
    """

    dataset: str
    captions: str
    folder: str
    documented: int
    scheme: str = ""
    pairs: int = 0
    found: int = 0
    missing: int = 0
    without_path: int = 0
    refused: int = 0
    files: int = 0
    unnamed: int = 0
    examples: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return the coverage as plain values, for `--json`."""
        return {"version": JSON_VERSION, **{name: getattr(self, name) for name in self.__slots__}}


@dataclass(frozen=True, slots=True)
class Scheme:
    """A mapping from a caption's path to a file's.

    Attributes:
        drop: the number of leading folders to remove.
        name: whether to keep only the file name.
        prefix: prepended to the result.
    """

    drop: int = 0
    name: bool = False
    prefix: str = ""

    def of(self, path: str) -> str:
        """Return the file's path below the media folder for a caption's path."""
        path = path.lstrip("/").removeprefix("./")
        kept = path.rsplit("/", 1)[-1] if self.name else path
        if self.drop and not self.name:
            kept = "/".join(path.split("/")[self.drop :])
        return self.prefix + kept

    @property
    def is_exact(self) -> bool:
        """Whether a path is kept as it is, so that training finds its file below `prefix`."""
        return not self.drop and not self.name

    def __str__(self) -> str:
        said = (
            "file name only"
            if self.name
            else f"without {self.drop} leading folder(s)"
            if self.drop
            else "path as given"
        )
        return said + (f", in {self.prefix}" if self.prefix else "")


def cover(root: Path, missing: TextIO | None = None) -> Iterator[Coverage]:
    """Yield the coverage of each caption file in `root`.

    Args:
        root: the output folder.
        missing: receives the paths of missing files, one per line.

    Raises:
        ManifestError: a caption file is damaged or not a JSON list.
    """
    for dataset in DATASETS:
        folder = root / "datasets" / dataset.media
        seen = Seen()
        covered = []
        for captions in dataset.captions:
            names = (captions.file, captions.alias)
            place = next((p for n in names if n and (p := root / CAPTION_FOLDER / n).is_file()), None)
            if place is not None:
                covered.append(_cover(place, folder, dataset, captions, seen, missing))
        for each, unnamed in zip(covered, _unnamed(folder, seen, covered), strict=True):
            each.files, each.unnamed = unnamed
            yield each


def _cover(
    place: Path, folder: Path, dataset: Dataset, captions: Captions, seen: Seen, missing: TextIO | None
) -> Coverage:
    made = Coverage(dataset.name, place.name, f"datasets/{dataset.media}", captions.pairs)
    paths = _paths(place, made)
    first = list(islice(paths, _PROBED))
    scheme = _scheme(first, folder)
    made.scheme = str(scheme)
    inside, taken = _Inside(folder), None if scheme.is_exact else _Taken()
    for block in _blocks(first, paths):
        here = []
        for path in block:
            made.pairs += 1
            kept = _checked(scheme.of(path))
            is_other = False
            if kept is None:
                made.refused += 1
            elif inside.has(kept):
                is_other = taken is not None and taken.by_another(path, kept)
                if not is_other:
                    made.found += 1
                    here.append(kept)
                    continue
            made.missing += 1
            if len(made.examples) < 3:
                made.examples.append(printable(path[:200]))
            if missing is not None and kept is not None and not is_other:
                missing.write(f"{made.folder}/{kept}\n")
        seen.repeats(here)
    return made


class _Taken:
    """The files that paths of captions mean, where folders are dropped: two paths cannot mean one file."""

    def __init__(self) -> None:
        self._paths, self._files = Seen(), Seen()

    def by_another(self, path: str, file: str) -> bool:
        """Note that `path` means `file`; return whether another path did before."""
        return self._files.repeats([file]) > self._paths.repeats([path])


def prefix_of(place: Path, folder: Path) -> str:
    """Return the folder below the media folder that the paths of a caption file start from, `""` for none.

    Args:
        place: the caption file.
        folder: the media folder.
    """
    with suppress(ManifestError, OSError):
        made = Coverage("", place.name, "", 0)
        scheme = _scheme(list(islice(_paths(place, made), _PROBED)), folder)
        return scheme.prefix if scheme.is_exact else ""
    return ""


class _Inside:
    """Checks whether a path below `folder` is a file, not reached through a symbolic link.

    The folder itself may be a link, for example to another disk.
    """

    def __init__(self, folder: Path) -> None:
        self._base = os.path.join(os.path.realpath(folder), "")
        self._folders: dict[str, bool] = {}  # folder → whether its path contains no link

    def has(self, path: str) -> bool:
        parent = path.rpartition("/")[0]
        real = self._folders.get(parent)
        if real is None:
            if len(self._folders) > 10_000:
                self._folders.clear()
            where = self._base + parent
            real = self._folders[parent] = os.path.realpath(where) == where.rstrip("/")
        place = self._base + path
        return real and os.path.isfile(place) and not os.path.islink(place)  # noqa: PTH113, PTH114


def _checked(path: str) -> str | None:
    """Return `path` if `get` would accept it as the path of a file, else None."""
    try:
        return relative_path(path)
    except ManifestError:
        return None


def _blocks(first: list[str], rest: Iterator[str]) -> Iterator[list[str]]:
    yield first
    while block := list(islice(rest, _BLOCK)):
        yield block


def _paths(place: Path, made: Coverage) -> Iterator[str]:
    """Yield the `path` of each caption, and count items without one; streamed, for files of 7 GB."""
    import ijson

    with place.open("rb") as file:
        try:
            _check_list(place, file)
            for item in ijson.items(file, "item"):
                path = item.get("path") if isinstance(item, dict) else None
                if isinstance(path, str) and path:
                    yield path
                else:
                    made.pairs += 1
                    made.without_path += 1
        except (ijson.JSONError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())[:150]
            raise ManifestError(
                f"{place}: damaged list of captions ({why}); fetch it again", remedy=Remedy.ABORT
            ) from None


def _check_list(place: Path, file: BinaryIO) -> None:
    """Raise ManifestError unless the JSON in `file` is a list; leave the file at its start."""
    start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    if start[:1] != b"[":
        raise ManifestError(
            f"{place}: not a list of captions, which begins with '['; fetch it again", remedy=Remedy.ABORT
        )


def _scheme(paths: list[str], folder: Path) -> Scheme:
    """Return the scheme by which most of `paths` match a file; the simplest one if none does."""
    prefixes = [""]
    if folder.is_dir():
        with os.scandir(folder) as inside:
            prefixes += [f"{e.name}/" for e in islice(inside, 64) if e.is_dir()]
    hits: Counter[Scheme] = Counter()
    candidates = [Scheme(n, False, p) for p in prefixes for n in range(_DEEPEST)]
    candidates += [Scheme(0, True, p) for p in prefixes]
    few = paths[:: max(1, len(paths) // 100)]
    for scheme in candidates:
        hits[scheme] = sum((k := _checked(scheme.of(p))) is not None and (folder / k).is_file() for p in few)
    best = max(hits.values(), default=0)
    return next((scheme for scheme in candidates if hits[scheme] == best), Scheme()) if best else Scheme()


def _unnamed(folder: Path, seen: Seen, covered: list[Coverage]) -> list[tuple[int, int]]:
    """Return for each of `covered` the number of files in the folder, and of those that no caption names."""
    if not covered:
        return []
    files = unnamed = 0
    start = len(str(folder)) + 1
    block: list[str] = []
    for place, _, names in os.walk(folder):
        for name in names:
            files += 1
            block.append(f"{place}/{name}"[start:])
            if len(block) >= _BLOCK:
                unnamed += _not_in(seen, block)
                block = []
    return [(files, unnamed + _not_in(seen, block))] * len(covered)


def _not_in(seen: Seen, paths: list[str]) -> int:
    return sum(not known for known in seen.knows(paths))
