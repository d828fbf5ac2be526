"""Files that are here already: proved right by a digest, or by samples, before anything is fetched."""

from __future__ import annotations

import random
from typing import Final

from ..model import events, urls
from ..model.digest import Digest
from ..model.entry import Entry, RelativePath
from ..model.errors import FetchError, IntegrityError, Remedy, TransferError
from ..model.http import Request, Validator
from ..model.ranges import NOTHING, ByteRange, RangeSet
from ..model.record import Examined, Published, Record
from .context import Context
from .retry import persist
from .state import SAMPLE

_WHOLE: Final = 64 << 10  # a smaller file is compared from its first byte to its last
_APART: Final = 2 << 20  # one sample for so many bytes …
_LEAST, _MOST = 4, 24  # … within these
_BLANKS: Final = 64  # stretches of zeros that are held against the server's bytes; with more, none are
_UNFINISHED: Final = (".aria2", ".st")  # beside a file that aria2 or axel is not done with


class Adoption:
    """Decides about files of other downloaders, of runs whose ledger is lost, and of wrong digests."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def finished(
        self, entry: Entry, record: Record | None, seen: Published | None, order: int
    ) -> Record | None:
        """The record of a file that stands under its final name and is proved right; None where not."""
        if seen is None or (entry.size is not None and entry.size != seen.size):
            return None
        # a complete record without a published file is of a run that was killed between the rename and the
        # record
        complete = record is not None and (record.published or len(record.held) == record.length)
        ours = record.digests.get("sha256") if record and complete else None
        known = entry.digest or (Digest("sha256", ours) if ours else None)
        if known is not None:
            if entry.digest is None and record is not None and not same_source(record, entry):
                return None  # from elsewhere, and nothing tells that it is the same there
            wanted = frozenset({"sha256", known.algorithm})
            found = await self._context.store.examine(entry.path, wanted)
            if found.digests[known.algorithm] != known.hex:
                return None
            proof = known.algorithm
        else:
            sampled = await self._sampled(entry, seen.size, order)
            if sampled is None:
                return None
            found, proof = sampled, "samples"
        self._context.observe(events.Adopted(entry.path, seen.size, proof))
        return await self._recorded(entry, found, seen)

    async def _recorded(self, entry: Entry, found: Examined, seen: Published) -> Record:
        key = entry.source_key(entry.urls[0])
        adopted = Record(
            entry.path, key, seen.size, Validator(), NOTHING, found.digests, found.checksums, seen
        )
        await self._context.ledger.put(adopted)
        return adopted

    async def _sampled(self, entry: Entry, size: int, order: int) -> Examined | None:
        """What the file is, where the server's bytes are the same at every spot that is looked at."""
        beside = [RelativePath(entry.path + ending) for ending in _UNFINISHED]
        if size == 0 or any(await self._context.store.look(beside)):
            return None
        for link in entry.urls:
            if await self._same(entry, link, size, spots(entry.path, size), order):
                found = await self._context.store.examine(entry.path, frozenset({"sha256"}))
                # another downloader's file may have its full size long before its bytes
                blank = _blank_spots(found)
                same = blank is not None and await self._same(entry, link, size, blank, order)
                return found if same else None
        return None

    async def aside(self, entry: Entry, record: Record | None, order: int) -> Record | None:
        """What of a file set aside earlier can be had back; None where there is none, or another now.

        Raises IntegrityError where the server still offers those bytes, and the manifest still
        another digest.
        """
        size = await self._context.store.aside(entry.path)
        if size is None:
            return None
        right = bool(size) and entry.size in (None, size)
        if right:
            right = await self._right_aside(entry, record, size, order)
        await self._context.store.take_back(entry.path)
        held = RangeSet.upto(size) if right else NOTHING
        key = entry.source_key(entry.urls[0])
        taken = Record(entry.path, key, size if right else None, held=held)
        await self._context.ledger.put(taken)
        return taken

    async def _right_aside(self, entry: Entry, record: Record | None, size: int, order: int) -> bool:
        wanted, known = entry.digest, record.digests if record else {}
        algorithm = wanted.algorithm if wanted else "sha256"
        found = await self._context.store.examine(entry.path, frozenset({"sha256", algorithm}), aside=True)
        if wanted is not None and found.digests[algorithm] == wanted.hex:
            return True
        if known.get("sha256") != found.digests["sha256"]:
            return False  # not what was set aside
        tag = record.validator if record else Validator()
        for link in entry.urls:
            # without a tag that is the same the server may have been mended where no sample looks
            must = tag if wanted is not None else Validator()
            same = bool(must) or wanted is None
            if not same or not await self._same(entry, link, size, spots(entry.path, size), order, must):
                return False
        if wanted is not None:
            raise IntegrityError(
                f"{entry.path}: the server still offers the bytes whose {algorithm} is "
                f"{found.digests[algorithm]}, and the manifest still states {wanted.hex}; they are "
                "kept in .osp-fetch/aside: mend the digest, and they are taken from there",
                remedy=Remedy.FAIL,
            )
        return True

    # asking the server

    async def _same(
        self,
        entry: Entry,
        link: str,
        size: int,
        spans: list[ByteRange],
        order: int,
        must: Validator | None = None,
    ) -> bool:
        """Whether `link` has the bytes of the file, at all of `spans`; `must`: and shows this validator,
        then of the file set aside."""
        try:
            for span in spans:
                came, seen = await self._sample(entry, link, size, span, order)
                if must and (must.strong, must.last_modified) != (seen.strong, seen.last_modified):
                    return False
                if came != await self._context.store.read(entry.path, span, aside=must is not None):
                    return False
        except TransferError as error:
            if error.remedy in (Remedy.PARK, Remedy.ABORT):
                raise
            return False  # whoever fetches the file will say what is wrong
        return True

    async def _sample(
        self, entry: Entry, link: str, size: int, span: ByteRange, order: int
    ) -> tuple[bytes, Validator]:
        came: list[tuple[bytes, Validator]] = []

        async def ask() -> None:
            came.append(await self._ask(entry, link, size, span, order))

        def retrying(error: FetchError, delay: float) -> None:
            self._context.observe(events.Retrying(entry.path, error.cause, delay, str(error)))

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
                raise TransferError(f"{entry.path}: the server has another file, or no ranges")
            sample, came = memoryview(bytearray(len(span))), 0
            while came < len(span) and (count := await exchange.readinto(sample[came:])):
                came += count
            return bytes(sample[:came]), found.validator


def spots(path: str, size: int) -> list[ByteRange]:
    """Where a file of `size` bytes is compared: all of a small one, else its end and places between,
    another set for each path, so that no pattern of damage is missed in every file."""
    if size <= _WHOLE:
        return list(RangeSet.upto(size))
    chance = random.Random(f"{path} {size}")
    count = min(max(size // _APART, _LEAST), _MOST)
    step = size / (count - 1)
    starts = [int(n * step + chance.uniform(0, max(0.0, step - SAMPLE))) for n in range(count - 1)]
    # the end first: it is what an unfinished file lacks
    return [ByteRange(at, min(at + SAMPLE, size)) for at in [size - SAMPLE, *starts]]


def _blank_spots(found: Examined) -> list[ByteRange] | None:
    """A spot in each stretch of zeros; None where there are too many to look at."""
    if len(found.blank.ranges) > _BLANKS:
        return None
    middles = [(r.start + r.stop) // 2 for r in found.blank]
    return [ByteRange(at, min(at + SAMPLE, found.size)) for at in middles]


def same_source(record: Record, entry: Entry) -> bool:
    """Whether one of the entry's links leads to where the recorded file came from."""
    return any(entry.leads_to(url, record.source_key) for url in entry.urls)
