"""The encoding of a text that a list or a page consists of."""

from __future__ import annotations

import codecs


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text by its byte order mark, or by where UTF-16 has its zeros."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
    ):  # fmt: skip
        if head.startswith(mark):
            return name
    begin = head[:512]
    if len(begin) >= 4 and begin.count(0):
        if begin[1::2].count(0) > 0.8 * len(begin[1::2]) and not begin[0::2].count(0):
            return "utf-16-le"
        if begin[0::2].count(0) > 0.8 * len(begin[0::2]) and not begin[1::2].count(0):
            return "utf-16-be"
    return "utf-8-sig"
