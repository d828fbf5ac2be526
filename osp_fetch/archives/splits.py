"""Finds the archives among a list of paths, including byte splits and split zips, in numeric order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_ARCHIVE: Final = r"\.(?:tar(?:\.(?:gz|bz2|xz))?|tgz|tbz2|txz|zip)"
_WHOLE: Final = re.compile(rf"(?P<stem>.+?){_ARCHIVE}", re.IGNORECASE)
# .partN .part_N .part-N · .NN .NNN · .aa  (docs/sources.md, "The six datasets")
_PIECE: Final = re.compile(
    rf"(?P<base>.+?{_ARCHIVE})\.(?:part[-_]?(?P<part>\d+|[a-z]{{2}})|(?P<number>\d{{2,}})|(?P<letters>[a-z]{{2}}))",
    re.IGNORECASE,
)
_ZIP_PIECE: Final = re.compile(r"(?P<stem>.+)\.z(?P<number>\d{2,})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive, which may consist of several files.

    Attributes:
        name: the archive's path without split suffixes.
        pieces: the paths of its files, in order.
        disks: True for a split zip, whose end records refer to its pieces as disks (APPNOTE 4.3).
        problem: a message why it cannot be read, such as missing pieces; empty if it is complete.
    """

    name: str
    pieces: tuple[str, ...]
    disks: bool = False
    problem: str = ""

    @property
    def stem(self) -> str:
        """The name without the archive's suffix, such as `.tar.gz`."""
        match = _WHOLE.fullmatch(self.name)
        return match["stem"] if match else self.name


def is_piece(path: str) -> bool:
    """Return whether `path` is the name of an archive or of a piece of one."""
    return any(pattern.fullmatch(path) for pattern in (_WHOLE, _PIECE, _ZIP_PIECE))


def archives(paths: Iterable[str]) -> list[Archive]:
    """Return the archives that `paths` form, sorted by name; ignore other files.

    If a joined archive and its pieces are both present, the joined one is used.
    """
    whole: set[str] = set()
    pieces: defaultdict[str, dict[int, str]] = defaultdict(dict)
    disks: defaultdict[str, dict[int, str]] = defaultdict(dict)
    twice: dict[str, str] = {}  # archive → why its pieces contradict each other
    for path in paths:
        if match := _ZIP_PIECE.fullmatch(path):
            disks[match["stem"] + ".zip"][int(match["number"])] = path
        elif _WHOLE.fullmatch(path):
            whole.add(path)
        elif match := _PIECE.fullmatch(path):
            base = match["base"]
            other = pieces[base].setdefault(_number(match), path)
            if other != path:
                twice[base] = f"{min(other, path)} and {max(other, path)} are the same piece; remove one"
    found = [Archive(path, (path,)) for path in whole if path not in disks]
    # if the user has joined the pieces by hand, unpack the result, not the pieces
    found += [_joined(base, n, twice.get(base, "")) for base, n in pieces.items() if base not in whole]
    found += [_split_zip(name, numbered, name in whole) for name, numbered in disks.items()]
    return sorted(found, key=lambda archive: archive.name)


def base_of(path: str) -> str:
    """Return the name of the archive that `path` is a piece of, or `path` if it is not a piece."""
    if match := _ZIP_PIECE.fullmatch(path):
        return match["stem"] + ".zip"
    match = None if _WHOLE.fullmatch(path) else _PIECE.fullmatch(path)
    return match["base"] if match else path


def _number(match: re.Match[str]) -> int:
    text = (match["part"] or match["number"] or match["letters"]).lower()
    if text.isdigit():
        return int(text)
    return (ord(text[0]) - ord("a")) * 26 + ord(text[1]) - ord("a")


def _joined(base: str, numbered: dict[int, str], problem: str) -> Archive:
    order = sorted(numbered)
    first = order[0] if order[0] in (0, 1) else 0
    gaps = sorted(set(range(first, order[-1] + 1)) - set(order))
    if gaps:
        problem = f"piece {', '.join(map(str, gaps[:5]))} of {base} is missing"
    return Archive(base, tuple(numbered[n] for n in order), problem=problem)


def _split_zip(name: str, numbered: dict[int, str], ended: bool) -> Archive:
    gaps = sorted(set(range(1, max(numbered) + 1)) - set(numbered))
    problem = f"piece {', '.join(map(str, gaps[:5]))} of {name} is missing" if gaps else ""
    if not ended:
        problem = f"{name} itself, the last piece of the split zip, is missing"
    pieces = (*(numbered[n] for n in sorted(numbered)), name)
    return Archive(name, pieces, disks=True, problem=problem)
