"""Rows of a manifest: read in pages, and compared with what is on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Final

from ..model import urls
from ..model.entry import Entry
from ..model.protocols import Manifest, Row
from ..model.record import Published, Record
from ..model.report import Outcome, Status
from .adopt import same_source

# Rows whose records are read from the ledger in one query.
PAGE: Final = 500


def is_present(record: Record, entry: Entry, seen: Published | None, tombstone: Published | None) -> bool:
    """Return whether the file of `entry` is published, or was unpacked and deleted, and fits the row.

    Args:
        record: The record of the file.
        entry: The manifest row.
        seen: State of the file under its final name, None if there is no file.
        tombstone: State of the file before it was deleted after unpacking, None if it was not.
    """
    there = seen if seen is not None else tombstone
    return record.published is not None and there == record.published and _fulfils(record, entry)


def _fulfils(record: Record, entry: Entry) -> bool:
    """Return whether the published file has the size and digest, or else the source, of the row."""
    if entry.size is not None and entry.size != record.length:
        return False
    if entry.digest is not None:
        return record.digests.get(entry.digest.algorithm) == entry.digest.hex
    return same_source(record, entry)


def digest_of(entry: Entry, record: Record) -> str | None:
    """Return the digest of a finished file as `algorithm:hex`, None if it has none of the wanted kind."""
    algorithm = entry.digest.algorithm if entry.digest else "sha256"
    value = record.digests.get(algorithm)
    return f"{algorithm}:{value}" if value else None


def present_outcome(entry: Entry, record: Record) -> Outcome:
    """Return the outcome of a file that is present."""
    return Outcome(entry.path, Status.PRESENT, entry, record.length, digest_of(entry, record))


async def pages(manifest: Manifest) -> AsyncIterator[tuple[list[Row], bool]]:
    """Yield the rows of `manifest` in pages of up to 500.

    A blocking iterable is read in a thread. Rows of an asynchronous iterable are yielded one by one, because
    the next one may take long to arrive.

    Args:
        manifest: The rows.

    Returns:
        Pairs of the rows and whether this is the last page.
    """
    if isinstance(manifest, AsyncIterable):
        async for row in manifest:
            yield [row], False
        yield [], True
        return
    rows: Iterator[Row] = iter(manifest)
    last = False
    while not last:
        page = await asyncio.to_thread(lambda: list(islice(rows, PAGE)))
        last = len(page) < PAGE  # stated with this page, whose files may take days
        yield page, last


def first_expiry(entries: Iterable[Entry]) -> float | None:
    """Return the earliest expiry of the signed links of `entries` in Unix seconds, None if none is known."""
    signed = (url for entry in entries for url in entry.urls if "?" in url)
    return min(filter(None, map(urls.expiry, signed)), default=None)


def expiries(entries: Iterable[Entry]) -> tuple[float | None, int | None]:
    """Return what is known of the signed links of some files.

    Returns:
        The earliest expiry in Unix seconds, None if none is known; and the bytes of the files whose links
        expire, None if the size of one of them is not known.
    """
    first: float | None = None
    total: int | None = 0
    for entry in entries:
        if any("?" in url for url in entry.urls) and (when := first_expiry([entry])) is not None:
            first = when if first is None else min(first, when)
            total = None if total is None or entry.size is None else total + entry.size
    return first, total
