"""Damaged files: which bytes of one are still right, and how it becomes a partial again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ...model.ranges import ByteRange, RangeSet
from ...model.record import CHECKSUM_SPAN, Record
from . import ownership
from .disk import Disk, storage_error
from .hashing import checksum
from .layout import Layout
from .ownership import Decision


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


def reopened(root: Path, state: Path, record: Record) -> tuple[Record, str | None]:
    """Take a damaged file from under its final name, and make a partial of what is right of it.

    A file that was edited since it was recorded, or that has another name, is not written to: it is kept
    whole where `ownership.set_aside` puts it, and the partial is a copy of its right bytes.

    Returns:
        The record of the partial, whose missing bytes the next run fetches; and where the file is kept, if it
        is.

    Raises:
        StorageError: the disk does not allow it.
    """
    places = Layout(root, state, Disk())
    final, partial = places.final(record.path), places.partial(record.path)
    kept = None
    try:
        places.check(final)
        places.prepare(partial, durable=False)
        places.disk.unlink(partial)
        fd = os.open(final, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            held = sound(fd, record)
            decision = ownership.to_repair(places.disk.existing(final), record.published)
            if decision is Decision.REPLACE:
                places.disk.rename_new(final, partial)
                os.ftruncate(fd, record.length or 0)
            else:
                _copy(fd, Path(partial), held, record.length or 0)
                kept = ownership.set_aside(places.disk, root, record.path)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, f"{final} cannot be set aside for repair") from None
    return replace(record, held=held, digests={}, checksums=(), published=None), kept


def _copy(fd: int, place: Path, held: RangeSet, length: int) -> None:
    """Write the bytes `held` of an open file to a new file of `length` bytes."""
    with place.open("wb") as file:
        for span in held:
            for at in range(span.start, span.stop, CHECKSUM_SPAN):
                file.seek(at)
                file.write(os.pread(fd, min(CHECKSUM_SPAN, span.stop - at), at))
        file.truncate(length)
        file.flush()
        os.fsync(file.fileno())
