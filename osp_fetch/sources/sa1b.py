"""Meta's SA-1B link file: `file_name<TAB>cdn_link`, 1000 tars, and what came to lie beside them."""

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
    """Whether a file that begins so is an SA-1B link file, with or without its header."""
    return bool(_HEADER.fullmatch(first_line) or _ROW.fullmatch(first_line))


def without_foreign(blocks: Blocks, selection: Selection) -> Blocks:
    """`blocks` without what is not SA-1B's, unless a glob asks for it."""
    if selection.include:
        yield from blocks
        return
    foreign = Selection((_FOREIGN,))
    for block in blocks:
        yield [(n, row) for n, row in block if not (isinstance(row, Entry) and foreign.wants(row.path))]
