"""Manifests of JSON objects, in lines or in an array, and plain lists of URLs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final

from ..model.errors import ManifestError
from .blocks import grouped
from .columns import holds_link, is_link_name
from .documents import File, files_of
from .opening import ManifestFile
from .reading import BLOCK, Objects, Reading
from .row_parser import Blocks, broken, read_rows

_AT_ONCE: Final = 4 << 20  # bytes of an array that is read at once
_NAME: Final = re.compile(r"[^\n]*\.[A-Za-z0-9]{1,10}")
# a link, and the hexadecimal digits of an md5, sha1, sha256 or sha512 value
_WITH_DIGEST: Final = (
    r"(?P<url>\S+)[ \t]+(?P<value>(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|(?:[0-9a-fA-F]{64}){1,2}))"
)
_KEYS: Final = "path, url or urls, size, sha256, md5, digest, headers"


def json_lines(file: ManifestFile, reading: Reading) -> Blocks:
    """Read rows `{"path", "url" or "urls", "size"?, "sha256"|"md5"|"digest"?, "headers"?}`, one per line.

    A line that is not a JSON object yields a ManifestError in place of its row.
    """
    yield from _objects(_lines_of_json(file), file.name, reading)


def json_values(file: ManifestFile, reading: Reading) -> Blocks:
    """Read the objects of a JSON array, or objects that span several lines; see `json_lines`.

    Raises:
        ManifestError: the text is not valid JSON.
    """
    yield from _objects(_values_of_json(file), file.name, reading)


def is_json_lines(head: str) -> bool:
    """Return whether the first line of a text that begins with `{` is a complete JSON object."""
    first = head.lstrip("\ufeff \t\r\n").splitlines()[0]
    try:
        json.loads(first)
    except ValueError:
        return "\n" not in head.strip()
    return True


def _objects(values: Iterator[tuple[int, Any]], name: str, reading: Reading) -> Blocks:
    objects = Objects(reading, name)
    rows = chain.from_iterable(_each(line, value) for line, value in _opened(values, name, reading))
    while block := list(islice(rows, BLOCK)):
        yield objects.rows(block)


def _opened(values: Iterator[tuple[int, Any]], name: str, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Return `values`; if the only one is a document about a dataset, the files that it lists."""
    first = list(islice(values, 2))
    if len(first) == 1 and isinstance(first[0][1], dict) and (found := files_of(first[0][1])):
        where, files = found
        links = sum(isinstance(file, dict) for file in files)
        reading.note(f"{name}: its list {where!r} is read, with {links} link{'s' * (links != 1)}")
        return enumerate(_rows(files, f"{name}: {where}"), start=1)
    return chain(first, values)


def _rows(files: Sequence[File], where: str) -> Iterator[dict[str, Any] | ManifestError]:
    """Yield the files of a document; an error for each that cannot be fetched."""
    for number, file in enumerate(files, start=1):
        yield ManifestError(f"{where}, file {number}: {file}") if isinstance(file, str) else file


def _is_name(key: str) -> bool:
    """Return whether a key is the name of a file, and not that of a column such as `image.url`."""
    return _NAME.fullmatch(key) is not None and not is_link_name(key.rpartition(".")[2])


def _each(line: int, value: Any) -> Iterator[tuple[int, Any]]:
    """Yield a row for each file of an object that maps names of files to links; else the value itself."""
    is_map = isinstance(value, dict) and len(value) > 1 and all(map(_is_name, value))
    if is_map and all(map(holds_link, value.values())):
        yield from ((line, {"path": name, "url": link}) for name, link in value.items())
    else:
        yield line, value


def _lines_of_json(file: ManifestFile) -> Iterator[tuple[int, Any]]:
    decode = json.JSONDecoder().decode
    for line, text in _lines(file):
        try:
            row = decode(text)
            if not isinstance(row, (dict, str)):
                raise ValueError("not an object")
        except ValueError as error:
            row = ManifestError(f"{file.name}:{line}: not a JSON object ({error}); keys are {_KEYS}")
        yield line, row


def _values_of_json(file: ManifestFile) -> Iterator[tuple[int, Any]]:
    import ijson

    if file.size <= _AT_ONCE and (values := _whole_array(file)) is not None:
        yield from enumerate(values, start=1)
        return
    head = file.head().lstrip("\ufeff \t\r\n")
    prefix = "item" if head.startswith("[") else ""
    with file.text() as text:
        encoded = _Utf8(text)
        try:
            found = ijson.items(encoded, prefix, multiple_values=True, use_float=True)
            yield from enumerate(found, start=1)
        except ijson.JSONError as error:
            raise broken(
                f"{file.name}: cannot be read as JSON ({_first_line(error)}); correct the file"
            ) from None


def _first_line(error: Exception) -> str:
    """Return the message of the parser without its picture of the place."""
    return " ".join(str(error).split("\n")[0].replace("\\n", "\n").split("\n")[0].split())


def _whole_array(file: ManifestFile) -> list[Any] | None:
    """Return the items of a small JSON array, None if it is something else.

    Python's parser takes the NaN that pandas writes; the one that streams does not.
    """
    with file.text() as text:
        try:
            value = json.load(text)
        except ValueError:
            return None
    return value if isinstance(value, list) else None


class _Utf8:
    """A file of bytes in UTF-8, as ijson reads it, over a decoded text."""

    def __init__(self, text: Any) -> None:
        self._text = text

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` characters, encoded."""
        data: str = self._text.read(size)
        return data.encode("utf-8", "replace")


def url_list(file: ManifestFile) -> Blocks:
    """Read one URL per line, which a digest may follow; skip blank lines and lines that begin with #."""
    yield from grouped(
        (line, row)
        for line, text in _lines(file)
        if not text.startswith("#")
        for row in read_rows(_linked(text), file.name, line)
    )


def _linked(text: str) -> dict[str, str]:
    """Return the link and the digest, if any, of a line."""
    if digest := re.fullmatch(_WITH_DIGEST, text):
        return {"url": digest["url"].strip("\"'<>"), "digest": digest["value"]}
    return {"url": text.strip("\"'<>")}


def _lines(file: ManifestFile) -> Iterator[tuple[int, str]]:
    with file.text() as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.strip():
                yield number, text
