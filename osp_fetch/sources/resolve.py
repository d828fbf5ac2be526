"""Finds the source that a SOURCE names, and prepares its rows: select, remove duplicates, join, shard."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import field, replace
from itertools import islice
from pathlib import Path
from typing import Final, cast

from ..model import urls
from ..model.dataclasses import dataclass
from ..model.entry import Entry, has_address
from ..model.errors import ManifestError, Remedy
from ..model.protocols import Manifest, Row
from ..model.settings import S3
from ..model.urls import shown
from . import select
from .columns import ByHand
from .dispatch import Listing, Source, of_items, sources_of
from .join import FileList, Rival, RowJoin
from .names import NameIndex, Namer, Naming, with_stated_names
from .pages import DEPTH, NoPages, Pages
from .pasted import PageLinks
from .reading import Objects, Reading
from .row_parser import Numbered, Unnamed, broken
from .select import Selection

SORTED: Final = 2 << 20
"""Bytes of a manifest up to which its shards are divided by path."""
_MOMENT: Final = SORTED  # bytes; a manifest up to this size is read completely before fetching starts
# Bytes of a manifest that is read twice, to find which names are shared; about half a million rows.
_READ_TWICE: Final = 32 << 20
# Bytes of a manifest whose rows are kept in memory from the first reading to the second: about 32 MB of rows.
_KEPT: Final = 4 << 20
_BLOCK: Final = 256  # rows per block of an iterable
_ROW: Final = 64  # bytes that a row of a DataFrame or a list counts as
_Block = tuple[str, Sequence[Numbered]]  # a manifest's name, and some of its rows
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are taken from a source.

    Attributes:
        selection: the globs that select rows.
        lists: lists of the same files to join the rows with, in this order.
        headers: HTTP headers added to every entry.
        shard: `(i, n)`: keep share i of n, counted from 0; None keeps all rows.
        naming: how rows without a path are named.
        columns: meaning → column of a table, as the user named them.
        pages: gets the lists and pages of sources on servers.
        depth: levels of folders that are read below a folder page.
        strict: a bad row, or an ambiguous name in a list, is an error of the run.
        s3: how buckets are reached.
    """

    selection: Selection = Selection()
    lists: tuple[FileList, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    shard: tuple[int, int] | None = None
    naming: Naming = Naming()
    columns: tuple[tuple[str, str], ...] = ()
    pages: Pages = field(default_factory=NoPages)
    depth: int = DEPTH
    strict: bool = False
    s3: S3 = S3()


@dataclass(frozen=True, slots=True)
class Resolved:
    """The rows of a manifest, which can be read once, and what was found while they were read."""

    rows: Manifest
    joins: tuple[RowJoin, ...] = ()
    reading: Reading = field(default_factory=Reading)
    links: PageLinks | None = None
    pages: Pages = field(default_factory=NoPages)

    def close(self) -> None:
        """End the requests for lists that a thread still waits for: no further row is wanted."""
        self.pages.stop()

    def notes(self) -> list[str]:
        """Return the notes for the user; complete once all rows were read."""
        of_pages = self.links.notes() if self.links else []
        if self.reading.by_hand.names and not self.reading.columns:
            of_pages = [*of_pages, "--columns has no effect: the list has no columns"]
        return [*of_pages, *self.reading.notes, *(note for join in self.joins for note in join.notes())]


def resolve(source: object, options: Options) -> Resolved:
    """Return the rows of `source`.

    A source of more than 2 MiB, a listing or an iterable is read lazily: the errors below may then be raised
    while the rows are read.

    Args:
        source: a SOURCE string, a Path, a list of these, a DataFrame, or an (async) iterable of entries.
        options: selection, joins, headers, names and shard.

    Returns:
        The rows, and the joins whose notes are complete after the last row.

    Raises:
        ManifestError: the source does not exist, its columns cannot be interpreted, the globs leave no row, a
            list covers none of the files, or, with `options.strict`, a row is bad.
        CredentialsError: the server refuses to list the source.
        NetworkError: the source cannot be listed.
    """
    joins = tuple(RowJoin(each, strict=options.strict) for each in options.lists)
    reading, links = Reading(ByHand(dict(options.columns))), PageLinks(os.environ)
    if isinstance(source, AsyncIterable):
        return Resolved(_each(source, options, joins, reading, links), joins, reading, links, options.pages)
    several = isinstance(source, (list, tuple)) and all(isinstance(s, (str, Path)) for s in source)
    each_source = list(cast("list[str]", source)) if several else [source]
    how = Listing(
        options.selection, options.pages, options.depth, own_headers=bool(options.headers), s3=options.s3
    )
    for each in each_source:
        _check_link(each)
    found = [part for each in each_source for part in sources_of(links.source(each), how, reading)]
    small = all(each.size is not None and each.size <= _MOMENT for each in found)
    blocks = _named(found, options.naming, links, at_once=small)
    chosen: Iterable[Row | Rival] = (
        row for block in select.distinct(_wanted(blocks, options.selection), reading.note) for row in block
    )
    if small:
        chosen = _told_apart(list(chosen))
    for join in joins:
        chosen = join.over(chosen)
    taken = (_take(row, options) for row in chosen if not isinstance(row, Rival))
    if small:
        return Resolved(list(_shard(_sorted(list(taken)), options)), joins, reading, links, options.pages)
    return Resolved(_shard(taken, options), joins, reading, links, options.pages)


def _check_link(source: object) -> None:
    """Raise ManifestError for a SOURCE that is a URL with brackets in place of a host."""
    is_url = isinstance(source, str) and source.lower().startswith(("http://", "https://"))
    if is_url and not has_address(str(source)):
        raise ManifestError(
            f"{shown(str(source))} is not an http(s) URL: brackets can only hold an IPv6 address; correct it",
            remedy=Remedy.ABORT,
        )


def _named(
    sources: Sequence[Source], naming: Naming, links: PageLinks, *, at_once: bool
) -> Iterator[tuple[str, list[tuple[int, Row]]]]:
    """Yield blocks of rows with a path for each; see `names`.

    Args:
        sources: the sources of the rows.
        naming: how rows without a path are named.
        links: rewrites links to pages.
        at_once: read all sources at once.
    """
    read: Iterator[_Block] = ((source.name, block) for source in sources for block in source.read())
    if at_once:
        found = [(name, _stated(list(links.block(name, block)), naming)) for name, block in read]
        index = NameIndex()
        index.add([row for _, block in found for _, row in block])
        namer, read = Namer(naming, index.shared), iter(found)
    else:
        namer, index = None, None
    number = 0
    while (following := next(read, None)) is not None:
        name, numbered = following
        number += 1
        block = numbered if at_once else _stated(list(links.block(name, numbered)), naming)
        rows = [row for _, row in block]
        if namer is None and any(isinstance(row, Unnamed) for row in rows):
            namer, index, kept = _namer(sources, naming)
            read = read if kept is None else islice(kept, number, None)
        if index is not None and not at_once:
            index.add(rows)
        named = namer.rows(rows) if namer else cast("list[Row]", rows)
        yield name, [(line, row) for (line, _), row in zip(block, named, strict=True)]


def _stated(block: Sequence[Numbered], naming: Naming) -> list[Numbered]:
    """Return `block` with the names that servers state; see `names.with_stated_names`."""
    rows = with_stated_names([row for _, row in block], naming)
    return [(line, row) for (line, _), row in zip(block, rows, strict=True)]


def _namer(
    sources: Sequence[Source], naming: Naming
) -> tuple[Namer, NameIndex | None, Iterator[_Block] | None]:
    """Return what names rows that are read lazily, and an index to which the rows are added as they come.

    Sources that can be read again are read once more. Where they are too large for that, every name gets the
    hash, and there is no index. The last item has the blocks that were read, None if they were not kept.
    """
    index, kept = NameIndex(), deque[_Block]()
    if any(source.size is None for source in sources):
        return Namer(naming, index.shared), index, None
    size = sum(source.size or 0 for source in sources)
    if size > _READ_TWICE:
        return Namer(naming, None), None, None
    links = PageLinks(os.environ)  # the links are counted when they are read again
    for source in sources:
        for block in source.read():
            index.add([row for _, row in links.block(source.name, block)])
            if size <= _KEPT:
                kept.append((source.name, block))
    named = Namer(naming, index.shared, lazily=True)
    return named, None, _emptied(kept) if size <= _KEPT else None


def _emptied(blocks: deque[_Block]) -> Iterator[_Block]:
    """Yield blocks, and keep none of those that were yielded."""
    while blocks:
        yield blocks.popleft()


def _wanted(
    named: Iterator[tuple[str, list[tuple[int, Row]]]], selection: Selection
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


async def _each(
    source: AsyncIterable[object],
    options: Options,
    joins: Sequence[RowJoin],
    reading: Reading,
    links: PageLinks,
) -> AsyncIterator[Row]:
    index, total = options.shard or (0, 1)
    number, counts = 0, _Counts(options.selection)
    named = _named_as_they_come(source, options.naming, reading, links)
    for join in joins:
        await asyncio.to_thread(join.read)  # a list on a server is read by requests in this event loop
    async for row in _distinct(named, counts, reading):
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


async def _named_as_they_come(
    source: AsyncIterable[object], naming: Naming, reading: Reading, links: PageLinks
) -> AsyncIterator[Row]:
    """Yield rows with a path for each. Which links share a name is known only for those that have come."""
    objects, number, index = Objects(reading, "manifest", one_by_one=True), -1, NameIndex()
    namer = Namer(naming, index.shared)
    async for item in source:
        number += 1
        ((_, row),) = links.block("manifest", of_items([(number, item)], objects))
        if isinstance(row, Unnamed):
            (row,) = await asyncio.to_thread(with_stated_names, [row], naming)
        index.add([row])
        yield namer.rows([row])[0]


async def _distinct(
    source: AsyncIterator[Row], counts: _Counts, reading: Reading
) -> AsyncIterator[Row | Rival]:
    line, distinct = -1, select.Distinct(reading.note)
    async for row in source:
        line += 1
        if not counts.wants(row):
            assert isinstance(row, Entry)
            yield Rival(row.path)
            continue
        for kept in distinct.rows("manifest", [(line, row)]):
            yield kept
    distinct.end()


def _passed(given: Sequence[Row | Rival], joins: Sequence[RowJoin]) -> list[Row]:
    """Pass `given` through all `joins` and return the rows that are decided."""
    for join in joins:
        given = [joined for row in given for joined in join.add(row)]
    return [row for row in given if not isinstance(row, Rival)]
