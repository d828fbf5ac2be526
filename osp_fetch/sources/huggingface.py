"""Hugging Face Hub: lists a repository's files at one commit (docs/sources.md, "Hugging Face Hub")."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..model.dataclasses import dataclass
from ..model.digest import Digest
from ..model.entry import Entry, entry
from ..model.errors import CredentialsError, ManifestError, NetworkError, Remedy
from ..model.urls import shown
from .row_parser import Blocks, Numbered, broken
from .select import matches

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_ADDRESS: Final = re.compile(
    r"hf://(?:(?P<kind>datasets|models)/)?(?P<repo>(?!datasets/|models/|spaces/)[A-Za-z0-9._-]+/[A-Za-z0-9._-]+)(?:@(?P<rev>refs/convert/[^/\s]+|refs/pr/\d+|[^/\s]+))?(?:/(?P<glob>.*))?"
)
_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """An address `hf://datasets/OWNER/NAME[@REV][/GLOB]`, or `hf://OWNER/NAME…` for a model.

    Attributes:
        kind: `dataset` or `model`.
        repo: `OWNER/NAME`.
        revision: a branch, tag or commit; `main` by default. `refs/convert/…` and `refs/pr/…` contain
            slashes; a slash in any other revision is written `%2F`.
        glob: selects files; empty selects all. Brackets are meant literally where such a file exists.
    """

    kind: str
    repo: str
    revision: str
    glob: str

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Parse an `hf://` address.

        Raises:
            ManifestError: `text` is not such an address.
        """
        if text.startswith("hf://buckets/"):
            raise broken(
                f"{shown(text)}: storage buckets of the Hub cannot be listed; put the files into a dataset "
                "repository, or pass a manifest of their links"
            )
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise broken(f"{shown(text)}: not of the form hf://datasets/OWNER/NAME[@REV][/GLOB]")
        kind = "dataset" if match["kind"] == "datasets" else "model"
        return cls(kind, match["repo"], unquote(match["rev"] or "main"), match["glob"] or "")


def is_repo(text: str) -> bool:
    """Return whether `text` has the form OWNER/NAME of a repository."""
    return _REPO.fullmatch(text) is not None


def listing(text: str) -> Blocks:
    """List the files of a repository, pinned to the commit that its revision names now.

    Every row has a size. Its digest is the SHA-256 of a file in LFS or Xet, and git's blob SHA-1 otherwise.

    Args:
        text: an `hf://` address.

    Raises:
        ManifestError: `text` is not such an address, the revision does not exist, the glob matches no file,
            or HF_HUB_OFFLINE is set.
        CredentialsError: the repository does not exist, is private or gated, or the token is refused.
        NetworkError: the hub cannot be reached, or answers with another error.
    """
    address = HubAddress.parse(text)
    import huggingface_hub

    # huggingface_hub reads HF_ENDPOINT when it is imported, which may be before the caller has set it
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)
    try:
        commit = _got(f"{_api(api, address)}/revision/{quote(address.revision, safe='')}").json().get("sha")
        if not isinstance(commit, str):
            raise broken(
                f"{text}: the hub states no commit for revision {address.revision!r}; check the revision"
            )
        yield from _pages(api, address, commit)
    except (ManifestError, CredentialsError):
        raise
    except Exception as error:
        raise _translated(error, address) from None


def _pages(api: Any, address: HubAddress, commit: str) -> Blocks:
    """Yield the rows of the files that the address selects, one block per page of the tree.

    Brackets are literal if a file fits the address so. Which one holds is known only at the end of the tree,
    so that it is listed twice where the address has brackets.
    """
    from huggingface_hub.hf_api import RepoFile

    token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    folder = (
        f"{api.endpoint}/{'datasets/' if address.kind == 'dataset' else ''}{address.repo}/resolve/{commit}"
    )
    wanted = _wanted
    if "[" in address.glob and any(
        _literally_wanted(item["path"], address.glob) for page in _tree(api, address, commit) for item in page
    ):
        wanted = _literally_wanted
    number = 0
    for page in _tree(api, address, commit):
        block: list[Numbered] = []
        for item in page:
            if wanted(item["path"], address.glob):
                number += 1
                file = RepoFile(**item)  # type: ignore[no-untyped-call]
                link = f"{folder}/{quote(file.path, safe='/')}"
                block.append((number, _row(file, link, headers)))
        yield block
    if address.glob and not number:
        raise broken(f"{address.glob!r} matches no file of {address.repo} at {commit[:12]}; check the path")


