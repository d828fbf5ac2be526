"""Which source a SOURCE means, and its rows: selected, joined with checksums, distinct, sharded."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from ..model import links
from ..model.entry import Entry
from ..model.errors import ManifestError, Remedy
from ..model.protocols import Manifest, Row
from . import gdrive, huggingface, lists, rows, sa1b, select, table
from .backup import Backup
from .checksums import Checksums
from .rows import Blocks, broken
from .select import Selection

if TYPE_CHECKING:
    import pandas

_MOMENT: Final = 2 << 20  # a manifest of so many bytes is read whole before anything is fetched
_BLOCK: Final = 256


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are taken from any source. `shard`: (i, n), the i-th of n, counted from 0."""

    selection: Selection = Selection()
    checksums: Checksums | None = None
    backups: tuple[Backup, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    shard: tuple[int, int] | None = None
    strict: bool = False


def resolve(source: object, options: Options) -> Manifest:
    """The rows of `source`: a SOURCE string, a Path, a DataFrame, or an (async) iterable of entries.

    Raises ManifestError where there is no such source, or its columns make no sense; with
    `options.strict` at the first bad row, too.
    """
    if isinstance(source, AsyncIterable):
        return _each(source, options)
    several = isinstance(source, (list, tuple)) and all(isinstance(s, (str, Path)) for s in source)
    each_source = list(cast("list[str]", source)) if several else [source]
    found = [_blocks(each, options) for each in each_source]
    named = ((name, block) for name, blocks, _ in found for block in blocks)
    chosen = _chosen(select.distinct(_wanted(named, options.selection)), options)
    if all(small for _, _, small in found):
        return list(_shard(_sorted(list(chosen)), options))
    return _shard(chosen, options)


def _blocks(source: object, options: Options) -> tuple[str, Blocks, bool]:
    """A name for messages, the rows, and whether they are read in a moment."""
    if isinstance(source, str) and source.startswith("hf://"):
        huggingface.Address.parse(source)
        return source, huggingface.listing(source), False
    if isinstance(source, str) and source.startswith("modelscope://"):
        from . import modelscope

        modelscope.Address.parse(source)
        return source, modelscope.listing(source), False
    if isinstance(source, str) and source.startswith("gdrive://"):
        gdrive.check_address(source)
        return source, gdrive.listing(source), False
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return "URL", iter([[(1, rows.read_row({"url": source}, "URL", 1))]]), True
    if isinstance(source, (str, Path)):
        return _file(Path(source), options)
    if type(source).__name__ == "DataFrame":
        return "DataFrame", table.frame(cast("pandas.DataFrame", source)), False
    if isinstance(source, Iterable):
        return "manifest", _grouped(source), False
    raise broken(f"{source!r} is no manifest; pass a SOURCE, a DataFrame, or an iterable of Entry")


def _file(path: Path, options: Options) -> tuple[str, Blocks, bool]:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise broken(f"{path} is not a file; name a manifest, a URL, an address or a dataset")
        with path.open("rb") as file:
            first = file.readline(1 << 20).decode("utf-8", "replace")
    except OSError as error:
        raise broken(
            f"{path}: no such manifest can be read ({error.strerror}); a SOURCE is a manifest file, "
            "a URL, hf://datasets/OWNER/NAME, or the name of a dataset"
        ) from None
    kind = path.suffix.lower()
    if sa1b.is_link_file(first):
        listed = table.delimited(path, "\t")
        return path.name, sa1b.without_foreign(listed, options.selection), size <= _MOMENT
    if kind in (".meta4", ".metalink"):
        from . import metalink  # XML takes a hundredth of a start

        return path.name, metalink.files(path), size <= _MOMENT
    if kind == ".parquet":
        return path.name, table.parquet(path), False
    if "\0" in first:
        raise broken(f"{path}: it is no text in UTF-8; a manifest is a table, JSON lines, or a list of URLs")
    if kind in (".jsonl", ".ndjson") or first.lstrip("\ufeff ").startswith("{"):
        return path.name, lists.json_lines(path), size <= _MOMENT
    if kind in (".tsv", ".csv") or "\t" in first:
        separator = "\t" if kind == ".tsv" or (kind != ".csv" and "\t" in first) else ","
        return path.name, table.delimited(path, separator), size <= _MOMENT
    return path.name, lists.url_list(path), size <= _MOMENT


def _grouped(source: Iterable[Row]) -> Blocks:
    numbered = ((number, rows.any_row(item, number)) for number, item in enumerate(source))
    while block := list(islice(numbered, _BLOCK)):
        yield block


def _chosen(blocks: Iterator[list[Row]], options: Options) -> Iterator[Row]:
    for block in blocks:
        for row in block:
            yield _take(row, options)


def _wanted(
    named: Iterator[tuple[str, list[rows.Numbered]]], selection: Selection
) -> Iterator[tuple[str, list[rows.Numbered]]]:
    for name, block in named:
        yield name, [(n, row) for n, row in block if not isinstance(row, Entry) or selection.wants(row.path)]


def _take(row: Row, options: Options) -> Row:
    """`row` as the options want it: with its digest from the list, and with the headers."""
    if options.checksums:
        row = options.checksums.join(row)
    for backup in options.backups:
        row = backup.join(row)
    if options.headers and isinstance(row, Entry):
        row = replace(row, headers=(*row.headers, *options.headers))
    if options.strict and isinstance(row, ManifestError):
        raise ManifestError(str(row), remedy=Remedy.ABORT)
    return row


def _sorted(chosen: list[Row]) -> list[Row]:
    """Bad rows first, so that they are said before a byte is fetched; then the links that die first."""

    def rank(row: Row) -> float:
        if not isinstance(row, Entry):
            return 0.0
        signed = [links.expiry(url) or math.inf for url in row.urls if "?" in url]
        return min(signed) if signed else math.inf

    return sorted(chosen, key=rank)


def _shard(chosen: Iterable[Row], options: Options) -> Iterator[Row]:
    if options.shard is None:
        yield from chosen
        return
    index, total = options.shard
    if isinstance(chosen, list):
        # fresh link files come in another order: by path every generation is split alike
        chosen = sorted(chosen, key=lambda row: row.path if isinstance(row, Entry) else "")
    yield from select.shard(chosen, index, total)


async def _each(source: AsyncIterable[Row], options: Options) -> AsyncIterator[Row]:
    index, total = options.shard or (0, 1)
    number, line, seen = 0, -1, select.Seen()
    async for item in source:
        line += 1
        row = rows.any_row(item, line)
        if isinstance(row, Entry):
            if not options.selection.wants(row.path):
                continue
            if seen.repeats([row.path])[0]:
                row = ManifestError(f"manifest:{line}: {row.path} is named twice; rename or remove this row")
        if number % total == index:
            yield _take(row, options)
        number += 1
