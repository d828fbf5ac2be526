"""Records: what the ledger stores about one file, and how files look on disk."""

from __future__ import annotations

from dataclasses import field
from typing import NamedTuple

from .dataclasses import dataclass
from .entry import RelativePath
from .http import Validator
from .ranges import NOTHING, RangeSet


class Published(NamedTuple):
    """Size (bytes) and modification time (nanoseconds) of a file when it got its final name."""

    size: int
    mtime_ns: int


class Placed(NamedTuple):
    """A published file.

    Attributes:
        published: how the file looks on disk.
        kept: where the user's own file of that name was moved, relative to the output folder; None if there
            was none.
    """

    published: Published
    kept: str | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of reading a complete file from its first byte to its last.

    Attributes:
        size: length in bytes.
        digests: as in `Record`.
        checksums: as in `Record`.
        blank: ranges that consist of zeros only; holes of a sparse file read as zeros.
    """

    size: int
    digests: dict[str, str]
    checksums: tuple[int, ...]
    blank: RangeSet = NOTHING


@dataclass(frozen=True, slots=True)
class Record:
    """The recorded state of one file. It may state too little, never too much.

    Attributes:
        path: path below the output folder.
        source_key: host and path of the URL that the bytes came from.
        length: length of the complete file in bytes, if known.
        validator: ETag and Last-Modified of the bytes held (RFC 9110 section 8.8).
        held: bytes that are safe in the partial.
        digests: algorithm → hexadecimal digest of the complete file.
        checksums: CRC-32 of each `CHECKSUM_SPAN` bytes in order. They locate damage in a file that is longer
            than one span.
        published: how the file looked when it was published; None while only a partial exists.
    """

    path: RelativePath
    source_key: str
    length: int | None = None
    validator: Validator = Validator()
    held: RangeSet = NOTHING
    digests: dict[str, str] = field(default_factory=dict)
    checksums: tuple[int, ...] = ()
    published: Published | None = None

    @property
    def is_adopted(self) -> bool:
        """Whether the file was there, and no run has fetched its bytes."""
        return self.published is not None and not self.held and bool(self.length)


# Bytes that one CRC-32 of `Record.checksums` covers (16 MiB). The repair of a damaged file fetches complete
# spans again.
CHECKSUM_SPAN = 16 << 20
