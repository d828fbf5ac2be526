"""Blocks of rows: each step between a source and the run costs time per block, not per row."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from .row_parser import Blocks, Numbered

_BLOCK: Final = 1000  # rows per block


def grouped(rows: Iterable[Numbered]) -> Blocks:
    """Yield `rows` in blocks of at most 1000."""
    numbered = iter(rows)
    while block := list(islice(numbered, _BLOCK)):
        yield block
