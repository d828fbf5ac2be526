"""URL lists in the format TsvHttpData-1.0 of Google's Storage Transfer Service: URL, size, base64 MD5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ..model.errors import ManifestError
from .blocks import grouped
from .row_parser import Blocks, Numbered, read_row

HEADER: Final = "TsvHttpData-1.0"


def looks_like(head: str) -> bool:
    """Return whether a text that begins with `head` is such a list."""
    return head.partition("\n")[0].strip() == HEADER


def rows(lines: Iterable[str], name: str) -> Blocks:
    """Read one row for each line; size and MD5 may be absent.

    Args:
        lines: the lines, with or without their ends, the header line first.
        name: the list's name for messages.
    """
    return grouped(_rows(lines, name))


def _rows(lines: Iterable[str], name: str) -> Iterator[Numbered]:
    for line, text in enumerate(lines, 1):
        columns = [column.strip() for column in text.split("\t")]
        if line == 1 or not any(columns):
            continue
        if len(columns) > 3:
            why = f"{len(columns)} columns instead of URL, size and MD5; correct or remove the row"
            yield line, ManifestError(f"{name}:{line}: {why}")
            continue
        url, size, md5 = (*columns, "", "")[:3]
        yield line, read_row({"url": url, "size": size, "md5": md5}, name, line)
