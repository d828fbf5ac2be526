"""Finds what the columns of a table mean, by their names and their values.

A column counts as a digest, a size or a path only if its values are such: LAION's integer `hash` is no
digest, and a `name` that holds captions is no path. Columns with another meaning are ignored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.digest import Digest
from ..model.errors import ManifestError
from ..model.spelling import nearest
from .row_parser import broken, is_given, is_raw, is_unknown, read_size, stated_digests

ALGORITHMS: Final = ("sha512", "sha384", "sha256", "sha224", "sha1", "md5", "blake2b", "crc32c")
MEANINGS: Final = ("url", "path", "size", "headers", "digest", *ALGORITHMS)
# Names are compared without case, blanks, hyphens and underscores. Earlier names come first.
LINKS: Final = (
    "url", "urls", "link", "links", "cdnlink", "downloadurl", "imageurl", "videourl", "audiourl",
    "contenturl", "originalurl", "fileurl", "mediaurl", "sourceurl", "src", "href", "uri", "cocourl",
    "flickrurl",
)  # fmt: skip
PATHS: Final = ("path", "filepath", "filename", "relativepath", "relpath", "outputpath")
NAMES: Final = ("output", "out", "name", "file")  # often captions, labels or answers
SIZES: Final = (
    "size", "bytes", "filesize", "contentlength", "originalsize", "sizebytes", "sizeinbytes", "bytesize",
    "nbytes", "numbytes", "length",
)  # fmt: skip
# A column holds digests if its name is that of an algorithm combined with any of these words, such as
# `md5sum`, `file_sha256` or `OriginalMD5`.
_DIGEST_WORDS: Final = (
    r"(?:sum|hash|hex|hexdigest|digest|checksum|value|b64|base64|file|content|original|expected|source|archive|"
    r"tar|zip|data|image|img|video|media|object|blob|raw|download|computed|supplied|of|the|in|cs)*"
)
# A column of digests whose values state the algorithm, or show it by their length.
_GENERIC: Final = (
    r"(?=.*(?:hash|digest|checksum|integrity|shasum|^sri$|^sha2?$))(?:sum|hash|hashes|hex|hexdigest|digests?|"
    r"checksums?|multi|repr|x|goog|value|file|content|original|expected|source|archive|data|integrity|sri|shasum|sha2?|of|the)*"
)
_NOT_COMPUTED: Final = r"(?:blake3|blake2s|sha3|xxh|crc32|crc64|md4|ripemd|whirlpool|adler32|murmur)"
_SECONDARY: Final = r"thumb|page|landing|access|licen[sc]e|profile|author|home|preview|referr?er"
_DIGEST_FORM: Final = r"(?:[A-Za-z][A-Za-z0-9-]{2,9}[:=])?[0-9A-Fa-f]{32,128}"
_NEAR: Final = 0.82  # difflib ratio from which one name counts as a misspelling of the other
_SAMPLE: Final = 200  # rows by whose values a column is judged
_LINK: Final = r"(?i)\s*https?://\S"
_MAY_BE_DIGEST: Final = r"(?s)(?=.*[A-Za-z+/=]).*?[A-Za-z0-9+/=_-]{16,}"
# Columns that state the algorithm of the digests in another one.
_KINDS: Final = (
    "algorithm", "checksumalgorithm", "checksumtype", "checksumalgo", "hashalgorithm", "hashtype", "hashalgo",
    "digestalgorithm", "digesttype",
)  # fmt: skip
_FILE_NAME: Final = r"(?![+-]?[\d.]+$)[^\n]*\.[A-Za-z0-9]{1,10}"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column has which meaning.

    Attributes:
        places: meaning (`url`, `path`, `size`, `headers`, `digest`, or an algorithm) → index of the column.
        notes: sentences for the user about columns that look like digests and are not used.
    """

    places: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class ByHand:
    """The columns that the user named: meaning → name, or number from 1; an empty name means no column.

    Raises:
        ValueError: a meaning is unknown.
    """

    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for meaning in self.names:
            if meaning not in MEANINGS:
                raise ValueError(f"{meaning!r} is not one of {', '.join(MEANINGS)}")

    def places(self, columns: Sequence[str], where: str) -> dict[str, int | None]:
        """Return meaning → index, None for no column.

        Raises:
            ManifestError: there is no such column.
        """
        return {meaning: _place_of(name, columns, where) for meaning, name in self.names.items()}


