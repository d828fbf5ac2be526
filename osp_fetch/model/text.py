"""Text from outside, made safe to print."""

from __future__ import annotations

import re
from typing import Final

CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""Character class of C0, C1, line separators, and characters that change the direction of writing."""

_CONTROL: Final = re.compile(f"[{CONTROLS}]")


def has_control(text: str) -> bool:
    """Return whether `text` holds a character that a terminal or a list of lines would act upon."""
    return _CONTROL.search(text) is not None


def printable(text: str) -> str:
    """Return `text` with each control character as an escape such as `\\x1b`, on one line.

    Undecodable bytes (lone surrogates) become `\\udcXX`, so that the result can be encoded.
    """
    text = _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