def _token() -> str | None:
    """Return the user's token, None if there is none or HF_HUB_DISABLE_IMPLICIT_TOKEN is set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_token

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


def _api(api: Any, address: HubAddress) -> str:
    return f"{api.endpoint}/api/{address.kind}s/{address.repo}"


def _got(url: str) -> Any:
    """Return the hub's reply; a 429, a server error or a broken connection is retried."""
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    reply = http_backoff("GET", url, headers=build_hf_headers(token=_token() or False))
    hf_raise_for_status(reply)
    return reply


def _tree(api: Any, address: HubAddress, commit: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the files of the tree, one list per page.

    The pages are followed here, not by huggingface_hub: the `Link` header of a mirror may name the original
    host, but the token belongs to the mirror.
    """
    url: str | None = f"{_api(api, address)}/tree/{commit}?recursive=true"
    while url is not None:
        reply = _got(url)
        yield [item for item in reply.json() if item["type"] == "file"]
        following = reply.links.get("next", {}).get("url")
        url = _rehosted(following, api.endpoint) if following else None


def _wanted(path: str, glob: str) -> bool:
    return not glob or matches(path, glob)


def _literally_wanted(path: str, glob: str) -> bool:
    """Return whether `glob` selects `path` if its brackets are no character class."""
    return matches(path, glob.replace("[", "[[]")) or path.startswith(glob.rstrip("/") + "/")


def _row(file: RepoFile, link: str, headers: dict[str, str] | None) -> Entry | ManifestError:
    digest = Digest("sha256", file.lfs.sha256) if file.lfs else Digest("git-blob-sha1", file.blob_id)
    try:
        return entry(file.path, link, file.size, digest, headers)
    except ManifestError as error:
        return error


def _rehosted(url: str, endpoint: str) -> str:
    there, here = urlsplit(url), urlsplit(endpoint)
    path = there.path if there.path.startswith(here.path) else here.path.rstrip("/") + there.path
    return urlunsplit((here.scheme, here.netloc, path, there.query, ""))


def _translated(error: Exception, address: HubAddress) -> Exception:
    from huggingface_hub import errors

    shown = f"hf://{address.kind}s/{address.repo}@{address.revision}"
    match error:
        case errors.GatedRepoError():
            return CredentialsError(
                f"{shown}: the repository is gated; accept its terms on its page, then set HF_TOKEN"
            )
        case errors.RepositoryNotFoundError():
            return CredentialsError(
                f"{shown}: there is no such repository, or it is private; check the name, or set HF_TOKEN "
                "to a token that may read it"
            )
        case errors.RevisionNotFoundError():
            return broken(f"{shown}: the repository has no such revision; check the part after @")
        case errors.OfflineModeIsEnabled():
            return broken(f"{shown}: HF_HUB_OFFLINE forbids the network; unset it to list the repository")
        case ImportError() if "socksio" in str(error):
            return broken(
                f"{shown}: the client of the Hub needs socksio for the SOCKS proxy of the environment, which "
                "is not installed: pip install 'osp-fetch[socks]'"
            )
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return CredentialsError(
                f"{shown}: the hub refuses the token; set HF_TOKEN to one that may read it"
            )
        case _:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            return NetworkError(
                f"{shown}: the hub cannot list the repository ({why}); run again later", remedy=Remedy.ABORT
            )