def _place_of(name: str, columns: Sequence[str], where: str) -> int | None:
    if not name:
        return None
    if name in columns:
        return list(columns).index(name)
    folded = [_squashed(column) for column in columns]
    if _squashed(name) in folded:
        return folded.index(_squashed(name))
    if name.isdigit() and 0 < int(name) <= len(columns):
        return int(name) - 1
    known = (
        f"the columns are {_listed(columns)}" if any(columns) else f"columns count from 1 to {len(columns)}"
    )
    raise broken(f"{where}: --columns: there is no column {name!r}; {known}")


def is_link_name(column: str) -> bool:
    """Return whether a column of this name usually holds links."""
    return _squashed(column) in LINKS


def choose(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], where: str, by_hand: ByHand | None = None
) -> Columns:
    """Return the meaning of each column that is used.

    Args:
        columns: the column names, in order.
        rows: the first rows, with a value per column.
        where: the manifest's name for messages.
        by_hand: columns that the user named; they are not judged by their values.

    Raises:
        ManifestError: no column holds links, or a column that the user named does not exist.
    """
    sample = _Sample(columns, rows[:_SAMPLE])
    given = by_hand.places(columns, where) if by_hand else {}
    places = {meaning: place for meaning, place in given.items() if place is not None}
    if "url" in given and given["url"] is None:
        raise broken(f"{where}: --columns url= names no column; a list needs its column of links")
    if "url" not in given:
        places["url"] = _link_column(sample, where)
    notes: list[str] = []
    if "path" not in given and (path := _path_column(sample)) is not None:
        places["path"] = path
    if "size" not in given and (size := _size_column(sample)) is not None:
        places["size"] = size
    if "headers" not in given and (headers := sample.named(("headers",), _are_headers)) is not None:
        places["headers"] = headers
    taken = set(places.values())
    by_hand_places = {place for place in given.values() if place is not None}
    digests = _digest_columns(sample, where, notes, by_hand_places).items()
    places |= {m: place for m, place in digests if m not in given and place not in taken}
    if not any(meaning in (*ALGORITHMS, "digest") for meaning in places):
        notes += _like_digests(sample, where, places.values())
    if "digest" in places and (kind := _algorithm_column(sample)) is not None:
        places["algorithm"] = kind
    return Columns(places, tuple(notes))


