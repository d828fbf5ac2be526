"""Entries: one row of a manifest each, and the paths that they may have."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, NewType

from .digest import Digest
from .errors import ManifestError
from .text import CONTROLS, has_control
from .urls import redact, shown

RelativePath = NewType("RelativePath", str)
"""A path below the output folder, with `/` between its names. Made by `relative_path` alone."""

STATE_FOLDER: Final = ".osp-fetch"

# names that nothing could be wrong with: most of ten million rows, at a tenth of the cost
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9_][\w.,=+-]{0,99}/){0,20}[A-Za-z0-9_][\w.,=+-]{0,99}", re.ASCII)
_LINK: Final = re.compile(
    rf"https?://(?:[^/?#{CONTROLS} ]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^/?#:@{CONTROLS} ]+)"
    rf"(?::\d*)?(?:[/?#][^{CONTROLS} ]*)?"
)
_DEVICE: Final = re.compile(r"(?:^|/)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:[./]|$)", re.IGNORECASE)


def relative_path(text: str) -> RelativePath:
    """Make sure that `text` names a file inside the output folder, on any system.

    Raises ManifestError for names that are empty, absolute, climb out by `..`, hold control
    characters or a backslash, are devices on Windows (`aux.txt`), are longer than file systems allow
    (255 bytes a name, 3900 in all), or lie in the folder that the ledger lives in.
    """
    if _PLAIN.fullmatch(text) and not _DEVICE.search(text):
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
        return "names no file"
    if has_control(text):
        return "holds a control character"
    if "\\" in text:
        return "holds a backslash, which is a separator on Windows; write it with /"
    if _DEVICE.search(text):
        return "is the name of a device on Windows, and on disks shared with it"
    if text.startswith("/") or re.match(r"[A-Za-z]:", text):
        return "is absolute; paths are relative to the output folder"
    if ".." in names:
        return "leaves the output folder by '..'"
    if "" in names or "." in names:
        return "has an empty name in it"
    if _is_state(names[0]):
        return f"lies in {names[0]}/, which is kept for records"
    try:
        if max(len(n.encode()) for n in names) > 255 or len(text.encode()) > 3900:
            return "is longer than file systems allow (255 bytes a name, 3900 in all)"
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def is_link(url: str) -> bool:
    """Return whether `url` is an http(s) URL that can be asked for as it is."""
    return _LINK.fullmatch(url) is not None


def folded(path: RelativePath) -> str:
    """What all spellings of `path` have in common that are one name where case does not count."""
    return unicodedata.normalize("NFC", path.casefold())


def _is_state(name: str) -> bool:
    """Whether some file system takes `name` for the folder of records: those of Windows drop dots and
    spaces at its end, take `:` for the start of a stream, and know short names."""
    seen = "".join(c for c in name if unicodedata.category(c) != "Cf").split(":")[0].rstrip(". ").lower()
    return seen in (STATE_FOLDER, ".cache") or bool(re.fullmatch(r"osp-fe~\d+", seen))


@dataclass(frozen=True, slots=True, repr=False)
class Entry:
    """One row: a file to have at `path`, from any of `urls` (mirrors of the same bytes).

    `size` in bytes and `digest` are promises that the file must keep. `headers` go to the origin of
    the URL and nowhere else.
    """

    path: RelativePath
    urls: tuple[str, ...]
    size: int | None = None
    digest: Digest | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        # urls may be signed and headers hold tokens: an entry in a traceback must give neither away
        urls = ", ".join(map(redact, self.urls))
        return f"Entry({self.path!r}, {urls}, size={self.size}, digest={self.digest})"


def entry(
    path: str,
    url: str | tuple[str, ...] | list[str],
    size: int | None = None,
    digest: str | Digest | None = None,
    headers: dict[str, str] | None = None,
) -> Entry:
    """Make an Entry from plain values; raises ManifestError where one of them makes no sense."""
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
            raise ManifestError(f"{path}: {name!r} is not a header that HTTP can carry")
    try:
        parsed = Digest.parse(digest) if isinstance(digest, str) else digest
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from None
    return Entry(relative_path(path), urls, size, parsed, sent)
