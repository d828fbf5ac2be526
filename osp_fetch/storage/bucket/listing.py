"""Which objects exist: a listing answers for many neighbouring names, a look at each for others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from ...concurrency import task_group
from ...model.entry import RelativePath
from ...model.record import Published
from ...s3.client import Bucket
from .objects import look
from .state import state_of

# Names for which a listing is tried. A listing of 1,000 names costs as much as one look at S3.
_MANY: Final = 8
# Pages of 1,000 names that are listed for one question, before the other names are looked at one by one.
_PAGES: Final = 3
_AT_ONCE: Final = 32  # names that are looked at at the same time


async def states(bucket: Bucket, paths: Sequence[RelativePath]) -> list[Published | None]:
    """Return the states of the objects for `paths`, None where there is none.

    Args:
        bucket: requests to the bucket.
        paths: paths of files in any order.

    Raises:
        StorageError: the store cannot be asked.
    """
    found: dict[str, Published | None] = {}
    if len(paths) >= _MANY:
        found = await _listed(bucket, paths)
    left = [path for path in paths if path not in found]
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(path: RelativePath) -> None:
        async with places:
            seen = await look(bucket, path)
            found[path] = seen.state if seen else None

    async with task_group() as asking:
        for path in left:
            asking.create_task(ask(path))
    return [found[path] for path in paths]


async def _listed(bucket: Bucket, paths: Sequence[RelativePath]) -> dict[str, Published | None]:
    """Return what listings from the first to the last name show; names beyond the last page are missing."""
    address = bucket.address
    # S3 sorts keys by their UTF-8 bytes (API reference, ListObjectsV2)
    wanted = sorted(paths, key=str.encode)
    keys = [address.key(path) for path in wanted]
    seen: dict[str, Published] = {}
    upto, pages = b"", 0
    async for page in bucket.pages(
        "list_objects_v2", f"{address}: it cannot be listed", Prefix=address.prefix,
        StartAfter=keys[0][:-1],
    ):  # fmt: skip
        pages += 1
        rows = page.get("Contents", [])
        for row in rows:
            seen[row["Key"]] = state_of(row["Size"], row["ETag"])
        upto = rows[-1]["Key"].encode() if page.get("IsTruncated") and rows else b"\xff" * 8
        if pages == _PAGES or upto >= keys[-1].encode():
            break
    return {path: seen.get(key) for path, key in zip(wanted, keys, strict=True) if key.encode() <= upto}


async def is_empty(bucket: Bucket) -> bool:
    """Return whether no object has the prefix, those of osp-fetch itself left aside.

    Raises:
        StorageError: the store cannot be asked.
    """
    address, own = bucket.address, bucket.address.own("")
    found = await bucket.ask(
        "list_objects_v2", f"{address}: it cannot be listed", Prefix=address.prefix, MaxKeys=50
    )
    rows = found.get("Contents", [])
    return not found.get("IsTruncated") and all(row["Key"].startswith(own) for row in rows)
