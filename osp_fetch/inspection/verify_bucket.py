"""Verify a bucket: compare the objects with the ledger, by the store's own checksums or by reading them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from ..model.digest import STRENGTH
from ..model.entry import RelativePath
from ..model.record import Record
from ..storage.bucket.sums import SCHEMES
from .place import BucketPlace
from .status import published_files
from .verify import Checked, Verdict

if TYPE_CHECKING:
    from ..storage.bucket.objects import Object

_PAGE: Final = 1000  # files whose objects are looked at together
_READING: Final = 4  # objects that are read at the same time


def verify_bucket(place: BucketPlace, *, read: bool = False) -> Iterator[Checked]:
    """Check every published file of a bucket.

    Without `read`, an object is compared by its size, its ETag and the checksum that the store computed when
    the file was uploaded. That shows a replaced or missing object, but it is the store's word.

    Args:
        place: The bucket.
        read: Whether every object is read and hashed.

    Yields:
        One verdict per file, in the order of the ledger. "unchecked" means that neither the store nor the
        ledger has a checksum.

    Raises:
        StorageError: A ledger cannot be read, or the bucket does not answer.
    """
    records = published_files(place)
    while page := list(islice(records, _PAGE)):
        if read:
            yield from _read(place, page)
            continue
        objects = place.objects([record.path for record in page])
        for record, found in zip(page, objects, strict=True):
            gone = found is None and place.tombstone(record.path) == record.published
            yield Checked(record.path, "unpacked") if gone else _compared(record, found)


def _compared(record: Record, found: Object | None) -> Checked:
    """Return the verdict by what the store says of an object."""
    known = next((s.digest for s in SCHEMES if s.name and s.digest in record.digests), None)
    wanted = f"{known}:{record.digests[known]}" if known else None
    if found is None:
        return Checked(record.path, "missing", expected=wanted)
    has = f"{known}:{found.sums[known]}" if known and known in found.sums else None
    verdict: Verdict = "ok" if has else "unchecked"
    if found.state != record.published or (has and has != wanted):
        verdict = "damaged"
    return Checked(record.path, verdict, found.size, wanted, has)


def _read(place: BucketPlace, records: list[Record]) -> list[Checked]:
    """Return the verdicts after reading the objects."""
    from ..storage.bucket.files import digests_of_object
    from ..storage.bucket.objects import look

    async def all_of_them() -> list[Checked]:
        places = asyncio.Semaphore(_READING)

        async def one(record: Record) -> Checked:
            known = next((name for name in STRENGTH if name in record.digests), None)
            algorithm, path = known or "sha256", RelativePath(record.path)
            async with places:
                found = await digests_of_object(place.bucket, path, frozenset({algorithm}))
                # without a digest, only the ETag shows that the object is the one that was uploaded
                seen = await look(place.bucket, path) if found is not None and known is None else None
            wanted = f"{known}:{record.digests[known]}" if known else None
            if found is None and place.tombstone(record.path) == record.published:
                return Checked(record.path, "unpacked")
            if found is None:
                return Checked(record.path, "missing", expected=wanted)
            has = f"{algorithm}:{found.digests[algorithm]}"
            verdict: Verdict = "ok" if has == wanted else "damaged"
            if known is None and seen is not None and seen.state == record.published:
                verdict = "unchecked"
            if found.size != record.length:
                verdict = "damaged"
            return Checked(record.path, verdict, found.size, wanted, has)

        return list(await asyncio.gather(*(one(record) for record in records)))

    return place.run(all_of_them())
