"""Adoption: accept files that already exist if a digest, or samples from the server, prove them right."""

from __future__ import annotations

import random
from functools import partial
from typing import Final

from ..model import events, urls
from ..model.digest import Digest
from ..model.entry import Entry, RelativePath
from ..model.errors import IntegrityError, Remedy, TransferError
from ..model.http import Request, Validator
from ..model.ranges import NOTHING, ByteRange, RangeSet
from ..model.record import Examined, Published, Record
from .context import Context
from .full_disk import FullDisk
from .retry import persist
from .state import SAMPLE

_WHOLE: Final = 64 << 10  # bytes: a file up to this size is compared completely
_APART: Final = 2 << 20  # bytes of the file per sample
_LEAST, _MOST = 4, 24  # fewest and most samples per file
# Most ranges of zeros that are compared with the server's bytes. A file with more of them is not adopted.
_BLANKS: Final = 64
_UNFINISHED: Final = (".aria2", ".st")  # control files that aria2 and axel keep beside an unfinished file


class Adoption:
    """The checks of existing files.

    These are files of other downloaders, of runs whose ledger is lost, and files that were set aside because
    their digest was not the manifest's.

    Args:
        context: The shared objects of this process.
        full: The wait for free space.
    """

    def __init__(self, context: Context, full: FullDisk) -> None:
        self._context, self._full = context, full

    async def finished(
        self, entry: Entry, record: Record | None, seen: Published | None, order: int
    ) -> Record | None:
        """Adopt the file under its final name if a digest or samples prove it right.

        Args:
            entry: The manifest entry.
            record: Its record in the ledger, None if there is none.
            seen: State of the file under its final name, None if there is no file.
            order: Position in the manifest. Smaller numbers get slots first.

        Returns:
            The new record; None if there is no file or nothing proves it right.

        Raises:
            TransferError: The server must be asked later; the remedy is PARK or ABORT.
            StorageError: The file cannot be read, or the ledger cannot be written.
        """
        if seen is None or (entry.size is not None and entry.size != seen.size):
            return None
        # a run that was killed between the rename and the last record leaves a complete record without a
        # published file
        complete = record is not None and (record.published or len(record.held) == record.length)
        ours = record.digests.get("sha256") if record and complete else None
        known = entry.digest or (Digest("sha256", ours) if ours else None)
        if known is not None:
            if entry.digest is None and record is not None and not same_source(record, entry):
                return None  # fetched from another source, whose file may differ from the row's
            wanted = frozenset({"sha256", known.algorithm})
            found = await self._context.store.published.examine(entry.path, wanted)
            if found.digests[known.algorithm] != known.hex:
                return None
            proof = known.algorithm
        elif record is not None and record.held and not record.published:
            # the file was begun: what is under its name is the version that is being replaced, and samples
            # could miss what has changed
            return None
        else:
            sampled = await self._sampled(entry, seen.size, order)
            if sampled is None:
                return None
            found, proof = sampled, "samples"
        self._context.observe(events.Adopted(entry.path, seen.size, proof))
        return await self._recorded(entry, found, seen, record)

    async def _recorded(
        self, entry: Entry, found: Examined, seen: Published, before: Record | None
    ) -> Record:
        key = entry.source_key(entry.urls[0])
        # keep `held`: it marks the file as fetched by osp-fetch, not adopted
        same = before is not None and before.digests.get("sha256") == found.digests.get("sha256")
        held = before.held if before is not None and same else NOTHING
        adopted = Record(entry.path, key, seen.size, Validator(), held, found.digests, found.checksums, seen)
        await self._full.record(adopted)
        return adopted

    async def _sampled(self, entry: Entry, size: int, order: int) -> Examined | None:
        """Return the digests of the file if the server has the same bytes at every sampled range."""
        beside = [RelativePath(entry.path + ending) for ending in _UNFINISHED]
        if size == 0 or any(await self._context.store.stat(beside)):
            return None
        for link in entry.urls:
            if await self._same(entry, link, size, spots(entry.path, size), order):
                found = await self._context.store.published.examine(entry.path, frozenset({"sha256"}))
                # other downloaders preallocate: zeros in a file of full size may be missing bytes
                blank = _blank_spots(found)
                same = blank is not None and await self._same(entry, link, size, blank, order)
                return found if same else None
        return None

    async def aside(self, entry: Entry, record: Record | None, order: int) -> Record | None:
        """Restore the file that an earlier run set aside for a wrong digest, as a partial.

        Args:
            entry: The manifest entry.
            record: Its record in the ledger, None if there is none.
            order: Position in the manifest. Smaller numbers get slots first.

        Returns:
            The record of the partial, with no byte held if the file is no longer right; None if no file was
            set aside.

        Raises:
            IntegrityError: The server still offers these bytes, and the manifest still states another digest.
            TransferError: The server must be asked later; the remedy is PARK or ABORT.
            StorageError: The file cannot be read or moved, or the ledger cannot be written.
        """
        size = await self._context.store.set_aside.find(entry.path)
        if size is None:
            return None
        right = bool(size) and entry.size in (None, size)
        if right:
            right = await self._right_aside(entry, record, size, order)
        await self._context.store.set_aside.restore(entry.path)
        held = RangeSet.upto(size) if right else NOTHING
        key = entry.source_key(entry.urls[0])
        digests = record.digests if record and not right else {}  # if they come again, once is enough
        taken = Record(entry.path, key, size if right else None, held=held, digests=digests)
        await self._full.record(taken)
        return taken

    async def _right_aside(self, entry: Entry, record: Record | None, size: int, order: int) -> bool:
        wanted, known = entry.digest, record.digests if record else {}
        algorithm = wanted.algorithm if wanted else "sha256"
        found = await self._context.store.set_aside.examine(entry.path, frozenset({"sha256", algorithm}))
        if wanted is not None and found.digests[algorithm] == wanted.hex:
            return True
        if known.get("sha256") != found.digests["sha256"]:
            return False  # not the file that was set aside
        tag = record.validator if record else Validator()
        for link in entry.urls:
            # the server's file may be corrected between the samples: only an equal validator excludes that
            must = tag if wanted is not None else Validator()
            same = bool(must) or wanted is None
            if not same or not await self._same(entry, link, size, spots(entry.path, size), order, must):
                return False
        if wanted is not None:
            raise IntegrityError(
                f"{entry.path}: the server still offers the bytes whose {algorithm} is "
                f"{found.digests[algorithm]}, and the manifest still states {wanted.hex}; they are "
                "kept in .osp-fetch/aside: correct the digest in the manifest, and they are taken from there",
                remedy=Remedy.FAIL,
            )
        return True

    # ---- requests to the server

    async def _same(
        self,
        entry: Entry,
        link: str,
        size: int,
        spans: list[ByteRange],
        order: int,
        must: Validator | None = None,
    ) -> bool:
        """Return whether `link` has the bytes of the file in all of `spans`.

        If `must` is given, the file set aside is compared, and the server must also send that validator.
        """
        store = self._context.store
        files = store.published if must is None else store.set_aside
        try:
            for span in spans:
                came, seen = await self._sample(entry, link, size, span, order)
                if must and (must.strong, must.last_modified) != (seen.strong, seen.last_modified):
                    return False
                if came != await files.read(entry.path, span):
                    return False
        except TransferError as error:
            if error.remedy in (Remedy.PARK, Remedy.ABORT):
                raise
            return False  # the transfer that follows reports the error
        return True

    async def _sample(
        self, entry: Entry, link: str, size: int, span: ByteRange, order: int
    ) -> tuple[bytes, Validator]:
        came: list[tuple[bytes, Validator]] = []

        async def ask() -> None:
            came.append(await self._ask(entry, link, size, span, order))

        retrying = partial(self._context.retrying, entry.path)
        await persist(ask, self._context.settings.retry, lambda: 0, retrying)
        return came[0]

    async def _ask(
        self, entry: Entry, link: str, size: int, span: ByteRange, order: int
    ) -> tuple[bytes, Validator]:
        async with self._context.exchange(urls.host(link), order, entry.path) as exchange:
            reply = await exchange.send(Request(link, span, None, entry.headers, name=entry.path))
            found = reply.representation
            whole = reply.range is None and len(span) == size
            if found.length != size or not (whole or reply.range == span):
                raise TransferError(
                    f"{entry.path}: the server has a file of another size, or does not support ranges"
                )
            sample, came = memoryview(bytearray(len(span))), 0
            while came < len(span) and (count := await exchange.readinto(sample[came:])):
                came += count
            return bytes(sample[:came]), found.validator


