"""The page that Google Drive shows of a public folder (docs/sources.md, "Google Drive")."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final, NamedTuple

from ..model.errors import CredentialsError, FetchError, NetworkError, Remedy, StatusError
from ..model.http import Request
from .pages import Pages

_LINKS: Final = {
    "file": re.compile(r"https://drive\.google\.com/file/d/([\w-]{10,})"),
    "folder": re.compile(r"https://drive\.google\.com/(?:drive/)?(?:u/\d+/)?folders/([\w-]{10,})"),
    "document": re.compile(r"https://docs\.google\.com/\w+/d/([\w-]{10,})"),
}
# Google sends browsers a page that other clients do not get; gdown sends this one, too
_BROWSER: Final = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/98.0.4758.102 Safari/537.36"
)


class Item(NamedTuple):
    """A line of a folder: `kind` is `file`, `folder`, or `document` for one of Google's own formats."""

    kind: str
    id: str
    name: str


def files(view: str, folder: str, pages: Pages) -> Iterator[tuple[str, Item]]:
    """Yield the path and the item of each file and document below a public folder. Blocks.

    Args:
        view: The URL of a folder's page, which an id completes.
        folder: The id of the folder.
        pages: Gets the pages.

    Raises:
        CredentialsError: A folder is not public, or its quota is exhausted; or a page of another kind stands
            in place of its list, such as a login.
        NetworkError: Drive cannot be reached.
    """
    folders, seen = [("", folder)], {folder}
    while folders:
        prefix, ours = folders.pop(0)
        for item in _items(view, ours, prefix, pages):
            path = prefix + (re.sub(r"[/\\\0]", "_", item.name).strip() or "_")
            if item.kind != "folder":
                yield path, item
            elif item.id not in seen:  # a shortcut may lead back
                seen.add(item.id)
                folders.append((f"{path}/", item.id))


def _items(view: str, folder: str, prefix: str, pages: Pages) -> list[Item]:
    shown = f"gdrive://folders/{folder}" + (f" ({prefix.rstrip('/')})" if prefix else "")
    request = Request(f"{view}{folder}", headers=(("User-Agent", _BROWSER),), name="folder.html", sure=True)
    found = _View()
    try:
        with pages.get(request) as page:
            for chunk in page.chunks():
                found.feed(chunk)
    except StatusError as error:
        raise CredentialsError(
            f"{shown}: Drive refuses to list it (HTTP {error.status}): {_REFUSED}"
        ) from None
    except FetchError as error:
        raise NetworkError(f"{shown}: Drive cannot be listed ({error})", remedy=Remedy.ABORT) from None
    found.close()
    if not (found.items or found.is_list):
        raise CredentialsError(f"{shown}: Drive sent another page in place of the list: {_REFUSED}")
    return found.items


_REFUSED: Final = (
    "it is not public, or its download quota is exhausted for up to 24 hours; check its sharing settings, "
    "run again later, or look for it on ModelScope"
)


class _View(HTMLParser):
    """Collects the items of a folder's page, and whether it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Item] = []
        self.is_list = False
        self._link: tuple[str, str] | None = None  # kind and id of the link whose text is collected
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.is_list |= (values.get("class") or "").startswith("flip-")
        if tag == "a":
            matches = ((kind, link.match(values.get("href") or "")) for kind, link in _LINKS.items())
            self._link, self._text = next(((kind, m[1]) for kind, m in matches if m), None), []

    def handle_data(self, data: str) -> None:
        self._text.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._link is not None:
            self.items.append(Item(*self._link, "".join(self._text)))
            self._link = None
