"""Meta's SA-1B link file: `file_name<TAB>cdn_link`, 1000 tars, and files that do not belong to SA-1B."""

from __future__ import annotations

import re
from typing import Final

from ..model.entry import Entry
from .row_parser import Blocks
from .select import Selection

_HEADER: Final = re.compile(r"\ufeff?file_name\tcdn_link\s*")
_ROW: Final = re.compile(r"sa_(?:\d{6}\.tar|images_ids\.txt)\thttps?://\S+\s*")
_FOREIGN: Final = "sa_co_*"  # since 2026 the file also lists SA-Co, another dataset


def is_link_file(first_line: str) -> bool:
    """Return whether `first_line` is that of an SA-1B link file, with or without a header."""
    return bool(_HEADER.fullmatch(first_line) or _ROW.fullmatch(first_line))


def without_foreign(blocks: Blocks, selection: Selection) -> Blocks:
    """Remove the rows of SA-Co from `blocks`, unless `selection` has include globs."""
    if selection.include:
        yield from blocks
        return
    foreign = Selection((_FOREIGN,))
    for block in blocks:
        yield [(n, row) for n, row in block if not (isinstance(row, Entry) and foreign.wants(row.path))]
