"""Repair of damaged files: find the bytes that are still correct, and make a partial of them."""

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
    """Return the bytes of an open file whose checksums match the record.

    Args:
        fd: descriptor of the file.
        record: record with `checksums` and `length`.

    Raises:
        OSError: the file cannot be read.
    """
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
    """Remove a damaged file from its final name, and make a partial of its correct bytes.

    A file that was modified after it was recorded, or that has a second name, is not written to.
    `ownership.set_aside` keeps it complete, and the partial is a copy of its correct bytes.

    Args:
        root: the output folder.
        state: the state folder.
        record: record of the published file.

    Returns:
        The record of the partial, whose missing bytes the next run fetches, and the path of the kept file
        relative to `root`, or None if the file itself became the partial.

    Raises:
        DiskFullError: the disk is full.
        StorageError: a file cannot be read, written or moved.
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
    """Copy the bytes `held` of an open file to a new file of `length` bytes, and sync it."""
    with place.open("wb") as file:
        for span in held:
            for at in range(span.start, span.stop, CHECKSUM_SPAN):
                file.seek(at)
                file.write(os.pread(fd, min(CHECKSUM_SPAN, span.stop - at), at))
        file.truncate(length)
        file.flush()
        os.fsync(file.fileno())
