"""Manifests read line by line: JSON lines and plain lists of URLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from ..model.errors import ManifestError
from .row_parser import Blocks, Numbered, meanings, read_row

_BLOCK: Final = 1000  # rows per block
_KEYS: Final = "path, url or urls, size, sha256, md5, digest, headers"


def json_lines(path: Path) -> Blocks:
    """Read rows `{"path", "url" or "urls", "size"?, "sha256"|"md5"|"digest"?, "headers"?}`, one per line.

    A line that is not a JSON object yields a ManifestError in place of its row.
    """
    return _blocks(_json_rows(path))


def _json_rows(path: Path) -> Iterator[Numbered]:
    known: dict[tuple[str, ...], list[tuple[str, str]]] = {}  # keys of a row → (meaning, key) of known ones
    name, decode = path.name, json.JSONDecoder().decode
    for line, text in _lines(path):
        try:
            row = decode(text)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            yield line, ManifestError(f"{name}:{line}: not a JSON object ({error}); keys are {_KEYS}")
            continue
        keys = tuple(row)
        try:
            if keys not in known:
                meant = meanings(keys, f"{name}:{line}")
                known[keys] = [(meaning, keys[place]) for meaning, place in meant.items()]
        except ManifestError as error:
            yield line, ManifestError(str(error))
            continue
        yield line, read_row({meaning: row[key] for meaning, key in known[keys]}, name, line)


def url_list(path: Path) -> Blocks:
    """Read one URL per line; skip blank lines and lines that begin with #."""
    return _blocks(
        (line, read_row({"url": text}, path.name, line))
        for line, text in _lines(path)
        if not text.startswith("#")
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if text := line.strip():
                yield number, text


def _blocks(numbered: Iterator[Numbered]) -> Blocks:
    while block := list(islice(numbered, _BLOCK)):
        yield block
