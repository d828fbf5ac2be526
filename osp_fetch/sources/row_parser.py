"""Converts a row's plain values to an Entry, and rejects invalid values."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from ..model.dataclasses import dataclass
from ..model.digest import HEX_LENGTHS, STRENGTH, Digest, stronger
from ..model.entry import Entry, entry, is_link
from ..model.errors import ManifestError, Remedy
from ..model.protocols import Row
from ..model.urls import encoded, shown
from ..s3.credentials import SignatureRequest

_NO_PATH: Final = frozenset(
    {"None", "none", "null", "NULL", "nan", "NaN"}
)  # how tables write a missing value
_DIGESTS: Final = frozenset({*STRENGTH, "digest"})
# Names of the fields of an object that states one digest.
_KINDS: Final = ("algorithm", "type", "alg", "checksumalgorithm", "kind", "name")
_VALUES: Final = ("value", "hex", "digest", "checksum", "checksumvalue", "hash", "content")
_KIND: Final = r"(?i).*(?:algorithm_|[#/:])"  # before the name of an algorithm, in DCAT
_THOUSANDS: Final = r"\d{1,3}(?:\.\d{3})+"  # `20.000` is 20, or 20,000 as some spreadsheets write it
# what separates links in one cell or line
_BETWEEN: Final = re.compile(r"[\s;|]+(?=https?://)", re.IGNORECASE)
_NO_HTTP: Final = re.compile(r"(?:ftps?|sftp|rsync)://|magnet:", re.IGNORECASE)  # mirrors that are left out
_LINKED: Final = frozenset({"url", "headers"})  # what a row without a path, a size and a digest may state
_UNKNOWN: Final = frozenset({"", "nan", "none", "null", "na", "n/a", "-1", "-", "<na>"})  # sizes not given


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A row that states no path; `names` derives one from its link.

    Attributes:
        urls: mirrors of the same bytes, at least one.
        size: length in bytes, if known.
        digest: digest of the file, if known.
        headers: request headers by name.
        where: the row's place for messages, such as `list.csv:12`.
        stated: the file name that the server states, empty if it was not asked or states none.
    """

    urls: tuple[str, ...]
    size: int | None
    digest: Digest | None
    headers: tuple[tuple[str, str], ...]
    where: str
    stated: str = ""

    def named(self, path: str) -> Row:
        """Return the entry with this path, or a ManifestError that names the row."""
        try:
            return entry(path, self.urls, self.size, self.digest, dict(self.headers))
        except ManifestError as error:
            return ManifestError(f"{self.where}: {error}; correct or remove the row")


RawRow = Row | Unnamed
Numbered = tuple[int, RawRow]  # the row's line, or its number if the source has no lines, and the row
Blocks = Iterator[Sequence[Numbered]]


def broken(message: str) -> ManifestError:
    """Return the error for a manifest that cannot be used at all; its remedy ends the run."""
    return ManifestError(message, remedy=Remedy.ABORT)


def read_row(values: Mapping[str, Any], where: str, line: int) -> RawRow:
    """Build an Entry from the values of one row.

    Args:
        values: meaning → value: `url` (a link, or a list of mirrors), `path`, `size`, `headers`, `digest`, or
            an algorithm.
        where: the manifest's name for messages.
        line: the row's line or number for messages.

    Returns:
        The entry, an Unnamed if the row states no path, or a ManifestError that names the row.
    """
    try:
        return _entry(values, where, line)
    except (ManifestError, ValueError, TypeError) as error:
        return ManifestError(f"{where}:{line}: {error}; correct or remove the row")


def read_rows(values: Mapping[str, Any], where: str, line: int) -> list[RawRow]:
    """Build the entries of one row; there are several if it holds links of several files.

    A row with a path, a size or a digest is one file, and its links are mirrors. Otherwise a link is a mirror
    of another one only if both end in the same name and their hosts differ: a list of images is no list of
    mirrors.

    Args:
        values, where, line: as for `read_row`.
    """
    given = values.get("url")
    if type(given) is str and given.count("://") < 2:  # the common case
        return [read_row(values, where, line)]
    try:
        is_file = any(is_given(values.get(each)) for each in values if each not in _LINKED)
        files = [] if is_file else _files(links_of(given))
    except (ManifestError, TypeError, ValueError):
        files = []  # `read_row` says what is wrong
    if len(files) < 2:
        return [read_row(values, where, line)]
    return [read_row({**values, "url": same}, where, line) for same in files]


