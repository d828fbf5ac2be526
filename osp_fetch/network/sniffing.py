"""What bytes are, by their first bytes: markup, text, or a known binary format.

The rules for markup and text are those of browsers (WHATWG MIME Sniffing Standard, sections 3 and 7.1),
because the Content-Type may be wrong, and the bytes cannot be.
"""

from __future__ import annotations

import re
from typing import Final

# Section 7.1: a tag ends in a blank or `>`. `<!--` and `<?xml` need no end.
_MARKUP: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\x0c\r ]*<(?:(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|"
    rb"style|title|b|body|br|p|error)[ >\t\n\x0c\r/]|!--|\?xml)",
    re.IGNORECASE,
)
_TAG: Final = re.compile(rb"(?:\xef\xbb\xbf)?[\t\n\x0c\r ]*<[a-z!/?]", re.IGNORECASE)
# Section 3: a byte that is in no text. UTF-16 and UTF-32 have a byte order mark.
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_TEXT_MARK: Final = (b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf")
_MAGIC: Final = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"\x00\x00\x01\x00",
    b"\x00\x00\x00\x0cjP", b"\xff\x0a", b"8BPS", b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18", b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07",
    b"\x89HDF\r\n\x1a\n", b"\x93NUMPY", b"SQLite format 3\x00", b"%PDF-", b"%!PS-Adobe-", b"OggS",
    b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x80\x02", b"\x80\x03",
    b"\x80\x04", b"\x80\x05", b"\x7fELF", b"glTF\x02\x00",
)  # fmt: skip
# numbers that a text may begin with, too
_LETTERS: Final = (
    b"BM",
    b"BZh",
    b"PAR1",
    b"ARROW1",
    b"FEA1",
    b"GGUF",
    b"fLaC",
    b"ID3",
    b"MThd",
    b"MZ",
    b"wOF",
    b"ORC",
)
_JSON: Final = re.compile(rb"[\t\n\r ]*(?:\[[\t\n\r ]*)?\{[\t\n\r ]*(?:\"|\})")
_RIFF: Final = (b"WEBP", b"AVI ", b"WAVE")
_TAR: Final = (257, b"ustar")


def is_markup(head: bytes) -> bool:
    """Return whether a browser would take the bytes for HTML or XML."""
    return _MARKUP.match(head) is not None


def is_tag(head: bytes) -> bool:
    """Return whether the bytes begin with a tag of any name; with the label of a page they are one."""
    return _TAG.match(head) is not None


def is_text(head: bytes) -> bool:
    """Return whether a browser would take the bytes for text."""
    return head.startswith(_TEXT_MARK) or not _BINARY.search(head)


def is_json(head: bytes) -> bool:
    """Return whether the bytes begin as a JSON object, or an array of objects, does."""
    return _JSON.match(head) is not None


def is_known_format(head: bytes) -> bool:
    """Return whether the bytes begin with the magic number of an image, a film, an archive or a data file."""
    if head.startswith(_MAGIC) or head[4:8] == b"ftyp" or (head.startswith(_LETTERS) and not is_text(head)):
        return True
    if head[:4] in (b"RIFF", b"FORM") and head[8:12] in (*_RIFF, b"AIFF"):
        return True
    if head[_TAR[0] : _TAR[0] + len(_TAR[1])] == _TAR[1]:
        return True
    # an MPEG audio frame, and a safetensors file: the length of its JSON header, and the header
    return head[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2") or (
        head[5:8] == b"\0\0\0" and head[8:9] == b"{"
    )
