"""Recognises the dialect of a table by its first lines: the separator, and whether fields are quoted."""

from __future__ import annotations

import csv
import re
from typing import Final, Literal

from ..model.dataclasses import dataclass
from .columns import is_link_name

SEPARATORS: Final = ("\t", ",", ";", "|")
_BY_SUFFIX: Final = {".tsv": "\t", ".tab": "\t", ".csv": ",", ".psv": "|"}
_NO_SEPARATOR: Final = "\x1f"  # the ASCII unit separator, for a table of one column
_LINES: Final = 200  # lines by which a dialect is recognised
_CONSISTENT: Final = 0.7  # share of rows that must have as many fields as the first one
_LINK: Final = re.compile(r"https?://[^\s\"<>]+", re.IGNORECASE)
_FILE_LINK: Final = re.compile(r"[^?]*/[^/?]+\.[A-Za-z0-9]{1,8}", re.IGNORECASE)


SEPARATOR_LINE: Final = re.compile(r'\ufeff?"?sep=([^\s"])"?\s*', re.IGNORECASE)
"""A first line that states the separator to Excel."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a line is split into fields.

    Attributes:
        separator: one character.
        quoted: whether a field that contains the separator is enclosed in double quotes.
    """

    separator: str
    quoted: bool

    @property
    def quoting(self) -> Literal[0, 3]:
        """The constant of the csv module."""
        return csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE


def detect(head: str, suffix: str) -> Dialect | None:
    """Return the dialect of a table, or None if the text is no table.

    Args:
        head: the first characters of the text; the last line may be cut.
        suffix: the suffix of the file's name, such as `.csv`; the content decides where it contradicts.
    """
    lines = _complete_lines(head)
    if lines and (stated := SEPARATOR_LINE.fullmatch(lines[0])):
        return Dialect(stated[1], _has_quotes(lines[1:], stated[1]))
    if not lines:
        return Dialect(_BY_SUFFIX[suffix], suffix != ".tsv") if suffix in _BY_SUFFIX else None
    best: tuple[float, Dialect] | None = None
    for separator in SEPARATORS:
        dialect = Dialect(separator, _has_quotes(lines, separator))
        quality = _quality(lines, dialect, suffix)
        if quality and (best is None or quality > best[0]):
            best = quality, dialect
    if best is not None:
        return best[1]
    if _is_one_column(lines):
        return Dialect(_NO_SEPARATOR, quoted=True)
    if suffix in _BY_SUFFIX and not _LINK.match(lines[0].strip('"')):
        return Dialect(_BY_SUFFIX[suffix], _has_quotes(lines, _BY_SUFFIX[suffix]))
    return None


def _complete_lines(head: str) -> list[str]:
    """Return the first lines that are complete, without blank lines and comments before the header."""
    lines = head.splitlines(keepends=True)
    if len(lines) > 1 and not head.endswith(("\n", "\r")):
        lines.pop()
    return [line for line in lines[:_LINES] if line.strip() and not line.startswith("#")]


def _has_quotes(lines: list[str], separator: str) -> bool:
    """Return whether fields are quoted: some field begins and ends with a quote, and none only begins so.

    Tables of captions with tabs often have stray quotes, which are part of the caption.
    """
    if separator != "\t" or _is_proper(lines, separator):
        return True
    edge = re.escape(separator)
    closed = re.compile(rf'(?:^|{edge})"(?:[^"]|"")*"(?={edge}|\s*$)')
    opened = re.compile(rf'(?:^|{edge})"')
    found = [(len(closed.findall(line)), len(opened.findall(line))) for line in lines]
    return any(whole for whole, _ in found) and all(whole == begun for whole, begun in found)


def _is_proper(lines: list[str], separator: str) -> bool:
    """Return whether a writer has quoted fields: they are closed where fields end, perhaps lines later."""
    if not any(line.startswith('"') or f'{separator}"' in line for line in lines):
        return False
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error as error:
        if "end of data" not in str(error):
            return False  # the last field may go on after these lines
    return len(rows) > 1 and all(len(row) == len(rows[0]) > 1 for row in rows)


def _quality(lines: list[str], dialect: Dialect, suffix: str) -> float:
    """Return how well a dialect fits, 0 if the lines are no table in it."""
    rows = [
        row
        for row in csv.reader(
            lines, delimiter=dialect.separator, quoting=dialect.quoting, skipinitialspace=True
        )
        if any(row)
    ]
    width = len(rows[0])
    if width < 2:
        return 0.0
    consistent = sum(len(row) == width for row in rows) / len(rows)
    if consistent < _CONSISTENT:
        return 0.0
    header = not any(_LINK.match(cell.strip()) for cell in rows[0])
    body = rows[1:] if header else rows
    shares = [_share(body, place) for place in range(width)]
    named = header and any(is_link_name(cell) for cell in rows[0])
    if not named and max(shares) < 0.5:
        return 0.0
    if not header and not _are_columns(rows, shares.index(max(shares)), dialect.separator, suffix):
        return 0.0
    return max(shares) + consistent + named + width / 1000


def _share(rows: list[list[str]], place: int) -> float:
    cells = [row[place].strip() for row in rows if len(row) > place]
    return sum(_LINK.fullmatch(cell) is not None for cell in cells) / max(len(rows), 1)


def _are_columns(rows: list[list[str]], link: int, separator: str, suffix: str) -> bool:
    """Return whether lines without a header are rows of a table, and not links that contain the separator."""
    if link or separator == "\t" or suffix in _BY_SUFFIX:
        return True
    if any("?" in row[0] for row in rows):
        return False  # the separator belongs to the query
    others = [cell for row in rows for cell in row[1:]]
    if sum(" " in cell for cell in others) * 2 >= len(rows):
        return True  # captions
    ends = all(_FILE_LINK.fullmatch(row[0].strip()) for row in rows)
    return ends and len(rows) > 1 and not any(cell.startswith("/") for cell in others)


def _is_one_column(lines: list[str]) -> bool:
    """Return whether the text is a table of one column: a name that means links, and links."""
    first = lines[0].strip().strip('"')
    return is_link_name(first) and all(_LINK.match(line.strip().strip('"')) for line in lines[1:])