class _Sample:
    """The names of columns, and the values of the first rows that are given."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.columns = columns
        self.names = [_squashed(column) for column in columns]
        self._rows = rows

    def values(self, place: int) -> list[Any]:
        """Return the values of a column that are not blank."""
        found = [row[place] for row in self._rows if len(row) > place]
        return [value for value in found if is_given(value)]

    def named(self, names: Iterable[str], fits: Callable[[list[Any]], bool]) -> int | None:
        """Return the column with the earliest of `names` whose values fit."""
        for name in names:
            for place, column in enumerate(self.names):
                if column == name and fits(self.values(place)):
                    return place
        return None


def _squashed(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(repr(c[:40]) for c in columns[:8]) if any(columns) else "none found"


def _share(values: list[Any], fits: Callable[[Any], bool]) -> float:
    return sum(map(fits, values)) / len(values) if values else 0.0


def holds_link(value: Any) -> bool:
    """Return whether a value is a link, or a list of links."""
    if isinstance(value, (list, tuple)):
        return bool(value) and holds_link(value[0])
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return isinstance(text, str) and re.match(_LINK, text) is not None


def _link_column(sample: _Sample, where: str) -> int:
    named = sample.named(LINKS, lambda values: not values or _share(values, holds_link) >= 0.5)
    if named is not None:
        return named
    # a name such as `@context` is a keyword of JSON-LD
    own = [place for place, column in enumerate(sample.columns) if not column.startswith("@")]
    shares = {place: _share(sample.values(place), holds_link) for place in own}
    # one bad row of a few is a large share
    found = [place for place, share in shares.items() if share >= 0.8]
    if not found and len(some := [place for place, share in shares.items() if share > 0.5]) == 1:
        found = some
    if found:
        return min(found, key=lambda place: (re.search(_SECONDARY, sample.names[place]) is not None, place))
    if (wrong := sample.named(LINKS, lambda _: True)) is not None:
        return wrong  # its values are no links: every row says so
    for column, name in zip(sample.columns, sample.names, strict=True):
        if near := nearest(name, LINKS):
            raise broken(f"{where}: unknown column {column!r}; did you mean {near!r}?")
    raise broken(
        f"{where}: no column holds links (columns: {_listed(sample.columns)}); name the column of links url, "
        "or state it with --columns url=NAME"
    )


def _path_column(sample: _Sample) -> int | None:
    strong = sample.named(PATHS, lambda values: not values or _share(values, _may_be_path) >= 0.5)
    return strong if strong is not None else sample.named((*NAMES, ""), _are_paths)


def _may_be_path(value: Any) -> bool:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    text = os.fspath(text) if isinstance(text, os.PathLike) else text
    return isinstance(text, (str, int)) and not (isinstance(text, str) and ("\n" in text or holds_link(text)))


def _are_paths(values: list[Any]) -> bool:
    """Return whether the values are names of files: with a suffix, or a folder."""
    if not values or not all(isinstance(value, str) for value in values):
        return False
    return _share(values, _is_file_name) >= 0.8


def _is_file_name(value: str) -> bool:
    fits = (
        re.fullmatch(_FILE_NAME, value) is not None
        or re.fullmatch(r"[^\s/]+(?:/[^\s/]+)+", value) is not None
    )
    return fits and not holds_link(value) and len(value.encode("utf-8", "replace")) < 1000


def _size_column(sample: _Sample) -> int | None:
    def fits(values: list[Any]) -> bool:
        return not values or _share(values, _is_size) >= 0.5

    found = sample.named(SIZES, fits)
    if found is not None and sample.names[found] == "length":
        sizes = sorted(
            size for v in sample.values(found) if _is_size(v) and (size := read_size(v)) is not None
        )
        if sizes and sizes[len(sizes) // 2] < 1000:
            return None  # seconds, or characters
    return found


def _is_size(value: Any) -> bool:
    try:
        size = read_size(value)
    except ManifestError:
        return False
    return size is None or size >= 0


def _are_headers(values: list[Any]) -> bool:
    return _share(values, _is_object) >= 0.5


def _is_object(value: Any) -> bool:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return isinstance(value, Mapping)


def _digest_columns(
    sample: _Sample, where: str, notes: list[str], by_hand: Collection[int]
) -> dict[str, int]:
    """Return the columns of digests, and add a note for each that looks like one and is not used."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}  # digests in the columns of `found`
    for place, column in enumerate(sample.columns):
        if place in by_hand:
            continue
        meaning = _named_digest(column)
        values = sample.values(place)
        if meaning is None:
            if why := _unused(column):
                notes.append(f"{where}: the column {column!r} is not used: {why}")
            continue
        values = [value for value in values if not is_unknown(value)]
        fitting = sum(_is_digest(value, None if meaning == "digest" else meaning) for value in values)
        why = _unsupported(sample) if meaning == "digest" else None
        if why or fitting * 2 < len(values):
            if meaning == "digest" and not any(re.match(_MAY_BE_DIGEST, str(value)) for value in values):
                continue  # such as LAION's integers
            why = why or "its values are no digests; name the right column with --columns"
        elif meaning not in found:
            found[meaning], counts[meaning] = place, fitting
        else:
            # the one with more values is used: digests of the other's blank rows would not be compared
            unused = place
            if fitting > counts[meaning]:
                unused, found[meaning], counts[meaning] = found[meaning], place, fitting
            if any(not is_unknown(value) for value in sample.values(unused)):
                used = sample.columns[found[meaning]]
                notes.append(
                    f"{where}: the column {sample.columns[unused]!r} is not used: {used!r} holds {meaning} "
                    "digests, too"
                )
        if why:
            notes.append(f"{where}: the column {column!r} is not used: {why}")
    return found


