"""Links to pages that people paste in place of the file's own address.

A browser shows a page about a file, and its address is what people copy. The services below document how the
file's address follows from it (docs/sources.md, "Links to pages"). Only such links are rewritten; a page of
any other service is refused when it arrives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

from ..model.dataclasses import dataclass
from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.urls import shown
from .row_parser import Numbered, RawRow, Unnamed

HUB: Final = "Hugging Face"
DRIVE: Final = "Google Drive"
# Patterns are compiled when a link needs them: few runs have such a link.
# `host[:port]` of the hub → what its paths begin with
_HUBS: Final[Mapping[str, str]] = {"huggingface.co": "", "www.huggingface.co": "", "hf.co": ""}
_HUB_FILE: Final = r"(/(?:(?:datasets|spaces)/)?[^/]+(?:/[^/]+)?)/blob/([^/]+/.*[^/])"
_HUB_REPO: Final = (
    r"/(?P<kind>datasets/)?(?P<repo>[A-Za-z0-9._-]+/[A-Za-z0-9._-]+)"
    r"(?:/tree/(?P<rev>refs/convert/[^/]+|refs/pr/\d+|[^/]+)(?P<path>/.*)?)?/?"
)
# first components of paths that name no owner of a model
_HUB_PAGES: Final = frozenset(
    {
        *("api", "blog", "buckets", "chat", "collections", "datasets", "docs", "join", "learn", "login"),
        *("models", "new", "organizations", "papers", "posts", "pricing", "settings", "spaces", "tasks"),
    }
)
_GIT_FILE: Final = r"(/[^/]+/[^/]+)/blob/([^/]+/.*[^/])"
_GITLAB_FILE: Final = r"(/.+/-)/blob/([^/]+/.*[^/])"
_DRIVE_FILE: Final = r"(?a)(?:/a/[^/]+)?/file(?:/u/\d+)?/d/(?P<id>[\w-]{10,})(?:/.*)?"
_DRIVE_FOLDER: Final = r"(?a)(?:/a/[^/]+)?/drive(?:/u/\d+|/mobile)*/folders/(?P<id>[\w-]{10,})/?"
_DROPBOX_FILE: Final = r"/(?:s/[^/]+|scl/fi/[^/]+)/[^/]+"


@dataclass(frozen=True, slots=True)
class Page:
    """What the address of a page stands for.

    Attributes:
        service: the name of the service, for messages.
        link: the file's address; empty if the page is that of a folder.
        source: the SOURCE that lists the same file or folder; empty if there is none.
    """

    service: str
    link: str = ""
    source: str = ""


def page_of(url: str, hubs: Mapping[str, str] = _HUBS) -> Page | None:
    """Return what a link to a page stands for, None if `url` is no such link.

    Args:
        url: an http(s) link.
        hubs: `host[:port]` of the Hugging Face Hub and its mirror → what paths there begin with.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    host = parts.netloc.lower()
    if host in hubs:
        return _hub_page(parts, hubs[host])
    if host in ("github.com", "www.github.com"):
        return _raw_page("GitHub", parts, _GIT_FILE)
    if host == "gitlab.com":
        return _raw_page("GitLab", parts, _GITLAB_FILE)
    if host == "drive.google.com":
        return _drive_page(parts)
    if host in ("dropbox.com", "www.dropbox.com"):
        return _dropbox_page(parts)
    return None


def _hub_page(parts: SplitResult, prefix: str) -> Page | None:
    path = parts.path.removeprefix(prefix) if parts.path.startswith(prefix) else ""
    if match := re.fullmatch(_HUB_FILE, path):
        return Page(HUB, _with_path(parts, f"{prefix}{match[1]}/resolve/{match[2]}"))
    match = re.fullmatch(_HUB_REPO, path)
    if match is None or (not match["kind"] and match["repo"].partition("/")[0] in _HUB_PAGES):
        return None
    revision = f"@{match['rev']}" if match["rev"] else ""
    below = unquote(match["path"] or "").strip("/")
    return Page(
        HUB, source=f"hf://{match['kind'] or ''}{match['repo']}{revision}{'/' + below if below else ''}"
    )


def _raw_page(service: str, parts: SplitResult, form: str) -> Page | None:
    match = re.fullmatch(form, parts.path)
    return Page(service, _with_path(parts, f"{match[1]}/raw/{match[2]}")) if match else None


