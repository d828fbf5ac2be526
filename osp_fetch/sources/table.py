"""Tables: delimited text, Parquet and DataFrames, read one block of rows at a time.

All values of delimited text stay text: a file named `NA` is no missing value, `0012` is not 12, and the
digest `1e10` is no number.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain, count, islice
from typing import IO, TYPE_CHECKING, Any, Final

from ..model.errors import ManifestError
from .dialect import SEPARATOR_LINE, Dialect
from .extras import need
from .opening import ManifestFile
from .reading import Reading, columned, placed
from .row_parser import Blocks, broken

if TYPE_CHECKING:
    import pandas

_BLOCK: Final = 10_000  # rows per block: enough to make the cost per block negligible
_LONGEST_RECORD: Final = 1000  # lines that one quoted field may span
_LINK: Final = re.compile(r"\s*\"?https?://", re.IGNORECASE)
_CELL: Final = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))  # captions and embedded metadata are long


def delimited(file: ManifestFile, dialect: Dialect, reading: Reading) -> Blocks:
    """Read the rows of delimited text.

    If the first row contains a link, the table has no header, and the columns are found by their values.

    Args:
        file: the text.
        dialect: separator and quoting.
        reading: shared by all readers.

    Raises:
        ManifestError: no column holds links, or the text cannot be decompressed.
    """
    with file.text() as text:
        records = _Records(text, dialect, file.name)
        line, cells = records.first()
        header = not any(_LINK.match(cell) for cell in cells)
        names = [cell.strip() for cell in cells] if header else [""] * len(cells)
        records.width = len(names)
        blocks = records.blocks()
        if not header:  # the first row is data, and belongs to the first block, by which columns are judged
            blocks = chain([[(line, cells), *next(blocks, [])]], blocks)
        yield from columned(reading, names, blocks, file.name)


class _Records:
    """Splits lines into records, so that a stray quote costs its own line and no other.

    Args:
        text: the lines.
        dialect: separator and quoting.
        name: the manifest's name for messages.

    Attributes:
        width: the number of columns, once it is known.
    """

    def __init__(self, text: IO[str], dialect: Dialect, name: str) -> None:
        self._lines: Iterator[str] = iter(text)
        self._dialect, self._name = dialect, name
        self._numbers = count(1)
        self._is_proper: bool | None = None  # whether a writer of CSV has set the quotes of the block
        self.width = 0

    def first(self) -> tuple[int, list[str]]:
        """Return the first record that is neither blank nor a comment, and its line."""
        for line, text in zip(self._numbers, self._lines, strict=False):
            if line == 1 and SEPARATOR_LINE.fullmatch(text):
                continue
            if text.strip() and (not text.startswith("#") or self._is_header(text) or self._has_link(text)):
                cells = self._first_cells(text, line)
                if cells and self._is_header(text):
                    cells[0] = cells[0].lstrip("# ")
                return line, cells
        return 1, []

    def _first_cells(self, text: str, line: int) -> list[str]:
        """Return the fields of the first record, whose quoted fields may span lines."""
        following = list(islice(self._lines, _LONGEST_RECORD))
        for end in range(len(following) + 1):
            if (cells := self._parsed(text + "".join(following[:end]))) is not None:
                break
        else:
            cells, end = text.rstrip("\r\n").split(self._dialect.separator), 0  # a stray quote
        self._lines, self._numbers = chain(following[end:], self._lines), count(line + 1 + end)
        return cells

    def _is_header(self, text: str) -> bool:
        """Return whether a line that begins with `#` names columns."""
        return self._dialect.separator in text and not _LINK.search(text) and "url" in text.lower()

    def _has_link(self, text: str) -> bool:
        """Return whether a line that begins with `#` is a row of its own, whose first cell is a text."""
        cells = self._parsed(text) or []
        return not _is_comment(cells or [text]) and any(_CELL.fullmatch(cell) for cell in cells[1:])

    def blocks(self) -> Iterator[list[tuple[int, Any]]]:
        """Yield blocks of pairs of a line, and the record that begins there or a ManifestError."""
        while lines := list(islice(self._lines, _BLOCK)):
            numbers = list(islice(self._numbers, len(lines)))
            found = list(zip(numbers, self._simple(lines), strict=False)) or self._careful(numbers, lines)
            given = ((line, cells) for line, cells in found if _is_given(cells) and not _is_comment(cells))
            yield [(line, self._checked(line, cells)) for line, cells in given]

    def _simple(self, lines: list[str]) -> list[list[str]]:
        """Return one record per line, or nothing if a record may span lines or has a stray quote."""
        separator = self._dialect.separator
        if not self._dialect.quoted:
            return [line.rstrip("\r\n").split(separator) for line in lines]
        if not any('"' in line for line in lines):
            return [line.rstrip("\r\n").split(separator) for line in lines]
        rows = list(self._reader(lines))
        return rows if len(rows) == len(lines) and lines[-1].count('"') % 2 == 0 else []

    def _reader(self, lines: Iterable[str], *, strict: bool = False) -> Any:
        return csv.reader(lines, delimiter=self._dialect.separator, skipinitialspace=True, strict=strict)

    def _careful(self, numbers: list[int], lines: list[str]) -> list[tuple[int, Any]]:
        """Return records and errors, joining lines only where a quoted field really spans them."""
        found: list[tuple[int, Any]] = []
        at, self._is_proper = 0, None
        while at < len(lines):
            cells, end = self._parsed(lines[at]), at + 1
            if cells is None:
                cells, end = self._joined(lines, numbers, at)
            if cells is None:
                error = f"{self._name}:{numbers[at]}: a quoted field is not closed; correct or remove the row"
                found.append((numbers[at], ManifestError(error)))
            else:
                found.append((numbers[at], cells))
            at = end
        return found

    def _joined(self, lines: list[str], numbers: list[int], at: int) -> tuple[list[str] | None, int]:
        """Return the record that begins at line `at` and spans several, and the index after it.

        No record is found if its quotes are not those of a writer of CSV: then the first one is a stray one,
        and so is perhaps the one that seems to close the field, in another row. Where line `at` looks like a
        row of its own, and a line that the field would contain does, too, the quotes of all lines decide.
        """
        text, is_row = lines[at], self._is_row(lines[at].split(self._dialect.separator))
        swallows = False
        for end in range(at + 1, at + _LONGEST_RECORD):
            if end == len(lines):
                if (more := next(self._lines, None)) is None:
                    break
                lines.append(more)
                numbers.append(next(self._numbers))
            text += lines[end]
            swallows = swallows or (is_row and self._is_row(self._parsed(lines[end]) or []))
            if '"' not in lines[end]:
                continue
            try:
                cells = next(self._reader(io.StringIO(text, newline=""), strict=True))
            except csv.Error as error:
                if "end of data" in str(error):
                    continue
                break
            is_one = len(cells) == self.width and (not swallows or self._has_proper_quotes(lines))
            return (cells, end + 1) if is_one else (None, at + 1)
        return None, at + 1

    def _has_proper_quotes(self, lines: list[str]) -> bool:
        """Return whether all quotes of `lines` are in order, and several fields span lines."""
        if self._is_proper is None:
            reader, spans, begun = self._reader(lines, strict=True), 0, 0
            self._is_proper = True
            try:
                for cells in reader:
                    self._is_proper = self._is_proper and (not cells or len(cells) == self.width)
                    spans += reader.line_num - begun > 1
                    begun = reader.line_num
            except csv.Error as error:
                self._is_proper = self._is_proper and "end of data" in str(error)  # the block ends in a field
            self._is_proper = self._is_proper and spans > 1
        return self._is_proper

    def _is_row(self, cells: list[str]) -> bool:
        return len(cells) == self.width and any(_LINK.match(cell) for cell in cells)

    def _parsed(self, text: str) -> list[str] | None:
        """Return the fields of one record, None if a quoted field is not closed at its end."""
        if not self._dialect.quoted:
            return text.rstrip("\r\n").split(self._dialect.separator)
        try:
            rows = list(self._reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            if "end of data" in str(error) or "\n" in text.rstrip("\r\n"):
                return None
            rows = list(self._reader(io.StringIO(text, newline="")))
        return rows[0] if len(rows) == 1 else [] if not rows else None

    def _checked(self, line: int, cells: Any) -> Any:
        if isinstance(cells, ManifestError):
            return cells
        if len(cells) > self.width and any(cell.strip() for cell in cells[self.width :]):
            return ManifestError(f"{self._name}:{line}: more fields than columns; correct or remove the row")
        return [cell.strip() for cell in cells]


def _is_given(cells: Any) -> bool:
    """Return whether a record is not a blank line."""
    return isinstance(cells, ManifestError) or any(map(str.strip, cells))


def _is_comment(cells: Any) -> bool:
    """Return whether a record is a comment: a text after `#`, or a row with `#` before its link."""
    if isinstance(cells, ManifestError) or not cells[0].startswith("#"):
        return False
    return _LINK.match(cells[0].lstrip("# ")) is not None or not any("://" in cell for cell in cells)


def parquet(file: ManifestFile, reading: Reading) -> Blocks:
    """Read the rows of a Parquet file in batches, so that memory does not grow with the file.

    Raises:
        ManifestError: pyarrow is not installed, the file is not Parquet, or no column holds links.
    """
    need("pyarrow", "parquet", f"{file.name}: reading Parquet")
    import pyarrow.parquet

    with file.binary() as opened:
        try:
            yield from _parquet_blocks(pyarrow.parquet.ParquetFile(opened), file.name, reading)
        except pyarrow.ArrowException as error:
            raise broken(f"{file.name}: cannot be read as Parquet ({error})") from None


def _parquet_blocks(table: Any, name: str, reading: Reading) -> Blocks:
    names = _leaves(table.schema_arrow)
    places = _wanted_leaves(table, names, reading, name)
    wanted = list(dict.fromkeys(places.values()))
    meant = {meaning: wanted.index(place) for meaning, place in places.items()}
    lines = count(1)
    for batch in table.iter_batches(_BLOCK, columns=[names[place] for place in wanted]):
        columns = [_column(batch, names[place]) for place in wanted]
        yield placed(meant, list(zip(lines, zip(*columns, strict=True), strict=False)), name)


def _leaves(schema: Any) -> list[str]:
    """Return the names of columns; those of nested columns are dotted, such as `image.url`."""
    import pyarrow

    def names(prefix: str, field: Any) -> list[str]:
        if pyarrow.types.is_struct(field.type):
            return [name for inner in field.type for name in names(f"{prefix}{field.name}.", inner)]
        return [prefix + field.name]

    return [name for field in schema for name in names("", field)]


def _wanted_leaves(table: Any, names: list[str], reading: Reading, where: str) -> dict[str, int]:
    """Return meaning → index of the columns to read. Images in other columns are not read."""
    first: Any = next(table.iter_batches(200, columns=_small(table, names)), None)
    known = set(_small(table, names))
    values = [_column(first, name) if first is not None and name in known else [] for name in names]
    rows = [
        [column[n] if n < len(column) else None for column in values]
        for n in range(first.num_rows if first is not None else 0)
    ]
    return reading.choose(names, rows, where, where).places


def _small(table: Any, names: list[str]) -> list[str]:
    """Return the columns that are read for a sample: not those that hold whole files."""
    if not table.metadata.num_row_groups:
        return names
    group = table.metadata.row_group(0)
    large = {
        group.column(n).path_in_schema
        for n in range(group.num_columns)
        if group.column(n).total_uncompressed_size > 4096 * max(group.num_rows, 1)
    }
    return [name for name in names if name not in large]


def _column(batch: Any, name: str) -> list[Any]:
    first, *inner = name.split(".") if name not in batch.schema.names else [name]
    column = batch.column(first).to_pylist()
    for part in inner:
        column = [value.get(part) if value else None for value in column]
    return list(column)


def frame(data: pandas.DataFrame, reading: Reading) -> Blocks:
    """Read the rows of a DataFrame; a missing value (NaN, None) counts as not given.

    Raises:
        ManifestError: no column holds links.
    """
    names = [str(name) for name in data.columns]
    lines = count(0)

    def blocks() -> Iterator[list[tuple[int, Any]]]:
        for at in range(0, len(data), _BLOCK):
            block = data.iloc[at : at + _BLOCK]
            block = block.astype(object).where(block.notna(), None)
            yield list(zip(lines, map(list, block.itertuples(index=False)), strict=False))

    yield from columned(reading, names, blocks(), "DataFrame")
