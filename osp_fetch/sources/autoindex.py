"""Folder pages of web servers: nginx, Apache, lighttpd, Caddy, Python's http.server; HTML and JSON.

The page's links are returned as they are; `folder_pages` decides which of them are followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import quote

from ..model.dataclasses import dataclass
from .row_parser import broken

_HEADING: Final = re.compile(
    r"\s*(?:index of|directory listing (?:for|of)|directory:|listing of|contents of)\s+\S", re.IGNORECASE
)
_PARENT: Final = re.compile(
    r"\s*(?:\.\./?|\[?(?:to )?parent directory/?\]?|up to higher level directory)\s*", re.IGNORECASE
)
# links that sort the page: Apache and lighttpd, nginx's fancyindex, Caddy
_SORTING: Final = re.compile(r"\?C=[NMSD](?:[;&]O=[AD])?|\?sort=\w+&order=(?:asc|desc).*")
# nginx writes the date in this form only, and sizes without a unit are bytes
_NGINX_SIZE: Final = re.compile(r"\s+\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d\s+(\d{1,18})\s")
_AFTER: Final = 200  # characters after a link in which a size is looked for
_LONGEST: Final = 1 << 20  # characters of one tag or one JSON object


@dataclass(slots=True)
class Link:
    """A link of a folder page.

    Attributes:
        href: the reference as the page states it, percent-encoded, relative or absolute.
        size: bytes of the file, None unless the page states the exact number.
    """

    href: str
    size: int | None = None


def is_folder_page(head: str) -> bool:
    """Return whether a document that begins with `head` is a folder page."""
    if head.lstrip().startswith("["):
        return _is_json(head)
    if "<" not in head[:1000]:
        return False
    parser = _Parser()
    parser.feed(head)
    return parser.is_folder_page


def links(chunks: Iterable[str], head: str) -> Iterator[Link]:
    """Yield the links of a folder page, in its order.

    Args:
        chunks: the page's text.
        head: its beginning, which shows whether it is JSON.

    Raises:
        ManifestError: the page is no valid JSON, or one tag is longer than a mebibyte.
    """
    yield from _json_links(chunks) if head.lstrip().startswith("[") else _html_links(chunks)


def _html_links(chunks: Iterable[str]) -> Iterator[Link]:
    parser = _Parser()
    for chunk in chunks:
        parser.feed(chunk)
        if len(parser.rawdata) > _LONGEST:
            raise broken("the folder page has a tag without an end; open it in a browser to see what it is")
        yield from parser.taken()
    parser.close()
    yield from parser.taken(last=True)


class _Parser(HTMLParser):
    """Collects the links of a page, and what shows that it is a folder page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)  # else a text without tags is held until its end
        self.is_folder_page = False
        self._found: list[Link] = []
        self._in: str = ""  # the element whose text is collected: title, h1 or a
        self._text = ""
        self._after: str | None = None  # text after the last link

    def taken(self, *, last: bool = False) -> list[Link]:
        """Return the links found since the last call; the last link may still wait for its size."""
        keep = 0 if last else 1
        taken = self._found[: len(self._found) - keep]
        del self._found[: len(taken)]
        return taken

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_of_text()
        values = dict(attrs)
        if tag == "a" and (href := values.get("href")):
            self.is_folder_page |= _SORTING.fullmatch(href) is not None
            self._found.append(Link(href))
        elif tag == "td" and "size" in (values.get("class") or "").split() and self._found:
            stated = values.get("data-size") or values.get("data-order") or ""  # Caddy
            if re.fullmatch(r"\d{1,18}", stated):
                self._found[-1].size = int(stated)
        if tag in ("title", "h1", "a"):
            self._in, self._text = tag, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            marks = _PARENT if tag == "a" else _HEADING
            match = marks.fullmatch(self._text) if tag == "a" else marks.match(self._text)
            self.is_folder_page |= match is not None
            self._in = ""
        self._end_of_text()
        if tag == "a":
            self._after = ""

    def handle_data(self, data: str) -> None:
        if self._in and len(self._text) < _AFTER:
            self._text += data[:_AFTER]
        if self._after is not None and len(self._after) < _AFTER:
            self._after += data[:_AFTER]

    def close(self) -> None:
        """Process what is left."""
        super().close()
        self._end_of_text()

    def _end_of_text(self) -> None:
        """Take the size that stands after the last link, as nginx writes it."""
        if self._after and self._found and (size := _NGINX_SIZE.match(self._after)):
            self._found[-1].size = int(size[1])
        self._after = None


# JSON: nginx with `autoindex_format json`, and Caddy for `Accept: application/json`


def _is_json(head: str) -> bool:
    first = next(_objects([head], strict=False), None)
    return isinstance(first, dict) and "name" in first and ("type" in first or "is_dir" in first)


def _json_links(chunks: Iterable[str]) -> Iterator[Link]:
    for each in _objects(chunks, strict=True):
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise broken("the folder page is JSON, but not a list of objects with names; it cannot be read")
        folder = each.get("type") == "directory" or each.get("is_dir") is True
        if folder or each.get("type", "file") == "file":
            size = each.get("size")
            exact = isinstance(size, int) and not isinstance(size, bool) and size >= 0 and not folder
            href = "./" + quote(each["name"].rstrip("/")) + "/" * folder
            yield Link(href, size if exact else None)


def _objects(chunks: Iterable[str], *, strict: bool) -> Iterator[Any]:
    """Yield the members of a JSON array while it is read.

    Args:
        chunks: the text.
        strict: whether a text that ends within the array is an error.
    """
    decode, text = json.JSONDecoder().raw_decode, ""
    for chunk in chunks:
        text += chunk
        at = 0
        while True:
            at = re.compile(r"[\s,\[]*").match(text, at).end()  # type: ignore[union-attr]
            if text.startswith("]", at):
                return
            try:
                each, at = decode(text, at)
            except ValueError:
                break
            yield each
        text = text[at:]
        if len(text) > _LONGEST:
            break
    if strict:
        raise broken("the folder page is JSON, but is cut or not valid; it cannot be read")
