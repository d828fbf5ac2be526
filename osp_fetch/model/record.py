"""What the ledger keeps of one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .entry import RelativePath
from .http import Validator
from .ranges import NOTHING, RangeSet


class Published(NamedTuple):
    """How the finished file looked on disk when it got its final name."""

    size: int
    mtime_ns: int


class Placed(NamedTuple):
    """A file under its final name. `kept`: where the user's own file of that name is now, if there was
    one."""

    published: Published
    kept: str | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """What a whole file is, read from its first byte to its last.

    `digests` and `checksums` as in a Record. `blank`: where it has holes, or nothing but zeros.
    """

    size: int
    digests: dict[str, str]
    checksums: tuple[int, ...]
    blank: RangeSet = NOTHING


@dataclass(frozen=True, slots=True)
class Record:
    """The state of one file: it may claim too little, never too much.

    `source_key`: host and path it came from. `digests`: algorithm → hex, of the whole file.
    `checksums`: CRC-32 of each `CHECKSUM_SPAN` bytes in order, to find a damaged spot in a longer file.
    `published`: None while only a partial exists.
    """

    path: RelativePath
    source_key: str
    length: int | None = None
    validator: Validator = Validator()
    held: RangeSet = NOTHING
    digests: dict[str, str] = field(default_factory=dict)
    checksums: tuple[int, ...] = ()
    published: Published | None = None


CHECKSUM_SPAN = 16 << 20
