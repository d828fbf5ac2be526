"""Entries, which are the rows of a manifest, and the rules for their paths."""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from typing import Final, NewType

from . import urls
from .dataclasses import dataclass
from .digest import Digest
from .errors import ManifestError
from .text import CONTROLS, has_control
from .urls import redact, shown

RelativePath = NewType("RelativePath", str)
"""A path below the output folder, with `/` between its names. Only `relative_path` creates one."""

# Folder below the output folder that holds the ledger, the partials and the lock.
STATE_FOLDER: Final = ".osp-fetch"

# Paths that need no further check. Most paths of ten million rows match, at a tenth of the cost.
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9_][\w.,=+-]{0,99}/){0,20}[A-Za-z0-9_][\w.,=+-]{0,99}", re.ASCII)
_BRACKETS: Final = r"\[([0-9A-Fa-f:.]+)(?:%25[\w.~-]+)?\](?::\d*)?"
_LINK: Final = re.compile(
    rf"https?://(?:[^/?#{CONTROLS} ]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^/?#:@{CONTROLS} ]+)"
    rf"(?::\d*)?(?:[/?#][^{CONTROLS} ]*)?"
)
_FORBIDDEN: Final = r'[\\:*?"<>|]'
_DEVICE: Final = r"(?i)(?:^|/)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:[./]|$)"


def relative_path(text: str) -> RelativePath:
    """Return `text` as a path that is inside the output folder.

    Names that only Windows forbids are accepted; see `portability`.

    Args:
        text: path as the manifest states it. A leading `./` is removed.

    Raises:
        ManifestError: the path is empty or absolute, leaves the output folder by `..`, contains a control
            character, exceeds the limits of file systems (255 bytes per name, 3900 bytes in total), or lies
            in the state folder.
    """
    if _PLAIN.fullmatch(text):
        return RelativePath(text)
    names = text.split("/")
    while names and names[0] == ".":
        del names[0]
    why = _refusal(text, names)
    if why:
        raise ManifestError(f"the path {text[:200]!r} {why}")
    return RelativePath("/".join(names))


def _refusal(text: str, names: list[str]) -> str | None:
    if not names or names == [""]:
        return "is empty, or names a folder; give the path of a file"
    if has_control(text):
        return "contains a control character"
    if text.startswith("/"):
        return "is absolute; paths are relative to the output folder"
    if ".." in names:
        return "leaves the output folder through '..'"
    if "" in names or "." in names:
        return "contains an empty name, or '.'"
    if own := next(filter(_is_state, names), None):
        return f"lies in {own}/, which osp-fetch uses for its own records; choose another folder"
    try:
        if max(len(n.encode()) for n in names) > 255 or len(text.encode()) > 3900:
            return "is longer than file systems allow (255 bytes per name, 3900 bytes in total)"
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def portability(path: str) -> str | None:
    """Return why Windows, and disks shared with it, do not take a path; None if they do."""
    if re.search(_DEVICE, path):
        return "is a device name on Windows"
    if found := re.search(_FORBIDDEN, path):
        return f"contains {found[0]!r}, which Windows forbids in names"
    if re.search(r"[. ](?:/|$)", path):
        return "ends in a dot or a blank, which Windows removes"
    return None


def is_link(url: str) -> bool:
    """Return whether `url` is an http(s) URL that can be requested unchanged."""
    return _LINK.fullmatch(url) is not None and ("[" not in url or has_address(url))


def has_address(url: str) -> bool:
    """Return whether what a URL has in brackets in place of a host is an IPv6 address, if it has brackets."""
    user, _, host = re.split(r"[/?#]", url, maxsplit=3)[2].rpartition("@")
    if "[" in user or "]" in user:
        return False  # the standard library takes it for an address
    if "[" not in host and "]" not in host:
        return True
    match = re.fullmatch(_BRACKETS, host)
    try:
        return match is not None and ipaddress.ip_address(match[1]).version == 6
    except ValueError:
        return False


def folded(path: RelativePath) -> str:
    """Return a key that is equal for all paths that are one name on a case-insensitive file system."""
    return unicodedata.normalize("NFC", path.casefold())


def _is_state(name: str) -> bool:
    """Return whether a file system may treat `name` as the state folder.

    Windows drops dots and spaces at the end of a name, takes `:` as the start of a stream, and has short
    names.
    """
    if name.isascii() and "osp-fe" not in name.lower():  # of millions of names, hardly any takes what follows
        return False
    seen = "".join(c for c in name if unicodedata.category(c) != "Cf").split(":")[0].rstrip(". ").lower()
    return seen == STATE_FOLDER or bool(re.fullmatch(r"osp-fe~\d+", seen))


@dataclass(frozen=True, slots=True, repr=False)
class Entry:
    """One row of a manifest: a file, and where to fetch it.

    Attributes:
        path: where the file is published, below the output folder.
        urls: mirrors of the same bytes, at least one.
        size: length in bytes that the file must have, if known.
        digest: digest that the file must have, if known.
        headers: request headers. They are sent to the origin of the URL only.
        exact: whether `source_key` keeps the complete query of a link; see `urls.source_key`.
    """

    path: RelativePath
    urls: tuple[str, ...]
    size: int | None = None
    digest: Digest | None = None
    headers: tuple[tuple[str, str], ...] = ()
    exact: bool = False

    def source_key(self, url: str) -> str:
        """Return the source key of `url`, which must be one of `urls`; see `urls.source_key`."""
        return urls.source_key(url, exact=self.exact)

    def leads_to(self, url: str, key: str) -> bool:
        """Return whether `key` is the source key of `url`, which must be one of `urls`."""
        return urls.leads_to(url, key, exact=self.exact)

    def __repr__(self) -> str:
        # URLs may be signed and headers may hold tokens: a traceback that shows an entry must reveal neither
        urls = ", ".join(map(redact, self.urls))
        return f"Entry({self.path!r}, {urls}, size={self.size}, digest={self.digest})"


def entry(
    path: str | os.PathLike[str],
    url: str | tuple[str, ...] | list[str],
    size: int | None = None,
    digest: str | Digest | None = None,
    headers: dict[str, str] | None = None,
) -> Entry:
    """Return an `Entry` made from plain values.

    Args:
        path: path below the output folder.
        url: an http(s) URL, or several that are mirrors of the same bytes.
        size: length in bytes, if known.
        digest: digest of the file, if known; text is parsed by `Digest.parse`.
        headers: request headers by name.

    Raises:
        ManifestError: a value is invalid. The message states which one.
    """
    path = path if isinstance(path, str) else os.fspath(path)
    urls = (url,) if isinstance(url, str) else tuple(url)
    if not urls:
        raise ManifestError(f"{path}: no URL; every entry needs at least one")
    for each in urls:
        if not is_link(each):
            raise ManifestError(f"{path}: {shown(each)[:100]!r} is not an http(s) URL")
    if size is not None and size < 0:
        raise ManifestError(f"{path}: a size cannot be negative ({size})")
    sent = tuple(headers.items()) if headers else ()
    for name, value in sent:
        if has_control(name + value) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ManifestError(
                f"{path}: {name!r} is not a valid HTTP header; check it for control characters"
            )
    try:
        parsed = Digest.parse(digest) if isinstance(digest, str) else digest
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from None
    return Entry(relative_path(path), urls, size, parsed, sent)
