"""Finds the source that a SOURCE names, and prepares its rows: select, remove duplicates, join, shard."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from ..model import urls
from ..model.entry import Entry
from ..model.errors import ManifestError, Remedy
from ..model.protocols import Manifest, Row
from . import bagit, folder_pages, formats, gdrive, huggingface, remote_sums, sa1b, select, table
from .join import FileList, Rival, RowJoin
from .json_lines import json_lines, url_list
from .pages import NoPages, Pages
from .row_parser import Blocks, Numbered, any_row, broken, read_row
from .select import Selection

if TYPE_CHECKING:
    import pandas

_MOMENT: Final = 2 << 20  # bytes; a manifest up to this size is read completely before fetching starts
_BLOCK: Final = 256  # rows per block of an iterable
_BARE_HOST: Final = re.compile(r"https?://[^/?#]+")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are taken from a source.

    Attributes:
        selection: the globs that select rows.
        lists: lists of the same files to join the rows with, in this order.
        headers: HTTP headers added to every entry.
        shard: `(i, n)`: keep share i of n, counted from 0; None keeps all rows.
        strict: a bad row, or an ambiguous name in a list, is an error of the run.
        pages: gets the lists and pages of sources on servers.
        depth: levels of folders that are read below a folder page.
    """

    selection: Selection = Selection()
    lists: tuple[FileList, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    shard: tuple[int, int] | None = None
    strict: bool = False
    pages: Pages = field(default_factory=NoPages)
    depth: int = folder_pages.DEPTH


@dataclass(frozen=True, slots=True)
class Resolved:
    """The rows of a manifest, which can be read once, the joins applied to them, and notes of its sources."""

    rows: Manifest
    joins: tuple[RowJoin, ...] = ()
    said: list[str] = field(default_factory=list)
    pages: Pages = field(default_factory=NoPages)

    def close(self) -> None:
        """End the requests for lists that a thread still waits for: no further row is wanted."""
        self.pages.stop()

    def notes(self) -> list[str]:
        """Return the notes of the sources and of all joins; complete once all rows were read."""
        return [*self.said, *(note for join in self.joins for note in join.notes())]


def resolve(source: object, options: Options) -> Resolved:
    """Return the rows of `source`.

    A source of more than 2 MiB, a listing or an iterable is read lazily: the errors below may then be raised
    while the rows are read.

    Args:
        source: a SOURCE string, a Path, a list of these, a DataFrame, or an (async) iterable of entries.
        options: selection, joins, headers and shard.

    Returns:
        The rows, and the joins whose notes are complete after the last row.

    Raises:
        ManifestError: the source does not exist, its columns cannot be interpreted, the globs leave no row, a
        list
            covers none of the files, or, with `options.strict`, a row is bad.
        CredentialsError: the server refuses to list the source.
        NetworkError: the source cannot be listed.
    """
    joins = tuple(RowJoin(each, strict=options.strict) for each in options.lists)
    if isinstance(source, AsyncIterable):
        return Resolved(_each(source, options, joins), joins, pages=options.pages)
    several = isinstance(source, (list, tuple)) and all(isinstance(s, (str, Path)) for s in source)
    each_source = list(cast("list[str]", source)) if several else [source]
    said: list[str] = []
    found = [_blocks(each, options, said) for each in each_source]
    named = ((name, block) for name, blocks, _ in found for block in blocks)
    small = all(each for _, _, each in found)
    chosen: Iterable[Row | Rival] = (
        row for block in select.distinct(_wanted(named, options.selection)) for row in block
    )
    if small:
        chosen = _told_apart(list(chosen))
    for join in joins:
        chosen = join.over(chosen)
    taken = (_take(row, options) for row in chosen if not isinstance(row, Rival))
    if small:
        return Resolved(list(_shard(_sorted(list(taken)), options)), joins, said, options.pages)
    return Resolved(_shard(taken, options), joins, said, options.pages)


def _blocks(source: object, options: Options, said: list[str]) -> tuple[str, Blocks, bool]:
    """Return the source's name for messages, its rows, and whether they can be read at once.

    Sentences for the user are added to `said`, at the latest when the last row was read.
    """
    if isinstance(source, str) and source.startswith("hf://"):
        huggingface.HubAddress.parse(source)
        return source, huggingface.listing(source), False
    if isinstance(source, str) and source.startswith("modelscope://"):
        from . import modelscope

        modelscope.ModelScopeAddress.parse(source)
        return source, modelscope.listing(source, options.pages), False
    if isinstance(source, str) and source.startswith("gdrive://"):
        gdrive.check_address(source)
        return source, gdrive.listing(source, options.pages), False
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        url = source.partition(":")[0].lower() + source[source.index(":") :]
        return _url(url, options, said)
    if isinstance(source, str) and (scheme := _SCHEME.match(source)) and not Path(source).exists():
        raise broken(_unsupported(scheme[1].lower(), source))
    if isinstance(source, (str, Path)):
        return _file(Path(source), options)
    if type(source).__name__ == "DataFrame":
        return "DataFrame", table.frame(cast("pandas.DataFrame", source)), False
    if isinstance(source, Iterable):
        return "manifest", _grouped(source), False
    raise broken(
        f"a {type(source).__name__} is not a manifest; pass a SOURCE, a DataFrame, or an iterable of Entry"
    )


def _url(url: str, options: Options, said: list[str]) -> tuple[str, Blocks, bool]:
    """Return the rows of a URL: a folder page, a checksum list, or the file itself."""
    if _BARE_HOST.fullmatch(url):
        url += "/"
    if folder_pages.is_candidate(url):
        own = bool(options.headers)
        walked = folder_pages.files(url, options.pages, said, depth=options.depth, own_headers=own)
        return urls.shown(url), walked, False
    if remote_sums.is_candidate(url):
        return urls.shown(url), remote_sums.files(url, options.pages), False
    return "URL", iter([[(1, read_row({"url": url}, "URL", 1))]]), True


def _unsupported(scheme: str, source: str) -> str:
    """Return the message for a SOURCE whose scheme is not supported."""
    shown = urls.shown(source)
    if scheme in ("http", "https"):
        return f"{shown}: not a URL; write {scheme}:// with two slashes"
    known = "http://, https://, hf://, modelscope:// and gdrive://"
    return f"{shown}: the scheme {scheme}: is not supported; use {known}, a file or a dataset name"


def _file(path: Path, options: Options) -> tuple[str, Blocks, bool]:
    try:
        if bagit.is_bag(path):
            path /= bagit.FETCH
        size = path.stat().st_size
        if not path.is_file():
            raise broken(
                f"{urls.shown(str(path))} is not a file; name a manifest, a URL, an address or a dataset"
            )
        with path.open("rb") as file:
            first = file.readline(1 << 20).decode("utf-8", "replace")
            file.seek(0)
            head = file.read(formats.HEAD).decode("utf-8-sig", "replace")
    except OSError as error:
        raise broken(
            f"{urls.shown(str(path))}: the manifest cannot be read ({error.strerror}); a SOURCE is a "
            "manifest file, a URL, hf://datasets/OWNER/NAME, or the name of a dataset"
        ) from None
    kind = path.suffix.lower()
    if sa1b.is_link_file(first):
        listed = table.delimited(path, "\t")
        return path.name, sa1b.without_foreign(listed, options.selection), size <= _MOMENT
    if kind in (".meta4", ".metalink"):
        from . import metalink  # importing the XML parser takes 1 % of the start-up time

        return path.name, metalink.files(path), size <= _MOMENT
    if kind == ".parquet":
        return path.name, table.parquet(path), False
    if "\0" in first:
        raise broken(f"{path}: not UTF-8 text; a manifest is a table, JSON lines, or a list of URLs")
    if (rows := formats.rows(head, path)) is not None:
        return path.name, rows, size <= _MOMENT
    if kind in (".jsonl", ".ndjson") or first.lstrip("\ufeff ").startswith("{"):
        return path.name, json_lines(path), size <= _MOMENT
    if kind in (".tsv", ".csv") or "\t" in first:
        separator = "\t" if kind == ".tsv" or (kind != ".csv" and "\t" in first) else ","
        return path.name, table.delimited(path, separator), size <= _MOMENT
    return path.name, url_list(path), size <= _MOMENT


def _grouped(source: Iterable[Row]) -> Blocks:
    numbered = ((number, any_row(item, number)) for number, item in enumerate(source))
    while block := list(islice(numbered, _BLOCK)):
        yield block


def _wanted(
    named: Iterator[tuple[str, list[Numbered]]], selection: Selection
) -> Iterator[tuple[str, list[tuple[int, Row | Rival]]]]:
    counts = _Counts(selection)
    for name, block in named:
        yield name, [(n, counts.sorted_out(row)) for n, row in block]
    counts.check()


class _Counts:
    """Counts the rows that the globs leave, so that a misspelt glob is not reported as success."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._files = self._kept = 0

    def wants(self, row: Row) -> bool:
        """Return whether `row` is an entry to fetch or an error to report."""
        if not isinstance(row, Entry):
            self._kept += 1
            return True
        wanted = self._selection.wants(row.path)
        self._files += 1
        self._kept += wanted
        return wanted

    def sorted_out(self, row: Row) -> Row | Rival:
        """Return `row`, or, if it is not wanted, a `Rival` that keeps its name taken."""
        return row if self.wants(row) or not isinstance(row, Entry) else Rival(row.path)

    def check(self) -> None:
        """Check that the globs left at least one row.

        Raises:
            ManifestError: globs were given and left nothing.
        """
        if not self._kept and (self._selection.include or self._selection.exclude):
            globs = ", ".join(repr(glob) for glob in (*self._selection.include, *self._selection.exclude))
            raise broken(
                f"include and exclude ({globs}) leave none of the manifest's {self._files} files; "
                "compare the globs with the paths that plan shows"
            )


def _told_apart(rows: list[Row | Rival]) -> list[Row | Rival]:
    """Return `rows`, with `exact` set on entries whose links differ only in what looks like a signature.

    `?token=A` and `?token=B` for two paths of one manifest are two files, although `token` usually signs a
    link. Their complete query then belongs to the source key.
    """
    links: dict[str, set[str]] = {}
    for row in rows:
        if isinstance(row, Entry):
            for url in row.urls:
                if "?" in url:
                    links.setdefault(urls.source_key(url), set()).add(url)
    shared = {url for same in links.values() if len(same) > 1 for url in same}
    if not shared:
        return rows
    return [
        replace(row, exact=True) if isinstance(row, Entry) and shared.intersection(row.urls) else row
        for row in rows
    ]


def _take(row: Row, options: Options) -> Row:
    """Return `row` with the headers of the options; with `strict`, raise a row that is an error."""
    if options.headers and isinstance(row, Entry):
        row = replace(row, headers=(*row.headers, *options.headers))
    if options.strict and isinstance(row, ManifestError):
        raise ManifestError(str(row), remedy=Remedy.ABORT)
    return row


def _sorted(chosen: list[Row]) -> list[Row]:
    """Return `chosen` with bad rows first, to report them before fetching, then by time of expiry."""

    def rank(row: Row) -> float:
        if not isinstance(row, Entry):
            return 0.0
        signed = [urls.expiry(url) or math.inf for url in row.urls if "?" in url]
        return min(signed) if signed else math.inf

    return sorted(chosen, key=rank)


def _shard(chosen: Iterable[Row], options: Options) -> Iterator[Row]:
    if options.shard is None:
        yield from chosen
        return
    index, total = options.shard
    if isinstance(chosen, list):
        # fresh link files list files in another order; sorted by path, every issue is split the same way
        chosen = sorted(chosen, key=lambda row: row.path if isinstance(row, Entry) else "")
    yield from select.shard(chosen, index, total)


async def _each(source: AsyncIterable[Row], options: Options, joins: Sequence[RowJoin]) -> AsyncIterator[Row]:
    index, total = options.shard or (0, 1)
    number, counts = 0, _Counts(options.selection)
    async for row in _distinct(source, counts):
        for joined in _passed([row], joins):
            if number % total == index:
                yield _take(joined, options)
            number += 1
    counts.check()
    for place, join in enumerate(joins):
        for joined in _passed(join.end(), joins[place + 1 :]):
            if number % total == index:
                yield _take(joined, options)
            number += 1


async def _distinct(source: AsyncIterable[Row], counts: _Counts) -> AsyncIterator[Row | Rival]:
    line, seen = -1, select.Seen()
    async for item in source:
        line += 1
        row = any_row(item, line)
        if not counts.wants(row):
            assert isinstance(row, Entry)
            yield Rival(row.path)
            continue
        if isinstance(row, Entry) and seen.repeats([row.path])[0]:
            row = ManifestError(f"manifest:{line}: {row.path} is listed twice; rename or remove this row")
        yield row


def _passed(given: Sequence[Row | Rival], joins: Sequence[RowJoin]) -> list[Row]:
    """Pass `given` through all `joins` and return the rows that are decided."""
    for join in joins:
        given = [joined for row in given for joined in join.add(row)]
    return [row for row in given if not isinstance(row, Rival)]
