"""From a row's plain values to an Entry: which column means what, and what makes no sense."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ..model.digest import STRENGTH, Digest, stronger
from ..model.entry import Entry, entry, is_link
from ..model.errors import ManifestError, Remedy
from ..model.protocols import Row
from ..model.urls import redact, shown

Numbered = tuple[int, Row]  # the row's line (or its number, where there are no lines), and the row
Blocks = Iterator[list[Numbered]]

COLUMNS: Final = {
    "url": ("url", "urls", "link", "cdn_link", "download_url", "image_url", "video_url", "href", "uri"),
    "path": ("path", "file_name", "filename", "name", "file", "output", "out"),
    "size": ("size", "bytes", "length", "content_length", "file_size", "filesize"),
    "headers": ("headers",),
    "digest": ("digest", "checksum", "hash"),
}
_ALGORITHMS: Final = ("sha512", "sha384", "sha256", "sha224", "sha1", "md5", "blake2b", "crc32c")
# a column is one of digests if it is an algorithm's name and any of these: `md5sum`, `file_sha256`,
# `OriginalMD5`
_DIGEST_WORDS: Final = re.compile(
    r"(?:sum|hash|hex|hexdigest|digest|checksum|value|b64|base64|file|content|original|expected|source|archive|"
    r"tar|zip|data|image|img|video|media|object|blob|raw|download|url|of|the|in|cs)*"
)
_NEAR: Final = 0.82  # likeness of two names above which one is the other misspelt (difflib)
# a column of digests whose values say of which algorithm, or show it by their length
_GENERIC: Final = re.compile(
    r"(?=.*(?:hash|digest|checksum|integrity|shasum|^sri$|^sha2?$))(?:sum|hash|hashes|hex|hexdigest|digests?|"
    r"checksums?|value|file|content|original|expected|source|archive|data|integrity|sri|shasum|sha2?|of|the)*"
)
_UNCHECKED: Final = re.compile(r"(?:blake3|blake2s|sha3|xxh|crc32|crc64|md4|ripemd|whirlpool|adler32|murmur)")
_MEANINGS: Final = {name: meaning for meaning, names in COLUMNS.items() for name in names}


def broken(message: str) -> ManifestError:
    """The error of a whole manifest that makes no sense: nothing of it can be fetched."""
    return ManifestError(message, remedy=Remedy.ABORT)


def meanings(columns: Sequence[str], where: str) -> dict[str, int]:
    """Return what each known column is for, as meaning → index.

    Other columns are left alone, because manifests carry captions and widths. A column that seems to hold
    digests and is not known by its name, or whose name is nearly that of an algorithm, is refused: a digest
    that is silently dropped is a check that never happens.

    Raises:
        ManifestError: no column holds links, or one is refused.
    """
    found: dict[str, int] = {}
    for place, column in enumerate(columns):
        name = column.strip().lower().replace("-", "_").replace(" ", "_")
        meaning = _MEANINGS.get(name) or _algorithm_of(column, where)
        if meaning in (*_ALGORITHMS, "digest") and meaning in found:
            raise broken(
                f"{where}: the columns {columns[found[meaning]]!r} and {column!r} both hold {meaning} "
                "digests; keep one of them"
            )
        if meaning is not None:
            found.setdefault(meaning, place)
            continue
        if near := difflib.get_close_matches(name, _ALGORITHMS, n=1, cutoff=_NEAR):
            raise broken(f"{where}: unknown column {column!r}; did you mean {near[0]!r}?")
    if "url" not in found:
        for column in columns:
            if near := difflib.get_close_matches(column.strip().lower(), COLUMNS["url"], n=1, cutoff=_NEAR):
                raise broken(f"{where}: unknown column {column!r}; did you mean {near[0]!r}?")
        names = ", ".join(repr(c[:40]) for c in columns[:8]) if any(columns) else "not there"
        raise broken(f"{where}: no column holds links (columns are {names}); name it url, link or cdn_link")
    return found


def _algorithm_of(column: str, where: str) -> str | None:
    """Return the algorithm of a column of digests, None for another column. Raises ManifestError."""
    words = re.findall(r"[A-Z]?[a-z]+[0-9]*[a-z]*|[A-Z]+[0-9]*[a-z]?|[0-9]+", column)
    joined = "".join(words).lower()
    for algorithm in _ALGORITHMS:
        before, found, after = joined.partition(algorithm)
        if found and _DIGEST_WORDS.fullmatch(before) and _DIGEST_WORDS.fullmatch(after):
            return algorithm
    if _GENERIC.fullmatch(joined):
        return "digest"
    # a name that only contains those letters (`sasha1`) is another column
    parts = [part.lower() for part in re.split(r"[^A-Za-z0-9]+", column)]
    if any(part.startswith(_ALGORITHMS) for part in parts):
        raise broken(
            f"{where}: the column {column!r} seems to hold digests; call it by the algorithm, such as sha256 "
            "or "
            "md5, or remove it"
        )
    if any(_UNCHECKED.match(part) for part in parts):
        raise broken(
            f"{where}: the column {column!r} seems to hold digests that osp-fetch cannot compute; it knows "
            f"{', '.join(_ALGORITHMS)}. Rename or remove the column to go on without"
        )
    return None


def read_row(values: Mapping[str, Any], where: str, line: int) -> Row:
    """An Entry from meaning → value, or the error that names the row."""
    try:
        return _entry(values)
    except (ManifestError, ValueError, TypeError) as error:
        return ManifestError(f"{where}:{line}: {error}; mend or remove the row")


def any_row(item: object, number: int) -> Row:
    """A row of an iterable: an Entry, a URL, or a mapping with the keys of a JSON line."""
    if isinstance(item, ManifestError):
        return item
    if isinstance(item, Entry):
        try:
            # whoever made it by hand may have made it of anything: `entry` lets nothing wrong pass
            headers = {_plain(name): _plain(value) for name, value in item.headers}
            urls = [_plain(url) for url in item.urls]
            return entry(_plain(item.path), urls, item.size, item.digest, headers)
        except (ManifestError, TypeError, ValueError) as error:
            return ManifestError(f"manifest:{number}: {error}; mend or remove the row")
    if isinstance(item, str):
        return read_row({"url": item}, "manifest", number)
    if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
        try:
            places = meanings(list(item), f"manifest:{number}")
        except ManifestError as error:
            return ManifestError(str(error))
        values = list(item.values())
        return read_row({meaning: values[place] for meaning, place in places.items()}, "manifest", number)
    kind = type(item).__name__
    return ManifestError(f"manifest:{number}: a {kind} is no row; give an Entry, a URL, or a dict with a url")


def _plain(text: str) -> str:
    """`text` itself, not of a class of its own, which another process may not know."""
    return str(text) if isinstance(text, str) else text


def _entry(values: Mapping[str, Any]) -> Entry:
    url = values.get("url")
    urls = (url,) if isinstance(url, str) else tuple(url or ())
    for each in urls or ("",):
        if not each or not isinstance(each, str):
            raise ManifestError("the row has no link")
    path = values.get("path") or name_of(urls[0])
    if not isinstance(path, str):
        raise ManifestError(f"the path {path!r} is not text")
    headers = values.get("headers") or None
    if headers is not None and not isinstance(headers, Mapping):
        raise ManifestError("headers must be an object of names and values")
    checked = {str(k): str(v) for k, v in headers.items()} if headers else None
    return entry(path, urls, _size(values.get("size")), _digest(values), checked)


def _size(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ManifestError(f"the size {value!r} is not a whole number of bytes")
    try:
        return int(value)
    except ValueError:
        raise ManifestError(f"the size {value!r} is not a whole number of bytes") from None


def _digest(values: Mapping[str, Any]) -> Digest | None:
    for algorithm in STRENGTH:
        if values.get(algorithm):
            return Digest.parse(str(values[algorithm]), algorithm)
    stated = values.get("digest")
    if isinstance(stated, Mapping):  # {"sha256": "…", …}
        known = [Digest.parse(str(value), str(name)) for name, value in stated.items() if value]
        best: Digest | None = None
        for digest in known:
            best = stronger(best, digest)
        return best
    return Digest.parse(str(stated)) if stated else None


def name_of(url: str) -> str:
    """The file name that a URL suggests: the last name of its path, its escapes undone."""
    if not is_link(url):
        raise ManifestError(f"{shown(url)[:100]!r} is not an http(s) URL")
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not name:
        raise ManifestError(f"{shown(url)} names no file; give the row a path")
    if redact(name) != name:
        # `x&apikey=…`: names are printed and logged
        where = shown(url.rpartition("/")[0])
        raise ManifestError(f"{where}/…: its last name seems to hold a secret; give the row a path")
    return name