def spots(path: str, size: int) -> list[ByteRange]:
    """Return the ranges in which a file is compared with the server's.

    A small file is compared completely. Of others the end and random ranges are compared. The ranges differ
    from path to path, so that a regular pattern of damage is not missed in every file.

    Args:
        path: Path of the file, the seed of the random numbers.
        size: Size of the file in bytes.
    """
    if size <= _WHOLE:
        return list(RangeSet.upto(size))
    chance = random.Random(f"{path} {size}")
    count = min(max(size // _APART, _LEAST), _MOST)
    step = size / (count - 1)
    starts = [int(n * step + chance.uniform(0, max(0.0, step - SAMPLE))) for n in range(count - 1)]
    # the end first: an unfinished file usually has no data there
    return [ByteRange(at, min(at + SAMPLE, size)) for at in [size - SAMPLE, *starts]]


def _blank_spots(found: Examined) -> list[ByteRange] | None:
    """Return one range inside each range of zeros; None if there are too many to compare."""
    if len(found.blank.ranges) > _BLANKS:
        return None
    middles = [(r.start + r.stop) // 2 for r in found.blank]
    return [ByteRange(at, min(at + SAMPLE, found.size)) for at in middles]


def same_source(record: Record, entry: Entry) -> bool:
    """Return whether one of the entry's links leads to the source of the recorded file.

    Args:
        record: The record of the file.
        entry: The manifest entry.
    """
    return any(entry.leads_to(url, record.source_key) for url in entry.urls)
