"""Folders of web servers as a SOURCE: their pages are read, and the pages of the folders below."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from ..model.entry import STATE_FOLDER
from ..model.errors import FetchError, ManifestError
from ..model.urls import encoded, origin, shown
from . import autoindex
from .blocks import grouped
from .pages import DEPTH, Page, Pages, document, refused
from .row_parser import Blocks, Numbered, RawRow, broken, read_row

_BATCH: Final = 16  # folder pages that are asked for together
# names that need no further check: most links of a page, at a tenth of the cost
_PLAIN: Final = re.compile(r"\w[\w.~-]*/?", re.ASCII)


def files(
    url: str, pages: Pages, notes: list[str], *, depth: int = DEPTH, own_headers: bool = False
) -> Blocks:
    """Read one row for each file below a folder; the URL's own row, if its page is no folder page.

    Only links below the folder's own URL are followed. Sizes are taken only where a page states them exactly.

    Args:
        url: the folder's URL.
        pages: gets the pages.
        notes: receives a sentence if folders are left out.
        depth: levels of folders; 1 reads the page of `url` only.
        own_headers: whether the user gave headers, which no other origin may receive.

    Raises:
        ManifestError: the server has no such page, or it leads to another origin although headers were given.
        CredentialsError: the server refuses to show the page.
        NetworkError: the page cannot be read.
    """
    what = f"the folder page {shown(url)}"
    try:
        page = pages.get(document(url), judge=autoindex.is_folder_page)
    except FetchError as error:
        raise refused(error, what) from None
    with page:
        if not autoindex.is_folder_page(page.head()):
            yield [(1, read_row({"url": url}, "URL", 1))]
            return
        if own_headers and origin(page.url) != origin(url):
            raise broken(
                f"{what} leads to {shown(page.url)}, another origin, which does not receive the headers; "
                "pass that URL instead"
            )
        notes.append(f"{what} is read: the files in it and below, to a depth of {depth}")
        walk = _Walk(page.url, pages, depth)
        yield from walk.files_of(page)
    yield from walk.folders_below()
    notes += walk.notes()


class _Walk:
    """The walk below one folder.

    Args:
        root: the URL of the folder's page; the folder ends at the last slash of its path.
        pages: gets the pages.
        depth: levels of folders.
    """

    def __init__(self, root: str, pages: Pages, depth: int) -> None:
        self._root = _folder(root)
        self._pages, self._depth = pages, depth
        self._waiting: deque[str] = deque()
        self._seen = {self._root}
        self._too_deep: set[str] = set()

    def folders_below(self) -> Blocks:
        """Yield the files of all folders below, a batch of pages at a time."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            with ExitStack() as stack:
                requests = [document(folder) for folder in batch]
                found = self._pages.get_all(requests, judge=autoindex.is_folder_page)
                for page in found:
                    if isinstance(page, Page):
                        stack.enter_context(page)
                for folder, page in zip(batch, found, strict=True):
                    yield from self._files_below(folder, page)

    def _files_below(self, folder: str, page: Page | FetchError) -> Blocks:
        """Yield the files of one folder, or an error in their place, which does not end the walk."""
        if isinstance(page, FetchError):
            why = f"its page cannot be read ({page})"
        elif not _folder(page.url).startswith(self._root):
            why = f"its page leads out of the SOURCE, to {shown(page.url)}"
        elif not autoindex.is_folder_page(page.head()):
            why = "the server shows another page in place of the folder's"
        else:
            yield from self.files_of(page)
            return
        yield [
            (1, ManifestError(f"{shown(folder)}: {why}; its files are not fetched: check it in a browser"))
        ]

    def files_of(self, page: Page) -> Blocks:
        """Yield the files of one page, and note its folders."""
        try:
            yield from grouped(self._rows(page))
        except ManifestError as error:
            yield [(1, ManifestError(f"{shown(page.url)}: {error}"))]

    def _rows(self, page: Page) -> Iterator[Numbered]:
        where = shown(page.url)
        here = _folder(page.url)
        seen = set()  # pages link a file twice: by its icon, and by its name
        for number, link in enumerate(autoindex.links(page.chunks(), page.head()), 1):
            below = self._below(here, link.href)
            if below is None or below in seen:
                continue
            if below.endswith("/"):
                self._note_folder(below)
                continue
            seen.add(below)
            yield number, self._row(below, link.size, where, number)

    def _below(self, page: str, href: str) -> str | None:
        """Return what a link has below the root; None for a link that leads elsewhere, or sorts the page."""
        if _PLAIN.fullmatch(href) and page.startswith(self._root):
            return page[len(self._root) :] + href
        try:
            target = encoded(urljoin(page, href.strip()))
            parts = urlsplit(target)
        except ValueError:
            return None
        target = target.partition("#")[0]
        if parts.query or target.endswith("?") or not target.startswith(self._root) or target == self._root:
            return None
        return target[len(self._root) :]

    def _note_folder(self, below: str) -> None:
        folder = self._root + below
        names = below.split("/")[:-1]
        if folder in self._seen or any(map(_is_hostile, names)) or STATE_FOLDER in map(unquote, names):
            return  # of a mirror that osp-fetch has made, its own records are no files
        if below.count("/") >= self._depth:
            self._too_deep.add(below)
            return
        self._seen.add(folder)
        self._waiting.append(folder)

    def _row(self, below: str, size: int | None, where: str, number: int) -> RawRow:
        names = below.split("/")
        if any(map(_is_hostile, names)):
            return ManifestError(
                f"{where}: the page's link {below[:100]!r} leads out of its folder; it is left out"
            )
        return read_row({"url": self._root + below, "path": unquote(below), "size": size}, where, number)

    def notes(self) -> list[str]:
        """Return a sentence if folders were left out."""
        if not self._too_deep:
            return []
        count, example = len(self._too_deep), min(self._too_deep)
        return [
            f"{count} folders below {shown(self._root)} are deeper than --depth {self._depth} and were left "
            f"out, such as {shown(example)}; pass a larger --depth to fetch them"
        ]


def _is_hostile(name: str) -> bool:
    """Return whether a name, once decoded, would be a step to another folder."""
    decoded = unquote(name)
    return decoded in ("", ".", "..") or "/" in decoded or "\\" in decoded  # browsers take \ for /


def _folder(page: str) -> str:
    """Return the URL of the folder that a page shows, with a slash at its end."""
    parts = urlsplit(encoded(page))
    return f"{parts.scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}/"