def _files(links: Iterable[str]) -> list[list[str]]:
    """Return the links of each file."""
    files: dict[str, list[dict[str, str]]] = {}  # name → host → link, for each file of that name
    for link in links:
        parts = urlsplit(link)
        alike = files.setdefault(parts.path.rpartition("/")[2], [])
        found = next((each for each in alike if each.get(parts.netloc, link) == link), None)
        if found is None:
            alike.append(found := {})
        found[parts.netloc] = link
    return [list(each.values()) for alike in files.values() for each in alike]


def any_row(item: object, number: int) -> RawRow:
    """Build a row from an item of an iterable.

    Args:
        item: an Entry, a URL, or a ManifestError.
        number: the item's index for messages, from 0.

    Returns:
        The entry, an Unnamed if the item states no path, or a ManifestError that names the row.
    """
    if isinstance(item, ManifestError):
        return item
    if isinstance(item, Entry):
        try:
            # a caller can construct an Entry from unchecked values; `entry` validates them
            headers = {_plain(name): _plain(value) for name, value in item.headers}
            urls = [encoded(_plain(url)) for url in item.urls]
            return entry(_plain(os.fspath(item.path)), urls, item.size, item.digest, headers)
        except (ManifestError, TypeError, ValueError) as error:
            return ManifestError(f"manifest:{number}: {error}; correct or remove the row")
    if isinstance(item, str):
        return read_row({"url": item}, "manifest", number)
    kind = type(item).__name__
    return ManifestError(
        f"manifest:{number}: a {kind} is not a row; pass an Entry, a URL, or a dict with a url"
    )


def is_given(value: Any) -> bool:
    """Return whether a cell holds a value: not None, empty, or NaN."""
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def is_unknown(value: Any) -> bool:
    """Return whether a cell holds a word for a value that is not known, such as `n/a`."""
    return isinstance(value, str) and value.strip().lower() in _UNKNOWN


def _plain(text: str) -> str:
    """Return `text` as a plain str: worker processes may not know a subclass of it."""
    return str(text) if isinstance(text, str) else text


def _entry(values: Mapping[str, Any], where: str, line: int) -> RawRow:
    urls = links_of(values.get("url"))
    if not urls:
        raise ManifestError("the row has no link")
    size, digest = read_size(values.get("size")), _digest(values)
    headers = _headers(values.get("headers"))
    path = values.get("path")
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogateescape")
    if not is_given(path) or path in _NO_PATH:
        for url in urls:
            if not is_link(url):
                raise ManifestError(f"{shown(url)[:100]!r} is not an http(s) URL")
        return Unnamed(urls, size, digest, headers, f"{where}:{line}")
    if isinstance(path, (int, float)) and not isinstance(path, bool):
        path = str(int(path)) if isinstance(path, int) or path.is_integer() else str(path)
    if not isinstance(path, str):
        raise ManifestError(f"the path {path!r} is not text")
    return entry(path, urls, size, digest, dict(headers) or None)


def links_of(value: Any) -> tuple[str, ...]:
    """Return the links of a cell, encoded: none, one, or the mirrors of a list.

    Raises:
        ManifestError: the value holds something else than text.
    """
    if type(value) is str and value.count("://") < 2:  # the common case
        link = encoded(value)
        return (link,) if link else ()
    if isinstance(value, str):
        value = _BETWEEN.split(value)
    if isinstance(value, bytes):
        value = [value]
    if value is None or isinstance(value, (int, float)):
        return ()
    links = []
    for each in value:
        link = each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else each
        if not isinstance(link, str):
            raise ManifestError(f"the link {link!r} is not text")
        if link.strip():
            links.append(encoded(link))
    return tuple(link for link in links if not _NO_HTTP.match(link)) or tuple(links)


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise ManifestError("headers must be an object of names and values") from None
    if not value or not is_given(value):
        return ()
    if not isinstance(value, Mapping):
        raise ManifestError("headers must be an object of names and values")
    found = tuple((str(name), str(text)) for name, text in value.items())
    if any(SignatureRequest.parse(text) for _, text in found):
        # a list of other people must not make the user's keys sign requests of its choice
        raise ManifestError("its headers ask for a signature; write an s3:// SOURCE instead")
    return found


