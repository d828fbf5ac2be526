"""Lists that other tools write: recognised by their content, whatever their name is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from . import aria2, bagit, checksum_lines, curl_config, tsvhttp
from .row_parser import Blocks, broken

HEAD: Final = 64 << 10  # bytes by which a list is recognised

Reader = Callable[[Iterable[str], str], Blocks]
"""Reads the rows of a list from its lines, and its name for messages."""


def reader(head: str, path: Path | None = None) -> Reader | None:
    """Return the reader of a list, or None if it is none of the known ones.

    Args:
        head: the first 64 KiB of the list, decoded, without a byte order mark.
        path: the list, beside which the manifests of a bag lie; None for a pipe.

    Raises:
        ManifestError: the text is a checksum list, which has no links.
    """
    if tsvhttp.looks_like(head):
        return tsvhttp.rows
    if path is not None and bagit.is_fetch_file(path, head):
        return partial(bagit.rows, folder=path.parent)
    if aria2.looks_like(head):
        return aria2.rows
    if curl_config.looks_like(head):
        return curl_config.rows
    if checksum_lines.looks_like(head):
        name = path.name if path else "standard input"
        raise broken(
            f"{name}: a checksum list has no links; pass the list's URL to "
            "fetch the files beside it, or a SOURCE with the links and the list as --checksums"
        )
    return None
