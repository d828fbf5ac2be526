"""Google Drive: public folders and files, read with gdown (docs/sources.md, "Google Drive").

Drive answers a file's link with the file, or with a confirmation page that contains a second link to the
file. The second link expires within an hour; the first one is then requested again, at the same byte.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from ..model.digest import Digest
from ..model.entry import entry
from ..model.errors import (
    CredentialsError,
    FetchError,
    ManifestError,
    NetworkError,
    QuotaExceededError,
    Remedy,
    StatusError,
    TransferError,
)
from ..model.http import Request
from ..model.protocols import Row
from ..model.urls import shown
from .extras import need
from .pages import Pages
from .row_parser import Blocks, broken

_ADDRESS: Final = r"gdrive://(?P<kind>folders|files)/(?P<id>[A-Za-z0-9_-]{10,})/?"
_HOSTS: Final = frozenset({"drive.google.com", "docs.google.com", "drive.usercontent.google.com"})
_LINK: Final = "https://drive.google.com/uc?id={id}"
_VIEW_PATH: Final = "/embeddedfolderview"  # of the page that shows a folder
_API: Final = "https://www.googleapis.com/drive/v3/files"
_FOLDER: Final = "application/vnd.google-apps.folder"
_QUOTA: Final = rb"(?i)Too many users have viewed or downloaded this file|Quota exceeded"
_QUOTA_LASTS: Final = 24 * 3600.0  # seconds; Drive lifts the quota after up to 24 hours (docs/sources.md)
_BLOCK: Final = 200  # rows per block


def check_address(text: str) -> tuple[str, str]:
    """Parse a `gdrive://` address.

    Returns:
        The kind, `folders` or `files`, and the id.

    Raises:
        ManifestError: `text` is not such an address.
    """
    match = re.fullmatch(_ADDRESS, text)
    if match is None:
        raise broken(f"{shown(text)}: not of the form gdrive://folders/ID or gdrive://files/ID")
    return match["kind"], match["id"]


def check_client() -> None:
    """Check that there is a client that can list: gdown, or the API if GOOGLE_API_KEY is set.

    Raises:
        ManifestError: gdown is not installed.
    """
    if not os.environ.get("GOOGLE_API_KEY"):
        need("gdown", "gdrive", "Google Drive")


def listing(text: str, pages: Pages) -> Blocks:
    """List the files of a public folder, or one file.

    Drive states sizes and digests only to a client with an API key. The key is read from GOOGLE_API_KEY.

    Args:
        text: a `gdrive://` address.
        pages: gets the replies of Drive's API.

    Raises:
        ManifestError: `text` is not such an address, or gdown is needed and not installed.
        CredentialsError: the API key is refused, the folder is not public, or its quota is exhausted.
        NetworkError: Drive cannot be reached, or answers with another error.
    """
    kind, name = check_address(text)
    key = os.environ.get("GOOGLE_API_KEY")
    if key:
        files = _by_key(kind, name, key, pages)
    else:
        files = _by_view(name, pages) if kind == "folders" else _by_gdown(name)
    block: list[tuple[int, Row]] = []
    for number, row in enumerate(files, 1):
        block.append((number, row))
        if len(block) == _BLOCK:
            yield block
            block = []
    yield block


def _entry(path: str, file_id: str, size: int | None = None, digest: Digest | None = None) -> Row:
    try:
        return entry(path, _LINK.format(id=file_id), size, digest)
    except ManifestError as error:
        return error


# without an API key: the folder's page, and gdown


def _by_view(folder: str, pages: Pages) -> Iterator[Row]:
    from . import gdrive_view  # imports a parser of HTML, which few runs need

    check_client()  # the links of large files need it
    for path, item in gdrive_view.files(f"https://drive.google.com{_VIEW_PATH}?id=", folder, pages):
        if item.kind == "document":
            yield ManifestError(
                f"{path}: a document of Google has no bytes to fetch; export it, for example as PDF, and "
                "share the result"
            )
        else:
            yield _entry(path, item.id)


def _by_gdown(name: str) -> Iterator[Row]:
    check_client()
    gdown: Any = import_module("gdown")
    try:
        file = gdown.download(id=name, skip_download=True, quiet=True, use_cookies=False, timeout=60.0)
    except Exception as error:  # gdown raises its own exceptions, and those of requests and bs4
        raise _translated(error, f"gdrive://files/{name}") from None
    yield _entry(str(file.path), str(getattr(file, "id", None) or name))


def _translated(error: Exception, shown: str) -> FetchError:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    if re.search(_QUOTA, why.encode()) or "many accesses" in why:
        return CredentialsError(
            f"{shown}: Drive refuses to list it ({why}): it is not public, or its download quota is "
            "exhausted for up to 24 hours; check its sharing settings, run again later, or look for it on "
            "ModelScope"
        )
    return NetworkError(f"{shown}: Drive cannot be listed ({why})", remedy=Remedy.ABORT)


# with an API key: Drive API v3


def _by_key(kind: str, name: str, key: str, pages: Pages) -> Iterator[Row]:
    fields = "id,name,mimeType,size,md5Checksum,sha256Checksum"
    if kind == "files":
        query = {"fields": fields, "supportsAllDrives": "true"}
        yield _of_api("", _asked(name, f"{_API}/{name}", query, key, pages))
        return
    folders = [("", name)]
    while folders:
        prefix, folder = folders.pop(0)
        asked: dict[str, str] | None = {
            "q": f"'{folder}' in parents and trashed=false",
            "fields": f"nextPageToken,files({fields})",
            "pageSize": "1000",
            "supportsAllDrives": "true",
            "includeItemsFromAllDrives": "true",  # else folders of shared drives list as empty
        }
        while asked is not None:
            page = _asked(folder, _API, asked, key, pages)
            for file in page.get("files", []):
                if file.get("mimeType") == _FOLDER:
                    folders.append((f"{prefix}{file['name']}/", file["id"]))
                else:
                    yield _of_api(prefix, file)
            token = page.get("nextPageToken")
            asked = {**asked, "pageToken": token} if token else None


def _of_api(prefix: str, file: dict[str, Any]) -> Row:
    digest = None
    for algorithm in ("sha256", "md5"):
        if file.get(f"{algorithm}Checksum"):
            digest = digest or Digest(algorithm, str(file[f"{algorithm}Checksum"]).lower())
    size = int(file["size"]) if str(file.get("size", "")).isdigit() else None
    return _entry(prefix + str(file["name"]).replace("/", "_"), str(file["id"]), size, digest)


def _asked(what: str, url: str, query: dict[str, str], key: str, pages: Pages) -> dict[str, Any]:
    request = Request(
        f"{url}?{urlencode(query)}",
        headers=(("X-Goog-Api-Key", key), ("Accept", "application/json")),
        name="listing.json",  # an HTML page in place of it is refused, and asked for again
    )
    try:
        with pages.get(request) as reply:
            return dict(reply.json())
    except StatusError as error:
        if error.status == 404:
            raise CredentialsError(
                f"{what}: Drive knows no such id, or it is not shared with everyone who has the link"
            ) from None
        if error.status in (400, 401, 403):
            raise CredentialsError(
                f"Drive refuses the API key, or the folder is not public (HTTP {error.status}); check "
                "GOOGLE_API_KEY, and whether its quota of requests is used up for now"
            ) from None
        raise NetworkError(
            f"Drive's API answered HTTP {error.status}; run again later", remedy=Remedy.ABORT
        ) from None
    except (TransferError, ValueError) as error:
        raise NetworkError(
            f"Drive's API cannot be reached ({error}); run again later", remedy=Remedy.ABORT
        ) from None


# the page that Drive sends in place of a file


class DriveLeads:
    """Finds the file's link on a page of Drive; see `model.protocols.Leads`.

    Args:
        clock: returns the time in Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def knows(self, url: str) -> bool:
        """Return whether `url` is that of a file on a host of Google Drive."""
        parts = urlsplit(url)
        return parts.hostname in _HOSTS and parts.path != _VIEW_PATH

    def target(self, url: str, page: bytes) -> str:
        """Return the link to the file that a confirmation page contains.

        Args:
            url: the link that Drive answered with the page.
            page: the page's HTML.

        Raises:
            QuotaExceededError: the page states that the file's download quota is exhausted.
            StatusError: the page contains no link to the file, or gdown, which reads it, is not installed.
        """
        if re.search(_QUOTA, page):
            over = time.strftime("%Y-%m-%d %H:%M", time.localtime(self._clock() + _QUOTA_LASTS))
            raise QuotaExceededError(
                "Google Drive: this file's download quota is exhausted for up to 24 hours; "
                f"run the same command again after {over}, or fetch it from ModelScope (AnyText: "
                "modelscope://datasets/iic/AnyText-benchmark)"
            )
        try:
            from gdown.download import get_url_from_gdrive_confirmation
        except ImportError:
            raise StatusError(
                "Google Drive sent a page in place of the file; reading it needs gdown, which is not "
                "installed: pip install 'osp-fetch[gdrive]'",
                status=200,
                remedy=Remedy.FAIL,
            ) from None
        try:
            return str(get_url_from_gdrive_confirmation(page.decode("utf-8", "replace")))
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise StatusError(
                f"Google Drive refuses to download this file ({why}); check that it is shared with everyone",
                status=200,
                remedy=Remedy.FAIL,
            ) from None
