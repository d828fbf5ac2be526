"""Finds the sources that a SOURCE names: files, the listing of a service, a server's page, an iterable.

What reads one kind of source is imported only for it: imports take most of the time in which the command line
starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote

from ..model import urls
from ..model.dataclasses import dataclass
from ..model.settings import S3
from ..s3.address import is_objects
from .pages import Pages
from .reading import Objects, Reading
from .row_parser import Blocks, Numbered, RawRow, any_row, broken, read_row
from .select import Selection

if TYPE_CHECKING:
    import pandas

_BLOCK: Final = 256  # rows per block of an iterable
_ROW: Final = 64  # bytes that a row of a DataFrame or a list counts as
_BARE_HOST: Final = re.compile(r"https?://[^/?#]+")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
# The name of every checksum list contains one of these; other names are not looked at more closely.
OF_LISTS: Final = ("md5", "sha", "b2", "blake", "checksum", "hash")


@dataclass(frozen=True, slots=True)
class Source:
    """One source of rows.

    Attributes:
        name: its name for messages.
        read: reads its rows; can be called again if `size` is known.
        size: bytes as it is stored, None if it can be read only once or is a listing.
    """

    name: str
    read: Callable[[], Blocks]
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """How sources on servers are listed.

    Attributes:
        selection: rows that do not belong to SA-1B are kept only if its globs ask for them.
        pages: gets the lists and pages of sources on servers.
        depth: levels of folders that are read below a folder page.
        own_headers: whether the user gave headers, which no other origin may receive.
        s3: how buckets are reached.
    """

    selection: Selection
    pages: Pages
    depth: int
    own_headers: bool
    s3: S3 = S3()


def sources_of(source: object, how: Listing, reading: Reading) -> list[Source]:
    """Return the sources that a SOURCE names.

    Args:
        source: a SOURCE string, a Path, a DataFrame, or an iterable of entries, URLs or dicts.
        how: how sources on servers are listed.
        reading: shared by all readers.

    Raises:
        ManifestError: the source does not exist, or is no manifest.
    """
    if isinstance(source, str) and (found := _on_servers(source, how, reading)):
        return found
    if isinstance(source, (str, Path)):
        return _files(source, how, reading)
    if type(source).__name__ == "DataFrame":
        from . import table

        data = cast("pandas.DataFrame", source)
        return [Source("DataFrame", lambda: table.frame(data, reading), len(data) * _ROW)]
    if isinstance(source, Iterable):
        known = len(source) * _ROW if isinstance(source, (list, tuple)) else None
        return [Source("manifest", lambda: _grouped(source, reading), known)]
    raise broken(
        f"a {type(source).__name__} is not a manifest; pass a SOURCE, a DataFrame, or an iterable of Entry"
    )


def _files(source: str | Path, how: Listing, reading: Reading) -> list[Source]:
    """Return the files that a path, a glob or `-` names."""
    from .formats import part_files, rows_of_file
    from .opening import STDIN

    parts = [STDIN] if source == STDIN else part_files(source)
    files = [file for part in parts for file in rows_of_file(part, how.selection, reading)]
    return [Source(file.name, read, file.size) for file, read in files]


def _on_servers(source: str, how: Listing, reading: Reading) -> list[Source]:
    """Return the source that an address names; none if `source` is the path of a file."""
    if source.startswith("hf://"):
        from . import huggingface

        huggingface.HubAddress.parse(source)
        return [Source(source, lambda: huggingface.listing(source))]
    if source.startswith("modelscope://"):
        from . import modelscope

        modelscope.ModelScopeAddress.parse(source)
        return [Source(source, lambda: modelscope.listing(source, how.pages))]
    if source.startswith("gdrive://"):
        from . import gdrive

        gdrive.check_address(source)
        gdrive.check_client()
        return [Source(source, lambda: gdrive.listing(source, how.pages))]
    if is_objects(source):
        from . import buckets

        buckets.ObjectAddress.parse(source)
        return [Source(source, lambda: buckets.listing(source, how.s3, reading.note))]
    if source.lower().startswith(("http://", "https://")):
        return [_url(urls.encoded(source), how, reading)]
    if (scheme := _SCHEME.match(source)) and not Path(source).exists():
        raise broken(_unsupported(scheme[1].lower(), source))
    return []


def _url(url: str, how: Listing, reading: Reading) -> Source:
    """Return the rows of a URL: a folder page, a checksum list, or the file itself."""
    if _BARE_HOST.fullmatch(url):
        url += "/"
    if url.endswith("/") and "?" not in url and "#" not in url:
        from . import folder_pages

        notes, depth, own = reading.notes, how.depth, how.own_headers
        return Source(
            urls.shown(url),
            lambda: folder_pages.files(url, how.pages, notes, depth=depth, own_headers=own),
        )
    if any(word in unquote(url).lower() for word in OF_LISTS):
        from . import remote_sums

        if remote_sums.is_candidate(url):
            shown = urls.shown(url)
            reading.note(f"{shown} is read as a checksum list: the files beside it, with their digests")
            return Source(shown, lambda: remote_sums.files(url, how.pages))
    return Source("URL", lambda: iter([[(1, read_row({"url": url}, "URL", 1))]]), 0)


def _unsupported(scheme: str, source: str) -> str:
    """Return the message for a SOURCE whose scheme is not supported."""
    shown = urls.shown(source)
    if scheme in ("http", "https"):
        return f"{shown}: not a URL; write {scheme}:// with two slashes"
    known = "http://, https://, s3://, gs://, hf://, modelscope:// and gdrive://"
    return f"{shown}: the scheme {scheme}: is not supported; use {known}, a file or a dataset name"


def _grouped(source: Iterable[object], reading: Reading) -> Blocks:
    objects = Objects(reading, "manifest")
    items = enumerate(source)
    while block := list(islice(items, _BLOCK)):
        yield of_items(block, objects)


def of_items(block: list[tuple[int, object]], objects: Objects) -> list[Numbered]:
    """Return the rows of items of an iterable: entries, URLs, or dicts.

    Args:
        block: pairs of a number and an item.
        objects: reads the dicts.
    """
    dicts = [(number, item) for number, item in block if _is_object(item)]
    rows: dict[int, list[RawRow]] = {}
    for number, row in objects.rows(dicts):
        rows.setdefault(number, []).append(row)
    return [(number, row) for number, item in block for row in rows.get(number) or [any_row(item, number)]]


def _is_object(item: object) -> bool:
    return isinstance(item, Mapping) and all(isinstance(key, str) for key in item)
