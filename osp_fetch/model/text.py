"""Escape text from servers and manifests, so that it is safe to print."""

from __future__ import annotations

import re
from typing import Final

CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""Regular-expression character class: C0 and C1 controls, line separators, and bidirectional controls."""

_CONTROL: Final = re.compile(f"[{CONTROLS}]")


def has_control(text: str) -> bool:
    """Return whether `text` contains a character that a terminal or a line-based file would interpret."""
    return _CONTROL.search(text) is not None


def printable(text: str) -> str:
    """Return `text` on one line, with each control character replaced by an escape such as `\\x1b`.

    Lone surrogates, which stand for undecodable bytes, become `\\udcXX`, so that the result can be encoded as
    UTF-8.
    """
    text = _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
