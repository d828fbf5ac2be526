"""Checksum lists on servers as a SOURCE: the files beside the list, with their digests.

PhysioNet, Wikimedia and the distributions publish `SHA256SUMS` beside their files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from ..model.errors import FetchError, ManifestError
from ..model.urls import encoded, shown
from . import checksum_lines
from .blocks import grouped
from .checksum_lines import Listed
from .pages import LIST, Page, Pages, document, refused
from .row_parser import Blocks, Numbered, broken, read_row

_SAFE: Final = "/!$&'()*+,;=:@~"  # what a path may hold beside letters, digits and -._ (RFC 3986)


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
        page = pages.get(document(url), judge=checksum_lines.looks_like, most=LIST)
    except FetchError as error:
        raise refused(error, f"the checksum list {shown(url)}") from None
    with page:
        if not checksum_lines.looks_like(page.head()):
            yield [(1, read_row({"url": url}, "URL", 1))]
            return
        yield from grouped(_rows(url, page))


def _rows(url: str, page: Page) -> Iterator[Numbered]:
    parts = urlsplit(encoded(url))
    name = _name(url)
    folder = f"{parts.scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}/"
    # the query stays: it may hold the token that list and files need
    query = f"?{parts.query}" if parts.query else ""
    try:
        # BSD's lists state one file on several lines, one for each algorithm
        by_path: dict[str | None, list[Listed]] = {}
        for each in checksum_lines.parsed(page.lines(), name):
            by_path.setdefault(each.name, []).append(each)
        for path, same in by_path.items():
            yield _row(name, path or checksum_lines.single_name(name), same, folder, query)
    except ManifestError:
        raise
    except ValueError as error:
        raise broken(f"{name}:{error}; this is no checksum list") from None


def _row(name: str, path: str | None, listed: list[Listed], folder: str, query: str) -> Numbered:
    line = listed[0].line
    if path is None:
        return line, ManifestError(
            f"{name}:{line}: a value without a name; pass the file's URL, and the list as --checksums"
        )
    values: dict[str, Any] = {each.digest.algorithm: each.digest.hex for each in listed}
    values |= {"url": f"{folder}{quote(path, safe=_SAFE)}{query}", "path": path}
    return line, read_row(values, name, line)


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])
