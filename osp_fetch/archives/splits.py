"""Finds the archives among a list of paths, including byte splits and split zips, in numeric order."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from ..model.dataclasses import dataclass

_ARCHIVE: Final = r"\.(?:tar(?:\.(?:gz|bz2|xz|zst))?|tgz|tbz2|txz|tzst|zip)"
_WHOLE: Final = re.compile(rf"(?P<stem>.+?){_ARCHIVE}", re.IGNORECASE)
# .partN .part_N .part-N .part.N · .NN .NNN · .aa .aaa  (docs/sources.md, "The six datasets"); and without a
# dot, as `split` names its files: x.taraa, but not words such as x.target or x.zipper
_PIECE: Final = re.compile(
    rf"(?P<base>.+?{_ARCHIVE})(?:\.part[-_.]?(?P<part>\d+|[a-z]{{2,3}})|\.(?P<number>\d{{2,}})"
    r"|\.(?P<letters>[a-z]{2,3})|(?P<bare>[a-h][a-z]|a[a-z]{2}))",
    re.IGNORECASE,
)
# Letters are a suffix of another kind, such as .lz or .md, if they are this far behind the number of pieces.
_BEHIND: Final = 25
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
    lettered: Counter[str] = Counter()  # archive → pieces whose number is letters alone
    bare: defaultdict[str, set[str]] = defaultdict(set)  # archive → those of them without a dot
    for path in paths:
        if match := _ZIP_PIECE.fullmatch(path):
            disks[match["stem"] + ".zip"][int(match["number"])] = path
        elif _WHOLE.fullmatch(path):
            whole.add(path)
        elif match := _PIECE.fullmatch(path):
            base = match["base"]
            lettered[base] += bool(match["letters"] or match["bare"])
            if match["bare"]:
                bare[base].add(path)
            other = pieces[base].setdefault(_number(match), path)
            if other != path:
                twice[base] = f"{min(other, path)} and {max(other, path)} are the same piece; remove one"
    for base, without_dot in bare.items():
        if pieces[base].get(0) not in without_dot:  # names of another kind, such as x.taras
            pieces[base] = {n: path for n, path in pieces[base].items() if path not in without_dot}
            lettered[base] -= len(without_dot)
    for base, count in lettered.items():
        pieces[base] = {n: path for n, path in pieces[base].items() if _is_near(n, count, path)}
    found = [Archive(path, (path,)) for path in whole if path not in disks]
    # if the user has joined the pieces by hand, unpack the result, not the pieces
    found += [_joined(base, n, twice.get(base, "")) for base, n in pieces.items() if n and base not in whole]
    found += [_split_zip(name, numbered, name in whole) for name, numbered in disks.items()]
    return sorted(found, key=lambda archive: archive.name)


def _is_lettered(path: str) -> bool:
    match = _PIECE.fullmatch(path)
    return match is not None and not (match["part"] or match["number"] or "").isdigit()


def _is_near(number: int, count: int, path: str) -> bool:
    """Return whether the letters at the end of a name can number one of `count` pieces."""
    match = _PIECE.fullmatch(path)
    letters = match is not None and (match["letters"] or match["bare"])
    return not letters or number <= 2 * count + _BEHIND


def base_of(path: str) -> str:
    """Return the name of the archive that `path` is a piece of, or `path` if it is not a piece."""
    if match := _ZIP_PIECE.fullmatch(path):
        return match["stem"] + ".zip"
    match = None if _WHOLE.fullmatch(path) else _PIECE.fullmatch(path)
    return match["base"] if match else path


def _number(match: re.Match[str]) -> int:
    text = (match["part"] or match["number"] or match["letters"] or match["bare"]).lower()
    if text.isdigit():
        return int(text)
    number = 0
    for letter in text:
        number = number * 26 + ord(letter) - ord("a")
    return number


def _joined(base: str, numbered: dict[int, str], problem: str) -> Archive:
    order = sorted(numbered)
    begins = (0,) if _is_lettered(numbered[order[0]]) else (0, 1)  # letters begin with a
    first = order[0] if order[0] in begins else 0
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