def _like_digests(sample: _Sample, where: str, known: Collection[int]) -> Iterator[str]:
    """Yield a note for each column whose values look like digests, though its name does not say so.

    The values are not used, because they may be ids.

    Args:
        sample: the columns.
        where: the manifest's name for messages.
        known: columns whose meaning is known.
    """
    for place, column in enumerate(sample.columns):
        values = [] if place in known or _unused(column) else sample.values(place)
        texts = [each for value in values if not is_unknown(value) for each in _leaves(value)]
        kinds = {_digest_form(text) for text in texts}
        if len(kinds) == 1 and (kind := kinds.pop()) is not None:
            shown = repr(column) if column else str(place + 1)
            flag = f"add --columns {kind}={column or place + 1}"
            do = "state them in a column of their own" if isinstance(values[0], Mapping) else flag
            yield (
                f"{where}: the column {shown} is not used: its values look like {kind} digests; if they are "
                f"those of the files, {do}"
            )


def _leaves(value: Any) -> list[str]:
    """Return the texts in a cell that may be a digest: the cell, or the longest text of an object in it."""
    if isinstance(value, Mapping):
        return [max((each for each in value.values() if isinstance(each, str)), key=len, default="")]
    return [value] if isinstance(value, str) else [""]


def _digest_form(text: str) -> str | None:
    """Return the algorithm whose digests look like `text`, None if it looks like no digest."""
    stated = re.fullmatch(_DIGEST_FORM, text)
    try:
        return Digest.parse(text).algorithm if stated else None
    except ValueError:
        return None


def _is_digest(value: Any, algorithm: str | None) -> bool:
    if isinstance(value, (Mapping, list, tuple)):
        return any(_is_digest(each, name or None) for name, each in stated_digests(value))
    text = value.hex() if isinstance(value, bytes) and is_raw(value, algorithm) else value
    text = text.decode() if isinstance(text, bytes) else str(text)
    try:
        Digest.parse(text, algorithm)
    except ValueError:
        return False
    return True


def _algorithm_column(sample: _Sample) -> int | None:
    """Return the column that states the algorithms of the digests in another one, None if there is none."""

    def names_one(value: Any) -> bool:
        name = _squashed(str(value))
        return name in ALGORITHMS or re.match(_NOT_COMPUTED, name) is not None

    return sample.named(_KINDS, lambda values: _share(values, names_one) >= 0.5)


def _unsupported(sample: _Sample) -> str | None:
    """Return why no digest can be used, if another column states their algorithm; None if it supports one."""
    kind = _algorithm_column(sample)
    if kind is None or any(_squashed(str(value)) in ALGORITHMS for value in sample.values(kind)):
        return None
    return f"osp-fetch cannot compute the digests that {sample.columns[kind]!r} states"


def _named_digest(column: str) -> str | None:
    """Return which digests a column's name promises: an algorithm, `digest` for any, or None."""
    column = column.rpartition(":")[2]  # without the prefix of a vocabulary, as in spdx:checksum
    joined = "".join(re.findall(r"[A-Z]?[a-z]+[0-9]*[a-z]*|[A-Z]+[0-9]*[a-z]?|[0-9]+", column)).lower()
    for algorithm in ALGORITHMS:
        before, found, after = joined.partition(algorithm)
        if found and re.fullmatch(_DIGEST_WORDS, before) and re.fullmatch(_DIGEST_WORDS, after):
            return algorithm
    if joined == "b2sum":
        return "blake2b"
    if re.fullmatch(_GENERIC, joined):
        return "digest"
    near = nearest(joined, ALGORITHMS, _NEAR)
    return near if near and not re.match(_NOT_COMPUTED, joined) else None


def _unused(column: str) -> str | None:
    """Return why a column whose name contains an algorithm is not used; None if it contains none."""
    parts = [part.lower() for part in re.split(r"[^A-Za-z0-9]+", column)]
    if any(re.match(_NOT_COMPUTED, part) for part in parts):
        return f"osp-fetch cannot compute these digests (supported: {', '.join(ALGORITHMS)})"
    if any(part.startswith(ALGORITHMS) for part in parts):
        return "its name does not say that it holds digests of the files; name it with --columns"
    return None
