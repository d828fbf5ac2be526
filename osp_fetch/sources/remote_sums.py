"""Checksum lists on servers as a SOURCE: the files beside the list, with their digests.

PhysioNet, Wikimedia and the distributions publish `SHA256SUMS` beside their files.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..model.errors import FetchError, ManifestError
from ..model.urls import shown
from . import checksum_lines
from .blocks import grouped
from .checksum_lines import Listed
from .pages import LIST, Page, Pages, document, refused
from .row_parser import Blocks, Numbered, broken, read_row


def is_candidate(url: str) -> bool:
    """Return whether a URL is named as checksum lists are; its content decides."""
    return checksum_lines.is_list_name(_name(url))


def files(url: str, pages: Pages) -> Blocks:
    """Read one row for each file that the list at `url` names; its own row, if it is no checksum list.

    Args:
        url: the URL of the list. The files are beside it, also where a redirect leads elsewhere.
        pages: gets the list.

    Raises:
        ManifestError: the server has no such file, or a line is of no known form.
        CredentialsError: the server refuses to show the list.
        NetworkError: the list cannot be read.
    """
    try:
        page = pages.get(document(url), most=LIST)
    except FetchError as error:
        raise refused(error, f"the checksum list {shown(url)}") from None
    with page:
        if not checksum_lines.looks_like(page.head()):
            yield [(1, read_row({"url": url}, "URL", 1))]
            return
        yield from grouped(_rows(url, page))


def _rows(url: str, page: Page) -> Iterator[Numbered]:
    name = _name(url)
    try:
        # BSD's lists state one file on several lines, one for each algorithm
        for _, same in groupby(checksum_lines.parsed(page.lines(), name), lambda each: each.name):
            listed = list(same)
            yield listed[0].line, _row(url, name, listed)
    except ManifestError:
        raise
    except ValueError as error:
        raise broken(f"{name}:{error}; this is no checksum list") from None


def _row(url: str, name: str, listed: list[Listed]) -> Any:
    line = listed[0].line
    path = listed[0].name or checksum_lines.single_name(name)
    if path is None:
        return ManifestError(
            f"{name}:{line}: a value without a name; pass the file's URL, and the list as --checksums"
        )
    values: dict[str, Any] = {each.digest.algorithm: each.digest.hex for each in listed}
    return read_row({**values, "url": _beside(url, path), "path": path}, name, line)


def _beside(url: str, path: str) -> str:
    """Return the URL of `path`, relative to the folder of the list at `url`."""
    parts = urlsplit(url)
    folder = parts.path.rpartition("/")[0]
    # the query stays: it may hold the token that both need
    return urlunsplit((parts.scheme, parts.netloc, f"{folder}/{quote(path, safe=_SAFE)}", parts.query, ""))


_SAFE = "/!$&'()*+,;=:@~"


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])
