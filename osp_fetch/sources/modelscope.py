"""ModelScope: lists a dataset repository's files, page by page (docs/sources.md, "ModelScope")."""

from __future__ import annotations

import os
import re
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from ..model.dataclasses import dataclass
from ..model.digest import Digest
from ..model.entry import entry
from ..model.errors import (
    CredentialsError,
    FetchError,
    ManifestError,
    NetworkError,
    Remedy,
    StatusError,
    TransferError,
)
from ..model.http import Request
from ..model.protocols import Row
from ..model.urls import redact, shown
from .pages import Pages
from .row_parser import Blocks, broken
from .select import matches

_ADDRESS: Final = re.compile(
    r"modelscope://datasets/(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<rev>[^/\s]+))?(?:/(?P<glob>.*))?"
)
_PAGE: Final = 200  # files per page
_SOMETIMES: Final = (403,)  # ModelScope sometimes answers this to a valid page; long listings meet that


@dataclass(frozen=True, slots=True)
class ModelScopeAddress:
    """An address `modelscope://datasets/OWNER/NAME[@REV][/GLOB]`.

    Attributes:
        repo: `OWNER/NAME`.
        revision: a branch, tag or commit; `master` by default.
        glob: selects files; empty selects all.
    """

    repo: str
    revision: str
    glob: str

    @classmethod
    def parse(cls, text: str) -> ModelScopeAddress:
        """Parse a `modelscope://` address.

        Raises:
            ManifestError: `text` is not such an address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise broken(f"{shown(text)}: not of the form modelscope://datasets/OWNER/NAME[@REV][/GLOB]")
        return cls(match["repo"], unquote(match["rev"] or "master"), match["glob"] or "")

    def __str__(self) -> str:
        return f"modelscope://datasets/{self.repo}@{self.revision}"


def listing(text: str, pages: Pages) -> Blocks:
    """List the files of a repository, with their sizes and, if ModelScope states it, their SHA-256.

    MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN are read from the environment.

    Args:
        text: a `modelscope://` address.
        pages: gets the pages of the listing.

    Raises:
        ManifestError: `text` is not such an address, the dataset or revision does not exist, or the glob
            matches no file.
        CredentialsError: the dataset is private or gated, or the token is refused.
        NetworkError: ModelScope cannot be reached, or answers with another error.
    """
    address = ModelScopeAddress.parse(text)
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "").rstrip("/") or "https://modelscope.cn"
    if "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    token = os.environ.get("MODELSCOPE_API_TOKEN")
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
    number = page = named = 0
    while True:
        page += 1
        files = _page(address, pages, f"{endpoint}/api/v1/datasets/{address.repo}/repo/tree", headers, page)
        block: list[tuple[int, Row]] = []
        for file in files:
            number += 1
            path = str(file.get("Path") or "")
            if file.get("Type") != "tree" and (not address.glob or matches(path, address.glob)):
                block.append((number, _row(address, endpoint, headers, path, file)))
        named += len(block)
        yield block
        if len(files) < _PAGE:
            break
    if address.glob and not named:
        raise broken(f"{address.glob!r} matches no file of {address}; check the path")


def _row(
    address: ModelScopeAddress, endpoint: str, headers: dict[str, str], path: str, file: dict[str, Any]
) -> Row:
    query = urlencode({"Revision": address.revision, "FilePath": path}, quote_via=quote, safe="")
    sha256 = str(file.get("Sha256") or "").strip().lower()
    try:
        size = int(file["Size"]) if file.get("Size") is not None else None
        digest = Digest("sha256", sha256) if re.fullmatch(r"[0-9a-f]{64}", sha256) else None
        return entry(path, f"{endpoint}/api/v1/datasets/{address.repo}/repo?{query}", size, digest, headers)
    except (ManifestError, ValueError, TypeError) as error:
        return error if isinstance(error, ManifestError) else ManifestError(f"{path}: {error}")


def _page(
    address: ModelScopeAddress, pages: Pages, url: str, headers: dict[str, str], page: int
) -> list[dict[str, Any]]:
    query = urlencode(
        {"Revision": address.revision, "Recursive": "True", "PageNumber": page, "PageSize": _PAGE}
    )
    request = Request(
        f"{url}?{query}",
        headers=tuple({"Accept": "application/json", **headers}.items()),
        name="listing.json",  # an HTML page in place of it is refused, and asked for again
    )
    try:
        return _read_page(address, pages, request, page)
    except TransferError as error:
        if isinstance(error, StatusError):
            raise _refused(address, error.status, page) from None
        raise NetworkError(
            f"{address}: page {page} of the listing cannot be read ({error}); run again later",
            remedy=Remedy.ABORT,
        ) from None


def _read_page(address: ModelScopeAddress, pages: Pages, request: Request, page: int) -> list[dict[str, Any]]:
    if page == 1:  # two refusals of the first page are final: the dataset is private or does not exist
        try:
            reply = pages.get(request)
        except StatusError as error:
            if error.status not in _SOMETIMES:
                raise
            reply = pages.get(request)
    else:
        reply = pages.get(request, passing=_SOMETIMES)
    with reply:
        try:
            return _files(address, reply.json())
        except ValueError as error:
            raise TransferError(f"the reply is not the JSON of a listing: {error}") from None


def _files(address: ModelScopeAddress, said: Any) -> list[dict[str, Any]]:
    """Return the files of one page. HTTP 200 with `Success: false` is a permanent error."""
    if not isinstance(said, dict) or said.get("Success") is False or said.get("Code", 200) != 200:
        why = redact(str(said.get("Message") if isinstance(said, dict) else said))[:200]
        raise broken(f"{address}: ModelScope refuses to list it ({why}); check the name and the revision")
    data = said.get("Data") or {}
    files = data if isinstance(data, list) else data.get("Files") or []
    if not all(isinstance(file, dict) for file in files):
        raise ValueError("the files in the reply are not JSON objects")
    return list(files)


def _refused(address: ModelScopeAddress, status: int, page: int) -> FetchError:
    if status in (401, 403):
        return CredentialsError(
            f"{address}: ModelScope refuses page {page} of the listing (HTTP {status}): the dataset is "
            "private or gated, or does not exist; check the name, or set MODELSCOPE_API_TOKEN"
        )
    if status == 404:
        return broken(f"{address}: ModelScope has no such dataset or revision; check both")
    return NetworkError(
        f"{address}: ModelScope answered HTTP {status} to page {page} of the listing; run again later",
        remedy=Remedy.ABORT,
    )