def _with_path(parts: SplitResult, path: str) -> str:
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _drive_page(parts: SplitResult) -> Page | None:
    query = parse_qs(parts.query)
    key = query.get("resourcekey", [""])[0]  # needed beside the id of files from before September 2021
    if match := re.fullmatch(_DRIVE_FOLDER, parts.path):
        return Page(DRIVE, source=f"gdrive://folders/{match['id']}")
    match = re.fullmatch(_DRIVE_FILE, parts.path)
    name = match["id"] if match else query.get("id", [""])[0] if parts.path == "/open" else ""
    if not re.fullmatch(r"[\w-]{10,}", name, re.ASCII):
        return None
    link = f"https://drive.google.com/uc?id={name}{'&resourcekey=' + key if key else ''}"
    return Page(DRIVE, link, f"gdrive://files/{name}" if match and not key else "")


def _dropbox_page(parts: SplitResult) -> Page | None:
    pairs = [pair for pair in parts.query.split("&") if pair]
    if not re.fullmatch(_DROPBOX_FILE, parts.path) or {"dl=1", "raw=1"}.intersection(pairs):
        return None
    query = "&".join([*(pair for pair in pairs if not pair.startswith("dl=")), "dl=1"])
    return Page("Dropbox", urlunsplit((parts.scheme, parts.netloc, parts.path, query, "")))


@dataclass(slots=True)
class PageLinks:
    """Rewrites links to pages, and counts them for the report.

    Args:
        environment: the environment variables; HF_ENDPOINT names a mirror of the hub.
    """

    environment: Mapping[str, str]
    _hubs: Mapping[str, str] = field(init=False)
    _rewritten: Counter[str] = field(init=False, default_factory=Counter)  # links by service
    _example: str = field(init=False, default="")  # the first link that was rewritten
    _sources: list[str] = field(init=False, default_factory=list)  # sentences

    def __post_init__(self) -> None:
        mirror = urlsplit(self.environment.get("HF_ENDPOINT", ""))
        self._hubs = {**_HUBS, mirror.netloc.lower(): mirror.path.rstrip("/")} if mirror.netloc else _HUBS

    def source(self, source: object) -> object:
        """Return the SOURCE that a link to a page of a folder or a file stands for, else `source` itself."""
        if not isinstance(source, str) or not source.lower().startswith(("http://", "https://")):
            return source
        page = page_of(source, self._hubs)
        if page is None or not page.source:
            return source
        self._sources.append(f"{shown(source)} is a page of {page.service}; it was taken as {page.source}")
        return page.source

    def block(self, where: str, rows: Iterable[Numbered]) -> Iterator[Numbered]:
        """Yield numbered rows, with links to files in place of links to their pages.

        Args:
            where: the manifest's name for messages.
            rows: pairs of a line and a row.
        """
        for line, row in rows:
            yield line, self.row(where, line, row)

    def row(self, where: str, line: int, row: RawRow) -> RawRow:
        """Return a row with links to files in place of links to their pages.

        Args:
            where: the manifest's name for messages.
            line: the row's line or number for messages.
            row: the row.

        Returns:
            The row, or a ManifestError if one of its links leads to a folder.
        """
        if isinstance(row, ManifestError):
            return row
        for url in row.urls:
            # most rows of ten million are no page of a known service, and are not parsed
            if "/blob/" in url or "drive.google.com/" in url or "dropbox.com/" in url:
                return self._rewritten_row(where, line, row)
        return row

    def _rewritten_row(self, where: str, line: int, row: Entry | Unnamed) -> RawRow:
        links, services = [], []
        for url in row.urls:
            page = page_of(url, self._hubs)
            if page is not None and not page.link and page.service == DRIVE:
                return ManifestError(
                    f"{where}:{line}: {shown(url)} is a folder, not a file; pass {page.source} as a SOURCE "
                    "of its own"
                )
            services += [page.service] if page is not None and page.link else []
            links.append(page.link if page is not None and page.link else url)
        if not services:
            return row
        self._rewritten.update(services)
        self._example = self._example or next(
            new for new, old in zip(links, row.urls, strict=True) if new != old
        )
        return replace(row, urls=tuple(links))

    def notes(self) -> list[str]:
        """Return the sentences for the report; complete once all rows were read."""
        counts = [
            f"{count} {'link' if count == 1 else 'links'} of {service} pages"
            for service, count in self._rewritten.most_common()
        ]
        if not counts:
            return self._sources
        were = "was" if self._rewritten.total() == 1 else "were"
        file = "file's address" if were == "was" else "files' addresses"
        # the value of dl tells nothing secret, unlike the rest of a query
        example = shown(self._example) + (" with dl=1" if "dl=1" in self._example else "")
        said = f"{' and '.join(counts)} {were} rewritten to the {file}"
        return [*self._sources, f"{said}: {example}" if were == "was" else f"{said}, such as {example}"]