def read_size(value: Any) -> int | None:
    """Return a size in bytes; None if the value means that it is not known.

    Empty, NaN, None, null and -1 mean unknown. A float that is whole is a size.

    Raises:
        ManifestError: the value is not a whole number of bytes.
    """
    if type(value) is str and value.isdigit():  # the common case
        return int(value)
    if value is None or (isinstance(value, str) and value.strip().lower() in _UNKNOWN):
        return None
    if isinstance(value, str) and re.fullmatch(_THOUSANDS, value.strip()):
        raise ManifestError(f"the size {value!r} is not a whole number of bytes, or has a mark of thousands")
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str) and value.strip().isdigit():
            return int(value)
        number = float(value)
        if math.isnan(number) or number == -1:
            return None
        if isinstance(value, int):
            return value
        if not number.is_integer():
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError):
        raise ManifestError(f"the size {value!r} is not a whole number of bytes") from None


def is_raw(value: bytes, algorithm: str | None) -> bool:
    """Return whether a binary value is a digest itself, and not its text."""
    length = HEX_LENGTHS.get(algorithm or "")
    return 2 * len(value) == length if length and len(value) != length else not value.isascii()


def _digest(values: Mapping[str, Any]) -> Digest | None:
    if values.keys().isdisjoint(_DIGESTS):
        return None
    stated = values.get("digest")
    given = [(name, values[name]) for name in STRENGTH if name in values]
    if stated is None and len(given) == 1:
        ((name, value),) = given
        return _parsed(value, name) if is_given(value) else None
    if stated is not None:
        given += stated_digests(stated, values.get("algorithm"))
    best, wrong = None, None
    for name, value in given:
        try:
            if is_given(value) and (found := _parsed(value, name or None)):
                best = stronger(best, found)
        except ValueError as error:
            if name in STRENGTH:
                raise
            wrong = error  # an algorithm that is not supported, beside others
    if best is None and wrong is not None:
        raise wrong
    return best


def stated_digests(stated: Any, algorithm: Any = None) -> list[tuple[str, Any]]:
    """Return pairs of an algorithm, empty if it is not stated, and a value, from a cell with digests.

    Args:
        stated: a value, `{"sha256": "…"}`, `{"type": "SHA-256", "value": "…"}`, or a list of these.
        algorithm: what a column beside it states.
    """
    if isinstance(stated, (list, tuple)):
        return [pair for each in stated for pair in stated_digests(each, algorithm)]
    if isinstance(stated, Mapping):
        named = {str(name).lower().rpartition(":")[2]: value for name, value in stated.items()}
        kind = next((named[name] for name in _KINDS if isinstance(named.get(name), str)), None)
        value = next((named[name] for name in _VALUES if isinstance(named.get(name), str)), None)
        if kind is not None and value is not None:
            return [("", f"{re.sub(_KIND, '', kind)}:{value}")]
        return [(str(name), value) for name, value in stated.items()]
    if is_given(algorithm) and isinstance(stated, str) and not re.search("[:=-]", stated.rstrip("=")):
        return [("", f"{algorithm}:{stated}")]
    return [("", stated)]


def _parsed(value: Any, algorithm: str | None) -> Digest | None:
    if type(value) is str and len(value) == HEX_LENGTHS.get(algorithm or "") and value.isalnum():
        return Digest(algorithm or "", value.lower())  # the common case
    if isinstance(value, bytes):  # the digest itself, as a binary column holds it, or its text
        value = value.hex() if is_raw(value, algorithm) else value.decode("ascii")
    text = str(value).strip()
    return None if text.lower() in _UNKNOWN else Digest.parse(text, algorithm)
