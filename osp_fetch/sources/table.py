"""Tables: reads TSV, CSV, Parquet and DataFrames with pandas, one block of rows at a time.

All values are read as text. By default pandas turns a file named `NA` into a missing value, `0012` into 12,
and the digest `1e10` into a number.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ..model.errors import ManifestError
from .row_parser import Blocks, Numbered, broken, meanings, read_row

if TYPE_CHECKING:
    import pandas

_BLOCK: Final = 10_000  # rows per block: enough to make pandas' cost per block negligible
_SPARE: Final = 4  # columns beyond the header, to detect rows with too many fields


def delimited(path: Path, separator: str) -> Blocks:
    """Read the rows of a TSV or CSV file.

    If the first line contains a link, the file has no header, and the columns are found by their content.

    Args:
        path: the file to read, in UTF-8.
        separator: a tab or a comma.

    Raises:
        ManifestError: the file is not a table, or its columns cannot be interpreted.
    """
    import pandas

    first = _first_line(path)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    cells = next(csv.reader([first], delimiter=separator, quoting=quoting), [])
    header = not any(cell.strip().startswith(("http://", "https://")) for cell in cells)
    columns = cells if header else _by_content(cells)
    wanted = meanings(columns, path.name)
    names = [str(n) for n in range(len(columns) + _SPARE)]
    try:
        blocks = pandas.read_csv(
            path,
            sep=separator,
            header=None,
            names=names,
            skiprows=1 if header else 0,
            dtype="object",
            na_filter=False,
            skip_blank_lines=False,
            quoting=quoting,
            encoding="utf-8-sig",
            encoding_errors="surrogateescape",
            chunksize=_BLOCK,
        )
        lines = count(2 if header else 1)
        with blocks:
            for block in blocks:
                yield list(_numbered(block, len(columns), wanted, path.name, lines))
    except pandas.errors.EmptyDataError:
        return
    except (pandas.errors.ParserError, ValueError) as error:
        raise broken(f"{path.name}: cannot be read as a table ({error})") from None


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return file.readline(1 << 20).rstrip("\r\n")


def _by_content(cells: list[str]) -> list[str]:
    """Return names for the columns of a table without a header: the link, and the path beside it."""
    link = next(i for i, cell in enumerate(cells) if cell.strip().startswith(("http://", "https://")))
    names = [""] * len(cells)
    names[link] = "url"
    if len(cells) > 1:
        names[0 if link else 1] = "path"
    return names


def _numbered(
    block: pandas.DataFrame, width: int, wanted: dict[str, int], where: str, lines: Iterator[int]
) -> Iterator[Numbered]:
    columns = {meaning: block.iloc[:, place].tolist() for meaning, place in wanted.items()}
    spare = (block.iloc[:, width:] != "").any(axis=1).tolist()
    for index, line in zip(range(len(block)), lines, strict=False):
        values = {meaning: column[index].strip() for meaning, column in columns.items()}
        if not any(values.values()):
            continue  # a blank line
        if spare[index]:
            yield (
                line,
                ManifestError(f"{where}:{line}: more fields than columns; correct or remove the row"),
            )
        else:
            yield line, read_row(values, where, line)


def parquet(path: Path) -> Blocks:
    """Read the rows of a Parquet file in batches, so that memory does not grow with the file.

    Raises:
        ManifestError: pyarrow is not installed, the file is not Parquet, or its columns cannot be
        interpreted.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise broken(
            f"{path.name}: reading Parquet needs pyarrow: pip install 'osp-fetch[parquet]'"
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = [str(name) for name in file.schema_arrow.names]
        wanted = meanings(names, path.name)
        lines = count(1)
        columns = [names[place] for place in wanted.values()]
        for batch in file.iter_batches(_BLOCK, columns=columns):
            yield list(
                _records(batch.to_pylist(), {c: names[p] for c, p in wanted.items()}, path.name, lines)
            )
    except pyarrow.ArrowException as error:
        raise broken(f"{path.name}: cannot be read as Parquet ({error})") from None


def frame(data: pandas.DataFrame) -> Blocks:
    """Read the rows of a DataFrame; a missing value (NaN, None) counts as not given.

    Raises:
        ManifestError: its columns cannot be interpreted.
    """
    names = [str(name) for name in data.columns]
    wanted = meanings(names, "DataFrame")
    lines = count(0)
    for at in range(0, len(data), _BLOCK):
        block = data.iloc[at : at + _BLOCK, list(wanted.values())]
        block = block.astype(object).where(block.notna(), None)
        records = [dict(zip(wanted, values, strict=True)) for values in block.itertuples(index=False)]
        yield list(_records(records, {meaning: meaning for meaning in wanted}, "DataFrame", lines))


def _records(
    records: list[dict[str, Any]], columns: dict[str, str], where: str, lines: Iterator[int]
) -> Iterator[Numbered]:
    for record, line in zip(records, lines, strict=False):
        values = {meaning: record[column] for meaning, column in columns.items()}
        yield line, read_row(values, where, line)
