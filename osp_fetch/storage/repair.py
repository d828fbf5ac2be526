"""Damaged files: which bytes of one are still right, and how it becomes a partial again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..model.ranges import ByteRange, RangeSet
from ..model.record import CHECKSUM_SPAN, Record
from . import files
from .hashing import checksum
from .places import Places


def sound(fd: int, record: Record) -> RangeSet:
    """The bytes of an open file whose checksums are those recorded. Raises OSError."""
    length = record.length or 0
    right: list[ByteRange] = []
    for number, expected in enumerate(record.checksums):
        start = number * CHECKSUM_SPAN
        stop = min(start + CHECKSUM_SPAN, length)
        data = os.pread(fd, CHECKSUM_SPAN, start)
        if len(data) >= stop - start and checksum(data[: stop - start], 0) == expected:
            right.append(ByteRange(start, stop))
    return RangeSet.of(right)


def reopened(root: Path, state: Path, record: Record) -> Record:
    """Take a damaged file from under its final name; the record of the partial that it becomes.

    What is right of it is held, the rest missing: the next run fetches that and nothing else.
    """
    places = Places(root, state, files.Disk())
    final, partial = places.final(record.path), places.partial(record.path)
    try:
        places.check(final)
        places.prepare(partial, durable=False)
        fd = os.open(final, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            held = sound(fd, record)
            places.disk.replace(final, partial)
            os.ftruncate(fd, record.length or 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise files.storage_error(error, f"{final} cannot be set aside for repair") from None
    return replace(record, held=held, digests={}, checksums=(), published=None)
