"""Converts a row's plain values to an Entry: finds the meaning of each column and rejects invalid values."""

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

Numbered = tuple[int, Row]  # the row's line, or its number if the source has no lines, and the row
Blocks = Iterator[list[Numbered]]

COLUMNS: Final = {
    "url": ("url", "urls", "link", "cdn_link", "download_url", "image_url", "video_url", "href", "uri"),
    "path": ("path", "file_name", "filename", "name", "file", "output", "out"),
    "size": ("size", "bytes", "length", "content_length", "file_size", "filesize"),
    "headers": ("headers",),
    "digest": ("digest", "checksum", "hash"),
}
_ALGORITHMS: Final = ("sha512", "sha384", "sha256", "sha224", "sha1", "md5", "blake2b", "crc32c")
# a column holds digests if its name is that of an algorithm combined with any of these words, such as
# `md5sum`, `file_sha256` or `OriginalMD5`
_DIGEST_WORDS: Final = re.compile(
    r"(?:sum|hash|hex|hexdigest|digest|checksum|value|b64|base64|file|content|original|expected|source|archive|"
    r"tar|zip|data|image|img|video|media|object|blob|raw|download|url|of|the|in|cs)*"
)
_NEAR: Final = 0.82  # difflib ratio from which one name counts as a misspelling of the other
# a column of digests whose values state the algorithm, or show it by their length
_GENERIC: Final = re.compile(
    r"(?=.*(?:hash|digest|checksum|integrity|shasum|^sri$|^sha2?$))(?:sum|hash|hashes|hex|hexdigest|digests?|"
    r"checksums?|value|file|content|original|expected|source|archive|data|integrity|sri|shasum|sha2?|of|the)*"
)
_UNCHECKED: Final = re.compile(r"(?:blake3|blake2s|sha3|xxh|crc32|crc64|md4|ripemd|whirlpool|adler32|murmur)")
_MEANINGS: Final = {name: meaning for meaning, names in COLUMNS.items() for name in names}


def broken(message: str) -> ManifestError:
    """Return the error for a manifest that cannot be used at all; its remedy ends the run."""
    return ManifestError(message, remedy=Remedy.ABORT)


def meanings(columns: Sequence[str], where: str) -> dict[str, int]:
    """Return the index of each known column by its meaning.

    Other columns are ignored, because manifests also hold captions and widths. A column is refused if it
    seems to hold digests under an unknown name, or if its name is nearly that of an algorithm: a digest that
    is silently dropped is a check that never happens.

    Args:
        columns: the column names, in order.
        where: the manifest's name for messages.

    Returns:
        Meaning (`url`, `path`, `size`, `headers`, `digest`, or an algorithm) → index in `columns`.

    Raises:
        ManifestError: no column holds links, two columns have the same meaning as digests, or one is refused.
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
        names = ", ".join(repr(c[:40]) for c in columns[:8]) if any(columns) else "none found"
        raise broken(f"{where}: no column holds links (columns: {names}); name it url, link or cdn_link")
    return found


def _algorithm_of(column: str, where: str) -> str | None:
    """Return the algorithm of a column of digests, `digest` if its values state it, else None."""
    words = re.findall(r"[A-Z]?[a-z]+[0-9]*[a-z]*|[A-Z]+[0-9]*[a-z]?|[0-9]+", column)
    joined = "".join(words).lower()
    for algorithm in _ALGORITHMS:
        before, found, after = joined.partition(algorithm)
        if found and _DIGEST_WORDS.fullmatch(before) and _DIGEST_WORDS.fullmatch(after):
            return algorithm
    if _GENERIC.fullmatch(joined):
        return "digest"
    # a name that merely contains an algorithm's letters (`sasha1`) is another column
    parts = [part.lower() for part in re.split(r"[^A-Za-z0-9]+", column)]
    if any(part.startswith(_ALGORITHMS) for part in parts):
        raise broken(
            f"{where}: the column {column!r} seems to hold digests; name it after the algorithm, such as "
            "sha256 or md5, or remove it"
        )
    if any(_UNCHECKED.match(part) for part in parts):
        raise broken(
            f"{where}: the column {column!r} seems to hold digests that osp-fetch cannot compute (supported: "
            f"{', '.join(_ALGORITHMS)}); rename or remove the column to fetch without this check"
        )
    return None


def read_row(values: Mapping[str, Any], where: str, line: int) -> Row:
    """Build an Entry from the values of one row.

    Args:
        values: meaning → value, as `meanings` names them.
        where: the manifest's name for messages.
        line: the row's line or number for messages.

    Returns:
        The entry, or a ManifestError that names the row.
    """
    try:
        return _entry(values)
    except (ManifestError, ValueError, TypeError) as error:
        return ManifestError(f"{where}:{line}: {error}; correct or remove the row")


def any_row(item: object, number: int) -> Row:
    """Build a row from an item of an iterable.

    Args:
        item: an Entry, a URL, a mapping with the keys of a JSON line, or a ManifestError.
        number: the item's index for messages, from 0.

    Returns:
        The entry, or a ManifestError that names the row.
    """
    if isinstance(item, ManifestError):
        return item
    if isinstance(item, Entry):
        try:
            # a caller can construct an Entry from unchecked values; `entry` validates them
            headers = {_plain(name): _plain(value) for name, value in item.headers}
            urls = [_plain(url) for url in item.urls]
            return entry(_plain(item.path), urls, item.size, item.digest, headers)
        except (ManifestError, TypeError, ValueError) as error:
            return ManifestError(f"manifest:{number}: {error}; correct or remove the row")
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
    return ManifestError(
        f"manifest:{number}: a {kind} is not a row; pass an Entry, a URL, or a dict with a url"
    )


def _plain(text: str) -> str:
    """Return `text` as a plain str: worker processes may not know a subclass of it."""
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
    """Return the file name that a URL suggests: the last component of its path, percent-decoded.

    Raises:
        ManifestError: the URL is not http(s), its path ends in `/`, or the name seems to hold a secret.
    """
    if not is_link(url):
        raise ManifestError(f"{shown(url)[:100]!r} is not an http(s) URL")
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not name:
        raise ManifestError(f"{shown(url)} contains no file name; give the row a path")
    if redact(name) != name:
        # for example `x&apikey=…`: names are printed and logged
        where = shown(url.rpartition("/")[0])
        raise ManifestError(f"{where}/…: the file name seems to hold a secret; give the row a path")
    return name
